//! `restore`: the same replica, restored by each binary.
//!
//! Two replicas, one laid out by each replicator, both with a base and some
//! later changes. Each binary restores both.

use anyhow::Result;
use fastrand::Rng;
use litestream_testkit::scenario;
use litestream_testkit::usage::measure;

use crate::dataset;
use crate::report::{Metric, Report, Target, Unit, mebibytes};
use crate::stage::{Stage, Tool, digest, remove, settle, url};

const WALL: Metric = Metric { name: "wall", unit: Unit::Seconds, targets: &[Target::UpstreamDividedBy(8.0)] };
const CPU: Metric = Metric { name: "cpu", unit: Unit::Seconds, targets: &[] };
const RSS: Metric = Metric { name: "peak memory", unit: Unit::Mebibytes, targets: &[Target::AtMost(64.0)] };

/// Adds the rows of this scenario.
pub(crate) fn run(stage: &Stage, report: &mut Report) -> Result<()> {
    for maker in [Tool::Upstream, Tool::Ours] {
        let dir = stage.fresh_dir("restore")?;
        let (db, replica, output) = (dir.join("app.db"), dir.join("replica"), dir.join("restored.db"));
        stage.copy_dataset(&db)?;
        eprintln!("  {} makes the replica", maker.name());
        let connection = scenario::quiet_connection(&db)?;
        stage.program(maker).replicate_once(&db, &url(&replica))?;
        for round in 0..5 {
            dataset::update(&connection, &mut Rng::with_seed(round), 500)?;
            stage.program(maker).replicate_once(&db, &url(&replica))?;
        }
        drop(connection);
        let expected = stage.source_digest(&db)?;

        let scenario = format!("restore ({} replica)", maker.name());
        for round in 0..stage.rounds {
            for tool in Stage::order(round) {
                settle();
                let args = ["restore".as_ref(), "-o".as_ref(), output.as_os_str(), url(&replica).as_ref()]
                    .map(ToOwned::to_owned);
                let usage = measure(stage.program(tool), args, &dir.join("log"), || {})?;
                let what = format!("{scenario}: restored by {}", tool.name());
                report.check(&what, digest(&output)? == expected);
                remove(&output)?;
                eprintln!("  {what} in {:.2} s", usage.wall.as_secs_f64());
                report.add(&scenario, WALL, tool.name(), usage.wall.as_secs_f64());
                report.add(&scenario, CPU, tool.name(), usage.cpu.as_secs_f64());
                report.add(&scenario, RSS, tool.name(), mebibytes(usage.peak_rss));
            }
        }
        remove(&dir)?;
    }
    Ok(())
}
