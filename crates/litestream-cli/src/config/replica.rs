//! From a replica's settings to the client of its store.
//!
//! The scheme of the URL decides the type, before `type`. What the settings say
//! goes before what the URL says; naming the place in both is an error. Building
//! a client contacts nothing.
//!
//! Spec: docs/configuration.md, "Replica".

use std::path::Path;
use std::sync::Arc;

use litestream_replica::ReplicaClient;
use litestream_replica::abs::AbsOptions;
use litestream_replica::clock::SystemClock;
use litestream_replica::file::FileOptions;
use litestream_replica::gs::GsOptions;
use litestream_replica::lease::{DEFAULT_TTL, LeaseOptions, LeasedClient};
use litestream_replica::nats::NatsOptions;
use litestream_replica::oss::OssOptions;
use litestream_replica::s3::S3Options;
use litestream_replica::sftp::SftpOptions;
use litestream_replica::url::{ReplicaUrl, unsupported_type};
use litestream_replica::webdav::WebDavOptions;

use crate::config::{DbConfig, ReplicaSettings, Surroundings, path};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::output::without_credentials;
use crate::units::GoDuration;

impl ReplicaSettings {
    /// `file`, `s3`, …: from the URL, else as said, else `file`.
    ///
    /// # Errors
    /// A type that does not exist.
    pub(crate) fn kind(&self) -> Result<&'static str, String> {
        let scheme = self.url.as_deref().and_then(|url| url.split_once("://")).map(|(scheme, _)| scheme.to_lowercase());
        let name = match scheme.as_deref() {
            Some("webdavs") => "webdav",
            Some(scheme) if !scheme.is_empty() => scheme,
            _ => self.kind.as_deref().unwrap_or("file"),
        };
        litestream_replica::url::KNOWN_TYPES
            .into_iter()
            .find(|known| *known == name)
            .ok_or_else(|| unsupported_type(name).to_string())
    }

    /// Where the replica is, with everything its backend needs.
    ///
    /// # Errors
    /// Settings that are missing, contradict one another, or name a type this
    /// build cannot serve, in the original's words.
    pub(crate) fn resolve(&self, surroundings: &Surroundings<'_>) -> Result<ReplicaUrl, String> {
        if self.age_identities.is_some() || self.age_recipients.is_some() {
            return Err(AGE_REFUSED.to_owned());
        }
        if let Some(path) = self.path.as_deref().filter(|path| litestream_replica::is_replica_url(path)) {
            let shown = without_credentials(path);
            return Err(format!("replica path cannot be a url, please use the 'url' field instead: {shown}"));
        }
        let kind = self.kind()?;
        self.check_place(kind)?;
        let own = match kind {
            // Its URL is all there is, or its path.
            "file" => return self.resolve_file(surroundings).map(|place| self.below(place)),
            "s3" => self.resolve_s3(surroundings),
            "abs" => Ok(self.resolve_abs()),
            "gs" => Ok(self.resolve_gs()),
            "webdav" => Ok(self.resolve_webdav()),
            "oss" => Ok(self.resolve_oss()),
            "sftp" => self.resolve_sftp(surroundings),
            "nats" => self.resolve_nats(),
            other => Err(unsupported_type(other).to_string()),
        }?;
        let place = match &self.url {
            Some(url) => own.or_from_url(url).map_err(|error| error.to_string())?,
            None => own,
        };
        Ok(self.below(place))
    }

    /// The place of a database that was found in a directory.
    fn below(&self, place: ReplicaUrl) -> ReplicaUrl {
        match &self.below {
            Some(below) => place.join(below),
            None => place,
        }
    }

    /// A URL as the control socket gets it: one of `s3` that names no endpoint has that
    /// of `LITESTREAM_S3_ENDPOINT`. Command line and configuration never look there.
    pub(crate) fn from_registered_url(url: &str, environment: &Environment) -> Self {
        let names_none = matches!(ReplicaUrl::parse(url), Ok(ReplicaUrl::S3(options)) if options.endpoint.is_none());
        match environment.non_empty("LITESTREAM_S3_ENDPOINT").filter(|_| names_none) {
            Some(endpoint) => {
                let escaped = endpoint.replace('%', "%25").replace('&', "%26").replace('+', "%2B").replace('#', "%23");
                let mark = if url.contains('?') { '&' } else { '?' };
                Self::from_url(&format!("{url}{mark}endpoint={escaped}"))
            }
            None => Self::from_url(url),
        }
    }

    /// The client itself. New files of a local replica get the mode and owner of
    /// the database, where there is one.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub(crate) fn client(
        &self,
        db: Option<&Path>,
        surroundings: &Surroundings<'_>,
    ) -> Result<Arc<dyn ReplicaClient>, String> {
        let mut context = surroundings.clients.clone();
        if let Some(db) = db {
            context.files = like_database(db);
        }
        self.resolve(surroundings)?.into_client(&context).map_err(|error| error.to_string())
    }

    /// A URL and a setting must not both say where the replica is.
    fn check_place(&self, kind: &str) -> Result<(), String> {
        let Some(url) = &self.url else { return Ok(()) };
        // A bucket's name in the wrong key must not become a local directory.
        if kind != "file" && !litestream_replica::is_replica_url(url) {
            return Err(litestream_replica::scheme_required(url));
        }
        let conflict = |key: &str| Err(format!("cannot specify url & {key} for {kind} replica"));
        if self.path.is_some() && kind != "nats" {
            return conflict("path");
        }
        match kind {
            "s3" | "gs" | "abs" | "oss" if self.bucket.is_some() => conflict("bucket"),
            "sftp" if self.host.is_some() => conflict("host"),
            "webdav" if self.webdav_url.is_some() => conflict("webdav-url"),
            _ => Ok(()),
        }
    }

    fn resolve_file(&self, surroundings: &Surroundings<'_>) -> Result<ReplicaUrl, String> {
        let path = match (&self.url, &self.path) {
            // The library takes a bare path for a file replica; here it is more
            // likely a `path` in the wrong key.
            (Some(url), _) if url.starts_with('/') => return Err(litestream_replica::scheme_required(url)),
            (Some(url), _) => match ReplicaUrl::parse(url).map_err(|error| error.to_string())? {
                ReplicaUrl::File(options) => options.path.to_string_lossy().into_owned(),
                other => return Err(unsupported_type(other.kind()).to_string()),
            },
            (None, Some(path)) => path.clone(),
            (None, None) => return Err("file replica path required".to_owned()),
        };
        let path = path::absolute(&path, surroundings.environment, &surroundings.cwd)?;
        Ok(ReplicaUrl::File(FileOptions::new(path)))
    }
}

