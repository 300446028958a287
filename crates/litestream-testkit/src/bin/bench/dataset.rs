//! The database that is copied about: seeded rows as applications have them.
//!
//! Names, words, small JSON, prices, and one column of incompressible tokens; a
//! page compresses to a little more than half.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use fastrand::Rng;
use rusqlite::{Connection, params};

/// Makes a closed WAL database of at least `size` bytes at `path`, unless an
/// earlier run left it there complete.
pub(crate) fn make(path: &Path, size: u64) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let unfinished = path.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_file(&unfinished)?;
    }
    let connection = Connection::open(&unfinished).with_context(|| format!("create {}", unfinished.display()))?;
    connection.execute_batch(
        "PRAGMA journal_mode = off; PRAGMA synchronous = off; PRAGMA cache_size = -262144;
         CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, mail TEXT, token BLOB);
         CREATE TABLE purchase (
             id INTEGER PRIMARY KEY, customer INT, at INT, price REAL, note TEXT, detail TEXT, token BLOB);
         BEGIN",
    )?;
    fill(&connection, size)?;
    connection.execute_batch(
        "COMMIT; CREATE INDEX purchase_customer ON purchase (customer, at);
         PRAGMA journal_mode = wal",
    )?;
    connection.close().map_err(|(_, error)| error)?;
    fs::rename(&unfinished, path)?;
    Ok(())
}

/// Changes `count` rows in one transaction, spread over the table.
pub(crate) fn update(connection: &Connection, rng: &mut Rng, count: usize) -> Result<()> {
    let last: i64 = connection.query_row("SELECT max(id) FROM purchase", [], |row| row.get(0))?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let mut statement = connection.prepare("UPDATE purchase SET price = price + 1, note = ? WHERE id = ?")?;
    for _ in 0..count {
        statement.execute(params![words(rng, 8), rng.i64(1..=last)])?;
    }
    Ok(connection.execute_batch("COMMIT")?)
}

fn fill(connection: &Connection, size: u64) -> Result<()> {
    let mut rng = Rng::with_seed(20);
    let mut customer = connection.prepare("INSERT INTO customer (name, mail, token) VALUES (?, ?, ?)")?;
    let mut purchase = connection
        .prepare("INSERT INTO purchase (customer, at, price, note, detail, token) VALUES (?, ?, ?, ?, ?, ?)")?;
    let mut customers: i64 = 0;
    loop {
        for _ in 0..20 {
            let name = words(&mut rng, 2);
            customers += 1;
            customer.execute(params![name, format!("{}@example.com", name.replace(' ', ".")), token(&mut rng)])?;
        }
        for _ in 0..1_000 {
            let (buyer, at) = (rng.i64(1..=customers), 1_700_000_000 + rng.i64(0..90_000_000));
            let (note_len, detail_len) = (rng.usize(3..20), rng.usize(1..6));
            let note = words(&mut rng, note_len);
            let detail = detail(&mut rng, detail_len);
            let price = f64::from(rng.u32(100..100_000)) / 100.0;
            purchase.execute(params![buyer, at, price, note, detail, token(&mut rng)])?;
        }
        let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        // The index made afterwards adds about a twelfth.
        if u64::try_from(pages)? * 4_096 * 13 / 12 >= size {
            return Ok(());
        }
    }
}

fn words(rng: &mut Rng, count: usize) -> String {
    let mut text = String::new();
    for _ in 0..count {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(rng.choice(WORDS).unwrap_or(""));
    }
    text
}

fn detail(rng: &mut Rng, count: usize) -> String {
    let mut text = String::from("[");
    for number in 0..count {
        let separator = if number == 0 { "" } else { "," };
        let (word, amount) = (rng.choice(WORDS).unwrap_or(""), rng.u32(1..50));
        // A String takes every write.
        let _ = write!(text, r#"{separator}{{"article":"{word}-{:06}","count":{amount}}}"#, rng.u32(0..1_000_000));
    }
    text.push(']');
    text
}

fn token(rng: &mut Rng) -> [u8; 48] {
    let mut token = [0; 48];
    rng.fill(&mut token);
    token
}

const WORDS: [&str; 48] = [
    "amber", "anchor", "basket", "beacon", "blanket", "bottle", "bridge", "candle", "canvas", "carpet", "cedar",
    "chair", "clock", "copper", "cotton", "cradle", "curtain", "desk", "dragon", "drawer", "feather", "flute",
    "garden", "hammer", "harbour", "honey", "kettle", "ladder", "lantern", "lemon", "mirror", "needle", "oak", "paper",
    "pepper", "pillow", "pocket", "ribbon", "saddle", "silver", "spoon", "stone", "table", "thread", "velvet",
    "violin", "willow", "window",
];
