//! `litestream unregister`: a database less for a running daemon.
//!
//! Spec: docs/commands.md, "register and unregister".

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::commands::target::{SOCKET, TIMEOUT, Target, Zero, database};
use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, Invocation, JSON, NO_EXPAND_ENV};
use crate::config::Surroundings;
use crate::control::types::{Changed, List, ListedDatabase, Request};
use crate::output::{self, json};

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "unregister",
    summary: "remove a database from a running daemon",
    about: "The unregister command makes a running daemon send what is left of a database\nto its replica and forget it. Database, local state and replica stay.",
    positionals: &["DB_PATH"],
    flags: &[
        &CONFIG,
        &FlagSpec {
            name: "dry-run",
            kind: FlagKind::Bool,
            value: "",
            help: "Ask the daemon what it would do, without doing it.",
            default: "",
        },
        &JSON,
        &NO_EXPAND_ENV,
        &SOCKET,
        &TIMEOUT,
    ],
    notes: "\
A database the daemon does not know is no error. If the final sync fails within
the timeout, the database is forgotten all the same and the command fails.",
    examples: &[("", "litestream unregister /path/to/db"), ("", "litestream unregister -dry-run /path/to/db")],
    hidden: false,
    run,
};

/// The command's result; names and order are a contract.
#[derive(Serialize)]
struct Outcome {
    status: String,
    db_path: String,
    final_txid: u64,
    socket: String,
    /// Ours: what is known to be in the replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    replica_txid: Option<u64>,
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    let surroundings = Surroundings::of_process(&environment)?;
    let path = database(&arguments, &surroundings, "litestream unregister /path/to/db")?;
    let target = Target::find(&arguments, &surroundings, 30, Zero::Refused)?;
    let as_json = arguments.is_set("json");
    let text = if arguments.is_set("dry-run") {
        preview(&path, &target, &target.get("unregister", "/list")?, as_json)?
    } else {
        let request =
            Request { path: Some(path.display().to_string()), timeout: Some(target.seconds), ..Request::default() };
        let changed: Changed = target.post("unregister", &request)?;
        let outcome = Outcome {
            status: changed.status,
            db_path: changed.path,
            final_txid: changed.txid.unwrap_or(0),
            socket: target.socket,
            replica_txid: changed.replicated_txid,
        };
        if as_json { json::format(&outcome)? } else { text(&outcome) }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(outcome: &Outcome) -> String {
    let Outcome { status, db_path, final_txid, socket, replica_txid } = outcome;
    let replica = replica_txid.map_or_else(String::new, |txid| format!("replica_txid: {txid}\n"));
    format!("status: {status}\ndb_path: {db_path}\nfinal_txid: {final_txid}\nsocket: {socket}\n{replica}")
}

/// What the daemon would do. Listing changes nothing, also on a daemon that does
/// not know about dry runs.
fn preview(path: &Path, target: &Target, list: &List, as_json: bool) -> anyhow::Result<String> {
    /// The preview as JSON.
    #[derive(Serialize)]
    struct Preview<'a> {
        dry_run: bool,
        status: &'static str,
        db_path: String,
        socket: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        database: Option<&'a ListedDatabase>,
    }
    let db_path = path.display().to_string();
    let known = list.databases.iter().find(|db| db.path == db_path);
    let status = if known.is_some() { "would_unregister" } else { "already_unregistered" };
    if as_json {
        return Ok(json::format(&Preview { dry_run: true, status, db_path, socket: &target.socket, database: known })?);
    }
    let daemon = match known {
        None => "  daemon: does not know this database, nothing would change\n".to_owned(),
        Some(db) => format!(
            "  state: {}\n  replica: {}\n  final sync: {}\n  timeout: {}s\n",
            db.state.as_deref().unwrap_or(&db.status),
            db.replica.as_deref().unwrap_or("daemon-managed replica for this database"),
            match (db.status.as_str(), db.txid, db.replicated_txid) {
                ("stopped", ..) => "none, the database is stopped".to_owned(),
                (_, Some(txid), Some(sent)) if sent >= txid => {
                    format!("everything captured is in the replica (txid {txid})")
                }
                (_, Some(txid), sent) => {
                    format!("captured up to txid {txid}, replica has {}", sent.unwrap_or(0))
                }
                _ => "before the command completes".to_owned(),
            },
            target.seconds,
        ),
    };
    Ok(format!(
        "Dry run: unregister request preview\n  database: {db_path}\n  socket: {}\n{daemon}No unregister request was sent.\n",
        target.socket
    ))
}
