//! What a user can set for a `nats` replica, and what follows from it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::auth::Credentials;
use crate::Result;
use crate::url::{SplitUrl, setup};

/// Settings of a `nats` replica. Whatever is `None` was not set; an empty string
/// counts as not set.
///
/// Spec: backends §8; docs/configuration.md, "nats".
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NatsOptions {
    /// `host[:port]` of the server; `127.0.0.1:4222` unless set.
    pub server: Option<String>,
    /// Object-store bucket. Required; must exist.
    pub bucket: Option<String>,
    /// User JWT; needs `seed`.
    pub jwt: Option<String>,
    /// Seed of the user that `jwt` names.
    pub seed: Option<String>,
    /// File with a user's JWT and seed.
    pub creds: Option<String>,
    /// Seed of an nkey user, or the file that holds it.
    pub nkey: Option<String>,
    /// User name; needs `password`.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Token.
    pub token: Option<String>,
    /// Insists on TLS. A server that requires TLS gets it anyway.
    pub tls: Option<bool>,
    /// PEM files with the only certificates to trust, instead of the system's.
    pub root_cas: Vec<String>,
    /// PEM file with our certificate; needs `client_key`.
    pub client_cert: Option<String>,
    /// PEM file with its key.
    pub client_key: Option<String>,
    /// How often a lost connection is dialled again in the background; negative
    /// means without limit, which is the default.
    pub max_reconnects: Option<i64>,
    /// Pause between two such attempts; two seconds unless set.
    pub reconnect_wait: Option<Duration>,
    /// Limit for a connection and for each answer; ten seconds unless set.
    pub timeout: Option<Duration>,
}

impl NatsOptions {
    /// Fills what is not set from the parts of a URL; but its server and bucket
    /// go before these settings. User information in the URL counts only where no
    /// credentials of any sort are set.
    #[must_use]
    pub fn or_from_url(mut self, url: Self) -> Self {
        self.server = given(url.server).or(self.server);
        self.bucket = given(url.bucket).or(self.bucket);
        let credentials = [&self.jwt, &self.seed, &self.creds, &self.nkey, &self.username, &self.password, &self.token];
        if credentials.into_iter().all(|text| text.as_deref().unwrap_or_default().is_empty()) {
            (self.username, self.password, self.token) = (url.username, url.password, url.token);
        }
        self
    }
}

impl fmt::Debug for NatsOptions {
    /// Shows whether secrets are set, not what they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "…");
        f.debug_struct("NatsOptions")
            .field("server", &self.server)
            .field("bucket", &self.bucket)
            .field("jwt", &hidden(&self.jwt))
            .field("seed", &hidden(&self.seed))
            .field("creds", &self.creds)
            .field("nkey", &hidden(&self.nkey))
            .field("username", &hidden(&self.username))
            .field("password", &hidden(&self.password))
            .field("token", &hidden(&self.token))
            .field("tls", &self.tls)
            .field("root_cas", &self.root_cas)
            .field("client_cert", &self.client_cert)
            .field("client_key", &self.client_key)
            .field("max_reconnects", &self.max_reconnects)
            .field("reconnect_wait", &self.reconnect_wait)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Reads a `nats` URL: `nats://[user:password@|token@]host[:port]/bucket`.
pub(crate) fn parse_url(url: &SplitUrl) -> Result<NatsOptions> {
    let (user, password) = url.user_info()?;
    let (username, token) = if password.is_some() { (user, None) } else { (None, user) };
    Ok(NatsOptions {
        server: given(Some(url.host.clone())),
        bucket: given(Some(url.path()?.trim_matches('/').to_owned())),
        username,
        password,
        token,
        ..NatsOptions::default()
    })
}

/// Options with everything decided.
pub(super) struct Settings {
    /// `host:port`.
    pub(super) server: String,
    pub(super) bucket: String,
    pub(super) credentials: Credentials,
    pub(super) tls: Tls,
    /// None is without limit.
    pub(super) max_reconnects: Option<usize>,
    pub(super) reconnect_wait: Duration,
    pub(super) timeout: Duration,
}

/// How the connection is secured, and who both ends are.
#[derive(Clone, Default)]
pub(super) struct Tls {
    /// Whether a connection in clear text is refused.
    pub(super) required: bool,
    /// Empty means the system's.
    pub(super) root_cas: Vec<PathBuf>,
    /// Certificate and key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
}

impl Settings {
    pub(super) fn resolve(options: NatsOptions) -> Result<Self> {
        let bucket = given(options.bucket.clone()).ok_or_else(|| setup("bucket required for NATS replica"))?;
        if !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
            return Err(setup(format!(
                "bucket {bucket:?} is no name of a NATS object store: letters, digits, \"-\" and \"_\" only"
            )));
        }
        let client = match (given(options.client_cert.clone()), given(options.client_key.clone())) {
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (None, None) => None,
            _ => {
                return Err(setup("client-cert and client-key must both be specified for mutual TLS authentication"));
            }
        };
        let root_cas: Vec<PathBuf> =
            options.root_cas.iter().filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        let tls =
            Tls { required: options.tls == Some(true) || !root_cas.is_empty() || client.is_some(), root_cas, client };
        Ok(Self {
            server: server_address(given(options.server.clone()).as_deref().unwrap_or(DEFAULT_HOST))?,
            bucket,
            credentials: Credentials::choose(&options)?,
            tls,
            // The client counts the first connection, too.
            max_reconnects: options.max_reconnects.and_then(|n| usize::try_from(n).ok()).map(|n| n.saturating_add(1)),
            reconnect_wait: options.reconnect_wait.unwrap_or(DEFAULT_RECONNECT_WAIT),
            timeout: options.timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(DEFAULT_TIMEOUT),
        })
    }
}

