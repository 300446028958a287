//! Help, generated from the command table.

use std::fmt::Write;

use crate::commands::{COMMANDS, CommandSpec};
use crate::config;
use crate::environment::Environment;

/// What `litestream help` prints.
pub(crate) fn overview() -> String {
    let mut text = String::from(
        "litestream is a tool for replicating SQLite databases.\n\nUsage:\n\n\tlitestream <command> [arguments]\n\nThe commands are:\n\n",
    );
    let listed = || COMMANDS.iter().filter(|command| !command.hidden);
    let width = listed().map(|command| command.name.len()).max().unwrap_or(0);
    for command in listed() {
        let _ = writeln!(text, "\t{:width$}  {}", command.name, command.summary);
    }
    text.push_str("\nRun \"litestream <command> -h\" for the arguments of a command.\n");
    text
}

/// What `litestream COMMAND -h` prints.
pub(crate) fn command(command: &CommandSpec, environment: &Environment) -> String {
    let mut text = format!("{}\n\nUsage:\n", command.about);
    for positionals in command.positionals {
        let line = format!("litestream {} [arguments] {positionals}", command.name);
        let _ = write!(text, "\n\t{}\n", line.trim_end());
    }
    if !command.flags.is_empty() {
        text.push_str("\nArguments:\n");
    }
    for flag in command.flags {
        let _ = write!(text, "\n\t{}\n", format!("-{} {}", flag.name, flag.value).trim_end());
        for line in flag.help.lines() {
            let _ = writeln!(text, "\t    {line}");
        }
        if !flag.default.is_empty() {
            let default = flag.default.replace("{config}", &config::default_path(environment));
            let _ = writeln!(text, "\t    Defaults to {default}");
        }
    }
    if !command.notes.is_empty() {
        let _ = write!(text, "\n{}\n", command.notes);
    }
    if !command.examples.is_empty() {
        text.push_str("\nExamples:\n");
        for (comment, line) in command.examples {
            text.push('\n');
            if !comment.is_empty() {
                let _ = writeln!(text, "\t# {comment}");
            }
            let _ = writeln!(text, "\t$ {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands;

    #[test]
    fn the_overview_lists_what_works_and_hides_aliases() {
        let text = overview();
        let starts = |start: &str| text.lines().filter(|line| line.trim_start().starts_with(start)).count();
        assert_eq!((starts("replicate "), starts("ltx ")), (1, 1), "{text}");
        assert!(!text.contains("\twal "), "{text}");
    }

    #[test]
    fn command_help_shows_the_config_path_in_effect() {
        let environment = Environment::new([("LITESTREAM_CONFIG".into(), "/x.yml".into())]);
        let text = super::command(commands::find("status").unwrap(), &environment);
        assert!(
            text.contains("\t-config PATH\n\t    Specifies the configuration file.\n\t    Defaults to /x.yml\n"),
            "{text}"
        );
        assert!(text.contains("Usage:\n\n\tlitestream status [arguments] [DB_PATH]\n"), "{text}");
    }
}
