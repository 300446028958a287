//! `litestream status`: whether databases are really backed up.
//!
//! A running daemon is asked; without one, local files and the replica itself
//! tell. What cannot be found out in time is said, and never taken for good.
//!
//! Spec: docs/commands.md, "status".

mod gather;
mod report;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use crate::commands::target::SOCKET;
use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, Invocation, JSON, NO_EXPAND_ENV, runtime};
use crate::config::{self, Loaded, Surroundings};
use crate::failure::{Failure, fail};
use crate::output;

use gather::{Scope, gather};
use report::{Health, Row, as_json, as_text};

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "status",
    summary: "display replication status for databases",
    about: "The status command shows whether databases are backed up: from the running\ndaemon, or from local files and the replica when there is none.",
    positionals: &["[DB_PATH]"],
    flags: &[
        &CONFIG,
        &JSON,
        &FlagSpec {
            name: "local",
            kind: FlagKind::Bool,
            value: "",
            help: "Do not contact the replica; only daemon and local files are asked.",
            default: "",
        },
        &NO_EXPAND_ENV,
        &SOCKET,
        &FlagSpec {
            name: "timeout",
            kind: FlagKind::Integer,
            value: "SECONDS",
            help: "Maximum time to wait for daemon and replica, in seconds.",
            default: "10",
        },
        &FlagSpec {
            name: "watch",
            kind: FlagKind::Bool,
            value: "",
            help: "Show it anew every two seconds until interrupted. Needs a terminal.",
            default: "",
        },
    ],
    notes: "\
If a database path is provided, only that database's status is shown.
Otherwise, all configured databases are displayed.

Output columns:
  database      Path to the SQLite database
  status        Local state (ok, not initialized, no database, error)
  local txid    Latest local transaction ID
  wal size      Current WAL file size
  replica txid  Latest transaction the replica can restore
  lag           Age and size of what the replica lacks
  last success  When the replica was last brought up to date
  recoverable   The oldest and the newest state a restore can give
  daemon        What the daemon does with the database, or \"not running\"

What keeps a database from being healthy stands in lines behind the table.

Exit code: 0 if every database is healthy, 2 if one is degraded, 1 on errors.",
    examples: &[
        ("", "litestream status"),
        ("", "litestream status /path/to/db"),
        ("", "litestream status -json"),
        ("Watch it live.", "litestream status -watch"),
    ],
    hidden: false,
    run,
};

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    let surroundings = Surroundings::of_process(&environment)?;
    let loaded = config::load(&arguments, &surroundings)?;
    loaded.start_logging_on_stderr(&environment);
    let seconds = arguments.integer("timeout").unwrap_or(10);
    let Some(seconds) = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0) else {
        return fail("timeout must be greater than 0");
    };
    let scope = Scope {
        socket: arguments.non_empty("socket").map_or_else(|| loaded.config.socket.path.clone(), str::to_owned),
        local_only: arguments.is_set("local"),
        limit: Duration::from_secs(seconds),
    };
    let wanted = arguments.positionals.first().filter(|path| !path.is_empty());
    if !arguments.is_set("watch") {
        let rows = look(&loaded, wanted, &scope, &surroundings)?;
        output::print(&if arguments.is_set("json") { as_json(&rows)? } else { as_text(&rows) })?;
        return Ok(exit_code(&rows));
    }
    if arguments.is_set("json") || !io::stdout().is_terminal() || !environment.allows_decoration() {
        return fail("-watch needs a terminal and cannot be combined with -json");
    }
    loop {
        // An error that comes and goes is part of what is watched.
        let text = match look(&loaded, wanted, &scope, &surroundings) {
            Ok(rows) => as_text(&rows),
            Err(error) => format!("Error: {error:#}\n"),
        };
        output::print(&format!("{CLEAR}litestream status, every {}s (Ctrl+C ends)\n\n{text}", INTERVAL.as_secs()))?;
        std::thread::sleep(INTERVAL);
    }
}

/// Looks once.
fn look(
    loaded: &Loaded,
    wanted: Option<&String>,
    scope: &Scope,
    surroundings: &Surroundings<'_>,
) -> anyhow::Result<Vec<Row>> {
    let databases = match wanted {
        Some(path) => {
            let path = surroundings.absolute(path)?;
            let found = loaded.config.find(&path);
            vec![found.ok_or_else(|| config::unknown_database(loaded, &path))?]
        }
        None => loaded.config.databases().map_err(Failure::new)?,
    };
    let runtime = runtime()?;
    let rows = runtime.block_on(gather(databases, scope, surroundings));
    // A look that was given up may still hold a thread.
    runtime.shutdown_background();
    Ok(rows)
}

fn exit_code(rows: &[Row]) -> ExitCode {
    match rows.iter().map(|row| row.health).max() {
        None | Some(Health::Healthy) => ExitCode::SUCCESS,
        Some(Health::Degraded) => ExitCode::from(2),
        Some(Health::Error) => ExitCode::FAILURE,
    }
}

/// Cursor home, clear to the end.
const CLEAR: &str = "\x1b[H\x1b[2J";
const INTERVAL: Duration = Duration::from_secs(2);
