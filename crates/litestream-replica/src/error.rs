//! The one error of this crate; its kind says what the caller does next.

use std::fmt::{self, Write as _};

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, on which object, and what to do about it.
///
/// `Display` prints operation and object, with the cause behind `: `, so that
/// one line tells the whole story. Never contains credentials. A server may have
/// written part of it: what would move a terminal's cursor is replaced, and the text
/// ends after some thousand characters.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// The store's own code for it.
    code: Option<Box<str>>,
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing there. Often an answer, not a fault.
    NotFound,
    /// Somebody else changed it first; read again before deciding.
    Conflict,
    /// Another process has the lease of this replica; wait, and do not write.
    Leased,
    /// Worth trying again: timeouts, resets, 408, 429, 5xx.
    Transient,
    /// Bytes that fail their own checksum. Never retried, never overwritten.
    Corrupt,
    /// Wrong key, bucket, path or permission; only a person can mend it.
    Setup,
    /// The local disk is full.
    DiskFull,
    /// No chain of files reaches the wanted moment. May be read as "no backup
    /// yet".
    Unavailable,
    /// Files of the wanted history exist, but some before them are missing or do
    /// not fit together. Never to be read as "no backup yet".
    Hole,
    /// The caller gave up.
    Cancelled,
}

impl ErrorKind {
    /// The kind in lower case, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Leased => "leased",
            Self::Transient => "transient",
            Self::Corrupt => "corrupt",
            Self::Setup => "setup",
            Self::DiskFull => "disk_full",
            Self::Unavailable => "unavailable",
            Self::Hole => "hole",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Error {
    /// A fault without a deeper cause.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None, code: None }
    }

    /// A fault with its cause: `context: source`.
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()), code: None }
    }

    /// Puts another operation in front, keeping the kind.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        let code = self.code.clone();
        Self { kind: self.kind, context: context.into(), source: Some(Box::new(self)), code }
    }

    /// Notes the code that the store itself gave, unless it is empty.
    #[must_use]
    pub(crate) fn with_code(self, code: &str) -> Self {
        Self { code: (!code.is_empty()).then(|| code.into()), ..self }
    }

    /// What metrics call this failure: the store's own code (`AccessDenied`) if it
    /// gave one, else the kind (`transient`).
    pub fn code(&self) -> &str {
        self.code.as_deref().unwrap_or_else(|| self.kind.name())
    }

    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// True when the same call may succeed later without anybody acting.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Transient)
    }

    /// Maps an I/O error of the local filesystem to its kind.
    pub fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::DiskFull,
            Io::PermissionDenied | Io::NotADirectory | Io::IsADirectory | Io::ReadOnlyFilesystem => ErrorKind::Setup,
            _ => ErrorKind::Transient,
        };
        Self::with_source(kind, context, source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Tame { out: f, room: LONGEST };
        text.write_str(&self.context)?;
        if let Some(source) = &self.source {
            write!(text, ": {source}")?;
        }
        Ok(())
    }
}

/// Passes on what a person can read, and not more of it than a person reads.
struct Tame<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    room: usize,
}

impl fmt::Write for Tame<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match self.room {
                0 => return Ok(()),
                1 => self.out.write_char('…')?,
                _ if character.is_control() && !matches!(character, '\n' | '\t') => self.out.write_char('\u{fffd}')?,
                _ => self.out.write_char(character)?,
            }
            self.room -= 1;
        }
        Ok(())
    }
}

/// Characters of a message. Ours have some hundred.
const LONGEST: usize = 4000;

impl std::error::Error for Error {
    // `Display` already prints the whole chain, so reporting `source` as well
    // would print every cause twice.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_say_stays_short_and_does_not_drive_the_terminal() {
        let told = format!("\x1b[2Jgone\r{}", "x".repeat(1 << 20));
        let inner = Error::new(ErrorKind::Setup, told.clone());
        for error in [Error::new(ErrorKind::Setup, told.clone()), inner.context("list db"), {
            Error::with_source(ErrorKind::Setup, "list db", std::io::Error::other(told))
        }] {
            let text = error.to_string();
            assert!(text.contains("\u{fffd}[2Jgone\u{fffd}x"), "{}", &text[..40]);
            assert!(text.ends_with('…') && text.chars().count() == LONGEST, "{}", text.chars().count());
        }
    }
}
