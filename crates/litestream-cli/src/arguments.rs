//! Reads a command's arguments by the rules of Go's `flag` package.
//!
//! Scripts depend on these rules, and no argument parser for Rust knows them:
//! `-name` and `--name` are one flag, parsing stops at the first word that is
//! not a flag, a boolean never takes the following word, the last repetition
//! wins, integers may have any base. What flags exist is not decided here: the
//! command table in [`crate::commands`] is the single definition.
//!
//! Spec: docs/commands.md, "Writing a command line".

use std::collections::HashMap;
use std::fmt;

use ltx::Txid;

use crate::commands::{CommandSpec, FlagKind, FlagSpec};
use crate::output::nearest;
use crate::units::{GoDuration, ParseIntegerError, parse_integer};

/// The words that ask for help.
pub(crate) const HELP_WORDS: [&str; 3] = ["-h", "-help", "--help"];

/// A command's flags and positional arguments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arguments {
    values: HashMap<&'static str, FlagValue>,
    /// Everything from the first word that is not a flag.
    pub(crate) positionals: Vec<String>,
}

/// What a flag was set to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FlagValue {
    Bool(bool),
    Text(String),
    Integer(i64),
    Duration(GoDuration),
    Txid(Txid),
}

/// What the arguments ask for.
#[derive(Debug)]
pub(crate) enum Request {
    /// Run the command.
    Run(Arguments),
    /// Print the command's help.
    Help,
}

/// The arguments do not fit the command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ArgumentError {
    /// In the original's words.
    pub(crate) message: String,
    /// A flag that was perhaps meant.
    pub(crate) suggestion: Option<String>,
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ArgumentError {}

/// Parses what follows the command's name.
///
/// # Errors
/// The first word that does not fit, in the original's words.
pub(crate) fn parse(command: &CommandSpec, words: &[String]) -> Result<Request, ArgumentError> {
    let mut arguments = Arguments::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            arguments.positionals.extend(words.by_ref().cloned());
            break;
        }
        let Some(body) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|_| word != "-") else {
            arguments.positionals.push(word.clone());
            arguments.positionals.extend(words.by_ref().cloned());
            break;
        };
        if body.is_empty() || body.starts_with(['-', '=']) {
            return Err(error(format!("bad flag syntax: {word}")));
        }
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some(flag) = command.flag(name) else {
            if name == "h" || name == "help" {
                return Ok(Request::Help);
            }
            return Err(unknown_flag(command, name));
        };
        let value = if let FlagKind::Bool = flag.kind {
            FlagValue::Bool(parse_bool(flag, inline.unwrap_or("true"))?)
        } else {
            let text = match inline {
                Some(text) => text,
                None => words.next().ok_or_else(|| error(format!("flag needs an argument: -{name}")))?,
            };
            parse_value(flag, text)?
        };
        arguments.values.insert(flag.name, value);
    }
    // Nobody keeps a database under these names, while people do append `-h` to
    // a line they have already typed.
    if arguments.positionals.iter().any(|word| HELP_WORDS.contains(&word.as_str())) {
        return Ok(Request::Help);
    }
    Ok(Request::Run(arguments))
}

impl Arguments {
    /// A boolean flag; false unless given.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        matches!(self.values.get(name), Some(FlagValue::Bool(true)))
    }

    /// Whether a flag was given at all, except as `-flag=false`.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| *value != FlagValue::Bool(false))
    }

    /// A text flag; `None` unless given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(FlagValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A text flag; `None` unless given and not empty, which many flags treat
    /// alike.
    pub(crate) fn non_empty(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|text| !text.is_empty())
    }

    /// An integer flag; `None` unless given.
    pub(crate) fn integer(&self, name: &str) -> Option<i64> {
        match self.values.get(name) {
            Some(FlagValue::Integer(value)) => Some(*value),
            _ => None,
        }
    }

    /// A duration flag; `None` unless given.
    pub(crate) fn duration(&self, name: &str) -> Option<GoDuration> {
        match self.values.get(name) {
            Some(FlagValue::Duration(duration)) => Some(*duration),
            _ => None,
        }
    }

    /// A transaction ID flag; `None` unless given. All zeros is "the newest".
    pub(crate) fn txid(&self, name: &str) -> Option<Txid> {
        match self.values.get(name) {
            Some(FlagValue::Txid(txid)) if !txid.is_none() => Some(*txid),
            _ => None,
        }
    }
}