impl ReplicaSettings {
    fn resolve_s3(&self, surroundings: &Surroundings<'_>) -> Result<ReplicaUrl, String> {
        Ok(ReplicaUrl::S3(S3Options {
            bucket: self.bucket.clone(),
            path: self.path.clone(),
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            force_path_style: self.force_path_style,
            skip_verify: self.skip_verify,
            sign_payload: self.sign_payload,
            require_content_md5: self.require_content_md5,
            sign_accept_encoding: self.sign_accept_encoding,
            storage_class: self.storage_class.clone(),
            part_size: self.part_size.filter(|size| *size > 0),
            concurrency: self.concurrency.and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0),
            sse_customer_algorithm: self.sse_customer_algorithm.clone(),
            sse_customer_key: self.sse_customer_key(surroundings)?,
            sse_customer_key_md5: None,
            sse_kms_key_id: self.sse_kms_key_id.clone(),
        }))
    }

    fn resolve_abs(&self) -> ReplicaUrl {
        ReplicaUrl::Abs(AbsOptions {
            account_name: self.account_name.clone(),
            account_key: self.account_key.clone(),
            sas_token: self.sas_token.clone(),
            bucket: self.bucket.clone(),
            path: self.path.clone(),
            endpoint: self.endpoint.clone(),
        })
    }

    fn resolve_gs(&self) -> ReplicaUrl {
        ReplicaUrl::Gs(GsOptions { bucket: self.bucket.clone(), path: self.path.clone() })
    }

    fn resolve_webdav(&self) -> ReplicaUrl {
        ReplicaUrl::WebDav(WebDavOptions {
            url: self.webdav_url.clone(),
            username: self.webdav_username.clone(),
            password: self.webdav_password.clone(),
            path: self.path.clone(),
        })
    }

    fn resolve_oss(&self) -> ReplicaUrl {
        ReplicaUrl::Oss(OssOptions {
            bucket: self.bucket.clone(),
            path: self.path.clone(),
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            access_key_id: self.access_key_id.clone(),
            secret_access_key: self.secret_access_key.clone(),
            part_size: self.part_size.filter(|size| *size > 0),
            concurrency: self.concurrency.and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0),
        })
    }

    fn resolve_nats(&self) -> Result<ReplicaUrl, String> {
        if self.below.is_some() {
            return Err("a nats bucket holds one database: list each database of a directory by its path, with a \
                        bucket of its own"
                .to_owned());
        }
        Ok(ReplicaUrl::Nats(NatsOptions {
            server: None,
            bucket: self.bucket.clone(),
            jwt: self.jwt.clone(),
            seed: self.seed.clone(),
            creds: self.creds.clone(),
            nkey: self.nkey.clone(),
            username: self.username.clone(),
            password: self.password.clone(),
            token: self.token.clone(),
            tls: self.tls,
            root_cas: self.root_cas.clone().unwrap_or_default(),
            client_cert: self.client_cert.clone(),
            client_key: self.client_key.clone(),
            max_reconnects: self.max_reconnects,
            reconnect_wait: self.reconnect_wait.map(GoDuration::to_duration),
            timeout: self.timeout.map(GoDuration::to_duration),
        }))
    }

    fn resolve_sftp(&self, surroundings: &Surroundings<'_>) -> Result<ReplicaUrl, String> {
        let key_path = self.key_path.as_deref().filter(|path| !path.is_empty());
        Ok(ReplicaUrl::Sftp(SftpOptions {
            host: self.host.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            path: self.path.clone(),
            key_path: key_path
                .map(|path| path::absolute(path, surroundings.environment, &surroundings.cwd))
                .transpose()?,
            host_key: self.host_key.clone(),
            concurrent_writes: self.concurrent_writes,
        }))
    }

    /// The key itself, or what the file holds that is named instead.
    fn sse_customer_key(&self, surroundings: &Surroundings<'_>) -> Result<Option<String>, String> {
        let Some(path) = &self.sse_customer_key_path else { return Ok(self.sse_customer_key.clone()) };
        let file = match path.strip_prefix('~') {
            Some(rest) => {
                let home = surroundings.environment.home().ok_or("cannot determine user home directory")?;
                format!("{home}{rest}")
            }
            None => path.clone(),
        };
        match std::fs::read_to_string(surroundings.cwd.join(file)) {
            Ok(key) => Ok(Some(key.trim().to_owned())),
            Err(error) => Err(format!("cannot read sse-customer-key-path {path:?}: {error}")),
        }
    }
}

