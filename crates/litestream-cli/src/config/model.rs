//! The configuration file as values: every key, its type, and where it stands.
//!
//! Reading is here, defaults are in [`defaults`](super::defaults), meaning and
//! rules in [`validate`](super::validate) and [`replica`](super::replica). A key
//! is named once, where it is read; that name is also what makes it known.
//!
//! Spec: docs/configuration.md.

use std::path::PathBuf;

use crate::config::effective::Value;
use crate::config::yaml::{Node, Presence, Problems, Section};
use crate::units::GoDuration;

/// A whole configuration file.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Bind address of the metrics listener; empty is off.
    pub(crate) addr: String,
    /// Bind address of the MCP listener; empty is off.
    pub(crate) mcp_addr: String,
    /// Child process of `replicate`; empty is none.
    pub(crate) exec: String,
    /// Control socket.
    pub(crate) socket: Socket,
    /// Log lines.
    pub(crate) logging: Logging,
    /// Intervals of compaction levels 1…N.
    pub(crate) levels: Vec<GoDuration>,
    /// How often a snapshot is made and how long it is kept.
    pub(crate) snapshot: Snapshot<GoDuration>,
    /// How long L0 files are kept once compacted; 0 keeps them for ever.
    pub(crate) l0_retention: GoDuration,
    /// How often to look for expired L0 files.
    pub(crate) l0_retention_check_interval: GoDuration,
    /// Whether anything is ever deleted from replicas.
    pub(crate) retention_enabled: bool,
    /// How often levels are checked for gaps.
    pub(crate) validation_interval: Option<GoDuration>,
    /// Check for gaps after each compaction.
    pub(crate) verify_compaction: bool,
    /// How long the last upload may take at shutdown; 0 is a single try.
    pub(crate) shutdown_sync_timeout: GoDuration,
    /// Pause between those tries.
    pub(crate) shutdown_sync_interval: GoDuration,
    /// URL to fetch after good syncs; empty is off.
    pub(crate) heartbeat_url: String,
    /// How often.
    pub(crate) heartbeat_interval: GoDuration,
    /// Global replica settings, already copied into every replica.
    pub(crate) replica: ReplicaSettings,
    /// The databases, in order.
    pub(crate) dbs: Vec<DbConfig>,
    /// Keys the file sets that this version does not act upon yet.
    pub(crate) inactive_keys: Vec<&'static str>,
}

/// `socket:`
#[derive(Clone, Debug)]
pub(crate) struct Socket {
    pub(crate) enabled: bool,
    pub(crate) path: String,
    pub(crate) permissions: u32,
}

/// `logging:`
#[derive(Clone, Debug, Default)]
pub(crate) struct Logging {
    pub(crate) level: String,
    pub(crate) kind: String,
    pub(crate) stderr: bool,
    pub(crate) source: bool,
}

/// `snapshot:`, with values or perhaps-values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot<T> {
    pub(crate) interval: T,
    pub(crate) retention: T,
}

/// One element of `dbs:`.
#[derive(Clone, Debug, Default)]
pub(crate) struct DbConfig {
    /// Line of the entry.
    pub(crate) line: usize,
    /// One database; absolute after loading.
    pub(crate) path: Option<PathBuf>,
    /// A directory of databases; absolute after loading.
    pub(crate) dir: Option<PathBuf>,
    /// Which files of the directory.
    pub(crate) pattern: String,
    /// Whether to enter subdirectories.
    pub(crate) recursive: bool,
    /// Whether to follow changes.
    pub(crate) watch: bool,
    /// Base of the state directories of a directory's databases.
    pub(crate) meta_dir: Option<PathBuf>,
    /// State directory of one database (with `dir`: a base).
    pub(crate) meta_path: Option<PathBuf>,
    pub(crate) monitor_interval: Option<GoDuration>,
    pub(crate) checkpoint_interval: Option<GoDuration>,
    pub(crate) busy_timeout: Option<GoDuration>,
    pub(crate) min_checkpoint_page_count: Option<i64>,
    pub(crate) truncate_page_n: Option<i64>,
    pub(crate) max_sync_wal_bytes: Option<i64>,
    pub(crate) max_local_bytes: Option<u64>,
    pub(crate) max_wal_bytes: Option<u64>,
    pub(crate) restore_if_db_not_exists: bool,
    /// Promoted to the global value when that is not set.
    pub(crate) snapshot: Snapshot<Option<GoDuration>>,
    pub(crate) replica: Option<ReplicaSettings>,
    /// The old list form.
    pub(crate) replicas: Vec<ReplicaSettings>,
}

