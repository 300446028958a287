//! Servers, and proxies before them, repeat requests in their refusals. What
//! lets its reader in must not reach a log that way.
//!
//! Only answers that may become errors come through here. A document repeats in
//! its own spelling: percent signs, entities, backslashes, base64. All of them are
//! read through, in any mixture.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Request};
use percent_encoding::percent_decode_str;

/// What nobody but the receiver of a request may read.
#[derive(Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// These texts.
    #[cfg_attr(not(feature = "nats"), allow(dead_code, reason = "who has no HTTP request names its secrets"))]
    pub(crate) fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        Self(values.into_iter().map(str::to_owned).collect())
    }

    /// Of a request as it is sent: its headers and query.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let mut secrets = Self::default();
        for name in HEADERS {
            if let Some(value) = request.headers().get(name) {
                secrets.add_header(value);
            }
        }
        secrets.add_pairs(request.uri().query().unwrap_or_default());
        secrets
    }

    /// The same, and what a form in its body holds.
    #[cfg_attr(
        not(any(feature = "s3", feature = "abs", feature = "gs")),
        allow(dead_code, reason = "tokens are theirs")
    )]
    pub(crate) fn of_form<B: AsRef<[u8]>>(request: &Request<B>) -> Self {
        let mut secrets = Self::of(request);
        secrets.add_pairs(&String::from_utf8_lossy(request.body().as_ref()));
        secrets
    }

    /// A header that says who we are.
    pub(crate) fn add_header(&mut self, value: &HeaderValue) {
        let Ok(value) = value.to_str() else { return };
        self.0.push(value.to_owned());
        // `Basic` and the like may be left out.
        let Some((scheme, rest)) = value.split_once(' ') else { return };
        self.0.push(rest.to_owned());
        if !scheme.eq_ignore_ascii_case("basic") {
            return;
        }
        let decoded = BASE64_STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some((_, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) {
            self.0.push(password.to_owned());
        }
    }

    /// What is secret in `name=value&…`.
    fn add_pairs(&mut self, pairs: &str) {
        for (name, value) in pairs.split('&').filter_map(|pair| pair.split_once('=')) {
            if PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
                self.0.push(value.to_owned());
                self.0.push(percent_decode_str(value).decode_utf8_lossy().into_owned());
            }
        }
    }

    /// An answer without them.
    pub(crate) fn hide(&self, answer: &[u8]) -> Vec<u8> {
        let spellings = self.spellings();
        let mut hidden = Vec::with_capacity(answer.len());
        let mut rest = answer;
        while let [first, after @ ..] = rest {
            // Longest first, so that no part of a longer one is left.
            match spellings.iter().find_map(|secret| spelled_len(rest, secret)) {
                Some(len) => {
                    hidden.extend_from_slice(b"(hidden)");
                    rest = rest.get(len..).unwrap_or_default();
                }
                None => {
                    hidden.push(*first);
                    rest = after;
                }
            }
        }
        hidden
    }

    /// A text without them.
    pub(crate) fn hide_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.hide(text.as_bytes())).into_owned()
    }

    /// Headers of an answer without them.
    pub(crate) fn hide_headers(&self, headers: &HeaderMap) -> HeaderMap {
        let hidden = |value: &HeaderValue| HeaderValue::from_bytes(&self.hide(value.as_bytes()));
        // What does not fit a header after that did not before.
        headers.iter().filter_map(|(name, value)| Some((name.clone(), hidden(value).ok()?))).collect()
    }

    /// Each secret as it is and as base64.
    fn spellings(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        // A text of a few letters would blot out words of the message.
        for secret in self.0.iter().filter(|secret| secret.len() >= SHORTEST) {
            all.push(secret.clone().into_bytes());
            all.push(BASE64_STANDARD_NO_PAD.encode(secret).into_bytes());
            all.push(BASE64_URL_SAFE_NO_PAD.encode(secret).into_bytes());
        }
        all.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        all.dedup();
        all
    }
}

/// How many bytes at the beginning of `text` spell `secret`.
fn spelled_len(text: &[u8], secret: &[u8]) -> Option<usize> {
    let mut len = 0;
    for wanted in secret {
        len += letter_len(text.get(len..)?, *wanted)?;
    }
    Some(len)
}

