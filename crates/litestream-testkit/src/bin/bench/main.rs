//! Our binary and upstream's side by side on this machine.
//!
//! `cargo run --release -p litestream-testkit --bin bench -- [options] [scenario…]`
//!
//! Rounds are interleaved and the order alternates, so that a slow minute of the
//! machine hits both. A figure counts only when the work was really done: every
//! restored database and every replica is compared with its source.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command that prints")]

mod arguments;
mod compact;
mod dataset;
mod lag;
mod many;
mod once;
mod report;
mod restore;
mod stage;
mod write;

use std::process::ExitCode;

use anyhow::Result;

use crate::arguments::{Arguments, Command};
use crate::report::Report;
use crate::stage::Stage;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let arguments = match arguments::parse(std::env::args_os().skip(1))? {
        Command::Bench(arguments) => arguments,
        Command::Writer { db, synchronous, duration } => {
            write::full_speed_writer(&db, &synchronous, duration)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Help => {
            println!("{}", arguments::USAGE);
            return Ok(ExitCode::SUCCESS);
        }
    };
    let stage = Stage::set_up(&arguments)?;
    let mut report = Report::default();
    for scenario in &arguments.scenarios {
        eprintln!("scenario {scenario}");
        match scenario.as_str() {
            "restore" => restore::run(&stage, &mut report)?,
            "once" => once::run(&stage, &mut report)?,
            "lag" => lag::run(&stage, &mut report)?,
            "many" => many::run(&stage, &mut report)?,
            "compact" => compact::run(&stage, &mut report)?,
            "write" => write::run(&stage, &mut report, "write", "normal")?,
            _ => write::run(&stage, &mut report, "write-full", "full")?,
        }
    }
    print_report(&arguments, &stage, &report)?;
    // A missed target is a figure; a wrong database is a failure.
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_report(arguments: &Arguments, stage: &Stage, report: &Report) -> Result<()> {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report.to_json(stage))?);
    } else {
        println!("{}\n\n{}", stage.describe(), report.to_table());
    }
    Ok(())
}
