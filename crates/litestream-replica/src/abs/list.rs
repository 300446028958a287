//! Listings: complete or an error.
//!
//! The prefix is that of the level alone. Upstream appends the TXID it seeks to
//! it, and so sees only the file that begins exactly there; here the rest of a
//! level is filtered after it arrived, since the service has no other start than
//! its own markers.
//!
//! Spec: backends §1.4 and §6, store-and-restore §3.

use std::collections::HashSet;

use http::Method;
use jiff::Timestamp;
use ltx::Txid;
use serde::Deserialize;

use super::api::{Answer, Api, Call, Exchange, Operation};
use crate::http::parse_http_date;
use crate::layout::{Layout, parse_timestamp};
use crate::listing::Pages;
use crate::{Error, ErrorKind, FileInfo, Level, ObjectInfo, Result};

impl Api {
    pub(super) async fn list_level(&self, layout: &Layout, level: Level, seek: Txid) -> Result<Vec<FileInfo>> {
        let prefix = layout.level_prefix(level);
        let mut files = Vec::new();
        for blob in self.list_blobs(&prefix).await? {
            let Some(id) = layout.file_of(level, &blob.name).filter(|id| id.min >= seek) else { continue };
            let Some(created_at) = blob.timestamp.or(blob.created) else {
                return Err(Error::new(
                    ErrorKind::Transient,
                    format!("abs: list {}: the store tells no time", blob.name),
                ));
            };
            files.push(FileInfo { id, size: blob.size, created_at });
        }
        files.sort_unstable_by_key(|file| file.id);
        files.dedup_by_key(|file| file.id);
        Ok(files)
    }

    /// Every blob whose name starts with `root` and then `prefix`; keys are given
    /// without `root`.
    pub(super) async fn list_below(&self, root: &str, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut objects = Vec::new();
        for blob in self.list_blobs(&format!("{root}{prefix}")).await? {
            let Some(key) = blob.name.strip_prefix(root).filter(|_| !blob.is_folder) else { continue };
            let Some(modified) = blob.modified.or(blob.created) else {
                return Err(Error::new(
                    ErrorKind::Transient,
                    format!("abs: list {}: the store tells no time", blob.name),
                ));
            };
            objects.push(ObjectInfo { key: key.to_owned(), size: blob.size, modified });
        }
        objects.sort_unstable();
        objects.dedup_by(|a, b| a.key == b.key);
        Ok(objects)
    }

    /// Every blob whose name starts with `prefix`, folders of hierarchical
    /// accounts included.
    pub(super) async fn list_blobs(&self, prefix: &str) -> Result<Vec<Blob>> {
        let mut blobs = Vec::new();
        let mut marker = String::new();
        let mut pages = Pages::default();
        let mut seen = HashSet::new();
        loop {
            let mut call = Call::new(LIST, Method::GET, None);
            call.query.extend([
                ("restype", "container"),
                ("comp", "list"),
                ("include", "metadata"),
                ("prefix", prefix),
            ]);
            if !marker.is_empty() {
                call.query.push(("marker", &marker));
            }
            let Answer { body, .. } = self.call(&call).await.map_err(|e| e.context(format!("list {prefix}")))?;
            let page = parse(&body)?;
            pages.add(page.blobs.blob.len(), || format!("abs: list {prefix}"))?;
            blobs.extend(page.blobs.blob.into_iter().map(Blob::from).filter(|blob| blob.name.starts_with(prefix)));
            if page.next_marker.is_empty() {
                return Ok(blobs);
            }
            // In a circle the list would never end.
            if !seen.insert(page.next_marker.clone()) {
                let message = format!("abs: list {prefix}: the store does not say how to go on");
                return Err(Error::new(ErrorKind::Transient, message));
            }
            marker = page.next_marker;
        }
    }
}

/// One blob of a listing.
pub(super) struct Blob {
    pub(super) name: String,
    pub(super) size: u64,
    /// A directory of an account with a hierarchical namespace.
    pub(super) is_folder: bool,
    /// The LTX header's time, if it was stored readably.
    timestamp: Option<Timestamp>,
    created: Option<Timestamp>,
    modified: Option<Timestamp>,
}

impl From<ListedBlob> for Blob {
    fn from(listed: ListedBlob) -> Self {
        let ListedBlob { name, properties, metadata } = listed;
        // Names that XML cannot hold arrive escaped, and say so.
        let name = match name.encoded {
            true => percent_encoding::percent_decode_str(&name.text).decode_utf8_lossy().into_owned(),
            false => name.text,
        };
        let is_folder = metadata.hdi_isfolder.as_deref() == Some("true")
            || properties.resource_type.as_deref() == Some("directory");
        Self {
            name,
            size: properties.content_length.unwrap_or_default(),
            is_folder,
            timestamp: metadata.litestreamtimestamp.as_deref().and_then(parse_timestamp),
            created: properties.creation_time.as_deref().and_then(parse_http_date),
            modified: properties.last_modified.as_deref().and_then(parse_http_date),
        }
    }
}

