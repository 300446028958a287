//! Fetching one address for its own sake: no store, no signature, no retry.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};

use super::HttpPool;
use crate::{Error, ErrorKind, Result};

impl HttpPool {
    /// Sends `GET url`, follows redirects, and drops the answer's body.
    ///
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) for an address that cannot be one and for a
    /// server that is not trusted; [`Transient`](ErrorKind::Transient) for
    /// everything that happens on the way, for every final status but 2xx, and
    /// when it takes longer than `limit`.
    pub async fn fetch(&self, url: &str, limit: Duration) -> Result<()> {
        let late = |_| Error::new(ErrorKind::Transient, format!("no answer within {}s", limit.as_secs()));
        tokio::time::timeout(limit, self.follow(url)).await.map_err(late)?
    }

    async fn follow(&self, url: &str) -> Result<()> {
        let client = self.client(false)?;
        let mut uri = parse(url)?;
        for _ in 0..=MAX_REDIRECTS {
            let request = Request::builder()
                .method(Method::GET)
                .uri(uri.clone())
                .header(header::USER_AGENT, USER_AGENT)
                .body(Bytes::new())
                .map_err(|error| Error::with_source(ErrorKind::Setup, "build request", error))?;
            let response = client.send(request).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(());
            }
            let location = response.headers().get(header::LOCATION).map(HeaderValue::to_str);
            match location {
                Some(Ok(location)) if status.is_redirection() => uri = parse(&resolve(&uri, location))?,
                _ => {
                    return Err(Error::new(
                        ErrorKind::Transient,
                        format!("unexpected status code: {}", status.as_u16()),
                    ));
                }
            }
        }
        Err(Error::new(ErrorKind::Transient, format!("more than {MAX_REDIRECTS} redirects")))
    }
}

fn parse(url: &str) -> Result<Uri> {
    let uri: Uri =
        url.parse().map_err(|error| Error::with_source(ErrorKind::Setup, "address is not a valid URL", error))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(Error::new(ErrorKind::Setup, "address is not an http or https URL"));
    }
    Ok(uri)
}

/// A `Location` header as a whole URL. A fragment never reaches the wire.
fn resolve(base: &Uri, location: &str) -> String {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str().unwrap_or("http");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    }
}

const MAX_REDIRECTS: u32 = 10;
const USER_AGENT: &str = concat!("litestream/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_against_the_address_before() {
        let base: Uri = "https://host:8443/a/b?q".parse().unwrap();
        for (location, expected) in [
            ("http://other/x#part", "http://other/x"),
            ("//other/x", "https://other/x"),
            ("/x?y", "https://host:8443/x?y"),
            ("x", "https://host:8443/a/x"),
        ] {
            assert_eq!(resolve(&base, location), expected);
        }
    }

    #[test]
    fn only_http_addresses_are_fetched() {
        for url in ["", "ftp://host/", "/path", "http:///x", "http://bad host/"] {
            assert!(parse(url).is_err(), "{url}");
        }
    }
}
