//! What a user can set for an `s3` replica, and what follows from it.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};

use super::endpoint::AccessPoint;
use super::provider::Quirks;
use crate::http::endpoint::Endpoint;
use crate::url::setup;
use crate::{ClientContext, Result};

/// Settings of an `s3` replica. Whatever is `None` was not set and takes the
/// default; an empty string counts as not set.
///
/// Spec: backends §1.5 and §4; docs/configuration.md, "s3".
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// Bucket name, or the ARN of an access point. Required.
    pub bucket: Option<String>,
    /// Prefix of every key, verbatim: `a/`, empty and `.` name different places.
    pub path: Option<String>,
    /// Unset: `us-east-1` with an endpoint, else asked from the bucket.
    pub region: Option<String>,
    /// Host, `host:port` or URL of the store; `https` unless it says otherwise.
    /// Unset: Amazon S3 (or `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`).
    pub endpoint: Option<String>,
    /// Counts only together with the secret; otherwise the credential chain does.
    pub access_key_id: Option<String>,
    /// Counts only together with the key id.
    pub secret_access_key: Option<String>,
    /// Bucket in the path rather than the host name. Unset: with an endpoint.
    pub force_path_style: Option<bool>,
    /// Accept any certificate.
    pub skip_verify: Option<bool>,
    /// Sign a digest of each body. Unset: true.
    pub sign_payload: Option<bool>,
    /// Send `Content-MD5` with batch deletes. Unset: true, except for Tigris.
    pub require_content_md5: Option<bool>,
    /// Sign the `Accept-Encoding` header. Unset: true, except for Google.
    pub sign_accept_encoding: Option<bool>,
    /// Storage class of new objects, passed as is.
    pub storage_class: Option<String>,
    /// Bytes per part, at least 5 MiB; bodies of this size and up go in parts.
    pub part_size: Option<u64>,
    /// Parts of one file in flight. Unset or 0: 5, for Cloudflare R2 2.
    pub concurrency: Option<usize>,
    /// `AES256` or unset.
    pub sse_customer_algorithm: Option<String>,
    /// Base64 of 32 bytes: the store encrypts with it and forgets it.
    pub sse_customer_key: Option<String>,
    /// Base64 of the key's MD5; computed when unset.
    pub sse_customer_key_md5: Option<String>,
    /// Key of the provider's key service; not together with a customer key.
    pub sse_kms_key_id: Option<String>,
}

impl S3Options {
    /// Fills what is not set from the parts of a URL. `skipVerify` is the one
    /// parameter that wins over the configuration.
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
            force_path_style: self.force_path_style.or(url.force_path_style),
            skip_verify: url.skip_verify.or(self.skip_verify),
            sign_payload: self.sign_payload.or(url.sign_payload),
            require_content_md5: self.require_content_md5.or(url.require_content_md5),
            sign_accept_encoding: self.sign_accept_encoding.or(url.sign_accept_encoding),
            storage_class: text(self.storage_class, url.storage_class),
            part_size: self.part_size.or(url.part_size),
            concurrency: self.concurrency.or(url.concurrency),
            sse_customer_algorithm: text(self.sse_customer_algorithm, url.sse_customer_algorithm),
            sse_customer_key: text(self.sse_customer_key, url.sse_customer_key),
            sse_customer_key_md5: text(self.sse_customer_key_md5, url.sse_customer_key_md5),
            sse_kms_key_id: text(self.sse_kms_key_id, url.sse_kms_key_id),
        }
    }

    /// Appends the relative path of a database of a directory replica.
    pub fn join(&mut self, relative: &str) {
        let path = self.path.as_deref().unwrap_or_default();
        self.path = Some(match path {
            "" => relative.to_owned(),
            path => crate::layout::clean_path(&format!("{path}/{relative}")),
        });
    }
}

