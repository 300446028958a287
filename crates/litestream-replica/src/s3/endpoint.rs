//! Addresses: which host serves a bucket, and which URL names a key.
//!
//! Keys are escaped once and never tidied: `//` and `./` reach the wire.
//!
//! Spec: backends §4.1, §4.3.

use super::options::Settings;
use crate::Result;
use crate::http::endpoint::{Endpoint, append_query, escape_path};
use crate::url::setup;

/// An access point, `arn:<partition>:s3:<region>:<account>:accesspoint/<name>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AccessPoint {
    partition: String,
    pub(super) region: String,
    account: String,
    name: String,
}

impl AccessPoint {
    /// `None` when `bucket` is a plain name.
    pub(super) fn parse(bucket: &str) -> Result<Option<Self>> {
        if !bucket.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("arn:")) {
            return Ok(None);
        }
        let fields: Vec<&str> = bucket.splitn(6, ':').collect();
        let point = match fields.as_slice() {
            &[_, partition, _, region, account, resource] => resource
                .split_once('/')
                .filter(|(kind, name)| *kind == "accesspoint" && !name.is_empty() && !region.is_empty())
                .map(|(_, name)| Self {
                    partition: partition.to_owned(),
                    region: region.to_owned(),
                    account: account.to_owned(),
                    name: name.to_owned(),
                }),
            _ => None,
        };
        point.map(Some).ok_or_else(|| setup(format!("invalid s3 access point arn: {bucket}")))
    }
}

/// Where requests for one bucket go, with the region settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `scheme://host` that requests go to.
    origin: String,
    /// What stands before the key; empty or starting with a slash.
    prefix: String,
}

impl Target {
    pub(super) fn new(settings: &Settings, region: &str) -> Self {
        if let Some(point) = &settings.access_point {
            let AccessPoint { partition, region, account, name } = point;
            let domain = domain_of_partition(partition);
            let fips = if settings.fips { "-fips" } else { "" };
            let stack = if settings.dual_stack { ".dualstack" } else { "" };
            return Self {
                origin: format!("https://{name}-{account}.s3-accesspoint{fips}{stack}.{region}.{domain}"),
                prefix: String::new(),
            };
        }
        let endpoint = settings.endpoint.clone().unwrap_or_else(|| amazon(settings, region));
        let Endpoint { scheme, authority, base_path } = endpoint;
        let bucket = &settings.bucket;
        if settings.path_style || !may_be_in_host(bucket, &authority) {
            Self { origin: format!("{scheme}://{authority}"), prefix: format!("{base_path}/{}", escape_path(bucket)) }
        } else {
            Self { origin: format!("{scheme}://{bucket}.{authority}"), prefix: base_path }
        }
    }

    /// The URL of a key, or of the bucket itself.
    pub(super) fn url(&self, key: Option<&str>, query: &[(&str, &str)]) -> String {
        let mut url = format!("{}{}", self.origin, self.prefix);
        match key {
            Some(key) => {
                url.push('/');
                url.push_str(&escape_path(key));
            }
            None if self.prefix.is_empty() => url.push('/'),
            None => {}
        }
        append_query(&mut url, query);
        url
    }

    /// For messages.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }
}

fn amazon(settings: &Settings, region: &str) -> Endpoint {
    let fips = if settings.fips { "-fips" } else { "" };
    let stack = if settings.dual_stack { ".dualstack" } else { "" };
    let domain = domain_of_partition(if region.starts_with("cn-") { "aws-cn" } else { "aws" });
    Endpoint { scheme: "https", authority: format!("s3{fips}{stack}.{region}.{domain}"), base_path: String::new() }
}

fn domain_of_partition(partition: &str) -> &'static str {
    if partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" }
}

/// A dot in the bucket's name does not fit the wildcard certificate, an address
/// has no subdomains, and other signs have no place in a host name.
fn may_be_in_host(bucket: &str, authority: &str) -> bool {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let is_address = authority.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
    let fits = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !bucket.starts_with('-')
        && !bucket.ends_with('-');
    fits && !is_address
}

