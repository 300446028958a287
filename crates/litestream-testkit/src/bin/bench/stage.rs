//! Where the scenarios play: binaries, directories, and the checks that keep
//! their figures honest.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use litestream_testkit::program::Program;
use litestream_testkit::{cache, image, upstream};
use sha2::{Digest, Sha256};

use crate::arguments::Arguments;
use crate::dataset;

/// The contestants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tool {
    Ours,
    Upstream,
}

impl Tool {
    /// Word for tables, JSON and directories.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Upstream => "upstream",
        }
    }
}

/// Everything that scenarios share.
pub(crate) struct Stage {
    pub(crate) dir: PathBuf,
    pub(crate) rounds: usize,
    pub(crate) write_duration: Duration,
    pub(crate) databases: usize,
    pub(crate) idle_duration: Duration,
    size: u64,
    ours: Program,
    upstream: Program,
}

impl Stage {
    /// Builds and installs the binaries; empties the working directory but for
    /// the dataset, which is kept between runs.
    pub(crate) fn set_up(arguments: &Arguments) -> Result<Self> {
        let ours = match &arguments.litestream {
            Some(path) => Program::new(fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?),
            None => Program::new(build()?),
        };
        let upstream = match &arguments.upstream {
            Some(path) => Program::new(fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?),
            None => upstream::litestream(),
        };
        let limit = Duration::from_secs(1_800);
        let dir = arguments.dir.clone().unwrap_or_else(|| cache::target_dir().join("bench"));
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let dir = fs::canonicalize(dir)?;
        Ok(Self {
            dir,
            rounds: arguments.rounds,
            write_duration: arguments.write_duration,
            databases: arguments.databases,
            idle_duration: arguments.idle_duration,
            size: arguments.size,
            ours: ours.time_limit(limit),
            upstream: upstream.time_limit(limit),
        })
    }

    /// The binary of a contestant.
    pub(crate) fn program(&self, tool: Tool) -> &Program {
        match tool {
            Tool::Ours => &self.ours,
            Tool::Upstream => &self.upstream,
        }
    }

    /// Both contestants; who begins alternates with the round.
    pub(crate) fn order(round: usize) -> [Tool; 2] {
        if round.is_multiple_of(2) { [Tool::Ours, Tool::Upstream] } else { [Tool::Upstream, Tool::Ours] }
    }

    /// An empty directory of this name.
    pub(crate) fn fresh_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        remove(&dir)?;
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// A new copy of the dataset at `path`.
    pub(crate) fn copy_dataset(&self, path: &Path) -> Result<()> {
        let source = self.dir.join(format!("dataset-{}.db", self.size));
        if !source.exists() {
            eprintln!("  making a database of {} MiB", self.size >> 20);
        }
        dataset::make(&source, self.size)?;
        fs::copy(&source, path).with_context(|| format!("copy the dataset to {}", path.display()))?;
        settle();
        Ok(())
    }

    /// One line on what is compared, and on which machine.
    pub(crate) fn describe(&self) -> String {
        let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let version = |program: &Program| {
            let output = program.run(["version"]).map(|output| output.stdout);
            output.unwrap_or_default().trim().to_owned()
        };
        format!(
            "ours {} ({}), upstream {}; {} rounds, {cpus} processors",
            version(&self.ours),
            self.ours.path().display(),
            version(&self.upstream),
            self.rounds
        )
    }

    /// Whether upstream's binary, the independent judge, restores `replica` to
    /// exactly what `db` holds. `db` must be quiet.
    pub(crate) fn is_complete(&self, db: &Path, replica: &Path) -> Result<bool> {
        let restored = self.dir.join("judge-restored.db");
        remove(&restored)?;
        let result = self.upstream.restore(&url(replica), &restored);
        let same = match result {
            Ok(_) => digest(&restored)? == self.source_digest(db)?,
            Err(error) => {
                eprintln!("  the replica cannot be restored: {error:#}");
                false
            }
        };
        remove(&restored)?;
        Ok(same)
    }

    /// Digest of what `db` holds, checkpointed by SQLite. `db` must be quiet.
    pub(crate) fn source_digest(&self, db: &Path) -> Result<String> {
        let copy = self.dir.join("judge-source.db");
        image::checkpointed_copy(db, &copy)?;
        let digest = digest(&copy)?;
        remove(&copy)?;
        Ok(digest)
    }
}

/// Writes out what earlier steps left in memory, so that the next run does not
/// pay for it.
pub(crate) fn settle() {
    rustix::fs::sync();
}

/// `file://` URL of a directory.
pub(crate) fn url(dir: &Path) -> String {
    format!("file://{}", dir.display())
}

/// Where a replicator keeps its own state for `db`.
pub(crate) fn meta_dir(db: &Path) -> PathBuf {
    let name = db.file_name().unwrap_or_default().to_string_lossy();
    db.with_file_name(format!(".{name}-litestream"))
}

/// SHA-256 of a closed file.
pub(crate) fn digest(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let len = file.read(&mut buffer)?;
        if len == 0 {
            let digest: [u8; 32] = hash.finalize().into();
            return Ok(digest.map(|byte| format!("{byte:02x}")).concat());
        }
        hash.update(buffer.get(..len).unwrap_or_default());
    }
}

/// Removes a file or directory if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    Ok(())
}

/// Builds our release binary, so that no stale one is measured.
fn build() -> Result<PathBuf> {
    eprintln!("building our release binary");
    cargo(&["build", "--release", "--quiet", "-p", "litestream-cli"])?;
    Ok(cache::target_dir().join("release/litestream"))
}

/// Builds an example of one of our crates, likewise.
pub(crate) fn build_example(package: &str, name: &str) -> Result<PathBuf> {
    cargo(&["build", "--release", "--quiet", "-p", package, "--example", name])?;
    Ok(cache::target_dir().join("release/examples").join(name))
}

fn cargo(args: &[&str]) -> Result<()> {
    let status = Command::new("cargo").args(args).current_dir(cache::workspace_dir()).status().context("run cargo")?;
    ensure!(status.success(), "cargo {args:?}: {status}");
    Ok(())
}
