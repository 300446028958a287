//! `litestream sync`: bring one database of a running daemon up to date now.
//!
//! Spec: docs/commands.md, "sync".

use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;

use crate::commands::target::{SOCKET, TIMEOUT, Target, Zero, database};
use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, Invocation, JSON, NO_EXPAND_ENV};
use crate::config::Surroundings;
use crate::control::types::{Request, Synced};
use crate::output::{self, json};

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "sync",
    summary: "capture a database now, and with -wait replicate it",
    about: "The sync command makes a running daemon capture everything committed to a\ndatabase at once. With -wait it returns when the replica has it.",
    positionals: &["DB_PATH"],
    flags: &[
        &CONFIG,
        &JSON,
        &NO_EXPAND_ENV,
        &SOCKET,
        &TIMEOUT,
        &FlagSpec {
            name: "wait",
            kind: FlagKind::Bool,
            value: "",
            help: "Wait until the replica has everything.",
            default: "",
        },
    ],
    notes: "txid is what has been captured, replica_txid what the replica has.",
    examples: &[("", "litestream sync /path/to/db"), ("", "litestream sync -wait -timeout 60 /path/to/db")],
    hidden: false,
    run,
};

/// The command's result; names and order are a contract.
#[derive(Serialize)]
struct Outcome {
    db_path: String,
    txid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica_txid: Option<u64>,
    duration_ms: u128,
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    let surroundings = Surroundings::of_process(&environment)?;
    let path = database(&arguments, &surroundings, "litestream sync /path/to/db")?;
    let target = Target::find(&arguments, &surroundings, 30, Zero::Refused)?;
    let wait = arguments.is_set("wait");
    let request = Request {
        path: Some(path.display().to_string()),
        wait: Some(wait),
        timeout: Some(target.seconds),
        ..Request::default()
    };
    let started = Instant::now();
    let synced: Synced = target.post("sync", &request)?;
    let outcome = Outcome {
        db_path: synced.path,
        txid: synced.txid,
        replica_txid: wait.then_some(synced.replicated_txid),
        duration_ms: started.elapsed().as_millis(),
    };
    let text = if arguments.is_set("json") { json::format(&outcome)? } else { text(&outcome) };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(outcome: &Outcome) -> String {
    let Outcome { db_path, txid, replica_txid, duration_ms } = outcome;
    let replica = replica_txid.map_or_else(String::new, |txid| format!("replica_txid: {txid}\n"));
    format!("db_path: {db_path}\ntxid: {txid}\n{replica}duration_ms: {duration_ms}\n")
}
