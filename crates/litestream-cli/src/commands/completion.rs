//! `litestream completion`: scripts that let a shell complete command lines.
//!
//! Made from the command table, so that a flag is completed as soon as it
//! exists. The scripts know names only and never run the program: completing a
//! line must not read a configuration or ask a store.
//!
//! Spec: docs/commands.md, "completion".

use std::fmt::Write;
use std::process::ExitCode;

use crate::commands::{COMMANDS, CommandSpec, FlagKind, FlagSpec, Invocation};
use crate::failure::{Failure, fail};
use crate::output;

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "completion",
    summary: "print a script that completes command lines in a shell",
    about: "The completion command prints a script for bash, zsh or fish that completes\ncommands, flags and file names.",
    positionals: &["bash|zsh|fish"],
    flags: &[],
    notes: "",
    examples: &[
        ("For bash, in ~/.bashrc.", "source <(litestream completion bash)"),
        (
            "For zsh, in a directory of $fpath.",
            "litestream completion zsh > /usr/local/share/zsh/site-functions/_litestream",
        ),
        ("For fish.", "litestream completion fish > ~/.config/fish/completions/litestream.fish"),
    ],
    hidden: false,
    run,
};

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let script = match invocation.arguments.positionals.as_slice() {
        [] => return Err(Failure::new("shell required").try_line("litestream completion bash").into()),
        [shell] => match shell.as_str() {
            "bash" => bash(),
            "zsh" => zsh(),
            "fish" => fish(),
            other => return fail(format!("unknown shell: {other} (known are bash, zsh and fish)")),
        },
        _ => return fail("too many arguments"),
    };
    output::print(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// What may follow a flag, or stand as an argument.
enum Words {
    /// Names of files.
    Files,
    /// One of a few words.
    Choice(Vec<String>),
    /// Nothing that could be known.
    Unknown,
}

impl Words {
    fn after(flag: &FlagSpec) -> Self {
        if flag.kind == FlagKind::Level {
            return Self::Choice(std::iter::once("all".to_owned()).chain((0..=9).map(|n| n.to_string())).collect());
        }
        // Help names the choices; there is no second list to keep up to date.
        let listed = ["one of: ", "Valid values: "].iter().find_map(|mark| flag.help.split_once(mark));
        match (listed, flag.value) {
            (Some((_, words)), _) => {
                let end = words.find(['.', '\n']).unwrap_or(words.len());
                Self::Choice(words.get(..end).unwrap_or(words).split(", ").map(str::to_owned).collect())
            }
            (None, "PATH" | "DIR" | "FILE") => Self::Files,
            (None, _) => Self::Unknown,
        }
    }

    fn of_arguments(command: &CommandSpec) -> Self {
        let forms = || command.positionals.iter().filter(|form| !form.is_empty());
        match forms().find(|form| form.contains('|') && !form.contains(' ')) {
            Some(choice) => Self::Choice(choice.trim_matches(['[', ']']).split('|').map(str::to_owned).collect()),
            None if forms().next().is_some() => Self::Files,
            None => Self::Unknown,
        }
    }
}

fn listed() -> impl Iterator<Item = &'static CommandSpec> {
    COMMANDS.into_iter().filter(|command| !command.hidden)
}

/// One line of a description.
fn summary(help: &str) -> String {
    let line = help.lines().next().unwrap_or_default();
    line.trim_end_matches('.').to_owned()
}

