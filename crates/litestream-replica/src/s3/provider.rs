//! Every difference between stores that speak S3, in one place.
//!
//! The defaults (payloads signed, bucket in the path, no chunked encoding, no
//! trailers) already suit Backblaze B2, Filebase, Supabase, DigitalOcean,
//! Scaleway, Hetzner, MinIO and their like; only stores that need something else
//! stand here. What the user sets wins over all of it.
//!
//! Spec: backends §3.

/// What a store needs that others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quirks {
    /// Batch deletes carry `Content-MD5`.
    pub(super) content_md5: bool,
    /// `Accept-Encoding` may be signed.
    pub(super) sign_accept_encoding: bool,
    /// Every request asks for reads that see the newest write.
    pub(super) consistent_header: bool,
    /// Parts in flight.
    pub(super) concurrency: usize,
    /// All parts but the last must have one size.
    pub(super) equal_parts: bool,
    /// Bodies carry a CRC-32 in a plain header.
    pub(super) crc32: bool,
    /// `If-None-Match: *` is known to work; elsewhere the client finds out.
    pub(super) conditional_writes: bool,
}

impl Quirks {
    /// What a store that does as Amazon documents needs.
    const PLAIN: Self = Self {
        content_md5: true,
        sign_accept_encoding: true,
        consistent_header: false,
        concurrency: 5,
        equal_parts: false,
        crc32: false,
        conditional_writes: false,
    };

    /// The quirks of the store at `endpoint`; none means Amazon.
    pub(super) fn of(endpoint: Option<&str>) -> Self {
        let plain = Self::PLAIN;
        let amazon = Self { crc32: true, conditional_writes: true, ..plain };
        let Some(endpoint) = endpoint else { return amazon };
        let host = host_of(endpoint);
        if is_amazon(&host) {
            // By its full name, or through an endpoint in a private network. Buckets
            // with locked objects insist on the checksum.
            amazon
        } else if host == "fly.storage.tigris.dev" || host == "t3.storage.dev" {
            // Refuses Content-MD5 on deletes.
            Self { content_md5: false, consistent_header: true, ..plain }
        } else if host.ends_with(".r2.cloudflarestorage.com") {
            Self { concurrency: 2, equal_parts: true, ..plain }
        } else if is_google(&host) {
            // Rewrites the header on its way in, which breaks the signature.
            Self { sign_accept_encoding: false, ..plain }
        } else {
            plain
        }
    }
}

/// The host, with port, in lower case; user information makes it empty, so that
/// nobody passes for a provider.
fn host_of(endpoint: &str) -> String {
    let endpoint = endpoint.trim().to_ascii_lowercase();
    let Some(rest) = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://")) else {
        return endpoint;
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') { String::new() } else { host.to_owned() }
}

/// True for Amazon's hosts: regional, dual stack, of private networks, and in China.
fn is_amazon(host: &str) -> bool {
    let name = host.strip_suffix(":443").unwrap_or(host);
    name.ends_with(".amazonaws.com") || name.ends_with(".amazonaws.com.cn")
}

/// True for the hosts of Google Cloud Storage's S3-like API, regional ones included.
fn is_google(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let labels: Vec<&str> = name.strip_suffix('.').unwrap_or(name).split('.').collect();
    let stores = |label: &&str| label.split('-').any(|segment| segment == "storage");
    match labels.as_slice() {
        [first, middle @ .., "googleapis", "com"] => {
            !first.is_empty()
                && middle.iter().all(|label| !label.is_empty())
                && stores(first)
                && !middle.first().is_some_and(stores)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn google_hosts_are_told_from_look_alikes() {
        for endpoint in [
            "storage.googleapis.com",
            "https://storage.googleapis.com:443",
            "https://storage.googleapis.com./",
            "us-central1-storage.googleapis.com",
            "storage.mtls.googleapis.com",
            "storage.me-central2.rep.googleapis.com",
            "storage-download.googleapis.com",
            "HTTPS://Storage.GoogleAPIs.com/x",
        ] {
            assert!(is_google(&host_of(endpoint)), "{endpoint}");
        }
        for endpoint in [
            "bucket.storage.googleapis.com",
            "storageinsights.googleapis.com",
            "storage.googleapis.com.evil.com",
            "attacker@storage.googleapis.com",
            "https://attacker@storage.googleapis.com",
            "backup-storage.us-central1-storage.googleapis.com",
            "googleapis.com",
            "",
        ] {
            assert!(!is_google(&host_of(endpoint)), "{endpoint}");
        }
    }

    #[test]
    fn providers_are_matched_by_whole_host() {
        assert!(!Quirks::of(Some("https://t3.storage.dev")).content_md5);
        assert!(Quirks::of(Some("https://t3.storage.dev:8443")).content_md5);
        assert!(Quirks::of(Some("https://not-t3.storage.dev")).content_md5);
        assert_eq!(Quirks::of(Some("https://acct.r2.cloudflarestorage.com")).concurrency, 2);
        assert_eq!(Quirks::of(Some("https://r2.cloudflarestorage.com.example")).concurrency, 5);
    }

    /// Every store that the specification names, by an endpoint of its own.
    #[test]
    fn every_known_provider_gets_what_it_needs() {
        let plain = Quirks::PLAIN;
        let tigris = Quirks { content_md5: false, consistent_header: true, ..plain };
        for (endpoint, wanted) in [
            ("https://fly.storage.tigris.dev", tigris),
            ("t3.storage.dev", tigris),
            ("https://0123.r2.cloudflarestorage.com", Quirks { concurrency: 2, equal_parts: true, ..plain }),
            ("https://s3.us-west-002.backblazeb2.com", plain),
            ("s3.filebase.com", plain),
            ("https://project.supabase.co/storage/v1/s3", plain),
            ("https://nyc3.digitaloceanspaces.com", plain),
            ("s3.fr-par.scw.cloud", plain),
            ("https://fsn1.your-objectstorage.com", plain),
            ("https://us-east-1.linodeobjects.com", plain),
            ("https://s3.wasabisys.com", plain),
            ("http://localhost:9000", plain),
            ("https://storage.googleapis.com", Quirks { sign_accept_encoding: false, ..plain }),
        ] {
            assert_eq!(Quirks::of(Some(endpoint)), wanted, "{endpoint}");
        }
        let amazon = Quirks { crc32: true, conditional_writes: true, ..plain };
        for endpoint in [
            None,
            Some("https://s3.eu-west-1.amazonaws.com"),
            Some("https://bucket.vpce-0a1b2c3d-4e5f.s3.us-east-1.vpce.amazonaws.com:443/"),
            Some("s3.cn-north-1.amazonaws.com.cn"),
        ] {
            assert_eq!(Quirks::of(endpoint), amazon, "{endpoint:?}");
        }
        for endpoint in ["https://amazonaws.com.evil.example", "https://me@s3.amazonaws.com", "https://s3amazonaws.com"]
        {
            assert_eq!(Quirks::of(Some(endpoint)), plain, "{endpoint}");
        }
    }
}
