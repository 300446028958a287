//! `once`: `replicate -once` of a database into an empty replica.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use anyhow::Result;
use litestream_testkit::usage::{dir_len, measure};

use crate::report::{Metric, Report, Target, Unit, mebibytes};
use crate::stage::{Stage, meta_dir, remove, settle, url};

const WALL: Metric = Metric { name: "wall", unit: Unit::Seconds, targets: &[Target::UpstreamDividedBy(4.0)] };
const CPU: Metric = Metric { name: "cpu", unit: Unit::Seconds, targets: &[] };
const RSS: Metric = Metric { name: "peak memory", unit: Unit::Mebibytes, targets: &[] };
// "No staging copy": room for bookkeeping and one part of an upload, far from a
// second copy of the database.
const STAGED: Metric = Metric { name: "staged, peak", unit: Unit::Mebibytes, targets: &[Target::AtMost(16.0)] };
const LEFT: Metric = Metric { name: "staged, left", unit: Unit::Mebibytes, targets: &[Target::AtMost(16.0)] };

/// Adds the rows of this scenario.
pub(crate) fn run(stage: &Stage, report: &mut Report) -> Result<()> {
    let dir = stage.fresh_dir("once")?;
    for round in 0..stage.rounds {
        for tool in Stage::order(round) {
            let (db, replica) = (dir.join("app.db"), dir.join("replica"));
            stage.copy_dataset(&db)?;
            let url = url(&replica);
            let args = ["replicate", "-once"].map(OsStr::new).into_iter().chain([db.as_os_str(), OsStr::new(&url)]);
            let args: Vec<_> = args.map(ToOwned::to_owned).collect();
            let meta = meta_dir(&db);
            let (mut peak, mut sampled) = (0, Instant::now());
            settle();
            let usage = measure(stage.program(tool), args, &dir.join("log"), || {
                if sampled.elapsed() > Duration::from_millis(20) {
                    peak = peak.max(dir_len(&meta));
                    sampled = Instant::now();
                }
            })?;
            let left = dir_len(&meta);
            eprintln!("  {} in {:.2} s", tool.name(), usage.wall.as_secs_f64());
            report.add("once", WALL, tool.name(), usage.wall.as_secs_f64());
            report.add("once", CPU, tool.name(), usage.cpu.as_secs_f64());
            report.add("once", RSS, tool.name(), mebibytes(usage.peak_rss));
            report.add("once", STAGED, tool.name(), mebibytes(peak.max(left)));
            report.add("once", LEFT, tool.name(), mebibytes(left));
            report.check(&format!("once: replica of {}", tool.name()), stage.is_complete(&db, &replica)?);
            remove(&dir)?;
            stage.fresh_dir("once")?;
        }
    }
    remove(&dir)
}
