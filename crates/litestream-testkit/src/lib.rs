//! What Litestream's own tests and benchmark need from the outside world.
//!
//! Development only, and an independent witness: nothing here depends on our
//! other crates, so an error they share cannot hide in the check. SQLite itself
//! (through rusqlite) and the released upstream binary are the references.
//!
//! - [`upstream`] – the released Go binary, installed once and pinned
//! - [`program`], [`daemon`] – run any `litestream` binary, ours or upstream's
//! - [`s3_server`] – real S3 servers on loopback with a bucket per test
//! - [`azure_server`], [`gcs_server`] – Azurite and fake-gcs-server, likewise
//! - [`sftp_server`] – OpenSSH and rclone with a directory per test
//! - [`webdav_server`] – real WebDAV servers on loopback with a collection per test
//! - [`nats_server`] – real NATS servers on loopback with a bucket per test
//! - [`oss_server`] – a stand-in for Alibaba Cloud's store that checks signatures
//! - [`fault_proxy`] – stands before any of them and breaks connections on demand
//! - [`forward_proxy`] – the way out of a company's network
//! - [`recorder`], [`facts`] – stand there too: what was asked of a server, and what it says
//! - [`image`] – the oracle: which bytes a database consists of right now
//! - [`workload`], [`bank`], [`scenario`] – applications that write to a database
//! - [`v3_backup`] – backups as 0.3 left them, which no binary here writes any more
//! - [`soak`] – all of it together, with mishaps, for hours if need be
//! - [`usage`] – what a run of a binary costs
//! - [`cache`], [`python`], [`node`], [`debian`], [`spawn`] – how the above get installed and end
//!
//! Everything returns [`anyhow::Result`] with a message that names the step. What
//! cannot be installed is an error or a panic, never a silently skipped test.
#![forbid(unsafe_code)]

pub mod azure_server;
pub mod bank;
pub mod cache;
pub mod daemon;
pub mod debian;
pub mod facts;
pub mod fault_proxy;
pub mod forward_proxy;
mod gate;
pub mod gcs_server;
pub mod image;
mod loopback;
pub mod nats_server;
mod nats_trust;
pub mod node;
pub mod oss_server;
pub mod program;
pub mod python;
pub mod rclone_s3;
pub mod recorder;
pub mod s3_server;
pub mod scenario;
pub mod schema;
pub mod sftp_server;
pub mod sigv4;
pub mod soak;
pub mod spawn;
pub mod upstream;
pub mod usage;
pub mod v3_backup;
pub mod webdav_server;
pub mod workload;
mod writer;
