//! The shared key scheme: an HMAC over a canonical form of the request.
//!
//! Microsoft, "Authorize with Shared Key" (Blob service, 2009-09-19 and later).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Method, Uri};
use percent_encoding::percent_decode_str;
use ring::hmac;

/// The value of `Authorization` for a request with these parts. `headers` must
/// hold the date, and whatever else of the canonical form is sent.
pub(super) fn authorization(
    account: &str,
    key: &[u8],
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body_len: usize,
) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let tag = hmac::sign(&key, string_to_sign(account, method, uri, headers, body_len).as_bytes());
    format!("SharedKey {account}:{}", BASE64_STANDARD.encode(tag))
}

fn string_to_sign(account: &str, method: &Method, uri: &Uri, headers: &HeaderMap, body_len: usize) -> String {
    let mut text = format!("{method}\n");
    for name in STANDARD_HEADERS {
        match name {
            // Nothing is written as nothing since version 2015-02-21.
            "content-length" if body_len > 0 => text.push_str(&body_len.to_string()),
            "content-length" => {}
            name => text.push_str(header(headers, name)),
        }
        text.push('\n');
    }
    let mut own: Vec<&str> = headers.keys().map(http::HeaderName::as_str).filter(|n| n.starts_with("x-ms-")).collect();
    own.sort_unstable();
    for name in own {
        text.push_str(&format!("{name}:{}\n", header(headers, name)));
    }
    text.push_str(&format!("/{account}{}", uri.path()));
    text.push_str(&canonical_query(uri.query().unwrap_or_default()));
    text
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim).unwrap_or_default()
}

/// `\nname:value` for each parameter, decoded, sorted; equal names share a line.
fn canonical_query(query: &str) -> String {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name).to_ascii_lowercase(), decode(value)))
        .collect();
    pairs.sort_unstable();
    let mut text = String::new();
    let mut last = None;
    for (name, value) in &pairs {
        match last == Some(name) {
            true => text.push_str(&format!(",{value}")),
            false => text.push_str(&format!("\n{name}:{value}")),
        }
        last = Some(name);
    }
    text
}

/// In the order of the canonical form.
const STANDARD_HEADERS: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    /// Requests and signatures that Microsoft's .NET library sent, as published
    /// in the tests of Microsoft's Dash project, with the account's dead key.
    #[test]
    fn signatures_are_those_of_microsofts_own_library() {
        let key = BASE64_STANDARD
            .decode("8jqRVtXUWiEthgIhR+dFwrB8gh3lFuquvJQ1v4eabObIj7okI1cZIuzY8zZHmEdpcC0f+XlUkbFwAhjTfyrLIg==")
            .unwrap();
        let (blob, list) = (
            "https://dashstorage1.blob.core.windows.net/test/test.txt",
            "https://dashstorage1.blob.core.windows.net/test?restype=container&comp=list&prefix=te&include=snapshots\
             &INCLUDE=uncommittedblobs%2Cmetadata%2Ccopy",
        );
        let md5 = ("content-md5", "LHmMkMS8mTXh0bRP4e4Ptw==");
        let (version, kind) = (("x-ms-version", "2014-02-14"), ("x-ms-blob-type", "BlockBlob"));
        for (method, url, len, pairs, wanted) in [
            (
                Method::PUT,
                blob,
                423,
                &[
                    md5,
                    kind,
                    ("x-ms-client-request-id", "TestRequest1"),
                    ("x-ms-date", "Thu, 30 Oct 2014 19:48:43 GMT"),
                    version,
                    ("x-ms-test", "testvalue"),
                    ("x-test", "differentvalue"),
                    ("expect", "100-continue"),
                ][..],
                "ktMmzuta7Wsqtzyd3TBbd3zW4miedtJPkWWlW9DCRb0=",
            ),
            (
                Method::PUT,
                blob,
                423,
                &[
                    version,
                    ("content-type", "application/octet-stream"),
                    md5,
                    ("content-language", "EN-US"),
                    ("content-encoding", "gzip"),
                    kind,
                    ("if-match", "DummyETag"),
                    ("x-ms-client-request-id", "93399f8e-6ce2-4020-81a4-4f1f53f427fd"),
                    ("x-ms-date", "Thu, 30 Oct 2014 20:46:48 GMT"),
                ][..],
                "ZBQYgC9dgzldVfH6t06qIYZujSz/3blWrinuYePTMv8=",
            ),
            (
                Method::GET,
                list,
                0,
                &[
                    version,
                    ("x-ms-client-request-id", "9e51b5a3-2dff-4fb2-98f8-c7cfe05a223a"),
                    ("x-ms-date", "Thu, 30 Oct 2014 20:55:13 GMT"),
                ],
                "C0mPsPAiMs+4qlDQXGXMXpRGUkQgyMLzOHBiCmoC4LE=",
            ),
        ] {
            let (uri, headers) = (url.parse().unwrap(), headers(pairs));
            let value = authorization("dashstorage1", &key, &method, &uri, &headers, len);
            assert_eq!(value, format!("SharedKey dashstorage1:{wanted}"));
        }
    }

    /// The example of Microsoft's documentation.
    #[test]
    fn canonical_form_is_the_documented_one() {
        let uri = "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20";
        let headers = headers(&[("x-ms-version", "2015-02-21"), ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT")]);
        assert_eq!(
            string_to_sign("myaccount", &Method::GET, &uri.parse().unwrap(), &headers, 0),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
             /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        );
    }
}
