//! `litestream config`: checks the configuration file and prints what takes
//! effect, with where each value came from.
//!
//! Nothing is contacted and nothing is written; `dir` entries are looked up on
//! this machine.
//!
//! Spec: docs/commands.md, "config".

mod json;
mod text;

use std::process::ExitCode;
use std::sync::Arc;

use litestream_replica::ReplicaClient;

use crate::commands::{CONFIG, CommandSpec, Invocation, JSON, NO_EXPAND_ENV, STRICT, refuse_positionals};
use crate::config::effective::{self, Tree};
use crate::config::{self, DbConfig, Loaded, Surroundings};
use crate::daemon;
use crate::exec;
use crate::failure::Failure;
use crate::output;

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "config",
    summary: "check the configuration file and show what takes effect",
    about: "The config command checks the configuration file and prints every setting\nthat takes effect, with its value and where that came from. It contacts no\nreplica and starts nothing.",
    positionals: &[""],
    flags: &[&CONFIG, &NO_EXPAND_ENV, &STRICT, &JSON],
    notes: "\
The text is itself a configuration file that means the same, except for
secrets, which are shown as ***. Exit code 1 means that replicate would refuse
the file. What is odd about it, such as unknown keys, is logged as a warning.",
    examples: &[
        ("Show what takes effect.", "litestream config"),
        ("Check a file before it is installed, warnings included.", "litestream config -strict -config new.yml"),
        ("Where does a setting come from?", "litestream config | grep sync-interval"),
    ],
    hidden: false,
    run,
};

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    refuse_positionals(&arguments)?;
    let surroundings = Surroundings::of_process(&environment)?;
    let loaded = config::load(&arguments, &surroundings)?;
    loaded.start_logging_on_stderr(&environment);
    let tree = check(&loaded, &surroundings)?;
    let text = match arguments.is_set("json") {
        true => json::format(&loaded, &tree)?,
        false => text::format(&loaded, &tree),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Everything that `replicate` checks before it starts.
///
/// # Errors
/// The first mistake, and below it those of further databases: whoever mends one
/// wants to hear of all.
fn check(loaded: &Loaded, surroundings: &Surroundings<'_>) -> anyhow::Result<Tree> {
    let config = &loaded.config;
    if !config.exec.is_empty() {
        exec::split(&config.exec)?;
    }
    daemon::store_options(config)?;
    let mut mistakes = Vec::new();
    let mut databases: Vec<(DbConfig, Arc<dyn ReplicaClient>)> = Vec::new();
    for entry in &config.dbs {
        let client = entry.options().and_then(|_| entry.client(surroundings));
        match client {
            Ok(client) if entry.dir.is_none() => databases.push((entry.clone(), client)),
            Ok(_) => {
                // What cannot be looked up here is shown, and no mistake of the file.
                for db in entry.find_databases().map(|found| found.databases).unwrap_or_default() {
                    let client = db.client(surroundings)?;
                    databases.push((db, client));
                }
            }
            Err(error) => mistakes.push(error),
        }
    }
    let mut mistakes = mistakes.into_iter();
    if let Some(first) = mistakes.next() {
        return Err(mistakes
            .fold(Failure::new(format!("{first:#}")), |all, next| all.hint(format!("Error: {next:#}")))
            .into());
    }
    daemon::refuse_sharing(&databases)?;
    effective::tree(config, &loaded.document, surroundings)
}