impl DbConfig {
    /// The one replica, in either form.
    ///
    /// # Errors
    /// None, several, or both forms at once. The database is named behind the
    /// original's words.
    pub(crate) fn replica(&self) -> anyhow::Result<&ReplicaSettings> {
        let wrong = |what: &str| Err(Failure::new(format!("{what} ({})", self.named())).into());
        match (&self.replica, self.replicas.as_slice()) {
            (Some(replica), []) => Ok(replica),
            (None, [replica]) => Ok(replica),
            (None, []) => wrong("must specify replica for database"),
            (Some(_), _) => wrong("cannot specify 'replica' and 'replicas' on a database"),
            (None, _) => wrong("multiple replicas on a single database are no longer supported"),
        }
    }

    /// The entry as a person finds it.
    fn named(&self) -> String {
        match self.line {
            0 => self.place(),
            line => format!("{}, line {line}", self.place()),
        }
    }

    /// The client of the one replica.
    ///
    /// # Errors
    /// As [`replica`](Self::replica) and [`ReplicaSettings::client`].
    pub(crate) fn client(&self, surroundings: &Surroundings<'_>) -> anyhow::Result<Arc<dyn ReplicaClient>> {
        let replica = self.replica()?;
        replica
            .client(self.path.as_deref(), surroundings)
            .map_err(|message| Failure::new(format!("{message} ({})", self.named())).into())
    }

    /// The same for a process that writes: under a lease, if one is configured.
    ///
    /// # Errors
    /// As [`client`](Self::client), and a replica that cannot hold a lease.
    pub(crate) fn writing_client(&self, surroundings: &Surroundings<'_>) -> anyhow::Result<Arc<dyn ReplicaClient>> {
        let client = self.client(surroundings)?;
        let lease = self.replica()?.lease;
        if !lease.enabled.unwrap_or_default() {
            return Ok(client);
        }
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let owner = format!("{host}:{}", std::process::id());
        let ttl = lease.ttl.map_or(DEFAULT_TTL, GoDuration::to_duration);
        LeasedClient::new(client, LeaseOptions { owner, ttl }, Arc::new(SystemClock))
            .map(|leased| Arc::new(leased) as Arc<dyn ReplicaClient>)
            .map_err(|error| Failure::new(format!("{error} ({})", self.named())).into())
    }
}

/// Mode and owner of a database and of its directory, for the replica's files.
#[cfg(unix)]
fn like_database(db: &Path) -> FileOptions {
    use std::os::unix::fs::MetadataExt;

    let mut options = FileOptions::default();
    if let Ok(file) = std::fs::metadata(db) {
        options.file_mode = Some(file.mode() & 0o777);
        options.owner = Some((file.uid(), file.gid()));
    }
    if let Some(Ok(directory)) = db.parent().map(std::fs::metadata) {
        options.dir_mode = Some(directory.mode() & 0o777);
    }
    options
}

#[cfg(not(unix))]
fn like_database(_: &Path) -> FileOptions {
    FileOptions::default()
}

/// Writing in clear what was to be encrypted would be worse than not starting.
const AGE_REFUSED: &str =
    "age encryption is not currently supported, if you need encryption please revert back to Litestream v0.3.x";
