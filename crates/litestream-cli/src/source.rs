//! Which replica a command reads: one named by URL, or that of a configured
//! database.
//!
//! Spec: docs/commands.md, "restore" and "ltx".

use std::path::PathBuf;
use std::sync::Arc;

use litestream_replica::{ReplicaClient, ReplicaUrl};

use crate::arguments::Arguments;
use crate::config::model::Logging;
use crate::config::{self, DbConfig, Loaded, ReplicaSettings, Surroundings};
use crate::environment::Environment;
use crate::failure::{Failure, fail};
use crate::logging::LogOptions;
use litestream_replica::is_replica_url;

/// Where to read from.
pub(crate) enum Source {
    /// A replica by its URL; no configuration is involved.
    Url(String),
    /// A database of the configuration.
    Configured {
        /// The configuration it was found in.
        loaded: Box<Loaded>,
        /// Its entry.
        db: Box<DbConfig>,
        /// Its absolute path.
        path: PathBuf,
    },
}

impl Source {
    /// Finds what the single positional argument names.
    ///
    /// # Errors
    /// None (`usage` says how), several, a URL together with `-config`, or a
    /// database that is not configured.
    pub(crate) fn find(
        arguments: &Arguments,
        surroundings: &Surroundings<'_>,
        usage: impl Fn() -> Failure,
    ) -> anyhow::Result<Self> {
        match arguments.positionals.as_slice() {
            [] => Err(usage().into()),
            [name] if name.is_empty() => Err(usage().into()),
            [url] if is_replica_url(url) && !is_database_url(url) => {
                if arguments.non_empty("config").is_some() {
                    return fail("cannot specify a replica URL and the -config flag");
                }
                Ok(Self::Url(url.clone()))
            }
            [name] => {
                let loaded = config::load(arguments, surroundings)?;
                let path = surroundings.absolute(name)?;
                match loaded.config.find(&path) {
                    Some(db) => Ok(Self::Configured { loaded: Box::new(loaded), db: Box::new(db), path }),
                    None => Err(config::unknown_database(&loaded, &path).into()),
                }
            }
            _ => fail("too many arguments"),
        }
    }

    /// The client of the replica. Contacts nothing.
    ///
    /// # Errors
    /// Settings that no client can be made of.
    pub(crate) fn client(&self, surroundings: &Surroundings<'_>) -> anyhow::Result<Arc<dyn ReplicaClient>> {
        match self {
            Self::Url(url) => ReplicaSettings::from_url(url)
                .client(None, surroundings)
                .map_err(|message| Failure::new(message).into()),
            Self::Configured { db, .. } => db.client(surroundings),
        }
    }

    /// Where the replica is, with everything its backend needs.
    ///
    /// # Errors
    /// Settings that are missing or contradict one another.
    pub(crate) fn place(&self, surroundings: &Surroundings<'_>) -> anyhow::Result<ReplicaUrl> {
        let place = match self {
            Self::Url(url) => ReplicaSettings::from_url(url).resolve(surroundings),
            Self::Configured { db, .. } => db.replica()?.resolve(surroundings),
        };
        place.map_err(|message| Failure::new(message).into())
    }

    /// How to log: as configured, or the defaults.
    pub(crate) fn log_options(&self, environment: &Environment) -> LogOptions {
        match self {
            Self::Url(_) => LogOptions::new(&Logging::default(), None, environment),
            Self::Configured { loaded, .. } => LogOptions::new(&loaded.config.logging, None, environment),
        }
    }

    /// Logs what is odd about the configuration, if one was read.
    pub(crate) fn log_warnings(&self) {
        if let Self::Configured { loaded, .. } = self {
            loaded.log_warnings();
        }
    }
}

/// `sqlite://` in front of a path is a way to write a database, not a replica.
pub(crate) fn is_database_url(text: &str) -> bool {
    text.starts_with("sqlite://") || text.starts_with("sqlite3://")
}
