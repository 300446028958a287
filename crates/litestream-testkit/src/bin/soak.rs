//! `soak LITESTREAM [SECONDS [SEED [REPETITIONS]]]`: runs
//! [`soak`](litestream_testkit::soak) with upstream's binary as second reader.
//!
//! A failure prints its seed; the same seed repeats schema, settings and mishaps,
//! though not the interleaving of threads.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints")]

use std::time::Duration;

use anyhow::{Context, Result};
use litestream_testkit::program::Program;
use litestream_testkit::soak::Soak;
use litestream_testkit::upstream;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let program = arguments.first().context("usage: soak LITESTREAM [SECONDS [SEED [REPETITIONS]]]")?;
    let number = |index: usize| arguments.get(index).map(|text| text.parse::<u64>()).transpose();
    let duration = Duration::from_secs(number(1)?.unwrap_or(30));
    let first_seed = number(2)?.unwrap_or_else(|| fastrand::u64(..1 << 32));
    for seed in first_seed..first_seed + number(3)?.unwrap_or(1) {
        let program = Program::new(std::fs::canonicalize(program)?);
        let summary = Soak { program, judge: upstream::litestream(), seed, duration }.run()?;
        println!("seed {seed}: {summary:?}");
    }
    Ok(())
}
