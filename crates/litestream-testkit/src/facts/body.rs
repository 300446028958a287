//! What a body is: an LTX file, a document by its elements or fields, or bytes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::value::word;
use crate::recorder::Request;

/// Content and how its end is told; empty if there is no body and nothing that
/// announces one.
pub(super) fn describe(request: &Request, rename: &dyn Fn(&str) -> String) -> String {
    let framing = match (request.header("transfer-encoding"), request.header("content-length")) {
        (Some(encoding), _) => format!(" ({encoding})"),
        (None, Some(_)) => String::new(),
        (None, None) => return String::new(),
    };
    format!("{}{framing}", content(request, rename))
}

fn content(request: &Request, rename: &dyn Fn(&str) -> String) -> String {
    let body = request.body.as_slice();
    let kind = request.header("content-type").unwrap_or_default();
    if let Some((_, boundary)) = kind.split_once("multipart/related; boundary=") {
        return related(body, boundary.trim_matches('"'), rename);
    }
    document(body, rename)
}

fn document(body: &[u8], rename: &dyn Fn(&str) -> String) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start();
    match body {
        [] => "empty".to_owned(),
        body if body.starts_with(b"LTX1") => "ltx".to_owned(),
        _ if text.starts_with('<') => format!("xml {}", elements(text)),
        _ if text.starts_with('{') => match serde_json::from_str(text) {
            Ok(value) => format!("json {}", fields(&value, rename)),
            Err(error) => format!("json that is broken: {error}"),
        },
        _ => "bytes".to_owned(),
    }
}

/// The names of an XML document's elements, each once, in order; short texts of
/// words that mean something.
fn elements(text: &str) -> String {
    let mut seen = BTreeSet::new();
    let mut names = Vec::new();
    for tag in text.split('<').skip(1) {
        let (tag, content) = tag.split_once('>').unwrap_or((tag, ""));
        if tag.starts_with(['/', '?', '!']) {
            continue;
        }
        let mut name = tag.trim_end_matches('/').to_owned();
        if matches!(content, "true" | "false") {
            name = format!("{name}={content}");
        }
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    names.join(", ")
}

/// The fields of a JSON document with their values, in order of names.
fn fields(value: &Value, rename: &dyn Fn(&str) -> String) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<String> =
                map.iter().map(|(name, value)| format!("{name}={}", field(name, value, rename))).collect();
            fields.sort();
            format!("{{{}}}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

fn field(name: &str, value: &Value, rename: &dyn Fn(&str) -> String) -> String {
    match value {
        Value::String(text) if name == "crc32c" => format!("<base64 of {} signs>", text.len()),
        Value::String(text) => word_or_name(&rename(text)),
        other => fields(other, rename),
    }
}

/// `word`, but a name with slashes is no path to a UUID.
fn word_or_name(text: &str) -> String {
    if text.contains('/') { text.to_owned() } else { word(text) }
}

/// The parts of a `multipart/related` body: type and content of each.
fn related(body: &[u8], boundary: &str, rename: &dyn Fn(&str) -> String) -> String {
    let delimiter = format!("--{boundary}");
    let parts = split(body, delimiter.as_bytes()).into_iter().filter_map(|part| {
        let at = part.windows(4).position(|window| window == b"\r\n\r\n")?;
        let (head, content) = part.split_at(at);
        let head = String::from_utf8_lossy(head).trim().to_ascii_lowercase().replace("\r\n", ", ");
        let content = content.get(4..content.len().saturating_sub(2)).unwrap_or_default();
        Some(format!("[{head}] {}", document(content, rename)))
    });
    format!("related {}", parts.collect::<Vec<_>>().join(" "))
}

fn split<'a>(mut body: &'a [u8], delimiter: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = body.windows(delimiter.len()).position(|window| window == delimiter) {
        let (part, rest) = body.split_at(at);
        parts.push(part);
        body = rest.get(delimiter.len()..).unwrap_or_default();
    }
    parts.push(body);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(kind: &str, framing: &str, body: &str) -> String {
        let headers = vec![("content-type".to_owned(), kind.to_owned()), (framing.to_owned(), "chunked".to_owned())];
        describe(&Request { headers, body: body.into(), ..Request::default() }, &|text| text.replace("b-1", "BUCKET"))
    }

    #[test]
    fn documents_are_told_by_their_elements_and_fields() {
        let delete = "<?xml version=\"1.0\"?><Delete xmlns=\"x\"><Object><Key>a</Key></Object><Object><Key>b</Key></Object>\
                      <Quiet>true</Quiet></Delete>";
        assert_eq!(
            body("application/xml", "content-length", delete),
            "xml Delete xmlns=\"x\", Object, Key, Quiet=true"
        );
        assert_eq!(body("", "transfer-encoding", "LTX1…"), "ltx (chunked)");
        assert_eq!(body("", "x", ""), "");
        assert_eq!(body("", "content-length", ""), "empty");
        let parts = "--sep\r\nContent-Type: application/json\r\n\r\n{\"name\":\"b-1/x\",\"metadata\":{\"t\":\
                     \"2026-11-22T10:05:58Z\"}}\r\n--sep\r\nContent-Type: a/b\r\n\r\nLTX1\r\n--sep--\r\n";
        assert_eq!(
            body("multipart/related; boundary=sep", "content-length", parts),
            "related [content-type: application/json] json {metadata={t=<rfc3339 in utc>}, name=BUCKET/x} \
             [content-type: a/b] ltx"
        );
    }
}
