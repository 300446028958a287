//! `cargo xtask sim`: runs the simulation.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use litestream_sim::{Options, run, run_many};

const USAGE: &str = "\
usage: cargo xtask sim [--seed N | --seeds A..B] [--hours H] [--minutes M] [--threads T] [--keep-going] [--verbose] [--twice]

  --seed N      one seed, told step by step with --verbose
  --seeds A..B  many seeds (default 0..2000)
  --hours H     each run lasts at least so many simulated hours
  --minutes M   begin no seed after so many minutes of machine time
  --threads T   seeds at once (default: one for each core)
  --keep-going  go on behind a violation
  --twice       run each seed twice and compare the traces";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((task, rest)) if task == "sim" => match Request::parse(rest) {
            Ok(request) => request.carry_out(),
            Err(problem) => {
                eprintln!("{problem}\n{USAGE}");
                ExitCode::from(2)
            }
        },
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

struct Request {
    seeds: Range<u64>,
    options: Options,
    minutes: Option<f64>,
    threads: usize,
    keeps_going: bool,
    is_twice: bool,
}

impl Request {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut request = Self {
            seeds: 0..2000,
            options: Options::default(),
            minutes: None,
            threads,
            keeps_going: false,
            is_twice: false,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--seed" => {
                    let seed: u64 = number(value()?)?;
                    request.seeds = seed..seed + 1;
                }
                "--seeds" => {
                    let (first, end) = value()?.split_once("..").ok_or("--seeds takes A..B")?;
                    request.seeds = number(first)?..number(end)?;
                }
                "--hours" => request.options.at_least = Duration::from_secs_f64(number::<f64>(value()?)? * 3600.0),
                "--minutes" => request.minutes = Some(number(value()?)?),
                "--threads" => request.threads = number(value()?)?,
                "--keep-going" => request.keeps_going = true,
                "--verbose" => request.options.is_verbose = true,
                "--twice" => request.is_twice = true,
                _ => return Err(format!("unknown argument {argument}")),
            }
        }
        Ok(request)
    }

    fn carry_out(&self) -> ExitCode {
        let began = Instant::now();
        let violations = AtomicU64::new(0);
        let tally = run_many(self.seeds.clone(), &self.options, self.threads, |outcome| {
            let mut violation = outcome.violation.clone();
            if self.is_twice {
                let again = run(outcome.seed, &self.options);
                if again.trace != outcome.trace {
                    violation.get_or_insert_with(|| "two runs took different ways".to_owned());
                }
            }
            if self.seeds.end - self.seeds.start == 1 {
                println!("seed {} trace {:016x}", outcome.seed, outcome.trace);
            }
            if let Some(violation) = violation {
                violations.fetch_add(1, Ordering::SeqCst);
                println!(
                    "seed {}: VIOLATION: {violation}\n  again with: cargo xtask sim --seed {} --verbose",
                    outcome.seed, outcome.seed
                );
                return self.keeps_going;
            }
            self.minutes.is_none_or(|minutes| began.elapsed().as_secs_f64() < minutes * 60.0)
        });
        let violations = violations.into_inner();
        println!("{tally}; {violations} violations; {:.1} s of machine time", began.elapsed().as_secs_f64());
        if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}
