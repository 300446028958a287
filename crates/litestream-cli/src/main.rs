//! The `litestream` command.
//!
//! Finds the command, reads its arguments, runs it, and turns its result into
//! output and exit code. Everything a command decides stands in its own file
//! under `commands/`.
//!
//! Spec: docs/commands.md.

#![forbid(unsafe_code)]

use std::process::ExitCode;

mod arguments;
mod commands;
mod config;
mod control;
mod daemon;
mod descriptors;
mod directory;
mod environment;
mod exec;
mod failure;
#[cfg(test)]
mod fuzz;
mod heartbeat;
mod logging;
mod notify;
mod observe;
mod onlookers;
mod output;
mod retention;
mod signals;
mod source;
mod timestamp;
mod units;

use arguments::{HELP_WORDS, Request};
use commands::{COMMANDS, Invocation, help};
use environment::Environment;
use failure::Failure;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let words = words()?;
    let name = words.first().map_or("", String::as_str);
    if name == "help" || HELP_WORDS.contains(&name) {
        output::print(&help::overview())?;
        return Ok(ExitCode::SUCCESS);
    }
    if name.is_empty() || name.starts_with('-') {
        output::print(&help::overview())?;
        return Ok(ExitCode::FAILURE);
    }
    let Some(command) = commands::find(name) else {
        return Err(unknown_command(name).into());
    };
    let environment = Environment::from_process();
    let arguments = match arguments::parse(command, words.get(1..).unwrap_or_default()) {
        Ok(Request::Run(arguments)) => arguments,
        Ok(Request::Help) => {
            output::print(&help::command(command, &environment))?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            let mut failure = Failure::new(error.message);
            if let Some(suggestion) = error.suggestion {
                failure = failure.hint(format!("Did you mean {suggestion}?"));
            }
            return Err(failure.hint(format!("Run \"litestream {name} -h\" for usage.")).into());
        }
    };
    (command.run)(Invocation { name: command.name, arguments, environment })
}

/// The command line without the program's name.
fn words() -> anyhow::Result<Vec<String>> {
    std::env::args_os()
        .skip(1)
        .map(|word| {
            word.into_string()
                .map_err(|word| Failure::new(format!("argument is not valid UTF-8: {}", word.to_string_lossy())).into())
        })
        .collect()
}

fn unknown_command(name: &str) -> Failure {
    let failure = Failure::new(format!("litestream {name}: unknown command"));
    let listed = COMMANDS.iter().filter(|command| !command.hidden).map(|command| command.name);
    match output::nearest(name, listed) {
        Some(near) => failure.hint(format!("Did you mean \"litestream {near}\"?")),
        None => failure.hint("Run \"litestream help\" for the list of commands."),
    }
}

/// Prints an error with its causes, and what may be done about it.
fn report(error: &anyhow::Error) -> ExitCode {
    output::note(&format!("Error: {error:#}"));
    let Some(failure) = error.downcast_ref::<Failure>() else { return ExitCode::FAILURE };
    for hint in failure.hints() {
        output::note(hint);
    }
    ExitCode::from(failure.exit_code())
}
