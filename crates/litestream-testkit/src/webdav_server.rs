//! Real WebDAV servers on loopback, four independent readings of the protocol.
//!
//! Ports are the system's choice, every test gets a collection of its own, and no
//! server outlives the test process (see [`spawn`](crate::spawn)).

use std::fs::{self, File, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::s3_server::free_ports;
use crate::spawn::spawn;
use crate::{debian, python};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// nginx with its extension for listings; Basic authentication.
    Nginx,
    /// Apache with `mod_dav`; Digest authentication.
    Apache,
    /// `rclone serve webdav`; Basic authentication.
    Rclone,
    /// The same over TLS, with a certificate of [`CA`]'s.
    RcloneTls,
    /// WsgiDAV on cheroot; Digest authentication.
    WsgiDav,
}

/// Every kind that speaks plain HTTP.
pub const PLAIN: [Kind; 4] = [Kind::Nginx, Kind::Apache, Kind::Rclone, Kind::WsgiDav];

/// PEM file of the authority that signed the certificate of [`Kind::RcloneTls`]
/// for `localhost`, `127.0.0.1` and names below `store.invalid`. Its key is thrown
/// away; the server's is worth nothing.
pub const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/ca.pem");

/// User name on every server.
pub const USERNAME: &str = "replica";
/// Password on every server, with signs that mean something in URLs and headers.
pub const PASSWORD: &str = "p:ss/w%rd+1";

/// A collection that nobody else uses; not made yet.
///
/// # Errors
/// When the server does not start.
///
/// # Panics
/// When the program cannot be installed.
pub fn fresh_share(kind: Kind) -> Result<Share> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let server = shared(kind)?;
    let scheme = if kind == Kind::RcloneTls { "https" } else { "http" };
    Ok(Share {
        url: format!("{scheme}://127.0.0.1:{}", server.port),
        path: format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
        data: server.dir.join("data"),
    })
}

/// Where a collection is, and a look at its files that goes through none of the
/// code under test.
#[derive(Clone, Debug)]
pub struct Share {
    /// `http://127.0.0.1:<port>`, the server's root.
    pub url: String,
    /// Path of the collection below it.
    pub path: String,
    data: PathBuf,
}

impl Share {
    /// The `replica:` mapping of a `litestream.yml`, without indentation.
    pub fn config(&self) -> String {
        // Without its first slash, upstream answers Digest challenges wrongly.
        format!(
            "type: webdav\nwebdav-url: {}\nwebdav-username: {USERNAME}\nwebdav-password: \"{PASSWORD}\"\npath: /{}\n",
            self.url, self.path
        )
    }

    /// The directory that the server shows as the collection.
    pub fn directory(&self) -> PathBuf {
        self.data.join(&self.path)
    }

    /// Paths of all files below the collection, in order.
    pub fn files(&self) -> Vec<String> {
        let root = self.directory();
        let mut files = Vec::new();
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                match path.strip_prefix(&root) {
                    _ if path.is_dir() => dirs.push(path),
                    Ok(name) => files.push(name.to_string_lossy().into_owned()),
                    Err(_) => {}
                }
            }
        }
        // Apache keeps properties in hidden directories of its own.
        files.retain(|name| !name.contains(".DAV/"));
        files.sort();
        files
    }
}

struct Server {
    child: Child,
    port: u16,
    dir: PathBuf,
}

/// The server of this kind that all tests of this process share.
fn shared(kind: Kind) -> Result<&'static Server> {
    static SERVERS: [OnceLock<Server>; 5] = [const { OnceLock::new() }; 5];
    static STARTING: [Mutex<()>; 5] = [const { Mutex::new(()) }; 5];
    let number = kind as usize;
    let (Some(slot), Some(starting)) = (SERVERS.get(number), STARTING.get(number)) else {
        bail!("no place for {kind:?}");
    };
    let _starting = starting.lock().map_err(|_| anyhow!("a thread panicked while it started a server"))?;
    if let Some(server) = slot.get() {
        return Ok(server);
    }
    let mut attempts_left = 3;
    let server = loop {
        attempts_left -= 1;
        // A port that was free may be taken before the server binds it.
        match start(kind) {
            Err(_) if attempts_left > 0 => {}
            result => break result?,
        }
    };
    Ok(slot.get_or_init(|| server))
}

