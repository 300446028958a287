//! Listings: complete or an error.
//!
//! Servers differ in prefixes of names, in whether names are whole URLs or paths,
//! in what they escape, and in what they leave out. Only the last segments of a
//! name are believed, since a proxy may have changed what stands before them.
//!
//! Spec: backends §9, RFC 4918 §9.1 and §13.

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use ltx::{FileName, Txid};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::api::{ANSWER_LIMIT, Api, Call};
use crate::file::is_temporary_name;
use crate::http::{parse_http_date, range};
use crate::layout::{Layout, parse_timestamp};
use crate::listing::Pages;
use crate::{Error, ErrorKind, FileId, FileInfo, Level, ObjectInfo, Result};

/// A member of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name in the collection, escapes resolved.
    pub(super) name: String,
    pub(super) is_collection: bool,
    pub(super) size: Option<u64>,
    pub(super) modified: Option<Timestamp>,
}

impl Api {
    /// The members of a collection, in the server's order; `None` if there is no
    /// such collection. `path` ends with a slash.
    pub(super) async fn members(&self, path: &str) -> Result<Option<Vec<Member>>> {
        let call = propfind(path, "1")?;
        let answer = self.call(&call, LISTING_LIMIT).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if answer.status.as_u16() != MULTI_STATUS {
            let (origin, status) = (self.server.origin(), answer.status.as_u16());
            let message = format!("{origin} does not speak WebDAV there; correct webdav-url (answer {status})");
            return Err(Error::new(ErrorKind::Setup, format!("{}: {message}", call.describe())));
        }
        let own = format!("{}/{path}", decoded(&self.server.base_path));
        read_members(&answer.body, &own).map(Some).map_err(|e| e.context(call.describe()))
    }

