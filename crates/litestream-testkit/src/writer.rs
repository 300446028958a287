//! One connection of a [`workload`](crate::workload) and the things it does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use rusqlite::{Connection, params};

use crate::schema::{Schema, Table};
use crate::workload::Options;

/// A connection, its random numbers and what it may do.
#[derive(Debug)]
pub(crate) struct Writer {
    db: PathBuf,
    schema: Schema,
    options: Options,
    rng: Rng,
    connection: Option<Connection>,
}

impl Writer {
    pub(crate) fn new(db: PathBuf, schema: Schema, options: Options, rng: Rng) -> Self {
        Self { db, schema, options, rng, connection: None }
    }

    /// Does one thing, in a transaction of its own. Leaves no transaction open,
    /// whether it succeeds or not.
    pub(crate) fn step(&mut self) -> Result<()> {
        let result = self.try_step();
        if let Some(connection) = self.connection.as_ref().filter(|connection| !connection.is_autocommit()) {
            connection.execute_batch("ROLLBACK").context("roll back")?;
        }
        result
    }

    /// Inserts `count` rows into each table.
    pub(crate) fn fill(&mut self, count: usize) -> Result<()> {
        for table in self.schema.tables.clone() {
            self.connection()?.execute_batch("BEGIN IMMEDIATE")?;
            for _ in 0..count {
                self.insert(&table)?;
            }
            self.connection()?.execute_batch("COMMIT")?;
        }
        Ok(())
    }

    fn try_step(&mut self) -> Result<()> {
        if self.is_full()? {
            return self.shrink();
        }
        let Some(table) = self.rng.choice(self.schema.tables.clone()) else { return Ok(()) };
        match self.rng.u32(0..1_000) {
            0..250 => self.insert(&table),
            250..400 => self.update(&table),
            400..500 => self.delete(&table),
            500..700 => self.small_transaction(&table),
            700..740 => self.large_transaction(&table, "COMMIT"),
            740..770 => self.large_transaction(&table, "ROLLBACK"),
            770..820 => self.savepoint(&table),
            820..840 => self.change_schema(),
            840..850 if self.options.vacuum => self.sql("VACUUM"),
            850..880 => self.sql("PRAGMA incremental_vacuum(7)"),
            880..940 if self.options.checkpoints => self.checkpoint(),
            940..960 => {
                self.connection = None;
                Ok(())
            }
            _ => self.insert(&table),
        }
    }

    fn insert(&mut self, table: &Table) -> Result<()> {
        let (number, text, body) = (self.rng.i64(0..1_000), self.text(), self.blob(table));
        let key = self.key(table);
        let sql = format!("INSERT OR REPLACE INTO {} (key, number, text, body) VALUES (?, ?, ?, ?)", table.name);
        self.connection()?.execute(&sql, params![key, number, text, body])?;
        Ok(())
    }

    fn update(&mut self, table: &Table) -> Result<()> {
        let (low, span) = (self.rng.i64(0..1_000), self.rng.i64(0..30));
        let (text, body) = (self.text(), self.blob(table));
        let name = &table.name;
        let sql = format!(
            "UPDATE {name} SET text = ?, body = ?, number = number + 1 WHERE key IN \
             (SELECT key FROM {name} WHERE number BETWEEN ? AND ? LIMIT 40)"
        );
        self.connection()?.execute(&sql, params![text, body, low, low + span])?;
        Ok(())
    }

    fn delete(&mut self, table: &Table) -> Result<()> {
        let (low, span) = (self.rng.i64(0..1_000), self.rng.i64(0..40));
        let sql = format!("DELETE FROM {} WHERE number BETWEEN ? AND ?", table.name);
        self.connection()?.execute(&sql, params![low, low + span])?;
        Ok(())
    }

    fn small_transaction(&mut self, table: &Table) -> Result<()> {
        self.sql("BEGIN IMMEDIATE")?;
        for _ in 0..self.rng.usize(1..20) {
            match self.rng.u32(0..3) {
                0 => self.insert(table)?,
                1 => self.update(table)?,
                _ => self.delete(table)?,
            }
        }
        self.sql("COMMIT")
    }