fn start(kind: Kind) -> Result<Server> {
    let dir = run_dir(kind)?;
    let [port] = free_ports()?;
    let log = File::create(dir.join("log"))?;
    let errors = log.try_clone()?;
    let Launch { program, args, env } = launch(kind, &dir, port)?;
    let prepare = |command: &mut Command| {
        command.args(args).env_clear().env("HOME", &dir).envs(env).stdout(log).stderr(errors);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
    };
    // The signal at our death that `spawn` asks for is forgotten by a process that
    // changes its user, as Apache does.
    let child = if kind == Kind::Apache {
        let mut command = Command::new("sh");
        command.args(["-c", WHILE_INPUT_IS_OPEN, "sh"]).arg(program).stdin(Stdio::piped());
        prepare(&mut command);
        command.spawn().context("start sh")?
    } else {
        spawn(&program, |command| {
            command.stdin(Stdio::null());
            prepare(command);
        })?
    };
    let mut server = Server { child, port, dir };
    server.wait_until_ready().with_context(|| format!("{kind:?} server, log {}", server.log()))?;
    Ok(server)
}

impl Server {
    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}");
            }
            match TcpStream::connect(("127.0.0.1", self.port)) {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > Duration::from_secs(60) => return Err(error.into()),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// The end of what the server printed.
    fn log(&self) -> String {
        let mut text = String::new();
        for name in ["log", "error.log"] {
            let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
            text.push_str(&String::from_utf8_lossy(bytes.get(bytes.len().saturating_sub(4000)..).unwrap_or_default()));
        }
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Fails only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs its arguments as a command and kills it when the standard input ends,
/// which happens when this process ends for any reason.
const WHILE_INPUT_IS_OPEN: &str = "exec 3<&0; \"$@\" 3<&- </dev/null & pid=$!; \
                                   (cat <&3 >/dev/null; kill -9 $pid) 2>/dev/null & wait $pid";

/// A command line.
struct Launch {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

fn launch(kind: Kind, dir: &Path, port: u16) -> Result<Launch> {
    let data = dir.join("data");
    fs::create_dir(&data)?;
    // Apache gives up root and works as somebody else.
    fs::set_permissions(&data, Permissions::from_mode(0o777))?;
    match kind {
        Kind::Nginx => nginx(dir, port),
        Kind::Apache => apache(dir, port),
        Kind::Rclone | Kind::RcloneTls => Ok(rclone(kind == Kind::RcloneTls, dir, port)),
        Kind::WsgiDav => wsgidav(dir, port),
    }
}

fn nginx(dir: &Path, port: u16) -> Result<Launch> {
    const MODULE: &str = "usr/lib/nginx/modules/ngx_http_dav_ext_module.so";
    let root = debian::unpacked("nginx", &["nginx", "libnginx-mod-http-dav-ext"], &["usr/sbin/nginx", MODULE]);
    fs::create_dir(dir.join("bodies"))?;
    fs::write(dir.join("passwords"), format!("{USERNAME}:{{SHA}}{SHA1}\n"))?;
    let (dir, module) = (dir.display(), root.join(MODULE));
    // One process, so that none is left when it is killed.
    let text = format!(
        "master_process off; daemon off; pid {dir}/pid; error_log {dir}/error.log;\n\
         load_module {module};\n\
         events {{}}\n\
         http {{\n\
           access_log {dir}/access.log; client_max_body_size 64m; client_body_temp_path {dir}/bodies;\n\
           proxy_temp_path {dir}/bodies; fastcgi_temp_path {dir}/bodies; uwsgi_temp_path {dir}/bodies; scgi_temp_path {dir}/bodies;\n\
           server {{\n\
             listen 127.0.0.1:{port}; root {dir}/data;\n\
             location / {{\n\
               auth_basic litestream; auth_basic_user_file {dir}/passwords;\n\
               dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS;\n\
             }}\n\
           }}\n\
         }}\n",
        module = module.display()
    );
    let config = format!("{dir}/nginx.conf");
    fs::write(&config, text)?;
    Ok(Launch {
        program: root.join("usr/sbin/nginx"),
        args: ["-e", &format!("{dir}/error.log"), "-p", &dir.to_string(), "-c", &config].map(str::to_owned).into(),
        env: vec![("LD_LIBRARY_PATH".to_owned(), debian::library_path(&root))],
    })
}

fn apache(dir: &Path, port: u16) -> Result<Launch> {
    const PROGRAM: &str = "usr/sbin/apache2";
    let packages = ["apache2-bin", "libapr1", "libaprutil1", "liblua5.3-0", "libjansson4"];
    let root = debian::unpacked("apache", &packages, &[PROGRAM, "usr/lib/apache2/modules/mod_dav_fs.so"]);
    // MD5 of `user:realm:password`.
    fs::write(dir.join("passwords"), format!("{USERNAME}:litestream:{DIGEST}\n"))?;
    let modules: String =
        ["mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_digest", "dav", "dav_fs"]
            .map(|name| format!("LoadModule {name}_module modules/mod_{name}.so\n"))
            .concat();
    let user = if rustix::process::getuid().is_root() { "User www-data\nGroup www-data\n" } else { "" };
    let (modules_root, dir) = (root.join("usr/lib/apache2"), dir.display());
    let text = format!(
        "ServerRoot {root}\nListen 127.0.0.1:{port}\nServerName 127.0.0.1\nPidFile {dir}/pid\nErrorLog {dir}/error.log\n\
         DefaultRuntimeDir {dir}\nMutex file:{dir}\n{modules}{user}DavLockDB {dir}/data/.locks\nDocumentRoot {dir}/data\n\
         <Directory {dir}/data>\nDav On\nAuthType Digest\nAuthName litestream\nAuthDigestProvider file\n\
         AuthUserFile {dir}/passwords\nRequire valid-user\n</Directory>\n",
        root = modules_root.display()
    );
    let config = format!("{dir}/httpd.conf");
    fs::write(&config, text)?;
    Ok(Launch {
        program: root.join(PROGRAM),
        // One process, so that none is left when it is killed.
        args: ["-X", "-f", &config].map(str::to_owned).into(),
        env: vec![("LD_LIBRARY_PATH".to_owned(), debian::library_path(&root))],
    })
}

fn rclone(tls: bool, dir: &Path, port: u16) -> Launch {
    let mut args = vec!["serve".to_owned(), "webdav".to_owned()];
    args.extend(["--addr", &format!("127.0.0.1:{port}"), "--user", USERNAME, "--pass", PASSWORD].map(str::to_owned));
    if tls {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tls");
        args.extend(["--cert", &format!("{own}/server.pem"), "--key", &format!("{own}/server.key")].map(str::to_owned));
    }
    args.push(dir.join("data").display().to_string());
    let env = vec![("RCLONE_CONFIG".to_owned(), dir.join("rclone.conf").display().to_string())];
    Launch { program: python::program(python::RCLONE, "rclone"), args, env }
}

fn wsgidav(dir: &Path, port: u16) -> Result<Launch> {
    let config = dir.join("wsgidav.yaml");
    let text = format!(
        "host: 127.0.0.1\nport: {port}\nserver: cheroot\nprovider_mapping: {{\"/\": \"{}\"}}\n\
         http_authenticator: {{accept_basic: false, accept_digest: true, default_to_digest: true, \
         domain_controller: wsgidav.dc.simple_dc.SimpleDomainController}}\n\
         simple_dc: {{user_mapping: {{\"*\": {{\"{USERNAME}\": {{password: \"{PASSWORD}\"}}}}}}}}\nverbose: 1\n",
        dir.join("data").display()
    );
    fs::write(&config, text)?;
    let args = vec!["-c".to_owned(), config.display().to_string()];
    Ok(Launch { program: python::program(python::WSGIDAV, "wsgidav"), args, env: Vec::new() })
}

/// Base64 of the password's SHA-1; in clear it would end at its colon.
const SHA1: &str = "2+wFNwfOUX8tXHsf28rvX4oPDHI=";
/// `htdigest` of user, realm `litestream` and password.
const DIGEST: &str = "9fb97c20ee9fb23746a7e5232fae3d1a";

/// A new directory named after this process, where somebody other than root can
/// reach it. Removes those of processes that are gone: a shared server is never
/// dropped.
fn run_dir(kind: Kind) -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let parent = std::env::temp_dir().join(format!("litestream-webdav-{}", rustix::process::getuid().as_raw()));
    fs::create_dir_all(&parent)?;
    fs::set_permissions(&parent, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(&parent)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            // Another process may be sweeping, too; a later start tries again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = parent.join(format!("{}-{kind:?}-{number}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    fs::set_permissions(&dir, Permissions::from_mode(0o777))?;
    Ok(dir)
}
