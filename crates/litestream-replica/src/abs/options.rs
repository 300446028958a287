//! What a user can set for an `abs` replica, and what follows from it.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::http::endpoint::Endpoint;
use crate::layout::clean_path;
use crate::url::{SplitUrl, setup};
use crate::{ClientContext, Result};

/// Settings of an `abs` replica. Whatever is `None` was not set and takes the
/// default; an empty string counts as not set.
///
/// Spec: backends §1.5 and §6.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AbsOptions {
    /// Storage account. Needed for a shared key, and without an endpoint.
    pub account_name: Option<String>,
    /// Base64 of the account's key. Unset: `LITESTREAM_AZURE_ACCOUNT_KEY`.
    pub account_key: Option<String>,
    /// Shared access signature, with or without the leading `?`; goes before the
    /// key. Unset: `LITESTREAM_AZURE_SAS_TOKEN`.
    pub sas_token: Option<String>,
    /// Container. Required.
    pub bucket: Option<String>,
    /// Where in the container; cleaned.
    pub path: Option<String>,
    /// URL of the service, with the account as the first segment of its path
    /// where that is how it is addressed. Unset:
    /// `https://<account>.blob.core.windows.net`.
    pub endpoint: Option<String>,
}

impl AbsOptions {
    /// Fills what is not set from the parts of a URL.
    #[must_use]
    pub fn or_from_url(self, url: Self) -> Self {
        fn text(own: Option<String>, other: Option<String>) -> Option<String> {
            own.filter(|own| !own.is_empty()).or(other)
        }
        Self {
            account_name: text(self.account_name, url.account_name),
            account_key: text(self.account_key, url.account_key),
            sas_token: text(self.sas_token, url.sas_token),
            bucket: text(self.bucket, url.bucket),
            path: text(self.path, url.path),
            endpoint: text(self.endpoint, url.endpoint),
        }
    }

    /// Appends the relative path of a database of a directory replica.
    pub fn join(&mut self, relative: &str) {
        self.path = Some(clean_path(&format!("{}/{relative}", self.path.as_deref().unwrap_or("."))));
    }
}

impl fmt::Debug for AbsOptions {
    /// Shows whether secrets are set, not what they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "…");
        f.debug_struct("AbsOptions")
            .field("account_name", &self.account_name)
            .field("account_key", &hidden(&self.account_key))
            .field("sas_token", &hidden(&self.sas_token))
            .field("bucket", &self.bucket)
            .field("path", &self.path)
            .field("endpoint", &self.endpoint.as_deref().map(shown_endpoint))
            .finish()
    }
}

/// Reads `abs://[<account>@]<container>[/<path>]`. There are no parameters.
pub(crate) fn parse_url(url: &SplitUrl) -> Result<AbsOptions> {
    if url.host.is_empty() {
        return Err(setup("bucket required for abs replica URL"));
    }
    let path = clean_path(&url.path()?);
    Ok(AbsOptions {
        account_name: url.user.clone(),
        bucket: Some(url.host.clone()),
        path: Some(path.strip_prefix('/').unwrap_or(&path).to_owned()),
        ..AbsOptions::default()
    })
}

/// Options with every default decided.
pub(super) struct Settings {
    pub(super) container: String,
    pub(super) path: String,
    pub(super) account: Option<String>,
    pub(super) endpoint: Endpoint,
    /// As given, for logs; empty for Azure itself.
    pub(super) endpoint_text: String,
}

/// What requests prove who we are with.
pub(super) enum Secret {
    /// Part of every URL, without a leading `?`.
    Sas(String),
    SharedKey {
        account: String,
        key: Vec<u8>,
    },
    /// Neither is set: the identity of the machine or its user counts.
    Identity,
}

pub(super) fn resolve(options: AbsOptions, context: &ClientContext) -> Result<(Settings, Secret)> {
    // `or_from_url` with nothing to add turns empty texts into unset ones.
    let options = options.or_from_url(AbsOptions::default());
    let container = options.bucket.ok_or_else(|| setup("bucket required for abs replica"))?;
    let endpoint_text = options.endpoint.as_deref().map(shown_endpoint).unwrap_or_default();
    let endpoint = match (&options.endpoint, &options.account_name) {
        (Some(text), _) if text.contains('?') => {
            return Err(setup("abs: endpoint must not have parameters; a shared access signature goes into sas-token"));
        }
        (Some(text), _) => Endpoint::parse("abs", text)?,
        (None, Some(account)) => Endpoint::parse("abs", &format!("{account}.blob.core.windows.net"))
            .map_err(|_| setup(format!("abs: \"{account}\" is not the name of a storage account")))?,
        (None, None) => return Err(setup("abs: account name is required when endpoint is not specified")),
    };
    let account = options.account_name.or_else(|| account_of(&endpoint));

    let sas = options.sas_token.or_else(|| context.env_var("LITESTREAM_AZURE_SAS_TOKEN"));
    let key = options.account_key.or_else(|| context.env_var("LITESTREAM_AZURE_ACCOUNT_KEY"));
    let secret = match (sas, key) {
        (Some(sas), key) => {
            if key.is_some() {
                tracing::warn!("both SAS token and account key configured, using SAS token");
            }
            Secret::Sas(checked_sas(&sas)?)
        }
        (None, Some(key)) => {
            let account = account.clone().ok_or_else(|| {
                setup("abs: account-key is of no use without account-name, which the endpoint does not tell either")
            })?;
            Secret::SharedKey { account, key: decoded_key(&key)? }
        }
        (None, None) => Secret::Identity,
    };
    let path = options.path.unwrap_or_default();
    Ok((Settings { container, path, account, endpoint, endpoint_text }, secret))
}

