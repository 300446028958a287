//! Real S3 servers on loopback: moto and SeaweedFS, two independent readings of
//! the protocol.
//!
//! Ports are the system's choice, every test gets a bucket of its own, and no
//! server outlives the test process (see [`spawn`](crate::spawn)).

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::sigv4::{self, Access, Response};
use crate::spawn::spawn;
use crate::{cache, python};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// In memory, quick to start (2 s), follows AWS closely, accepts any signature.
    Moto,
    /// On disk, checks signatures, slower to start (5 s).
    SeaweedFs,
}

/// A bucket that nobody else uses.
pub fn fresh_bucket(kind: Kind) -> Result<Bucket> {
    shared(kind)?.fresh_bucket()
}

/// The server of this kind that all tests of this process share; started by the
/// first call.
///
/// # Errors
/// When it does not start; later calls try again.
pub fn shared(kind: Kind) -> Result<&'static S3Server> {
    static MOTO: OnceLock<S3Server> = OnceLock::new();
    static SEAWEEDFS: OnceLock<S3Server> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let slot = match kind {
        Kind::Moto => &MOTO,
        Kind::SeaweedFs => &SEAWEEDFS,
    };
    let _starting = STARTING.lock().map_err(|_| anyhow!("a thread panicked while it started a server"))?;
    if let Some(server) = slot.get() {
        return Ok(server);
    }
    let server = S3Server::start(kind)?;
    Ok(slot.get_or_init(|| server))
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct S3Server {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl S3Server {
    /// Starts a server for one test alone, for tests that stall or kill it.
    ///
    /// # Errors
    /// When it does not answer within a minute, after three attempts.
    ///
    /// # Panics
    /// When the program cannot be installed.
    pub fn start(kind: Kind) -> Result<Self> {
        let mut attempts_left = 3;
        loop {
            attempts_left -= 1;
            // A port that was free may be taken before the server binds it; only
            // another set of ports helps.
            match Self::try_start(kind) {
                Err(_) if attempts_left > 0 => {}
                result => return result,
            }
        }
    }

    fn try_start(kind: Kind) -> Result<Self> {
        let dir = run_dir(kind)?;
        let ports = free_ports()?;
        fs::write(dir.join("ports"), ports.map(|port| port.to_string()).join(" "))?;
        let log = File::create(dir.join("log"))?;
        let errors = log.try_clone()?;
        let (program, args) = match kind {
            Kind::Moto => (python::program(python::MOTO, "moto_server"), moto_args(ports)),
            Kind::SeaweedFs => (python::program(python::SEAWEEDFS, "weed"), seaweedfs_args(ports, &dir)?),
        };
        let child = spawn(&program, |command| {
            command.args(args).env_clear().env("HOME", &dir).stdin(Stdio::null()).stdout(log).stderr(errors);
            if let Some(path) = std::env::var_os("PATH") {
                command.env("PATH", path);
            }
        })?;
        let mut server = Self { child, port: ports[0], dir };
        server.wait_until_ready().with_context(|| format!("{kind:?} server, log {}", server.log()))?;
        Ok(server)
    }

    /// Makes a bucket with a new name.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn fresh_bucket(&self) -> Result<Bucket> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bucket = self.bucket(&format!("test-{}-{number}", std::process::id()));
        bucket.create()?;
        Ok(bucket)
    }

    /// Freezes the server: connections are accepted and never answered.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn stall(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Ends a [`stall`](Self::stall).
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// The end of what the server printed.
    pub fn log(&self) -> String {
        let text = fs::read(self.dir.join("log")).unwrap_or_default();
        let tail = text.get(text.len().saturating_sub(4000)..).unwrap_or_default();
        String::from_utf8_lossy(tail).into_owned()
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
        Ok(kill_process(pid, signal)?)
    }

    fn bucket(&self, name: &str) -> Bucket {
        Bucket {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            region: "us-east-1".to_owned(),
            bucket: name.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            time_limit: Duration::from_secs(30),
        }
    }

    /// Ready means that an object can be stored: SeaweedFS answers before its
    /// volume server has joined.
    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        // A request that meets the server half started may never be answered.
        let bucket = Bucket { time_limit: Duration::from_secs(3), ..self.bucket("ready") };
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}");
            }
            let ready = TcpStream::connect(("127.0.0.1", self.port))
                .map_err(anyhow::Error::from)
                .and_then(|_| bucket.create())
                .and_then(|()| bucket.put("ready", b"ready"));
            match ready {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > Duration::from_secs(60) => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Fails only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        sweep(&self.dir);
    }
}

/// Where a bucket is and how to get in, and a look at its objects that goes
/// through none of the code under test. Addressed by path, not by host name.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// `http://127.0.0.1:<port>`
    pub endpoint: String,
    /// `us-east-1`
    pub region: String,
    /// The bucket's name.
    pub bucket: String,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// How long this look waits for an answer.
    time_limit: Duration,
}

impl Bucket {
    /// The `replica:` mapping of a `litestream.yml`, without indentation.
    pub fn config(&self, path: &str) -> String {
        format!(
            "type: s3\nbucket: {}\npath: {path}\nendpoint: {}\nregion: {}\naccess-key-id: {}\nsecret-access-key: {}\n",
            self.bucket, self.endpoint, self.region, self.access_key, self.secret_key
        )
    }

    /// Stores an object.
    ///
    /// # Errors
    /// Any status but success.
    pub fn put(&self, key: &str, body: &[u8]) -> Result<()> {
        expect_success(&self.request("PUT", key, &[], body)?, "PUT", key)
    }