/// Reads one value of a replica by the kind its row in the table names.
macro_rules! read_setting {
    (text, $section:ident, $key:literal, $problems:ident) => {
        $section.text($key, $problems)
    };
    (boolean, $section:ident, $key:literal, $problems:ident) => {
        $section.boolean($key, $problems)
    };
    (integer, $section:ident, $key:literal, $problems:ident) => {
        $section.integer($key, $problems)
    };
    (duration, $section:ident, $key:literal, $problems:ident) => {
        $section.duration($key, $problems)
    };
    (texts, $section:ident, $key:literal, $problems:ident) => {
        $section.texts($key, $problems)
    };
    (size, $section:ident, $key:literal, $problems:ident) => {
        $section.size($key, $problems)
    };
}

/// The type of a value by the kind its row in the table names.
macro_rules! setting_type {
    (text) => { String };
    (boolean) => { bool };
    (integer) => { i64 };
    (duration) => { GoDuration };
    (texts) => { Vec<String> };
    (size) => { u64 };
}

/// The table of replica keys that may also stand at the top of the file, from
/// which reading and inheritance are made.
macro_rules! replica_settings {
    ($( $field:ident: $kind:tt = $key:literal, )*) => {
        /// The keys of a replica. `None` is "not set"; an empty text or list
        /// counts as not set.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct ReplicaSettings {
            /// `file`, `s3`, …; what the URL says goes first.
            pub(crate) kind: Option<String>,
            /// Where the replica is, as a URL.
            pub(crate) url: Option<String>,
            /// Where the replica is inside its store.
            pub(crate) path: Option<String>,
            /// Path of a directory entry's database below its directory; goes
            /// behind wherever the entry's replica is.
            pub(crate) below: Option<String>,
            /// Whether to write only while this process has the replica's lease.
            pub(crate) lease: LeaseSettings,
            $( pub(crate) $field: Option<setting_type!($kind)>, )*
        }

        impl ReplicaSettings {
            /// Reads the keys that replicas and the top of the file share.
            fn read_shared(section: &Section<'_>, problems: &mut Problems) -> Self {
                Self {
                    kind: None,
                    url: None,
                    path: None,
                    below: None,
                    lease: LeaseSettings::default(),
                    $( $field: read_setting!($kind, section, $key, problems).filter(IsSet::is_set), )*
                }
            }

            /// Every shared key with its value, if it has one. Encryption is
            /// left out: no configuration in use has any.
            pub(crate) fn settings(&self) -> Vec<(&'static str, Option<Value>)> {
                let all = vec![$( ($key, self.$field.clone().map(Value::from)), )*];
                all.into_iter().filter(|(key, _)| !key.starts_with("age.")).collect()
            }

            /// Fills what is not set from the global settings.
            fn inherit_shared(&mut self, global: &Self) {
                $( if self.$field.is_none() { self.$field = global.$field.clone(); } )*
            }
        }
    };
}

