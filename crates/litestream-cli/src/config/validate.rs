//! What a configuration must satisfy, in the original's words.
//!
//! The first violation is reported, with the place it can be found at, checked in
//! the original's order: settings of the whole file, then each database in turn. What a replica's store needs is
//! checked when its client is built.
//!
//! Spec: docs/configuration.md, "Top of the file" and "Database".

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::config::model::{Config, DbConfig, Explicit, Snapshot};
use crate::output::without_credentials;
use crate::units::GoDuration;

/// Levels above this one are reserved for snapshots.
const LEVELS_MAX: usize = 8;

/// What a configuration may not be, and where it is.
#[derive(Debug)]
pub(crate) struct Violation {
    /// `dbs[0].replica.sync-interval`, for [`Node::line_near`](super::yaml::Node::line_near).
    pub(crate) place: String,
    /// In the original's words.
    pub(crate) message: String,
}

fn violation<T>(place: impl Into<String>, message: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { place: place.into(), message: message.into() })
}

/// Takes a database's snapshot settings as global ones where the file sets no
/// global value.
///
/// # Errors
/// Two databases disagree.
pub(crate) fn promote_snapshot(config: &mut Config, explicit: &Explicit) -> Result<(), Violation> {
    let interval = agreed(&config.dbs, "interval", |snapshot| snapshot.interval)?;
    let retention = agreed(&config.dbs, "retention", |snapshot| snapshot.retention)?;
    if let Some(interval) = interval.filter(|_| !explicit.snapshot.interval) {
        config.snapshot.interval = interval;
    }
    if let Some(retention) = retention.filter(|_| !explicit.snapshot.retention) {
        config.snapshot.retention = retention;
    }
    Ok(())
}

fn agreed(
    dbs: &[DbConfig],
    what: &str,
    field: impl Fn(&Snapshot<Option<GoDuration>>) -> Option<GoDuration>,
) -> Result<Option<GoDuration>, Violation> {
    let mut values = dbs.iter().enumerate().filter_map(|(index, db)| Some((index, db, field(&db.snapshot)?)));
    let Some((_, first, value)) = values.next() else { return Ok(None) };
    match values.find(|(_, _, other)| *other != value) {
        Some((index, db, other)) => violation(
            format!("dbs[{index}].snapshot.{what}"),
            format!("conflicting database snapshot {what}s: {} has {value}, {} has {other}", first.place(), db.place()),
        ),
        None => Ok(Some(value)),
    }
}

/// Checks everything that needs no store.
///
/// # Errors
/// The first violation.
pub(crate) fn validate(config: &Config) -> Result<(), Violation> {
    let positive = |key: &str, name, value| positive(key, key, name, value);
    positive("snapshot.interval", "snapshot interval", config.snapshot.interval)?;
    positive("snapshot.retention", "snapshot retention", config.snapshot.retention)?;
    if config.l0_retention < GoDuration::ZERO {
        let message = format!("l0-retention: l0 retention must not be negative (got {})", config.l0_retention);
        return violation("l0-retention", message);
    }
    positive("l0-retention-check-interval", "l0 retention check interval", config.l0_retention_check_interval)?;
    if config.shutdown_sync_timeout < GoDuration::ZERO {
        let got = config.shutdown_sync_timeout;
        let message = format!("shutdown-sync-timeout: shutdown-sync-timeout must be >= 0 (got {got})");
        return violation("shutdown-sync-timeout", message);
    }
    positive("shutdown-sync-interval", "shutdown sync interval", config.shutdown_sync_interval)?;
    validate_heartbeat(config)?;
    for (index, interval) in config.levels.iter().enumerate() {
        positive(&format!("levels[{index}].interval"), "compaction interval", *interval)?;
    }
    if config.levels.len() > LEVELS_MAX {
        let message = format!("compaction level cannot exceed {LEVELS_MAX}");
        return violation(format!("levels[{LEVELS_MAX}]"), message);
    }
    if !matches!(config.logging.kind.as_str(), "" | "text" | "json" | "pretty") {
        let message = format!("logging.type: must be text, json or pretty (got {})", config.logging.kind);
        return violation("logging.type", message);
    }
    let mut paths = HashMap::new();
    for (index, db) in config.dbs.iter().enumerate() {
        validate_db(db, index, &mut paths)?;
    }
    Ok(())
}

