//! Which databases `restore -all` means, and where each one goes.
//!
//! A `dir` entry stands for the databases that are there and for those that only
//! its replica knows: after the loss of a machine there is nothing left to find
//! locally. Paths that come out of a store never lead out of the directory they
//! belong to.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use litestream_replica::discover::discover;
use litestream_replica::{ReplicaClient, is_replica_url};

use crate::arguments::Arguments;
use crate::config::model::Logging;
use crate::config::{self, DbConfig, Loaded, ReplicaSettings, Surroundings};
use crate::environment::Environment;
use crate::failure::{Failure, fail};
use crate::logging::LogOptions;
use crate::output::without_credentials;

/// One database to restore.
pub(super) struct Selected {
    /// What the report calls it.
    pub(super) name: String,
    /// What messages call its source.
    pub(super) source_text: String,
    pub(super) output: PathBuf,
    pub(super) client: anyhow::Result<Arc<dyn ReplicaClient>>,
}

/// Where to look for databases.
pub(super) struct Selection {
    origin: Origin,
    /// `-o`: what everything is put below.
    root: Option<PathBuf>,
    /// Whether finding nothing is success.
    may_be_empty: bool,
}

enum Origin {
    /// All of the configuration, or what of it lies below a directory.
    Configured { loaded: Box<Loaded>, below: Option<PathBuf> },
    /// Every replica at or below a URL.
    Url(String),
}

impl Selection {
    /// What the arguments mean. Reads the configuration, if it is asked for.
    pub(super) fn from_arguments(arguments: &Arguments, surroundings: &Surroundings<'_>) -> anyhow::Result<Self> {
        let root = arguments.non_empty("o").map(PathBuf::from);
        if let Some(root) = root.as_deref().filter(|root| root.exists() && !root.is_dir()) {
            return fail(format!("cannot restore, output path is not a directory: {}", root.display()));
        }
        let may_be_empty = arguments.is_set("if-replica-exists");
        let origin = match arguments.positionals.as_slice() {
            [] => Origin::Configured { loaded: Box::new(config::load(arguments, surroundings)?), below: None },
            [url] if is_replica_url(url) => {
                if arguments.non_empty("config").is_some() {
                    return fail("cannot specify a replica URL and the -config flag");
                }
                if root.is_none() {
                    return Err(Failure::new("-o is required when restoring from a replica URL")
                        .try_line(format_args!("litestream restore -all -o /path/to/dir {}", without_credentials(url)))
                        .into());
                }
                Origin::Url(url.clone())
            }
            [directory] => Origin::Configured {
                loaded: Box::new(config::load(arguments, surroundings)?),
                below: Some(surroundings.absolute(directory)?),
            },
            _ => return fail("too many arguments"),
        };
        Ok(Self { origin, root, may_be_empty })
    }

    /// Logs to standard error: standard output carries the report.
    pub(super) fn start_logging(&self, environment: &Environment) {
        match &self.origin {
            Origin::Configured { loaded, .. } => loaded.start_logging_on_stderr(environment),
            Origin::Url(_) => LogOptions::new(&Logging::default(), None, environment).on_stderr().start(environment),
        }
    }

    pub(super) fn is_by_url(&self) -> bool {
        matches!(self.origin, Origin::Url(_))
    }

    /// The databases, in the order of the configuration or of their paths.
    ///
    /// # Errors
    /// There is none, or the URL cannot be listed. An entry of the configuration
    /// that cannot be looked up is a failed database among the others.
    pub(super) async fn databases(&self, surroundings: &Surroundings<'_>) -> anyhow::Result<Vec<Selected>> {
        let selected = match &self.origin {
            Origin::Url(url) => self.below_url(url, surroundings).await?,
            Origin::Configured { loaded, below } => {
                self.configured(&loaded.config.dbs, below.as_deref(), surroundings).await
            }
        };
        if selected.is_empty() && !self.may_be_empty {
            return match &self.origin {
                Origin::Url(url) => fail(format!("no backups found below {}", without_credentials(url))),
                Origin::Configured { below: Some(below), .. } => {
                    fail(format!("no databases in config below {}", below.display()))
                }
                Origin::Configured { below: None, .. } => fail("no databases specified in configuration"),
            };
        }
        let mut outputs = HashSet::new();
        match selected.iter().find(|database| !outputs.insert(&database.output)) {
            Some(twice) => fail(format!("two databases would be restored to {}", twice.output.display())),
            None => Ok(selected),
        }
    }

