//! `litestream status`: what the local files say, without daemon or replica.
//!
//! Spec: docs/commands.md, "status".

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::commands::{CONFIG, CommandSpec, Invocation, JSON, NO_EXPAND_ENV};
use crate::config::{self, DbConfig, Surroundings};
use crate::failure::{Failure, fail};
use crate::output::{self, json, table};
use crate::units::format_size;

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "status",
    summary: "display replication status for databases",
    about: "The status command displays the local replication state of databases.",
    positionals: &["[DB_PATH]"],
    flags: &[&CONFIG, &JSON, &NO_EXPAND_ENV],
    notes: "\
If a database path is provided, only that database's status is shown.
Otherwise, all configured databases are displayed.

Output columns:
  database      Path to the SQLite database
  status        Current status (ok, not initialized, no database, error)
  local txid    Latest local transaction ID
  wal size      Current WAL file size

A problem with the replica that the daemon has found and not healed yet stands
in a line behind the table (with -json: \"replica_problem\").

Only local files are read. \"ok\" means that transactions have been captured; it
does not mean that a daemon is running or that the replica has them.",
    examples: &[("", "litestream status"), ("", "litestream status /path/to/db"), ("", "litestream status -json")],
    hidden: false,
    run,
};

/// One row.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    database: String,
    status: &'static str,
    local_txid: String,
    wal_size: String,
    /// What the daemon found to be wrong with the replica and has not healed.
    #[serde(skip_serializing_if = "Option::is_none")]
    replica_problem: Option<String>,
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    let surroundings = Surroundings::of_process(&environment)?;
    let loaded = config::load(&arguments, &surroundings)?;
    loaded.start_logging_on_stderr(&environment);
    let wanted = match arguments.positionals.first().filter(|path| !path.is_empty()) {
        Some(path) => Some(surroundings.absolute(path)?),
        None => None,
    };
    let databases = match &wanted {
        Some(path) => loaded.config.find(path).into_iter().collect(),
        None => loaded.config.databases().map_err(Failure::new)?,
    };
    let rows: Vec<Row> = databases.iter().filter_map(Row::read).collect();
    if let Some(wanted) = wanted.filter(|_| rows.is_empty()) {
        return fail(format!("database not found in config: {}", wanted.display()));
    }
    let text = if arguments.is_set("json") {
        json::format(&rows)?
    } else {
        let problems: String = rows
            .iter()
            .filter_map(|row| {
                Some(format!("{}: replica is being healed: {}\n", row.database, row.replica_problem.as_ref()?))
            })
            .collect();
        let rows: Vec<_> = rows
            .into_iter()
            .map(|row| vec![row.database, row.status.to_owned(), row.local_txid, row.wal_size])
            .collect();
        table::format(&["database", "status", "local txid", "wal size"], &rows) + &problems
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn read(entry: &DbConfig) -> Option<Self> {
        let db = entry.path.as_deref()?;
        let meta = entry.meta_path.clone().unwrap_or_else(|| litestream::meta_path(db));
        Some(Self::of(db, &meta))
    }

    fn of(db: &Path, meta: &Path) -> Self {
        let database = db.display().to_string();
        // Whoever cannot read the state directory sees that from the status.
        let replica_problem = litestream::replica_problem(meta).unwrap_or_default();
        let row = |status, local_txid, wal_size| Self { database, status, local_txid, wal_size, replica_problem };
        let absent = || "-".to_owned();
        if !db.exists() {
            return row("no database", absent(), absent());
        }
        let mut wal = db.as_os_str().to_owned();
        wal.push("-wal");
        let wal_size = format_size(std::fs::metadata(wal).map_or(0, |wal| wal.len()));
        match litestream::local_txid(meta) {
            Ok(Some(txid)) => row("ok", txid.to_string(), wal_size),
            Ok(None) => row("not initialized", absent(), wal_size),
            Err(_) => row("error", absent(), wal_size),
        }
    }
}