fn bash() -> String {
    let mut script = String::from(
        "# bash completion for litestream
_litestream() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=
    COMPREPLY=()
    if [ \"$COMP_CWORD\" -eq 1 ]; then
",
    );
    let names: Vec<&str> = listed().map(|command| command.name).chain(["help"]).collect();
    let _ = writeln!(script, "        COMPREPLY=($(compgen -W '{}' -- \"$cur\"))", names.join(" "));
    script.push_str("        return\n    fi\n    case ${COMP_WORDS[1]}:$prev in\n");
    for command in listed() {
        for flag in command.flags.iter().filter(|flag| flag.kind != FlagKind::Bool) {
            let what = match Words::after(flag) {
                Words::Files => "return".to_owned(), // the shell's own completion of files
                Words::Choice(words) => format!("words='{}'", words.join(" ")),
                Words::Unknown => "compopt +o default; return".to_owned(),
            };
            let (name, flag) = (command.name, flag.name);
            let _ = writeln!(script, "        {name}:-{flag}|{name}:--{flag}) {what} ;;");
        }
    }
    script.push_str("        *:*) case ${COMP_WORDS[1]}:$cur in\n");
    for command in listed() {
        let flags: Vec<String> =
            command.flags.iter().map(|flag| format!("-{}", flag.name)).chain(["-h".to_owned()]).collect();
        let _ = writeln!(script, "            {}:-*) words='{}' ;;", command.name, flags.join(" "));
        match Words::of_arguments(command) {
            Words::Files => {}
            Words::Choice(words) => {
                let _ = writeln!(script, "            {}:*) words='{}' ;;", command.name, words.join(" "));
            }
            Words::Unknown => {
                let _ = writeln!(script, "            {}:*) compopt +o default; return ;;", command.name);
            }
        }
    }
    script.push_str(
        "        esac ;;
    esac
    [ -z \"$words\" ] || COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))
}
complete -o default -F _litestream litestream
",
    );
    script
}

fn zsh() -> String {
    let quoted = |text: &str| text.replace('\'', "'\\''");
    // Brackets and colons end a description.
    let described = |text: &str| quoted(&summary(text)).replace('[', "(").replace(']', ")").replace(':', "\\:");
    let action = |words: Words| match words {
        Words::Files => "_files".to_owned(),
        Words::Choice(words) => format!("({})", words.join(" ")),
        Words::Unknown => " ".to_owned(),
    };
    let mut script = String::from("#compdef litestream\n\n_litestream() {\n  local -a commands=(\n");
    for command in listed() {
        let _ = writeln!(script, "    '{}:{}'", command.name, described(command.summary));
    }
    script.push_str(
        "  )
  if (( CURRENT == 2 )); then
    _describe -t commands command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
",
    );
    for command in listed() {
        let _ = writeln!(script, "    {})\n      _arguments \\", command.name);
        for flag in command.flags {
            let help = described(flag.help);
            let _ = match flag.kind {
                FlagKind::Bool => writeln!(script, "        '-{}[{help}]' \\", flag.name),
                _ => {
                    let (value, action) = (flag.value, action(Words::after(flag)));
                    writeln!(script, "        '-{}[{help}]:{value}:{action}' \\", flag.name)
                }
            };
        }
        let arguments = Words::of_arguments(command);
        match &arguments {
            Words::Unknown => script.push_str("        '-h[Print help]'\n"),
            _ => {
                let _ = writeln!(script, "        '-h[Print help]' \\\n        '*:argument:{}'", action(arguments));
            }
        }
        script.push_str("      ;;\n");
    }
    script.push_str(
        "  esac
}

if [ \"$funcstack[1]\" = _litestream ]; then
  _litestream \"$@\"
else
  compdef _litestream litestream
fi
",
    );
    script
}

fn fish() -> String {
    let quoted = |text: &str| summary(text).replace('\\', "\\\\").replace('\'', "\\'");
    let mut script = String::from("# fish completion for litestream\n");
    for command in listed() {
        let (name, help) = (command.name, quoted(command.summary));
        let _ = writeln!(script, "complete -c litestream -f -n __fish_use_subcommand -a {name} -d '{help}'");
    }
    for command in listed() {
        let when = format!("complete -c litestream -n '__fish_seen_subcommand_from {}'", command.name);
        for flag in command.flags {
            let value = match (flag.kind, Words::after(flag)) {
                (FlagKind::Bool, _) => String::new(),
                (_, Words::Files) => " -r -F".to_owned(),
                (_, Words::Choice(words)) => format!(" -x -a '{}'", words.join(" ")),
                (_, Words::Unknown) => " -x".to_owned(),
            };
            let _ = writeln!(script, "{when} -o {}{value} -d '{}'", flag.name, quoted(flag.help));
        }
        match Words::of_arguments(command) {
            Words::Files => {}
            Words::Choice(words) => {
                let _ = writeln!(script, "{when} -f -a '{}'", words.join(" "));
            }
            Words::Unknown => {
                let _ = writeln!(script, "{when} -f");
            }
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_from_help() {
        let choices =
            |command: &str, flag: &str| match Words::after(crate::commands::find(command).unwrap().flag(flag).unwrap())
            {
                Words::Choice(words) => words.join(" "),
                Words::Files => "files".to_owned(),
                Words::Unknown => "unknown".to_owned(),
            };
        assert_eq!(choices("restore", "integrity-check"), "none quick full");
        assert_eq!(choices("replicate", "log-level"), "trace debug info warn error");
        assert_eq!(choices("ltx", "level"), "all 0 1 2 3 4 5 6 7 8 9");
        assert_eq!(choices("restore", "o"), "files");
        assert_eq!(choices("restore", "txid"), "unknown");
    }

    #[test]
    fn every_script_has_every_command_and_flag() {
        for script in [bash(), zsh(), fish()] {
            for command in listed() {
                assert!(script.contains(command.name), "{}", command.name);
                for flag in command.flags {
                    assert!(
                        script.contains(&format!("-{}", flag.name)) || script.contains(&format!("-o {}", flag.name))
                    );
                }
            }
        }
    }
}