impl fmt::Debug for S3Options {
    /// Shows whether secrets are set, not what they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "…");
        f.debug_struct("S3Options")
            .field("bucket", &self.bucket)
            .field("path", &self.path)
            .field("region", &self.region)
            .field("endpoint", &self.endpoint.as_deref().map(Endpoint::without_user))
            .field("access_key_id", &hidden(&self.access_key_id))
            .field("secret_access_key", &hidden(&self.secret_access_key))
            .field("force_path_style", &self.force_path_style)
            .field("skip_verify", &self.skip_verify)
            .field("sign_payload", &self.sign_payload)
            .field("require_content_md5", &self.require_content_md5)
            .field("sign_accept_encoding", &self.sign_accept_encoding)
            .field("storage_class", &self.storage_class)
            .field("part_size", &self.part_size)
            .field("concurrency", &self.concurrency)
            .field("sse_customer_algorithm", &self.sse_customer_algorithm)
            .field("sse_customer_key", &hidden(&self.sse_customer_key))
            .field("sse_kms_key_id", &self.sse_kms_key_id)
            .finish_non_exhaustive()
    }
}

/// Options with every default decided.
pub(super) struct Settings {
    pub(super) bucket: String,
    pub(super) path: String,
    pub(super) region: Option<String>,
    /// As given, for logs; empty for Amazon.
    pub(super) endpoint_text: String,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) access_point: Option<AccessPoint>,
    pub(super) path_style: bool,
    pub(super) fips: bool,
    pub(super) dual_stack: bool,
    pub(super) keys: Option<(String, String)>,
    pub(super) skip_verify: bool,
    pub(super) sign_payload: bool,
    pub(super) content_md5: bool,
    pub(super) sign_accept_encoding: bool,
    pub(super) storage_class: Option<String>,
    pub(super) part_size: u64,
    pub(super) concurrency: usize,
    pub(super) customer_key: Option<CustomerKey>,
    pub(super) kms_key_id: Option<String>,
    pub(super) quirks: Quirks,
}

/// A key that the client gives with each request ("SSE-C").
pub(super) struct CustomerKey {
    pub(super) key: String,
    pub(super) md5: String,
}

impl Settings {
    pub(super) fn resolve(options: S3Options, context: &ClientContext) -> Result<Arc<Self>> {
        // `or_from_url` with nothing to add turns empty texts into unset ones.
        let options = options.or_from_url(S3Options::default());
        let bucket = options.bucket.clone().ok_or_else(|| setup("bucket required for s3 replica"))?;
        let access_point = AccessPoint::parse(&bucket)?;

        let own_endpoint = options.endpoint.is_some();
        let from_env = || context.env_var("AWS_ENDPOINT_URL_S3").or_else(|| context.env_var("AWS_ENDPOINT_URL"));
        let endpoint_text = options.endpoint.clone().or_else(from_env);
        let endpoint = endpoint_text.as_deref().map(|text| Endpoint::parse("s3", text)).transpose()?;
        let quirks = Quirks::of(endpoint_text.as_deref());
        if access_point.is_some() && endpoint.is_some() {
            return Err(setup("s3: Path-style addressing cannot be used with ARN buckets; remove the endpoint"));
        }
        let region = options
            .region
            .clone()
            .or_else(|| access_point.as_ref().map(|point| point.region.clone()))
            .or_else(|| own_endpoint.then(|| DEFAULT_REGION.to_owned()));
        let flag = |name: &str| context.env_var(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));

        Ok(Arc::new(Self {
            customer_key: customer_key(&options, endpoint.as_ref())?,
            path: options.path.unwrap_or_default(),
            region,
            endpoint_text: options.endpoint.as_deref().map(Endpoint::without_user).unwrap_or_default(),
            path_style: options.force_path_style.unwrap_or(own_endpoint),
            fips: flag("AWS_USE_FIPS_ENDPOINT"),
            dual_stack: flag("AWS_USE_DUALSTACK_ENDPOINT"),
            keys: options.access_key_id.zip(options.secret_access_key),
            skip_verify: options.skip_verify.unwrap_or(false),
            sign_payload: options.sign_payload.unwrap_or(true),
            content_md5: options.require_content_md5.unwrap_or(quirks.content_md5),
            sign_accept_encoding: options.sign_accept_encoding.unwrap_or(quirks.sign_accept_encoding),
            storage_class: options.storage_class,
            part_size: rounded_part_size(options.part_size.filter(|&size| size > 0)),
            concurrency: options.concurrency.filter(|&count| count > 0).unwrap_or(quirks.concurrency),
            kms_key_id: options.sse_kms_key_id,
            quirks,
            bucket,
            access_point,
            endpoint,
        }))
    }
}

