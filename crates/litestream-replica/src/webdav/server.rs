//! Addresses of servers as people write them, with users and base paths.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::Result;
use crate::url::setup;

/// Where a server listens, and what stands in front of every path there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerUrl {
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// `host[:port]`.
    pub(super) authority: String,
    /// Escaped, without a slash at its end; empty or starting with a slash.
    pub(super) base_path: String,
    /// `user[:password]`, as written.
    pub(super) user_info: Option<String>,
}

impl ServerUrl {
    /// Reads what `webdav-url` says.
    ///
    /// # Errors
    /// [`Setup`](crate::ErrorKind::Setup), naming the setting and nothing of its
    /// value, which may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" | "webdav" => "http",
            "https" | "webdavs" => "https",
            _ => return Err(setup("webdav-url must begin with http:// or https://")),
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, base_path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user_info, authority) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        if authority.is_empty() || authority.parse::<http::uri::Authority>().is_err() {
            return Err(setup("webdav-url has no valid host name"));
        }
        let base_path = base_path.trim_matches('/');
        let base_path = if base_path.is_empty() { String::new() } else { format!("/{base_path}") };
        Ok(Self {
            scheme,
            authority: authority.to_owned(),
            base_path: utf8_percent_encode(&base_path, INVALID).to_string(),
            user_info,
        })
    }

    /// `scheme://host[:port]`.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }
}

/// What a path that is escaped already may not hold.
const INVALID: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`').add(b'{').add(b'}').add(b'|').add(b'\\').add(b'^');

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn addresses_are_taken_apart() {
        for (text, origin, base_path, user) in [
            ("http://h", "http://h", "", None),
            ("HTTPS://h:8443/", "https://h:8443", "", None),
            ("webdavs://h/dav/", "https://h", "/dav", None),
            (
                " https://me:pa@ss@[::1]:1/a b/%C3%BC/ü?x#y ",
                "https://[::1]:1",
                "/a%20b/%C3%BC/%C3%BC",
                Some("me:pa@ss"),
            ),
        ] {
            let url = ServerUrl::parse(text).unwrap();
            assert_eq!((url.origin().as_str(), url.base_path.as_str()), (origin, base_path), "{text}");
            assert_eq!(url.user_info.as_deref(), user, "{text}");
        }
    }

    #[test]
    fn wrong_addresses_name_the_setting_only() {
        for (text, message) in [
            ("h/x", "webdav-url must begin with http:// or https://"),
            ("ftp://me:secret@h", "webdav-url must begin with http:// or https://"),
            ("http:///x", "webdav-url has no valid host name"),
            ("http://me:secret@/x", "webdav-url has no valid host name"),
            ("http://a b/", "webdav-url has no valid host name"),
        ] {
            let error = ServerUrl::parse(text).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Setup, message));
        }
    }
}
