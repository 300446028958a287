//! `s3://` URLs: buckets, host names of providers, access points, query keys.
//!
//! Spec: backends §4.1.

use super::endpoint::AccessPoint;
use super::options::{DEFAULT_REGION, S3Options};
use crate::Result;
use crate::http::endpoint::is_private_host;
use crate::layout::clean_path;
use crate::url::{SplitUrl, setup};

/// Reads an `s3` URL into options; what it does not say stays unset.
pub(crate) fn parse_url(url: &SplitUrl) -> Result<S3Options> {
    let mut options = if url.host.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("arn:")) {
        access_point(url)?
    } else {
        let path = clean_path(&url.path()?);
        S3Options { path: Some(path.strip_prefix('/').unwrap_or(&path).to_owned()), ..host_options(&url.host) }
    };
    read_query(url, &mut options)?;
    Ok(options)
}

fn access_point(url: &SplitUrl) -> Result<S3Options> {
    let path = url.path()?;
    let (name, path) =
        path.strip_prefix('/').and_then(|path| path.split_once('/')).unwrap_or((path.trim_matches('/'), ""));
    let bucket = format!("{}/{name}", url.host);
    let point = AccessPoint::parse(&bucket)?;
    let path = clean_path(&format!("/{path}"));
    Ok(S3Options {
        bucket: Some(bucket),
        path: Some(path.trim_start_matches('/').to_owned()),
        region: point.map(|point| point.region),
        ..S3Options::default()
    })
}

/// Bucket, region and endpoint of a host; by default it is all bucket.
fn host_options(host: &str) -> S3Options {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    // `bucket.host:port`, as written for servers of one's own.
    if host.contains(':') && !host.contains(".com") {
        let (bucket, server) = host.split_once('.').unwrap_or(("", host));
        return S3Options {
            bucket: some(bucket),
            region: some(DEFAULT_REGION),
            endpoint: Some(format!("http://{server}")),
            force_path_style: Some(true),
            ..S3Options::default()
        };
    }
    let labels: Vec<&str> = host.split('.').collect();
    let at = |bucket: &[&str], region: &str, endpoint: String, path_style: Option<bool>| S3Options {
        bucket: some(&bucket.join(".")),
        region: some(region),
        endpoint: some(&endpoint),
        force_path_style: path_style,
        ..S3Options::default()
    };
    match labels.as_slice() {
        [bucket @ .., "s3", "amazonaws", "com"] if !bucket.is_empty() => at(bucket, "", String::new(), None),
        [bucket @ .., "s3", region, "amazonaws", "com"] if !bucket.is_empty() => {
            at(bucket, region, String::new(), None)
        }
        [bucket @ .., region, "digitaloceanspaces", "com"] => {
            at(bucket, region, format!("https://{region}.digitaloceanspaces.com"), Some(false))
        }
        [bucket @ .., "s3", region, "backblazeb2", "com"] => {
            at(bucket, region, format!("https://s3.{region}.backblazeb2.com"), Some(true))
        }
        [bucket @ .., "s3", "filebase", "com"] => at(bucket, "", "s3.filebase.com".to_owned(), None),
        [bucket @ .., "s3", region, "scw", "cloud"] => {
            at(bucket, region, format!("s3.{region}.scw.cloud"), Some(false))
        }
        _ => S3Options { bucket: some(host), ..S3Options::default() },
    }
}

fn read_query(url: &SplitUrl, options: &mut S3Options) -> Result<()> {
    let text = |names: &[&str]| url.query(names).filter(|value| !value.is_empty()).map(str::to_owned);
    let flag = |names: &[&str]| url.query(names).map(is_true);
    let count = |names: &[&str]| match (url.query(names), names.first()) {
        (Some(value), Some(name)) => match value.parse::<u64>() {
            Ok(count) if count > 0 => Ok(Some(count)),
            _ => Err(setup(format!(
                "invalid value for query parameter \"{name}\": \"{value}\" (must be a positive integer)"
            ))),
        },
        _ => Ok(None),
    };

    if let Some(endpoint) = text(&["endpoint"]) {
        options.endpoint = Some(with_scheme(&endpoint));
        // The host named a bucket, whatever provider it looked like.
        options.force_path_style = None;
    }
    options.region = text(&["region"]).or(options.region.take());
    options.force_path_style = flag(&["forcePathStyle", "force-path-style"]).or(options.force_path_style);
    options.skip_verify = flag(&["skipVerify", "skip-verify"]);
    options.sign_payload = flag(&["signPayload", "sign-payload"]);
    options.require_content_md5 = flag(&["requireContentMD5", "require-content-md5"]);
    options.sign_accept_encoding = flag(&["signAcceptEncoding", "sign-accept-encoding"]);
    options.storage_class = text(&["storageClass", "storage-class"]);
    options.part_size = count(&["partSize"])?.or(count(&["part-size"])?);
    options.concurrency = count(&["concurrency"])?.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    options.sse_customer_algorithm = text(&["sseCustomerAlgorithm", "sse-customer-algorithm"]);
    options.sse_customer_key = text(&["sseCustomerKey", "sse-customer-key"]);
    options.sse_customer_key_md5 = text(&["sseCustomerKeyMD5", "sse-customer-key-md5"]);
    options.sse_kms_key_id = text(&["sseKmsKeyId", "sse-kms-key-id"]);
    Ok(())
}

