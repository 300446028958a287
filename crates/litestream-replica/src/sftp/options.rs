//! What a user can set for an `sftp` replica, and what follows from it.

use std::fmt;
use std::path::PathBuf;

use super::auth::Identity;
use super::connection::Destination;
use crate::Result;
use crate::layout::clean_path;
use crate::url::{SplitUrl, setup};

/// Settings of an `sftp` replica. Whatever is `None` was not set; an empty string
/// counts as not set.
///
/// Spec: backends §7; docs/configuration.md, "sftp".
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SftpOptions {
    /// `host[:port]`; port 22 unless told. Required.
    pub host: Option<String>,
    /// User name. Required.
    pub user: Option<String>,
    /// Password, also for servers that ask for it by keyboard.
    pub password: Option<String>,
    /// Directory of the replica, made when the first file is written. Without a
    /// leading slash it is below the directory that the user logs into.
    pub path: Option<String>,
    /// File with a private key without passphrase, in OpenSSH's form or PEM.
    pub key_path: Option<PathBuf>,
    /// The server's key, as in `authorized_keys`. Without it any key is accepted.
    pub host_key: Option<String>,
    /// Whether a file is sent in many requests at once; yes unless told.
    pub concurrent_writes: Option<bool>,
}

impl SftpOptions {
    /// Fills what is not set from the parts of a URL.
    #[must_use]
    pub fn or_from_url(self, url: Self) -> Self {
        fn text(own: Option<String>, other: Option<String>) -> Option<String> {
            own.filter(|own| !own.is_empty()).or(other)
        }
        Self {
            host: text(self.host, url.host),
            user: text(self.user, url.user),
            password: text(self.password, url.password),
            path: text(self.path, url.path),
            key_path: self.key_path.filter(|path| !path.as_os_str().is_empty()).or(url.key_path),
            host_key: text(self.host_key, url.host_key),
            concurrent_writes: self.concurrent_writes.or(url.concurrent_writes),
        }
    }

    /// Appends the relative path of a database of a directory replica.
    pub fn join(&mut self, relative: &str) {
        let path = self.path.as_deref().unwrap_or_default();
        self.path = Some(match path {
            "" => clean_path(relative),
            path => clean_path(&format!("{path}/{relative}")),
        });
    }
}

impl fmt::Debug for SftpOptions {
    /// Shows whether secrets are set, not what they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpOptions")
            .field("host", &self.host)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("path", &self.path)
            .field("key_path", &self.key_path)
            .field("host_key", &self.host_key)
            .field("concurrent_writes", &self.concurrent_writes)
            .finish()
    }
}

/// Reads an `sftp` URL. Its path keeps the leading slash.
pub(crate) fn parse_url(url: &SplitUrl) -> Result<SftpOptions> {
    let (user, password) = url.user_info()?;
    let path = url.path()?;
    Ok(SftpOptions {
        host: Some(url.host.clone()),
        user,
        password,
        path: Some(if path.is_empty() { path } else { clean_path(&path) }),
        ..SftpOptions::default()
    })
}

/// Options with everything decided.
pub(super) struct Settings {
    pub(super) destination: Destination,
    /// As set, for the log.
    pub(super) host: String,
    /// Cleaned; empty for the directory that the user logs into.
    pub(super) path: String,
    pub(super) concurrent_writes: bool,
}

impl Settings {
    /// Decides everything; `agent` is the socket of an agent.
    pub(super) fn resolve(options: SftpOptions, agent: Option<PathBuf>) -> Result<Self> {
        // `or_from_url` with nothing to add turns empty texts into unset ones.
        let options = options.or_from_url(SftpOptions::default());
        let host = options.host.filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| setup("host required for sftp replica"))?;
        let user = options.user.ok_or_else(|| setup("user required for sftp replica"))?;
        let path = clean_path(options.path.as_deref().unwrap_or_default());
        Ok(Self {
            destination: Destination {
                address: with_port(&host)?,
                identity: Identity {
                    user,
                    password: options.password.filter(|password| !password.is_empty()),
                    key_path: options.key_path,
                    agent,
                },
                host_key: options.host_key,
            },
            host,
            path: if path == "." { String::new() } else { path },
            concurrent_writes: options.concurrent_writes.unwrap_or(true),
        })
    }
}

