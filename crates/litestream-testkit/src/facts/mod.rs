//! What a recorded request says, without what differs from run to run: the facts
//! that two programs can be compared by.
//!
//! Values that depend on time, chance or content are replaced by what they are:
//! `<date>`, `<uuid>`, `<md5 of the body>`. A digest is called so only if it
//! agrees with the body, so a wrong one shows. TXIDs stay. Left out are the
//! headers that name the program or belong to the connection.

mod body;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::recorder::Request;

/// One request, described.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    /// `GET`, …
    pub method: String,
    /// The path as it was sent, escapes included.
    pub path: String,
    /// Names and values in the order of names, as they were sent.
    pub query: Vec<(String, String)>,
    /// Status of the answer.
    pub status: u16,
    /// Names in lower case and what their values are, in the order of names.
    pub headers: Vec<(String, String)>,
    /// What the body is, and how its end is told; empty if there is none.
    pub body: String,
}

impl Fact {
    /// Describes a request. `names` are texts that differ from run to run, such
    /// as the name of a bucket, and what to call them; the first that fits counts.
    pub fn of(request: &Request, names: &[(String, String)]) -> Self {
        let rename = |text: &str| {
            let text = names.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
            match (text.find(".ltx."), text.rfind(".tmp")) {
                (Some(start), Some(end)) if start < end => {
                    text.get(..start + ".ltx.".len()).unwrap_or_default().to_owned()
                        + "<writer>"
                        + text.get(end..).unwrap_or_default()
                }
                _ => text,
            }
        };
        let target = rename(&request.target);
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let mut query: Vec<(String, String)> = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, text)| (name.to_owned(), value::of_query(name, text)))
            .collect();
        query.sort();
        let kept = request.headers.iter().filter(|(name, _)| !LEFT_OUT.contains(&name.as_str()));
        let mut headers: Vec<(String, String)> =
            kept.map(|(name, text)| (name.clone(), value::of_header(name, &rename(text), &request.body))).collect();
        headers.sort();
        let body = body::describe(request, &rename);
        Self { method: request.method.clone(), path: path.to_owned(), query, status: request.status, headers, body }
    }

    /// What kind of request it is, by method, by what it is about (a file, a
    /// temporary file, or what holds them), and by the parameters that stores tell
    /// operations apart by: `PUT file ?partNumber`.
    pub fn kind(&self) -> String {
        let about = if self.path.contains(".tmp") {
            "temporary"
        } else if self.path.contains(".ltx") {
            "file"
        } else {
            "collection"
        };
        let telling = self.query.iter().filter_map(|(name, value)| match name.as_str() {
            "comp" | "uploadType" => Some(format!(" ?{name}={value}")),
            "uploads" | "uploadId" | "upload_id" | "partNumber" | "delete" | "list-type" | "location" => {
                Some(format!(" ?{name}"))
            }
            _ => None,
        });
        format!("{} {about}{}", self.method, telling.collect::<String>())
    }

    /// All that can differ between two requests of one kind, a text for each:
    /// the path's form, every parameter (from `?` on), header and signed header, the body.
    pub fn items(&self) -> BTreeSet<String> {
        let mut items = BTreeSet::from([form(&self.path)]);
        for (name, value) in &self.query {
            items.insert(format!("?{name}={}", form(value)));
        }
        for (name, value) in &self.headers {
            let (value, signed) = value.split_once(" SignedHeaders=").unwrap_or((value, ""));
            items.insert(format!("{name}: {}", form(value)));
            items.extend(signed.split(';').filter(|name| !name.is_empty()).map(|name| format!("signed {name}")));
        }
        if !self.body.is_empty() {
            items.insert(format!("body {}", form(&self.body)));
        }
        items
    }
}

/// All items of each kind of request.
pub fn by_kind(facts: &[Fact]) -> BTreeMap<String, BTreeSet<String>> {
    let mut kinds: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for fact in facts {
        kinds.entry(fact.kind()).or_default().extend(fact.items());
    }
    kinds
}

/// A path or a name with `LEVEL` and `FILE` in place of the level's directory and
/// the file's name, whatever separates them.
fn form(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let slash = ["/", "%2F"].into_iter().filter_map(|slash| Some((rest.find(slash)?, slash))).min();
        let (name, separator) = slash.map_or((rest, ""), |(at, slash)| (rest.get(..at).unwrap_or_default(), slash));
        out.push_str(&form_of_name(name, !out.is_empty() && !separator.is_empty()));
        out.push_str(separator);
        if separator.is_empty() {
            return out;
        }
        rest = rest.get(name.len() + separator.len()..).unwrap_or_default();
    }
}

