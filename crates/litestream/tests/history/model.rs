//! A database, its files and a restore in a few numbers: the version of a page is
//! the transaction that wrote it.

use fastrand::Rng;

/// What an LTX file holds, by page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Page and version, ascending by page.
    pub pages: Vec<(u32, u64)>,
    /// Database length in pages after the last transaction.
    pub commit: u32,
}

impl Content {
    /// Every page of a database.
    pub fn image(pages: &[u64]) -> Self {
        let numbered = (1..).zip(pages.iter().copied());
        Self { pages: numbered.collect(), commit: pages.len() as u32 }
    }

    /// The rule of `ltx::merge`: of each page the newest version, and none beyond
    /// the final length.
    pub fn merge(inputs: &[&Self]) -> Self {
        let commit = inputs.last().unwrap().commit;
        let mut pages: Vec<(u32, u64)> = Vec::new();
        for input in inputs {
            for (pgno, version) in &input.pages {
                match pages.binary_search_by_key(pgno, |(known, _)| *known) {
                    Ok(index) => pages[index].1 = *version,
                    Err(index) => pages.insert(index, (*pgno, *version)),
                }
            }
        }
        pages.retain(|(pgno, _)| *pgno <= commit);
        Self { pages, commit }
    }

    /// The database that a chain of files gives.
    pub fn restore(chain: &[&Self]) -> Vec<u64> {
        let whole = Self::merge(chain);
        let complete = whole.pages.iter().map(|(pgno, _)| *pgno).eq(1..=whole.commit);
        assert!(complete, "a page of 1 to {} is in no file: {:?}", whole.commit, whole.pages);
        whole.pages.into_iter().map(|(_, version)| version).collect()
    }
}

/// A database that remembers what it was after each transaction.
#[derive(Debug, Default)]
pub struct Database {
    /// The image after TXID i + 1.
    pub history: Vec<Vec<u64>>,
}

impl Database {
    pub fn txid(&self) -> u64 {
        self.history.len() as u64
    }

    pub fn at(&self, txid: u64) -> &[u64] {
        &self.history[txid as usize - 1]
    }

    /// Writes, grows or shrinks, and gives the transaction's file.
    pub fn commit(&mut self, rng: &mut Rng) -> Content {
        let txid = self.txid() + 1;
        let mut pages = self.history.last().cloned().unwrap_or_default();
        let len = match rng.u32(0..6) {
            0 => rng.usize(1..=6),
            _ => pages.len().max(1),
        };
        let mut written = Vec::new();
        let old = pages.len();
        pages.resize(len, 0);
        for (index, version) in pages.iter_mut().enumerate() {
            if index >= old || rng.u32(0..4) == 0 {
                *version = txid;
                written.push((index as u32 + 1, txid));
            }
        }
        self.history.push(pages);
        Content { pages: written, commit: len as u32 }
    }

    /// A transaction that changes nothing.
    pub fn repeat(&mut self) -> Content {
        let pages = self.history.last().cloned().unwrap();
        let commit = pages.len() as u32;
        self.history.push(pages);
        Content { pages: Vec::new(), commit }
    }
}
