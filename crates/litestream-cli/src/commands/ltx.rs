//! `litestream ltx` (and `wal`, its old name): the files a replica holds.
//!
//! Spec: docs/commands.md, "ltx".

use std::process::ExitCode;

use litestream_replica::{FileInfo, Level};
use ltx::Txid;
use serde::Serialize;

use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, Invocation, JSON, NO_EXPAND_ENV, runtime};
use crate::config::Surroundings;
use crate::failure::Failure;
use crate::output::{self, json, table};
use crate::source::Source;

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "ltx",
    summary: "list available LTX files for a database",
    about: "The ltx command lists the LTX files that the replica of a database holds.",
    positionals: &["DB_PATH", "REPLICA_URL"],
    flags: &[&CONFIG, &NO_EXPAND_ENV, &LEVEL, &JSON],
    notes: "",
    examples: &[
        ("List all LTX files for a database.", "litestream ltx /path/to/db"),
        ("List all LTX files for replica URL.", "litestream ltx s3://mybkt/db"),
        ("List LTX files at snapshot level (level 9).", "litestream ltx -level 9 /path/to/db"),
        ("List LTX files across all compaction levels.", "litestream ltx -level all /path/to/db"),
    ],
    hidden: false,
    run,
};

pub(crate) const WAL_SPEC: CommandSpec =
    CommandSpec { name: "wal", about: "The wal command is deprecated, please use ltx.", hidden: true, ..SPEC };

const LEVEL: FlagSpec = FlagSpec {
    name: "level",
    kind: FlagKind::Level,
    value: "LEVEL",
    help: "Compaction level to list (0-9 or \"all\").",
    default: "0",
};

/// One row.
#[derive(Serialize)]
struct Row {
    level: u8,
    min_txid: String,
    max_txid: String,
    size: u64,
    timestamp: String,
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { name, arguments, environment } = invocation;
    if name == "wal" {
        output::note("Warning: 'wal' command is deprecated, please use 'ltx' instead");
    }
    let surroundings = Surroundings::of_process(&environment)?;
    let usage = || Failure::new("database path or replica URL required").try_line("litestream ltx /path/to/db");
    let source = Source::find(&arguments, &surroundings, usage)?;
    source.log_options(&environment).on_stderr().start(&environment);
    source.log_warnings();
    let client = source.client(&surroundings)?;
    let levels: Vec<Level> = match arguments.text("level").unwrap_or("0") {
        "all" => Level::all().collect(),
        level => level.parse().ok().and_then(Level::new).into_iter().collect(),
    };
    let rows = runtime()?.block_on(async {
        let mut rows = Vec::new();
        for level in levels {
            rows.extend(client.list(level, Txid::NONE, false).await?.iter().map(Row::new));
        }
        anyhow::Ok(rows)
    })?;
    let text = if arguments.is_set("json") {
        json::format(&rows)?
    } else {
        let rows: Vec<_> = rows
            .into_iter()
            .map(|row| vec![row.level.to_string(), row.min_txid, row.max_txid, row.size.to_string(), row.timestamp])
            .collect();
        table::format(&["level", "min_txid", "max_txid", "size", "created"], &rows)
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn new(file: &FileInfo) -> Self {
        Self {
            level: file.id.level.get(),
            min_txid: file.id.min.to_string(),
            max_txid: file.id.max.to_string(),
            size: file.size,
            timestamp: output::timestamp(file.created_at),
        }
    }
}
