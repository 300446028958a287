//! Keys that older versions or drafts knew: what to write instead.
//!
//! They stay unknown keys, so that a file that loaded keeps loading; but whoever
//! set one relied on something, and is told where it went.
//!
//! Spec: docs/configuration.md, "Keys of older versions".

/// What became of an unknown key in the section at `place` (`dbs[0].replica`;
/// empty at the top).
pub(super) fn instead_of(place: &str, key: &str) -> Option<&'static str> {
    let section = place.trim_end_matches(']').trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('[');
    let section = section.rsplit_once('.').map_or(section, |(_, last)| last);
    REMOVED.iter().find(|(of, name, _)| *of == section && *name == key).map(|(_, _, instead)| *instead)
}

/// Section, key, advice.
const REMOVED: [(&str, &str, &str); 17] = [
    ("replica", "retention", RETENTION),
    ("replicas", "retention", RETENTION),
    ("replica", "retention-check-interval", CHECKED),
    ("replicas", "retention-check-interval", CHECKED),
    ("replica", "snapshot-interval", INTERVAL),
    ("replicas", "snapshot-interval", INTERVAL),
    ("", "snapshot-interval", INTERVAL),
    ("", "retention-check-interval", CHECKED),
    ("levels", "retention", RETENTION),
    ("dbs", "directory", "the key is \"dir\""),
    ("dbs", "max-checkpoint-page-count", "since 0.5 \"truncate-page-n\" bounds the WAL"),
    ("dbs", "monitor-delay-interval", "the key is \"monitor-interval\""),
    ("dbs", "shadow-retention-n", SHADOW),
    ("dbs", "shadow-retention-interval", SHADOW),
    ("dbs", "shadow-retention-check-interval", SHADOW),
    ("dbs", "upstream", "live read replication was removed before 0.5"),
    ("", "trace", "set \"logging.level\" to trace"),
];

const RETENTION: &str = "since 0.5 \"snapshot.retention\" at the top of the file says how long backups are kept";
const CHECKED: &str = "since 0.5 expired files are looked for without a setting";
const INTERVAL: &str = "since 0.5 \"snapshot.interval\" at the top of the file says how often snapshots are made";
const SHADOW: &str = "since 0.5 there is no shadow WAL";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_recognised_with_and_without_index() {
        assert_eq!(instead_of("dbs[0].replica", "retention"), Some(RETENTION));
        assert_eq!(instead_of("dbs[12].replicas[0]", "retention"), Some(RETENTION));
        assert_eq!(instead_of("dbs[3]", "directory"), Some("the key is \"dir\""));
        assert_eq!(instead_of("levels[0]", "retention"), Some(RETENTION));
        assert_eq!(instead_of("", "trace"), Some("set \"logging.level\" to trace"));
        assert_eq!(instead_of("dbs[0]", "retention"), None);
    }
}
