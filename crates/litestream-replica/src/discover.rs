//! Which replicas lie below a place in a store.
//!
//! A replica has no list of itself; it is recognised by the names of its files.
//! Only names are looked at, so what is found may still turn out to be
//! unrestorable, but nothing that could be restored is missed.
//!
//! Spec: store-and-restore §2; docs/restore.md, "Many databases".

use std::collections::BTreeSet;

use ltx::FileName;

use crate::layout::{LTX_DIR, check_object_key};
use crate::{ReplicaClient, Result, v3};

/// The replicas at and below the client's place: relative paths, ascending, the
/// empty one for the place itself. Every object below it is listed.
///
/// A path is safe to join to a directory: it has neither `..` nor empty
/// segments. What has is passed over with a warning, as nobody but an attacker
/// or an accident makes such names.
///
/// # Errors
/// What the listing gives.
pub async fn discover(client: &dyn ReplicaClient) -> Result<Vec<String>> {
    let is_flat = matches!(client.kind(), "s3" | "oss");
    let mut found = BTreeSet::new();
    for object in client.list_objects("").await? {
        let Some(place) = place_of(&object.key, is_flat) else { continue };
        if place.is_empty() || is_plain(place) {
            if !found.contains(place) {
                found.insert(place.to_owned());
            }
        } else {
            tracing::warn!(key = object.key, "a replica whose path is not plain is passed over");
        }
    }
    Ok(found.into_iter().collect())
}

/// Whether a path stays below the directory that it is joined to.
fn is_plain(place: &str) -> bool {
    check_object_key(place).is_ok() && !place.contains(['\0', '\\'])
}

/// The replica that a key belongs to, or `None` for foreign objects. `is_flat`
/// says which of the two layouts the store has.
fn place_of(key: &str, is_flat: bool) -> Option<&str> {
    v3::place_of(key).or_else(|| {
        let (rest, name) = split_last(key);
        FileName::parse(name)?;
        let (rest, level) = split_last(rest?);
        if is_flat {
            let is_level =
                level.len() == 4 && level.starts_with("000") && level.ends_with(|c: char| c.is_ascii_digit());
            return is_level.then(|| rest.unwrap_or_default());
        }
        let is_level = level.len() == 1 && level.starts_with(|c: char| c.is_ascii_digit());
        let (rest, directory) = split_last(rest.filter(|_| is_level)?);
        (directory == LTX_DIR).then(|| rest.unwrap_or_default())
    })
}

/// What stands before the last slash, if there is one, and behind it.
fn split_last(key: &str) -> (Option<&str>, &str) {
    key.rsplit_once('/').map_or((None, key), |(rest, last)| (Some(rest), last))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "0000000000000001-0000000000000002.ltx";

    #[test]
    fn replicas_are_recognised_by_their_files() {
        for (key, is_flat, place) in [
            (format!("ltx/0/{NAME}"), false, Some("")),
            (format!("a/b.db/ltx/9/{NAME}"), false, Some("a/b.db")),
            (format!("0009/{NAME}"), true, Some("")),
            (format!("a/b.db/0000/{NAME}"), true, Some("a/b.db")),
            (format!("a/b.db/0000/{NAME}"), false, None),
            (format!("a/b.db/ltx/0/{NAME}"), true, None),
            (format!("a/b.db/ltx/10/{NAME}"), false, None),
            (format!("a/b.db/000a/{NAME}"), true, None),
            (format!("a/ltx/0/{NAME}.tmp"), false, None),
            (NAME.to_owned(), true, None),
            ("a/generations/0123456789abcdef/snapshots/00000000.snapshot.lz4".to_owned(), true, Some("a")),
            ("generations/0123456789abcdef/wal/00000000_00000000.wal.lz4".to_owned(), false, Some("")),
            ("a/generations/notes.txt".to_owned(), false, None),
        ] {
            assert_eq!(place_of(&key, is_flat), place, "{key} {is_flat}");
        }
    }

    #[tokio::test]
    async fn paths_that_lead_elsewhere_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        for place in ["good/a.db", "..hidden", "we\\ird"] {
            let level = dir.path().join(place).join("ltx/0");
            std::fs::create_dir_all(&level).unwrap();
            std::fs::write(level.join(NAME), "").unwrap();
            std::fs::write(level.join("0000000000000003-0000000000000004.ltx"), "").unwrap();
        }
        let client = crate::file::FileClient::new(crate::file::FileOptions::new(dir.path())).unwrap();
        assert_eq!(discover(&client).await.unwrap(), ["..hidden", "good/a.db"]);
        for key in ["../x", "a/../../x", "/etc/x", "a//b", "./x"] {
            assert!(!is_plain(key), "{key}");
        }
    }
}
