//! What a user can set for a `gs` replica, and what follows from it.

use crate::http::endpoint::Endpoint;
use crate::layout::clean_path;
use crate::url::{SplitUrl, setup};
use crate::{ClientContext, Result};

/// Settings of a `gs` replica. Whatever is `None` was not set; an empty string
/// counts as not set. Credentials come from the environment alone.
///
/// Spec: backends §1.5 and §5.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GsOptions {
    /// Bucket. Required.
    pub bucket: Option<String>,
    /// Where in the bucket; cleaned.
    pub path: Option<String>,
}

impl GsOptions {
    /// Fills what is not set from the parts of a URL.
    #[must_use]
    pub fn or_from_url(self, url: Self) -> Self {
        let text = |own: Option<String>, other| own.filter(|own| !own.is_empty()).or(other);
        Self { bucket: text(self.bucket, url.bucket), path: text(self.path, url.path) }
    }

    /// Appends the relative path of a database of a directory replica.
    pub fn join(&mut self, relative: &str) {
        self.path = Some(clean_path(&format!("{}/{relative}", self.path.as_deref().unwrap_or("."))));
    }
}

/// Reads `gs://<bucket>[/<path>]`. There are no parameters.
pub(crate) fn parse_url(url: &SplitUrl) -> Result<GsOptions> {
    if url.host.is_empty() {
        return Err(setup("bucket required for gs replica URL"));
    }
    let path = clean_path(&url.path()?);
    let path = path.strip_prefix('/').unwrap_or(&path).to_owned();
    Ok(GsOptions { bucket: Some(url.host.clone()), path: Some(path) })
}

/// Options with every default decided.
pub(super) struct Settings {
    pub(super) bucket: String,
    pub(super) path: String,
    pub(super) endpoint: Endpoint,
    /// An emulator wants no credentials.
    pub(super) is_emulator: bool,
}

pub(super) fn resolve(options: GsOptions, context: &ClientContext) -> Result<Settings> {
    // `or_from_url` with nothing to add turns empty texts into unset ones.
    let options = options.or_from_url(GsOptions::default());
    let bucket = options.bucket.ok_or_else(|| setup("bucket required for gs replica"))?;
    let emulator = context.env_var("STORAGE_EMULATOR_HOST");
    let endpoint = match &emulator {
        Some(host) if host.contains("://") => Endpoint::parse("gs", host)?,
        Some(host) => Endpoint::parse("gs", &format!("http://{host}"))?,
        None => Endpoint::parse("gs", "storage.googleapis.com")?,
    };
    Ok(Settings { bucket, path: options.path.unwrap_or_default(), endpoint, is_emulator: emulator.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_bucket_and_path() {
        for (url, path) in
            [("gs://bkt/p//q/", "p/q"), ("gs://bkt", "."), ("gs://bkt/", ""), ("gs://bkt/a%20b?x=1", "a b")]
        {
            let options = parse_url(&SplitUrl::parse(url).unwrap()).unwrap();
            assert_eq!((options.bucket.as_deref(), options.path.as_deref()), (Some("bkt"), Some(path)), "{url}");
        }
        assert!(parse_url(&SplitUrl::parse("gs:///p").unwrap()).is_err());
    }

    #[test]
    fn emulator_is_reached_by_http_without_credentials() {
        let options = || GsOptions { bucket: Some("bkt".into()), path: None };
        for (host, scheme, authority) in
            [("localhost:1", "http", "localhost:1"), ("http://h:2/", "http", "h:2"), ("https://h", "https", "h")]
        {
            let env = move |name: &str| (name == "STORAGE_EMULATOR_HOST").then(|| host.to_owned());
            let context = ClientContext { env: Some(std::sync::Arc::new(env)), ..ClientContext::default() };
            let settings = resolve(options(), &context).unwrap();
            assert!(settings.is_emulator);
            assert_eq!((settings.endpoint.scheme, settings.endpoint.authority.as_str()), (scheme, authority));
        }
        let settings = resolve(options(), &ClientContext::default()).unwrap();
        assert!(!settings.is_emulator && settings.endpoint.is_https());
        let error = resolve(GsOptions::default(), &ClientContext::default()).err().unwrap();
        assert_eq!(error.to_string(), "bucket required for gs replica");
    }
}