/// Anything that is not a known yes is a no.
fn is_true(value: &str) -> bool {
    ["true", "1", "t", "yes"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

fn with_scheme(endpoint: &str) -> String {
    let lower = endpoint.to_ascii_lowercase();
    if lower.starts_with("http://") || lower.starts_with("https://") {
        return endpoint.to_owned();
    }
    let host = endpoint.split('/').next().unwrap_or_default();
    let scheme = if is_private_host(host) { "http" } else { "https" };
    format!("{scheme}://{endpoint}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn parse(text: &str) -> Result<S3Options> {
        parse_url(&SplitUrl::parse(text)?)
    }

    /// Bucket, path, region, endpoint, path style.
    fn parts(text: &str) -> (String, String, String, String, Option<bool>) {
        let options = parse(text).unwrap();
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        (
            text(options.bucket),
            text(options.path),
            text(options.region),
            text(options.endpoint),
            options.force_path_style,
        )
    }

    #[test]
    fn host_forms_are_recognised() {
        for (url, bucket, path, region, endpoint, style) in [
            ("s3://bkt/a//b/../c/", "bkt", "a/c", "-", "-", None),
            ("s3://bkt/", "bkt", "", "-", "-", None),
            ("s3://bkt", "bkt", ".", "-", "-", None),
            ("S3://bkt/sp%20ace", "bkt", "sp ace", "-", "-", None),
            ("s3://user:pw@bkt/p", "bkt", "p", "-", "-", None),
            ("s3://b.localhost:9000/x", "b", "x", "us-east-1", "http://localhost:9000", Some(true)),
            ("s3://bkt.127.0.0.1:9000/x", "bkt", "x", "us-east-1", "http://127.0.0.1:9000", Some(true)),
            ("s3://localhost:9000/x", "-", "x", "us-east-1", "http://localhost:9000", Some(true)),
            ("s3://b.s3.amazonaws.com/x", "b", "x", "-", "-", None),
            ("s3://b.s3.eu-west-3.amazonaws.com/x", "b", "x", "eu-west-3", "-", None),
            (
                "s3://bkt.nyc3.digitaloceanspaces.com/x",
                "bkt",
                "x",
                "nyc3",
                "https://nyc3.digitaloceanspaces.com",
                Some(false),
            ),
            (
                "s3://b.s3.us-west-000.backblazeb2.com/x",
                "b",
                "x",
                "us-west-000",
                "https://s3.us-west-000.backblazeb2.com",
                Some(true),
            ),
            ("s3://b.s3.filebase.com/x", "b", "x", "-", "s3.filebase.com", None),
            ("s3://b.s3.fr-par.scw.cloud/x", "b", "x", "fr-par", "s3.fr-par.scw.cloud", Some(false)),
            ("s3://x.us-east-1.linodeobjects.com/p", "x.us-east-1.linodeobjects.com", "p", "-", "-", None),
            (
                "s3://arn:aws:s3:us-east-2:123456789012:accesspoint/my-ap/pre/fix",
                "arn:aws:s3:us-east-2:123456789012:accesspoint/my-ap",
                "pre/fix",
                "us-east-2",
                "-",
                None,
            ),
        ] {
            let wanted = (bucket.into(), path.into(), region.into(), endpoint.into(), style);
            assert_eq!(parts(url), wanted, "{url}");
        }
    }

    #[test]
    fn endpoint_in_the_query_gets_a_scheme() {
        for (value, endpoint) in [
            ("localhost:9000", "http://localhost:9000"),
            ("10.0.0.1", "http://10.0.0.1"),
            ("172.200.0.1", "https://172.200.0.1"),
            ("minio.local:9000", "http://minio.local:9000"),
            ("s3.example.com", "https://s3.example.com"),
            ("http%3A%2F%2Fx%3A1", "http://x:1"),
        ] {
            let options = parse(&format!("s3://bkt?endpoint={value}")).unwrap();
            assert_eq!(options.endpoint.as_deref(), Some(endpoint));
            assert_eq!(options.path.as_deref(), Some("."));
        }
    }

    #[test]
    fn both_spellings_of_parameters_count() {
        for url in [
            "s3://b/p?forcePathStyle=true&skipVerify=1&signPayload=no&requireContentMD5=0&signAcceptEncoding=f&storageClass=S&partSize=6000000&concurrency=3&region=r&sseKmsKeyId=k",
            "s3://b/p?force-path-style=T&skip-verify=YES&sign-payload=x&require-content-md5=false&sign-accept-encoding=off&storage-class=S&part-size=6000000&concurrency=3&region=r&sse-kms-key-id=k",
        ] {
            let options = parse(url).unwrap();
            assert_eq!((options.force_path_style, options.skip_verify), (Some(true), Some(true)), "{url}");
            assert_eq!((options.sign_payload, options.require_content_md5), (Some(false), Some(false)), "{url}");
            assert_eq!(options.sign_accept_encoding, Some(false));
            assert_eq!((options.part_size, options.concurrency), (Some(6_000_000), Some(3)));
            assert_eq!(options.storage_class.as_deref(), Some("S"));
            assert_eq!((options.region.as_deref(), options.sse_kms_key_id.as_deref()), (Some("r"), Some("k")));
        }
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (url, message) in [
            (
                "s3://b/p?part-size=5MB",
                "invalid value for query parameter \"part-size\": \"5MB\" (must be a positive integer)",
            ),
            (
                "s3://b/p?partSize=0",
                "invalid value for query parameter \"partSize\": \"0\" (must be a positive integer)",
            ),
            ("s3://arn:aws:s3:us-east-2:1:bucket/x/y", "invalid s3 access point arn: arn:aws:s3:us-east-2:1:bucket/x"),
            ("s3://b/%zz", "parse \"s3://b/%zz\": invalid URL escape \"%zz\""),
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Setup, message));
        }
    }
}
