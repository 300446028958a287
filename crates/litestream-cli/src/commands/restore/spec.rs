//! The row of `restore` in the command table.

use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, NO_EXPAND_ENV};

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "restore",
    summary: "recovers database backup from a replica",
    about: "The restore command recovers a database from its replica. The output is\nuntouched until the restored database is complete and verified.",
    positionals: &["DB_PATH", "REPLICA_URL", "-all [DIR|REPLICA_URL]"],
    flags: &[
        &CONFIG,
        &NO_EXPAND_ENV,
        &FlagSpec {
            name: "txid",
            kind: FlagKind::Txid,
            value: "TXID",
            help: "Restore up to a specific hex-encoded transaction ID (inclusive).\nLeading zeros may be left out.",
            default: "the highest available transaction",
        },
        &FlagSpec {
            name: "timestamp",
            kind: FlagKind::Text,
            value: "TIMESTAMP",
            help: "Restore to a specific point-in-time: RFC 3339 (2000-01-01T00:00:00Z), local\ntime (\"2000-01-01 14:00\") or relative (\"yesterday 14:00\", \"5 minutes ago\").",
            default: "the latest available backup",
        },
        &FlagSpec {
            name: "o",
            kind: FlagKind::Text,
            value: "PATH",
            help: "Output path of the restored database. Required with REPLICA_URL.",
            default: "the original database path",
        },
        &FlagSpec {
            name: "if-db-not-exists",
            kind: FlagKind::Bool,
            value: "",
            help: "Returns exit code of 0 if the database already exists.",
            default: "",
        },
        &FlagSpec {
            name: "if-replica-exists",
            kind: FlagKind::Bool,
            value: "",
            help: "Returns exit code of 0 if no backups found.",
            default: "",
        },
        &FlagSpec {
            name: "dry-run",
            kind: FlagKind::Bool,
            value: "",
            help: "Print the restore plan and exit without writing a database.",
            default: "",
        },
        &FlagSpec {
            name: "force",
            kind: FlagKind::Bool,
            value: "",
            help: "Replace an existing output database and its SQLite sidecar files, once\nthe restored database is proven.",
            default: "",
        },
        &FlagSpec {
            name: "json",
            kind: FlagKind::Bool,
            value: "",
            help: "Output raw JSON summary on successful restore.",
            default: "",
        },
        &FlagSpec {
            name: "f",
            kind: FlagKind::Bool,
            value: "",
            help: "Keep the restored database up to date until stopped. Resumes if it\nexists; with -force a copy that cannot be continued is made anew.",
            default: "",
        },
        &FlagSpec {
            name: "follow-interval",
            kind: FlagKind::Duration,
            value: "DURATION",
            help: "Polling interval for follow mode.",
            default: "1s",
        },
        &FlagSpec {
            name: "parallelism",
            kind: FlagKind::Integer,
            value: "NUM",
            help: "Determines the number of requests to the replica at the same time.",
            default: "8",
        },
        &FlagSpec {
            name: "integrity-check",
            kind: FlagKind::Text,
            value: "MODE",
            help: "Run SQLite's integrity check on the restored database before it\nreplaces anything. MODE is one of: none, quick, full.",
            default: "none",
        },
        &FlagSpec {
            name: "owner",
            kind: FlagKind::Text,
            value: "USER[:GROUP]",
            help: "Give the restored database to this user and group, by name or number.",
            default: "those of the replaced database, else of the directory",
        },
        &FlagSpec {
            name: "mode",
            kind: FlagKind::Text,
            value: "MODE",
            help: "Permissions of the restored database, in octal (e.g. 0640).",
            default: "those of the replaced database",
        },
        &FlagSpec {
            name: "all",
            kind: FlagKind::Bool,
            value: "",
            help: "Restore every database of the configuration, of those below DIR, or\nevery one below REPLICA_URL. Then -o names a directory.",
            default: "",
        },
    ],
    notes: "\
With -all several databases are restored at the same time, sharing -parallelism.
One that fails does not stop the others: all failures are listed at the end, and
the exit code is 1. Databases of \"dir\" entries are found in the replica, too.",
    examples: &[
        ("Restore latest replica for database to original location.", "litestream restore /path/to/db"),
        (
            "Restore replica for database to a given point in time.",
            "litestream restore -timestamp 2020-01-01T00:00:00Z /path/to/db",
        ),
        ("Restore latest replica for database to a new place.", "litestream restore -o /path/to/copy /path/to/db"),
        ("Restore database from S3 replica URL.", "litestream restore -o /path/to/copy s3://mybucket/db"),
        ("Keep a read-only copy up to date.", "litestream restore -f -o /path/to/copy s3://mybucket/db"),
        ("Restore every database of the configuration that is missing.", "litestream restore -all -if-db-not-exists"),
        (
            "Restore every database below a prefix into a directory.",
            "litestream restore -all -o /path/to/dir s3://mybucket/tenants",
        ),
        ("Preview restore plan without writing a database.", "litestream restore -dry-run -o /tmp/db s3://mybucket/db"),
    ],
    hidden: false,
    run: super::run,
};