/// `key` is what the message calls the setting at `place`.
fn positive(place: &str, key: &str, name: &str, value: GoDuration) -> Result<(), Violation> {
    match value.is_positive() {
        true => Ok(()),
        false => violation(place, format!("{key}: {name} must be greater than 0 (got {value})")),
    }
}

fn validate_heartbeat(config: &Config) -> Result<(), Violation> {
    let url = &config.heartbeat_url;
    if !url.is_empty() && !url.starts_with("http://") && !url.starts_with("https://") {
        let got = without_credentials(url);
        let message = format!("heartbeat-url: heartbeat URL must be a valid HTTP or HTTPS URL (got {got})");
        return violation("heartbeat-url", message);
    }
    if config.heartbeat_interval < GoDuration::from_secs(60) {
        let got = config.heartbeat_interval;
        let message = format!("heartbeat-interval: heartbeat interval must be at least 1 minute (got {got})");
        return violation("heartbeat-interval", message);
    }
    Ok(())
}

fn validate_db<'a>(db: &'a DbConfig, index: usize, paths: &mut HashMap<&'a Path, usize>) -> Result<(), Violation> {
    let number = index + 1;
    let place = |key: &str| format!("dbs[{index}].{key}");
    let wrong = |key: &str, what: &str| violation(place(key), format!("database config #{number}: {what}"));
    match (&db.path, &db.dir) {
        (Some(_), Some(_)) => return wrong("dir", "cannot specify both 'path' and 'dir'"),
        (None, None) => return wrong("", "must specify either 'path' or 'dir'"),
        (Some(path), None) => {
            if let Some(first) = paths.insert(path, number) {
                let what = format!(
                    "duplicate path {path:?} (already used by database config #{first}); each database can be listed only once"
                );
                return wrong("path", &what);
            }
        }
        (None, Some(_)) if db.pattern.is_empty() => return wrong("dir", "'pattern' is required when using 'dir'"),
        (None, Some(_)) => {}
    }
    if db.dir.is_none() && db.watch {
        return wrong("watch", "'watch' can only be enabled with a directory");
    }
    if db.dir.is_none() && db.meta_dir.is_some() {
        return wrong("meta-dir", "'meta-dir' can only be used with a directory");
    }
    if db.meta_path.is_some() && db.meta_dir.is_some() {
        return wrong("meta-dir", "cannot specify both 'meta-path' and 'meta-dir'");
    }
    // Messages name the database, which says more than its number.
    let positive = |key: &str, name: &str, value: Option<GoDuration>| match value {
        Some(value) => positive(&place(key), &format!("dbs[{}].{key}", db.place()), name, value),
        None => Ok(()),
    };
    positive("snapshot.interval", "snapshot interval", db.snapshot.interval)?;
    positive("snapshot.retention", "snapshot retention", db.snapshot.retention)?;
    if let Some(replica) = &db.replica {
        positive("replica.sync-interval", "sync interval", replica.sync_interval)?;
    }
    for (index, replica) in db.replicas.iter().enumerate() {
        positive(&format!("replicas[{index}].sync-interval"), "sync interval", replica.sync_interval)?;
    }
    Ok(())
}

impl DbConfig {
    /// What the entry is called in messages: its path or directory.
    pub(crate) fn place(&self) -> String {
        self.path.as_ref().or(self.dir.as_ref()).map_or_else(String::new, |path: &PathBuf| path.display().to_string())
    }
}
