//! The configuration as it takes effect: every setting with its value, and where
//! that came from.
//!
//! The tree has the shape of a configuration file. Values stand in it as the
//! program uses them; a line number says which line of the file decided. Secrets
//! never get in: they are masked here, not where something is printed.
//!
//! Spec: docs/commands.md, "config".

use litestream::{DbOptions, ReplicaOptions, meta_path};
use litestream_replica::lease::DEFAULT_TTL;

use super::model::LeaseSettings;
use super::{Config, DbConfig, Document, ReplicaSettings, Surroundings, defaults};
use crate::environment::Environment;
use crate::output::{MASK, server_of, without_credentials};
use crate::units::GoDuration;

/// A part of the effective configuration.
#[derive(Debug)]
pub(crate) enum Tree {
    /// One value.
    Setting(Value, Source),
    /// Keys in the order a person would write them.
    Section(Vec<(&'static str, Tree)>),
    /// Elements in order.
    List(Vec<Tree>),
    /// What follows from the settings around it, and is none itself.
    Facts(Vec<(&'static str, String)>),
}

/// A value in the notation of its key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Bool(bool),
    Integer(i64),
    Duration(GoDuration),
    /// Permissions of a file.
    Mode(u32),
    Texts(Vec<String>),
}

/// What decided a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nothing set it.
    Default,
    /// A line of the file, possibly with variables in it.
    File { line: usize, variables: Vec<String> },
    /// A variable of the environment that the file does not mention.
    Environment(&'static str),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<GoDuration> for Value {
    fn from(duration: GoDuration) -> Self {
        Self::Duration(duration)
    }
}

impl From<std::time::Duration> for Value {
    fn from(duration: std::time::Duration) -> Self {
        Self::Duration(duration.into())
    }
}

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

/// The whole configuration.
///
/// # Errors
/// An entry that cannot be used, as the command that uses it would say.
pub(crate) fn tree(config: &Config, document: &Document, surroundings: &Surroundings<'_>) -> anyhow::Result<Tree> {
    let origins = Origins { document, environment: surroundings.environment };
    let mut top = origins.section("");
    top.put("addr", config.addr.as_str());
    top.put("mcp-addr", config.mcp_addr.as_str());
    top.put("exec", config.exec.as_str());
    let mut socket = origins.section("socket");
    socket.put("enabled", config.socket.enabled);
    socket.put("path", config.socket.path.as_str());
    socket.put("permissions", Value::Mode(config.socket.permissions));
    top.nest("socket", socket);
    top.nest("logging", logging(config, &origins));
    let levels = config.levels.iter().enumerate().map(|(index, interval)| {
        let mut level = origins.section(&format!("levels[{index}]"));
        level.put("interval", *interval);
        level.into_tree()
    });
    top.entries.push(("levels", Tree::List(levels.collect())));
    let mut snapshot = origins.section("snapshot");
    for (key, value) in [("interval", config.snapshot.interval), ("retention", config.snapshot.retention)] {
        // A database's value becomes the global one.
        let promoted = (0..config.dbs.len()).map(|index| format!("dbs[{index}].snapshot.{key}"));
        let promoted = promoted.filter_map(|place| origins.in_file(&place)).next();
        snapshot.put_or(key, value, promoted);
    }
    top.nest("snapshot", snapshot);
    top.put("l0-retention", config.l0_retention);
    top.put("l0-retention-check-interval", config.l0_retention_check_interval);
    let mut retention = origins.section("retention");
    retention.put("enabled", config.retention_enabled);
    top.nest("retention", retention);
    let mut validation = origins.section("validation");
    validation.put("interval", config.validation_interval.unwrap_or_default());
    top.nest("validation", validation);
    top.put("verify-compaction", config.verify_compaction);
    top.put("shutdown-sync-timeout", config.shutdown_sync_timeout);
    top.put("shutdown-sync-interval", config.shutdown_sync_interval);
    top.put("heartbeat-url", server_of(&config.heartbeat_url));
    top.put("heartbeat-interval", config.heartbeat_interval);
    let mut dbs = Vec::new();
    for (index, db) in config.dbs.iter().enumerate() {
        dbs.push(database(db, &format!("dbs[{index}]"), &origins, surroundings)?);
    }
    top.entries.push(("dbs", Tree::List(dbs)));
    Ok(top.into_tree())
}

fn logging<'a>(config: &Config, origins: &'a Origins<'a>) -> Section<'a> {
    let mut logging = origins.section("logging");
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    match origins.environment.non_empty("LOG_LEVEL") {
        Some(level) => {
            logging.entries.push(("level", Tree::Setting(level.into(), Source::Environment("LOG_LEVEL"))));
        }
        None => logging.put("level", or(&config.logging.level, "info")),
    }
    logging.put("type", or(&config.logging.kind, "text"));
    logging.put("stderr", config.logging.stderr);
    logging.put("source", config.logging.source);
    logging
}

fn database(
    db: &DbConfig,
    place: &str,
    origins: &Origins<'_>,
    surroundings: &Surroundings<'_>,
) -> anyhow::Result<Tree> {
    let mut entry = origins.section(place);
    let shown = |path: &std::path::Path| path.display().to_string();
    if let Some(path) = &db.path {
        entry.put("path", shown(path));
    }
    if let Some(dir) = &db.dir {
        entry.put("dir", shown(dir));
        entry.put("pattern", db.pattern.as_str());
        entry.put("recursive", db.recursive);
        entry.put("watch", db.watch);
    }
    if let Some(base) = &db.meta_dir {
        entry.put("meta-dir", shown(base));
    }
    match (&db.meta_path, &db.path) {
        (Some(meta), _) => entry.put("meta-path", shown(meta)),
        (None, Some(path)) => entry.put("meta-path", shown(&meta_path(path))),
        (None, None) => {}
    }
    let DbOptions {
        monitor_interval,
        checkpoint_interval,
        busy_timeout,
        min_checkpoint_page_count,
        truncate_page_n,
        max_sync_wal_bytes,
        max_local_bytes,
        max_wal_bytes,
        ..
    } = db.options()?;
    entry.put("monitor-interval", monitor_interval);
    entry.put("checkpoint-interval", checkpoint_interval);
    entry.put("busy-timeout", busy_timeout);
    entry.put("min-checkpoint-page-count", min_checkpoint_page_count);
    entry.put("truncate-page-n", truncate_page_n);
    entry.put("max-sync-wal-bytes", max_sync_wal_bytes);
    entry.put("max-local-bytes", max_local_bytes);
    entry.put("max-wal-bytes", max_wal_bytes);
    entry.put("restore-if-db-not-exists", db.restore_if_db_not_exists);
    if db.snapshot.interval.is_some() || db.snapshot.retention.is_some() {
        let mut snapshot = origins.section(&format!("{place}.snapshot"));
        if let Some(interval) = db.snapshot.interval {
            snapshot.put("interval", interval);
        }
        if let Some(retention) = db.snapshot.retention {
            snapshot.put("retention", retention);
        }
        entry.nest("snapshot", snapshot);
    }
    let own_place = if db.replica.is_some() { format!("{place}.replica") } else { format!("{place}.replicas[0]") };
    let mut replica = replica(db.replica()?, &own_place, origins);
    let client = db.client(surroundings)?;
    let mut facts = vec![("type", client.kind().to_owned()), ("location", client.location())];
    facts.extend(client.log_fields());
    replica.entries.push(("resolved", Tree::Facts(facts)));
    entry.nest("replica", replica);
    if db.dir.is_some() {
        entry.entries.push(("matches", Tree::Facts(matches(db, surroundings))));
    }
    Ok(entry.into_tree())
}

/// The databases of a `dir` entry at this moment.
fn matches(db: &DbConfig, surroundings: &Surroundings<'_>) -> Vec<(&'static str, String)> {
    let found = match db.find_databases() {
        Ok(found) => found.databases,
        // No reason to refuse the file: the directory may belong to another machine.
        Err(why) => return vec![("none", why)],
    };
    let located = |db: &DbConfig| match db.client(surroundings) {
        Ok(client) => format!("{} -> {}", db.place(), client.location()),
        Err(error) => format!("{}: {error}", db.place()),
    };
    found.iter().map(|db| ("database", located(db))).collect()
}

fn replica<'a>(replica: &ReplicaSettings, place: &str, origins: &'a Origins<'a>) -> Section<'a> {
    let mut section = origins.section(place);
    let kind = replica.kind().unwrap_or("file");
    for (key, value) in [("url", &replica.url), ("path", &replica.path)] {
        if let Some(value) = value {
            section.put(key, masked(key, value));
        }
    }
    // Where the URL decides, a type beside it does not count.
    let by_url = origins.in_file(&format!("{place}.url"));
    match by_url.filter(|_| replica.url.as_deref().is_some_and(|url| url.contains("://"))) {
        Some(source) => section.entries.push(("type", Tree::Setting(kind.into(), source))),
        None => section.put("type", kind),
    }
    let unset = ReplicaOptions::default();
    for (key, value) in replica.settings() {
        let inherited = origins.in_file(key);
        let value = match (value, key) {
            (Some(Value::Text(text)), _) => Value::Text(masked(key, &text)),
            (Some(value), _) => value,
            (None, "sync-interval") => defaults::SYNC_INTERVAL.into(),
            (None, "max-sync-ltx-files") => unset.max_sync_ltx_files.into(),
            (None, "auto-recover") => unset.auto_recover.into(),
            (None, _) => {
                if let Some((variable, value)) = from_environment(kind, key, origins.environment) {
                    let value = Value::Text(masked(key, &value));
                    section.entries.push((key, Tree::Setting(value, Source::Environment(variable))));
                }
                continue;
            }
        };
        section.put_or(key, value, inherited);
    }
    if replica.lease != LeaseSettings::default() {
        let mut lease = origins.section(&format!("{place}.lease"));
        lease.put("enabled", replica.lease.enabled.unwrap_or_default());
        lease.put("ttl", replica.lease.ttl.unwrap_or_else(|| DEFAULT_TTL.into()));
        section.nest("lease", lease);
    }
    section
}

/// What a backend takes from the environment where the file is silent.
fn from_environment(kind: &str, key: &str, environment: &Environment) -> Option<(&'static str, String)> {
    let rows = CREDENTIALS.iter().filter(|(of, name, _)| *of == kind && *name == key);
    rows.filter_map(|(_, _, variable)| Some((*variable, environment.non_empty(variable)?.to_owned()))).next()
}

/// Type, key and variable, the first that is set counting.
const CREDENTIALS: [(&str, &str, &str); 8] = [
    ("s3", "access-key-id", "AWS_ACCESS_KEY_ID"),
    ("s3", "access-key-id", "LITESTREAM_ACCESS_KEY_ID"),
    ("s3", "secret-access-key", "AWS_SECRET_ACCESS_KEY"),
    ("s3", "secret-access-key", "LITESTREAM_SECRET_ACCESS_KEY"),
    ("abs", "account-key", "LITESTREAM_AZURE_ACCOUNT_KEY"),
    ("abs", "sas-token", "LITESTREAM_AZURE_SAS_TOKEN"),
    ("oss", "access-key-id", "OSS_ACCESS_KEY_ID"),
    ("oss", "secret-access-key", "OSS_ACCESS_KEY_SECRET"),
];

/// A value that may be shown: secrets as [`MASK`], URLs without user and without
/// parameters that carry a secret.
fn masked(key: &str, value: &str) -> String {
    if SECRETS.contains(&key) && !value.is_empty() {
        return MASK.to_owned();
    }
    if !value.contains("://") {
        // Somebody took a host for a URL.
        let host = value.rsplit_once('@').filter(|_| ["host", "endpoint", "url", "webdav-url"].contains(&key));
        return host.map_or_else(|| value.to_owned(), |(_, host)| format!("{MASK}@{host}"));
    }
    let plain = without_credentials(value);
    let has_user = value.split('?').next() != plain.split('?').next();
    if has_user { plain.replacen("://", &format!("://{MASK}@"), 1) } else { plain }
}

/// Keys whose values open something.
const SECRETS: [&str; 10] = [
    "secret-access-key",
    "sse-customer-key",
    "account-key",
    "sas-token",
    "password",
    "webdav-password",
    "jwt",
    "seed",
    "nkey",
    "token",
];

/// Where values come from.
struct Origins<'a> {
    document: &'a Document,
    environment: &'a Environment,
}

impl Origins<'_> {
    /// The line that sets what is at `place`.
    fn in_file(&self, place: &str) -> Option<Source> {
        let node = self.document.root.as_ref()?.at(place).filter(|node| !node.is_null())?;
        let line = node.line();
        let on_line = self.document.variables.iter().filter(|(at, _)| *at == line);
        let mut variables: Vec<String> = on_line.map(|(_, name)| name.clone()).collect();
        variables.dedup();
        Some(Source::File { line, variables })
    }

    fn section(&self, place: &str) -> Section<'_> {
        Section { origins: self, place: place.to_owned(), entries: Vec::new() }
    }
}

