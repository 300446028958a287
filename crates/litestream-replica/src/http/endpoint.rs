//! Addresses of stores, and texts as parts of URLs.
//!
//! Keys are escaped once and never tidied: `//` and `./` reach the wire.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::Result;
use crate::url::setup;

/// Where a store listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// `host[:port]`.
    pub(crate) authority: String,
    /// What stands before the bucket in every path; no slash at its end.
    pub(crate) base_path: String,
}

impl Endpoint {
    /// Reads `host`, `host:port` or a URL for a `store`; `https` unless it says
    /// otherwise. User information is dropped.
    ///
    /// # Errors
    /// Another scheme, or no valid host; the text itself is not repeated.
    pub(crate) fn parse(store: &str, text: &str) -> Result<Self> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            None => ("https", text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => ("https", rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => ("http", rest),
            Some((scheme, _)) => {
                return Err(setup(format!("{store}: endpoint scheme \"{scheme}\" is neither http nor https")));
            }
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, base_path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let base_path = base_path.trim_matches('/');
        let endpoint = Self {
            scheme,
            authority: authority.to_owned(),
            base_path: if base_path.is_empty() { String::new() } else { format!("/{base_path}") },
        };
        let valid = !authority.is_empty() && authority.parse::<http::uri::Authority>().is_ok();
        if valid { Ok(endpoint) } else { Err(setup(format!("{store}: endpoint has no valid host name"))) }
    }

    /// The text without user information, for logs.
    pub(crate) fn without_user(text: &str) -> String {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (format!("{scheme}://"), rest),
            None => (String::new(), text),
        };
        let (host, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        format!("{scheme}{host}{path}")
    }

    pub(crate) fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    pub(crate) fn is_private(&self) -> bool {
        is_private_host(&self.authority)
    }
}

/// True for this machine and private networks, where plain HTTP is usual.
pub(crate) fn is_private_host(authority: &str) -> bool {
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    match host.parse() {
        Ok(std::net::IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private(),
        Ok(std::net::IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        Err(_) => {
            let host = host.to_ascii_lowercase();
            host == "localhost" || host.ends_with(".local") || host.ends_with(".localhost")
        }
    }
}

/// A path, or part of one, as URLs write it; slashes stay.
pub(crate) fn escape_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// A single segment of a path, or a value of a query; slashes are escaped too.
pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, QUERY).to_string()
}

/// Puts a query behind a URL that has none.
pub(crate) fn append_query(url: &mut String, query: &[(&str, &str)]) {
    for (n, (name, value)) in query.iter().enumerate() {
        url.push(if n == 0 { '?' } else { '&' });
        url.push_str(name);
        url.push('=');
        url.extend(utf8_percent_encode(value, QUERY));
    }
}

/// What must be escaped in queries: everything but unreserved signs, as SigV4
/// wants it.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The same for paths, which keep their slashes.
const PATH: &AsciiSet = &QUERY.remove(b'/');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_hosts_are_recognised_by_real_ranges() {
        for host in [
            "localhost:9000",
            "127.0.0.1",
            "10.1.2.3:1",
            "172.16.0.1",
            "172.31.9.9",
            "192.168.1.1",
            "x.local",
            "[::1]:9000",
        ] {
            assert!(is_private_host(host), "{host}");
        }
        for host in ["172.200.1.1", "172.32.0.1", "example.com:443", "localhost.evil.com", "8.8.8.8"] {
            assert!(!is_private_host(host), "{host}");
        }
    }
}
