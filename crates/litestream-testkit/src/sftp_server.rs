//! Real SFTP servers on loopback: OpenSSH's, with keys, and rclone's, with a
//! password. Every test gets a directory of its own.
//!
//! OpenSSH's daemon runs without privileges and lets in only the user it runs as.
//! Started by root it would want a user of its own that an unpacked package does
//! not bring, so it then runs as `nobody`.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, bail};

use crate::loopback::Running;
use crate::{debian, python};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// OpenSSH's `sshd` with host keys of three kinds; lets in by key.
    OpenSsh,
    /// `rclone serve sftp`; lets in by password, and renames over what exists.
    Rclone,
}

/// Password on rclone's server, with signs that mean something in URLs.
pub const PASSWORD: &str = "p:ss/w%rd+1";
/// The same, as it stands in a URL.
pub const PASSWORD_IN_URL: &str = "p%3Ass%2Fw%25rd%2B1";

/// Where a directory is, and a look at its files that goes through none of the
/// code under test.
#[derive(Clone, Debug)]
pub struct Share {
    /// Which server.
    pub kind: Kind,
    /// `127.0.0.1:<port>`.
    pub host: String,
    /// Who may log in.
    pub user: String,
    /// Path of the directory as the server names it; not made yet.
    pub path: String,
    directory: PathBuf,
    keys: PathBuf,
}

/// A directory that nobody else uses.
///
/// # Errors
/// When the server does not start.
///
/// # Panics
/// When the program cannot be installed.
pub fn fresh_share(kind: Kind) -> Result<Share> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    match kind {
        Kind::OpenSsh => {
            let place = place()?;
            let directory = place.root.join("data").join(name);
            let port = openssh(place)?.port;
            Ok(Share {
                kind,
                host: format!("127.0.0.1:{port}"),
                user: place.user.clone(),
                path: directory.display().to_string(),
                directory,
                keys: place.root.clone(),
            })
        }
        Kind::Rclone => {
            static SERVER: OnceLock<Running> = OnceLock::new();
            static STARTING: Mutex<()> = Mutex::new(());
            static DATA: OnceLock<tempfile::TempDir> = OnceLock::new();
            let data = DATA.get_or_init(|| tempfile::tempdir().unwrap_or_else(|e| panic!("make a directory: {e}")));
            let program = python::program(python::RCLONE, "rclone");
            let server = Running::shared(&SERVER, &STARTING, &program, |dir, port| {
                let address = format!("127.0.0.1:{port}");
                let config = dir.join("rclone.conf");
                let flags = ["serve", "sftp", "--addr", &address, "--user", "replica", "--pass", PASSWORD, "--config"];
                let mut args: Vec<OsString> = flags.into_iter().map(OsString::from).collect();
                args.extend([config.into(), "--cache-dir".into(), dir.into(), data.path().into()]);
                args
            })?;
            Ok(Share {
                kind,
                host: format!("127.0.0.1:{}", server.port),
                user: "replica".to_owned(),
                path: format!("/{name}"),
                directory: data.path().join(name),
                keys: PathBuf::new(),
            })
        }
    }
}

impl Share {
    /// The directory on this machine.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A private key that the server accepts: `ed25519`, `rsa` (PEM), `ecdsa`; or
    /// `encrypted`, which cannot be used, and `stranger`, which is not accepted.
    pub fn key(&self, name: &str) -> PathBuf {
        self.keys.join(format!("id_{name}"))
    }

    /// A program of OpenSSH's client, ready to run: `ssh-agent`, `ssh-add`.
    ///
    /// # Panics
    /// When it cannot be installed.
    pub fn client_program(name: &str) -> Command {
        let unpacked = unpacked();
        let mut command = Command::new(unpacked.join("usr/bin").join(name));
        command.env("LD_LIBRARY_PATH", debian::library_path(&unpacked));
        command
    }

    /// A host key of the server as `host-key` takes it: `ed25519`, `rsa`, `ecdsa`.
    ///
    /// # Errors
    /// When there is none.
    pub fn host_key(&self, name: &str) -> Result<String> {
        let path = self.keys.join(format!("host_{name}.pub"));
        Ok(fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?.trim().to_owned())
    }

    /// The `replica:` mapping of a `litestream.yml`, without indentation, for a
    /// server at `host`.
    ///
    /// # Errors
    /// When a key cannot be read.
    pub fn config(&self, host: &str) -> Result<String> {
        let Self { user, path, .. } = self;
        let place = format!("type: sftp\nhost: {host}\nuser: {user}\npath: {path}\n");
        Ok(match self.kind {
            // The key that upstream asks for first.
            Kind::OpenSsh => {
                format!("{place}key-path: {}\nhost-key: {}\n", self.key("ed25519").display(), self.host_key("ecdsa")?)
            }
            Kind::Rclone => format!("{place}password: \"{PASSWORD}\"\n"),
        })
    }

    /// Paths of all files below the directory, in order.
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut directories = vec![self.directory.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                match path.strip_prefix(&self.directory) {
                    _ if path.is_dir() => directories.push(path),
                    Ok(name) => files.push(name.to_string_lossy().into_owned()),
                    Err(_) => {}
                }
            }
        }
        files.sort();
        files
    }
}

/// Files of the OpenSSH server, where an unprivileged user can reach them.
struct Place {
    root: PathBuf,
    sshd: PathBuf,
    user: String,
    _dir: tempfile::TempDir,
}

