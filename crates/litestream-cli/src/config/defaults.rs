//! The value of every key that a file leaves out.
//!
//! The command-line form of `replicate` starts from the same values as an empty
//! file. Spec: docs/configuration.md, lesson SR-1.

use crate::config::model::{Config, Logging, ReplicaSettings, Snapshot, Socket};
use crate::units::GoDuration;

/// Where the configuration is unless said otherwise.
pub(crate) const CONFIG_PATH: &str =
    if cfg!(windows) { r"C:\Litestream\litestream.yml" } else { "/etc/litestream.yml" };

/// Where the control socket is unless said otherwise.
pub(crate) const SOCKET_PATH: &str = "/var/run/litestream.sock";

/// How often a replica is brought up to date.
pub(crate) const SYNC_INTERVAL: GoDuration = GoDuration::from_secs(1);

impl Default for Config {
    fn default() -> Self {
        Self {
            addr: String::new(),
            mcp_addr: String::new(),
            exec: String::new(),
            socket: Socket { enabled: false, path: SOCKET_PATH.to_owned(), permissions: 0o600 },
            logging: Logging::default(),
            levels: vec![GoDuration::from_secs(30), GoDuration::from_secs(300), GoDuration::from_secs(3600)],
            snapshot: Snapshot { interval: DAY, retention: DAY },
            l0_retention: GoDuration::from_secs(300),
            l0_retention_check_interval: GoDuration::from_secs(15),
            retention_enabled: true,
            validation_interval: None,
            verify_compaction: false,
            shutdown_sync_timeout: GoDuration::from_secs(30),
            shutdown_sync_interval: GoDuration::from_millis(500),
            heartbeat_url: String::new(),
            heartbeat_interval: GoDuration::from_secs(300),
            replica: ReplicaSettings::default(),
            dbs: Vec::new(),
            inactive_keys: Vec::new(),
        }
    }
}

const DAY: GoDuration = GoDuration::from_secs(86_400);
