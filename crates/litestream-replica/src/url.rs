//! The grammar of replica URLs: one parser for configuration, command line,
//! control socket and extension.
//!
//! `scheme://[user[:password]@]host/path?query`. The scheme names the backend;
//! what the rest means is the backend's business (`s3`: [`crate::s3::S3Options`]).
//! A URL may carry credentials, so errors never quote more of it than the part
//! that is wrong.
//!
//! Spec: backends §1.5, §2 and §4.1; docs/configuration.md, "Replica".

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::file::{FileClient, FileOptions};
use crate::layout::clean_path;
use crate::{Error, ErrorKind, ReplicaClient, Result};

#[cfg(feature = "abs")]
use crate::abs::{AbsClient, AbsOptions, AzureIdentity};
#[cfg(feature = "gs")]
use crate::gs::{GoogleIdentity, GsClient, GsOptions};
#[cfg(feature = "http")]
use crate::http::HttpPool;
#[cfg(feature = "nats")]
use crate::nats::{NatsClient, NatsOptions};
#[cfg(feature = "oss")]
use crate::oss::{OssClient, OssOptions};
#[cfg(any(feature = "http", feature = "sftp"))]
use crate::retry::RetryPolicy;
#[cfg(feature = "s3")]
use crate::s3::{AwsIdentity, S3Client, S3Options};
#[cfg(feature = "sftp")]
use crate::sftp::{SftpClient, SftpOptions, SftpPool};
#[cfg(feature = "webdav")]
use crate::webdav::{WebDavClient, WebDavOptions};

/// Where a replica is, as its backend's options.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "made once per replica and taken apart at once")]
pub enum ReplicaUrl {
    /// A local directory.
    File(FileOptions),
    /// A bucket of Amazon S3 or of a store that speaks its protocol.
    #[cfg(feature = "s3")]
    S3(S3Options),
    /// A container of Azure Blob Storage.
    #[cfg(feature = "abs")]
    Abs(AbsOptions),
    /// A bucket of Google Cloud Storage.
    #[cfg(feature = "gs")]
    Gs(GsOptions),
    /// A collection of a WebDAV server.
    #[cfg(feature = "webdav")]
    WebDav(WebDavOptions),
    /// A bucket of Alibaba Cloud.
    #[cfg(feature = "oss")]
    Oss(OssOptions),
    /// An object-store bucket of a NATS server.
    #[cfg(feature = "nats")]
    Nats(NatsOptions),
    /// A directory of an SFTP server.
    #[cfg(feature = "sftp")]
    Sftp(SftpOptions),
}

