//! What a user can set for a `webdav` replica, and what follows from it.

use std::fmt;

use super::server::ServerUrl;
use crate::Result;
use crate::layout::clean_path;
use crate::url::{SplitUrl, setup, split_user_info};

/// Settings of a `webdav` replica. Whatever is `None` was not set; an empty
/// string counts as not set.
///
/// Spec: backends §9; docs/configuration.md, "webdav".
#[derive(Clone, Default, PartialEq, Eq)]
pub struct WebDavOptions {
    /// `http://` or `https://` URL of the collection that `path` starts from.
    /// Required. May hold user and password.
    pub url: Option<String>,
    /// User name, for Basic and Digest authentication.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Collection of the replica below `url`; made when the first file is written.
    pub path: Option<String>,
}

impl WebDavOptions {
    /// Fills what is not set from the parts of a URL.
    #[must_use]
    pub fn or_from_url(self, url: Self) -> Self {
        fn text(own: Option<String>, other: Option<String>) -> Option<String> {
            own.filter(|own| !own.is_empty()).or(other)
        }
        Self {
            url: text(self.url, url.url),
            username: text(self.username, url.username),
            password: text(self.password, url.password),
            path: text(self.path, url.path),
        }
    }

    /// Appends the relative path of a database of a directory replica.
    pub fn join(&mut self, relative: &str) {
        let path = self.path.as_deref().unwrap_or_default();
        self.path = Some(clean_path(&format!("{path}/{relative}")));
    }
}

impl fmt::Debug for WebDavOptions {
    /// Shows whether secrets are set, not what they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "…");
        let url = self.url.as_deref().and_then(|url| ServerUrl::parse(url).ok());
        f.debug_struct("WebDavOptions")
            .field("url", &url.map(|url| format!("{}{}", url.origin(), url.base_path)))
            .field("username", &hidden(&self.username))
            .field("password", &hidden(&self.password))
            .field("path", &self.path)
            .finish()
    }
}

/// Reads a `webdav` or `webdavs` URL. Its path is the replica's path, not part of
/// the server's.
pub(crate) fn parse_url(url: &SplitUrl) -> Result<WebDavOptions> {
    if url.host.is_empty() {
        return Err(setup("host required for webdav replica URL"));
    }
    let scheme = if url.scheme == "webdavs" { "https" } else { "http" };
    let (username, password) = url.user_info()?;
    Ok(WebDavOptions {
        url: Some(format!("{scheme}://{}", url.host)),
        username,
        password,
        path: Some(clean_path(&url.path()?)),
    })
}

/// Options with everything decided.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) server: ServerUrl,
    /// Without a slash at either end.
    pub(super) path: String,
}

impl Settings {
    /// The settings, and user and password apart from what may be printed.
    pub(super) fn resolve(options: WebDavOptions) -> Result<(Self, Option<(String, String)>)> {
        // `or_from_url` with nothing to add turns empty texts into unset ones.
        let options = options.or_from_url(WebDavOptions::default());
        let url = options.url.ok_or_else(|| setup("webdav-url required for webdav replica"))?;
        let mut server = ServerUrl::parse(&url)?;
        let within = server.user_info.take().map(|user_info| split_user_info(&user_info)).transpose();
        let within = within.map_err(|()| setup("webdav-url has a broken escape in user or password"))?;
        let (user_within, password_within) = within.unwrap_or_default();
        let user = options.username.or(user_within).map(|user| {
            let password = options.password.or(password_within).unwrap_or_default();
            (user, password)
        });
        let path = clean_path(options.path.as_deref().unwrap_or_default());
        let path = path.trim_start_matches('/');
        if path.split('/').any(|segment| segment == "..") {
            return Err(setup("path of a webdav replica must not leave the server's collection with \"..\""));
        }
        let path = if path == "." { "" } else { path };
        Ok((Self { server, path: path.to_owned() }, user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplicaUrl;

    fn options(url: &str) -> WebDavOptions {
        match ReplicaUrl::parse(url).unwrap() {
            ReplicaUrl::WebDav(options) => options,
            other => panic!("{url} is {other:?}"),
        }
    }

    #[test]
    fn urls_name_server_user_and_path() {
        for (url, server, path, user) in [
            ("webdav://h/a//b/../c/", "http://h", "a/c", None),
            ("webdavs://h:8443", "https://h:8443", "", None),
            ("WEBDAVS://h/", "https://h", "", None),
            ("webdav://me:p%40ss%3A@h/sp%20ace", "http://h", "sp ace", Some(("me", "p@ss:"))),
            ("webdav://me@h/x", "http://h", "x", Some(("me", ""))),
        ] {
            let (settings, found) = Settings::resolve(options(url)).unwrap();
            assert_eq!((settings.server.origin().as_str(), settings.path.as_str()), (server, path), "{url}");
            let found = found.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
            assert_eq!(found, user, "{url}");
        }
    }

    #[test]
    fn configuration_goes_before_the_url() {
        let own = WebDavOptions { password: Some("own".into()), username: Some(String::new()), ..Default::default() };
        let both = own.or_from_url(options("webdav://me:theirs@h/x"));
        let (_, user) = Settings::resolve(both).unwrap();
        assert_eq!(user, Some(("me".to_owned(), "own".to_owned())));
    }

    #[test]
    fn base_paths_and_users_in_the_address_are_taken() {
        let options = WebDavOptions {
            url: Some("https://me:s3cret@cloud.example/remote.php/dav/files/me/".into()),
            path: Some("/backup/".into()),
            ..Default::default()
        };
        assert!(!format!("{options:?}").contains("s3cret"));
        let (settings, user) = Settings::resolve(options).unwrap();
        assert_eq!(settings.server.base_path, "/remote.php/dav/files/me");
        assert_eq!(settings.path, "backup");
        assert_eq!(user, Some(("me".to_owned(), "s3cret".to_owned())));
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn directories_of_databases_get_paths_below() {
        for (path, joined) in [("", "/t/a.db"), ("x", "x/t/a.db"), ("/x/", "/x/t/a.db")] {
            let mut options = WebDavOptions { path: Some(path.into()), ..Default::default() };
            options.join("t/a.db");
            assert_eq!(options.path.as_deref(), Some(joined));
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        let with = |url: &str, path: &str| {
            let options = WebDavOptions { url: Some(url.into()), path: Some(path.into()), ..Default::default() };
            Settings::resolve(options).unwrap_err().to_string()
        };
        assert_eq!(with("", "x"), "webdav-url required for webdav replica");
        assert_eq!(with("me:secret@h", "x"), "webdav-url must begin with http:// or https://");
        assert!(with("http://h", "../x").contains("must not leave"));
        let error = ReplicaUrl::parse("webdav:///x").unwrap_err();
        assert_eq!(error.to_string(), "host required for webdav replica URL");
    }
}