fn error(message: String) -> ArgumentError {
    ArgumentError { message, suggestion: None }
}

fn unknown_flag(command: &CommandSpec, name: &str) -> ArgumentError {
    let suggestion = nearest(name, command.flags.iter().map(|flag| flag.name)).map(|flag| format!("-{flag}"));
    ArgumentError { message: format!("flag provided but not defined: -{name}"), suggestion }
}

fn parse_bool(flag: &FlagSpec, text: &str) -> Result<bool, ArgumentError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(error(format!("invalid boolean value {text:?} for -{}: parse error", flag.name))),
    }
}

fn parse_value(flag: &FlagSpec, text: &str) -> Result<FlagValue, ArgumentError> {
    let invalid = |why: &str| error(format!("invalid value {text:?} for flag -{}: {why}", flag.name));
    match flag.kind {
        FlagKind::Bool => parse_bool(flag, text).map(FlagValue::Bool),
        FlagKind::Text => Ok(FlagValue::Text(text.to_owned())),
        FlagKind::Integer => {
            parse_integer(text).map(FlagValue::Integer).map_err(|why: ParseIntegerError| invalid(&why.to_string()))
        }
        FlagKind::Duration => text.parse().map(FlagValue::Duration).map_err(|_| invalid("parse error")),
        FlagKind::Txid => parse_txid(text).map(FlagValue::Txid).ok_or_else(|| invalid("invalid txid format")),
        FlagKind::Level => match text.parse::<u64>() {
            _ if text == "all" => Ok(FlagValue::Text(text.to_owned())),
            Ok(0..=9) => Ok(FlagValue::Text(text.to_owned())),
            Ok(_) => Err(invalid("level must be between 0 and 9")),
            Err(_) if text.parse::<i64>().is_ok() => Err(invalid("level must be between 0 and 9")),
            Err(_) => Err(invalid("invalid level: must be 0-9 or \"all\"")),
        },
    }
}