replica_settings! {
    sync_interval: duration = "sync-interval",
    validation_interval: duration = "validation-interval",
    max_sync_ltx_files: integer = "max-sync-ltx-files",
    auto_recover: boolean = "auto-recover",
    access_key_id: text = "access-key-id",
    secret_access_key: text = "secret-access-key",
    region: text = "region",
    bucket: text = "bucket",
    endpoint: text = "endpoint",
    force_path_style: boolean = "force-path-style",
    skip_verify: boolean = "skip-verify",
    sign_payload: boolean = "sign-payload",
    sign_accept_encoding: boolean = "sign-accept-encoding",
    require_content_md5: boolean = "require-content-md5",
    storage_class: text = "storage-class",
    part_size: size = "part-size",
    concurrency: integer = "concurrency",
    sse_customer_algorithm: text = "sse-customer-algorithm",
    sse_customer_key: text = "sse-customer-key",
    sse_customer_key_path: text = "sse-customer-key-path",
    sse_kms_key_id: text = "sse-kms-key-id",
    account_name: text = "account-name",
    account_key: text = "account-key",
    sas_token: text = "sas-token",
    host: text = "host",
    user: text = "user",
    password: text = "password",
    key_path: text = "key-path",
    host_key: text = "host-key",
    concurrent_writes: boolean = "concurrent-writes",
    webdav_url: text = "webdav-url",
    webdav_username: text = "webdav-username",
    webdav_password: text = "webdav-password",
    jwt: text = "jwt",
    seed: text = "seed",
    creds: text = "creds",
    nkey: text = "nkey",
    username: text = "username",
    token: text = "token",
    tls: boolean = "tls",
    root_cas: texts = "root-cas",
    client_cert: text = "client-cert",
    client_key: text = "client-key",
    max_reconnects: integer = "max-reconnects",
    reconnect_wait: duration = "reconnect-wait",
    timeout: duration = "timeout",
    age_identities: texts = "age.identities",
    age_recipients: texts = "age.recipients",
}

impl ReplicaSettings {
    /// A replica given by its URL alone.
    pub(crate) fn from_url(url: &str) -> Self {
        Self { url: Some(url.to_owned()), ..Self::default() }
    }

    /// Reads `replica:` or an element of `replicas:`.
    fn read(node: &Node, place: &str, problems: &mut Problems) -> Option<Self> {
        let section = node.section(problems)?;
        let mut settings = Self::read_shared(&section, problems);
        settings.kind = section.text("type", problems).filter(IsSet::is_set);
        settings.url = section.text("url", problems).filter(IsSet::is_set);
        if settings.rename_old_type() {
            let line = section.node("url").or(section.node("type")).map_or(node.line(), Node::line);
            problems.warn(line, "the replica type \"gcs\" is called \"gs\" since 0.5");
        }
        settings.path = section.text("path", problems).filter(IsSet::is_set);
        // Old configurations name their replica; the name means nothing.
        section.text("name", problems);
        settings.read_age(&section, problems);
        if let Some(lease) = section.section("lease", problems) {
            settings.lease.enabled = lease.boolean("enabled", problems);
            settings.lease.ttl = lease.duration("ttl", problems);
            lease.report_unknown_keys(&format!("{place}.lease"), problems);
        }
        section.report_unknown_keys(place, problems);
        Some(settings)
    }

    /// Configurations of 0.3 say `gcs`; true if this one did.
    fn rename_old_type(&mut self) -> bool {
        let by_type = self.kind.as_deref() == Some("gcs");
        if by_type {
            self.kind = Some("gs".to_owned());
        }
        let place = self.url.as_deref().and_then(|url| url.strip_prefix("gcs://")).map(|rest| format!("gs://{rest}"));
        let by_url = place.is_some();
        self.url = place.or(self.url.take());
        by_type || by_url
    }

    fn read_age(&mut self, section: &Section<'_>, problems: &mut Problems) {
        let Some(age) = section.section("age", problems) else { return };
        self.age_identities = age.texts("identities", problems).filter(IsSet::is_set);
        self.age_recipients = age.texts("recipients", problems).filter(IsSet::is_set);
    }

    /// Fills what is not set from the global settings.
    ///
    /// A URL says where the replica is, so a place that is only global must not
    /// compete with it.
    pub(crate) fn inherit(&mut self, global: &Self) {
        let (bucket, host, webdav_url) = (self.bucket.clone(), self.host.clone(), self.webdav_url.clone());
        self.inherit_shared(global);
        if self.url.is_some() {
            (self.bucket, self.host, self.webdav_url) = (bucket, host, webdav_url);
        }
    }
}

/// `lease:` of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaseSettings {
    pub(crate) enabled: Option<bool>,
    pub(crate) ttl: Option<GoDuration>,
}

/// Whether a value counts as given.
trait IsSet {
    fn is_set(&self) -> bool {
        true
    }
}

impl IsSet for bool {}
impl IsSet for i64 {}
impl IsSet for u64 {}
impl IsSet for GoDuration {}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for Vec<String> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

