//! `litestream register`: a database more for a running daemon.
//!
//! Spec: docs/commands.md, "register and unregister".

use std::process::ExitCode;

use serde::Serialize;

use crate::commands::target::{SOCKET, TIMEOUT, Target, Zero, database};
use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, Invocation, JSON, NO_EXPAND_ENV};
use crate::config::Surroundings;
use crate::control::types::{Changed, Request};
use crate::failure::Failure;
use crate::output::{self, json, without_credentials};

const USAGE: &str = "litestream register -replica s3://bucket/prefix /path/to/db";

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "register",
    summary: "add a database to a running daemon",
    about: "The register command makes a running daemon replicate one more database.",
    positionals: &["DB_PATH"],
    flags: &[
        &CONFIG,
        &JSON,
        &NO_EXPAND_ENV,
        &FlagSpec {
            name: "replica",
            kind: FlagKind::Text,
            value: "URL",
            help: "Where to replicate to. Required.",
            default: "",
        },
        &SOCKET,
        &TIMEOUT,
    ],
    notes: "\
A database that is registered already is left alone, which is no error. The
file need not exist yet. The daemon forgets the registration when it ends; to
keep it, add the database to the configuration file.",
    examples: &[("", USAGE)],
    hidden: false,
    run,
};

/// The command's result; names and order are a contract.
#[derive(Serialize)]
struct Outcome {
    status: String,
    db_path: String,
    replica: String,
    socket: String,
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    let surroundings = Surroundings::of_process(&environment)?;
    let path = database(&arguments, &surroundings, USAGE)?;
    let replica = arguments.non_empty("replica").ok_or_else(|| Failure::new("-replica is required").try_line(USAGE))?;
    let target = Target::find(&arguments, &surroundings, 30, Zero::Refused)?;
    let request =
        Request { path: Some(path.display().to_string()), replica_url: Some(replica.to_owned()), ..Request::default() };
    let changed: Changed = target.post("register", &request)?;
    let outcome = Outcome {
        status: changed.status,
        db_path: changed.path,
        replica: without_credentials(replica),
        socket: target.socket,
    };
    let text = if arguments.is_set("json") { json::format(&outcome)? } else { text(&outcome) };
    output::print(&text)?;
    if let Some(other) = changed.other_replica {
        output::note(&format!(
            "Warning: the database is registered with another replica, which stays in force: {other}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(outcome: &Outcome) -> String {
    let Outcome { status, db_path, replica, socket } = outcome;
    // Two words in the text form, as upstream prints it.
    let status = if status == "already_registered" { "already registered" } else { status };
    format!("status: {status}\ndb_path: {db_path}\nreplica: {replica}\nsocket: {socket}\n")
}