/// Guides of upstream's recommend `5MB`, which is just below the minimum of 5 MiB.
fn rounded_part_size(configured: Option<u64>) -> u64 {
    match configured {
        None => MIN_PART_SIZE,
        Some(size @ 5_000_000..MIN_PART_SIZE) => {
            tracing::warn!(
                part_size = size,
                used = MIN_PART_SIZE,
                "part-size is below the minimum of 5 MiB, rounded up"
            );
            MIN_PART_SIZE
        }
        Some(size) => size,
    }
}

fn customer_key(options: &S3Options, endpoint: Option<&Endpoint>) -> Result<Option<CustomerKey>> {
    let Some(key) = options.sse_customer_key.clone() else { return Ok(None) };
    if options.sse_kms_key_id.is_some() {
        return Err(setup("s3: cannot use both sse-customer-key and sse-kms-key-id; they are mutually exclusive"));
    }
    if let Some(algorithm) = options.sse_customer_algorithm.as_deref().filter(|&name| name != "AES256") {
        return Err(setup(format!("s3: sse-customer-algorithm must be AES256, got \"{algorithm}\"")));
    }
    let decoded = BASE64_STANDARD
        .decode(&key)
        .map_err(|e| setup(format!("s3: sse-customer-key must be valid base64: {}", without_symbols(&e))))?;
    if decoded.len() != 32 {
        let len = decoded.len();
        return Err(setup(format!("s3: sse-customer-key must be 256-bit (32 bytes) when decoded, got {len} bytes")));
    }
    if endpoint.is_some_and(|endpoint| !endpoint.is_https() && !endpoint.is_private()) {
        return Err(setup(
            "s3: sse-customer-key requires HTTPS endpoint (HTTP only allowed for localhost/private networks)",
        ));
    }
    let md5 = options.sse_customer_key_md5.clone().unwrap_or_else(|| BASE64_STANDARD.encode(Md5::digest(&decoded)));
    Ok(Some(CustomerKey { key, md5 }))
}

/// The library's text quotes the offending byte of the secret.
fn without_symbols(error: &base64::DecodeError) -> &'static str {
    match error {
        base64::DecodeError::InvalidByte(..) => "it contains a symbol outside the alphabet",
        base64::DecodeError::InvalidLength(_) => "its length is wrong",
        _ => "it is malformed",
    }
}

/// Smallest size of any part but the last that S3 takes; also the default.
pub(super) const MIN_PART_SIZE: u64 = 5 << 20;

