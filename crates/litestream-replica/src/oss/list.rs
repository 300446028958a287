//! Listings: complete or an error.
//!
//! The store's order and its filters are helps, not promises: everything is
//! checked and sorted here.
//!
//! Spec: backends §1.4 and §10, store-and-restore §3.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, StatusCode, header};
use jiff::Timestamp;
use ltx::Txid;

use super::api::{Answer, Api, Call, Exchange, Operation};
use super::xml::{self, ListPage, ListedObject};
use crate::layout::{Layout, parse_timestamp};
use crate::{Error, ErrorKind, FileInfo, Level, ObjectInfo, Result};

impl Api {
    pub(super) async fn list_level(
        &self,
        layout: &Layout,
        level: Level,
        seek: Txid,
        metadata: bool,
    ) -> Result<Vec<FileInfo>> {
        let prefix = layout.level_prefix(level);
        // Names start with `min`, so all wanted ones sort behind these digits.
        let start_after = (seek.get() > 0).then(|| format!("{prefix}{seek}"));
        let mut found = Vec::new();
        self.list_keys(&prefix, start_after.as_deref(), |object| {
            if let Some(id) = layout.file_of(level, &object.key).filter(|id| id.min >= seek) {
                found.push((id, object));
            }
        })
        .await?;
        found.sort_unstable_by_key(|(id, _)| *id);
        found.dedup_by_key(|(id, _)| *id);
        let described = stream::iter(found).map(|(id, object)| async move {
            let facts = self.facts(&object, metadata).await?;
            Ok::<_, Error>(facts.map(|(size, created_at)| FileInfo { id, size, created_at }))
        });
        let files: Vec<Option<FileInfo>> = described.buffered(METADATA_CONCURRENCY).try_collect().await?;
        Ok(files.into_iter().flatten().collect())
    }

    /// Every object below `prefix`, keys relative to `root`.
    pub(super) async fn list_below(&self, root: &str, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let full = format!("{root}{prefix}");
        let mut found = Vec::new();
        self.list_keys(&full, None, |object| {
            // Consoles store empty objects for the folders they show.
            if object.key.starts_with(&full) && !object.key.ends_with('/') {
                found.push(object);
            }
        })
        .await?;
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        found.dedup_by(|a, b| a.key == b.key);
        let described = stream::iter(found).map(|object| async move {
            let facts = self.facts(&object, false).await?;
            let key = object.key.strip_prefix(root).unwrap_or(&object.key).to_owned();
            Ok::<_, Error>(facts.map(|(size, modified)| ObjectInfo { key, size, modified }))
        });
        let objects: Vec<Option<ObjectInfo>> = described.buffered(METADATA_CONCURRENCY).try_collect().await?;
        Ok(objects.into_iter().flatten().collect())
    }

    /// Size and time of a listed object, asking for what the listing left out,
    /// and for the time in its metadata if that is wanted. `None` when it was
    /// deleted since it was listed.
    async fn facts(&self, object: &ListedObject, metadata: bool) -> Result<Option<(u64, Timestamp)>> {
        let listed = object.last_modified.as_deref().and_then(parse_timestamp);
        if let (Some(time), Some(size), false) = (listed, object.size, metadata) {
            return Ok(Some((size, time)));
        }
        let Some(head) = self.head(&object.key).await? else { return Ok(None) };
        match head.timestamp.or(listed).or(head.last_modified) {
            Some(time) => Ok(Some((object.size.unwrap_or(head.size), time))),
            None => {
                let message = format!("oss: list {}: the store tells no time", object.key);
                Err(Error::new(ErrorKind::Transient, message))
            }
        }
    }

    /// Visits every object whose key starts with `prefix`, page by page.
    pub(super) async fn list_keys(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        mut visit: impl FnMut(ListedObject) + Send,
    ) -> Result<()> {
        let mut token: Option<String> = None;
        let mut seen = HashSet::new();
        loop {
            let mut call = Call::new(LIST, Method::GET, None);
            // Keys may hold signs that XML cannot.
            call.query.extend([("list-type", "2"), ("encoding-type", "url"), ("max-keys", "1000"), ("prefix", prefix)]);
            match (&token, start_after) {
                (Some(token), _) => call.query.push(("continuation-token", token)),
                (None, Some(start_after)) => call.query.push(("start-after", start_after)),
                (None, None) => {}
            }
            let Answer { body, .. } = self.call(&call).await.map_err(|e| e.context(format!("list {prefix}")))?;
            let page: ListPage = xml::parse(&body, LIST.name)?;
            for object in page.contents {
                let key = xml::decoded(&page.encoding_type, object.key);
                visit(ListedObject { key, ..object });
            }
            if !page.is_truncated {
                return Ok(());
            }
            // Without a way on, or in a circle, the list would be cut short.
            let next = page.next_continuation_token.filter(|token| !token.is_empty() && seen.insert(token.clone()));
            token = Some(next.ok_or_else(|| {
                Error::new(ErrorKind::Transient, format!("oss: list {prefix}: the store does not say how to go on"))
            })?);
        }
    }

    /// What the store knows about one object; `None` if it is not there.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Head>> {
        let mut call = Call::new(HEAD, Method::HEAD, Some(key));
        call.accept = &[StatusCode::NOT_FOUND];
        let answer = self.call(&call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(Head {
            timestamp: answer.header(TIMESTAMP_HEADER).and_then(parse_timestamp),
            last_modified: answer.header(header::LAST_MODIFIED.as_str()).and_then(crate::http::parse_http_date),
            size: answer.header(header::CONTENT_LENGTH.as_str()).and_then(|len| len.parse().ok()).unwrap_or_default(),
        }))
    }
}

/// What `HeadObject` tells.
pub(super) struct Head {
    /// The LTX header's time, if it was stored readably.
    timestamp: Option<Timestamp>,
    last_modified: Option<Timestamp>,
    size: u64,
}

const LIST: Operation = Operation { store: "oss", name: "list objects", permission: "oss:ListObjects" };
const HEAD: Operation = Operation { store: "oss", name: "head object", permission: "oss:GetObject" };

pub(super) const TIMESTAMP_HEADER: &str = "x-oss-meta-litestream-timestamp";

/// Questions about single objects in flight.
const METADATA_CONCURRENCY: usize = 50;