fn form_of_name(name: &str, is_between_slashes: bool) -> String {
    let is_level = matches!(name.strip_prefix("000").unwrap_or(name).as_bytes(), [b'0'..=b'9']);
    if is_between_slashes && is_level {
        return "LEVEL".to_owned();
    }
    let file = name.find(".ltx").and_then(|end| Some((end.checked_sub(FILE_NAME_LEN)?, end + ".ltx".len())));
    match file.and_then(|(start, end)| Some((name.get(..start)?, name.get(end..)?))) {
        Some((before, after)) => format!("{before}FILE{after}"),
        None => name.to_owned(),
    }
}

/// What was asked for, a line for each request: in order of method and path, for
/// requests that run side by side come in any order. Equal lines are one that says
/// how many there were.
pub fn requests(facts: &[Fact]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for fact in facts {
        *counts.entry(fact.to_string()).or_default() += 1;
    }
    counts.into_iter().map(|(line, count)| format!("{count} x {line}\n")).collect()
}

/// Headers and bodies of each kind of request. What not all requests of a kind
/// have is marked.
pub fn headers(facts: &[Fact]) -> String {
    let mut kinds: BTreeMap<String, Vec<&Fact>> = BTreeMap::new();
    for fact in facts {
        kinds.entry(fact.kind()).or_default().push(fact);
    }
    let mut text = String::new();
    for (kind, facts) in kinds {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for item in facts.iter().flat_map(|fact| fact.items()).filter(|item| !item.starts_with(['?', '/'])) {
            *counts.entry(item).or_default() += 1;
        }
        text.push_str(&kind);
        text.push('\n');
        for (item, count) in counts {
            let mark = if count < facts.len() { "    (some)" } else { "" };
            text.push_str(&format!("    {item}{mark}\n"));
        }
    }
    text
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, query, status, .. } = self;
        write!(f, "{method} {path}")?;
        for (n, (name, value)) in query.iter().enumerate() {
            write!(f, "{}{name}={value}", if n == 0 { '?' } else { '&' })?;
        }
        write!(f, " -> {status}")
    }
}

/// Headers that say nothing about the request itself. The length belongs to the
/// body's description.
const LEFT_OUT: [&str; 5] = ["host", "user-agent", "connection", "content-length", "transfer-encoding"];
/// Two TXIDs of 16 digits and what joins them.
const FILE_NAME_LEN: usize = 33;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_files_are_named_by_what_they_are() {
        let file = "0000000000000001-000000000000000a.ltx";
        for (text, wanted) in [
            (format!("/b/db/0009/{file}"), "/b/db/LEVEL/FILE"),
            (format!("/o/db%2Fltx%2F0%2F{file}"), "/o/db%2Fltx%2FLEVEL%2FFILE"),
            (format!("http://HOST/ltx/1/{file}.<writer>.tmp"), "http://HOST/ltx/LEVEL/FILE.<writer>.tmp"),
            ("db%2F0000%2F".to_owned(), "db%2FLEVEL%2F"),
            ("bytes=0-".to_owned(), "bytes=0-"),
            ("0".to_owned(), "0"),
            ("/ltx/17/x.ltx".to_owned(), "/ltx/17/x.ltx"),
        ] {
            assert_eq!(form(&text), wanted);
        }
    }

    #[test]
    fn kinds_tell_what_all_and_what_some_requests_have() {
        let request = |range: Option<&str>| Request {
            method: "GET".to_owned(),
            target: "/b-7/0000/0000000000000001-0000000000000001.ltx?b=2&a".to_owned(),
            headers: [("host", "x"), ("range", range.unwrap_or_default()), ("accept", "*/*")]
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            status: 206,
            ..Request::default()
        };
        let names = [("b-7".to_owned(), "B".to_owned())];
        let facts: Vec<Fact> =
            [None, Some("bytes=0-9"), None].into_iter().map(|range| Fact::of(&request(range), &names)).collect();
        assert_eq!(requests(&facts), "3 x GET /B/0000/0000000000000001-0000000000000001.ltx?a=&b=2 -> 206\n");
        assert_eq!(headers(&facts), "GET file\n    accept: */*\n    range: bytes=0-n    (some)\n");
        let items = &by_kind(&facts)["GET file"];
        assert!(items.contains("/B/LEVEL/FILE") && items.contains("?b=2"), "{items:?}");
    }
}
