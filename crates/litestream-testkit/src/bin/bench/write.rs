//! `write` and `write-full`: an application that commits small transactions as
//! fast as it can, without a replicator, with upstream's, with ours.
//!
//! With `synchronous = normal` a commit waits for no disk, and what shows is the
//! cost of checkpoints and locks; with `full` every commit waits for the disk,
//! and what shows is how much of the disk the replicator takes.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use litestream_testkit::daemon::Daemon;
use litestream_testkit::spawn::spawn;
use litestream_testkit::usage;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::report::{Metric, Report, Target, Unit, mebibytes, quantile};
use crate::stage::{Stage, Tool, settle, url};

const RATE: Metric = Metric { name: "commits", unit: Unit::PerSecond, targets: &[] };
const P50: Metric = Metric { name: "commit, p50", unit: Unit::Milliseconds, targets: &[] };
const P99: Metric = Metric { name: "commit, p99", unit: Unit::Milliseconds, targets: &[] };
const STALL: Metric = Metric {
    name: "commit, longest",
    unit: Unit::Milliseconds,
    targets: &[Target::NoneTimes(2.0), Target::UpstreamDividedBy(5.0)],
};
const WAL: Metric = Metric { name: "WAL, largest", unit: Unit::Mebibytes, targets: &[Target::AtMost(64.0)] };
const CPU: Metric =
    Metric { name: "cpu per 1000 commits", unit: Unit::Milliseconds, targets: &[Target::UpstreamDividedBy(1.0)] };
const RSS: Metric = Metric { name: "peak memory", unit: Unit::Mebibytes, targets: &[] };

/// Adds the rows of this scenario.
pub(crate) fn run(stage: &Stage, report: &mut Report, scenario: &str, synchronous: &str) -> Result<()> {
    for round in 0..stage.rounds {
        let [first, second] = Stage::order(round);
        let mut order = [None, Some(first), Some(second)];
        order.rotate_left(round % 3);
        for tool in order {
            run_one(stage, report, scenario, synchronous, tool)?;
        }
    }
    Ok(())
}

fn run_one(stage: &Stage, report: &mut Report, scenario: &str, synchronous: &str, tool: Option<Tool>) -> Result<()> {
    let dir = stage.fresh_dir("write")?;
    let (db, replica) = (dir.join("app.db"), dir.join("replica"));
    drop(prepare(&db, synchronous)?);
    let name = tool.map_or("none", Tool::name);
    let daemon = match tool {
        None => None,
        Some(tool) => {
            let args = ["replicate".into(), OsString::from(&db), url(&replica).into()];
            let daemon = stage.program(tool).daemon(args, &dir.join("log"))?;
            wait_for_files(&replica.join("ltx/0"), &daemon)?;
            Some(daemon)
        }
    };
    settle();
    let cpu_before = daemon.as_ref().and_then(|daemon| usage::cpu(daemon.id()));
    let (result, wal_len, peak_rss) = write_and_watch(stage, &db, synchronous, daemon.as_ref())?;
    let figure = |key: &str| result.get(key).and_then(Value::as_f64).with_context(|| format!("writer gave no {key}"));
    let commits = figure("commits")?;
    let rate = commits / figure("seconds")?;
    report.add(scenario, RATE, name, rate);
    report.add(scenario, P50, name, figure("p50_ms")?);
    report.add(scenario, P99, name, figure("p99_ms")?);
    report.add(scenario, STALL, name, figure("max_ms")?);
    report.add(scenario, WAL, name, mebibytes(wal_len));
    eprintln!("  {name}: {rate:.0} commits/s, longest {:.1} ms", figure("max_ms")?);
    if let Some(daemon) = daemon {
        let (cpu, rss) = drain(&daemon, &replica)?;
        let cpu = cpu.saturating_sub(cpu_before.context("daemon's processor time")?);
        report.add(scenario, CPU, name, cpu.as_secs_f64() * 1e3 / (commits / 1e3));
        report.add(scenario, RSS, name, mebibytes(peak_rss.max(rss)));
        daemon.terminate(Duration::from_secs(60))?;
        report.check(&format!("{scenario}: replica of {name}"), stage.is_complete(&db, &replica)?);
    }
    Ok(())
}