    async fn below_url(&self, url: &str, surroundings: &Surroundings<'_>) -> anyhow::Result<Vec<Selected>> {
        let at = |below: &str| {
            let below = Some(below.to_owned()).filter(|below| !below.is_empty());
            ReplicaSettings { below, ..ReplicaSettings::from_url(url) }
        };
        let prefix = at("").client(None, surroundings).map_err(Failure::new)?;
        let root = self.root.clone().unwrap_or_default();
        let selected = discover(&*prefix).await?.into_iter().map(|below| {
            // The URL may name one replica itself.
            let own_name = || {
                let path = url.split(['?', '#']).next().unwrap_or(url).trim_end_matches('/');
                path.rsplit('/')
                    .next()
                    .filter(|name| !name.is_empty() && *name != "..")
                    .unwrap_or("database")
                    .to_owned()
            };
            let output = root.join(if below.is_empty() { own_name() } else { below.clone() });
            let client = at(&below).client(None, surroundings).map_err(|message| Failure::new(message).into());
            let source_text = match &client {
                Ok(client) => client.location(),
                Err(_) => without_credentials(url),
            };
            Selected { name: output.display().to_string(), source_text, output, client }
        });
        Ok(selected.collect())
    }

    async fn configured(
        &self,
        entries: &[DbConfig],
        below: Option<&Path>,
        surroundings: &Surroundings<'_>,
    ) -> Vec<Selected> {
        let is_meant = |path: &Path| below.is_none_or(|below| path.starts_with(below));
        let mut selected = Vec::new();
        // Replicas of single databases may lie below that of a directory.
        let own: HashSet<String> = entries
            .iter()
            .filter(|entry| entry.dir.is_none())
            .filter_map(|entry| Some(entry.client(surroundings).ok()?.location()))
            .collect();
        for entry in entries {
            match (&entry.path, &entry.dir) {
                (Some(path), _) if is_meant(path) => {
                    selected.push(self.of_entry(path, entry.client(surroundings), below));
                }
                (None, Some(dir)) if is_meant(dir) || below.is_some_and(|below| below.starts_with(dir)) => {
                    match databases_of(entry, dir, surroundings).await {
                        Ok(databases) => {
                            for (path, client) in databases.into_iter().filter(|(path, _)| is_meant(path)) {
                                let is_other = client.as_ref().is_ok_and(|client| own.contains(&client.location()));
                                if !is_other {
                                    selected.push(self.of_entry(&path, client, below));
                                }
                            }
                        }
                        Err(error) => selected.push(self.of_entry(dir, Err(error), below)),
                    }
                }
                _ => {}
            }
        }
        selected
    }

    fn of_entry(&self, path: &Path, client: anyhow::Result<Arc<dyn ReplicaClient>>, below: Option<&Path>) -> Selected {
        let output = match &self.root {
            None => path.to_owned(),
            // Below what was named; without a name, the whole path: two databases
            // never meet.
            Some(root) => {
                let relative =
                    below.and_then(|below| path.strip_prefix(below).ok()).filter(|path| !path.as_os_str().is_empty());
                root.join(relative.unwrap_or_else(|| path.strip_prefix("/").unwrap_or(path)))
            }
        };
        let text = path.display().to_string();
        Selected { name: output.display().to_string(), source_text: text, output, client }
    }
}

/// The databases of a `dir` entry with their replicas: those found locally, and
/// those that its replica holds.
async fn databases_of(
    entry: &DbConfig,
    dir: &Path,
    surroundings: &Surroundings<'_>,
) -> anyhow::Result<BTreeMap<PathBuf, anyhow::Result<Arc<dyn ReplicaClient>>>> {
    let prefix = entry.client(surroundings)?;
    let stored = discover(&*prefix).await?.into_iter().map(|below| dir.join(below));
    // A directory that is lost is what this command is for.
    let local = entry.find_databases().map(|found| found.databases).unwrap_or_default();
    let local = local.into_iter().filter_map(|db| db.path);
    let databases = stored.chain(local).filter_map(|path| {
        let db = entry.derive(&path)?;
        let client = db.client(surroundings);
        Some((path, client))
    });
    Ok(databases.collect())
}
