//! Which 0.3 objects a replica holds, and which of them rebuild a moment.
//!
//! Pure: nothing here reads an object. Lengths of segments are unknown until they
//! are decompressed, so a gap inside a log shows only while restoring; a missing
//! log, and a log without its start, show here.
//!
//! Spec: store-and-restore §15.2.

use std::cmp::Reverse;

use jiff::Timestamp;

use super::name::{GENERATIONS, Generation, LogPosition, ObjectName};
use crate::plan::NOT_AVAILABLE;
use crate::{Error, ErrorKind, ObjectInfo, ReplicaClient, Result, Target};

/// The text for a backup that has WAL segments but nothing to apply them to.
pub const NO_SNAPSHOTS: &str = "no snapshots available";

/// A compressed database file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V3Snapshot {
    /// The history it belongs to.
    pub generation: Generation,
    /// The log that begins at this state.
    pub index: u32,
    /// The object.
    pub object: ObjectInfo,
}

/// A compressed piece of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V3Segment {
    /// The history it belongs to.
    pub generation: Generation,
    /// Where in the logs its first byte belongs.
    pub start: LogPosition,
    /// The object.
    pub object: ObjectInfo,
}

/// Every object of a 0.3 backup at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V3Inventory {
    /// By generation and index.
    snapshots: Vec<V3Snapshot>,
    /// By generation and position.
    segments: Vec<V3Segment>,
}

/// The objects that rebuild one state, in the order they apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V3Plan {
    /// The base.
    pub snapshot: V3Snapshot,
    /// What comes after it: logs without gaps between them, each from its start.
    pub segments: Vec<V3Segment>,
}

impl V3Plan {
    /// When the newest object was stored: the time of the restored state.
    pub fn timestamp(&self) -> Timestamp {
        self.objects().map(|object| object.modified).max().unwrap_or_default()
    }

    /// Its objects in the order they are read.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectInfo> {
        std::iter::once(&self.snapshot.object).chain(self.segments.iter().map(|segment| &segment.object))
    }

    /// How many objects there are.
    pub fn object_count(&self) -> usize {
        1 + self.segments.len()
    }

    /// Bytes all objects hold in the store.
    pub fn total_bytes(&self) -> u64 {
        self.objects().fold(0, |total, object| total.saturating_add(object.size))
    }
}

/// The first object that does not follow the ones before it.
struct Gap<'a> {
    segment: &'a V3Segment,
    error: Error,
}

