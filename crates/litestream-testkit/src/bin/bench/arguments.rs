//! The command line of the benchmark.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// What `-help` prints.
pub(crate) const USAGE: &str = "\
usage: bench [options] [restore] [once] [lag] [compact] [many] [write] [write-full]

  -rounds N          rounds of each scenario (default 5)
  -size BYTES        database of restore, once and compact: 1073741824, 256MiB, 1GiB (default 1GiB)
  -seconds N         duration of each write run (default 15)
  -databases N       databases of many, which has one round (default 1000)
  -idle N            seconds for which many watches idle processes (default 60)
  -litestream PATH   our binary (default: built by cargo into target/release)
  -upstream PATH     the other one (default: the released 0.5.17, installed)
  -dir DIR           where to work; wants five times the size (default: target/bench)
  -json              every sample as JSON on standard output instead of the table

All scenarios run when none is named. Exit status 1: a database came out wrong.";

/// What to do.
pub(crate) enum Command {
    Bench(Arguments),
    /// The writing child of the `write` scenario.
    Writer {
        db: PathBuf,
        synchronous: String,
        duration: Duration,
    },
    Help,
}

/// Options of a benchmark run.
pub(crate) struct Arguments {
    pub(crate) scenarios: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) size: u64,
    pub(crate) write_duration: Duration,
    pub(crate) databases: usize,
    pub(crate) idle_duration: Duration,
    pub(crate) litestream: Option<PathBuf>,
    pub(crate) upstream: Option<PathBuf>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) json: bool,
}

/// Reads the command line, Go's way: one dash or two.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Command> {
    let mut arguments = Arguments {
        scenarios: Vec::new(),
        rounds: 5,
        size: 1 << 30,
        write_duration: Duration::from_secs(15),
        databases: 1_000,
        idle_duration: Duration::from_secs(60),
        litestream: None,
        upstream: None,
        dir: None,
        json: false,
    };
    let mut words = words;
    while let Some(word) = words.next() {
        let word = word.to_string_lossy().into_owned();
        let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match flag {
            Some("rounds") => arguments.rounds = value()?.to_string_lossy().parse().context("-rounds")?,
            Some("size") => arguments.size = bytes(&value()?.to_string_lossy()).context("-size")?,
            Some("seconds") => {
                arguments.write_duration = Duration::from_secs(value()?.to_string_lossy().parse().context("-seconds")?);
            }
            Some("databases") => arguments.databases = value()?.to_string_lossy().parse().context("-databases")?,
            Some("idle") => {
                arguments.idle_duration = Duration::from_secs(value()?.to_string_lossy().parse().context("-idle")?);
            }
            Some("litestream") => arguments.litestream = Some(value()?.into()),
            Some("upstream") => arguments.upstream = Some(value()?.into()),
            Some("dir") => arguments.dir = Some(value()?.into()),
            Some("json") => arguments.json = true,
            Some("writer") => {
                let db = value()?.into();
                let synchronous = value()?.to_string_lossy().into_owned();
                let duration = Duration::from_secs(value()?.to_string_lossy().parse()?);
                return Ok(Command::Writer { db, synchronous, duration });
            }
            Some("help" | "h") => return Ok(Command::Help),
            Some(_) => bail!("unknown option {word}\n{USAGE}"),
            None if SCENARIOS.contains(&word.as_str()) => arguments.scenarios.push(word),
            None => bail!("unknown scenario {word}\n{USAGE}"),
        }
    }
    ensure!(arguments.rounds > 0, "-rounds must be at least 1");
    ensure!(arguments.databases > 0, "-databases must be at least 1");
    if arguments.scenarios.is_empty() {
        arguments.scenarios = SCENARIOS.map(str::to_owned).to_vec();
    }
    Ok(Command::Bench(arguments))
}

const SCENARIOS: [&str; 7] = ["restore", "once", "lag", "compact", "many", "write", "write-full"];

fn bytes(text: &str) -> Result<u64> {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<u64>()? << shift);
        }
    }
    Ok(text.parse()?)
}
