//! `litestream replicate`: arguments, configuration and the start-up lines. What
//! happens then is [`daemon`]'s business.
//!
//! Spec: docs/commands.md, "replicate".

use std::path::PathBuf;
use std::process::ExitCode;

use litestream_replica::is_replica_url;

use crate::arguments::Arguments;
use crate::commands::version::VERSION;
use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, Invocation, NO_EXPAND_ENV, STRICT, runtime};
use crate::config::model::Logging;
use crate::config::{self, Config, Document, Loaded, Surroundings};
use crate::daemon::{self, Daemon, Once};
use crate::descriptors::Descriptors;
use crate::exec;
use crate::failure::fail;
use crate::logging::LogOptions;
use crate::output::without_credentials;
use crate::retention;

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "replicate",
    summary: "runs a server to replicate databases",
    about: "\
The replicate command starts a server to monitor & replicate databases.
You can specify your database & replicas in a configuration file or you can
replicate a single database file by specifying its path and its replica in the
command line arguments.",
    positionals: &["", "DB_PATH REPLICA_URL"],
    flags: &[
        &CONFIG,
        &FlagSpec {
            name: "exec",
            kind: FlagKind::Text,
            value: "CMD",
            help: "Executes a subcommand. Litestream will exit when the child process exits.\nThe command is split into words, but not run by a shell.",
            default: "",
        },
        &FlagSpec {
            name: "once",
            kind: FlagKind::Bool,
            value: "",
            help: "Replicate once and exit. This performs a single sync of all databases and\ntheir replicas, then exits. Cannot be used with -exec.",
            default: "",
        },
        &FlagSpec {
            name: "force-snapshot",
            kind: FlagKind::Bool,
            value: "",
            help: "Force a snapshot to be taken for all databases. Requires -once.",
            default: "",
        },
        &FlagSpec {
            name: "enforce-retention",
            kind: FlagKind::Bool,
            value: "",
            help: "Remove expired snapshots and what only they need. Requires -once.",
            default: "",
        },
        &FlagSpec {
            name: "dry-run",
            kind: FlagKind::Bool,
            value: "",
            help: "Print what -enforce-retention would delete and why, and which snapshot\nstays as the base. Nothing is synced or deleted.",
            default: "",
        },
        &FlagSpec {
            name: "json",
            kind: FlagKind::Bool,
            value: "",
            help: "Print the result of -dry-run as JSON.",
            default: "",
        },
        &FlagSpec {
            name: "log-level",
            kind: FlagKind::Text,
            value: "LEVEL",
            help: "Sets the log level. Overrides the config file setting and LOG_LEVEL.\nValid values: trace, debug, info, warn, error",
            default: "",
        },
        &NO_EXPAND_ENV,
        &STRICT,
        &FlagSpec {
            name: "restore-if-db-not-exists",
            kind: FlagKind::Bool,
            value: "",
            help: "Restores the database from the replica if it doesn't exist.\nOn first start with no backup, proceeds normally.",
            default: "",
        },
    ],
    notes: "Flags must stand before DB_PATH and REPLICA_URL.",
    examples: &[
        ("Replicate the databases of the configuration file.", "litestream replicate"),
        ("Replicate one database to S3.", "litestream replicate /path/to/db s3://mybucket/db"),
        ("Run a program beside replication.", "litestream replicate -exec 'myapp -addr :8080'"),
        ("Bring every replica up to date and exit.", "litestream replicate -once"),
        ("See what retention would delete.", "litestream replicate -once -enforce-retention -dry-run"),
    ],
    hidden: false,
    run,
};

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    let surroundings = Surroundings::of_process(&environment)?;
    let mut loaded = load(&arguments, &surroundings)?;
    if let Some(exec) = arguments.non_empty("exec") {
        exec.clone_into(&mut loaded.config.exec);
    }
    let once = once(&arguments, &loaded.config)?;
    // A line that cannot be run is a mistake to report before anything starts.
    if !loaded.config.exec.is_empty() {
        exec::split(&loaded.config.exec)?;
    }
    if arguments.is_set("restore-if-db-not-exists") {
        for db in loaded.config.dbs.iter_mut().filter(|db| db.path.is_some()) {
            db.restore_if_db_not_exists = true;
        }
    }

    if arguments.is_set("dry-run") {
        loaded.start_logging_on_stderr(&environment);
        let options = daemon::store_options(&loaded.config)?;
        let preview = retention::preview(&loaded.config, &options, &surroundings, arguments.is_set("json"));
        runtime()?.block_on(preview)?;
        return Ok(ExitCode::SUCCESS);
    }

    let log_options = LogOptions::new(&loaded.config.logging, arguments.non_empty("log-level"), &environment);
    log_options.start(&environment);
    tracing::info!(version = VERSION, level = log_options.level_text, "litestream");
    loaded.log_warnings();
    loaded.config.log_inactive_keys();

    let mut child_environment = environment.added().to_vec();
    if let Some(level) = arguments.non_empty("log-level") {
        child_environment.push(("LOG_LEVEL", level.to_owned()));
    }
    let descriptors = Descriptors::raise();
    let daemon = Daemon { config: loaded.config, surroundings: &surroundings, once, descriptors, child_environment };
    let runtime = runtime()?;
    let result = runtime.block_on(daemon.run());
    // An upload that was abandoned may still hold a thread.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

