//! A stand-in for Alibaba Cloud's object store on loopback, for no registry has
//! one: in memory, in Python, and strict about signatures.
//!
//! One server per process with one bucket; every test gets a prefix of its own.

use std::fs::File;
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::s3_server::free_ports;
use crate::spawn::spawn;

/// Access key id.
pub const ACCESS_KEY: &str = "TESTACCESSKEY0000000";
/// Access key secret.
pub const SECRET_KEY: &str = "testSecretKey/0123456789abcdefghij+ABCDE";
/// The bucket, and its region.
pub const BUCKET: &str = "test-bucket";
/// Region of the bucket.
pub const REGION: &str = "cn-hangzhou";

/// A prefix that nobody else uses.
#[derive(Clone, Debug)]
pub struct Place {
    /// `http://127.0.0.1:<port>`
    pub endpoint: String,
    /// What keys begin with, without a slash at its end.
    pub path: String,
}

impl Place {
    /// The `replica:` mapping of a `litestream.yml`, without indentation.
    pub fn config(&self) -> String {
        format!(
            "type: oss\nbucket: {BUCKET}\npath: {}\nendpoint: {}\nregion: {REGION}\naccess-key-id: {ACCESS_KEY}\n\
             secret-access-key: {SECRET_KEY}\n",
            self.path, self.endpoint
        )
    }
}

/// A prefix on the server that all tests of this process share; started by the
/// first call.
///
/// # Errors
/// When it does not start; later calls try again.
pub fn fresh_place() -> Result<Place> {
    static SERVER: OnceLock<Server> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let _starting = STARTING.lock().map_err(|_| anyhow!("a thread panicked while it started the server"))?;
    let server = match SERVER.get() {
        Some(server) => server,
        None => {
            // A port that was free may be taken before the server binds it.
            let server = start().or_else(|_| start()).or_else(|_| start())?;
            SERVER.get_or_init(|| server)
        }
    };
    Ok(Place {
        endpoint: format!("http://127.0.0.1:{}", server.port),
        path: format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed)),
    })
}

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> Result<Server> {
    let [port] = free_ports()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/oss/oss_server.py");
    let log = tempfile::NamedTempFile::new().context("make a log")?;
    let errors = File::create(log.path())?;
    let child = spawn("python3".as_ref(), |command| {
        command.args([script, &port.to_string(), ACCESS_KEY, SECRET_KEY, REGION, BUCKET]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
    })?;
    let mut server = Server { child, port };
    let start = Instant::now();
    loop {
        if let Some(status) = server.child.try_wait()? {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            bail!("the oss server ended with {status}: {text}");
        }
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => return Ok(server),
            Err(error) if start.elapsed() > Duration::from_secs(30) => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
