//! One signed S3 request over plain HTTP: enough to make buckets and to look at
//! objects behind a client's back. Not a client; it never retries.
//!
//! Source: AWS "Signature Version 4 for API requests".

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use sha2::{Digest, Sha256};

/// Address and credentials of a server.
#[derive(Clone, Debug)]
pub(crate) struct Access<'a> {
    pub(crate) host: &'a str,
    pub(crate) region: &'a str,
    pub(crate) access_key: &'a str,
    pub(crate) secret_key: &'a str,
    /// How long to wait for bytes of an answer.
    pub(crate) time_limit: Duration,
}

/// A status and a body.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Sends one request and reads the whole answer.
///
/// `path` is not encoded yet and begins with a slash; `query` is in the order of
/// its names, each value not encoded yet.
pub(crate) fn request(
    access: &Access<'_>,
    method: &str,
    path: &str,
    query: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let path = encode(path, true);
    let query: Vec<String> =
        query.iter().map(|(name, value)| format!("{}={}", encode(name, false), encode(value, false))).collect();
    let query = query.join("&");
    let time = timestamp();
    let date = time.get(..8).unwrap_or_default();
    let digest = hex(&Sha256::digest(body));

    let headers = [("host", access.host), ("x-amz-content-sha256", &digest), ("x-amz-date", &time)];
    let signed = Signed { method, path: &path, query: &query, headers: &headers, digest: &digest, time: &time };
    let signature = signature(&signed, access.region, access.secret_key);
    let names = signed.names();
    let scope = format!("{date}/{}/s3/aws4_request", access.region);
    let credential = format!("{}/{scope}", access.access_key);

    // HTTP/1.0, so that the end of the connection is the end of the answer.
    let target = if query.is_empty() { path } else { format!("{path}?{query}") };
    let head = format!(
        "{method} {target} HTTP/1.0\r\nHost: {}\r\nx-amz-content-sha256: {digest}\r\nx-amz-date: {time}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}\r\n\
         Content-Length: {}\r\n\r\n",
        access.host,
        body.len()
    );
    exchange(access.host, &head, body, access.time_limit).with_context(|| format!("{method} {target}"))
}

/// What of a request enters its signature. Everything is encoded as it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// `GET`, …
    pub method: &'a str,
    /// Begins with a slash.
    pub path: &'a str,
    /// In the order of its names; names without a value end in `=`.
    pub query: &'a str,
    /// The signed headers, in lower case and in order.
    pub headers: &'a [(&'a str, &'a str)],
    /// Value of `x-amz-content-sha256`.
    pub digest: &'a str,
    /// Value of `x-amz-date`.
    pub time: &'a str,
}

impl Signed<'_> {
    fn names(&self) -> String {
        self.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";")
    }
}

/// The signature in hexadecimal, made by none of the code under test.
pub fn signature(signed: &Signed<'_>, region: &str, secret_key: &str) -> String {
    let Signed { method, path, query, headers, digest, time } = signed;
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{}\n{digest}", signed.names());
    let scope = format!("{}/{region}/s3/aws4_request", time.get(..8).unwrap_or_default());
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let secret = format!("AWS4{secret_key}").into_bytes();
    let key = scope.split('/').fold(secret, |key, word| hmac(&key, word.as_bytes()).to_vec());
    hex(&hmac(&key, text.as_bytes()))
}

/// Sends a head and a body and reads until the server hangs up: HTTP/1.0.
pub(crate) fn exchange(host: &str, head: &str, body: &[u8], time_limit: Duration) -> Result<Response> {
    let mut stream = TcpStream::connect(host).with_context(|| format!("connect to {host}"))?;
    stream.set_read_timeout(Some(time_limit))?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("answer without a head")?;
    let (head, body) = answer.split_at(end);
    let head = String::from_utf8_lossy(head);
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| anyhow!("no status in {:?}", head.lines().next()))?;
    Ok(Response { status, body: body.get(4..).unwrap_or_default().to_vec() })
}

/// Percent-encodes all but the unreserved signs; slashes stay if `is_path`.
pub(crate) fn encode(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (is_path && byte == b'/') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // a String takes every write
        }
    }
    out
}

/// HMAC-SHA256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    let hashed;
    let key = if key.len() > block.len() {
        hashed = Sha256::digest(key);
        hashed.as_slice()
    } else {
        key
    };
    for (slot, byte) in block.iter_mut().zip(key) {
        *slot = *byte;
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes every write
        text
    })
}

/// The time as `YYYYMMDDTHHMMSSZ`.
#[allow(clippy::disallowed_methods, reason = "servers compare the signature's time with their own clock")]
fn timestamp() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date, counting years from March so that leap days come last
    // (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3_600, rest % 3_600 / 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_matches_rfc_4231_cases() {
        let digest = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hex(&digest), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let digest = hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(hex(&digest), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    /// Amazon S3 API Reference, "Authenticating Requests: Using the Authorization
    /// Header (Transferring Payload in a Single Chunk)", its four examples.
    #[test]
    fn signatures_are_those_of_amazons_examples() {
        const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        const CONTENT: &str = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
        let host = ("host", "examplebucket.s3.amazonaws.com");
        let time = "20130524T000000Z";
        let (date, empty) = (("x-amz-date", time), ("x-amz-content-sha256", NOTHING));
        for (method, path, query, headers, wanted) in [
            (
                "GET",
                "/test.txt",
                "",
                &[host, ("range", "bytes=0-9"), empty, date][..],
                "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            ),
            (
                "PUT",
                "/test%24file.text",
                "",
                &[
                    ("date", "Fri, 24 May 2013 00:00:00 GMT"),
                    host,
                    ("x-amz-content-sha256", CONTENT),
                    date,
                    ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
                ],
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            ),
            (
                "GET",
                "/",
                "lifecycle=",
                &[host, empty, date],
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                "GET",
                "/",
                "max-keys=2&prefix=J",
                &[host, empty, date],
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let digest = headers.iter().find(|(name, _)| *name == "x-amz-content-sha256").unwrap().1;
            let signed = Signed { method, path, query, headers, digest, time };
            let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
            assert_eq!(signature(&signed, "us-east-1", secret), wanted, "{method} {path} {query}");
        }
    }
}
