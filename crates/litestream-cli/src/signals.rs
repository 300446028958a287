//! The signals that ask the program to stop.
//!
//! Spec: docs/commands.md, "replicate".

use std::fmt;
use std::io;

use tokio::signal::unix::{self, SignalKind};

/// A request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT, a Ctrl+C.
    Interrupt,
    /// SIGTERM, what service managers send.
    Terminate,
}

impl Signal {
    /// The exit code a shell would report had the signal ended the program.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    /// The same signal for another process.
    pub(crate) fn to_rustix(self) -> rustix::process::Signal {
        match self {
            Self::Interrupt => rustix::process::Signal::INT,
            Self::Terminate => rustix::process::Signal::TERM,
        }
    }
}

impl fmt::Display for Signal {
    /// As the original logs it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "interrupt",
            Self::Terminate => "terminated",
        })
    }
}

/// Both signals as a stream. While it exists, neither ends the process.
pub(crate) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    /// Starts listening. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system refuses to install a handler.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
        })
    }

    /// The next signal. Cancel-safe: a signal is never lost.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.terminate.recv() => Signal::Terminate,
            else => std::future::pending().await,
        }
    }
}
