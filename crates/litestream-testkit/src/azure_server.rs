//! A real Azure Blob Storage server on loopback: Azurite, by Microsoft.
//!
//! It checks shared keys and shared access signatures, keeps blocks and
//! conditions as the service does, and addresses accounts by path. Every test
//! gets a container of its own.

use std::ffi::OsString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::Result;

use crate::loopback::Running;
use crate::node;
use crate::s3_server::{elements, expect_success};
use crate::sigv4::{Response, encode, exchange};

/// The one account that Azurite has unless told otherwise.
pub const ACCOUNT: &str = "devstoreaccount1";
/// Its key, which is the same everywhere.
pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// A shared access signature for everything, until 2099.
pub const SAS: &str = "sv=2019-12-12&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00%3A00%3A00Z&spr=https,http&sig=0inStVod1SiNNw%2FCJ4fRrpJIdRZAadbisT7bZCD4KQs%3D";
/// One that only reads and lists.
pub const READ_ONLY_SAS: &str = "sv=2019-12-12&ss=b&srt=sco&sp=rl&se=2099-01-01T00%3A00%3A00Z&spr=https,http&sig=%2F89rIrsOctn%2F6Wn37z5CXKwXbLZowZjmUBp%2FUxhS1Ok%3D";
/// One that ended with 2019.
pub const EXPIRED_SAS: &str = "sv=2019-12-12&ss=b&srt=sco&sp=rwdlac&se=2020-01-01T00%3A00%3A00Z&spr=https,http&sig=MkCc5GIkS6yE3tT665tRvW1Wek3migyP0GzhSG%2FPl2Q%3D";

/// Where a container is, and a look at its blobs that goes through none of the
/// code under test.
#[derive(Clone, Debug)]
pub struct Container {
    /// `http://127.0.0.1:<port>/devstoreaccount1`
    pub endpoint: String,
    /// The container's name.
    pub name: String,
}

/// A container that nobody else uses.
///
/// # Errors
/// When the server does not start or refuses.
///
/// # Panics
/// When Azurite cannot be installed.
pub fn fresh_container() -> Result<Container> {
    static SERVER: OnceLock<Running> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let server = Running::shared(&SERVER, &STARTING, &node::program(node::AZURITE, "azurite-blob"), |dir, port| {
        let port = port.to_string();
        let flags = ["--blobHost", "127.0.0.1", "--blobPort", &port, "--disableTelemetry", "--silent", "--location"];
        flags.into_iter().map(OsString::from).chain([dir.join("data").into_os_string()]).collect()
    })?;
    let container = Container {
        endpoint: format!("http://127.0.0.1:{}/{ACCOUNT}", server.port),
        name: format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
    };
    expect_success(&container.request("PUT", "", "restype=container&", b"")?, "PUT container", &container.name)?;
    Ok(container)
}

impl Container {
    /// The `replica:` mapping of a `litestream.yml`, without indentation.
    pub fn config(&self, path: &str) -> String {
        format!(
            "type: abs\naccount-name: {ACCOUNT}\naccount-key: {KEY}\nbucket: {}\npath: {path}\nendpoint: {}\n",
            self.name, self.endpoint
        )
    }

    /// Stores a blob.
    ///
    /// # Errors
    /// Any status but success.
    pub fn put(&self, key: &str, body: &[u8]) -> Result<()> {
        expect_success(&self.request("PUT", key, "", body)?, "PUT", key)
    }

    /// Names of all blobs that begin with `prefix`, in order; up to 5000. They
    /// must be free of signs that XML escapes.
    ///
    /// # Errors
    /// Any status but success.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let response =
            self.request("GET", "", &format!("restype=container&comp=list&prefix={}&", encode(prefix, false)), b"")?;
        expect_success(&response, "LIST", prefix)?;
        Ok(elements(&String::from_utf8_lossy(&response.body), "Name").collect())
    }

    fn request(&self, method: &str, key: &str, query: &str, body: &[u8]) -> Result<Response> {
        let host = self.endpoint.trim_start_matches("http://").split('/').next().unwrap_or_default();
        let separator = if key.is_empty() { "" } else { "/" };
        let head = format!(
            "{method} /{ACCOUNT}/{}{separator}{}?{query}{SAS} HTTP/1.0\r\nHost: {host}\r\nx-ms-version: 2021-12-02\r\n\
             x-ms-blob-type: BlockBlob\r\nContent-Length: {}\r\n\r\n",
            self.name,
            encode(key, true),
            body.len()
        );
        exchange(host, &head, body, Duration::from_secs(30))
    }
}
