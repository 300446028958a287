//! Accounts whose balances always add up, and a ledger that counts transfers.
//!
//! A restored bank proves two things by itself: no transaction was torn (the sum
//! holds), and how many were kept (the ledger has no gap and ends at a number
//! that the writer had reached).

use std::path::Path;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::writer::open;

/// A writer with its own connection.
#[derive(Debug)]
pub struct Bank {
    connection: Connection,
    rng: Rng,
    transfers: u64,
}

impl Bank {
    /// Makes a WAL database with the accounts, or opens one that has them.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn open(db: &Path, seed: u64) -> Result<Self> {
        let connection = open(db)?;
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = wal;
             BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INT NOT NULL);
             CREATE TABLE IF NOT EXISTS ledger (
                 number INTEGER PRIMARY KEY, source INT, target INT, amount INT, note BLOB);
             INSERT OR IGNORE INTO account
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS})
                 SELECT i, {OPENING_BALANCE} FROM n;
             COMMIT"
        ))?;
        let transfers = count(&connection)?;
        Ok(Self { connection, rng: Rng::with_seed(seed), transfers })
    }

    /// Moves money in one transaction. Returns the number of transfers committed
    /// by then, which is also the ledger's last number.
    ///
    /// # Errors
    /// When SQLite fails; nothing was moved then.
    pub fn transfer(&mut self) -> Result<u64> {
        let number = self.transfers + 1;
        let (source, target) = (self.rng.i64(1..=ACCOUNTS), self.rng.i64(1..=ACCOUNTS));
        let (amount, note) = (self.rng.i64(1..100), vec![0_u8; self.rng.usize(0..400)]);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, source))?;
        transaction.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, target))?;
        let row = (i64::try_from(number)?, source, target, amount, note);
        transaction.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)", row)?;
        transaction.commit()?;
        self.transfers = number;
        Ok(number)
    }

    /// The connection, for a test that wants to do more with it.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Checks a bank in a database that nobody writes (a restored copy), and returns
/// its number of transfers.
///
/// # Errors
/// Says what does not add up: integrity, balances, or a gap in the ledger.
pub fn audit(db: &Path) -> Result<u64> {
    let connection = Connection::open_with_flags(db, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .with_context(|| format!("open {}", db.display()))?;
    let integrity: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(integrity == "ok", "integrity check of {}: {integrity}", db.display());
    let sum: i64 = connection.query_row("SELECT coalesce(sum(balance), 0) FROM account", [], |row| row.get(0))?;
    ensure!(sum == ACCOUNTS * OPENING_BALANCE, "balances add up to {sum}, not {}", ACCOUNTS * OPENING_BALANCE);
    let last: i64 = connection.query_row("SELECT coalesce(max(number), 0) FROM ledger", [], |row| row.get(0))?;
    let transfers = count(&connection)?;
    ensure!(u64::try_from(last)? == transfers, "the ledger ends at {last} and has {transfers} rows");
    Ok(transfers)
}

const ACCOUNTS: i64 = 500;
const OPENING_BALANCE: i64 = 1_000;

fn count(connection: &Connection) -> Result<u64> {
    let count: i64 = connection.query_row("SELECT count(*) FROM ledger", [], |row| row.get(0))?;
    Ok(u64::try_from(count)?)
}
