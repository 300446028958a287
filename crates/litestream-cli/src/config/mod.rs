//! The configuration file: found, expanded, read, completed and checked.
//!
//! ```text
//! text → expand variables → YAML tree → values over defaults → promote snapshot settings
//!      → absolute paths → global replica settings copied down → validated
//! ```
//!
//! Loading never touches a store and never looks for databases.
//!
//! Spec: docs/configuration.md.

use std::io::ErrorKind;
use std::path::PathBuf;

use litestream_replica::ClientContext;
use litestream_replica::http::{HttpOptions, HttpPool};

use crate::arguments::Arguments;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::logging::LogOptions;

pub(crate) mod defaults;
pub(crate) mod directory;
pub(crate) mod expand;
pub(crate) mod glob;
pub(crate) mod model;
pub(crate) mod path;
pub(crate) mod replica;
pub(crate) mod validate;
pub(crate) mod yaml;

#[cfg(test)]
mod tests;

pub(crate) use model::{Config, DbConfig, ReplicaSettings};

use yaml::{Problems, Warning};

/// A configuration and where it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// The file, as an absolute path.
    pub(crate) file: PathBuf,
    /// What a person should look at, in the order of the file.
    pub(crate) warnings: Vec<Warning>,
}

impl Loaded {
    /// Starts logging as configured, but away from standard output, which
    /// carries the command's result; then logs what is odd about the file.
    pub(crate) fn start_logging_on_stderr(&self, environment: &Environment) {
        LogOptions::new(&self.config.logging, None, environment).on_stderr().start(environment);
        self.log_warnings();
    }

    /// Logs what is odd about the file, with its lines.
    pub(crate) fn log_warnings(&self) {
        for Warning { line, message } in &self.warnings {
            tracing::warn!(file = %format_args!("{}:{line}", self.file.display()), "config: {message}");
        }
    }
}

/// What loading needs from outside.
pub(crate) struct Surroundings<'a> {
    pub(crate) environment: &'a Environment,
    /// Directory that relative paths are relative to.
    pub(crate) cwd: PathBuf,
    /// What storage clients share: variables, proxies, trust, credentials.
    pub(crate) clients: ClientContext,
}

impl<'a> Surroundings<'a> {
    /// These variables and this directory.
    pub(crate) fn new(environment: &'a Environment, cwd: PathBuf) -> Self {
        let lookup = environment.lookup();
        let http = HttpPool::new(HttpOptions::from_env(&*lookup));
        let clients = ClientContext { env: Some(lookup), http, ..ClientContext::default() };
        Self { environment, cwd, clients }
    }

    /// Those of this process.
    ///
    /// # Errors
    /// The working directory cannot be determined.
    pub(crate) fn of_process(environment: &'a Environment) -> anyhow::Result<Self> {
        let cwd = std::env::current_dir()
            .map_err(|error| Failure::new(format!("cannot determine current directory: {error}")))?;
        Ok(Self::new(environment, cwd))
    }

    /// An argument or configured path as an absolute one.
    pub(crate) fn absolute(&self, path: &str) -> anyhow::Result<PathBuf> {
        path::absolute(path, self.environment, &self.cwd).map_err(|message| Failure::new(message).into())
    }
}

/// The file that is read when `-config` is not given.
pub(crate) fn default_path(environment: &Environment) -> String {
    environment.non_empty("LITESTREAM_CONFIG").unwrap_or(defaults::CONFIG_PATH).to_owned()
}

/// Loads the file that flags or environment name.
///
/// # Errors
/// No such file, or a file that cannot be used, in the original's words.
pub(crate) fn load(arguments: &Arguments, surroundings: &Surroundings<'_>) -> anyhow::Result<Loaded> {
    let name = arguments.non_empty("config").map_or_else(|| default_path(surroundings.environment), str::to_owned);
    let file = surroundings.absolute(&name)?;
    let text = std::fs::read(&file).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::new(format!("config file not found: {}", file.display())),
        _ => Failure::new(format!("cannot read config {}: {error}", file.display())),
    })?;
    let text = String::from_utf8(text)
        .map_err(|_| Failure::new(format!("cannot read config {}: not valid UTF-8", file.display())))?;
    let (config, warnings) =
        from_text(&text, !arguments.is_set("no-expand-env"), surroundings).map_err(Failure::new)?;
    Ok(Loaded { config, file, warnings })
}

/// Makes a configuration from a file's text.
///
/// # Errors
/// In the original's words.
pub(crate) fn from_text(
    text: &str,
    expand_env: bool,
    surroundings: &Surroundings<'_>,
) -> Result<(Config, Vec<Warning>), String> {
    let mut problems = Problems::default();
    let expanded;
    let mut text = text;
    if expand_env {
        (expanded, problems.warnings) = expand::expand(text, |name| match name {
            "PID" => Some(std::process::id().to_string()),
            _ => surroundings.environment.get(name).map(str::to_owned),
        });
        text = &expanded;
    }
    let mut config = Config::default();
    if let Some(root) = yaml::parse(text)? {
        let explicit = config.read(&root, &mut problems);
        if !problems.errors.is_empty() {
            return Err(type_errors(&problems.errors));
        }
        complete(&mut config, surroundings)?;
        validate::promote_snapshot(&mut config, &explicit)?;
    }
    validate::validate(&config)?;
    problems.warnings.sort_by_key(|warning| warning.line);
    problems.warnings.dedup();
    Ok((config, problems.warnings))
}

/// The original's layout; errors without a line stand alone.
fn type_errors(errors: &[String]) -> String {
    match errors {
        [single] if !single.starts_with("line ") => single.clone(),
        _ => format!("yaml: unmarshal errors:\n  {}", errors.join("\n  ")),
    }
}

/// Makes paths absolute and copies global replica settings into each replica.
fn complete(config: &mut Config, surroundings: &Surroundings<'_>) -> Result<(), String> {
    let absolute = |path: &mut Option<PathBuf>| match path {
        Some(given) => {
            // Came out of a text, so it still is one.
            let text = given.to_string_lossy().into_owned();
            *given = path::absolute(&text, surroundings.environment, &surroundings.cwd)?;
            Ok::<(), String>(())
        }
        None => Ok(()),
    };
    for db in &mut config.dbs {
        absolute(&mut db.path)?;
        absolute(&mut db.dir)?;
        absolute(&mut db.meta_dir)?;
        absolute(&mut db.meta_path)?;
        for replica in db.replica_mut() {
            replica.inherit(&config.replica);
        }
    }
    Ok(())
}

/// The configuration of `replicate DB_PATH REPLICA_URL`.
pub(crate) fn from_command_line(path: PathBuf, url: &str) -> Config {
    let replica = ReplicaSettings { sync_interval: Some(defaults::SYNC_INTERVAL), ..ReplicaSettings::from_url(url) };
    let db = DbConfig { path: Some(path), replica: Some(replica), ..DbConfig::default() };
    Config { dbs: vec![db], ..Config::default() }
}
