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

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use litestream_replica::ClientContext;
use litestream_replica::http::{HttpOptions, HttpPool};
use litestream_replica::is_replica_url;

use crate::arguments::Arguments;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::logging::LogOptions;
use crate::output;
use crate::source::is_database_url;

pub(crate) mod defaults;
pub(crate) mod directory;
pub(crate) mod effective;
pub(crate) mod expand;
pub(crate) mod glob;
pub(crate) mod model;
pub(crate) mod path;
mod removed;
pub(crate) mod replica;
pub(crate) mod validate;
pub(crate) mod yaml;

#[cfg(test)]
mod tests;

pub(crate) use model::{Config, DbConfig, ReplicaSettings};

use validate::Violation;
use yaml::{Mismatch, Node, Problems, Warning};

/// A configuration and where it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// The file, as an absolute path.
    pub(crate) file: PathBuf,
    /// What a person should look at, in the order of the file.
    pub(crate) warnings: Vec<Warning>,
    /// What the file says, before defaults.
    pub(crate) document: Document,
}

/// A file's settings with their lines.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// `None` where nothing is set.
    pub(crate) root: Option<Node>,
    /// Variables that were put in, by line.
    pub(crate) variables: Vec<(usize, String)>,
}

/// What a file's text means.
#[derive(Debug)]
pub(crate) struct Meaning {
    pub(crate) config: Config,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) document: Document,
}

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    /// In the original's words.
    message: String,
    /// Line to blame, 0 where none is.
    line: usize,
    /// Values of the wrong type, one line of the message each.
    mismatches: Vec<Mismatch>,
}

impl Invalid {
    /// The message with `file:line` behind each complaint.
    fn in_file(&self, file: &Path) -> String {
        let place = |line: usize| match line {
            0 => format!(" ({})", file.display()),
            line => format!(" ({}:{line})", file.display()),
        };
        let own = if self.mismatches.is_empty() { place(self.line) } else { String::new() };
        let details = self.mismatches.iter().map(|mismatch| format!("\n  {mismatch}{}", place(mismatch.line)));
        format!("{}{own}{}", self.message, details.collect::<String>())
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.mismatches.iter().try_for_each(|mismatch| write!(f, "\n  {mismatch}"))
    }
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
        if is_replica_url(path) && !is_database_url(path) {
            let shown = output::without_credentials(path);
            return Err(Failure::new(format!("a path is wanted here, and this is a URL: {shown}")).into());
        }
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
        ErrorKind::NotFound => Failure::new(format!("config file not found: {}", file.display()))
            .hint("Name another with -config PATH or in LITESTREAM_CONFIG."),
        _ => Failure::new(format!("cannot read config {}: {error}", file.display())),
    })?;
    let text = String::from_utf8(text)
        .map_err(|_| Failure::new(format!("cannot read config {}: not valid UTF-8", file.display())))?;
    let meaning = from_text(&text, !arguments.is_set("no-expand-env"), surroundings)
        .map_err(|invalid| Failure::new(invalid.in_file(&file)))?;
    let Meaning { config, warnings, document } = meaning;
    if arguments.is_set("strict") {
        refuse_warnings(&warnings, &file)?;
    }
    Ok(Loaded { config, file, warnings, document })
}

/// What to say when the configuration does not have a database.
pub(crate) fn unknown_database(loaded: &Loaded, path: &Path) -> Failure {
    let failure = Failure::new(format!("database not found in config: {}", path.display()));
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let known = || loaded.config.dbs.iter().filter_map(|db| db.path.as_deref());
    let names: Vec<String> = known().map(name).collect();
    let near = output::nearest(&name(path), names.iter().map(String::as_str));
    match known().find(|db| Some(name(db).as_str()) == near) {
        Some(near) => failure.hint(format!("Did you mean {}?", near.display())),
        None => failure.hint(format!("\"litestream databases -config {}\" lists what it has.", loaded.file.display())),
    }
}

/// With `-strict` what is odd is wrong.
fn refuse_warnings(warnings: &[Warning], file: &Path) -> anyhow::Result<()> {
    let mut told = warnings.iter().map(|Warning { line, message }| format!("{message} ({}:{line})", file.display()));
    let Some(first) = told.next() else { return Ok(()) };
    Err(told.fold(Failure::new(first), Failure::hint).into())
}

/// Makes a configuration from a file's text.
///
/// # Errors
/// In the original's words.
pub(crate) fn from_text(text: &str, expand_env: bool, surroundings: &Surroundings<'_>) -> Result<Meaning, Invalid> {
    let mut problems = Problems::default();
    let mut document = Document::default();
    let expanded = match expand_env {
        true => expand::expand(text, |name| match name {
            "PID" => Some(std::process::id().to_string()),
            _ => surroundings.environment.get(name).map(str::to_owned),
        }),
        false => expand::Expanded { text: text.to_owned(), ..expand::Expanded::default() },
    };
    problems.warnings = expanded.warnings;
    document.variables = expanded.variables;
    let origin = |line: usize| expanded.origin.get(line.saturating_sub(1)).copied().unwrap_or(line);
    document.root = yaml::parse(&expanded.text, origin).map_err(|(line, message)| Invalid::at(line, message))?;
    let mut config = Config::default();
    if let Some(root) = &document.root {
        let at = |violation: Violation| Invalid::at(root.line_near(&violation.place), violation.message);
        let explicit = config.read(root, &mut problems);
        if !problems.errors.is_empty() {
            return Err(Invalid::types(problems.errors));
        }
        complete(&mut config, surroundings).map_err(|message| Invalid::at(0, message))?;
        validate::promote_snapshot(&mut config, &explicit).map_err(at)?;
        validate::validate(&config).map_err(at)?;
    }
    problems.warnings.sort_by_key(|warning| warning.line);
    problems.warnings.dedup();
    Ok(Meaning { config, warnings: problems.warnings, document })
}

impl Invalid {
    fn at(line: usize, message: String) -> Self {
        Self { message, line, mismatches: Vec::new() }
    }

    /// In the original's layout; an error without a line stands alone.
    fn types(mut mismatches: Vec<Mismatch>) -> Self {
        match mismatches.as_slice() {
            [single] if !single.names_line => Self::at(single.line, single.message.clone()),
            _ => {
                mismatches.sort_by_key(|mismatch| mismatch.line);
                Self { message: "yaml: unmarshal errors:".to_owned(), line: 0, mismatches }
            }
        }
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
