//! What `replicate -once -enforce-retention -dry-run` prints: which files would
//! go and why, and which snapshot stays as the base of the window.
//!
//! Lists the replicas and nothing more: no sync, no write, no delete.

use litestream::StoreOptions;
use litestream::retention::{Deletion, expired};
use litestream_replica::clock::{Clock, SystemClock};
use litestream_replica::{FileInfo, Inventory, Level};
use serde::Serialize;

use crate::config::{Config, Surroundings};
use crate::failure::Failure;
use crate::output::{self, json, table};

/// One row.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    database: String,
    /// `delete`, or `keep` for the base.
    action: &'static str,
    level: u8,
    min_txid: String,
    max_txid: String,
    size: u64,
    timestamp: String,
    reason: String,
}

/// Says what enforcing retention now would do to every configured replica.
///
/// # Errors
/// A replica that cannot be listed.
pub(crate) async fn preview(
    config: &Config,
    options: &StoreOptions,
    surroundings: &Surroundings<'_>,
    as_json: bool,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let now = SystemClock.now();
    for db in config.databases().map_err(Failure::new)? {
        let client = db.client(surroundings)?;
        let inventory = Inventory::load(&*client, false).await?;
        let deletions = expired(&inventory, now, &options.policy());
        rows.extend(rows_of(&db.place(), &inventory, &deletions));
    }
    let text = if as_json {
        json::format(&rows)?
    } else {
        let heading = ["database", "action", "level", "min_txid", "max_txid", "size", "created", "reason"];
        let rows: Vec<_> = rows.into_iter().map(Row::cells).collect();
        table::format(&heading, &rows)
    };
    output::print(&text)?;
    Ok(())
}

fn rows_of(database: &str, inventory: &Inventory, deletions: &[Deletion]) -> Vec<Row> {
    let mut rows: Vec<Row> = deletions
        .iter()
        .map(|Deletion { file, reason }| Row::new(database, "delete", file, reason.to_string()))
        .collect();
    let goes = |file: &&FileInfo| deletions.iter().any(|deletion| deletion.file.id == file.id);
    if let Some(base) = inventory.level(Level::SNAPSHOT).iter().find(|file| !goes(file)) {
        let reason = "base: the oldest moment that can be restored starts from it".to_owned();
        rows.push(Row::new(database, "keep", base, reason));
    }
    rows
}

impl Row {
    fn new(database: &str, action: &'static str, file: &FileInfo, reason: String) -> Self {
        Self {
            database: database.to_owned(),
            action,
            level: file.id.level.get(),
            min_txid: file.id.min.to_string(),
            max_txid: file.id.max.to_string(),
            size: file.size,
            timestamp: output::timestamp(file.created_at),
            reason,
        }
    }

    fn cells(self) -> Vec<String> {
        let Self { database, action, level, min_txid, max_txid, size, timestamp, reason } = self;
        vec![database, action.to_owned(), level.to_string(), min_txid, max_txid, size.to_string(), timestamp, reason]
    }
}
