//! What a user can set for an `oss` replica, and what follows from it.

use std::fmt;
use std::sync::Arc;

use super::sign::Keys;
use crate::http::endpoint::Endpoint;
use crate::layout::clean_path;
use crate::url::{SplitUrl, setup};
use crate::{ClientContext, Result};

/// Settings of an `oss` replica. Whatever is `None` was not set and takes the
/// default; an empty string counts as not set.
///
/// Spec: backends §10; docs/configuration.md, "oss".
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OssOptions {
    /// Bucket name. Required.
    pub bucket: Option<String>,
    /// Prefix of every key, verbatim: `a/`, empty and `.` name different places.
    pub path: Option<String>,
    /// Unset: `cn-hangzhou`.
    pub region: Option<String>,
    /// Host, `host:port` or URL of the store; `https` unless it says otherwise.
    /// Unset: the region's public endpoint.
    pub endpoint: Option<String>,
    /// Counts only together with the secret; otherwise the environment does.
    pub access_key_id: Option<String>,
    /// Counts only together with the key id.
    pub secret_access_key: Option<String>,
    /// Bytes per part, at least 100 KiB; larger bodies go in parts. Unset: 6 MiB.
    pub part_size: Option<u64>,
    /// Parts of one file in flight. Unset or 0: 3.
    pub concurrency: Option<usize>,
}

impl OssOptions {
    /// Fills what is not set from the parts of a URL.
    #[must_use]
    pub fn or_from_url(self, url: Self) -> Self {
        fn text(own: Option<String>, other: Option<String>) -> Option<String> {
            own.filter(|own| !own.is_empty()).or(other)
        }
        Self {
            bucket: text(self.bucket, url.bucket),
            path: text(self.path, url.path),
            region: text(self.region, url.region),
            endpoint: text(self.endpoint, url.endpoint),
            access_key_id: text(self.access_key_id, url.access_key_id),
            secret_access_key: text(self.secret_access_key, url.secret_access_key),
            part_size: self.part_size.or(url.part_size),
            concurrency: self.concurrency.or(url.concurrency),
        }
    }

    /// Appends the relative path of a database of a directory replica.
    pub fn join(&mut self, relative: &str) {
        let path = self.path.as_deref().unwrap_or_default();
        self.path = Some(match path {
            "" => relative.to_owned(),
            path => clean_path(&format!("{path}/{relative}")),
        });
    }
}

impl fmt::Debug for OssOptions {
    /// Shows whether secrets are set, not what they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "…");
        f.debug_struct("OssOptions")
            .field("bucket", &self.bucket)
            .field("path", &self.path)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint.as_deref().map(Endpoint::without_user))
            .field("access_key_id", &hidden(&self.access_key_id))
            .field("secret_access_key", &hidden(&self.secret_access_key))
            .field("part_size", &self.part_size)
            .field("concurrency", &self.concurrency)
            .finish()
    }
}

/// Reads an `oss` URL: a bucket, or the public or internal host of one, which
/// names the region too. Upstream ignores all parameters; here `endpoint` and
/// `region` count.
pub(crate) fn parse_url(url: &SplitUrl) -> Result<OssOptions> {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let (bucket, region) = bucket_and_region(&url.host);
    let path = clean_path(&url.path()?);
    Ok(OssOptions {
        bucket: some(bucket),
        path: Some(path.strip_prefix('/').unwrap_or(&path).to_owned()),
        region: url.query(&["region"]).and_then(some).or_else(|| some(region)),
        endpoint: url.query(&["endpoint"]).and_then(some),
        ..OssOptions::default()
    })
}

/// Takes `<bucket>.oss-<region>[-internal].aliyuncs.com` apart.
fn bucket_and_region(host: &str) -> (&str, &str) {
    let parts = host.strip_suffix(".aliyuncs.com").and_then(|host| host.rsplit_once(".oss-"));
    match parts {
        Some((bucket, region)) => (bucket, region.strip_suffix("-internal").unwrap_or(region)),
        None => (host, ""),
    }
}

/// Options with every default decided.
pub(super) struct Settings {
    pub(super) bucket: String,
    pub(super) path: String,
    pub(super) region: String,
    pub(super) endpoint: Endpoint,
    /// Whether the bucket stands in the path rather than the host name.
    pub(super) path_style: bool,
    pub(super) keys: Keys,
    pub(super) part_size: u64,
    pub(super) concurrency: usize,
}

impl Settings {
    pub(super) fn resolve(options: OssOptions, context: &ClientContext) -> Result<Arc<Self>> {
        // `or_from_url` with nothing to add turns empty texts into unset ones.
        let options = options.or_from_url(OssOptions::default());
        let bucket = options.bucket.ok_or_else(|| setup("bucket required for oss replica"))?;
        let region = options.region.unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let endpoint = options.endpoint.unwrap_or_else(|| format!("oss-{region}.aliyuncs.com"));
        let endpoint = Endpoint::parse("oss", &endpoint)?;
        let keys = match options.access_key_id.zip(options.secret_access_key) {
            Some((id, secret)) => Some(Keys { id, secret, token: None }),
            None => context
                .env_var("OSS_ACCESS_KEY_ID")
                .zip(context.env_var("OSS_ACCESS_KEY_SECRET"))
                .map(|(id, secret)| Keys { id, secret, token: context.env_var("OSS_SESSION_TOKEN") }),
        };
        let keys = keys.ok_or_else(|| {
            setup(
                "oss: access key id or access key secret is empty; set access-key-id and secret-access-key, or \
                 OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET",
            )
        })?;
        Ok(Arc::new(Self {
            path: options.path.unwrap_or_default(),
            path_style: is_address(&endpoint.authority),
            part_size: options.part_size.filter(|&size| size > 0).unwrap_or(DEFAULT_PART_SIZE),
            concurrency: options.concurrency.filter(|&count| count > 0).unwrap_or(DEFAULT_CONCURRENCY),
            bucket,
            region,
            endpoint,
            keys,
        }))
    }