/// A section being put together.
struct Section<'a> {
    origins: &'a Origins<'a>,
    place: String,
    entries: Vec<(&'static str, Tree)>,
}

impl<'a> Section<'a> {
    fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.put_or(key, value, None);
    }

    /// What the file does not set here comes from `elsewhere`, or is a default.
    fn put_or(&mut self, key: &'static str, value: impl Into<Value>, elsewhere: Option<Source>) {
        let place = if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) };
        let source = self.origins.in_file(&place).or(elsewhere).unwrap_or(Source::Default);
        self.entries.push((key, Tree::Setting(value.into(), source)));
    }

    fn nest(&mut self, key: &'static str, section: Section<'a>) {
        self.entries.push((key, section.into_tree()));
    }

    fn into_tree(self) -> Tree {
        Tree::Section(self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        for (key, value, shown) in [
            ("password", "hunter2", "***"),
            ("password", "", ""),
            ("user", "me", "me"),
            ("url", "sftp://me:hunter2@host/p", "sftp://***@host/p"),
            ("url", "s3://b/p?region=eu&sseCustomerKey=abc", "s3://b/p?region=eu&sseCustomerKey=***"),
            ("endpoint", "https://me:pw@host", "https://***@host"),
            ("host", "me:pw@host:22", "***@host:22"),
            ("key-path", "/home/me@x/.ssh/id", "/home/me@x/.ssh/id"),
        ] {
            assert_eq!(masked(key, value), shown, "{key}: {value}");
        }
    }
}
