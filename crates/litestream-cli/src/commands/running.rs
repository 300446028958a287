//! `litestream start` and `litestream stop`: one database of a running daemon.
//!
//! Repeating either is no error: deploy scripts do (lesson 7).
//!
//! Spec: docs/commands.md, "start and stop".

use std::process::ExitCode;

use serde::Serialize;

use crate::commands::target::{SOCKET, TIMEOUT, Target, Zero, database};
use crate::commands::{CONFIG, CommandSpec, FlagSpec, Invocation, JSON, NO_EXPAND_ENV};
use crate::config::Surroundings;
use crate::control::types::{Changed, Request};
use crate::output::{self, json};

const FLAGS: &[&FlagSpec] = &[&CONFIG, &JSON, &NO_EXPAND_ENV, &SOCKET, &TIMEOUT];

pub(crate) const START: CommandSpec = CommandSpec {
    name: "start",
    summary: "start replication of a stopped database",
    about: "The start command starts replication of a database that was stopped.",
    positionals: &["DB_PATH"],
    flags: FLAGS,
    notes: "\
A database that runs already is left alone, which is no error. The daemon must
know it; use register for others. A timeout of 0 means no limit.",
    examples: &[("", "litestream start /path/to/db")],
    hidden: false,
    run: |invocation| run(invocation, "start", "running"),
};

pub(crate) const STOP: CommandSpec = CommandSpec {
    name: "stop",
    summary: "stop replication of a database",
    about: "The stop command sends what is left of a database to its replica and stops\nreplicating it. The daemon and its other databases run on.",
    positionals: &["DB_PATH"],
    flags: FLAGS,
    notes: "\
A database that is stopped already is left alone, which is no error. If the
final sync fails within the timeout, the database is stopped all the same and
the command fails. A timeout of 0 waits without limit.",
    examples: &[("", "litestream stop /path/to/db"), ("", "litestream stop -timeout 120 /path/to/db")],
    hidden: false,
    run: |invocation| run(invocation, "stop", "stopped"),
};

/// The command's result; names and order are a contract.
#[derive(Serialize)]
struct Outcome {
    status: String,
    db_path: String,
    state: &'static str,
    txid: u64,
    socket: String,
    /// Ours: what is known to be in the replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    replica_txid: Option<u64>,
}

fn run(invocation: Invocation, verb: &'static str, state: &'static str) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    let surroundings = Surroundings::of_process(&environment)?;
    let path = database(&arguments, &surroundings, &format!("litestream {verb} /path/to/db"))?;
    let target = Target::find(&arguments, &surroundings, 30, Zero::Unlimited)?;
    let request =
        Request { path: Some(path.display().to_string()), timeout: Some(target.seconds), ..Request::default() };
    let changed: Changed = target.post(verb, &request)?;
    let outcome = Outcome {
        status: changed.status,
        db_path: changed.path,
        state,
        txid: changed.txid.unwrap_or(0),
        socket: target.socket,
        replica_txid: changed.replicated_txid,
    };
    let text = if arguments.is_set("json") { json::format(&outcome)? } else { text(&outcome) };
    output::print(&text)?;
    if let Some(error) = changed.error {
        output::note(&format!("Warning: {error}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(outcome: &Outcome) -> String {
    let Outcome { status, db_path, state, txid, socket, replica_txid } = outcome;
    let replica = replica_txid.map_or_else(String::new, |txid| format!("replica_txid: {txid}\n"));
    format!("status: {status}\ndb_path: {db_path}\nstate: {state}\ntxid: {txid}\nsocket: {socket}\n{replica}")
}