/// Where Amazon knows all buckets, and what compatible stores expect.
pub(super) const DEFAULT_REGION: &str = "us-east-1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn options() -> S3Options {
        S3Options { bucket: Some("b".into()), ..S3Options::default() }
    }

    fn resolve(options: S3Options) -> Result<Arc<Settings>> {
        Settings::resolve(options, &ClientContext::default())
    }

    #[test]
    fn defaults_depend_on_the_endpoint() {
        for (endpoint, region, path_style, md5, encoding, concurrency, crc32) in [
            ("", None, false, true, true, 5, true),
            ("localhost:9000", Some("us-east-1"), true, true, true, 5, false),
            ("https://fly.storage.tigris.dev", Some("us-east-1"), true, false, true, 5, false),
            ("https://x.r2.cloudflarestorage.com", Some("us-east-1"), true, true, true, 2, false),
            ("https://storage.googleapis.com:443", Some("us-east-1"), true, true, false, 5, false),
        ] {
            let settings = resolve(S3Options { endpoint: Some(endpoint.into()), ..options() }).unwrap();
            let got = (
                settings.region.as_deref(),
                settings.path_style,
                settings.content_md5,
                settings.sign_accept_encoding,
                settings.concurrency,
                settings.quirks.crc32,
            );
            assert_eq!(got, (region, path_style, md5, encoding, concurrency, crc32), "{endpoint}");
        }
    }

    /// Fly.io gives its applications Tigris by this variable.
    #[test]
    fn endpoints_of_the_environment_are_recognised_too() {
        let env = |name: &str| (name == "AWS_ENDPOINT_URL_S3").then(|| "https://fly.storage.tigris.dev".to_owned());
        let context = ClientContext { env: Some(Arc::new(env)), ..ClientContext::default() };
        let settings = Settings::resolve(options(), &context).unwrap();
        assert!(!settings.content_md5 && settings.quirks.consistent_header && !settings.quirks.crc32);
        let other = S3Options { endpoint: Some("https://s3.example".into()), ..options() };
        assert!(Settings::resolve(other, &context).unwrap().content_md5, "the configuration goes before");
    }

    #[test]
    fn explicit_settings_beat_detection() {
        let settings = resolve(S3Options {
            endpoint: Some("https://fly.storage.tigris.dev".into()),
            require_content_md5: Some(true),
            force_path_style: Some(false),
            sign_payload: Some(false),
            concurrency: Some(9),
            ..options()
        })
        .unwrap();
        assert!(settings.content_md5 && !settings.path_style && !settings.sign_payload);
        assert_eq!(settings.concurrency, 9);
    }

    #[test]
    fn configuration_beats_url_except_for_skip_verify() {
        let config =
            S3Options { region: Some("eu".into()), path: Some(String::new()), skip_verify: Some(true), ..options() };
        let url = S3Options {
            bucket: Some("other".into()),
            region: Some("us".into()),
            path: Some("p".into()),
            skip_verify: Some(false),
            ..S3Options::default()
        };
        let merged = config.or_from_url(url);
        assert_eq!(merged.bucket.as_deref(), Some("b"));
        assert_eq!(merged.region.as_deref(), Some("eu"));
        assert_eq!(merged.path.as_deref(), Some("p"));
        assert_eq!(merged.skip_verify, Some(false));
    }

    #[test]
    fn impossible_encryption_settings_are_refused() {
        let key = || Some(BASE64_STANDARD.encode([7u8; 32]));
        for (options, message) in [
            (
                S3Options { sse_customer_key: key(), sse_kms_key_id: Some("k".into()), ..options() },
                "s3: cannot use both sse-customer-key and sse-kms-key-id; they are mutually exclusive",
            ),
            (
                S3Options { sse_customer_key: key(), sse_customer_algorithm: Some("x".into()), ..options() },
                "s3: sse-customer-algorithm must be AES256, got \"x\"",
            ),
            (
                S3Options { sse_customer_key: Some("AAAA".into()), ..options() },
                "s3: sse-customer-key must be 256-bit (32 bytes) when decoded, got 3 bytes",
            ),
            (
                S3Options { sse_customer_key: Some("!".into()), ..options() },
                "s3: sse-customer-key must be valid base64: it contains a symbol outside the alphabet",
            ),
            (
                S3Options { sse_customer_key: key(), endpoint: Some("http://example.com".into()), ..options() },
                "s3: sse-customer-key requires HTTPS endpoint (HTTP only allowed for localhost/private networks)",
            ),
            (S3Options { bucket: Some(String::new()), ..options() }, "bucket required for s3 replica"),
        ] {
            let error = resolve(options).err().unwrap();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Setup, message));
        }
        let local = S3Options { sse_customer_key: key(), endpoint: Some("http://10.0.0.1:9000".into()), ..options() };
        assert!(resolve(local).unwrap().customer_key.is_some());
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!(
            "{:?}",
            S3Options {
                access_key_id: Some("hidden-id".into()),
                secret_access_key: Some("hidden-secret".into()),
                sse_customer_key: Some("hidden-key".into()),
                endpoint: Some("https://hidden-user:hidden-password@host".into()),
                ..options()
            }
        );
        assert!(!shown.contains("hidden"), "{shown}");
    }

    #[test]
    fn decimal_five_megabytes_become_the_minimum() {
        for (configured, used) in [
            (None, 5 << 20),
            (Some(0), 5 << 20),
            (Some(5_000_000), 5 << 20),
            (Some(6 << 20), 6 << 20),
            (Some(1000), 1000),
        ] {
            assert_eq!(resolve(S3Options { part_size: configured, ..options() }).unwrap().part_size, used);
        }
    }
}