impl V3Inventory {
    /// An inventory of the 0.3 objects among these; other names are ignored.
    pub fn new(objects: impl IntoIterator<Item = ObjectInfo>) -> Self {
        let mut inventory = Self::default();
        for object in objects {
            match ObjectName::parse(&object.key) {
                Some(ObjectName::Snapshot { generation, index }) => {
                    inventory.snapshots.push(V3Snapshot { generation, index, object });
                }
                Some(ObjectName::Segment { generation, start }) => {
                    inventory.segments.push(V3Segment { generation, start, object });
                }
                None => {}
            }
        }
        inventory.snapshots.sort_by_key(|snapshot| (snapshot.generation, snapshot.index));
        // The key last, so that two names of one position come in a fixed order.
        let order = |s: &V3Segment| (s.generation, s.start);
        inventory.segments.sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.object.key.cmp(&b.object.key)));
        inventory
    }

    /// Lists a replica; one listing.
    ///
    /// # Errors
    /// When the listing fails. A partial inventory is never returned.
    pub async fn load(client: &dyn ReplicaClient) -> Result<Self> {
        let listed = client.list_objects(GENERATIONS).await;
        Ok(Self::new(listed.map_err(|error| error.context("list backups of v0.3.x"))?))
    }

    /// True when the replica has no 0.3 backup.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty() && self.segments.is_empty()
    }

    /// All snapshots, by generation and index.
    pub fn snapshots(&self) -> &[V3Snapshot] {
        &self.snapshots
    }

    /// All segments, by generation and position.
    pub fn segments(&self) -> &[V3Segment] {
        &self.segments
    }

    /// Times of the oldest snapshot and the newest object: before the one nothing
    /// can be restored, after the other there is nothing new. `None` without a
    /// snapshot.
    pub fn bounds(&self) -> Option<(Timestamp, Timestamp)> {
        let oldest = self.snapshots.iter().map(|snapshot| snapshot.object.modified).min()?;
        Some((oldest, self.newest()?))
    }

    /// Time of the newest object.
    pub fn newest(&self) -> Option<Timestamp> {
        self.objects().map(|object| object.modified).max()
    }

    /// The same inventory without the objects for which `unusable` holds.
    #[must_use]
    pub fn without(&self, unusable: impl Fn(&ObjectInfo) -> bool) -> Self {
        Self::new(self.objects().filter(|object| !unusable(object)).cloned())
    }

    /// The objects that rebuild `target`.
    ///
    /// The base is the newest snapshot of any generation, by time; then come all
    /// segments of its generation from its index on. A time is *inclusive* here,
    /// other than for LTX files, since 0.3 gave objects their time after the fact.
    ///
    /// # Errors
    /// [`Hole`](ErrorKind::Hole) when a log or a log's start is missing, naming it
    /// and the newest moment before it that can be restored, and with
    /// [`NO_SNAPSHOTS`] when there are only segments;
    /// [`Unavailable`](ErrorKind::Unavailable) when nothing is as old as `target`,
    /// or it is a TXID, which 0.3 did not know.
    pub fn plan(&self, target: Target) -> Result<V3Plan> {
        let until = match target {
            Target::Latest => Timestamp::MAX,
            Target::Timestamp(moment) => moment,
            Target::Txid(_) => return Err(Error::new(ErrorKind::Unavailable, NOT_AVAILABLE)),
        };
        let Some(plan) = self.draft(until) else {
            let is_none_at_all = self.snapshots.is_empty() && !self.segments.is_empty();
            let kind = if is_none_at_all { ErrorKind::Hole } else { ErrorKind::Unavailable };
            return Err(Error::new(kind, if is_none_at_all { NO_SNAPSHOTS } else { NOT_AVAILABLE }));
        };
        if let Err(gap) = check_chain(&plan) {
            let earlier = self.earlier(until, gap.segment);
            return Err(with_earlier(gap.error.context(APPLYING), earlier));
        }
        Ok(plan)
    }

    /// The newest moment not after `until` whose plan needs neither `broken` nor
    /// anything behind it in that generation's logs, and is complete.
    pub fn earlier(&self, until: Timestamp, broken: &V3Segment) -> Option<Timestamp> {
        let mut until = until;
        let mut broken = (broken.generation, broken.start);
        // Each round moves back beyond at least one object.
        for _ in 0..=self.segments.len() {
            let (generation, start) = broken;
            let affected = self.segments.iter().filter(|s| s.generation == generation && s.start >= start);
            let limit = affected.map(|segment| segment.object.modified).filter(|time| *time <= until).min()?;
            until = self.objects().map(|object| object.modified).filter(|time| *time < limit).max()?;
            let plan = self.draft(until)?;
            match check_chain(&plan) {
                Ok(()) => return Some(plan.timestamp()),
                Err(gap) => broken = (gap.segment.generation, gap.segment.start),
            }
        }
        None
    }

    /// When the state that a plan for this moment gives was stored, gaps or not.
    pub(super) fn reached(&self, until: Timestamp) -> Option<Timestamp> {
        self.draft(until).map(|plan| plan.timestamp())
    }

    /// Snapshot and segments by the rules of selection, gaps or not.
    fn draft(&self, until: Timestamp) -> Option<V3Plan> {
        let eligible = self.snapshots.iter().filter(|snapshot| snapshot.object.modified <= until);
        let snapshot = eligible.max_by_key(|s| (s.object.modified, s.index, Reverse(s.generation)))?.clone();
        let segments = self.segments.iter().filter(|segment| {
            segment.generation == snapshot.generation
                && segment.start.index >= snapshot.index
                && segment.object.modified <= until
        });
        Some(V3Plan { segments: segments.cloned().collect(), snapshot })
    }

    fn objects(&self) -> impl Iterator<Item = &ObjectInfo> {
        let snapshots = self.snapshots.iter().map(|snapshot| &snapshot.object);
        snapshots.chain(self.segments.iter().map(|segment| &segment.object))
    }
}

/// Checks that every log is there and has its start.
fn check_chain(plan: &V3Plan) -> Result<(), Gap<'_>> {
    let mut log: Option<&V3Segment> = None;
    for (at, segment) in plan.segments.iter().enumerate() {
        let V3Segment { start, object, .. } = segment;
        let previous = at.checked_sub(1).and_then(|before| plan.segments.get(before));
        // The log that may begin here; indexes have 31 bits.
        let next = log.map_or(plan.snapshot.index, |first| first.start.index + 1);
        let gap = |text: String| Err(Gap { segment, error: Error::new(ErrorKind::Hole, text) });
        if let Some(twin) = previous.filter(|previous| previous.start == *start) {
            return gap(format!("two objects for WAL segment {start}: {} and {}", twin.object.key, object.key));
        }
        let is_open = log.is_some_and(|first| first.start.index == start.index);
        if !is_open && start.index != next {
            return gap(format!("missing WAL index: expected {}, got {start}", LogPosition::start_of(next)));
        }
        if !is_open && start.offset != 0 {
            return gap(missing_segment(LogPosition::start_of(next), *start));
        }
        if !is_open {
            log = Some(segment);
        }
    }
    Ok(())
}

/// Upstream's words for a log that goes on at the wrong place.
pub(super) fn missing_segment(expected: LogPosition, found: LogPosition) -> String {
    format!("missing WAL segment: expected {expected}, got {found}")
}

/// Adds what can be had instead.
pub(super) fn with_earlier(error: Error, earlier: Option<Timestamp>) -> Error {
    match earlier {
        Some(time) => {
            Error::new(error.kind(), format!("{error}. Complete up to {time}: restore with -timestamp {time}"))
        }
        None => Error::new(error.kind(), format!("{error}. No earlier state is complete")),
    }
}

/// Upstream's prefix for everything about segments.
pub(super) const APPLYING: &str = "apply WAL segments";

#[cfg(test)]
mod tests;