/// What reading a file gives besides the values.
pub(crate) struct Explicit {
    /// Which global snapshot fields the file sets itself.
    pub(crate) snapshot: Snapshot<bool>,
}

impl Config {
    /// Reads a file's document over the defaults this value holds.
    pub(crate) fn read(&mut self, root: &Node, problems: &mut Problems) -> Explicit {
        let mut explicit = Explicit { snapshot: Snapshot::default() };
        let Some(section) = root.section(problems) else { return explicit };
        set(&mut self.addr, section.text("addr", problems));
        set(&mut self.mcp_addr, section.text("mcp-addr", problems));
        set(&mut self.exec, section.text("exec", problems));
        self.read_socket(&section, problems);
        self.read_logging(&section, problems);
        self.read_levels(&section, problems);
        if let Some(snapshot) = section.section("snapshot", problems) {
            let interval = snapshot.duration("interval", problems);
            let retention = snapshot.duration("retention", problems);
            explicit.snapshot = Snapshot { interval: interval.is_some(), retention: retention.is_some() };
            set(&mut self.snapshot.interval, interval);
            set(&mut self.snapshot.retention, retention);
            snapshot.report_unknown_keys("snapshot", problems);
        }
        set(&mut self.l0_retention, section.duration("l0-retention", problems));
        set(&mut self.l0_retention_check_interval, section.duration("l0-retention-check-interval", problems));
        if let Some(retention) = section.section("retention", problems) {
            set(&mut self.retention_enabled, retention.boolean("enabled", problems));
            if let Some(node) = retention.node("enabled").filter(|_| !self.retention_enabled) {
                problems.warn(node.line(), RETENTION_DISABLED);
            }
            retention.report_unknown_keys("retention", problems);
        }
        if let Some(validation) = section.section("validation", problems) {
            self.validation_interval = validation.duration("interval", problems);
            validation.report_unknown_keys("validation", problems);
        }
        set(&mut self.verify_compaction, section.boolean("verify-compaction", problems));
        set(&mut self.shutdown_sync_timeout, section.duration("shutdown-sync-timeout", problems));
        set(&mut self.shutdown_sync_interval, section.duration("shutdown-sync-interval", problems));
        set(&mut self.heartbeat_url, section.text("heartbeat-url", problems));
        set(&mut self.heartbeat_interval, section.duration("heartbeat-interval", problems));
        self.replica = ReplicaSettings::read_shared(&section, problems);
        self.replica.read_age(&section, problems);
        self.read_dbs(&section, problems);
        section.report_unknown_keys("", problems);
        self.inactive_keys = INACTIVE_KEYS.into_iter().filter(|key| is_given(&section, key)).collect();
        explicit
    }

    fn read_socket(&mut self, section: &Section<'_>, problems: &mut Problems) {
        let Some(socket) = section.section("socket", problems) else { return };
        set(&mut self.socket.enabled, socket.boolean("enabled", problems));
        set(&mut self.socket.path, socket.text("path", problems));
        set(&mut self.socket.permissions, socket.unsigned("permissions", problems));
        warn_about_decimal_mode(&socket, problems);
        socket.report_unknown_keys("socket", problems);
    }

    fn read_logging(&mut self, section: &Section<'_>, problems: &mut Problems) {
        let Some(logging) = section.section("logging", problems) else { return };
        set(&mut self.logging.level, logging.text("level", problems));
        set(&mut self.logging.kind, logging.text("type", problems));
        set(&mut self.logging.stderr, logging.boolean("stderr", problems));
        set(&mut self.logging.source, logging.boolean("source", problems));
        logging.report_unknown_keys("logging", problems);
    }

    fn read_levels(&mut self, section: &Section<'_>, problems: &mut Problems) {
        let Presence::Given(nodes) = section.list("levels", problems) else { return };
        self.levels.clear();
        for (index, node) in nodes.into_iter().enumerate() {
            let Some(level) = node.section(problems) else { continue };
            self.levels.push(level.duration("interval", problems).unwrap_or_default());
            level.report_unknown_keys(&format!("levels[{index}]"), problems);
        }
    }