/// One to sixteen hex digits. The original wants all sixteen; the commands that
/// accept fewer print the ID they understood, because it is easily taken for a
/// decimal number.
fn parse_txid(text: &str) -> Option<Txid> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    format!("{text:0>16}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands;

    fn parse_words(command: &str, words: &[&str]) -> Result<Arguments, String> {
        let command = commands::find(command).unwrap();
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        match parse(command, &words) {
            Ok(Request::Run(arguments)) => Ok(arguments),
            Ok(Request::Help) => Err("help".to_owned()),
            Err(error) => Err(error.message),
        }
    }

    #[test]
    fn one_dash_or_two_and_equals_or_space_are_the_same() {
        for words in [&["-o", "x"][..], &["--o", "x"], &["-o=x"], &["--o=x"]] {
            assert_eq!(parse_words("restore", words).unwrap().text("o"), Some("x"), "{words:?}");
        }
        assert_eq!(parse_words("restore", &["-o="]).unwrap().text("o"), Some(""));
        assert_eq!(parse_words("restore", &["-o=a=b"]).unwrap().text("o"), Some("a=b"));
        assert_eq!(
            parse_words("restore", &["-o", "-x"]).unwrap().text("o"),
            Some("-x"),
            "a value may start with a dash"
        );
    }

    #[test]
    fn booleans_take_a_value_only_after_equals() {
        for (word, value) in
            [("-once", true), ("-once=true", true), ("-once=T", true), ("-once=0", false), ("--once=FALSE", false)]
        {
            assert_eq!(parse_words("replicate", &[word]).unwrap().is_set("once"), value, "{word}");
        }
        let arguments = parse_words("replicate", &["-once", "true"]).unwrap();
        assert_eq!(arguments.positionals, ["true"]);
        assert_eq!(
            parse_words("replicate", &["-once=maybe"]).unwrap_err(),
            "invalid boolean value \"maybe\" for -once: parse error"
        );
    }

    #[test]
    fn parsing_stops_at_the_first_word_that_is_no_flag() {
        let arguments = parse_words("replicate", &["-once", "a.db", "-exec", "x"]).unwrap();
        assert_eq!(arguments.positionals, ["a.db", "-exec", "x"]);
        assert_eq!(arguments.text("exec"), None);
        assert_eq!(parse_words("replicate", &["-", "-once"]).unwrap().positionals, ["-", "-once"]);
        assert_eq!(parse_words("replicate", &["--", "-once"]).unwrap().positionals, ["-once"]);
    }

    #[test]
    fn the_last_repetition_wins() {
        assert_eq!(parse_words("restore", &["-o", "a", "-o", "b"]).unwrap().text("o"), Some("b"));
        assert!(!parse_words("replicate", &["-once", "-once=false"]).unwrap().is_set("once"));
    }

    #[test]
    fn mistakes_are_reported_in_the_known_words() {
        for (words, message) in [
            (&["-x"][..], "flag provided but not defined: -x"),
            (&["--x=1"], "flag provided but not defined: -x"),
            (&["-o"], "flag needs an argument: -o"),
            (&["-=x"], "bad flag syntax: -=x"),
            (&["---x"], "bad flag syntax: ---x"),
            (&["-txid", "zz"], "invalid value \"zz\" for flag -txid: invalid txid format"),
            (&["-txid", "0x41"], "invalid value \"0x41\" for flag -txid: invalid txid format"),
            (&["-txid", ""], "invalid value \"\" for flag -txid: invalid txid format"),
            (&["-parallelism", "0x1g"], "invalid value \"0x1g\" for flag -parallelism: parse error"),
            (
                &["-parallelism", "99999999999999999999"],
                "invalid value \"99999999999999999999\" for flag -parallelism: value out of range",
            ),
            (&["-follow-interval", "5"], "invalid value \"5\" for flag -follow-interval: parse error"),
        ] {
            assert_eq!(parse_words("restore", words).unwrap_err(), message);
        }
        assert_eq!(
            parse_words("ltx", &["-level", "x"]).unwrap_err(),
            "invalid value \"x\" for flag -level: invalid level: must be 0-9 or \"all\""
        );
        for level in ["12", "-1"] {
            assert_eq!(
                parse_words("ltx", &["-level", level]).unwrap_err(),
                format!("invalid value \"{level}\" for flag -level: level must be between 0 and 9")
            );
        }
    }

    #[test]
    fn short_transaction_ids_are_hex() {
        assert_eq!(parse_words("restore", &["-txid", "41"]).unwrap().txid("txid"), Some(Txid::new(0x41)));
        assert_eq!(parse_words("restore", &["-txid", "0000000000000000"]).unwrap().txid("txid"), None);
    }

    #[test]
    fn help_is_asked_for_by_any_of_its_spellings() {
        for words in [&["-h"][..], &["-help"], &["--help"], &["a.db", "-h"], &["-json", "-h"]] {
            assert_eq!(parse_words("status", words).unwrap_err(), "help", "{words:?}");
        }
        assert_eq!(parse_words("replicate", &["-exec", "-h"]).unwrap().text("exec"), Some("-h"), "a value is a value");
    }

    #[test]
    fn a_near_miss_is_suggested() {
        let error = parse(commands::find("restore").unwrap(), &["-tixd=1".to_owned()]).unwrap_err();
        assert_eq!(error.suggestion.as_deref(), Some("-txid"));
        let error = parse(commands::find("restore").unwrap(), &["-quux".to_owned()]).unwrap_err();
        assert_eq!(error.suggestion, None);
    }
}