/// A page of `List Blobs`. Every field may be missing: emulators differ, and an
/// absent element must never be worse than an error.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    blobs: Blobs,
    next_marker: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Blobs {
    blob: Vec<ListedBlob>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ListedBlob {
    name: Name,
    properties: Properties,
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Name {
    #[serde(rename = "@Encoded")]
    encoded: bool,
    #[serde(rename = "$text")]
    text: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Properties {
    #[serde(rename = "Content-Length")]
    content_length: Option<u64>,
    #[serde(rename = "Creation-Time")]
    creation_time: Option<String>,
    #[serde(rename = "Last-Modified")]
    last_modified: Option<String>,
    resource_type: Option<String>,
}

/// Names are compared in exactly this case, which is how both programs send them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    litestreamtimestamp: Option<String>,
    hdi_isfolder: Option<String>,
}

fn parse(body: &[u8]) -> Result<Page> {
    let broken = |cause: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Transient, format!("abs: answer to {} is malformed: {cause}", LIST.name))
    };
    let text = std::str::from_utf8(body).map_err(|e| broken(&e))?;
    quick_xml::de::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| broken(&e))
}

const LIST: Operation = Operation { store: "abs", name: "list blobs", permission: "list" };

#[cfg(test)]
mod tests {
    use litestream_fuzz::{Bound, Target, bounded};

    use super::*;

    #[test]
    fn pages_are_read_whatever_is_missing() {
        let page = parse(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ContainerName=\"c\"><Prefix>p</Prefix>\
             <Blobs><Blob><Name>a&amp;b/ltx/0/x y</Name><Properties><Creation-Time>Sun, 22 Nov 2026 10:16:12 GMT\
             </Creation-Time><Content-Length>12</Content-Length><BlobType>BlockBlob</BlobType></Properties>\
             <Metadata><litestreamtimestamp>2020-01-02T03:04:05.25Z</litestreamtimestamp></Metadata></Blob>\
             <Blob><Name Encoded=\"true\">a%EF%BF%BE</Name><Metadata/></Blob>\
             <Blob><Name>dir</Name><Metadata><hdi_isfolder>true</hdi_isfolder></Metadata></Blob></Blobs>\
             <NextMarker>m&amp;1</NextMarker></EnumerationResults>"
                .as_bytes(),
        )
        .unwrap();
        assert_eq!(page.next_marker, "m&1");
        let blobs: Vec<Blob> = page.blobs.blob.into_iter().map(Blob::from).collect();
        assert_eq!((blobs[0].name.as_str(), blobs[0].size), ("a&b/ltx/0/x y", 12));
        assert_eq!(blobs[0].timestamp.unwrap().to_string(), "2020-01-02T03:04:05.25Z");
        assert_eq!(blobs[0].created.unwrap().to_string(), "2026-11-22T10:16:12Z");
        assert_eq!(blobs[1].name, "a\u{fffe}");
        assert!(blobs[2].is_folder && !blobs[0].is_folder);
        let empty = parse(b"<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>").unwrap();
        assert!(empty.blobs.blob.is_empty() && empty.next_marker.is_empty());
    }

    #[test]
    fn what_is_no_listing_is_an_error() {
        for body in [b"".as_slice(), b"<EnumerationResults><Blobs>", b"\xff\xfe", b"not found"] {
            assert!(parse(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn no_answer_crashes_or_expands() {
        let listed = "<EnumerationResults><Blobs><Blob><Name>a&amp;b</Name><Properties><Creation-Time>Sun, 22 Nov 2026 10:16:12 GMT\
            </Creation-Time><Content-Length>12</Content-Length></Properties><Metadata><litestreamtimestamp>2020-01-02T03:04:05Z\
            </litestreamtimestamp></Metadata></Blob><Blob><Name Encoded=\"true\">a%EF%BF%BE</Name><Metadata/></Blob></Blobs>\
            <NextMarker>m</NextMarker></EnumerationResults>";
        let words = [
            "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>",
            "&b;",
            "&#0;",
            "&#x10ffff;",
            "<![CDATA[",
            "]]>",
            "<!--",
            "<?xml",
            "<a>",
            "</a>",
            "<Contents>",
            "</Contents>",
            "<Key>",
            "xsi:nil=\"true\"",
            "18446744073709551616",
            "-1",
            "<Blob>",
            "</Blob>",
            "<Blobs>",
            "Encoded=\"true\"",
        ];
        Target::new("abs answer", [listed]).words(&words).run(|input| {
            let bound = Bound { base: 64 << 10, per_byte: 80 };
            if let Ok(page) = bounded(input.len(), bound, || parse(input)) {
                let names = page.blobs.blob.into_iter().map(|listed| Blob::from(listed).name.len());
                assert!(names.sum::<usize>() <= 3 * input.len(), "nothing expands");
            }
        });
        for tag in ["<Blob>", "<Blobs><Blob>", "<x>", "<Metadata>"] {
            let nested = format!("<EnumerationResults>{}", tag.repeat(1 << 20));
            assert!(parse(nested.as_bytes()).is_err(), "{tag}");
        }
    }
}