/// The configuration from a file or from the positional arguments.
fn load(arguments: &Arguments, surroundings: &Surroundings<'_>) -> anyhow::Result<Loaded> {
    let (path, urls) = match arguments.positionals.as_slice() {
        [] => return config::load(arguments, surroundings),
        [path] => return fail(format!("must specify at least one replica URL for {}", without_credentials(path))),
        [path, urls @ ..] => (path, urls),
    };
    if arguments.non_empty("config").is_some() {
        return fail("cannot specify a replica URL and the -config flag");
    }
    if let Some(flag) = urls.iter().find(|word| word.starts_with('-')) {
        return fail(format!("flag {flag:?} must be positioned before DB_PATH and REPLICA_URL arguments"));
    }
    let [url] = urls else { return fail("multiple replicas on a single database are no longer supported") };
    if !is_replica_url(url) && !url.starts_with("file:") {
        return fail(litestream_replica::scheme_required(url));
    }
    let path = surroundings.absolute(path)?;
    let mut config = config::from_command_line(path, url);
    config.logging = Logging { level: "INFO".to_owned(), ..Logging::default() };
    Ok(Loaded { config, file: PathBuf::new(), warnings: Vec::new(), document: Document::default() })
}

fn once(arguments: &Arguments, config: &Config) -> anyhow::Result<Option<Once>> {
    if !arguments.is_set("once") {
        for flag in ["force-snapshot", "enforce-retention", "dry-run", "json"] {
            if arguments.is_set(flag) {
                return fail(format!("cannot specify -{flag} flag without -once"));
            }
        }
        return Ok(None);
    }
    if !config.exec.is_empty() {
        return fail("cannot specify -once flag with -exec");
    }
    let enforce_retention = arguments.is_set("enforce-retention");
    if arguments.is_set("dry-run") && !enforce_retention {
        return fail("cannot specify -dry-run flag without -enforce-retention");
    }
    if arguments.is_set("dry-run") && arguments.is_set("force-snapshot") {
        return fail("cannot specify -dry-run flag with -force-snapshot");
    }
    if arguments.is_set("json") && !arguments.is_set("dry-run") {
        return fail("cannot specify -json flag without -dry-run");
    }
    Ok(Some(Once { force_snapshot: arguments.is_set("force-snapshot"), enforce_retention }))
}

impl Config {
    /// Says which settings have no effect yet, so that nobody relies on them.
    fn log_inactive_keys(&self) {
        if !self.inactive_keys.is_empty() {
            tracing::warn!(keys = self.inactive_keys.join(","), "settings are not in effect in this version yet");
        }
    }
}