    /// `scheme://host` that requests go to.
    pub(super) fn origin(&self) -> String {
        let Endpoint { scheme, authority, .. } = &self.endpoint;
        match self.path_style {
            true => format!("{scheme}://{authority}"),
            false => format!("{scheme}://{}.{authority}", self.bucket),
        }
    }
}

/// An address has no subdomains for buckets.
fn is_address(authority: &str) -> bool {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    authority.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok()
}

const DEFAULT_REGION: &str = "cn-hangzhou";
const DEFAULT_PART_SIZE: u64 = 6 << 20;
const DEFAULT_CONCURRENCY: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplicaUrl;

    fn options(url: &str) -> OssOptions {
        match ReplicaUrl::parse(url).unwrap() {
            ReplicaUrl::Oss(options) => options,
            other => panic!("{url} is {other:?}"),
        }
    }

    fn settings(options: OssOptions) -> Arc<Settings> {
        let options = OssOptions { access_key_id: Some("id".into()), secret_access_key: Some("s".into()), ..options };
        Settings::resolve(options, &ClientContext::default()).unwrap()
    }

    #[test]
    fn urls_name_bucket_path_and_region() {
        for (url, bucket, path, region, origin) in [
            ("oss://bkt/a//b/../c/", "bkt", "a/c", "cn-hangzhou", "https://bkt.oss-cn-hangzhou.aliyuncs.com"),
            ("oss://bkt/", "bkt", "", "cn-hangzhou", "https://bkt.oss-cn-hangzhou.aliyuncs.com"),
            ("oss://bkt", "bkt", ".", "cn-hangzhou", "https://bkt.oss-cn-hangzhou.aliyuncs.com"),
            ("oss://b.oss-eu-west-1.aliyuncs.com/p", "b", "p", "eu-west-1", "https://b.oss-eu-west-1.aliyuncs.com"),
            (
                "oss://b.oss-cn-beijing-internal.aliyuncs.com/p",
                "b",
                "p",
                "cn-beijing",
                "https://b.oss-cn-beijing.aliyuncs.com",
            ),
            ("oss://bkt/p?endpoint=http://127.0.0.1:9000&region=r", "bkt", "p", "r", "http://127.0.0.1:9000"),
        ] {
            let settings = settings(options(url));
            assert_eq!((settings.bucket.as_str(), settings.path.as_str()), (bucket, path), "{url}");
            assert_eq!((settings.region.as_str(), settings.origin().as_str()), (region, origin), "{url}");
        }
    }

    #[test]
    fn endpoints_are_addressed_as_alibabas_libraries_do() {
        for (endpoint, origin) in [
            ("oss-cn-hangzhou-internal.aliyuncs.com", "https://bkt.oss-cn-hangzhou-internal.aliyuncs.com"),
            ("http://oss.example.com", "http://bkt.oss.example.com"),
            ("10.0.0.1:9000", "https://10.0.0.1:9000"),
            ("http://[::1]:9000", "http://[::1]:9000"),
        ] {
            let options =
                OssOptions { bucket: Some("bkt".into()), endpoint: Some(endpoint.into()), ..OssOptions::default() };
            assert_eq!(settings(options).origin(), origin);
        }
    }

    #[test]
    fn keys_come_from_settings_or_from_the_environment() {
        let env = |name: &str| match name {
            "OSS_ACCESS_KEY_ID" => Some("env-id".to_owned()),
            "OSS_ACCESS_KEY_SECRET" => Some("env-secret".to_owned()),
            "OSS_SESSION_TOKEN" => Some("env-token".to_owned()),
            _ => None,
        };
        let context = ClientContext { env: Some(Arc::new(env)), ..ClientContext::default() };
        let bucket = || OssOptions { bucket: Some("bkt".into()), ..OssOptions::default() };
        let keys = Settings::resolve(bucket(), &context).unwrap().keys.clone();
        assert_eq!(
            (keys.id.as_str(), keys.secret.as_str(), keys.token.as_deref()),
            ("env-id", "env-secret", Some("env-token"))
        );
        let own = OssOptions { access_key_id: Some("own".into()), secret_access_key: Some("s".into()), ..bucket() };
        assert!(!format!("{own:?}").contains("own"));
        let keys = Settings::resolve(own, &context).unwrap().keys.clone();
        assert_eq!((keys.id.as_str(), keys.token), ("own", None));
        let half = OssOptions { access_key_id: Some("own".into()), ..bucket() };
        assert_eq!(Settings::resolve(half, &context).unwrap().keys.id, "env-id");
    }

    #[test]
    fn missing_settings_are_named() {
        let error = |options| Settings::resolve(options, &ClientContext::default()).err().unwrap().to_string();
        assert_eq!(error(OssOptions::default()), "bucket required for oss replica");
        let error = error(OssOptions { bucket: Some("b".into()), ..OssOptions::default() });
        assert!(error.starts_with("oss: access key id or access key secret is empty"), "{error}");
    }
}