/// How many bytes at the beginning of `text` spell one byte.
fn letter_len(text: &[u8], wanted: u8) -> Option<usize> {
    let (first, rest) = text.split_first()?;
    let escaped = match first {
        b'%' => hex(rest.get(..2)?).filter(|byte| *byte == wanted).map(|_| 3),
        b'\\' => match rest {
            [b'u', b'0', b'0', digits @ ..] => hex(digits.get(..2)?).filter(|byte| *byte == wanted).map(|_| 6),
            [byte, ..] if *byte == wanted => Some(2),
            _ => None,
        },
        b'&' => {
            let end = rest.iter().take(LONGEST_ENTITY).position(|byte| *byte == b';');
            let name = end.and_then(|end| rest.get(..end)).and_then(|name| std::str::from_utf8(name).ok());
            name.filter(|name| entity(name) == Some(wanted)).map(|name| name.len() + 2)
        }
        b'+' if wanted == b' ' => Some(1),
        _ => None,
    };
    escaped.or_else(|| (*first == wanted).then_some(1))
}

fn hex(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// What `&name;` stands for.
fn entity(name: &str) -> Option<u8> {
    match (name, name.strip_prefix('#')) {
        ("amp", _) => Some(b'&'),
        ("lt", _) => Some(b'<'),
        ("gt", _) => Some(b'>'),
        ("quot", _) => Some(b'"'),
        ("apos", _) => Some(b'\''),
        (_, Some(number)) => match number.strip_prefix(['x', 'X']) {
            Some(digits) => u8::from_str_radix(digits, 16).ok(),
            None => number.parse().ok(),
        },
        _ => None,
    }
}

const LONGEST_ENTITY: usize = 8;
const SHORTEST: usize = 4;

const HEADERS: [&str; 8] = [
    "authorization",
    "proxy-authorization",
    "x-amz-security-token",
    "x-amz-server-side-encryption-customer-key",
    "x-aws-ec2-metadata-token",
    "x-amz-sso_bearer_token",
    "x-identity-header",
    "x-oss-security-token",
];

/// In queries and forms. `sig` is what makes Azure's shared access signatures valid.
const PARAMETERS: [&str; 10] = [
    "sig",
    "x-amz-signature",
    "x-amz-security-token",
    "assertion",
    "client_assertion",
    "client_secret",
    "password",
    "refresh_token",
    "subject_token",
    "webidentitytoken",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(secrets: &Secrets, text: &str) -> String {
        secrets.hide_text(text)
    }

    #[test]
    fn repeated_credentials_are_hidden_and_the_rest_is_kept() {
        let request = Request::get("https://x/y?comp=list&sig=a%2Fb%3D&se=2099")
            .header("authorization", "Basic dXNlcjpwdyE/")
            .header("x-amz-security-token", "tok en")
            .body(())
            .unwrap();
        let refusal = "GET /y?comp=list&sig=a%2Fb%3D&se=2099, a/b=, Basic dXNlcjpwdyE/, dXNlcjpwdyE/, tok en, pw!?";
        let wanted = "GET /y?comp=list&sig=(hidden)&se=2099, (hidden), (hidden), (hidden), (hidden), (hidden)";
        assert_eq!(hidden(&Secrets::of(&request), refusal), wanted);
    }

    #[test]
    fn credentials_are_hidden_in_every_spelling() {
        let secrets = Secrets::new(["p&s/s\"w+ rd"]);
        for spelling in [
            "p&s/s\"w+ rd",
            "p%26s%2fs%22w%2B%20rd",
            "p%26s/s%22w%2b+rd",
            "p&amp;s/s&quot;w+ rd",
            "p&#38;s&#x2F;s&#34;w+ rd",
            "p\\u0026s\\/s\\\"w+ rd",
            "cCZzL3MidysgcmQ",
        ] {
            assert_eq!(hidden(&secrets, &format!("<a>{spelling}</a>")), "<a>(hidden)</a>", "{spelling}");
        }
        assert_eq!(hidden(&secrets, "p&s/s\"w+ r"), "p&s/s\"w+ r");
        assert_eq!(hidden(&Secrets::new(["", "abc"]), "abc %4 &#; \\"), "abc %4 &#; \\", "too short to be hidden");
    }

    #[test]
    fn forms_and_headers_are_covered() {
        let request = Request::post("https://x/token").body("grant_type=x&client_secret=hu%2Fnter&scope=s").unwrap();
        let secrets = Secrets::of_form(&request);
        assert_eq!(hidden(&secrets, "hu/nter hu%2Fnter s x"), "(hidden) (hidden) s x");
        let headers = HeaderMap::from_iter([(http::header::LOCATION, HeaderValue::from_static("/a?hu/nter"))]);
        assert_eq!(secrets.hide_headers(&headers).get("location").unwrap(), "/a?(hidden)");
    }
}
