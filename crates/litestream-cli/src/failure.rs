//! How a command fails: what is printed, and the exit code.
//!
//! Spec: docs/commands.md, "Writing a command line".

use std::fmt;

/// An error together with what a person may do about it.
///
/// Commands return `anyhow::Error`; one that carries more than a message wraps
/// it in this type, which `main` looks for.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hints: Vec<String>,
    code: u8,
}

impl Failure {
    /// Exit code 1 and a message in the words scripts know.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hints: Vec::new(), code: 1 }
    }

    /// Adds a line below the message.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the line `Try: <command line>`.
    #[must_use]
    pub(crate) fn try_line(self, command_line: impl fmt::Display) -> Self {
        self.hint(format!("Try: {command_line}"))
    }

    /// Another exit code.
    #[must_use]
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Lines printed below the message.
    pub(crate) fn hints(&self) -> &[String] {
        &self.hints
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Fails with a message alone.
pub(crate) fn fail<T>(message: impl Into<String>) -> anyhow::Result<T> {
    Err(Failure::new(message).into())
}