    /// Larger than the page cache, so that pages reach the WAL before the commit.
    fn large_transaction(&mut self, table: &Table, end: &str) -> Result<()> {
        self.sql("PRAGMA cache_size = 5; BEGIN IMMEDIATE")?;
        let rows = (1 << 20) / (table.blob_len + 200) + 1;
        for _ in 0..self.rng.usize(1..=rows.min(1_500)) {
            self.insert(table)?;
        }
        self.sql(end)
    }

    fn savepoint(&mut self, table: &Table) -> Result<()> {
        self.sql("BEGIN IMMEDIATE")?;
        self.insert(table)?;
        self.sql("SAVEPOINT inner")?;
        for _ in 0..self.rng.usize(1..30) {
            self.insert(table)?;
        }
        self.delete(table)?;
        self.sql("ROLLBACK TO inner; RELEASE inner; COMMIT")
    }

    fn change_schema(&mut self) -> Result<()> {
        let number = self.rng.u8(0..3);
        if self.rng.bool() {
            let table = self.schema.tables.first().map_or("t0", |table| &table.name).to_owned();
            self.sql(&format!(
                "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS extra{number} AS SELECT key, text FROM {table};
                 CREATE INDEX IF NOT EXISTS extra{number}_i ON extra{number} (text); COMMIT"
            ))
        } else {
            self.sql(&format!("DROP TABLE IF EXISTS extra{number}"))
        }
    }

    fn checkpoint(&mut self) -> Result<()> {
        let mode = self.rng.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"]).unwrap_or("PASSIVE");
        // A blocked checkpoint is a row that says so, not an error.
        self.sql(&format!("PRAGMA busy_timeout = 50; PRAGMA wal_checkpoint({mode}); PRAGMA busy_timeout = 10000"))
    }

    fn is_full(&mut self) -> Result<bool> {
        let pages: i64 = self.connection()?.query_row(
            "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count",
            [],
            |row| row.get(0),
        )?;
        Ok(u64::try_from(pages)? * u64::from(self.schema.page_size) > self.options.max_len)
    }

    fn shrink(&mut self) -> Result<()> {
        for table in self.schema.tables.clone() {
            let odd = self.rng.u8(0..2);
            self.sql(&format!("DELETE FROM {} WHERE number % 2 = {odd}", table.name))?;
        }
        Ok(())
    }

    fn sql(&mut self, sql: &str) -> Result<()> {
        // Pragmas answer with rows, which execute_batch steps over.
        Ok(self.connection()?.execute_batch(sql)?)
    }

    fn connection(&mut self) -> Result<&Connection> {
        if self.connection.is_none() {
            let connection = open(&self.db)?;
            let synchronous = self.rng.choice(["OFF", "NORMAL", "FULL"]).unwrap_or("NORMAL");
            let autocheckpoint = match self.options.checkpoints {
                true => self.rng.choice([0, 1, 20, 300, 1_000]).unwrap_or(1_000),
                false => 0,
            };
            connection.execute_batch(&format!(
                "PRAGMA synchronous = {synchronous}; PRAGMA wal_autocheckpoint = {autocheckpoint}"
            ))?;
            self.connection = Some(connection);
        }
        self.connection.as_ref().context("connection was just opened")
    }

    fn key(&mut self, table: &Table) -> rusqlite::types::Value {
        let number = self.rng.i64(0..5_000);
        if table.without_rowid { format!("key-{number}").into() } else { number.into() }
    }

    fn text(&mut self) -> String {
        let length = self.rng.usize(0..120);
        std::iter::repeat_with(|| self.rng.alphanumeric()).take(length).collect()
    }

    fn blob(&mut self, table: &Table) -> Vec<u8> {
        let mut blob = vec![0; self.rng.usize(0..=table.blob_len)];
        // Half of them compressible, as in most databases.
        if self.rng.bool() {
            self.rng.fill(&mut blob);
        }
        blob
    }
}

/// Opens a database that others use too.
pub(crate) fn open(db: &Path) -> Result<Connection> {
    let connection = Connection::open(db).with_context(|| format!("open {}", db.display()))?;
    connection.busy_timeout(Duration::from_secs(10))?;
    Ok(connection)
}