    /// An object's content; `None` if there is no such object.
    ///
    /// # Errors
    /// Any status but success and 404.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let response = self.request("GET", key, &[], b"")?;
        if response.status == 404 {
            return Ok(None);
        }
        expect_success(&response, "GET", key)?;
        Ok(Some(response.body))
    }

    /// Removes an object; a missing one is no error.
    ///
    /// # Errors
    /// Any status but success and 404.
    pub fn delete(&self, key: &str) -> Result<()> {
        let response = self.request("DELETE", key, &[], b"")?;
        if response.status == 404 { Ok(()) } else { expect_success(&response, "DELETE", key) }
    }

    /// All keys that begin with `prefix`, in order. Keys must be free of signs
    /// that XML escapes.
    ///
    /// # Errors
    /// Any status but success.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            let after = keys.last().map_or("", String::as_str).to_owned();
            let query = [("list-type", "2"), ("prefix", prefix), ("start-after", &after)];
            let response = self.request("GET", "", &query, b"")?;
            expect_success(&response, "LIST", prefix)?;
            let text = String::from_utf8_lossy(&response.body).into_owned();
            keys.extend(elements(&text, "Key"));
            if elements(&text, "IsTruncated").next() != Some("true".to_owned()) {
                return Ok(keys);
            }
        }
    }

    fn create(&self) -> Result<()> {
        let response = self.request("PUT", "", &[], b"")?;
        if response.status == 409 { Ok(()) } else { expect_success(&response, "PUT bucket", &self.bucket) }
    }

    fn request(&self, method: &str, key: &str, query: &[(&str, &str)], body: &[u8]) -> Result<Response> {
        let access = Access {
            host: self.endpoint.trim_start_matches("http://"),
            region: &self.region,
            access_key: &self.access_key,
            secret_key: &self.secret_key,
            time_limit: self.time_limit,
        };
        let separator = if key.is_empty() { "" } else { "/" };
        sigv4::request(&access, method, &format!("/{}{separator}{key}", self.bucket), query, body)
    }
}

const ACCESS_KEY: &str = "TESTACCESSKEY0000000";
const SECRET_KEY: &str = "testSecretKey/0123456789abcdefghij+ABCDE";

pub(crate) fn expect_success(response: &Response, operation: &str, object: &str) -> Result<()> {
    if (200..300).contains(&response.status) {
        return Ok(());
    }
    bail!("{operation} {object}: status {}: {}", response.status, String::from_utf8_lossy(&response.body))
}

/// Texts between `<name>` and `</name>`.
pub(crate) fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = String> + use<'a> {
    let close = format!("</{name}>");
    let open = format!("<{name}>");
    xml.split(open.as_str())
        .skip(1)
        .filter_map(move |rest| rest.split_once(close.as_str()).map(|(text, _)| text.to_owned()))
        .collect::<Vec<_>>()
        .into_iter()
}

fn moto_args(ports: [u16; 8]) -> Vec<String> {
    vec!["-H".into(), "127.0.0.1".into(), "-p".into(), ports[0].to_string()]
}

fn seaweedfs_args(ports: [u16; 8], dir: &Path) -> Result<Vec<String>> {
    let data = dir.join("data");
    fs::create_dir_all(&data)?;
    let credentials = dir.join("s3.json");
    fs::write(
        &credentials,
        format!(
            r#"{{"identities":[{{"name":"test","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        ),
    )?;
    let [s3, master, volume, filer, s3_grpc, master_grpc, volume_grpc, filer_grpc] = ports;
    Ok(vec![
        "server".into(),
        format!("-dir={}", data.display()),
        "-ip=127.0.0.1".into(),
        "-ip.bind=127.0.0.1".into(),
        "-master.telemetry=false".into(),
        format!("-master.port={master}"),
        format!("-master.port.grpc={master_grpc}"),
        "-master.volumeSizeLimitMB=64".into(),
        format!("-volume.port={volume}"),
        format!("-volume.port.grpc={volume_grpc}"),
        "-volume.max=0".into(),
        "-filer".into(),
        format!("-filer.port={filer}"),
        format!("-filer.port.grpc={filer_grpc}"),
        "-s3".into(),
        format!("-s3.port={s3}"),
        format!("-s3.port.grpc={s3_grpc}"),
        format!("-s3.config={}", credentials.display()),
        "-s3.autoCreateBucket=false".into(),
        // Services that would take fixed ports.
        "-s3.port.iceberg=0".into(),
        "-s3.port.lance=0".into(),
    ])
}

/// Ports that were free a moment ago, all different.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::new();
    let mut ports = [0_u16; N];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// A new directory under the cache, named after this process. Removes those of
/// processes that are gone: a shared server is never dropped.
pub(crate) fn run_dir(kind: impl std::fmt::Debug) -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let parent = cache::dir().join("run");
    fs::create_dir_all(&parent)?;
    for entry in fs::read_dir(&parent)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            sweep(&entry.path());
        }
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = parent.join(format!("{}-{kind:?}-{number}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

/// Removes what a server left. Failures are dropped: another process may be
/// sweeping the same directory, and a later start tries again.
pub(crate) fn sweep(dir: &Path) {
    for port in fs::read_to_string(dir.join("ports")).unwrap_or_default().split(' ') {
        // SeaweedFS puts sockets here, whatever TMPDIR says, and never removes them.
        for service in SEAWEEDFS_SOCKETS {
            let _ = fs::remove_file(format!("/tmp/seaweedfs-{service}-{port}.sock"));
        }
    }
    let _ = fs::remove_dir_all(dir);
}

const SEAWEEDFS_SOCKETS: [&str; 6] = ["s3", "filer", "s3-grpc", "filer-grpc", "master-grpc", "volume-grpc"];
