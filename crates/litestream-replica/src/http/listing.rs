//! Listings in the manner of `ListObjectsV2`: complete or an error.
//!
//! The store's order and its filters are helps, not promises: everything is
//! checked and sorted here. Stores differ in how they are asked for a page, and
//! about one object.
//!
//! Spec: backends §1.4, store-and-restore §3.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use ltx::Txid;
use serde::Deserialize;

use crate::layout::{Layout, parse_timestamp};
use crate::listing::Pages;
use crate::{Error, ErrorKind, FileInfo, Level, ObjectInfo, Result};

/// A page. Whatever is missing is no worse than an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ListPage {
    /// How keys are written; empty: as they are.
    pub(crate) encoding_type: String,
    pub(crate) is_truncated: bool,
    pub(crate) next_continuation_token: Option<String>,
    pub(crate) contents: Vec<ListedObject>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ListedObject {
    pub(crate) key: String,
    pub(crate) last_modified: Option<String>,
    pub(crate) size: Option<u64>,
}

/// What a question about one object tells.
pub(crate) struct Head {
    /// The LTX header's time, if it was stored readably.
    pub(crate) timestamp: Option<Timestamp>,
    pub(crate) last_modified: Option<Timestamp>,
    pub(crate) size: u64,
}

/// Where a page begins.
#[derive(Clone, Copy)]
pub(crate) enum Begin<'a> {
    AtTheStart,
    /// Behind a key.
    After(&'a str),
    /// Where the page before ended.
    At(&'a str),
}

impl<'a> Begin<'a> {
    /// Name and value, if it needs one.
    pub(crate) fn parameter(self) -> Option<(&'static str, &'a str)> {
        match self {
            Self::AtTheStart => None,
            Self::After(key) => Some(("start-after", key)),
            Self::At(token) => Some(("continuation-token", token)),
        }
    }
}

/// A store that is listed so.
pub(crate) trait Listing: Sync {
    /// Its type, for messages.
    const STORE: &'static str;

    /// Asks for one page of the keys that start with `prefix`, and decodes them.
    fn page(&self, prefix: &str, begin: Begin<'_>) -> impl Future<Output = Result<ListPage>> + Send;

    /// What the store knows about one object; `None` if it is not there.
    fn head(&self, key: &str) -> impl Future<Output = Result<Option<Head>>> + Send;
}

/// The files of a level from `seek` on. `is_ordered` is false for buckets that have
/// no order to start in.
pub(crate) async fn level<L: Listing>(
    store: &L,
    layout: &Layout,
    level: Level,
    seek: Txid,
    metadata: bool,
    is_ordered: bool,
) -> Result<Vec<FileInfo>> {
    let prefix = layout.level_prefix(level);
    // Names start with `min`, so all wanted ones sort behind these digits.
    let start_after = (seek.get() > 0 && is_ordered).then(|| format!("{prefix}{seek}"));
    let mut found = Vec::new();
    keys(store, &prefix, start_after.as_deref(), |object| {
        if let Some(id) = layout.file_of(level, &object.key).filter(|id| id.min >= seek) {
            found.push((id, object));
        }
    })
    .await?;
    found.sort_unstable_by_key(|(id, _)| *id);
    found.dedup_by_key(|(id, _)| *id);
    let described = stream::iter(found).map(|(id, object)| async move {
        let facts = describe(store, &object, metadata).await?;
        Ok::<_, Error>(facts.map(|(size, created_at)| FileInfo { id, size, created_at }))
    });
    let files: Vec<Option<FileInfo>> = described.buffered(METADATA_CONCURRENCY).try_collect().await?;
    Ok(files.into_iter().flatten().collect())
}

/// Every object whose key starts with `root` and then `prefix`; keys are given
/// without `root`.
pub(crate) async fn below<L: Listing>(store: &L, root: &str, prefix: &str) -> Result<Vec<ObjectInfo>> {
    let full = format!("{root}{prefix}");
    let mut found = Vec::new();
    keys(store, &full, None, |object| {
        // Consoles store empty objects for the folders they show.
        if object.key.starts_with(&full) && !object.key.ends_with('/') {
            found.push(object);
        }
    })
    .await?;
    found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    found.dedup_by(|a, b| a.key == b.key);
    let described = stream::iter(found).map(|object| async move {
        let facts = describe(store, &object, false).await?;
        let key = object.key.strip_prefix(root).unwrap_or(&object.key).to_owned();
        Ok::<_, Error>(facts.map(|(size, modified)| ObjectInfo { key, size, modified }))
    });
    let objects: Vec<Option<ObjectInfo>> = described.buffered(METADATA_CONCURRENCY).try_collect().await?;
    Ok(objects.into_iter().flatten().collect())
}

/// Visits every object whose key starts with `prefix`, page by page.
pub(crate) async fn keys<L: Listing>(
    store: &L,
    prefix: &str,
    start_after: Option<&str>,
    mut visit: impl FnMut(ListedObject) + Send,
) -> Result<()> {
    let mut token: Option<String> = None;
    let mut pages = Pages::default();
    let mut seen = HashSet::new();
    loop {
        let begin = match (&token, start_after) {
            (Some(token), _) => Begin::At(token),
            (None, Some(key)) => Begin::After(key),
            (None, None) => Begin::AtTheStart,
        };
        let page = store.page(prefix, begin).await?;
        pages.add(page.contents.len(), || format!("{}: list {prefix}", L::STORE))?;
        page.contents.into_iter().for_each(&mut visit);
        if !page.is_truncated {
            return Ok(());
        }
        // Without a way on, or in a circle, the list would be cut short.
        let next = page.next_continuation_token.filter(|token| !token.is_empty() && seen.insert(token.clone()));
        token = Some(next.ok_or_else(|| {
            let message = format!("{}: list {prefix}: the store does not say how to go on", L::STORE);
            Error::new(ErrorKind::Transient, message)
        })?);
    }
}

/// Size and time of a listed object, asking for what the listing left out, and for
/// the time in its metadata if that is wanted. `None` when it was deleted since it
/// was listed: not part of the replica.
async fn describe<L: Listing>(store: &L, object: &ListedObject, metadata: bool) -> Result<Option<(u64, Timestamp)>> {
    let listed = object.last_modified.as_deref().and_then(parse_timestamp);
    if let (Some(modified), Some(size), false) = (listed, object.size, metadata) {
        return Ok(Some((size, modified)));
    }
    let Some(head) = store.head(&object.key).await? else { return Ok(None) };
    let Some(created_at) = head.timestamp.or(listed).or(head.last_modified) else {
        let message = format!("{}: list {}: the store tells no time", L::STORE, object.key);
        return Err(Error::new(ErrorKind::Transient, message));
    };
    Ok(Some((object.size.unwrap_or(head.size), created_at)))
}

/// Questions about single objects in flight.
const METADATA_CONCURRENCY: usize = 50;
