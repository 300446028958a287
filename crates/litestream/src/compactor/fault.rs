//! Why a compaction failed, and which of its inputs is to blame.

use std::error::Error as _;
use std::fmt;
use std::io;

use ltx::FileName;

use super::Source;
use crate::error::{Error, ErrorKind};

/// What the scheduler does next.
#[derive(Debug)]
pub(crate) enum Fault {
    /// One input cannot be used. The others may be sound or not.
    Input {
        /// Which.
        source: Source,
        /// What is the matter with it.
        problem: Problem,
        /// The whole story.
        cause: Error,
    },
    /// Nothing connects two neighbours, or the later one adds nothing.
    Hole {
        /// The earlier one.
        left: FileName,
        /// The later one.
        right: FileName,
    },
    /// Sound inputs that make no sound file together: they differ in page size,
    /// lack pages of a snapshot, or span another range than asked for. Only a new
    /// snapshot helps.
    Unfit(Error),
    /// Not the inputs' fault: the store, the local disk, or the caller gave up.
    Other(Error),
}

/// What is the matter with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// It is not there.
    Missing,
    /// It is there, and its bytes are wrong: now and for ever.
    Corrupt,
    /// It could not be read this time.
    Unreadable,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input { source, cause, .. } => write!(f, "{source}: {cause}"),
            Self::Hole { left, right } => write!(
                f,
                "non-contiguous transaction ids in input files: ({},{}) -> ({},{})",
                left.min, left.max, right.min, right.max
            ),
            Self::Unfit(cause) | Self::Other(cause) => cause.fmt(f),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            Self::Remote(info) => info.id.fmt(f),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let text = fault.to_string();
        match fault {
            Fault::Other(cause) | Fault::Unfit(cause) => cause,
            Fault::Input { cause, .. } => Self::new(cause.kind(), text),
            Fault::Hole { .. } => Self::new(ErrorKind::Corrupt, text),
        }
    }
}

/// The inputs by number, for putting the blame.
pub(super) struct Culprits {
    sources: Vec<Source>,
}

impl Culprits {
    pub(super) fn new(sources: Vec<Source>) -> Self {
        Self { sources }
    }

    /// Says whose fault an error of the merge is.
    pub(super) fn fault(&self, err: ltx::Error) -> Fault {
        match err {
            ltx::Error::InputHeader { input, ref source }
            | ltx::Error::InputPage { input, ref source }
            | ltx::Error::InputClose { input, ref source } => {
                let problem = problem(source);
                let kind = match problem {
                    Problem::Missing | Problem::Corrupt => ErrorKind::Corrupt,
                    Problem::Unreadable => ErrorKind::Transient,
                };
                match problem_is_cancellation(source) {
                    true => Fault::Other(Error::new(ErrorKind::Cancelled, "compaction cancelled")),
                    false => self.blame(input, problem, Error::with_source(kind, "merge files", chain(&err))),
                }
            }
            ltx::Error::NonContiguous { left, right } => Fault::Hole { left, right },
            ltx::Error::Write(err) => Fault::Other(Error::io("write merged file", err)),
            ltx::Error::Spill(err) => Fault::Other(Error::io("merge files: temporary file", err)),
            err => Fault::Unfit(Error::new(ErrorKind::Corrupt, format!("merge files: {}", chain(&err)))),
        }
    }

    fn blame(&self, input: usize, problem: Problem, cause: Error) -> Fault {
        match self.sources.get(input).cloned() {
            Some(source) => Fault::Input { source, problem, cause },
            None => Fault::Other(cause),
        }
    }
}

fn problem(err: &ltx::Error) -> Problem {
    use litestream_replica::ErrorKind as Kind;
    let ltx::Error::Read(err) = err else { return Problem::Corrupt };
    match replica_error(err).map(litestream_replica::Error::kind) {
        Some(Kind::NotFound) => Problem::Missing,
        Some(Kind::Corrupt) => Problem::Corrupt,
        Some(_) => Problem::Unreadable,
        None if err.kind() == io::ErrorKind::NotFound => Problem::Missing,
        None => Problem::Unreadable,
    }
}

fn problem_is_cancellation(err: &ltx::Error) -> bool {
    let ltx::Error::Read(err) = err else { return false };
    replica_error(err).is_some_and(|err| err.kind() == litestream_replica::ErrorKind::Cancelled)
}

/// What a remote input's reader wrapped.
fn replica_error(err: &io::Error) -> Option<&litestream_replica::Error> {
    err.get_ref()?.downcast_ref()
}

/// An error and its causes in one line.
fn chain(err: &ltx::Error) -> String {
    let mut text = err.to_string();
    let mut next = err.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
