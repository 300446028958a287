//! Who we are to a WebDAV server: Basic or Digest, as the server asks.
//!
//! Nothing is sent before the server asks, and Digest goes before Basic, so that
//! a password does not travel in clear where it need not. Once asked, every
//! request carries an answer. Nothing here is ever logged.
//!
//! Sources: RFC 7617 (Basic), RFC 7616 and RFC 2617 (Digest), RFC 9110 §11.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue, header};
use md5::{Digest, Md5};
use sha2::Sha256;

/// User and password, and what the server last asked for.
pub(super) struct Auth {
    user: Option<(String, String)>,
    asked: Mutex<Asked>,
}

#[derive(Clone, Default)]
struct Asked {
    /// Grows with each challenge that is taken up.
    generation: u64,
    scheme: Option<Arc<Scheme>>,
}

enum Scheme {
    Basic,
    Digest { challenge: Challenge, count: AtomicU32 },
}

/// The header of one request, and which challenge it answers.
pub(super) struct Answer {
    pub(super) header: Option<HeaderValue>,
    generation: u64,
    /// Whether the challenge was fresh when it was answered.
    first_use: bool,
}

/// What to do about a `401`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ask again, with the new challenge answered.
    Again,
    /// The server knows what we have and does not like it.
    Wrong,
    /// We have no user name and password.
    Nobody,
    /// The server wants something that we cannot do; the names of its schemes.
    Unsupported(String),
}

impl Auth {
    pub(super) fn new(user: Option<(String, String)>) -> Self {
        Self { user, asked: Mutex::default() }
    }

    /// The header for a request of `method` for `target`, the path and query
    /// exactly as they are sent.
    pub(super) fn answer(&self, method: &str, target: &str) -> Answer {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let generation = asked.generation;
        let (Some(scheme), Some((user, password))) = (asked.scheme, &self.user) else {
            return Answer { header: None, generation, first_use: false };
        };
        let (text, first_use) = match &*scheme {
            Scheme::Basic => (format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))), true),
            Scheme::Digest { challenge, count } => {
                let count = count.fetch_add(1, Ordering::Relaxed);
                let cnonce = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
                (challenge.answer(user, password, method, target, count, &cnonce), count == 1)
            }
        };
        // Bytes that fit no header would have to come from the server's own words.
        let header = HeaderValue::from_bytes(text.as_bytes()).ok().map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Answer { header, generation, first_use }
    }

    /// Reads the challenges of a `401` to a request that carried `answer`.
    pub(super) fn challenged(&self, answer: &Answer, headers: &HeaderMap) -> Verdict {
        if self.user.is_none() {
            return Verdict::Nobody;
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // Another request has taken up a newer challenge meanwhile.
        if asked.generation != answer.generation {
            return Verdict::Again;
        }
        let challenges = read_challenges(headers);
        let best = challenges.iter().filter_map(Scheme::read).max_by_key(Scheme::strength);
        let Some(best) = best else {
            let names: Vec<&str> = challenges.iter().map(|challenge| challenge.scheme.as_str()).collect();
            return Verdict::Unsupported(names.join(", "));
        };
        // A nonce grows old, which servers say or do not say; an answer to a
        // fresh one that is refused was wrong.
        let outdated = match (&best, asked.scheme.as_deref()) {
            (_, None) | (Scheme::Digest { .. }, Some(Scheme::Basic)) => true,
            (Scheme::Digest { challenge, .. }, Some(Scheme::Digest { .. })) => challenge.stale || !answer.first_use,
            (Scheme::Basic, _) => false,
        };
        if !outdated {
            return Verdict::Wrong;
        }
        *asked = Asked { generation: asked.generation + 1, scheme: Some(Arc::new(best)) };
        Verdict::Again
    }
}

impl Scheme {
    fn read(raw: &RawChallenge) -> Option<Self> {
        if raw.scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !raw.scheme.eq_ignore_ascii_case("digest") {
            return None;
        }
        Some(Self::Digest { challenge: Challenge::read(raw)?, count: AtomicU32::new(1) })
    }

    fn strength(&self) -> u8 {
        match self {
            Self::Basic => 0,
            Self::Digest { challenge, .. } => 1 + u8::from(challenge.sha256),
        }
    }
}

/// A challenge of the Digest scheme.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    /// As the server spelt it, to be repeated.
    algorithm: Option<String>,
    sha256: bool,
    /// `…-sess`: the nonces enter the first digest too.
    session: bool,
    /// Whether answers carry a counter and a nonce of ours.
    qop: bool,
    stale: bool,
}

