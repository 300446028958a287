//! rclone's S3 server over TLS: a third reading of the protocol. It checks
//! signatures, ignores conditions, and tidies odd keys.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use anyhow::Result;

use crate::loopback::Running;
use crate::python;

/// PEM file of the authority that signed the server's certificate.
pub const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/ca.pem");
/// Access key id.
pub const ACCESS_KEY: &str = "TESTACCESSKEY0000000";
/// Secret access key.
pub const SECRET_KEY: &str = "testSecretKey/0123456789abcdefghij+ABCDE";

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

/// A new bucket on the server that all tests of this process share.
///
/// # Errors
/// When the server does not start.
pub fn fresh_bucket() -> Result<Bucket> {
    static SERVER: OnceLock<Running> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let server = Running::shared(&SERVER, &STARTING, &python::program(python::RCLONE, "rclone"), arguments)?;
    let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    // A bucket is a directory.
    std::fs::create_dir_all(data(server.dir()).join(&name))?;
    Ok(Bucket { endpoint: format!("https://127.0.0.1:{}", server.port), name })
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
        // What was written by another process of the same server is seen at once.
        "--dir-cache-time",
        "0s",
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
