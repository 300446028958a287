//! The restorable window: ends, holes, and how dense the points are by age.

use jiff::Timestamp;
use litestream_replica::{Hole, Inventory, RestorePoint};
use serde::Serialize;

use crate::output;

/// What `-json` prints. Fields may be added, never removed.
#[derive(Serialize)]
pub(super) struct Window {
    pub(super) source: String,
    pub(super) replica: &'static str,
    /// Files of the replica and their bytes.
    pub(super) files: usize,
    pub(super) size: u64,
    pub(super) oldest: Point,
    pub(super) newest: Point,
    pub(super) point_count: usize,
    /// Last transaction that any file holds; beyond `newest` where a hole is open.
    pub(super) last_txid: String,
    /// False where times are those of upload, which may be later.
    pub(super) exact_times: bool,
    pub(super) ages: Vec<Age>,
    pub(super) holes: Vec<HoleRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    points: Option<Vec<Point>>,
    #[serde(skip)]
    pub(super) now: Timestamp,
}

/// A restorable point.
#[derive(Clone, Serialize)]
pub(super) struct Point {
    pub(super) txid: String,
    pub(super) timestamp: String,
    pub(super) level: u8,
    #[serde(skip)]
    pub(super) created_at: Timestamp,
}

impl From<&RestorePoint> for Point {
    fn from(point: &RestorePoint) -> Self {
        Self {
            txid: point.txid.to_string(),
            timestamp: output::timestamp_millis(point.created_at),
            level: point.file.level.get(),
            created_at: point.created_at,
        }
    }
}

/// Points of one age.
#[derive(Serialize)]
pub(super) struct Age {
    pub(super) age: &'static str,
    pub(super) points: usize,
    /// Seconds between a point and the one before it: the median, and the most.
    pub(super) typical_spacing_seconds: Option<f64>,
    pub(super) widest_spacing_seconds: Option<f64>,
}

/// Transactions that are missing.
#[derive(Serialize)]
pub(super) struct HoleRow {
    pub(super) first_txid: String,
    pub(super) last_txid: String,
    /// The snapshot that carries history across, as `level/name`.
    pub(super) covered_by: Option<String>,
    pub(super) before: Option<Point>,
    pub(super) after: Option<Point>,
}

impl Window {
    /// `points` ascending, at least one; `now` is what ages count from.
    pub(super) fn new(
        source: String,
        replica: &'static str,
        inventory: &Inventory,
        points: &[RestorePoint],
        now: Timestamp,
        exact_times: bool,
    ) -> Self {
        let empty = || Point { txid: String::new(), timestamp: String::new(), level: 0, created_at: now };
        // A point of a hole has the times of the listing; the exact ones are here.
        let exact = |point: RestorePoint| {
            let at = points.partition_point(|known| known.txid < point.txid);
            Point::from(points.get(at).filter(|known| known.txid == point.txid).unwrap_or(&point))
        };
        let hole = |hole: Hole| HoleRow {
            first_txid: hole.first.to_string(),
            last_txid: hole.last.to_string(),
            covered_by: hole.covered_by.map(|file| file.to_string()),
            before: hole.before.map(exact),
            after: hole.after.map(exact),
        };
        Self {
            source,
            replica,
            files: inventory.files().len(),
            size: inventory.files().iter().map(|file| file.size).sum(),
            oldest: points.first().map_or_else(empty, Point::from),
            newest: points.last().map_or_else(empty, Point::from),
            point_count: points.len(),
            last_txid: inventory.bounds().map(|bounds| bounds.last_txid).unwrap_or_default().to_string(),
            exact_times,
            ages: ages(points, now),
            holes: inventory.holes().into_iter().map(hole).collect(),
            points: None,
            now,
        }
    }

    /// Lists these points in the JSON form, if there are any to list.
    pub(super) fn with_points(mut self, points: &[RestorePoint]) -> Self {
        self.points = (!points.is_empty()).then(|| points.iter().map(Point::from).collect());
        self
    }
}

/// How dense the points are, by their age. Ages without a point are left out.
fn ages(points: &[RestorePoint], now: Timestamp) -> Vec<Age> {
    let seconds = |point: &RestorePoint| point.created_at.as_millisecond();
    let mut newer_than = i64::MIN;
    let mut ages = Vec::new();
    for (age, limit_seconds) in AGES {
        let limit = limit_seconds.saturating_mul(1000);
        let is_of_age = |point: &RestorePoint| {
            let age = now.as_millisecond().saturating_sub(seconds(point));
            age > newer_than && age <= limit
        };
        let count = points.iter().filter(|point| is_of_age(point)).count();
        let mut spacings: Vec<i64> = points
            .windows(2)
            .filter_map(|pair| match pair {
                [before, point] if is_of_age(point) => Some(seconds(point).saturating_sub(seconds(before)).max(0)),
                _ => None,
            })
            .collect();
        spacings.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "milliseconds between backups are far below 2^53")]
        let in_seconds = |millis: &i64| *millis as f64 / 1000.0;
        if count > 0 {
            ages.push(Age {
                age,
                points: count,
                typical_spacing_seconds: spacings.get(spacings.len() / 2).map(in_seconds),
                widest_spacing_seconds: spacings.last().map(in_seconds),
            });
        }
        newer_than = limit;
    }
    ages
}

/// Names and the most seconds back.
const AGES: [(&str, i64); 5] = [
    ("last hour", 3600),
    ("last day", 24 * 3600),
    ("last week", 7 * 24 * 3600),
    ("last month", 30 * 24 * 3600),
    ("older", i64::MAX),
];

#[cfg(test)]
mod tests {
    use litestream_replica::{FileId, Level};
    use ltx::Txid;

    use super::*;

    fn point(second: i64) -> RestorePoint {
        let txid = Txid::new(u64::try_from(second).unwrap());
        let file = FileId { level: Level::new(0).unwrap(), min: txid, max: txid };
        RestorePoint { txid, created_at: Timestamp::from_second(second).unwrap(), file }
    }

    #[test]
    fn points_are_counted_once_by_age_with_their_usual_and_widest_spacing() {
        let points: Vec<_> = [1000, 1060, 1120, 1400, 90_000, 90_001, 90_002].map(point).to_vec();
        let ages = ages(&points, Timestamp::from_second(90_100).unwrap());
        let rows: Vec<_> = ages
            .iter()
            .map(|age| (age.age, age.points, age.typical_spacing_seconds, age.widest_spacing_seconds))
            .collect();
        assert_eq!(
            rows,
            [("last hour", 3, Some(1.0), Some(88_600.0)), ("last week", 4, Some(60.0), Some(280.0))],
            "86,400 s and more before now is no longer the last day"
        );
    }

    #[test]
    fn a_point_of_the_future_counts_as_new() {
        let ages = ages(&[point(5000)], Timestamp::from_second(100).unwrap());
        assert_eq!((ages[0].age, ages[0].points, ages[0].typical_spacing_seconds), ("last hour", 1, None));
    }
}
