//! `lag`: from the commit of one row, after a quiet second, to the new file in
//! the replica's directory.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use litestream_testkit::daemon::Daemon;
use litestream_testkit::scenario;

use crate::report::{Metric, Report, Target, Unit, quantile};
use crate::stage::{Stage, url};

const LAG: Metric = Metric { name: "commit to file", unit: Unit::Milliseconds, targets: &[Target::AtMost(30.0)] };
const LAG_P90: Metric = Metric { name: "same, p90 of a round", unit: Unit::Milliseconds, targets: &[] };

/// Commits per round; with five rounds, 25 samples of each contestant.
const SAMPLES: usize = 5;

/// Adds the rows of this scenario.
pub(crate) fn run(stage: &Stage, report: &mut Report) -> Result<()> {
    let mut rng = Rng::with_seed(7);
    // Twenty samples at least, however few rounds.
    let samples = SAMPLES.max(20_usize.div_ceil(stage.rounds));
    for round in 0..stage.rounds {
        for tool in Stage::order(round) {
            let dir = stage.fresh_dir("lag")?;
            let (db, replica) = (dir.join("app.db"), dir.join("replica"));
            let connection = scenario::quiet_connection(&db)?;
            scenario::commit(&connection, 100)?;
            let args = ["replicate".into(), OsString::from(&db), url(&replica).into()];
            let daemon = stage.program(tool).daemon(args, &dir.join("log"))?;
            let level_0 = replica.join("ltx/0");
            wait_for_new_file(&level_0, &BTreeSet::new(), &daemon)?;
            let mut lags = Vec::new();
            for _ in 0..samples {
                // Longer than any batching interval, and never in step with one.
                thread::sleep(Duration::from_millis(1_200 + rng.u64(0..1_000)));
                let before = files(&level_0);
                scenario::commit(&connection, 1)?;
                let committed = Instant::now();
                wait_for_new_file(&level_0, &before, &daemon)?;
                let lag = committed.elapsed().as_secs_f64() * 1e3;
                lags.push(lag);
                report.add("lag", LAG, tool.name(), lag);
            }
            report.add("lag", LAG_P90, tool.name(), quantile(&lags, 0.9).unwrap_or_default());
            daemon.terminate(Duration::from_secs(30))?;
            eprintln!("  {}: median {:.1} ms", tool.name(), quantile(&lags, 0.5).unwrap_or_default());
            report.check(&format!("lag: replica of {}", tool.name()), stage.is_complete(&db, &replica)?);
            drop(connection);
        }
    }
    Ok(())
}

/// Polls twice a millisecond until the directory holds a finished file that it
/// did not hold before.
fn wait_for_new_file(dir: &Path, before: &BTreeSet<OsString>, daemon: &Daemon) -> Result<()> {
    let start = Instant::now();
    while files(dir).is_subset(before) {
        if start.elapsed() > Duration::from_secs(30) {
            bail!("no new file in {} within 30 s; log:\n{}", dir.display(), daemon.log());
        }
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// Names of finished files; temporary ones end differently.
fn files(dir: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(dir).context("not there yet").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name());
    names.filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "ltx")).collect()
}
