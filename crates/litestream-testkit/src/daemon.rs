//! A running `litestream replicate`, ours or upstream's.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::program::Program;
use crate::spawn::spawn;

/// A child process whose log can be waited on. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
    /// Where this daemon's own part of the log begins; earlier runs may share it.
    log_offset: usize,
}

impl Daemon {
    /// Starts `program`; see [`Program::daemon`].
    pub(crate) fn start<A: AsRef<OsStr>>(
        program: &Program,
        args: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("open log {}", log.display()))?;
        let log_offset = fs::read(log)?.len();
        let errors = file.try_clone()?;
        let child = spawn(program.path(), |command| {
            program.prepare(command);
            command.args(args).stdout(file).stderr(errors);
        })?;
        Ok(Self { child, log: log.to_owned(), log_offset })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.log_offset..).unwrap_or_default()).into_owned()
    }

    /// Waits for a complete log line that contains `text`, and returns the line.
    ///
    /// # Errors
    /// When the daemon ends or `limit` passes without such a line; the message
    /// holds the log.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> Result<String> {
        let start = Instant::now();
        loop {
            let ended = self.child.try_wait()?;
            let log = self.log();
            let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = lines.map(str::trim_end).find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = ended {
                bail!("daemon ended ({status}) before it logged {text:?}; its log:\n{log}");
            }
            if start.elapsed() > limit {
                bail!("daemon did not log {text:?} within {limit:?}; its log:\n{log}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Exit status, if it has ended.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Ends it as a crash would (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill9(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits at most `limit`.
    ///
    /// # Errors
    /// When it is still running after that; it is killed then.
    pub fn terminate(mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Sends a signal: `Signal::STOP` and `Signal::CONT` freeze and thaw it.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("process id out of range")?;
        kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", self.child.id()))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it is still running after `limit`; it is killed then.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                self.child.kill()?;
                self.child.wait()?;
                bail!("still running after {limit:?}; its log:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