/// Runs the writer as a process of its own. Returns its figures, the largest WAL
/// seen, and the daemon's peak memory.
fn write_and_watch(stage: &Stage, db: &Path, synchronous: &str, daemon: Option<&Daemon>) -> Result<(Value, u64, u64)> {
    let output = stage.dir.join("write/result.json");
    let file = fs::File::create(&output)?;
    let seconds = stage.write_duration.as_secs().to_string();
    let mut writer = spawn(&std::env::current_exe()?, |command| {
        command.arg("-writer").arg(db).arg(synchronous).arg(seconds).stdin(Stdio::null()).stdout(file);
    })?;
    let mut wal = db.as_os_str().to_owned();
    wal.push("-wal");
    let (mut wal_len, mut peak_rss) = (0, 0);
    let status = loop {
        wal_len = wal_len.max(fs::metadata(&wal).map_or(0, |metadata| metadata.len()));
        peak_rss = peak_rss.max(daemon.and_then(|daemon| usage::peak_rss(daemon.id())).unwrap_or(0));
        if let Some(status) = writer.try_wait()? {
            break status;
        }
        thread::sleep(Duration::from_millis(10));
    };
    ensure!(status.success(), "writer: {status}");
    Ok((serde_json::from_slice(&fs::read(&output)?)?, wal_len, peak_rss))
}

/// Waits until the replica has not grown for two seconds; what the daemon does
/// after the writer has ended is part of its cost. Returns processor time and
/// peak memory.
fn drain(daemon: &Daemon, replica: &Path) -> Result<(Duration, u64)> {
    let (start, mut changed, mut len) = (Instant::now(), Instant::now(), 0);
    while changed.elapsed() < Duration::from_secs(2) && start.elapsed() < Duration::from_secs(60) {
        let len_now = usage::dir_len(&replica.join("ltx/0"));
        if len_now != len {
            (changed, len) = (Instant::now(), len_now);
        }
        thread::sleep(Duration::from_millis(50));
    }
    let cpu = usage::cpu(daemon.id()).context("the daemon has ended")?;
    Ok((cpu, usage::peak_rss(daemon.id()).unwrap_or(0)))
}

fn wait_for_files(dir: &Path, daemon: &Daemon) -> Result<()> {
    let start = Instant::now();
    while usage::dir_len(dir) == 0 {
        ensure!(start.elapsed() < Duration::from_secs(30), "no replica within 30 s; log:\n{}", daemon.log());
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn prepare(db: &Path, synchronous: &str) -> Result<Connection> {
    let connection = Connection::open(db)?;
    connection.busy_timeout(Duration::from_secs(60))?;
    // SQLite's own default for automatic checkpoints: 1000 pages.
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = wal; PRAGMA synchronous = {synchronous};
         CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, at INT, body BLOB)"
    ))?;
    Ok(connection)
}

/// The writing process: commits for `duration` and prints what it saw as JSON.
pub(crate) fn full_speed_writer(db: &Path, synchronous: &str, duration: Duration) -> Result<()> {
    let connection = prepare(db, synchronous)?;
    let mut insert = connection.prepare("INSERT INTO entry (at, body) VALUES (?, ?)")?;
    let mut update = connection.prepare("UPDATE entry SET at = at + 1 WHERE id = ?")?;
    let (mut begin, mut commit) = (connection.prepare("BEGIN IMMEDIATE")?, connection.prepare("COMMIT")?);
    let mut rng = Rng::with_seed(3);
    let mut stalls = Vec::with_capacity(1 << 20);
    let start = Instant::now();
    while start.elapsed() < duration {
        let mut body = vec![0; rng.usize(50..250)];
        rng.fill(&mut body);
        let older = rng.i64(1..=i64::try_from(stalls.len())? + 1);
        let begun = Instant::now();
        begin.execute([])?;
        insert.execute((i64::try_from(stalls.len())?, &body))?;
        update.execute([older])?;
        commit.execute([])?;
        stalls.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let result = json!({
        "seconds": start.elapsed().as_secs_f64(),
        "commits": stalls.len(),
        "p50_ms": quantile(&stalls, 0.5),
        "p99_ms": quantile(&stalls, 0.99),
        "max_ms": quantile(&stalls, 1.0),
    });
    println!("{result}");
    Ok(())
}