impl ReplicaUrl {
    /// Reads a replica URL, or a bare absolute path as a `file` replica.
    ///
    /// Paths of `file` replicas are returned as written; making them absolute or
    /// expanding `~` is the caller's business (`file:~/x` and `file:x` are legal).
    ///
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) for a missing or unknown scheme, a type this
    /// build does not contain, and settings the backend cannot read.
    pub fn parse(text: &str) -> Result<Self> {
        if text.starts_with('/') {
            return Ok(Self::File(FileOptions::new(clean_path(text))));
        }
        let url = SplitUrl::parse(text)?;
        match url.scheme.as_str() {
            "file" => Ok(Self::File(FileOptions::new(file_path(&url)?))),
            #[cfg(feature = "s3")]
            "s3" => Ok(Self::S3(crate::s3::parse_url(&url)?)),
            #[cfg(feature = "abs")]
            "abs" => Ok(Self::Abs(crate::abs::parse_url(&url)?)),
            #[cfg(feature = "gs")]
            "gs" => Ok(Self::Gs(crate::gs::parse_url(&url)?)),
            #[cfg(feature = "oss")]
            "oss" => Ok(Self::Oss(crate::oss::parse_url(&url)?)),
            #[cfg(feature = "nats")]
            "nats" => Ok(Self::Nats(crate::nats::parse_url(&url)?)),
            #[cfg(feature = "sftp")]
            "sftp" => Ok(Self::Sftp(crate::sftp::parse_url(&url)?)),
            #[cfg(feature = "webdav")]
            "webdav" | "webdavs" => Ok(Self::WebDav(crate::webdav::parse_url(&url)?)),
            #[cfg(not(feature = "webdav"))]
            "webdavs" => Err(unsupported_type("webdav")),
            scheme => Err(unsupported_type(scheme)),
        }
    }

    /// The type as configuration and metrics spell it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            #[cfg(feature = "s3")]
            Self::S3(_) => "s3",
            #[cfg(feature = "abs")]
            Self::Abs(_) => "abs",
            #[cfg(feature = "gs")]
            Self::Gs(_) => "gs",
            #[cfg(feature = "webdav")]
            Self::WebDav(_) => "webdav",
            #[cfg(feature = "oss")]
            Self::Oss(_) => "oss",
            #[cfg(feature = "nats")]
            Self::Nats(_) => "nats",
            #[cfg(feature = "sftp")]
            Self::Sftp(_) => "sftp",
        }
    }

    /// Fills what these settings leave open from a URL of the same type, each backend
    /// by its own rules.
    ///
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) when the URL is of another type.
    pub fn or_from_url(self, url: &str) -> Result<Self> {
        match (self, Self::parse(url)?) {
            #[cfg(feature = "s3")]
            (Self::S3(own), Self::S3(url)) => Ok(Self::S3(own.or_from_url(url))),
            #[cfg(feature = "abs")]
            (Self::Abs(own), Self::Abs(url)) => Ok(Self::Abs(own.or_from_url(url))),
            #[cfg(feature = "gs")]
            (Self::Gs(own), Self::Gs(url)) => Ok(Self::Gs(own.or_from_url(url))),
            #[cfg(feature = "webdav")]
            (Self::WebDav(own), Self::WebDav(url)) => Ok(Self::WebDav(own.or_from_url(url))),
            #[cfg(feature = "oss")]
            (Self::Oss(own), Self::Oss(url)) => Ok(Self::Oss(own.or_from_url(url))),
            #[cfg(feature = "nats")]
            (Self::Nats(own), Self::Nats(url)) => Ok(Self::Nats(own.or_from_url(url))),
            #[cfg(feature = "sftp")]
            (Self::Sftp(own), Self::Sftp(url)) => Ok(Self::Sftp(own.or_from_url(url))),
            (_, other) => Err(unsupported_type(other.kind())),
        }
    }

    /// Appends the relative path of a database of a directory replica.
    #[must_use]
    pub fn join(mut self, relative: &str) -> Self {
        match &mut self {
            Self::File(options) => options.path = options.path.join(relative),
            #[cfg(feature = "s3")]
            Self::S3(options) => options.join(relative),
            #[cfg(feature = "abs")]
            Self::Abs(options) => options.join(relative),
            #[cfg(feature = "gs")]
            Self::Gs(options) => options.join(relative),
            #[cfg(feature = "webdav")]
            Self::WebDav(options) => options.join(relative),
            #[cfg(feature = "oss")]
            Self::Oss(options) => options.join(relative),
            // A bucket has no directories; who has several databases is refused
            // before (docs/configuration.md, "nats").
            #[cfg(feature = "nats")]
            Self::Nats(_) => {}
            #[cfg(feature = "sftp")]
            Self::Sftp(options) => options.join(relative),
        }
        self
    }

    /// Builds the client. Nothing is contacted yet.
    ///
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) when settings are missing or contradict one another.
    pub fn into_client(self, context: &ClientContext) -> Result<Arc<dyn ReplicaClient>> {
        match self {
            Self::File(options) => Ok(Arc::new(FileClient::new(options.with_defaults(&context.files))?)),
            #[cfg(feature = "s3")]
            Self::S3(options) => Ok(Arc::new(S3Client::new(options, context)?)),
            #[cfg(feature = "abs")]
            Self::Abs(options) => Ok(Arc::new(AbsClient::new(options, context)?)),
            #[cfg(feature = "gs")]
            Self::Gs(options) => Ok(Arc::new(GsClient::new(options, context)?)),
            #[cfg(feature = "webdav")]
            Self::WebDav(options) => Ok(Arc::new(WebDavClient::new(options, context)?)),
            #[cfg(feature = "oss")]
            Self::Oss(options) => Ok(Arc::new(OssClient::new(options, context)?)),
            #[cfg(feature = "nats")]
            Self::Nats(options) => Ok(Arc::new(NatsClient::new(options, context)?)),
            #[cfg(feature = "sftp")]
            Self::Sftp(options) => Ok(Arc::new(SftpClient::new(options, context)?)),
        }
    }
}