#[cfg(test)]
mod tests {
    use super::super::options::S3Options;
    use super::*;
    use crate::ClientContext;

    fn url(bucket: &str, endpoint: &str, path_style: Option<bool>, key: &str) -> String {
        let options = S3Options {
            bucket: Some(bucket.into()),
            endpoint: Some(endpoint.into()),
            force_path_style: path_style,
            ..S3Options::default()
        };
        let settings = Settings::resolve(options, &ClientContext::default()).unwrap();
        Target::new(&settings, "us-west-2").url(Some(key), &[])
    }

    #[test]
    fn buckets_are_addressed_as_their_store_expects() {
        for (bucket, endpoint, style, wanted) in [
            ("bkt", "", None, "https://bkt.s3.us-west-2.amazonaws.com/k"),
            ("a.b.c", "", None, "https://s3.us-west-2.amazonaws.com/a.b.c/k"),
            ("bkt", "", Some(true), "https://s3.us-west-2.amazonaws.com/bkt/k"),
            ("bkt", "localhost:9000", None, "https://localhost:9000/bkt/k"),
            ("bkt", "http://localhost:9000/", None, "http://localhost:9000/bkt/k"),
            ("bkt", "http://s3.example.com", Some(false), "http://bkt.s3.example.com/k"),
            ("bkt", "http://127.0.0.1:9000", Some(false), "http://127.0.0.1:9000/bkt/k"),
            ("bkt", "https://x.supabase.co/storage/v1/s3", None, "https://x.supabase.co/storage/v1/s3/bkt/k"),
            (
                "arn:aws:s3:us-east-2:123456789012:accesspoint/my-ap",
                "",
                None,
                "https://my-ap-123456789012.s3-accesspoint.us-east-2.amazonaws.com/k",
            ),
        ] {
            assert_eq!(url(bucket, endpoint, style, "k"), wanted, "{bucket} at {endpoint}");
        }
    }

    #[test]
    fn keys_are_escaped_but_not_tidied() {
        for (key, wanted) in [
            ("./0000/x", "/b/./0000/x"),
            ("/0000/x", "/b//0000/x"),
            ("a//b/../x", "/b/a//b/../x"),
            ("sp ace/ü%20+&=?#~", "/b/sp%20ace/%C3%BC%2520%2B%26%3D%3F%23~"),
        ] {
            let url = url("b", "http://h", None, key);
            assert_eq!(url, format!("http://h{wanted}"));
            let parsed: http::Uri = url.parse().unwrap();
            assert_eq!(parsed.path(), wanted, "the client library keeps it too");
        }
    }

    #[test]
    fn access_point_with_endpoint_is_refused() {
        let options = S3Options {
            bucket: Some("arn:aws:s3:us-east-2:1:accesspoint/ap".into()),
            endpoint: Some("localhost".into()),
            ..S3Options::default()
        };
        let error = Settings::resolve(options, &ClientContext::default()).err().unwrap();
        assert!(error.to_string().contains("Path-style addressing cannot be used with ARN buckets"));
        for arn in ["arn:aws:s3:us-east-2:1:bucket/x", "arn:aws:s3", "arn:aws:s3:us-east-2:1:accesspoint/"] {
            assert_eq!(AccessPoint::parse(arn).unwrap_err().to_string(), format!("invalid s3 access point arn: {arn}"));
        }
    }

    #[test]
    fn environment_flags_change_amazons_hosts() {
        let env = |name: &str| match name {
            "AWS_USE_FIPS_ENDPOINT" => Some("true".to_owned()),
            _ => None,
        };
        let context = ClientContext { env: Some(std::sync::Arc::new(env)), ..ClientContext::default() };
        let options = S3Options { bucket: Some("bkt".into()), ..S3Options::default() };
        let settings = Settings::resolve(options, &context).unwrap();
        assert_eq!(Target::new(&settings, "us-west-2").origin(), "https://bkt.s3-fips.us-west-2.amazonaws.com");
    }
}