/// The account that an endpoint serves: the first label of a service's name, or
/// the first segment of the path of an emulator.
fn account_of(endpoint: &Endpoint) -> Option<String> {
    if let Some((account, service)) = endpoint.authority.split_once('.')
        && service.starts_with("blob.")
    {
        return Some(account.to_owned());
    }
    let segment = endpoint.base_path.trim_start_matches('/').split('/').next()?;
    (endpoint.is_private() && !segment.is_empty()).then(|| segment.to_owned())
}

fn checked_sas(sas: &str) -> Result<String> {
    let sas = sas.trim().trim_start_matches('?');
    let fits = sas.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    match fits && sas.split('&').any(|pair| pair.starts_with("sig=")) {
        true => Ok(sas.to_owned()),
        false => Err(setup("abs: sas-token is not a shared access signature (sv=…&sig=…)")),
    }
}

fn decoded_key(key: &str) -> Result<Vec<u8>> {
    // The library's error would quote a byte of the secret.
    let broken = |_| setup("abs: account-key must be valid base64, as the portal shows it");
    BASE64_STANDARD.decode(key.trim()).map_err(broken)
}

/// An endpoint without what may be secret: user information and parameters.
fn shown_endpoint(text: &str) -> String {
    Endpoint::without_user(text.split(['?', '#']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> AbsOptions {
        parse_url(&SplitUrl::parse(text).unwrap()).unwrap()
    }

    fn context(variables: &'static [(&str, &str)]) -> ClientContext {
        let env =
            move |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        ClientContext { env: Some(std::sync::Arc::new(env)), ..ClientContext::default() }
    }

    #[test]
    fn urls_name_account_container_and_path() {
        for (url, account, path) in [
            ("abs://acct@cont/p//q/", Some("acct"), "p/q"),
            ("abs://acct@cont", Some("acct"), "."),
            ("abs://acct:ignored@cont/", Some("acct"), ""),
            ("abs://cont/a%20b?x=1", None, "a b"),
        ] {
            let options = options(url);
            assert_eq!(options.bucket.as_deref(), Some("cont"), "{url}");
            assert_eq!((options.account_name.as_deref(), options.path.as_deref()), (account, Some(path)), "{url}");
        }
    }

    #[test]
    fn endpoint_follows_from_the_account() {
        let (settings, _) = resolve(options("abs://acct@cont/p"), &ClientContext::default()).unwrap();
        assert_eq!(
            (settings.endpoint.scheme, settings.endpoint.authority.as_str()),
            ("https", "acct.blob.core.windows.net")
        );
        assert_eq!(settings.endpoint_text, "");
        for (endpoint, account) in [
            ("https://other.blob.core.usgovcloudapi.net", Some("other")),
            ("http://127.0.0.1:10000/devstoreaccount1", Some("devstoreaccount1")),
            ("https://proxy.example.com/storage", None),
        ] {
            let options = AbsOptions { endpoint: Some(endpoint.into()), ..options("abs://cont/p") };
            let (settings, _) = resolve(options, &ClientContext::default()).unwrap();
            assert_eq!(settings.account.as_deref(), account, "{endpoint}");
        }
    }

    #[test]
    fn signature_goes_before_key_and_settings_before_environment() {
        let environment =
            context(&[("LITESTREAM_AZURE_ACCOUNT_KEY", "ZW52"), ("LITESTREAM_AZURE_SAS_TOKEN", "?sv=1&sig=env")]);
        let key = AbsOptions { account_key: Some("b3du".into()), ..options("abs://acct@cont/p") };
        let sas = AbsOptions { sas_token: Some("?sv=1&sig=own".into()), ..key.clone() };
        let kind = |options: &AbsOptions, context: &ClientContext| match resolve(options.clone(), context).unwrap().1 {
            Secret::Sas(sas) => sas,
            Secret::SharedKey { key, .. } => String::from_utf8(key).unwrap(),
            Secret::Identity => "identity".to_owned(),
        };
        assert_eq!(kind(&sas, &environment), "sv=1&sig=own");
        assert_eq!(kind(&key, &environment), "sv=1&sig=env");
        assert_eq!(kind(&key, &ClientContext::default()), "own");
        assert_eq!(kind(&options("abs://acct@cont/p"), &context(&[("LITESTREAM_AZURE_ACCOUNT_KEY", "ZW52")])), "env");
        assert_eq!(kind(&options("abs://acct@cont/p"), &ClientContext::default()), "identity");
    }

    #[test]
    fn wrong_settings_are_named_without_secrets() {
        let base = || options("abs://acct@cont/p");
        for (options, message) in [
            (AbsOptions { bucket: None, ..base() }, "bucket required for abs replica"),
            (
                AbsOptions { account_name: None, ..base() },
                "abs: account name is required when endpoint is not specified",
            ),
            (
                AbsOptions { account_key: Some("hunter2!".into()), ..base() },
                "abs: account-key must be valid base64, as the portal shows it",
            ),
            (
                AbsOptions { sas_token: Some("hunter2".into()), ..base() },
                "abs: sas-token is not a shared access signature (sv=…&sig=…)",
            ),
            (
                AbsOptions { endpoint: Some("https://h/?sig=hunter2".into()), ..base() },
                "abs: endpoint must not have parameters; a shared access signature goes into sas-token",
            ),
        ] {
            assert!(!format!("{options:?}").contains("hunter2"), "{options:?}");
            let error = resolve(options, &ClientContext::default()).err().unwrap();
            assert_eq!((error.kind(), error.to_string().as_str()), (crate::ErrorKind::Setup, message));
        }
    }
}
