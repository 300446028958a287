//! `compact`: a base image and twenty deltas become one file of level 1.
//!
//! Both merge the same local files, which upstream made. Ours does nothing else, as
//! a program of its own. Upstream merges inside its daemon, soon after the start;
//! its cost is taken from the moment the level's directory appears to the log line
//! that says it is done. Both results must be the same to the byte.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use litestream_testkit::program::Program;
use litestream_testkit::scenario;
use litestream_testkit::usage::{self, Usage, measure};
use rusqlite::Connection;

use crate::dataset;
use crate::report::{Metric, Report, Target, Unit, mebibytes};
use crate::stage::{Stage, Tool, build_example, digest, meta_dir, remove, settle, url};

const CPU: Metric = Metric { name: "cpu", unit: Unit::Seconds, targets: &[Target::UpstreamDividedBy(2.0)] };
const WALL: Metric = Metric { name: "wall", unit: Unit::Seconds, targets: &[] };
const RSS: Metric = Metric { name: "peak memory", unit: Unit::Mebibytes, targets: &[Target::AtMost(64.0)] };

const DELTAS: u64 = 20;
const ROWS_PER_DELTA: usize = 500;

/// Adds the rows of this scenario.
pub(crate) fn run(stage: &Stage, report: &mut Report) -> Result<()> {
    let merge = Program::new(build_example("ltx", "merge")?);
    let scene = Scene::prepare(stage)?;
    for round in 0..stage.rounds {
        for tool in Stage::order(round) {
            settle();
            let usage = match tool {
                Tool::Ours => scene.ours(&merge)?,
                Tool::Upstream => scene.upstream(stage)?,
            };
            eprintln!(
                "  {} in {:.2} s, {:.2} s of processor",
                tool.name(),
                usage.wall.as_secs_f64(),
                usage.cpu.as_secs_f64()
            );
            report.add("compact", CPU, tool.name(), usage.cpu.as_secs_f64());
            report.add("compact", WALL, tool.name(), usage.wall.as_secs_f64());
            report.add("compact", RSS, tool.name(), mebibytes(usage.peak_rss));
        }
        let same = digest(&scene.output)? == digest(&scene.upstreams_output)?;
        report.check("compact: our file equals upstream's", same);
    }
    remove(&scene.dir)
}

/// A database, its replica and local state as upstream left them.
struct Scene {
    dir: PathBuf,
    /// Keeps SQLite from cleaning up behind the last connection.
    _connection: Connection,
    /// Of level 0, oldest first.
    inputs: Vec<PathBuf>,
    output: PathBuf,
    upstreams_output: PathBuf,
}

impl Scene {
    fn prepare(stage: &Stage) -> Result<Self> {
        let dir = stage.fresh_dir("compact")?;
        let made = dir.join("made");
        fs::create_dir(&made)?;
        let (db, replica) = (made.join("app.db"), url(&made.join("replica")));
        stage.copy_dataset(&db)?;
        eprintln!("  upstream makes the inputs");
        let upstream = stage.program(Tool::Upstream);
        let connection = scenario::quiet_connection(&db)?;
        upstream.replicate_once(&db, &replica)?;
        for seed in 0..DELTAS {
            dataset::update(&connection, &mut Rng::with_seed(seed), ROWS_PER_DELTA)?;
            upstream.replicate_once(&db, &replica)?;
        }
        // The daemon would otherwise begin with a snapshot.
        let snapshot = ["replicate", "-once", "-force-snapshot"].map(OsStr::new);
        upstream.run(snapshot.into_iter().chain([db.as_os_str(), OsStr::new(&replica)]))?.success()?;

        let level_0 = fs::read_dir(meta_dir(&db).join("ltx/0"))?;
        let mut inputs: Vec<PathBuf> = level_0.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        inputs.sort();
        let name = |path: Option<&PathBuf>| path.and_then(|path| path.file_name()?.to_str()).map(str::to_owned);
        let (first, last) = (name(inputs.first()).context("no inputs")?, name(inputs.last()).context("no inputs")?);
        let (min, max) = (first.split('-').next().unwrap_or_default(), last.split('-').next_back().unwrap_or_default());
        let upstreams_output = dir.join(format!("run/replica/ltx/1/{min}-{max}"));
        Ok(Self { output: dir.join("ours.ltx"), dir, _connection: connection, inputs, upstreams_output })
    }

    fn ours(&self, merge: &Program) -> Result<Usage> {
        let args = [&self.output].into_iter().chain(&self.inputs).map(|path| OsString::from(path.as_os_str()));
        measure(merge, args, &self.dir.join("merge.log"), || {})
    }

    /// Starts upstream's daemon on a copy of everything.
    fn upstream(&self, stage: &Stage) -> Result<Usage> {
        let run = self.dir.join("run");
        remove(&run)?;
        // By a child: this process must not open the files of a live database.
        let status = Command::new("cp").arg("-a").arg(self.dir.join("made")).arg(&run).status()?;
        ensure!(status.success(), "copy the scene: {status}");
        settle();
        let config = self.dir.join("litestream.yml");
        let (db, replica) = (run.join("app.db"), url(&run.join("replica")));
        let text = format!(
            "levels: [{{interval: 1h}}]\nl0-retention: 0s\ndbs: [{{path: {}, replica: {{url: '{replica}'}}}}]\n",
            db.display()
        );
        fs::write(&config, text)?;

        let mut daemon = stage.program(Tool::Upstream).replicate(&config, &self.dir.join("daemon.log"))?;
        let cpu = |id| usage::cpu(id).context("read processor time");
        let limit = Instant::now() + Duration::from_secs(60);
        while !run.join("replica/ltx/1").exists() {
            ensure!(Instant::now() < limit, "upstream does not merge; its log:\n{}", daemon.log());
            thread::sleep(Duration::from_millis(1));
        }
        let (start, cpu_before) = (Instant::now(), cpu(daemon.id())?);
        daemon.wait_for_log("compaction complete", Duration::from_secs(600))?;
        let usage = Usage {
            wall: start.elapsed(),
            cpu: cpu(daemon.id())?.saturating_sub(cpu_before),
            peak_rss: usage::peak_rss(daemon.id()).context("read peak memory")?,
        };
        ensure!(self.upstreams_output.exists(), "upstream merged something else; its log:\n{}", daemon.log());
        drop(daemon);
        Ok(usage)
    }
}
