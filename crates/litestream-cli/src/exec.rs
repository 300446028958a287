//! The child process of `replicate -exec`.
//!
//! The command line is split by shell-like rules, but no shell runs: nothing is
//! expanded. Operators that only a shell understands are refused, because
//! dropping them would silently run something else than was written.
//!
//! Spec: docs/commands.md, "replicate".

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use rustix::process::Pid;
use tokio::process::{Child, Command};

use crate::failure::Failure;
use crate::signals::Signal;

/// A running child.
pub(crate) struct ExecChild {
    child: Child,
}

impl ExecChild {
    /// Starts the command with the environment of this process and `added`, the
    /// same output streams, and nothing to read.
    ///
    /// # Errors
    /// The line cannot be split, or the program cannot be started.
    pub(crate) fn start(line: &str, added: &[(&'static str, String)]) -> Result<Self, Failure> {
        let words = split(line)?;
        let [program, arguments @ ..] = words.as_slice() else { return Err(empty()) };
        let child = Command::new(program)
            .args(arguments)
            .envs(added.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| cannot_start(program, &error))?;
        Ok(Self { child })
    }

    /// Process id, while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the child to end. Cancel-safe.
    ///
    /// # Errors
    /// The system has lost track of the child.
    pub(crate) async fn wait(&mut self) -> io::Result<ChildEnd> {
        self.child.wait().await.map(ChildEnd)
    }

    /// Passes a signal on. A child that is gone already is no error.
    pub(crate) fn send(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = rustix::process::kill_process(pid, signal.to_rustix())
        {
            tracing::warn!(%error, "cannot signal exec process");
        }
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChildEnd(ExitStatus);

impl ChildEnd {
    /// True for exit code 0.
    pub(crate) fn success(self) -> bool {
        self.0.success()
    }

    /// The exit code that stands for it: its own, or what a shell reports for the
    /// signal that ended it.
    pub(crate) fn exit_code(self) -> u8 {
        let code = self.0.code().or_else(|| self.0.signal().map(|signal| 128 + signal));
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }

    /// True when a signal ended it.
    pub(crate) fn by_signal(self) -> bool {
        self.0.signal().is_some()
    }
}

impl fmt::Display for ChildEnd {
    /// `exit status 7`, `signal: killed`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.code(), self.0.signal()) {
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(signal)) => match signal_name(signal) {
                Some(name) => write!(f, "signal: {name}"),
                None => write!(f, "signal: signal {signal}"),
            },
            (None, None) => f.write_str("exit status unknown"),
        }
    }
}

/// The usual ends of processes by signal, in Go's words.
fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        6 => "aborted",
        8 => "floating point exception",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        _ => return None,
    })
}

fn cannot_start(program: &str, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => {
            format!("exec: {program:?}: executable file not found in $PATH")
        }
        io::ErrorKind::NotFound => format!("exec {program}: no such file or directory"),
        io::ErrorKind::PermissionDenied => format!("exec {program}: permission denied"),
        _ => format!("exec {program}: {error}"),
    };
    Failure::new(format!("cannot start exec command: {why}"))
}

/// Splits a command line into words, of which there is at least one.
///
/// # Errors
/// Nothing but blanks, unbalanced quotes or parentheses, or an operator of the shell.
pub(crate) fn split(line: &str) -> Result<Vec<String>, Failure> {
    let invalid = || Failure::new("cannot parse exec command: invalid command line string");
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(chars.next().ok_or_else(invalid)?),
            '\'' | '"' | '`' => {
                let word = word.get_or_insert_default();
                // Backticks run nothing, so their text keeps them.
                if c == '`' {
                    word.push(c);
                }
                loop {
                    match chars.next().ok_or_else(invalid)? {
                        end if end == c => break,
                        '\\' if c == '"' => word.push(chars.next().ok_or_else(invalid)?),
                        other => word.push(other),
                    }
                }
                if c == '`' {
                    word.push(c);
                }
            }
            '$' if chars.peek() == Some(&'(') => {
                let word = word.get_or_insert_default();
                word.push('$');
                loop {
                    let inside = chars.next().ok_or_else(invalid)?;
                    word.push(inside);
                    if inside == ')' {
                        break;
                    }
                }
            }
            '(' | ')' => return Err(invalid()),
            ';' | '&' | '|' | '<' | '>' => {
                return Err(Failure::new(format!(
                    "cannot parse exec command: {c:?} is shell syntax, and no shell runs the command"
                ))
                .try_line(format_args!("litestream replicate -exec {}", suggest_shell(line))));
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    if words.is_empty() { Err(empty()) } else { Ok(words) }
}

fn empty() -> Failure {
    Failure::new("cannot parse exec command: the command is empty")
}

/// The line as the argument of a shell, quoted for the shell it is typed into
/// and for the splitting above.
fn suggest_shell(line: &str) -> String {
    let inner = line.replace('\\', "\\\\").replace('"', "\\\"").replace('\'', "'\\''");
    format!("'sh -c \"{inner}\"'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_documented() {
        for (line, expected) in [
            ("a  b\tc\r\nd", &["a", "b", "c", "d"][..]),
            ("'a b' \"c d\" a'b c'd", &["a b", "c d", "ab cd"]),
            ("\"\" y", &["", "y"]),
            ("a\\ b \"a\\\"b\" \"a\\nb\" 'a\\nb'", &["a b", "a\"b", "anb", "a\\nb"]),
            ("$HOME ~ *.yml {a,b} #c", &["$HOME", "~", "*.yml", "{a,b}", "#c"]),
            ("`date x` $(date x) y", &["`date x`", "$(date x)", "y"]),
            ("'a;b' \\; \"x|y\"", &["a;b", ";", "x|y"]),
            ("FOO=bar cmd", &["FOO=bar", "cmd"]),
        ] {
            assert_eq!(split(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn a_line_of_blanks_is_refused() {
        assert_eq!(split(" \t ").unwrap_err().to_string(), "cannot parse exec command: the command is empty");
    }

    #[test]
    fn unbalanced_lines_are_refused() {
        for line in ["a 'b", "a \"b", "`x", "a \\", "(a)", "a)b", "$(a b"] {
            let error = split(line).unwrap_err();
            assert_eq!(error.to_string(), "cannot parse exec command: invalid command line string", "{line}");
        }
    }

    #[test]
    fn shell_operators_are_refused_with_a_way_out() {
        for line in ["a; b", "a && b", "a | b", "x 2>&1", "x < y"] {
            let error = split(line).unwrap_err();
            assert!(error.to_string().contains("is shell syntax"), "{line}");
            assert_eq!(error.hints().len(), 1);
        }
        let hint = split("echo \"a b\" > f").unwrap_err().hints()[0].clone();
        assert_eq!(hint, "Try: litestream replicate -exec 'sh -c \"echo \\\"a b\\\" > f\"'");
    }

    #[test]
    fn a_suggested_line_splits_into_the_original() {
        let line = "echo \"a b\" \\ > f";
        let suggestion = suggest_shell(line);
        let inner = suggestion.trim_start_matches('\'').trim_end_matches('\'');
        assert_eq!(split(inner).unwrap(), ["sh", "-c", line]);
    }
}
