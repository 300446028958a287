//! Listings: complete or an error.
//!
//! The prefix is that of the level alone. Upstream appends the TXID it seeks to
//! it, and so sees only the file that begins exactly there; here a level starts
//! at an offset. The store's order and its filters are helps, not promises:
//! everything is checked and sorted here.
//!
//! Spec: backends §1.4 and §5, store-and-restore §3.

use std::collections::{HashMap, HashSet};

use http::Method;
use jiff::Timestamp;
use ltx::Txid;
use serde::Deserialize;

use super::api::{Answer, Api, Call, Exchange, Operation};
use crate::layout::{Layout, TIMESTAMP_METADATA, parse_timestamp};
use crate::listing::Pages;
use crate::{Error, ErrorKind, FileInfo, Level, ObjectInfo, Result};

impl Api {
    pub(super) async fn list_level(&self, layout: &Layout, level: Level, seek: Txid) -> Result<Vec<FileInfo>> {
        let prefix = layout.level_prefix(level);
        // Names start with `min`, so all wanted ones sort behind these digits.
        let start = (seek.get() > 0).then(|| format!("{prefix}{seek}"));
        let mut files = Vec::new();
        for object in self.list_items(&prefix, start.as_deref()).await? {
            let Some(id) = layout.file_of(level, &object.name).filter(|id| id.min >= seek) else { continue };
            let stored = object.metadata.get(TIMESTAMP_METADATA).and_then(|text| parse_timestamp(text));
            let created_at = stored.or(object.created()).ok_or_else(|| no_time(&object.name))?;
            files.push(FileInfo { id, size: object.size()?, created_at });
        }
        files.sort_unstable_by_key(|file| file.id);
        files.dedup_by_key(|file| file.id);
        Ok(files)
    }

    /// Every object whose name starts with `root` and then `prefix`; keys are
    /// given without `root`.
    pub(super) async fn list_below(&self, root: &str, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut objects = Vec::new();
        for object in self.list_items(&format!("{root}{prefix}"), None).await? {
            // Consoles store empty objects for the folders they show.
            let Some(key) = object.name.strip_prefix(root).filter(|key| !key.ends_with('/')) else { continue };
            let modified = object.modified().or(object.created()).ok_or_else(|| no_time(&object.name))?;
            objects.push(ObjectInfo { key: key.to_owned(), size: object.size()?, modified });
        }
        objects.sort_unstable();
        objects.dedup_by(|a, b| a.key == b.key);
        Ok(objects)
    }

    /// Names of all objects that start with `prefix`.
    pub(super) async fn list_names(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.list_items(prefix, None).await?.into_iter().map(|object| object.name).collect())
    }

    async fn list_items(&self, prefix: &str, start: Option<&str>) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut token = String::new();
        let mut pages = Pages::default();
        let mut seen = HashSet::new();
        loop {
            let mut call = Call::new(LIST, Method::GET, None);
            call.query.extend([("prefix", prefix), ("maxResults", "1000"), ("fields", FIELDS)]);
            if let Some(start) = start {
                call.query.push(("startOffset", start));
            }
            if !token.is_empty() {
                call.query.push(("pageToken", &token));
            }
            let Answer { body, .. } = self.call(&call).await.map_err(|e| e.context(format!("list {prefix}")))?;
            let page: Page = serde_json::from_slice(&body).map_err(|e| {
                Error::new(ErrorKind::Transient, format!("gs: answer to {} is malformed: {e}", LIST.name))
            })?;
            pages.add(page.items.len(), || format!("gs: list {prefix}"))?;
            items.extend(page.items.into_iter().filter(|item| item.name.starts_with(prefix)));
            if page.next_page_token.is_empty() {
                return Ok(items);
            }
            // In a circle the list would never end.
            if !seen.insert(page.next_page_token.clone()) {
                let message = format!("gs: list {prefix}: the store does not say how to go on");
                return Err(Error::new(ErrorKind::Transient, message));
            }
            token = page.next_page_token;
        }
    }
}

fn no_time(name: &str) -> Error {
    Error::new(ErrorKind::Transient, format!("gs: list {name}: the store tells no time"))
}

/// A page of a listing. Every field may be missing: emulators differ, and an
/// absent field must never be worse than an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Page {
    items: Vec<Item>,
    next_page_token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Item {
    name: String,
    size: String,
    time_created: Option<String>,
    updated: Option<String>,
    metadata: HashMap<String, String>,
}

impl Item {
    fn size(&self) -> Result<u64> {
        let broken = |_| Error::new(ErrorKind::Transient, format!("gs: list {}: the store tells no size", self.name));
        self.size.parse().map_err(broken)
    }

    fn created(&self) -> Option<Timestamp> {
        self.time_created.as_deref().and_then(parse_timestamp)
    }

    fn modified(&self) -> Option<Timestamp> {
        self.updated.as_deref().and_then(parse_timestamp)
    }
}

const LIST: Operation = Operation { store: "gs", name: "list objects", permission: "storage.objects.list" };
const FIELDS: &str = "nextPageToken,items(name,size,timeCreated,updated,metadata)";

#[cfg(test)]
mod tests {
    use litestream_fuzz::{Bound, Target, bounded};

    use super::*;

    #[test]
    fn no_answer_crashes_or_takes_memory_beyond_its_length() {
        let listed = r#"{"kind":"storage#objects","nextPageToken":"t","items":[{"name":"db/ltx/0/x","size":"12",
            "timeCreated":"2026-11-22T10:16:12.5Z","updated":"2026-11-22T10:16:12Z",
            "metadata":{"litestream-timestamp":"2020-01-02T03:04:05Z"}},{"name":"y"}]}"#;
        let words = [
            "{",
            "[",
            "{\"items\":[",
            "{},",
            "\"size\":\"-1\",",
            "\"18446744073709551616\"",
            "null",
            "\\ud800",
            "1e999",
        ];
        Target::new("gs answer", [listed]).words(&words).run(|input| {
            // `{},` becomes a row of two hundred bytes.
            let bound = Bound { base: 64 << 10, per_byte: 260 };
            let Ok(page) = bounded(input.len(), bound, || serde_json::from_slice::<Page>(input)) else { return };
            for item in page.items {
                let _ = (item.size(), item.created(), item.modified());
            }
        });
        for open in ["[", "{\"a\":", "{\"items\":[{\"metadata\":"] {
            assert!(serde_json::from_slice::<Page>(open.repeat(1 << 19).as_bytes()).is_err(), "{open}");
        }
    }
}
