//! What a process costs: time, processor, memory. Linux only.
//!
//! Peak memory comes from `VmHWM`, not from `wait4`: the latter counts the
//! parent's pages between fork and exec as the child's.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::program::Program;
use crate::spawn::spawn;

/// Cost of a finished run.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// From start to end.
    pub wall: Duration,
    /// User and system time of all threads; the kernel counts in 10 ms.
    pub cpu: Duration,
    /// Largest resident set in bytes, as sampled every few milliseconds.
    pub peak_rss: u64,
}

/// Runs `program` to its end, its output appended to `log`. Calls `sample` every
/// few milliseconds meanwhile.
///
/// # Errors
/// When it fails; the message holds the log.
pub fn measure<A: AsRef<OsStr>>(
    program: &Program,
    args: impl IntoIterator<Item = A>,
    log: &Path,
    mut sample: impl FnMut(),
) -> Result<Usage> {
    let file = fs::OpenOptions::new().create(true).append(true).open(log)?;
    let errors = file.try_clone()?;
    let start = Instant::now();
    let mut child = spawn(program.path(), |command| {
        program.prepare(command);
        command.args(args).stdout(Stdio::from(file)).stderr(errors);
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
    let mut peak_rss = 0;
    // Leaves the child unreaped, so that its processor time can still be read.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), options)?.is_none() {
        peak_rss = peak_rss.max(self::peak_rss(child.id()).unwrap_or(0));
        sample();
        thread::sleep(Duration::from_millis(2));
    }
    let wall = start.elapsed();
    let cpu = cpu(child.id()).context("read processor time")?;
    let status = child.wait()?;
    if !status.success() {
        bail!("{}: {status}; log:\n{}", program.path().display(), fs::read_to_string(log).unwrap_or_default());
    }
    Ok(Usage { wall, cpu, peak_rss })
}

/// Largest resident set of a running process so far, in bytes.
pub fn peak_rss(id: u32) -> Option<u64> {
    kibibytes(id, "VmHWM:")
}

/// Resident set of a running process at this moment, in bytes.
pub fn rss(id: u32) -> Option<u64> {
    kibibytes(id, "VmRSS:")
}

/// Threads of a running process.
pub fn threads(id: u32) -> Option<u32> {
    status(id, "Threads:")?.parse().ok()
}

/// Descriptors a running process has open.
pub fn open_files(id: u32) -> Option<u32> {
    u32::try_from(fs::read_dir(format!("/proc/{id}/fd")).ok()?.count()).ok()
}

fn kibibytes(id: u32, field: &str) -> Option<u64> {
    status(id, field)?.strip_suffix(" kB")?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn status(id: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
}

/// User and system time so far of a process that is running or not yet waited
/// for, all its threads together.
pub fn cpu(id: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything; fields count from behind it.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks = |index| fields.split(' ').nth(index).and_then(|field| field.parse::<u64>().ok());
    let ticks = ticks(11)? + ticks(12)?;
    // The kernel's unit towards programs is 1/100 s on every machine we build for.
    Some(Duration::from_millis(ticks * 10))
}

/// Bytes in all files below `dir`; 0 if there is no such directory. Files that
/// vanish meanwhile do not count.
pub fn dir_len(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let len = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => dir_len(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(len).sum()
}