/// `host:port`, with the usual port where none is given.
fn with_port(host: &str) -> Result<String> {
    // What stands before an `@` may be a password in the wrong place.
    let shown = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let wrong = || setup(format!("host of an sftp replica is not host or host:port: {shown}"));
    let (name, port) = match host.rsplit_once(':') {
        // An address of the sixth version, alone or in brackets.
        Some((before, _)) if before.contains(':') && !host.starts_with('[') => {
            let address = host.split('%').next().unwrap_or_default();
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            return Ok(format!("[{host}]:22"));
        }
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "22"),
    };
    port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    if name.is_empty() || name.contains(['/', '@', ' ']) {
        return Err(wrong());
    }
    Ok(format!("{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplicaUrl;

    fn options(url: &str) -> SftpOptions {
        match ReplicaUrl::parse(url).unwrap() {
            ReplicaUrl::Sftp(options) => options,
            other => panic!("{url} is {other:?}"),
        }
    }

    #[test]
    fn urls_name_server_user_and_path() {
        for (url, address, path, user, password) in [
            ("sftp://me@h/a//b/../c/", "h:22", "/a/c", "me", None),
            ("SFTP://me:p%40ss%3A@h:2222/x", "h:2222", "/x", "me", Some("p@ss:")),
            ("sftp://me@[::1]:2222/sp%20ace", "[::1]:2222", "/sp ace", "me", None),
            ("sftp://me@[::1]/", "[::1]:22", "/", "me", None),
            ("sftp://me:@h", "h:22", "", "me", None),
        ] {
            let settings = Settings::resolve(options(url), None).unwrap();
            let Destination { address: found, identity, .. } = settings.destination;
            assert_eq!((found.as_str(), settings.path.as_str()), (address, path), "{url}");
            assert_eq!((identity.user.as_str(), identity.password.as_deref()), (user, password), "{url}");
        }
    }

    #[test]
    fn configuration_goes_before_the_url() {
        let own = SftpOptions {
            user: Some(String::new()),
            password: Some("own".into()),
            key_path: Some("/k".into()),
            concurrent_writes: Some(false),
            ..Default::default()
        };
        let both = own.or_from_url(options("sftp://me:theirs@h/x"));
        let settings = Settings::resolve(both, None).unwrap();
        assert!(!settings.concurrent_writes);
        let identity = settings.destination.identity;
        assert_eq!((identity.user.as_str(), identity.password.as_deref()), ("me", Some("own")));
        assert_eq!(identity.key_path, Some("/k".into()));
    }

    #[test]
    fn directories_of_databases_get_paths_below() {
        for (path, joined) in [("", "t/a.db"), ("x", "x/t/a.db"), ("/x/", "/x/t/a.db"), ("/", "/t/a.db")] {
            let mut options = SftpOptions { path: Some(path.into()), ..Default::default() };
            options.join("t/a.db");
            assert_eq!(options.path.as_deref(), Some(joined));
        }
    }

    #[test]
    fn wrong_settings_are_named_and_passwords_are_not() {
        let error = |host: &str, user: &str| {
            let options = SftpOptions { host: Some(host.into()), user: Some(user.into()), ..Default::default() };
            Settings::resolve(options, None).err().unwrap().to_string()
        };
        assert_eq!(error("", "u"), "host required for sftp replica");
        assert_eq!(error("h", ""), "user required for sftp replica");
        for host in ["h:x", "h:0", "h:70000", ":22", "a b", "h/x", "me:pw@h:22", "a:b:c"] {
            assert!(error(host, "u").contains("is not host or host:port"), "{host}");
        }
        assert!(!error("me:pw@h:22", "u").contains("pw"), "a password in the wrong place");
        assert_eq!(with_port("fe80::1%eth0").unwrap(), "[fe80::1%eth0]:22");
        let shown = format!("{:?}", options("sftp://me:hunter2@h/x"));
        assert!(!shown.contains("hunter2") && shown.contains("me"), "{shown}");
    }
}
