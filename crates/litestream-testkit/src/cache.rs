//! The directory that holds installed test tools, shared by all test binaries.
//!
//! Test binaries run in parallel and all want the same tools; a lock file per
//! tool makes the first one install it and the others wait. A tool counts as
//! there only when its mark file exists, and the mark is written last, so an
//! interrupted installation is repeated.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;

/// Directory for installed tools: `$LITESTREAM_TEST_CACHE`, else
/// `test-tools` in the workspace's target directory.
pub fn dir() -> PathBuf {
    environment("LITESTREAM_TEST_CACHE").unwrap_or_else(|| target_dir().join("test-tools"))
}

/// The workspace's target directory: `$CARGO_TARGET_DIR`, else `target` at the
/// workspace root.
pub fn target_dir() -> PathBuf {
    environment("CARGO_TARGET_DIR").unwrap_or_else(|| workspace_dir().join("target"))
}

/// The workspace root, where `Cargo.toml` and `scripts` are.
pub fn workspace_dir() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}

/// Runs `install` unless it has succeeded before under this `name`, holding a
/// lock against other processes meanwhile. `install` gets the cache directory.
///
/// `name` must change with the version of what is installed.
///
/// # Errors
/// Whatever `install` returns, and failures to make or lock the directory.
pub fn once(name: &str, install: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let dir = dir();
    let mark = dir.join(format!("{name}.done"));
    if mark.exists() {
        return Ok(());
    }
    fs::create_dir_all(&dir).with_context(|| format!("make cache directory {}", dir.display()))?;
    // One lock for everything: the tools share a virtual environment, which two
    // installers must not change at the same time.
    let lock_path = dir.join("lock");
    let lock = File::create(&lock_path).with_context(|| format!("open {}", lock_path.display()))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).with_context(|| format!("lock {}", lock_path.display()))?;
    if mark.exists() {
        return Ok(());
    }
    install(&dir)?;
    fs::write(&mark, b"").with_context(|| format!("write {}", mark.display()))
}

fn environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
