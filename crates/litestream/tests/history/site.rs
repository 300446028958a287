//! A database, its daemon and its replica, driven step by step with a manual
//! clock. It does what the scheduler does, with models in place of files.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;
use litestream::compaction::{Choice, choose, snapshot_due};
use litestream::hole::missing;
use litestream::levels::Levels;
use litestream::retention::{Deletion, Policy, expired, expired_history, expired_l0, expired_local};
use litestream_replica::clock::{Clock, ManualClock};
use litestream_replica::{FileId, FileInfo, Inventory, Level, Target};
use ltx::Txid;

use crate::facts;
use crate::model::{Content, Database};

/// Everything of one case.
pub struct Site {
    pub rng: Rng,
    pub clock: ManualClock,
    pub db: Database,
    pub levels: Levels,
    pub snapshot_interval: Duration,
    pub policy: Policy,
    /// Local level-0 files with the time of their capture.
    pub local: BTreeMap<u64, (Content, Timestamp)>,
    /// Newest transaction the replica has.
    pub uploaded: u64,
    pub remote: Inventory,
    pub contents: HashMap<FileId, Content>,
    /// When each transaction was captured, by TXID.
    pub captured: Vec<Timestamp>,
    /// A file of the replica was lost, or a clock jumped: what is promised about
    /// undisturbed histories does not hold any more.
    pub is_disturbed: bool,
    pub trace: Option<String>,
    pub checked: u64,
}

impl Site {
    pub fn new(seed: u64, is_traced: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let seconds = |rng: &mut Rng, choices: &[u64]| Duration::from_secs(choices[rng.usize(0..choices.len())]);
        let snapshot_interval = seconds(&mut rng, &[40, 120, 400]);
        let policy = Policy {
            l0_retention: seconds(&mut rng, &[0, 5, 5, 20, 60]),
            snapshot_retention: seconds(&mut rng, &[30, 120, 120, 300]),
            snapshot_interval,
            enabled: rng.u32(0..20) > 0,
        };
        let levels = random_levels(&mut rng);
        let mut site = Self {
            clock: ManualClock::new(1_800_000_000_000 + rng.i64(0..600_000)),
            db: Database::default(),
            levels,
            snapshot_interval,
            policy,
            local: BTreeMap::new(),
            uploaded: 0,
            remote: Inventory::default(),
            contents: HashMap::new(),
            captured: Vec::new(),
            is_disturbed: false,
            trace: is_traced.then(String::new),
            checked: 0,
            rng,
        };
        site.note(|site| format!("{:?} {:?} snapshots {:?}", site.levels, site.policy, site.snapshot_interval));
        site.begin();
        site
    }