/// What clients need from the program around them.
#[derive(Clone, Default)]
pub struct ClientContext {
    /// Reads an environment variable, for the credential chains of the cloud
    /// providers. Absent means an empty environment.
    pub env: Option<EnvLookup>,
    /// Mode and owner of new files and directories of `file` replicas, where the
    /// replica's own options leave them open.
    pub files: FileOptions,
    /// How servers are reached: proxies, trust anchors, connections.
    #[cfg(feature = "http")]
    pub http: HttpPool,
    /// Credentials of AWS's default chain, shared by all clients.
    #[cfg(feature = "s3")]
    pub aws: AwsIdentity,
    /// The token of Azure's default chain, shared by all clients.
    #[cfg(feature = "abs")]
    pub azure: AzureIdentity,
    /// The token of Google's default credentials, shared by all clients.
    #[cfg(feature = "gs")]
    pub google: GoogleIdentity,
    /// Connections to SSH servers, shared by all clients.
    #[cfg(feature = "sftp")]
    pub sftp: SftpPool,
    /// How often requests are repeated.
    #[cfg(any(feature = "http", feature = "sftp"))]
    pub retry: RetryPolicy,
}

/// Reads one environment variable.
pub type EnvLookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

impl ClientContext {
    /// The usual context of a program: credentials, proxies and certificates as
    /// the environment says. Make one and clone it, so that all clients share
    /// connections and credentials.
    pub fn from_env(env: EnvLookup) -> Self {
        Self {
            #[cfg(feature = "http")]
            http: HttpPool::new(crate::http::HttpOptions::from_env(&*env)),
            env: Some(env),
            ..Self::default()
        }
    }

    /// One environment variable; an empty one counts as unset.
    pub fn env_var(&self, name: &str) -> Option<String> {
        self.env.as_ref().and_then(|env| env(name)).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for ClientContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientContext").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Every replica type that exists, whether this build contains it or not.
pub const KNOWN_TYPES: [&str; 8] = ["file", "s3", "gs", "abs", "sftp", "webdav", "nats", "oss"];

/// True for text that starts like a URL: word characters, then `://`.
pub fn is_replica_url(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// A URL in its parts; nothing is decoded but the query.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SplitUrl {
    /// Lower case.
    pub(crate) scheme: String,
    /// The name in the user information, decoded. A password is dropped.
    #[cfg_attr(not(feature = "abs"), allow(dead_code, reason = "only account names are given so"))]
    pub(crate) user: Option<String>,
    /// `host[:port]`, without user information.
    pub(crate) host: String,
    /// `user[:password]`, as written.
    user_info: Option<String>,
    /// As written, escapes included, starting with a slash unless empty.
    pub(crate) raw_path: String,
    /// As written, without `#`.
    pub(crate) fragment: Option<String>,
    /// Keys and values, decoded. The first of equal keys counts.
    query: Vec<(String, String)>,
    /// The whole text up to the query, for messages; without user information.
    shown: String,
}

impl SplitUrl {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = split_scheme(text) else {
            return Err(setup(scheme_required(text)));
        };
        check_user_info(rest)?;
        let (rest, fragment) = match rest.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment.to_owned())),
            None => (rest, None),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, raw_path) = match rest.strip_prefix("//") {
            Some(rest) => match rest.find('/') {
                Some(slash) => rest.split_at(slash),
                None => (rest, ""),
            },
            None => ("", rest),
        };
        let (user, user_info, host) = match host.rsplit_once('@') {
            Some((user_info, host)) => (
                user_info.split(':').next().and_then(|user| decode(user, false).ok()),
                Some(user_info.to_owned()),
                host,
            ),
            None => (None, None, host),
        };
        let scheme = scheme.to_ascii_lowercase();
        Ok(Self {
            user_info,
            shown: format!("{scheme}://{host}{raw_path}"),
            scheme,
            user: user.filter(|user| !user.is_empty()),
            host: host.to_owned(),
            raw_path: raw_path.to_owned(),
            fragment,
            query: parse_query(query),
        })
    }

    /// The path with its escapes resolved.
    pub(crate) fn path(&self) -> Result<String> {
        decode(&self.raw_path, false)
            .map_err(|escape| setup(format!("parse \"{}\": invalid URL escape \"{escape}\"", self.shown)))
    }

    /// User name and password with their escapes resolved; an empty name is none.
    #[cfg_attr(
        not(any(feature = "webdav", feature = "nats", feature = "sftp")),
        allow(dead_code, reason = "other types take theirs from settings")
    )]
    pub(crate) fn user_info(&self) -> Result<(Option<String>, Option<String>)> {
        split_user_info(self.user_info.as_deref().unwrap_or_default())
            .map_err(|()| setup(format!("parse \"{}\": invalid URL escape in user or password", self.shown)))
    }

    /// The value of the first of these query keys that is present.
    #[cfg_attr(not(feature = "s3"), allow(dead_code, reason = "file replicas take no parameters"))]
    pub(crate) fn query(&self, names: &[&str]) -> Option<&str> {
        let (_, value) = self.query.iter().find(|(key, _)| names.contains(&key.as_str()))?;
        Some(value)
    }
}

