//! `many`: hundreds of small databases of one directory, first while all are new,
//! then while nobody writes to any of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use litestream_testkit::daemon::Daemon;
use litestream_testkit::image::checkpointed_copy;
use litestream_testkit::scenario;
use litestream_testkit::usage;

use crate::report::{Metric, Report, Target, Unit, mebibytes};
use crate::stage::{Stage, Tool, remove, settle};

const READY: Metric =
    Metric { name: "all replicated", unit: Unit::Seconds, targets: &[Target::UpstreamDividedBy(1.0)] };
const START_CPU: Metric = Metric { name: "cpu until then", unit: Unit::Seconds, targets: &[] };
const PEAK: Metric = Metric { name: "peak memory", unit: Unit::Mebibytes, targets: &[] };
const RSS: Metric = Metric { name: "memory, idle", unit: Unit::Mebibytes, targets: &[Target::AtMost(100.0)] };
const CPU: Metric = Metric { name: "of a core, idle", unit: Unit::Percent, targets: &[Target::AtMost(0.5)] };
const FILES: Metric = Metric { name: "descriptors, idle", unit: Unit::Count, targets: &[] };
const THREADS: Metric = Metric { name: "threads, idle", unit: Unit::Count, targets: &[] };
const STOP: Metric = Metric { name: "stop", unit: Unit::Seconds, targets: &[] };

/// Adds the rows of this scenario. One round: what it measures hardly varies.
pub(crate) fn run(stage: &Stage, report: &mut Report) -> Result<()> {
    for tool in Stage::order(0) {
        let dir = stage.fresh_dir("many")?;
        let result = measure(stage, report, tool, &dir);
        if let Err(error) = &result {
            eprintln!("  {}: {error:#}", tool.name());
        }
        report.check(&format!("many: {}", tool.name()), result.is_ok());
        remove(&dir)?;
    }
    Ok(())
}

fn measure(stage: &Stage, report: &mut Report, tool: Tool, dir: &Path) -> Result<()> {
    let databases = make(&dir.join("data"), stage.databases)?;
    let replica = dir.join("replica");
    let config = dir.join("litestream.yml");
    fs::write(
        &config,
        format!(
            "dbs:\n  - dir: {}\n    pattern: '*.db'\n    watch: true\n    replica:\n      type: file\n      path: {}\n",
            dir.join("data").display(),
            replica.display()
        ),
    )?;
    settle();
    let start = Instant::now();
    let mut daemon = stage.program(tool).replicate(&config, &dir.join("log"))?;
    let mut waiting: Vec<PathBuf> = databases.iter().map(|db| level_0(&replica, db)).collect();
    let limit = Duration::from_secs(60) + Duration::from_millis(200) * u32::try_from(stage.databases)?;
    while !waiting.is_empty() {
        waiting.retain(|dir| !has_file(dir));
        if let Some(status) = daemon.status()? {
            bail!("ended ({status}); log:\n{}", tail(&daemon));
        }
        if start.elapsed() > limit {
            bail!("{} databases not replicated after {limit:?}; log:\n{}", waiting.len(), tail(&daemon));
        }
        thread::sleep(Duration::from_millis(50));
    }
    let (id, name) = (daemon.id(), tool.name());
    let ready = start.elapsed().as_secs_f64();
    let gone = "the process is gone";
    report.add("many", READY, name, ready);
    report.add("many", START_CPU, name, usage::cpu(id).context(gone)?.as_secs_f64());

    // The first compaction belongs to the start as well.
    thread::sleep(AFTERMATH);
    let before = (Instant::now(), usage::cpu(id).context(gone)?);
    thread::sleep(stage.idle_duration);
    let spent = usage::cpu(id).context(gone)?.saturating_sub(before.1);
    let share = 100.0 * spent.as_secs_f64() / before.0.elapsed().as_secs_f64();
    let (rss, files) = (usage::rss(id).context(gone)?, usage::open_files(id).context(gone)?);
    report.add("many", PEAK, name, mebibytes(usage::peak_rss(id).context(gone)?));
    report.add("many", RSS, name, mebibytes(rss));
    report.add("many", CPU, name, share);
    report.add("many", FILES, name, f64::from(files));
    report.add("many", THREADS, name, f64::from(usage::threads(id).context(gone)?));
    eprintln!("  {name}: ready in {ready:.1} s, then {:.1} MiB, {share:.2} %, {files} descriptors", mebibytes(rss));

    for (index, db) in sample(&databases) {
        let connection = scenario::quiet_connection(db)?;
        scenario::commit(&connection, 1).with_context(|| format!("write to database {index}"))?;
    }
    let start = Instant::now();
    let status = daemon.terminate(limit)?;
    report.add("many", STOP, name, start.elapsed().as_secs_f64());
    if !status.success() {
        eprintln!("  {name}: exit status {status}");
    }
    for (_, db) in sample(&databases) {
        let replica = replica.join(db.file_name().unwrap_or_default());
        report.check(&format!("many: replica of {name}, {}", db.display()), stage.is_complete(db, &replica)?);
    }
    Ok(())
}

/// Copies of one small database in WAL mode, closed.
fn make(dir: &Path, count: usize) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let (source, closed) = (dir.join("source"), dir.join("closed"));
    let connection = scenario::quiet_connection(&source)?;
    scenario::commit(&connection, 50)?;
    drop(connection);
    checkpointed_copy(&source, &closed)?;
    let paths: Vec<PathBuf> = (0..count).map(|index| dir.join(format!("tenant-{index:05}.db"))).collect();
    for path in &paths {
        fs::copy(&closed, path)?;
    }
    remove(&source)?;
    remove(&closed)?;
    Ok(paths)
}

/// A few databases from the whole range, with their places in it.
fn sample(databases: &[PathBuf]) -> impl Iterator<Item = (usize, &PathBuf)> {
    databases.iter().enumerate().step_by(databases.len().div_ceil(SAMPLES))
}

fn level_0(replica: &Path, db: &Path) -> PathBuf {
    replica.join(db.file_name().unwrap_or_default()).join("ltx/0")
}

fn has_file(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| path.extension().is_some_and(|extension| extension == "ltx"))
}

fn tail(daemon: &Daemon) -> String {
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}

/// Databases that are written to and restored at the end.
const SAMPLES: usize = 10;
/// Longer than the shortest compaction interval.
const AFTERMATH: Duration = Duration::from_secs(45);