fn openssh(place: &'static Place) -> Result<&'static Running> {
    static SERVER: OnceLock<Running> = OnceLock::new();
    static STARTING: Mutex<()> = Mutex::new(());
    let is_root = rustix::process::getuid().is_root();
    let program = if is_root { PathBuf::from("setpriv") } else { place.sshd.clone() };
    Running::shared(&SERVER, &STARTING, &program, |_, port| {
        let mut args: Vec<OsString> = Vec::new();
        if is_root {
            args.extend(
                ["--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig", "KILL"].map(OsString::from),
            );
            args.push(place.sshd.clone().into());
        }
        let port = port.to_string();
        args.extend(["-D", "-e", "-p", &port, "-f"].map(OsString::from));
        args.push(place.root.join("sshd_config").into());
        args
    })
}

fn place() -> Result<&'static Place> {
    static PLACE: OnceLock<Place> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().map_err(|_| anyhow::anyhow!("a thread panicked while it prepared a server"))?;
    if let Some(place) = PLACE.get() {
        return Ok(place);
    }
    let place = prepare()?;
    Ok(PLACE.get_or_init(|| place))
}

/// A copy of a program in `root` that finds its libraries there. The daemon starts
/// itself and its parts for every connection, with an environment of its own making.
fn wrapped(root: &Path, program: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?.to_string_lossy();
    let (binary, script) = (root.join(format!("{name}.bin")), root.join(&*name));
    fs::copy(program, &binary).with_context(|| format!("copy {}", program.display()))?;
    let text = format!("#!/bin/sh\nLD_LIBRARY_PATH={} exec {} \"$@\"\n", root.display(), binary.display());
    fs::write(&script, text)?;
    fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    Ok(script)
}

fn unpacked() -> PathBuf {
    debian::unpacked(
        "openssh",
        &["openssh-server", "openssh-client", "libwrap0"],
        &["usr/sbin/sshd", "usr/bin/ssh-keygen", "usr/bin/ssh-agent", "usr/bin/ssh-add"],
    )
}

fn prepare() -> Result<Place> {
    let unpacked = unpacked();
    let dir = tempfile::Builder::new().prefix("litestream-sftp-").tempdir()?;
    let root = dir.path().to_path_buf();
    // The cache may lie where the server's user cannot look.
    let libraries = debian::library_path(&unpacked);
    let name = "libwrap.so.0";
    let found = libraries.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    fs::copy(found.with_context(|| format!("no {name}"))?, root.join(name))?;
    let sshd = wrapped(&root, &unpacked.join("usr/sbin/sshd"))?;
    // From 9.8 on the work is done by programs of their own, whose places are options.
    let mut parts = String::new();
    for (part, option) in [("sshd-session", "SshdSessionPath"), ("sshd-auth", "SshdAuthPath")] {
        let program = unpacked.join("usr/lib/openssh").join(part);
        if program.exists() {
            parts.push_str(&format!("{option} {}\n", wrapped(&root, &program)?.display()));
        }
    }

    let keygen = |name: &str, args: &[&str]| -> Result<()> {
        let mut command = Command::new(unpacked.join("usr/bin/ssh-keygen"));
        command.args(["-q", "-C", "test", "-f"]).arg(root.join(name)).args(args).stdin(Stdio::null());
        let output = command.env("LD_LIBRARY_PATH", &libraries).output().context("run ssh-keygen")?;
        if !output.status.success() {
            bail!("ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    };
    for kind in ["ed25519", "rsa", "ecdsa"] {
        keygen(&format!("host_{kind}"), &["-t", kind, "-N", ""])?;
        // The server is another user's, and reads them.
        fs::set_permissions(root.join(format!("host_{kind}")), Permissions::from_mode(0o644))?;
    }
    let own_keys = rustix::process::getuid().is_root();
    if !own_keys {
        for kind in ["ed25519", "rsa", "ecdsa"] {
            fs::set_permissions(root.join(format!("host_{kind}")), Permissions::from_mode(0o600))?;
        }
    }
    keygen("id_ed25519", &["-t", "ed25519", "-N", ""])?;
    keygen("id_ecdsa", &["-t", "ecdsa", "-N", ""])?;
    keygen("id_rsa", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""])?;
    keygen("id_encrypted", &["-t", "ed25519", "-N", "passphrase"])?;
    keygen("id_stranger", &["-t", "ed25519", "-N", ""])?;
    let mut authorized = String::new();
    for kind in ["ed25519", "ecdsa", "rsa", "encrypted"] {
        authorized.push_str(&fs::read_to_string(root.join(format!("id_{kind}.pub")))?);
    }
    fs::write(root.join("authorized_keys"), authorized)?;
    let shown = root.display();
    // Without PAM, an unprivileged daemon takes every account for locked.
    let config = format!(
        "ListenAddress 127.0.0.1\nHostKey {shown}/host_ed25519\nHostKey {shown}/host_rsa\nHostKey {shown}/host_ecdsa\n\
         PidFile none\nAuthorizedKeysFile {shown}/authorized_keys\nStrictModes no\nUsePAM yes\n\
         PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n\
         Subsystem sftp internal-sftp\nLogLevel VERBOSE\n{parts}"
    );
    fs::write(root.join("sshd_config"), config)?;
    let data = root.join("data");
    fs::create_dir(&data)?;
    for (path, mode) in [(&root, 0o755), (&data, 0o777)] {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    let user = if own_keys {
        "nobody".to_owned()
    } else {
        let output = Command::new("id").arg("-un").output().context("run id")?;
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    Ok(Place { root, sshd, user, _dir: dir })
}
