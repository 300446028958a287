//! rclone's S3 server over TLS: a third reading of the protocol. It checks
//! signatures, ignores conditions, and tidies odd keys.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result};

use crate::loopback::Running;
use crate::python;

/// PEM file of the authority that signed the server's certificate.
pub const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/ca.pem");
/// Access key id.
pub const ACCESS_KEY: &str = "TESTACCESSKEY0000000";
/// Secret access key.
pub const SECRET_KEY: &str = "testSecretKey/0123456789abcdefghij+ABCDE";

/// Buckets that lie ready when the server starts. It keeps its list of them,
/// and told to keep none (`--dir-cache-time 0s`) it can lock itself up.
const BUCKETS: usize = 256;

/// A bucket that nobody else uses.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// `https://127.0.0.1:<port>`
    pub endpoint: String,
    /// The bucket's name.
    pub name: String,
}

impl Bucket {
    /// The `replica:` mapping of a `litestream.yml`, without indentation or
    /// anything about trust.
    pub fn config(&self, path: &str) -> String {
        let Self { endpoint, name } = self;
        format!(
            "type: s3\nbucket: {name}\npath: {path}\nendpoint: {endpoint}\nregion: us-east-1\n\
             access-key-id: {ACCESS_KEY}\nsecret-access-key: {SECRET_KEY}\n"
        )
    }
}

/// An unused bucket on the server that all tests of this process share.
///
/// # Errors
/// When the server does not start, or after 256 buckets.
pub fn fresh_bucket() -> Result<Bucket> {
    static SERVER: OnceLock<Running> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let server = Running::shared(&SERVER, &STARTING, &python::program(python::RCLONE, "rclone"), |dir, port| {
        make_buckets(dir).unwrap_or_else(|error| panic!("make buckets in {}: {error}", dir.display()));
        arguments(dir, port)
    })?;
    let name = (0..BUCKETS).nth(NEXT.fetch_add(1, Ordering::Relaxed)).map(bucket).context("no unused bucket left")?;
    Ok(Bucket { endpoint: format!("https://127.0.0.1:{}", server.port), name })
}

/// A bucket is a directory.
fn make_buckets(dir: &Path) -> std::io::Result<()> {
    (0..BUCKETS).try_for_each(|number| std::fs::create_dir_all(data(dir).join(bucket(number))))
}

fn bucket(number: usize) -> String {
    format!("test-{number}")
}

fn arguments(dir: &Path, port: u16) -> Vec<OsString> {
    let tls = concat!(env!("CARGO_MANIFEST_DIR"), "/tls");
    let mut arguments: Vec<OsString> = [
        "serve",
        "s3",
        "--addr",
        &format!("127.0.0.1:{port}"),
        "--auth-key",
        &format!("{ACCESS_KEY},{SECRET_KEY}"),
        "--cert",
        &format!("{tls}/server.pem"),
        "--key",
        &format!("{tls}/server.key"),
    ]
    .map(OsString::from)
    .into();
    arguments.push("--config".into());
    arguments.push(dir.join("rclone.conf").into());
    arguments.push(data(dir).into());
    arguments
}

fn data(dir: &Path) -> PathBuf {
    dir.join("data")
}
