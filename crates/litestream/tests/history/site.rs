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
use litestream::retention::{Deletion, Policy, Reason, expired, expired_history, expired_l0, expired_local};
use litestream_replica::clock::{Clock, ManualClock};
use litestream_replica::{FileId, FileInfo, Inventory, Level, Target};
use ltx::Txid;

use crate::facts;
use crate::files;
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
    /// The story so far, when somebody wants to read it.
    pub trace: Option<String>,
    /// Questions asked.
    pub checked: u64,
    pub tally: Tally,
    /// The real files of the replica, when there are any.
    pub files: Option<HashMap<FileId, Vec<u8>>>,
}

/// How often the interesting things happened: a test that never meets them proves
/// nothing.
#[derive(Debug, Default)]
pub struct Tally {
    pub merges: u64,
    pub merges_above_a_hole: u64,
    pub merges_in_the_middle: u64,
    pub blocked: u64,
    pub healed_from_local: u64,
    pub interrupted: u64,
    pub merged: u64,
    pub imaged: u64,
    pub superseded: u64,
    pub before_window: u64,
    pub moments: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.all_mut().into_iter().zip(other.all()) {
            *sum += count;
        }
    }

    pub fn all(&self) -> [u64; 11] {
        [
            self.merges,
            self.merges_above_a_hole,
            self.merges_in_the_middle,
            self.blocked,
            self.healed_from_local,
            self.interrupted,
            self.merged,
            self.imaged,
            self.superseded,
            self.before_window,
            self.moments,
        ]
    }

    fn all_mut(&mut self) -> [&mut u64; 11] {
        [
            &mut self.merges,
            &mut self.merges_above_a_hole,
            &mut self.merges_in_the_middle,
            &mut self.blocked,
            &mut self.healed_from_local,
            &mut self.interrupted,
            &mut self.merged,
            &mut self.imaged,
            &mut self.superseded,
            &mut self.before_window,
            &mut self.moments,
        ]
    }
}

impl Site {
    pub fn new(seed: u64, is_traced: bool, with_files: bool) -> Self {
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
            tally: Tally::default(),
            files: with_files.then(HashMap::new),
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
        if let Some(files) = &mut self.files {
            files.entry(id).or_insert_with(|| files::encode(&content, id, created_at));
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
                    self.tally.healed_from_local += 1;
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
        self.retain(&deletions, false);
    }

    pub fn l0_pass(&mut self) {
        let deletions = expired_l0(&self.remote, self.now(), &self.policy);
        self.retain(&deletions, false);
    }

    pub fn whole_retention_pass(&mut self) {
        let deletions = expired(&self.remote, self.now(), &self.policy);
        self.retain(&deletions, true);
    }

    /// Deletes, sometimes only the first few, and checks what is left.
    fn retain(&mut self, deletions: &[Deletion], is_whole_pass: bool) {
        if deletions.is_empty() {
            return;
        }
        assert!(self.policy.enabled, "retention is switched off");
        facts::deletions_are_distinct_and_there(self, deletions);
        let before = self.remote.clone();
        let count = if self.rng.u32(0..5) == 0 { self.rng.usize(0..deletions.len()) } else { deletions.len() };
        self.tally.interrupted += u64::from(count < deletions.len());
        for deletion in &deletions[..count] {
            *match deletion.reason {
                Reason::Merged { .. } => &mut self.tally.merged,
                Reason::Imaged { .. } => &mut self.tally.imaged,
                Reason::Superseded { .. } => &mut self.tally.superseded,
                Reason::BeforeWindow { .. } => &mut self.tally.before_window,
            } += 1;
            self.note(|_| format!("delete {}: {}", deletion.file.id, deletion.reason));
            self.delete(deletion.file.id);
        }
        facts::nothing_promised_is_lost(self, &before);
        if count == deletions.len() && is_whole_pass {
            let again = expired(&self.remote, self.now(), &self.policy);
            assert_eq!(again, [], "a pass leaves nothing for another at the same moment");
        }
    }

    /// Snapshot, retention and local files, without questions: for long histories.
    pub fn keep_house(&mut self) {
        let position = Txid::new(self.db.txid());
        if snapshot_due(&self.remote, self.snapshot_interval, self.now(), position) {
            self.snapshot();
        }
        for deletion in expired(&self.remote, self.now(), &self.policy) {
            self.delete(deletion.file.id);
        }
        self.prune_local();
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
                        self.tally.blocked += 1;
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
        let newest = self.remote.level(into.level).iter().map(|file| file.id.max).max();
        self.tally.merges += 1;
        self.tally.merges_above_a_hole += u64::from(newest.is_some_and(|newest| into.min > newest.next()));
        self.tally.merges_in_the_middle += u64::from(newest.is_some_and(|newest| into.max < newest));
        if let Some(files) = &mut self.files {
            let merged = files::merge(inputs.iter().map(|file| files[&file.id].as_slice()).collect(), into, created_at);
            files.insert(into, merged);
        }
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
