//! Where every object of a replica lives, and how its timestamp is spelled.
//!
//! Pure text: nothing here touches a store. The two forms below are on-disk
//! compatibility; a name that differs by one slash is a replica that vanished.
//!
//! Spec: store-and-restore §2, backends §1.2 and §1.3.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use ltx::FileName;

use crate::{FileId, Level};

/// Name of the directory that holds the levels in the [nested](Layout::nested) form.
pub const LTX_DIR: &str = "ltx";

/// Metadata name of a file's timestamp on S3, OSS and GCS.
pub const TIMESTAMP_METADATA: &str = "litestream-timestamp";

/// Turns file identities into object keys below one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Everything before the level, with its final slash (or nothing).
    root: String,
    /// The same for objects of other layouts, which always join it cleaned.
    object_root: String,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `<path>/<level %04x>/<file>`, joined verbatim.
    Flat,
    /// `<path>/ltx/<level>/<file>`, cleaned.
    Nested,
}

impl Layout {
    /// The form of `s3` and `oss`: `<path>/<level %04x>/<file>`.
    ///
    /// The path is taken verbatim and always followed by one slash, so an empty
    /// path makes keys that start with `/`, and `.` makes keys that start with
    /// `./`. Replicas with both exist.
    pub fn flat(path: &str) -> Self {
        Self { root: format!("{path}/"), object_root: cleaned_root(path), form: Form::Flat }
    }

    /// The form of the other types: `<path>/ltx/<level>/<file>`, cleaned, without
    /// a leading slash unless the path has one.
    pub fn nested(path: &str) -> Self {
        let root = cleaned_root(path);
        Self { object_root: root.clone(), root, form: Form::Nested }
    }

    /// What every key of the replica starts with, old layouts included.
    ///
    /// Empty for a [nested](Self::nested) layout without a path: the replica then
    /// shares its bucket's root with whatever else is there.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// What the keys of [`list_objects`](crate::ReplicaClient::list_objects) are
    /// relative to: the cleaned path with its final slash, or nothing.
    pub fn object_root(&self) -> &str {
        &self.object_root
    }

    /// The full key of an object named by a relative one.
    ///
    /// # Errors
    /// [`Setup`](crate::ErrorKind::Setup) when the relative key has empty, `.` or
    /// `..` segments: it could leave the replica.
    pub fn object_key(&self, relative: &str) -> crate::Result<String> {
        check_object_key(relative)?;
        Ok(format!("{}{relative}", self.object_root))
    }

    /// What everything that belongs to the replica starts with: its
    /// [root](Self::root), or, where that is the bucket's own and may hold other
    /// things, the levels' directory.
    pub fn own_prefix(&self) -> String {
        if self.root.is_empty() { format!("{LTX_DIR}/") } else { self.root.clone() }
    }

    /// What every key of a level starts with; ends with a slash.
    pub fn level_prefix(&self, level: Level) -> String {
        let root = &self.root;
        match self.form {
            Form::Flat => format!("{root}{:04x}/", level.get()),
            Form::Nested => format!("{root}{LTX_DIR}/{level}/"),
        }
    }

    /// The key of one file.
    pub fn key(&self, id: FileId) -> String {
        format!("{}{}", self.level_prefix(id.level), id.name())
    }

    /// The file that `key` names, if it lies directly in `level`.
    ///
    /// `None` for everything else, which listings skip silently: temporary files,
    /// foreign names, and files in deeper directories.
    pub fn file_of(&self, level: Level, key: &str) -> Option<FileId> {
        let name = key.strip_prefix(self.level_prefix(level).as_str())?;
        let FileName { min, max } = FileName::parse(name)?;
        Some(FileId { level, min, max })
    }
}

/// The cleaned path with its final slash, or nothing.
fn cleaned_root(path: &str) -> String {
    match clean_path(path).as_str() {
        "." => String::new(),
        "/" => "/".to_owned(),
        path => format!("{path}/"),
    }
}

/// Refuses relative keys that no listing gives.
///
/// # Errors
/// [`Setup`](crate::ErrorKind::Setup) for empty, `.` and `..` segments.
pub fn check_object_key(relative: &str) -> crate::Result<()> {
    match relative.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        true => Err(crate::Error::new(crate::ErrorKind::Setup, format!("object key {relative:?} is not a plain path"))),
        false => Ok(()),
    }
}

/// The directory of one level of a `file` replica.
pub fn level_dir(root: &Path, level: Level) -> PathBuf {
    root.join(LTX_DIR).join(level.to_string())
}

/// The text that stores a file's timestamp in metadata: RFC 3339, UTC, `Z`,
/// milliseconds without trailing zeros.
pub fn format_timestamp(timestamp: Timestamp) -> String {
    // Milliseconds are all an LTX header holds.
    Timestamp::from_millisecond(timestamp.as_millisecond()).unwrap_or(timestamp).to_string()
}

/// Reads a stored timestamp: RFC 3339 with any fraction and offset.
///
/// `None` means that the caller uses the store's own modification time.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    text.trim().parse().ok()
}