    pub fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = text(self);
            let now = self.clock.now();
            if let Some(trace) = &mut self.trace {
                writeln!(trace, "{now} {line}").unwrap();
            }
        }
    }

    /// The first base: an image at level 9 and a delta behind it, as we do it, or
    /// an image at level 0, as upstream does.
    fn begin(&mut self) {
        if self.rng.bool() {
            self.rebase();
        } else {
            self.commit();
            if self.rng.bool() {
                self.commit();
            }
            self.upload();
        }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn advance(&mut self, most_millis: i64) {
        let millis = self.rng.i64(1..=most_millis);
        self.clock.advance_millis(millis);
    }

    /// Captures a transaction into a local file.
    pub fn commit(&mut self) {
        let content = self.db.commit(&mut self.rng);
        self.capture(content);
    }

    fn capture(&mut self, content: Content) {
        self.captured.push(self.now());
        self.local.insert(self.db.txid(), (content, self.now()));
    }

    /// The local state was lost: a whole image above everything, at level 9 if
    /// nothing leads to it, and a delta behind it for those who look at level 0
    /// alone.
    pub fn rebase(&mut self) {
        self.local.clear();
        let continues = self.uploaded > 0 && self.uploaded == self.db.txid() && self.is_whole() && self.rng.bool();
        self.db.commit(&mut self.rng);
        self.captured.push(self.now());
        let txid = self.db.txid();
        let image = Content::image(self.db.at(txid));
        let id = if continues { id(0, txid, txid) } else { id(9, 1, txid) };
        self.put(id, image, self.now());
        self.uploaded = txid;
        self.note(|_| format!("rebase {id}"));
        if !continues {
            let delta = self.db.repeat();
            self.capture(delta);
            self.upload();
        }
    }

    /// Sends local files in order.
    pub fn upload(&mut self) {
        while let Some((content, created)) = self.local.get(&(self.uploaded + 1)).cloned() {
            self.uploaded += 1;
            self.put(id(0, self.uploaded, self.uploaded), content, created);
        }
    }

    pub fn put(&mut self, id: FileId, content: Content, created_at: Timestamp) {
        let txid = id.max.get();
        if id.min == Txid::FIRST {
            assert_eq!(Content::restore(&[&content]), self.db.at(txid), "{id} starts at TXID 1, so it is an image");
        }
        self.remote.insert(FileInfo { id, size: 200, created_at });
        self.contents.insert(id, content);
    }

    pub fn delete(&mut self, id: FileId) {
        assert!(self.remote.remove(id).is_some(), "{id} is deleted but was not there");
    }

    /// Everything captured before the newest file of the replica is there.
    pub fn is_whole(&self) -> bool {
        self.remote.plan(Target::Latest).is_ok_and(|plan| plan.txid() == self.remote.newest_txid())
    }

    /// Sends lost level-0 files again where they are still here, as the scheduler
    /// does before it compacts.
    pub fn heal(&mut self) {
        for hole in missing(&self.remote) {
            for txid in hole.txids() {
                if let Some((content, created)) = self.local.get(&txid.get()).cloned() {
                    self.note(|_| format!("heal {txid}"));
                    self.put(id(0, txid.get(), txid.get()), content, created);
                }
            }
        }
        if !self.is_whole() {
            self.snapshot();
        }
    }

    /// Stores an image of the present position.
    pub fn snapshot(&mut self) {
        let txid = self.db.txid();
        let file = id(9, 1, txid);
        // The file that carries a position's image is never replaced: a younger
        // one could not stand for the older moments.
        if self.remote.files().iter().any(|known| known.id == file) {
            return;
        }
        self.note(|_| format!("snapshot {file}"));
        self.put(file, Content::image(self.db.at(txid)), self.now());
    }

    pub fn snapshot_pass(&mut self) {
        let position = Txid::new(self.db.txid());
        if snapshot_due(&self.remote, self.snapshot_interval, self.now(), position) {
            self.snapshot();
        }
        let deletions = expired_history(&self.remote, self.now(), &self.policy);
        self.retain(deletions);
    }

    pub fn l0_pass(&mut self) {
        let deletions = expired_l0(&self.remote, self.now(), &self.policy);
        self.retain(deletions);
    }

    pub fn whole_retention_pass(&mut self) {
        let deletions = expired(&self.remote, self.now(), &self.policy);
        self.retain(deletions);
        if self.rng.u32(0..8) == 0 {
            let again = expired(&self.remote, self.now(), &self.policy);
            let complete = expired(&self.remote, self.now(), &self.policy);
            assert_eq!(again, complete, "a decision depends on what is there alone");
        }
    }

    /// Deletes, sometimes only the first few, and checks what is left.
    fn retain(&mut self, deletions: Vec<Deletion>) {
        if deletions.is_empty() {
            return;
        }
        assert!(self.policy.enabled, "retention is switched off");
        facts::deletions_are_distinct_and_there(self, &deletions);
        let before = self.remote.clone();
        let count = if self.rng.u32(0..5) == 0 { self.rng.usize(0..deletions.len()) } else { deletions.len() };
        for deletion in &deletions[..count] {
            self.note(|_| format!("delete {}: {}", deletion.file.id, deletion.reason));
            self.delete(deletion.file.id);
        }
        facts::nothing_promised_is_lost(self, &before);
    }

    pub fn prune_local(&mut self) {
        let files: Vec<(Txid, Timestamp)> =
            self.local.iter().map(|(txid, (_, created))| (Txid::new(*txid), *created)).collect();
        let compacts = !self.levels.is_empty();
        let uploaded = Txid::new(self.uploaded);
        for txid in expired_local(&self.remote, &files, uploaded, compacts, self.now(), &self.policy) {
            assert!(txid <= uploaded, "{txid} was not sent");
            assert_ne!(txid.get(), self.db.txid(), "the newest local file carries the position");
            self.local.remove(&txid.get());
        }
    }

    /// Compacts every level until there is nothing to do.
    pub fn compact(&mut self) {
        let levels: Vec<(Level, Duration)> = self.levels.iter().collect();
        for (level, interval) in levels {
            for round in 0.. {
                assert!(round < 200, "compaction of level {level} does not end");
                match choose(&self.remote, level, interval, self.now()) {
                    Choice::TooEarly { until } => {
                        assert!(until > self.now(), "the next boundary has passed");
                        break;
                    }
                    Choice::Nothing => break,
                    Choice::Merge { inputs, into } => self.merge(&inputs, into),
                    Choice::Blocked { missing } => {
                        facts::is_missing(self, level, missing);
                        if self.rng.bool() {
                            self.is_disturbed = true;
                            break;
                        }
                        let before = self.remote.clone();
                        self.heal();
                        self.snapshot();
                        if self.remote == before {
                            // The image of this position was there: the source goes on
                            // above it one day.
                            break;
                        }
                    }
                }
            }
        }
    }

    fn merge(&mut self, inputs: &[FileInfo], into: FileId) {
        facts::inputs_join_up(self, inputs, into);
        let contents: Vec<&Content> = inputs.iter().map(|file| &self.contents[&file.id]).collect();
        let content = Content::merge(&contents);
        // The moment of the last transaction, not of the merge.
        let created_at = inputs.last().unwrap().created_at;
        self.note(|_| format!("merge {} files into {into}", inputs.len()));
        let before = self.remote.clone();
        self.put(into, content, created_at);
        facts::new_file_is_usable(self, &before, into);
    }

    /// Somebody else deletes a file.
    pub fn lose_remote(&mut self) {
        let files = self.remote.files();
        if files.is_empty() {
            return;
        }
        let lost = files[self.rng.usize(0..files.len())].id;
        self.note(|_| format!("lose {lost}"));
        self.is_disturbed = true;
        self.delete(lost);
    }

    pub fn change_levels(&mut self) {
        self.levels = random_levels(&mut self.rng);
        self.note(|site| format!("{:?}", site.levels));
    }

    pub fn jump(&mut self) {
        let millis = self.rng.i64(-200_000..200_000);
        self.is_disturbed = true;
        self.clock.advance_millis(millis);
        self.note(|_| format!("clock jumps by {millis} ms"));
    }
}

pub fn id(level: u8, min: u64, max: u64) -> FileId {
    FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) }
}

fn random_levels(rng: &mut Rng) -> Levels {
    let choices: [&[u64]; 6] = [&[10, 30, 90], &[10, 30, 90], &[5, 40], &[15], &[], &[5, 10, 20, 40, 80]];
    let seconds = choices[rng.usize(0..choices.len())];
    Levels::new(seconds.iter().copied().map(Duration::from_secs).collect()).unwrap()
}
