//! What a configuration must satisfy, in the original's words.
//!
//! The first violation is reported, checked in the original's order: settings of
//! the whole file, then each database in turn. What a replica's store needs is
//! checked when its client is built.
//!
//! Spec: docs/configuration.md, "Top of the file" and "Database".

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::config::model::{Config, DbConfig, Explicit, ReplicaSettings, Snapshot};
use crate::units::GoDuration;

/// Levels above this one are reserved for snapshots.
const LEVELS_MAX: usize = 8;

/// Takes a database's snapshot settings as global ones where the file sets no
/// global value.
///
/// # Errors
/// Two databases disagree.
pub(crate) fn promote_snapshot(config: &mut Config, explicit: &Explicit) -> Result<(), String> {
    let interval = agreed(&config.dbs, "intervals", |snapshot| snapshot.interval)?;
    let retention = agreed(&config.dbs, "retentions", |snapshot| snapshot.retention)?;
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
) -> Result<Option<GoDuration>, String> {
    let mut values = dbs.iter().filter_map(|db| Some((db, field(&db.snapshot)?)));
    let Some((first, value)) = values.next() else { return Ok(None) };
    match values.find(|(_, other)| *other != value) {
        Some((db, other)) => Err(format!(
            "conflicting database snapshot {what}: {} has {value}, {} has {other}",
            first.place(),
            db.place()
        )),
        None => Ok(Some(value)),
    }
}

/// Checks everything that needs no store.
///
/// # Errors
/// The first violation.
pub(crate) fn validate(config: &Config) -> Result<(), String> {
    positive("snapshot.interval", "snapshot interval", config.snapshot.interval)?;
    positive("snapshot.retention", "snapshot retention", config.snapshot.retention)?;
    if config.l0_retention < GoDuration::ZERO {
        return Err(format!("l0-retention: l0 retention must not be negative (got {})", config.l0_retention));
    }
    positive("l0-retention-check-interval", "l0 retention check interval", config.l0_retention_check_interval)?;
    if config.shutdown_sync_timeout < GoDuration::ZERO {
        return Err(format!(
            "shutdown-sync-timeout: shutdown-sync-timeout must be >= 0 (got {})",
            config.shutdown_sync_timeout
        ));
    }
    positive("shutdown-sync-interval", "shutdown sync interval", config.shutdown_sync_interval)?;
    validate_heartbeat(config)?;
    for (index, interval) in config.levels.iter().enumerate() {
        positive(&format!("levels[{index}].interval"), "compaction interval", *interval)?;
    }
    if config.levels.len() > LEVELS_MAX {
        return Err(format!("compaction level cannot exceed {LEVELS_MAX}"));
    }
    if !matches!(config.logging.kind.as_str(), "" | "text" | "json" | "pretty") {
        return Err(format!("logging.type: must be text, json or pretty (got {})", config.logging.kind));
    }
    let mut paths = HashMap::new();
    for (index, db) in config.dbs.iter().enumerate() {
        validate_db(db, index + 1, &mut paths)?;
    }
    Ok(())
}

fn positive(key: &str, name: &str, value: GoDuration) -> Result<(), String> {
    if value.is_positive() { Ok(()) } else { Err(format!("{key}: {name} must be greater than 0 (got {value})")) }
}

fn validate_heartbeat(config: &Config) -> Result<(), String> {
    let url = &config.heartbeat_url;
    if !url.is_empty() && !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(format!("heartbeat-url: heartbeat URL must be a valid HTTP or HTTPS URL (got {url})"));
    }
    if config.heartbeat_interval < GoDuration::from_secs(60) {
        return Err(format!(
            "heartbeat-interval: heartbeat interval must be at least 1 minute (got {})",
            config.heartbeat_interval
        ));
    }
    Ok(())
}

fn validate_db<'a>(db: &'a DbConfig, number: usize, paths: &mut HashMap<&'a Path, usize>) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("database config #{number}: {what}"));
    match (&db.path, &db.dir) {
        (Some(_), Some(_)) => return wrong("cannot specify both 'path' and 'dir'"),
        (None, None) => return wrong("must specify either 'path' or 'dir'"),
        (Some(path), None) => {
            if let Some(first) = paths.insert(path, number) {
                return wrong(&format!(
                    "duplicate path {path:?} (already used by database config #{first}); each database can be listed only once"
                ));
            }
        }
        (None, Some(_)) if db.pattern.is_empty() => return wrong("'pattern' is required when using 'dir'"),
        (None, Some(_)) => {}
    }
    if db.dir.is_none() && db.watch {
        return wrong("'watch' can only be enabled with a directory");
    }
    if db.dir.is_none() && db.meta_dir.is_some() {
        return wrong("'meta-dir' can only be used with a directory");
    }
    if db.meta_path.is_some() && db.meta_dir.is_some() {
        return wrong("cannot specify both 'meta-path' and 'meta-dir'");
    }
    let place = format!("dbs[{}]", db.place());
    if let Some(interval) = db.snapshot.interval {
        positive(&format!("{place}.snapshot.interval"), "snapshot interval", interval)?;
    }
    if let Some(retention) = db.snapshot.retention {
        positive(&format!("{place}.snapshot.retention"), "snapshot retention", retention)?;
    }
    if let Some(replica) = &db.replica {
        validate_replica(replica, &format!("{place}.replica"))?;
    }
    for (index, replica) in db.replicas.iter().enumerate() {
        validate_replica(replica, &format!("{place}.replicas[{index}]"))?;
    }
    Ok(())
}

fn validate_replica(replica: &ReplicaSettings, place: &str) -> Result<(), String> {
    match replica.sync_interval {
        Some(interval) => positive(&format!("{place}.sync-interval"), "sync interval", interval),
        None => Ok(()),
    }
}

impl DbConfig {
    /// What the entry is called in messages: its path or directory.
    pub(crate) fn place(&self) -> String {
        self.path.as_ref().or(self.dir.as_ref()).map_or_else(String::new, |path: &PathBuf| path.display().to_string())
    }
}