/// The text for what is no replica URL, in upstream's words.
pub fn scheme_required(text: &str) -> String {
    // With a slip of the pen in it, what stands before `@` may still be a password.
    let shown = match text.rsplit_once('@') {
        Some((_, after)) => format!("…@{after}"),
        None => text.to_owned(),
    };
    format!("replica url scheme required: {shown}")
}

/// Refuses a password whose `/`, `?` or `#` was not escaped: its beginning would be
/// taken for the host and shown as one.
fn check_user_info(rest: &str) -> Result<()> {
    let Some(rest) = rest.strip_prefix("//") else { return Ok(()) };
    let (host, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    let is_address = port.bytes().all(|digit| digit.is_ascii_digit()) || host.ends_with(']');
    if is_address || host.contains('@') || host.starts_with("arn:") || !behind.contains('@') {
        return Ok(());
    }
    Err(setup("user name and password in a replica url must be percent-encoded: one of them has a '/', '?' or '#'"))
}

/// `user[:password]` in its parts, escapes resolved. The error is silent, because
/// what it would quote is secret.
pub(crate) fn split_user_info(text: &str) -> Result<(Option<String>, Option<String>), ()> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    let decoded = |text: &str| decode(text, false).map_err(drop);
    Ok((Some(decoded(user)?).filter(|user| !user.is_empty()), password.map(decoded).transpose()?))
}

/// `scheme:` in front of a URL, with at least one letter first.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut chars = scheme.chars();
    let named = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    // `localhost:9000/x` and `C:\x` have a colon, but are no URLs; only `file:x`
    // may go without the two slashes.
    let is_url = rest.starts_with("//") || scheme.eq_ignore_ascii_case("file");
    (named && is_url).then_some((scheme, rest))
}

/// Pairs whose escapes are broken are left out, as in the Go library's parser
/// that existing URLs were written for.
fn parse_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
        .filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(key, true).ok()?, decode(value, true).ok()?))
        })
        .collect()
}

/// Resolves percent escapes; the broken escape is the error.
fn decode(text: &str, plus_is_space: bool) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'%' => {
                let value = match tail {
                    [high, low, after @ ..] => {
                        rest = after;
                        hex_digit(*high).zip(hex_digit(*low)).map(|(high, low)| high << 4 | low)
                    }
                    _ => None,
                };
                let escape = || format!("%{}", String::from_utf8_lossy(tail.get(..2).unwrap_or(tail)));
                bytes.push(value.ok_or_else(escape)?);
            }
            b'+' if plus_is_space => bytes.push(b' '),
            &byte => bytes.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The directory of a `file` URL.
///
/// Upstream uses the path in its *escaped* form, so `file:///srv/sp ace` and
/// `file:///srv/sp%20ace` both name the directory `sp%20ace`.
fn file_path(url: &SplitUrl) -> Result<PathBuf> {
    url.path()?;
    let mut path = escape_path(&url.raw_path);
    if let Some(fragment) = &url.fragment {
        path = format!("{path}#{}", escape_path(fragment));
    }
    if !url.host.is_empty() {
        path = format!("/{}{path}", url.host);
    }
    if path.is_empty() {
        return Err(setup("file replica path required"));
    }
    Ok(Path::new(&clean_path(&path)).to_path_buf())
}

/// Escapes what a URL's path may not contain; valid text stays as it is.
fn escape_path(path: &str) -> String {
    let valid = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,/:;=@[]%".contains(&b));
    if valid {
        return path.to_owned();
    }
    let decoded = decode(path, false).unwrap_or_else(|_| path.to_owned());
    let mut escaped = String::with_capacity(path.len() + 8);
    for byte in decoded.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The error for a replica type that this build cannot serve.
pub fn unsupported_type(kind: &str) -> Error {
    setup(if KNOWN_TYPES.contains(&kind) {
        format!("replica type \"{kind}\" is not supported by this build yet")
    } else {
        format!("unknown replica type in config: \"{kind}\"")
    })
}

pub(crate) fn setup(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Setup, message)
}

#[cfg(test)]
mod tests;