impl Challenge {
    fn read(raw: &RawChallenge) -> Option<Self> {
        let algorithm = raw.get("algorithm").map(str::to_owned);
        let name = algorithm.as_deref().unwrap_or("MD5").to_ascii_uppercase();
        let (hash, session) = match name.strip_suffix("-SESS") {
            Some(hash) => (hash, true),
            None => (name.as_str(), false),
        };
        let sha256 = match hash {
            "MD5" => false,
            "SHA-256" => true,
            _ => return None,
        };
        let qop = match raw.get("qop") {
            None => false,
            Some(list) if list.split(',').any(|qop| qop.trim().eq_ignore_ascii_case("auth")) => true,
            // Digests of whole bodies only.
            Some(_) => return None,
        };
        Some(Self {
            realm: raw.get("realm")?.to_owned(),
            nonce: raw.get("nonce")?.to_owned(),
            opaque: raw.get("opaque").map(str::to_owned),
            algorithm,
            sha256,
            session,
            qop,
            stale: raw.get("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }

    fn answer(&self, user: &str, password: &str, method: &str, target: &str, count: u32, cnonce: &str) -> String {
        let Self { realm, nonce, .. } = self;
        let mut secret = self.hash(&format!("{user}:{realm}:{password}"));
        if self.session {
            secret = self.hash(&format!("{secret}:{nonce}:{cnonce}"));
        }
        let request = self.hash(&format!("{method}:{target}"));
        let response = match self.qop {
            true => self.hash(&format!("{secret}:{nonce}:{count:08x}:{cnonce}:auth:{request}")),
            false => self.hash(&format!("{secret}:{nonce}:{request}")),
        };
        let mut text = format!(
            "Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{target}\"",
            quoted(user),
            quoted(realm),
            quoted(nonce)
        );
        if self.qop {
            text.push_str(&format!(", qop=auth, nc={count:08x}, cnonce=\"{cnonce}\""));
        } else if self.session {
            text.push_str(&format!(", cnonce=\"{cnonce}\""));
        }
        text.push_str(&format!(", response=\"{response}\""));
        if let Some(opaque) = &self.opaque {
            text.push_str(&format!(", opaque=\"{}\"", quoted(opaque)));
        }
        if let Some(algorithm) = &self.algorithm {
            text.push_str(&format!(", algorithm={algorithm}"));
        }
        text
    }

    fn hash(&self, text: &str) -> String {
        if self.sha256 { hex(&Sha256::digest(text)) } else { hex(&Md5::digest(text)) }
    }
}

/// One challenge as it stands in the header.
#[derive(Debug, PartialEq, Eq)]
struct RawChallenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl RawChallenge {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// All challenges of an answer. A header may hold several, parted by commas just
/// like their parameters; a word before a parameter's name begins the next one.
fn read_challenges(headers: &HeaderMap) -> Vec<RawChallenge> {
    let mut challenges: Vec<RawChallenge> = Vec::new();
    for value in headers.get_all(header::WWW_AUTHENTICATE) {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        for item in split_unquoted(&text) {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (item.trim(), None),
            };
            let (scheme, key) = match (name.split_once(char::is_whitespace), value) {
                (Some((scheme, key)), _) => (Some(scheme), key.trim()),
                (None, Some(_)) => (None, name),
                (None, None) => (Some(name), ""),
            };
            if let Some(scheme) = scheme.filter(|scheme| !scheme.is_empty()) {
                challenges.push(RawChallenge { scheme: scheme.to_owned(), parameters: Vec::new() });
            }
            if let (Some(challenge), Some(value)) = (challenges.last_mut(), value) {
                challenge.parameters.push((key.to_owned(), unquoted(value)));
            }
        }
    }
    challenges
}

/// The parts between commas that stand outside quotes.
fn split_unquoted(text: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut in_quotes, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_quotes => escaped = true,
            '"' => in_quotes = !in_quotes,
            ',' if !in_quotes => {
                parts.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(text.get(start..));
    parts
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return value.to_owned() };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::WWW_AUTHENTICATE, value.parse().unwrap())).collect()
    }

    fn auth() -> Auth {
        Auth::new(Some(("Mufasa".to_owned(), "Circle of Life".to_owned())))
    }

    fn text(answer: &Answer) -> String {
        String::from_utf8(answer.header.as_ref().unwrap().as_bytes().to_vec()).unwrap()
    }

    fn challenge(header: &str) -> Challenge {
        Challenge::read(&read_challenges(&headers(&[header]))[0]).unwrap()
    }

    #[test]
    fn digests_are_those_of_the_rfcs() {
        let rfc_2617 = challenge(
            "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
             nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"",
        );
        let answer = rfc_2617.answer("Mufasa", "Circle Of Life", "GET", "/dir/index.html", 1, "0a4f113b");
        assert!(answer.contains("response=\"6629fae49393a05397450978507c4ef1\""), "{answer}");
        assert!(answer.contains("qop=auth, nc=00000001, cnonce=\"0a4f113b\""), "{answer}");
        assert!(answer.contains("opaque=\"5ccc069c403ebaf9f0171e9517f40e41\""), "{answer}");

        for (algorithm, response) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let rfc_7616 = challenge(&format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
                 nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", \
                 opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            ));
            let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
            let answer = rfc_7616.answer("Mufasa", "Circle of Life", "GET", "/dir/index.html", 1, cnonce);
            assert!(answer.contains(&format!("response=\"{response}\"")), "{answer}");
            assert!(answer.ends_with(&format!("algorithm={algorithm}")), "{answer}");
        }
    }

    #[test]
    fn challenges_are_told_apart() {
        let read = read_challenges(&headers(&[
            "Negotiate, Basic realm=\"a, \\\"b\\\"\", charset=UTF-8 , Digest realm=x,nonce = \"n,=\"",
            "Bearer abc==",
        ]));
        let names: Vec<&str> = read.iter().map(|challenge| challenge.scheme.as_str()).collect();
        assert_eq!(names, ["Negotiate", "Basic", "Digest", "Bearer"]);
        assert_eq!(read[1].get("Realm"), Some("a, \"b\""));
        assert_eq!((read[2].get("realm"), read[2].get("nonce")), (Some("x"), Some("n,=")));
    }

    #[test]
    fn nothing_is_sent_before_the_server_asks() {
        let auth = auth();
        let first = auth.answer("GET", "/");
        assert!(first.header.is_none());
        assert_eq!(auth.challenged(&first, &headers(&["Basic realm=x"])), Verdict::Again);
        let second = auth.answer("GET", "/");
        assert_eq!(text(&second), "Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl");
        assert!(!format!("{:?}", second.header).contains("TXVm"), "marked as secret");
        assert_eq!(auth.challenged(&second, &headers(&["Basic realm=x"])), Verdict::Wrong);
    }

    #[test]
    fn digest_goes_before_basic_and_the_stronger_hash_before_md5() {
        let auth = auth();
        let offers = ["Basic realm=x", "Digest realm=x, nonce=n", "Digest realm=x, nonce=m, algorithm=SHA-256"];
        assert_eq!(auth.challenged(&auth.answer("GET", "/"), &headers(&offers)), Verdict::Again);
        let answer = text(&auth.answer("GET", "/"));
        assert!(answer.starts_with("Digest ") && answer.contains("nonce=\"m\""), "{answer}");
    }

    #[test]
    fn nonces_are_counted_and_replaced_when_they_are_old() {
        let auth = auth();
        let asks = |nonce: &str, more: &str| headers(&[&format!("Digest realm=r, nonce={nonce}, qop=auth{more}")]);
        assert_eq!(auth.challenged(&auth.answer("GET", "/"), &asks("1", "")), Verdict::Again);
        let first = auth.answer("GET", "/a");
        let second = auth.answer("PUT", "/b");
        assert!(text(&first).contains("nc=00000001") && text(&second).contains("nc=00000002"));
        // Refused at first use: wrong, unless the server says that it is too old.
        assert_eq!(auth.challenged(&first, &asks("2", "")), Verdict::Wrong);
        assert_eq!(auth.challenged(&first, &asks("2", ", stale=TRUE")), Verdict::Again);
        // Somebody else has taken up the new one meanwhile.
        assert_eq!(auth.challenged(&second, &asks("2", "")), Verdict::Again);
        auth.answer("GET", "/");
        // Worked before, so it has grown old although nobody says so.
        assert_eq!(auth.challenged(&auth.answer("GET", "/"), &asks("3", "")), Verdict::Again);
        assert!(text(&auth.answer("GET", "/")).contains("nonce=\"3\""));
    }

    #[test]
    fn what_cannot_be_answered_is_named() {
        let offers = headers(&["Negotiate", "Digest realm=x, nonce=n, algorithm=SHA-512-256"]);
        let auth = auth();
        assert_eq!(
            auth.challenged(&auth.answer("GET", "/"), &offers),
            Verdict::Unsupported("Negotiate, Digest".to_owned())
        );
        assert_eq!(Auth::new(None).challenged(&auth.answer("GET", "/"), &offers), Verdict::Nobody);
    }

    #[test]
    fn no_challenge_crashes_or_gets_the_password_in_clear() {
        let offers = [
            "Basic realm=\"a, \\\"b\\\"\", charset=UTF-8, Digest realm=x, nonce=\"n\", qop=\"auth,auth-int\", opaque=o, algorithm=SHA-256-sess",
        ];
        let words = [
            "Digest ",
            "Basic ",
            ",",
            "=",
            "\"",
            "\\",
            "nonce=",
            "qop=",
            "realm=",
            "algorithm=MD5",
            "\t",
            "stale=true",
        ];
        litestream_fuzz::Target::new("challenge", offers).words(&words).run(|input| {
            let Ok(value) = http::HeaderValue::from_bytes(input) else { return };
            let headers = HeaderMap::from_iter([(header::WWW_AUTHENTICATE, value)]);
            let bound = litestream_fuzz::Bound { base: 64 << 10, per_byte: 120 };
            litestream_fuzz::bounded(input.len(), bound, || {
                let auth = auth();
                auth.challenged(&auth.answer("GET", "/"), &headers);
                let answer = auth.answer("GET", "/a\"b");
                let Some(sent) = &answer.header else { return };
                let sent = String::from_utf8_lossy(sent.as_bytes()).into_owned();
                assert!(!sent.contains("Circle of Life"), "{sent}");
            });
        });
    }
}
