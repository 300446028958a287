//! `litestream list`: the databases of a running daemon and how they are doing.
//!
//! Spec: docs/commands.md, "list".

use std::process::ExitCode;

use crate::commands::target::{QUICK_TIMEOUT, SOCKET, ask};
use crate::commands::{CONFIG, CommandSpec, Invocation, JSON, NO_EXPAND_ENV};
use crate::control::types::{List, ListedDatabase};
use crate::output::{self, json};

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "list",
    summary: "list databases of a running daemon",
    about: "The list command shows the databases of a running daemon and the state of each.",
    positionals: &[""],
    flags: &[&CONFIG, &JSON, &NO_EXPAND_ENV, &SOCKET, &QUICK_TIMEOUT],
    notes: "\
States: replicating, starting, waiting (for the database file), failing (with the
error), stopping, stopped, open (known, but not replicated in the background).

The daemon must have its control socket enabled.",
    examples: &[("", "litestream list"), ("", "litestream list -json")],
    hidden: false,
    run,
};

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let list: List = ask(&invocation, "/list")?;
    let text = if invocation.arguments.is_set("json") {
        json::format(&list)?
    } else if list.databases.is_empty() {
        "No databases configured\n".to_owned()
    } else {
        list.databases.iter().map(line).collect()
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn line(db: &ListedDatabase) -> String {
    let synced = db.last_sync_at.map_or_else(|| "never".to_owned(), |at| output::timestamp(at.0));
    let error = db.error.as_ref().map_or_else(String::new, |error| format!(" error: {error}"));
    format!("{} [{}] (last sync: {synced}){error}\n", db.path, state(db))
}

/// Upstream's word, unless there is something more precise to say.
fn state(db: &ListedDatabase) -> &str {
    match db.state.as_deref() {
        Some(state @ ("starting" | "waiting" | "failing" | "stopping")) => state,
        _ => &db.status,
    }
}
