//! Which daemon a command talks to, and what its failures are called.
//!
//! The socket is `-socket`, else the one the configuration names, else the usual
//! one. Paths are made absolute here: the daemon's directory is not the user's.
//!
//! Spec: docs/commands.md, "Control socket".

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::arguments::Arguments;
use crate::commands::{FlagKind, FlagSpec, Invocation, refuse_positionals, runtime};
use crate::config::{self, Surroundings, defaults};
use crate::control::client::{Client, ClientError};
use crate::control::types::Request;
use crate::failure::{Failure, fail};

/// Where the daemon listens.
pub(crate) const SOCKET: FlagSpec = FlagSpec {
    name: "socket",
    kind: FlagKind::Text,
    value: "PATH",
    help: "Path of the control socket. Taken from the configuration file if there is one.",
    default: defaults::SOCKET_PATH,
};

/// How long a quick answer may take.
pub(crate) const QUICK_TIMEOUT: FlagSpec = timeout_flag("10");

/// How long work may take.
pub(crate) const TIMEOUT: FlagSpec = timeout_flag("30");

const fn timeout_flag(default: &'static str) -> FlagSpec {
    FlagSpec {
        name: "timeout",
        kind: FlagKind::Integer,
        value: "SECONDS",
        help: "Maximum time to wait for the daemon, in seconds.",
        default,
    }
}

/// What `-timeout 0` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zero {
    /// A mistake.
    Refused,
    /// No limit.
    Unlimited,
}

/// A daemon, and how long to wait for it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) client: Client,
    /// The socket as it was named.
    pub(crate) socket: String,
    /// What the daemon is asked to keep to, in seconds; 0 is not said.
    pub(crate) seconds: i64,
}

impl Target {
    /// From the flags of a command whose `-timeout` defaults to `default_seconds`.
    ///
    /// # Errors
    /// A timeout that cannot be, or a configuration file named by `-config` that
    /// cannot be read.
    pub(crate) fn find(
        arguments: &Arguments,
        surroundings: &Surroundings<'_>,
        default_seconds: i64,
        zero: Zero,
    ) -> anyhow::Result<Self> {
        let seconds = arguments.integer("timeout").unwrap_or(default_seconds);
        if seconds < 0 || (seconds == 0 && zero == Zero::Refused) {
            return fail("timeout must be greater than 0");
        }
        let socket = socket_path(arguments, surroundings)?;
        // The daemon keeps to the limit itself and says what it was waiting for;
        // that answer must have time to arrive.
        let limit = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        let limit = limit.map(|seconds| Duration::from_secs(seconds) + ANSWER_GRACE);
        Ok(Self { client: Client::new(&socket, limit), socket, seconds })
    }

    /// Asks for what `route` has; `what` is the command's name.
    ///
    /// # Errors
    /// No daemon, no answer in time, or a refusal, each in its own words.
    pub(crate) fn get<T: DeserializeOwned>(&self, what: &str, route: &str) -> anyhow::Result<T> {
        runtime()?.block_on(self.client.get(route)).map_err(|error| self.failure(what, &error).into())
    }

    /// Has the daemon do what the command of this name says, and returns its answer.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn post<T: DeserializeOwned>(&self, what: &str, request: &Request) -> anyhow::Result<T> {
        let route = format!("/{what}");
        runtime()?.block_on(self.client.post(&route, request)).map_err(|error| self.failure(what, &error).into())
    }

    fn failure(&self, what: &str, error: &ClientError) -> Failure {
        match error {
            ClientError::Unreachable(cause) => {
                let mut text = error.to_string();
                if let Some(first) = text.get_mut(..1) {
                    first.make_ascii_lowercase();
                }
                let failure = Failure::new(format!("failed to connect to control socket: {}: {text}", self.socket));
                match cause.kind() {
                    ErrorKind::PermissionDenied => failure.hint(
                        "Run the command as the daemon's user, or widen \"socket: permissions\" in its configuration.",
                    ),
                    _ => failure.hint(
                        "Is litestream running? Its control socket is off by default: enable socket in its configuration\n\
                         (socket: {enabled: true}) and restart it, or name the right one with -socket or -config.",
                    ),
                }
            }
            ClientError::TimedOut(_) => Failure::new(format!(
                "{what} timed out after {}s: the daemon at {} gave no answer",
                self.seconds, self.socket
            )),
            ClientError::Refused(why) | ClientError::Garbled(why) => Failure::new(format!("{what} failed: {why}")),
        }
    }
}

/// What a command without arguments gets from the daemon's `route`.
///
/// # Errors
/// Arguments, and as [`Target::get`].
pub(crate) fn ask<T: DeserializeOwned>(invocation: &Invocation, route: &str) -> anyhow::Result<T> {
    refuse_positionals(&invocation.arguments)?;
    let surroundings = Surroundings::of_process(&invocation.environment)?;
    Target::find(&invocation.arguments, &surroundings, 10, Zero::Refused)?.get(invocation.name, route)
}

/// The socket a command talks to.
fn socket_path(arguments: &Arguments, surroundings: &Surroundings<'_>) -> anyhow::Result<String> {
    if let Some(socket) = arguments.non_empty("socket") {
        return Ok(socket.to_owned());
    }
    match config::load(arguments, surroundings) {
        Ok(loaded) => Ok(loaded.config.socket.path),
        // Whoever names a file means it. Without one there is the usual path, and a
        // file that is not for this user, or is broken, need not stand in the way.
        Err(error) if arguments.non_empty("config").is_some() => Err(error),
        Err(_) => Ok(defaults::SOCKET_PATH.to_owned()),
    }
}

/// The one database a command is about, as an absolute path.
///
/// # Errors
/// None, or several.
pub(crate) fn database(arguments: &Arguments, surroundings: &Surroundings<'_>, usage: &str) -> anyhow::Result<PathBuf> {
    match arguments.positionals.as_slice() {
        [] => Err(Failure::new("database path required").try_line(usage).into()),
        [path] if path.is_empty() => Err(Failure::new("database path required").try_line(usage).into()),
        [path] => surroundings.absolute(path),
        _ => fail("too many arguments"),
    }
}

const ANSWER_GRACE: Duration = Duration::from_secs(2);