/// Shortest equivalent of a slash-separated path, resolving empty, `.` and `..`
/// segments by text alone. The empty path is `.`; no trailing slash survives.
pub fn clean_path(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => match segments.last() {
                Some(&last) if last != ".." => drop(segments.pop()),
                _ if rooted => {}
                _ => segments.push(".."),
            },
            segment => segments.push(segment),
        }
    }
    let joined = segments.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use litestream_fuzz::Target;
    use ltx::Txid;

    use super::*;

    const NAME: &str = "0000000000000002-000000000000000b.ltx";

    fn id(level: u8) -> FileId {
        FileId { level: Level::new(level).unwrap(), min: Txid::new(2), max: Txid::new(11) }
    }

    #[test]
    fn flat_keys_join_the_path_verbatim() {
        for (path, level, key) in [
            ("db", 0, format!("db/0000/{NAME}")),
            ("my/db", 9, format!("my/db/0009/{NAME}")),
            ("", 0, format!("/0000/{NAME}")),
            (".", 1, format!("./0001/{NAME}")),
            ("a/", 0, format!("a//0000/{NAME}")),
            ("/lead/ing/", 0, format!("/lead/ing//0000/{NAME}")),
        ] {
            let layout = Layout::flat(path);
            assert_eq!(layout.key(id(level)), key, "path {path:?}");
            assert_eq!(layout.file_of(id(level).level, &key), Some(id(level)), "path {path:?}");
        }
    }

    #[test]
    fn nested_keys_are_cleaned() {
        for (path, level, key) in [
            ("db", 0, format!("db/ltx/0/{NAME}")),
            ("", 0, format!("ltx/0/{NAME}")),
            (".", 9, format!("ltx/9/{NAME}")),
            ("a//b/../c/", 2, format!("a/c/ltx/2/{NAME}")),
            ("/abs", 0, format!("/abs/ltx/0/{NAME}")),
            ("/", 0, format!("/ltx/0/{NAME}")),
        ] {
            assert_eq!(Layout::nested(path).key(id(level)), key, "path {path:?}");
        }
    }

    #[test]
    fn only_direct_children_of_a_level_are_its_files() {
        let layout = Layout::flat("db");
        for key in [
            format!("db/0000/sub/{NAME}"),
            format!("db/0000/{NAME}.tmp"),
            format!("db/0001/{NAME}"),
            format!("other/0000/{NAME}"),
            "db/0000/".to_owned(),
            "db/lock.json".to_owned(),
        ] {
            assert_eq!(layout.file_of(Level::L0, &key), None, "{key}");
        }
    }

    #[test]
    fn objects_of_other_layouts_lie_below_the_cleaned_path() {
        for (path, root) in
            [("db", "db/"), ("", ""), (".", ""), ("a//b/", "a/b/"), ("/lead/ing/", "/lead/ing/"), ("/", "/")]
        {
            for layout in [Layout::flat(path), Layout::nested(path)] {
                assert_eq!(layout.object_key("generations/x").unwrap(), format!("{root}generations/x"), "{path:?}");
            }
        }
        for key in ["", "/", "a//b", "../a", "a/..", "./a", "a/"] {
            assert_eq!(Layout::flat("db").object_key(key).unwrap_err().kind(), crate::ErrorKind::Setup, "{key:?}");
        }
    }

    #[test]
    fn timestamps_lose_trailing_zeros_only() {
        for (millis, text) in [
            (1_795_342_572_274, "2026-11-22T10:16:12.274Z"),
            (1_795_342_558_420, "2026-11-22T10:15:58.42Z"),
            (1_795_342_558_000, "2026-11-22T10:15:58Z"),
            (0, "1970-01-01T00:00:00Z"),
        ] {
            let timestamp = Timestamp::from_millisecond(millis).unwrap();
            assert_eq!(format_timestamp(timestamp), text);
            assert_eq!(parse_timestamp(text), Some(timestamp));
        }
    }

    #[test]
    fn any_rfc_3339_timestamp_is_read() {
        let wanted = Timestamp::from_millisecond(1_795_342_558_420).unwrap();
        for text in ["2026-11-22T10:15:58.420000000Z", "2026-11-22T11:15:58.42+01:00", " 2026-11-22T10:15:58.42Z "] {
            assert_eq!(parse_timestamp(text), Some(wanted), "{text}");
        }
        for text in ["", "yesterday", "2026-11-22", "1795342558"] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn paths_are_cleaned_by_text_alone() {
        for (path, clean) in [
            ("", "."),
            ("/", "/"),
            ("//", "/"),
            ("a//b/../c/", "a/c"),
            ("../a", "../a"),
            ("a/../..", ".."),
            ("/../a", "/a"),
            ("./a/.", "a"),
            ("//rel/path", "/rel/path"),
        ] {
            assert_eq!(clean_path(path), clean, "{path:?}");
        }
    }

    #[test]
    fn no_key_of_a_listing_leaves_its_level_or_the_replica() {
        let flat = format!("db/0000/{NAME}");
        let words = ["..", "../", "/", "\0", "%2e", "\\", ".ltx", "//", "0000000000000000", "ffffffffffffffff"];
        Target::new("object key", [flat.as_str(), "db/ltx/0/0000000000000002-000000000000000b.ltx"]).words(&words).run(
            |input| {
                let Ok(key) = std::str::from_utf8(input) else { return };
                for layout in [Layout::flat("db"), Layout::nested("db")] {
                    if let Some(id) = layout.file_of(Level::L0, key) {
                        assert_eq!(layout.key(id), key, "a key has one spelling");
                        assert!(id.min <= id.max && !id.min.is_none());
                    }
                    if let Ok(full) = layout.object_key(key) {
                        assert_eq!(clean_path(&full), full, "it stays below the root");
                        assert!(full.starts_with("db/"));
                    }
                }
                let clean = clean_path(key);
                assert_eq!(clean_path(&clean), clean);
                assert!(clean.len() <= key.len().max(1));
                if let Some(time) = parse_timestamp(key) {
                    assert!(parse_timestamp(&format_timestamp(time)).is_some());
                }
            },
        );
    }
}
