//! Programs from Debian's archive, unpacked beside the other test tools rather
//! than installed: no service starts, and no root is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache;

/// Directory under which the files of `packages` lie as they would below `/`.
/// `programs` are paths in it that must be able to run.
///
/// Unpacks on first use, with a network. Tests that need a program cannot say
/// anything without it, therefore:
///
/// # Panics
/// When a package cannot be had; the message says what failed and what would do.
pub fn unpacked(name: &str, packages: &[&str], programs: &[&str]) -> PathBuf {
    let root = cache::dir().join(format!("debian-{name}"));
    if let Err(error) = cache::once(&format!("debian-{name}"), |_| unpack(&root, packages, programs)) {
        panic!(
            "cannot unpack {packages:?} from Debian's archive, which this test needs: {error:#}\n\
             It takes apt-get and dpkg with access to a Debian or Ubuntu archive. \
             LITESTREAM_TEST_CACHE may name a directory where it was unpacked before."
        );
    }
    root
}

/// Where the unpacked packages keep their shared libraries.
pub fn library_path(root: &Path) -> String {
    let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
    format!("{0}/usr/lib/{machine}:{0}/lib/{machine}", root.display())
}

fn unpack(root: &Path, packages: &[&str], programs: &[&str]) -> Result<()> {
    let downloads = tempfile::tempdir().context("make a directory for packages")?;
    let download = || {
        let mut command = Command::new("apt-get");
        // Without the sandbox user, who may not write here.
        check(command.args(["-o", "APT::Sandbox::User=root", "download", "-qq"]).args(packages).current_dir(&downloads))
    };
    if let Err(first) = download() {
        // A fresh image has no lists of packages yet; only root can fetch them.
        check(Command::new("apt-get").args(["update", "-qq"])).context(format!("{first:#}; then"))?;
        download()?;
    }
    for entry in std::fs::read_dir(&downloads)? {
        check(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(root))?;
    }
    for program in programs {
        let missing = missing_libraries(root, program)?;
        if !missing.is_empty() {
            bail!("{program} needs libraries that this machine does not have: {}", missing.join(", "));
        }
    }
    Ok(())
}

fn missing_libraries(root: &Path, program: &str) -> Result<Vec<String>> {
    let mut command = Command::new("ldd");
    let output =
        command.arg(root.join(program)).env("LD_LIBRARY_PATH", library_path(root)).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let missing =
        text.lines().filter(|line| line.contains("not found")).filter_map(|line| line.split_whitespace().next());
    Ok(missing.map(str::to_owned).collect())
}

fn check(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