    /// Whether there is a collection at `path`.
    pub(super) async fn is_collection(&self, path: &str) -> Result<bool> {
        match self.status(&propfind(path, "0")?).await {
            Ok(status) => Ok(status.as_u16() == MULTI_STATUS),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Size and modification time of a file by `HEAD`; `None` if it is not there.
    pub(super) async fn head(&self, path: &str) -> Result<Option<Head>> {
        let call = Call::new("look at", "HEAD", path).accept(&[404, 410]);
        let answer = self.call(&call, ANSWER_LIMIT).await?;
        if !answer.status.is_success() {
            return Ok(None);
        }
        let text = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        Ok(Some(Head {
            size: text("content-length").and_then(|len| len.parse().ok()),
            modified: text("last-modified").and_then(read_time),
        }))
    }

    /// The files of a level, sorted; and the names that belong to none.
    pub(super) async fn list_level(
        &self,
        layout: &Layout,
        level: Level,
        seek: Txid,
        metadata: bool,
    ) -> Result<(Vec<FileInfo>, Vec<Member>)> {
        let path = layout.level_prefix(level);
        let members = match self.members(&path).await? {
            Some(members) => members,
            None => {
                self.check_base(&path).await?;
                Vec::new()
            }
        };
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for member in members.into_iter().filter(|member| !member.is_collection) {
            match FileName::parse(&member.name) {
                Some(FileName { min, max }) if min >= seek => found.push((FileId { level, min, max }, member)),
                Some(_) => {}
                None => others.push(member),
            }
        }
        found.sort_unstable_by_key(|(id, _)| *id);
        found.dedup_by_key(|(id, _)| *id);
        let described = stream::iter(found).map(|(id, member)| self.describe_file(layout, id, member, metadata));
        let files: Vec<Option<FileInfo>> = described.buffered(LOOKS_IN_FLIGHT).try_collect().await?;
        Ok((files.into_iter().flatten().collect(), others))
    }

    /// Every file below `prefix`, one collection after the other: many servers
    /// refuse to list a whole tree at once.
    pub(super) async fn list_tree(&self, root: &str, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        let mut collections = vec![(prefix.to_owned(), 0)];
        let mut pages = Pages::default();
        while let Some((collection, depth)) = collections.pop() {
            let path = format!("{root}{collection}");
            if depth > DEEPEST {
                let message = format!("webdav: list {path}: collections are nested too deeply, perhaps in a circle");
                return Err(Error::new(ErrorKind::Setup, message));
            }
            let members = self.members(&path).await?.unwrap_or_default();
            pages.add(members.len(), || format!("webdav: list {root}{prefix}"))?;
            for member in members {
                let key = format!("{collection}{}", member.name);
                if member.is_collection {
                    collections.push((format!("{key}/"), depth + 1));
                } else if !is_temporary_name(&member.name) {
                    found.push((key, member));
                }
            }
        }
        found.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        found.dedup_by(|(left, _), (right, _)| left == right);
        let described = stream::iter(found).map(|(key, member)| async move {
            let facts = self.facts(&format!("{root}{key}"), &member).await?;
            Ok::<_, Error>(facts.map(|(size, modified)| ObjectInfo { key, size, modified }))
        });
        let objects: Vec<Option<ObjectInfo>> = described.buffered(LOOKS_IN_FLIGHT).try_collect().await?;
        Ok(objects.into_iter().flatten().collect())
    }

    /// A row of a listing; `None` when the file is gone meanwhile.
    async fn describe_file(
        &self,
        layout: &Layout,
        id: FileId,
        member: Member,
        metadata: bool,
    ) -> Result<Option<FileInfo>> {
        let key = layout.key(id);
        let Some((size, mut created_at)) = self.facts(&key, &member).await? else { return Ok(None) };
        if metadata {
            match self.header_time(&key).await {
                Ok(time) => created_at = time.unwrap_or(created_at),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(FileInfo { id, size, created_at }))
    }

    /// Size and time of a member, asking for what the listing left out; `None`
    /// when it is gone meanwhile.
    async fn facts(&self, path: &str, member: &Member) -> Result<Option<(u64, Timestamp)>> {
        let (mut size, mut modified) = (member.size, member.modified);
        if size.is_none() || modified.is_none() {
            let Some(head) = self.head(path).await? else { return Ok(None) };
            (size, modified) = (size.or(head.size), modified.or(head.modified));
        }
        match size.zip(modified) {
            Some(facts) => Ok(Some(facts)),
            None => {
                let message = format!("webdav: list {path}: the server does not tell size and time");
                Err(Error::new(ErrorKind::Transient, message))
            }
        }
    }

    /// The time in a file's own header, since the protocol has no place for it;
    /// `None` for what is no LTX file.
    async fn header_time(&self, key: &str) -> Result<Option<Timestamp>> {
        let len = ltx::Header::LEN as u64;
        let call = Call::new("read", "GET", key).header("range", &format!("bytes=0-{}", len - 1))?.accept(&[416]);
        let bytes: Vec<bytes::Bytes> = self
            .retry
            .run(call.operation, || async {
                let response = self.attempt(&call).await?;
                Ok(range::cut(response, 0, len, call.describe())?.try_collect().await?)
            })
            .await?;
        Ok(ltx::Header::parse(&bytes.concat()).ok().map(|header| header.timestamp))
    }

    /// A collection that is absent is an empty replica, unless the place that it
    /// would be in is absent, too: then the settings are wrong.
    async fn check_base(&self, path: &str) -> Result<()> {
        let base = &self.server.base_path;
        if base.is_empty() || self.is_collection("").await? {
            return Ok(());
        }
        let origin = self.server.origin();
        let message = format!("webdav: list {path}: {origin}{base} does not exist; create it or correct webdav-url");
        Err(Error::new(ErrorKind::Setup, message))
    }
}

/// What `HEAD` tells.
pub(super) struct Head {
    pub(super) size: Option<u64>,
    pub(super) modified: Option<Timestamp>,
}

/// Asks for what a listing needs, of a collection (`0`) or of its members too (`1`).
pub(super) fn propfind<'a>(path: &'a str, depth: &str) -> Result<Call<'a>> {
    let call = Call::new("list", "PROPFIND", path).header("depth", depth)?;
    Ok(call.header("content-type", "application/xml; charset=utf-8")?.text(WANTED))
}

fn read_time(text: &str) -> Option<Timestamp> {
    parse_http_date(text.trim()).or_else(|| parse_timestamp(text))
}

/// Reads the members of the collection at `path` from a multi-status document.
fn read_members(body: &[u8], path: &str) -> Result<Vec<Member>> {
    let broken = |cause: &dyn std::fmt::Display| Error::new(ErrorKind::Transient, format!("malformed answer: {cause}"));
    let text = std::str::from_utf8(body).map_err(|e| broken(&e))?;
    let Multistatus { response } = quick_xml::de::from_str(text).map_err(|e| broken(&e))?;
    let mut members = Vec::new();
    for row in response {
        let failed = row.status.as_deref().and_then(status_code).filter(|code| *code >= 300);
        match failed {
            None => {}
            // Deleted while the list was made.
            Some(404 | 410) => continue,
            Some(code) => {
                let kind = if code >= 500 || code == 429 { ErrorKind::Transient } else { ErrorKind::Setup };
                return Err(Error::new(kind, format!("the list is not complete ({code})")));
            }
        }
        let Some(name) = member_name(&row.href, path) else { continue };
        let mut member = Member { name, is_collection: row.href.trim().ends_with('/'), size: None, modified: None };
        for Propstat { prop, status } in row.propstat {
            if status.as_deref().and_then(status_code).is_some_and(|code| code >= 300) {
                continue;
            }
            member.is_collection |= prop.resourcetype.is_some_and(|kind| kind.collection.is_some());
            member.size = prop.getcontentlength.and_then(|size| size.trim().parse().ok()).or(member.size);
            member.modified = prop.getlastmodified.as_deref().and_then(read_time).or(member.modified);
        }
        members.push(member);
    }
    Ok(members)
}

/// The last segment of a member's URL or path; `None` for the collection itself
/// and for what is not directly in it.
fn member_name(href: &str, path: &str) -> Option<String> {
    let href = href.trim().split(['?', '#']).next().unwrap_or_default();
    let href = match href.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, rest)| rest),
        None => href,
    };
    let mut found: Vec<String> = href.split('/').filter(|segment| !segment.is_empty()).map(decoded).collect();
    let own: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if found == own {
        return None;
    }
    // An escaped slash would lead elsewhere.
    let name = found.pop().filter(|name| !matches!(name.as_str(), "." | "..") && !name.contains(['/', '\0']))?;
    let known = own.len().saturating_sub(2);
    found.iter().map(String::as_str).collect::<Vec<_>>().ends_with(own.get(known..)?).then_some(name)
}

fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// The number in `HTTP/1.1 200 OK`.
fn status_code(line: &str) -> Option<u16> {
    line.split_whitespace().nth(1)?.parse().ok()
}

#[derive(Debug, Deserialize)]
struct Multistatus {
    #[serde(default)]
    response: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    href: String,
    status: Option<String>,
    #[serde(default)]
    propstat: Vec<Propstat>,
}

#[derive(Debug, Deserialize)]
struct Propstat {
    #[serde(default)]
    prop: Prop,
    status: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Prop {
    resourcetype: Option<ResourceType>,
    getcontentlength: Option<String>,
    getlastmodified: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ResourceType {
    collection: Option<serde::de::IgnoredAny>,
}

const MULTI_STATUS: u16 = 207;

const WANTED: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><propfind xmlns=\"DAV:\"><prop><resourcetype/>\
                      <getcontentlength/><getlastmodified/></prop></propfind>";

/// Upper bound of a listing: some hundred thousand files.
const LISTING_LIMIT: usize = 256 << 20;
/// Collections inside one another.
const DEEPEST: usize = 16;
/// Questions about single files in flight.
const LOOKS_IN_FLIGHT: usize = 32;

#[cfg(test)]
mod tests {
    use litestream_fuzz::{Bound, Target, bounded};

    use super::*;

    const NAME: &str = "0000000000000001-0000000000000002.ltx";

    fn members(rows: &str) -> Vec<Member> {
        let body = format!("<?xml version=\"1.0\"?>\n<D:multistatus xmlns:D=\"DAV:\">{rows}</D:multistatus>");
        read_members(body.as_bytes(), "/db/ltx/0/").unwrap()
    }

    fn file(name: &str, size: Option<u64>) -> Member {
        let modified = parse_timestamp("2026-11-22T10:16:12Z");
        Member { name: name.to_owned(), is_collection: false, size, modified }
    }

    #[test]
    fn listings_of_real_servers_are_read() {
        let apache = format!(
            "<D:response xmlns:lp1=\"DAV:\" xmlns:lp2=\"http://apache.org/dav/props/\"><D:href>/db/ltx/0/</D:href><D:propstat><D:prop>\
             <lp1:resourcetype><D:collection/></lp1:resourcetype><lp1:getlastmodified>Sun, 22 Nov 2026 10:16:12 GMT</lp1:getlastmodified>\
             </D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat><D:propstat><D:prop><g0:getcontentlength xmlns:g0=\"DAV:\"/></D:prop>\
             <D:status>HTTP/1.1 404 Not Found</D:status></D:propstat></D:response>\n\
             <D:response xmlns:lp1=\"DAV:\"><D:href>/db/ltx/0/{NAME}</D:href><D:propstat><D:prop><lp1:resourcetype/>\
             <lp1:getcontentlength>12</lp1:getcontentlength>\
             <lp1:getlastmodified xmlns:b=\"urn:x\" b:dt=\"dateTime.rfc1123\">Sun, 22 Nov 2026 10:16:12 GMT</lp1:getlastmodified>\
             </D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
        );
        assert_eq!(members(&apache), [file(NAME, Some(12))]);
    }

    #[test]
    fn names_are_found_however_they_are_written() {
        let row = |href: &str| {
            format!(
                "<D:response><D:href>{href}</D:href><D:propstat><D:prop><D:resourcetype/><D:getcontentlength>3</D:getcontentlength>\
             <D:getlastmodified>2026-11-22T10:16:12Z</D:getlastmodified></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
            )
        };
        for href in [
            format!("/db/ltx/0/{NAME}"),
            format!("http://h:1/db/ltx/0/{NAME}"),
            format!("https://proxy/elsewhere/db/ltx/0/{NAME}"),
            format!("\n /db//ltx/0/{} ", NAME.replace('-', "%2D")),
            format!("ltx/0/{NAME}?x"),
            format!("/%64b/ltx/0/{NAME}"),
        ] {
            assert_eq!(members(&row(&href)), [file(NAME, Some(3))], "{href}");
        }
        for href in ["/db/ltx/0/", "/db/ltx/0", "http://h/db/ltx/0/", "/", "", &format!("/db/ltx/0/sub/{NAME}")] {
            assert_eq!(members(&row(href)), [], "{href}");
        }
        assert_eq!(members(&row("/db/ltx/0/a&amp;b%26%20%C3%BC")), [file("a&b& ü", Some(3))]);
    }

    #[test]
    fn collections_are_told_from_files() {
        let row = |href: &str, kind: &str| {
            format!(
                "<D:response><D:href>/db/ltx/0/{href}</D:href><D:propstat><D:prop>{kind}</D:prop></D:propstat></D:response>"
            )
        };
        for (href, kind, is_collection) in [
            ("a/", "", true),
            ("a", "<D:resourcetype><D:collection/></D:resourcetype>", true),
            ("a", "<D:resourcetype><D:collection></D:collection><x/></D:resourcetype>", true),
            ("a", "<D:resourcetype/>", false),
            ("a", "<D:resourcetype></D:resourcetype>", false),
        ] {
            assert_eq!(members(&row(href, kind))[0].is_collection, is_collection, "{href} {kind}");
        }
    }

    #[test]
    fn lists_that_are_cut_short_are_errors() {
        let row = |status: u16| {
            format!(
                "<D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>/db/ltx/0/x</D:href><D:status>HTTP/1.1 {status} X</D:status>\
             </D:response></D:multistatus>"
            )
        };
        assert_eq!(read_members(row(404).as_bytes(), "db/ltx/0/").unwrap(), []);
        for (status, kind) in [(507, ErrorKind::Transient), (403, ErrorKind::Setup)] {
            assert_eq!(read_members(row(status).as_bytes(), "db/ltx/0/").unwrap_err().kind(), kind);
        }
        for body in ["", "<multistatus><response>", "\u{0}", "<html><body>Log in</body></html"] {
            assert!(read_members(body.as_bytes(), "db/ltx/0/").is_err(), "{body}");
        }
    }

    #[test]
    fn no_listing_crashes_expands_or_names_what_is_elsewhere() {
        let row = "<D:response><D:href>/db/ltx/0/a%20b</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype>\
            <D:getcontentlength>3</D:getcontentlength><D:getlastmodified>Sun, 22 Nov 2026 10:16:12 GMT</D:getlastmodified>\
            </D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat><D:status>HTTP/1.1 200 OK</D:status></D:response>";
        let listed = format!("<D:multistatus xmlns:D=\"DAV:\">{row}{}</D:multistatus>", row.replace("a%20b", NAME));
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
            "..",
            "../",
            "%2e%2e%2f",
            "%00",
            "//",
            "://",
            "/db/ltx/0/",
            "<D:response>",
            "</D:response>",
            "<D:href>",
            "<D:href/>",
        ];
        Target::new("webdav listing", [listed]).words(&words).run(|input| {
            let bound = Bound { base: 64 << 10, per_byte: 60 };
            let Ok(members) = bounded(input.len(), bound, || read_members(input, "/db/ltx/0/")) else { return };
            for Member { name, .. } in members {
                assert!(!matches!(name.as_str(), "" | "." | ".."), "{name:?}");
                assert!(!name.contains(['/', '\0']), "{name:?}");
            }
        });
        for href in ["..", "%2e%2e", ".", "%2e%2e%2fx", "a%2Fb", "x%00", "../", "%2E/"] {
            let listed = format!("<multistatus><response><href>/db/ltx/0/{href}</href></response></multistatus>");
            assert_eq!(read_members(listed.as_bytes(), "/db/ltx/0/").unwrap(), [], "{href}");
        }
        for tag in ["<response>", "<response><propstat><prop>", "<x>", "<resourcetype>"] {
            let nested = format!("<multistatus>{}", tag.repeat(1 << 20));
            assert!(read_members(nested.as_bytes(), "/").is_err(), "{tag}");
        }
    }
}
