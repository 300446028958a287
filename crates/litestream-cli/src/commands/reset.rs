//! `litestream reset`: forget the local state of one database.
//!
//! Refused while a daemon has the database: by the lock our daemons hold, and by
//! asking the control socket, which upstream's have too.
//!
//! Spec: docs/commands.md, "reset".

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use litestream::ErrorKind;
use litestream::reset::{local_state, reset};

use crate::commands::target::{SOCKET, Target, Zero, database};
use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, Invocation, NO_EXPAND_ENV, runtime};
use crate::config::{self, Surroundings};
use crate::control::client::Client;
use crate::control::types::List;
use crate::failure::{Failure, fail};
use crate::output;

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "reset",
    summary: "reset local state of a database",
    about: "The reset command deletes the local Litestream state of a database, so that the\nnext replication sync stores a fresh snapshot. Neither the database nor its\nreplica is touched.",
    positionals: &["DB_PATH"],
    flags: &[
        &CONFIG,
        &FlagSpec {
            name: "dry-run",
            kind: FlagKind::Bool,
            value: "",
            help: "Print what would be removed, without removing it.",
            default: "",
        },
        &NO_EXPAND_ENV,
        &SOCKET,
    ],
    notes: "\
The state directory is that of the configuration file, if the database is in it,
otherwise the usual one beside the database. A database that a running daemon
replicates is refused: stop it first.",
    examples: &[("", "litestream reset /path/to/db"), ("", "litestream reset -dry-run /path/to/db")],
    hidden: false,
    run,
};

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    let surroundings = Surroundings::of_process(&environment)?;
    let path = database(&arguments, &surroundings, "litestream reset /path/to/db")?;
    let configured = match config::load(&arguments, &surroundings) {
        Ok(loaded) => {
            loaded.start_logging_on_stderr(&environment);
            loaded.config.find(&path)
        }
        // No file is fine, unless one was named.
        Err(error) if arguments.non_empty("config").is_some() => return Err(error.context("cannot read config")),
        Err(_) if !Path::new(&config::default_path(&environment)).exists() => None,
        Err(error) => return Err(error),
    };
    if !path.exists() {
        return fail(format!("database does not exist: {}", path.display()));
    }
    let meta = configured.and_then(|db| db.meta_path).unwrap_or_else(|| litestream::meta_path(&path));
    if !meta.exists() {
        output::print(&format!(
            "No local state to reset for {}\nMeta directory does not exist: {}\n",
            path.display(),
            meta.display()
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let unreadable = |error: std::io::Error| Failure::new(format!("cannot read {}: {error}", meta.display()));
    let state = local_state(&meta).map_err(unreadable)?;
    if state.is_empty() {
        output::print(&format!("No local state to reset for {}\n", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.is_set("dry-run") {
        output::print(&preview(&path, &state).map_err(unreadable)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let target = Target::find(&arguments, &surroundings, 5, Zero::Refused)?;
    if runtime()?.block_on(is_replicated(&target.client, &path)) {
        return Err(in_use(&path).into());
    }
    output::print(&format!("Resetting local Litestream state for: {}\n", path.display()))?;
    let removed = match reset(&path, &meta) {
        Err(error) if error.kind() == ErrorKind::Setup => return Err(in_use(&path).into()),
        other => other?,
    };
    let lines: String = removed.iter().map(|path| format!("Removed: {}\n", path.display())).collect();
    output::print(&format!("{lines}Reset complete. Next replication sync will create a fresh snapshot.\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a daemon on the control socket works on the database. Nobody there
/// means no.
async fn is_replicated(client: &Client, path: &Path) -> bool {
    let client = Client::new(client.socket(), Some(ASK_LIMIT));
    let Ok(list) = client.get::<List>("/list").await else { return false };
    list.databases.iter().any(|db| Path::new(&db.path) == path && db.status != "stopped")
}

fn in_use(path: &Path) -> Failure {
    Failure::new(format!("a running litestream replicates {}; its state cannot be reset now", path.display()))
        .try_line(format!("litestream stop {}", path.display()))
}

fn preview(path: &Path, state: &[PathBuf]) -> std::io::Result<String> {
    let mut text = format!("Dry run: local Litestream state would be reset for: {}\n", path.display());
    let mut files = Vec::new();
    for entry in state {
        text.push_str(&format!("Would remove: {}\n", entry.display()));
        collect(entry, &mut files)?;
    }
    if files.is_empty() {
        text.push_str("No local LTX files would be removed.\n");
    } else {
        text.push_str("Files that would be removed:\n");
        text.extend(files.iter().map(|file| format!("  {}\n", file.display())));
    }
    text.push_str("No files were removed.\n");
    Ok(text)
}

/// The files below a path, in lexical order.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<_> =
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    entries.sort();
    entries.iter().try_for_each(|entry| collect(entry, files))
}

const ASK_LIMIT: Duration = Duration::from_secs(2);