/// `host[:port]` with its port.
fn server_address(text: &str) -> Result<String> {
    let wrong = || setup("nats replica URL has no valid host name");
    let authority: http::uri::Authority = text.parse().map_err(|_| wrong())?;
    if authority.host().is_empty() || text.contains('@') || (text.ends_with(':') && authority.port().is_none()) {
        return Err(wrong());
    }
    Ok(match authority.port_u16() {
        Some(_) => text.to_owned(),
        None => format!("{text}:{DEFAULT_PORT}"),
    })
}

/// A text that says something.
pub(super) fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

const DEFAULT_HOST: &str = "127.0.0.1";
const DEFAULT_PORT: u16 = 4222;
const DEFAULT_RECONNECT_WAIT: Duration = Duration::from_secs(2);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplicaUrl;

    fn options(url: &str) -> NatsOptions {
        match ReplicaUrl::parse(url).unwrap() {
            ReplicaUrl::Nats(options) => options,
            other => panic!("{url} is {other:?}"),
        }
    }

    fn refusal(options: NatsOptions) -> String {
        Settings::resolve(options).err().unwrap().to_string()
    }

    #[test]
    fn urls_name_server_bucket_and_user() {
        for (url, server, bucket, credentials) in [
            ("nats://h/b", "h:4222", "b", Credentials::None),
            ("NATS://h:1/b/", "h:1", "b", Credentials::None),
            ("nats:///b", "127.0.0.1:4222", "b", Credentials::None),
            ("nats://[::1]/b", "[::1]:4222", "b", Credentials::None),
            ("nats://me:p%40ss@h/b", "h:4222", "b", Credentials::User("me".into(), "p@ss".into())),
            ("nats://t%2Fken@h/b", "h:4222", "b", Credentials::Token("t/ken".into())),
        ] {
            let settings = Settings::resolve(options(url)).unwrap();
            assert_eq!((settings.server.as_str(), settings.bucket.as_str()), (server, bucket), "{url}");
            assert_eq!(settings.credentials, credentials, "{url}");
        }
    }

    #[test]
    fn url_goes_before_the_bucket_and_after_the_credentials() {
        let own = NatsOptions { bucket: Some("own".into()), ..NatsOptions::default() };
        assert_eq!(own.clone().or_from_url(options("nats://h/b")).bucket.as_deref(), Some("b"));
        for url in ["nats://h", "nats://h/"] {
            assert_eq!(own.clone().or_from_url(options(url)).bucket.as_deref(), Some("own"), "{url}");
        }
        let own = NatsOptions { creds: Some("file".into()), username: Some(String::new()), ..own };
        let both = own.or_from_url(options("nats://me:secret@h/b"));
        assert_eq!(Credentials::choose(&both).unwrap(), Credentials::File("file".into()));
    }

    #[test]
    fn wrong_settings_are_named() {
        assert_eq!(refusal(options("nats://h")), "bucket required for NATS replica");
        for bucket in [".", "a/b", "a b", "ä", "a.b", "*"] {
            let options = NatsOptions { bucket: Some(bucket.into()), ..NatsOptions::default() };
            assert!(refusal(options).contains("is no name of a NATS object store"), "{bucket}");
        }
        let half = NatsOptions { client_cert: Some("c".into()), ..options("nats://h/b") };
        assert_eq!(refusal(half), "client-cert and client-key must both be specified for mutual TLS authentication");
        for url in ["nats://h:x/b", "nats://a b/b", "nats://me:secret@/b"] {
            let text = refusal(NatsOptions { server: Some(url[7..].into()), ..options("nats://h/b") });
            assert_eq!(text, "nats replica URL has no valid host name", "{url}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = || Some("s3cret".to_owned());
        let options = NatsOptions {
            jwt: secret(),
            seed: secret(),
            nkey: secret(),
            username: secret(),
            password: secret(),
            token: secret(),
            ..options("nats://u:s3cret@h/b")
        };
        assert!(!format!("{options:?}").contains("s3cret"), "{options:?}");
    }

    #[test]
    fn certificates_insist_on_tls() {
        let plain = Settings::resolve(options("nats://h/b")).unwrap();
        assert!(!plain.tls.required);
        for options in [
            NatsOptions { tls: Some(true), ..options("nats://h/b") },
            NatsOptions { root_cas: vec!["ca".into()], ..options("nats://h/b") },
            NatsOptions { client_cert: Some("c".into()), client_key: Some("k".into()), ..options("nats://h/b") },
        ] {
            assert!(Settings::resolve(options).unwrap().tls.required);
        }
    }

    #[test]
    fn reconnects_are_counted_after_the_first_connection() {
        for (max, counted) in [(None, None), (Some(-1), None), (Some(0), Some(1)), (Some(5), Some(6))] {
            let options = NatsOptions { max_reconnects: max, ..options("nats://h/b") };
            assert_eq!(Settings::resolve(options).unwrap().max_reconnects, counted, "{max:?}");
        }
    }
}
