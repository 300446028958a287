//! A random schema: what shape of database a workload works on.
//!
//! Wholly determined by the seed, unlike the interleaving of the threads.

use fastrand::Rng;

/// Page size, vacuum mode and tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// 512 to 65536.
    pub page_size: u32,
    /// 0 none, 1 full, 2 incremental.
    pub auto_vacuum: u8,
    /// At least one.
    pub tables: Vec<Table>,
}

/// A table with a key, a number, a text and a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Keyed by text and stored in its own index, or keyed by row id.
    pub without_rowid: bool,
    /// Indexed columns, one index each.
    pub indexes: Vec<&'static str>,
    /// Upper bound of a blob in bytes; large ones need overflow pages.
    pub blob_len: usize,
}

impl Schema {
    /// The schema of this seed.
    pub fn random(rng: &mut Rng) -> Self {
        let page_size = 512 << rng.u32(0..=7);
        let auto_vacuum = rng.u8(0..=2);
        let tables = (0..rng.usize(1..=4)).map(|number| Table::random(rng, number)).collect();
        Self { page_size, auto_vacuum, tables }
    }

    /// Statements that make an empty WAL database of this schema.
    pub fn sql(&self) -> String {
        let mut sql = format!(
            "PRAGMA page_size = {}; PRAGMA auto_vacuum = {}; PRAGMA journal_mode = wal;\n",
            self.page_size, self.auto_vacuum
        );
        for table in &self.tables {
            sql.push_str(&table.sql());
        }
        sql
    }
}

impl Table {
    fn random(rng: &mut Rng, number: usize) -> Self {
        Self {
            name: format!("t{number}"),
            without_rowid: rng.u8(0..3) == 0,
            indexes: ["number", "text", "number, text"].into_iter().filter(|_| rng.bool()).collect(),
            blob_len: rng.choice([0, 40, 600, 9_000, 120_000]).unwrap_or(0),
        }
    }

    /// Statements that make the table and its indexes.
    pub fn sql(&self) -> String {
        let (key, option) = if self.without_rowid { ("key TEXT", " WITHOUT ROWID") } else { ("key INTEGER", "") };
        let name = &self.name;
        let mut sql = format!("CREATE TABLE {name} ({key} PRIMARY KEY, number INT, text TEXT, body BLOB){option};\n");
        for (number, columns) in self.indexes.iter().enumerate() {
            sql.push_str(&format!("CREATE INDEX {name}_i{number} ON {name} ({columns});\n"));
        }
        sql
    }
}
