//! The command table: the single definition of every command and flag.
//!
//! Parsing, help, and whatever else describes the command line (completions,
//! manual pages) read this table; nothing about a flag is written twice. Each
//! command's row stands in the file that implements it.
//!
//! Spec: docs/commands.md.

use std::process::ExitCode;

use crate::arguments::Arguments;
use crate::environment::Environment;
use crate::failure::{Failure, fail};

pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod databases;
pub(crate) mod help;
pub(crate) mod info;
pub(crate) mod list;
pub(crate) mod ltx;
pub(crate) mod man;
pub(crate) mod points;
pub(crate) mod register;
pub(crate) mod replicate;
pub(crate) mod reset;
pub(crate) mod restore;
pub(crate) mod running;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod target;
pub(crate) mod unregister;
pub(crate) mod version;

/// One command.
pub(crate) struct CommandSpec {
    /// What is typed.
    pub(crate) name: &'static str,
    /// One line for the list of commands.
    pub(crate) summary: &'static str,
    /// Opens the command's help.
    pub(crate) about: &'static str,
    /// The forms of the positional arguments, one usage line each.
    pub(crate) positionals: &'static [&'static str],
    /// Its flags in the order help shows them.
    pub(crate) flags: &'static [&'static FlagSpec],
    /// Stands between flags and examples.
    pub(crate) notes: &'static str,
    /// Comment (may be empty) and command line.
    pub(crate) examples: &'static [(&'static str, &'static str)],
    /// Works, but is not listed.
    pub(crate) hidden: bool,
    /// Does it.
    pub(crate) run: fn(Invocation) -> anyhow::Result<ExitCode>,
}

impl CommandSpec {
    /// The flag of this name, without dashes.
    pub(crate) fn flag(&self, name: &str) -> Option<&'static FlagSpec> {
        self.flags.iter().copied().find(|flag| flag.name == name)
    }
}

/// One flag.
pub(crate) struct FlagSpec {
    /// Without the dash.
    pub(crate) name: &'static str,
    /// Notation of its value.
    pub(crate) kind: FlagKind,
    /// Placeholder of the value in help; empty for booleans.
    pub(crate) value: &'static str,
    /// Lines of help.
    pub(crate) help: &'static str,
    /// Shown as `Defaults to …`; empty where there is nothing to say.
    pub(crate) default: &'static str,
}

/// Notation of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlagKind {
    /// `-flag` or `-flag=V`.
    Bool,
    /// Any text.
    Text,
    /// A base-0 integer.
    Integer,
    /// A Go duration.
    Duration,
    /// A transaction ID in hex.
    Txid,
    /// A compaction level or `all`.
    Level,
}

/// What a command runs with.
pub(crate) struct Invocation {
    /// The name typed, which tells aliases apart.
    pub(crate) name: &'static str,
    /// Flags and positionals.
    pub(crate) arguments: Arguments,
    /// The process environment.
    pub(crate) environment: Environment,
}

/// Every command of this version.
pub(crate) const COMMANDS: [&CommandSpec; 20] = [
    &check::SPEC,
    &completion::SPEC,
    &config::SPEC,
    &databases::SPEC,
    &info::SPEC,
    &list::SPEC,
    &ltx::SPEC,
    &man::SPEC,
    &points::SPEC,
    &register::SPEC,
    &replicate::SPEC,
    &reset::SPEC,
    &restore::SPEC,
    &running::START,
    &status::SPEC,
    &running::STOP,
    &sync::SPEC,
    &unregister::SPEC,
    &version::SPEC,
    &ltx::WAL_SPEC,
];

/// The command of this name. Names are case-sensitive.
pub(crate) fn find(name: &str) -> Option<&'static CommandSpec> {
    COMMANDS.into_iter().find(|command| command.name == name)
}

/// Which configuration file to read.
pub(crate) const CONFIG: FlagSpec = FlagSpec {
    name: "config",
    kind: FlagKind::Text,
    value: "PATH",
    help: "Specifies the configuration file.",
    default: "{config}",
};

/// Whether to expand variables in it.
pub(crate) const NO_EXPAND_ENV: FlagSpec = FlagSpec {
    name: "no-expand-env",
    kind: FlagKind::Bool,
    value: "",
    help: "Disables environment variable expansion in configuration file.",
    default: "",
};

/// Warnings about the file as errors.
pub(crate) const STRICT: FlagSpec = FlagSpec {
    name: "strict",
    kind: FlagKind::Bool,
    value: "",
    help: "Treats unknown keys and whatever else is odd about the configuration\nfile as an error.",
    default: "",
};

/// JSON instead of text.
pub(crate) const JSON: FlagSpec = FlagSpec {
    name: "json",
    kind: FlagKind::Bool,
    value: "",
    help: "Output raw JSON instead of human-readable text.",
    default: "",
};

/// Fails when there are positional arguments.
pub(crate) fn refuse_positionals(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.positionals.is_empty() { Ok(()) } else { fail("too many arguments") }
}

/// What commands that talk to replicas run on.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start runtime: {error}")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_flags_are_described() {
        for (index, command) in COMMANDS.iter().enumerate() {
            assert!(COMMANDS.iter().skip(index + 1).all(|other| other.name != command.name), "{}", command.name);
            for (index, flag) in command.flags.iter().enumerate() {
                assert!(!flag.help.is_empty(), "{} -{}", command.name, flag.name);
                assert_eq!(flag.kind == FlagKind::Bool, flag.value.is_empty(), "{} -{}", command.name, flag.name);
                let repeated = command.flags.iter().skip(index + 1).any(|other| other.name == flag.name);
                assert!(!repeated, "{} -{}", command.name, flag.name);
            }
            assert!(!command.examples.is_empty(), "{}", command.name);
        }
    }
}
