//! `litestream databases`.
//!
//! Spec: docs/commands.md, "databases".

use std::process::ExitCode;

use serde::Serialize;

use crate::commands::{CONFIG, CommandSpec, Invocation, JSON, NO_EXPAND_ENV, refuse_positionals};
use crate::config::{self, Surroundings};
use crate::output::{self, json, table};

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "databases",
    summary: "list databases specified in config file",
    about: "The databases command lists all databases in the configuration file and checks\nthe settings of each replica. It contacts no replica.",
    positionals: &[""],
    flags: &[&CONFIG, &JSON, &NO_EXPAND_ENV],
    notes: "",
    examples: &[
        ("", "litestream databases"),
        ("", "litestream databases -config /path/to/litestream.yml"),
        ("", "litestream databases -no-expand-env -config /path/to/litestream.yml"),
    ],
    hidden: false,
    run,
};

/// One row.
#[derive(Serialize)]
struct Row {
    path: String,
    replica: &'static str,
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    refuse_positionals(&arguments)?;
    let surroundings = Surroundings::of_process(&environment)?;
    let loaded = config::load(&arguments, &surroundings)?;
    loaded.start_logging_on_stderr(&environment);
    let mut rows = Vec::new();
    for db in &loaded.config.dbs {
        rows.push(Row { path: db.place(), replica: db.client(&surroundings)?.kind() });
    }
    let text = if arguments.is_set("json") {
        json::format(&rows)?
    } else {
        let rows: Vec<_> = rows.into_iter().map(|row| vec![row.path, row.replica.to_owned()]).collect();
        table::format(&["path", "replica"], &rows)
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