    fn read_dbs(&mut self, section: &Section<'_>, problems: &mut Problems) {
        let Presence::Given(nodes) = section.list("dbs", problems) else { return };
        self.dbs.clear();
        for (index, node) in nodes.into_iter().enumerate() {
            if let Some(section) = node.section(problems) {
                let place = format!("dbs[{index}]");
                self.dbs.push(DbConfig::read(&section, node.line(), &place, problems));
            }
        }
    }
}

impl DbConfig {
    fn read(section: &Section<'_>, line: usize, place: &str, problems: &mut Problems) -> Self {
        let path = |key, problems: &mut Problems| section.text(key, problems).filter(IsSet::is_set).map(PathBuf::from);
        let mut db = Self {
            line,
            path: path("path", problems),
            dir: path("dir", problems),
            pattern: section.text("pattern", problems).unwrap_or_default(),
            recursive: section.boolean("recursive", problems).unwrap_or_default(),
            watch: section.boolean("watch", problems).unwrap_or_default(),
            meta_dir: path("meta-dir", problems),
            meta_path: path("meta-path", problems),
            monitor_interval: section.duration("monitor-interval", problems),
            checkpoint_interval: section.duration("checkpoint-interval", problems),
            busy_timeout: section.duration("busy-timeout", problems),
            min_checkpoint_page_count: section.integer("min-checkpoint-page-count", problems),
            truncate_page_n: section.integer("truncate-page-n", problems),
            max_sync_wal_bytes: section.bytes("max-sync-wal-bytes", problems),
            max_local_bytes: section.size("max-local-bytes", problems),
            max_wal_bytes: section.size("max-wal-bytes", problems),
            restore_if_db_not_exists: section.boolean("restore-if-db-not-exists", problems).unwrap_or_default(),
            ..Self::default()
        };
        if let Some(snapshot) = section.section("snapshot", problems) {
            db.snapshot.interval = snapshot.duration("interval", problems);
            db.snapshot.retention = snapshot.duration("retention", problems);
            snapshot.report_unknown_keys(&format!("{place}.snapshot"), problems);
        }
        if let Some(node) = section.node("replica").filter(|node| !node.is_null()) {
            db.replica = ReplicaSettings::read(node, &format!("{place}.replica"), problems);
        }
        if let Presence::Given(nodes) = section.list("replicas", problems) {
            for (index, node) in nodes.into_iter().enumerate() {
                db.replicas.extend(ReplicaSettings::read(node, &format!("{place}.replicas[{index}]"), problems));
            }
        }
        if db.monitor_interval.is_some_and(|interval| !interval.is_positive())
            && let Some(node) = section.node("monitor-interval")
        {
            problems.warn(node.line(), format!("monitor-interval: {} switches replication off", node.as_written()));
        }
        section.report_unknown_keys(place, problems);
        db
    }

    /// The one replica, in either form.
    pub(crate) fn replica_mut(&mut self) -> impl Iterator<Item = &mut ReplicaSettings> {
        self.replica.iter_mut().chain(&mut self.replicas)
    }
}

/// A rule of the bucket knows ages and not which snapshot is the last one.
const RETENTION_DISABLED: &str = "retention.enabled: nothing is ever deleted from replicas; a lifecycle rule of the \
     bucket that deletes by age destroys the backup of a database that is idle for longer";

/// Keys that are read and checked, but that nothing in this version acts upon.
const INACTIVE_KEYS: [&str; 1] = ["mcp-addr"];

/// `660` is a decimal number, whose bits are not those of the mode `0660`.
fn warn_about_decimal_mode(socket: &Section<'_>, problems: &mut Problems) {
    let Some(node) = socket.node("permissions") else { return };
    let Some(text) = node.text(problems) else { return };
    let is_like_mode = text.len() == 3 && text.starts_with(|c: char| c != '0') && text.chars().all(|c| c.is_digit(8));
    if let Some(mode) = text.parse::<u32>().ok().filter(|_| is_like_mode) {
        let message = format!("socket.permissions: {text} is decimal and means mode {mode:#o}; write 0{text}");
        problems.warn(node.line(), message);
    }
}

fn is_given(section: &Section<'_>, key: &'static str) -> bool {
    section.node(key).is_some_and(|node| !node.is_null())
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}
