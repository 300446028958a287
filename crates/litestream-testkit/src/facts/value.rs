//! What values are, in place of what they happen to be.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::sigv4::hex;

/// The value of a parameter.
pub(super) fn of_query(name: &str, text: &str) -> String {
    match name {
        "uploadId" | "upload_id" => "<upload>".to_owned(),
        "partNumber" => "<number>".to_owned(),
        "blockid" => base64_len(&text.replace("%3D", "=").replace("%2B", "+").replace("%2F", "/")),
        _ => text.to_owned(),
    }
}

/// The value of a header of a request with this body.
pub(super) fn of_header(name: &str, text: &str, body: &[u8]) -> String {
    match name {
        "authorization" => authorization(text),
        "x-amz-content-sha256" | "x-oss-content-sha256" if text == hex(&Sha256::digest(body)) => {
            "<sha256 of the body>".to_owned()
        }
        "content-md5" if text == BASE64_STANDARD.encode(Md5::digest(body)) => "<md5 of the body>".to_owned(),
        "x-amz-checksum-crc32" if text == BASE64_STANDARD.encode(CRC32.checksum(body).to_be_bytes()) => {
            "<crc32 of the body>".to_owned()
        }
        "date" | "x-ms-date" | "x-amz-date" | "x-oss-date" => date(text),
        "range" | "x-ms-range" | "content-range" => numbers(text),
        "x-oc-mtime" => numbers(text),
        "content-type" => boundary(text),
        "x-cloud-trace-context" => "<trace>".to_owned(),
        name if name.contains("customer-key") => base64_len(text),
        name if name.ends_with("security-token") => "<token>".to_owned(),
        _ => text.split(' ').map(word).collect::<Vec<_>>().join(" "),
    }
}

/// One word of a value, or a whole one.
pub(super) fn word(text: &str) -> String {
    let (name, rest) = text.split_at(text.rfind('/').map_or(0, |at| at + 1));
    if is_uuid(rest) {
        format!("{name}<uuid>")
    } else if is_rfc3339(text) {
        "<rfc3339 in utc>".to_owned()
    } else {
        text.to_owned()
    }
}

/// Scheme and form; which headers were signed, if it says so.
fn authorization(text: &str) -> String {
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    let fields = rest.split(',').filter_map(|field| field.trim().split_once('='));
    match scheme {
        "AWS4-HMAC-SHA256" => {
            let signed = fields.into_iter().find(|(name, _)| *name == "SignedHeaders").unwrap_or_default().1;
            format!("{scheme} SignedHeaders={signed}")
        }
        "OSS4-HMAC-SHA256" | "Digest" => {
            let mut names: Vec<&str> = fields.map(|(name, _)| name).collect();
            names.sort_unstable();
            format!("{scheme} {}", names.join(" "))
        }
        _ => scheme.to_owned(),
    }
}

fn date(text: &str) -> String {
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    match form.as_str() {
        "00000000T000000Z" => "<basic iso 8601>".to_owned(),
        form if form.ends_with(" 0000 00:00:00 GMT") => "<http date>".to_owned(),
        _ => text.to_owned(),
    }
}

/// Every number but 0 becomes `n`.
fn numbers(text: &str) -> String {
    let mut out = String::new();
    let mut digits = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        if !digits.is_empty() {
            out.push_str(if digits == "0" { "0" } else { "n" });
            digits.clear();
        }
        out.push(c);
    }
    out.truncate(out.len() - 1);
    out
}

fn boundary(text: &str) -> String {
    match text.split_once("boundary=") {
        Some((before, _)) => format!("{before}boundary=<boundary>"),
        None => text.to_owned(),
    }
}

fn base64_len(text: &str) -> String {
    match BASE64_STANDARD.decode(text) {
        Ok(bytes) => format!("<base64 of {} bytes>", bytes.len()),
        Err(_) => text.to_owned(),
    }
}

fn is_uuid(text: &str) -> bool {
    let form: String = text.chars().map(|c| if c.is_ascii_hexdigit() { '0' } else { c }).collect();
    form == "00000000-0000-0000-0000-000000000000"
}

/// As the layout has it: UTC, `Z`, at most milliseconds without trailing zeros.
fn is_rfc3339(text: &str) -> bool {
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let Some(rest) = form.strip_prefix("0000-00-00T00:00:00") else { return false };
    matches!(rest, "Z" | ".0Z" | ".00Z" | ".000Z") && !(text.contains('.') && text.ends_with("0Z"))
}

const CRC32: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_called_by_what_they_are() {
        for (name, text, wanted) in [
            ("x-amz-date", "20130524T000000Z", "<basic iso 8601>"),
            ("x-ms-date", "Thu, 30 Oct 2014 19:48:43 GMT", "<http date>"),
            ("range", "bytes=0-99", "bytes=0-n"),
            ("content-range", "bytes 8388608-9000000/*", "bytes n-n/*"),
            ("content-md5", "LHmMkMS8mTXh0bRP4e4Ptw==", "LHmMkMS8mTXh0bRP4e4Ptw=="),
            ("content-md5", "CY9rzUYh03PK3k6DJie09g==", "<md5 of the body>"),
            ("x-amz-checksum-crc32", "2H9+DA==", "<crc32 of the body>"),
            ("x-amz-meta-litestream-timestamp", "2026-11-22T10:05:58.42Z", "<rfc3339 in utc>"),
            ("x-amz-meta-litestream-timestamp", "2026-11-22T10:05:58.420Z", "2026-11-22T10:05:58.420Z"),
            ("x-amz-meta-litestream-timestamp", "2026-11-22T10:05:58+01:00", "2026-11-22T10:05:58+01:00"),
            ("x-goog-api-client", "gl/1 id/0bfb4d9e-1a2b-3c4d-5e6f-0123456789ab", "gl/1 id/<uuid>"),
            ("content-type", "multipart/related; boundary=abc", "multipart/related; boundary=<boundary>"),
            ("authorization", "Basic dXNlcg==", "Basic"),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;range, Signature=00",
                "AWS4-HMAC-SHA256 SignedHeaders=host;range",
            ),
            ("if-none-match", "*", "*"),
        ] {
            assert_eq!(of_header(name, text, b"test"), wanted, "{name}: {text}");
        }
    }
}
