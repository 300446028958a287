//! A `litestream` binary, ours or upstream's, run as a command.
//!
//! Every run gets an empty environment but for `PATH` and what the caller adds:
//! the upstream binary refuses S3 when `AWS_CA_BUNDLE` is set, and proxies or
//! credentials of the machine must not reach a test.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::daemon::Daemon;
use crate::spawn::spawn;

/// A binary and the environment it is to run in.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    env: Vec<(String, String)>,
    time_limit: Duration,
}

impl Program {
    /// The binary at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), env: Vec::new(), time_limit: Duration::from_secs(120) }
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets how long [`run`](Self::run) lets it take; two minutes unless told.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Where the binary is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started or exceeds the time limit (it is killed). An
    /// exit status other than 0 is not an error here; see [`Output::success`].
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<Output> {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let mut child = spawn(&self.path, |command| {
            self.prepare(command);
            command.args(&args).stdout(Stdio::piped()).stderr(Stdio::piped());
        })?;
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().context("wait for child")? {
                break Some(status);
            }
            if start.elapsed() > self.time_limit {
                child.kill().context("kill child")?;
                child.wait().context("wait for killed child")?;
                break None;
            }
            thread::sleep(Duration::from_millis(2));
        };
        let stdout = stdout.join().unwrap_or_default();
        let stderr = stderr.join().unwrap_or_default();
        let Some(status) = status else {
            bail!("{} {args:?} took longer than {:?}\n{stdout}{stderr}", self.path.display(), self.time_limit)
        };
        Ok(Output { command: format!("{} {args:?}", self.path.display()), status, stdout, stderr })
    }

    /// Restores `replica_url` to `output`.
    ///
    /// # Errors
    /// As [`run`](Self::run), and when the command fails.
    pub fn restore(&self, replica_url: &str, output: &Path) -> Result<Output> {
        self.run([OsStr::new("restore"), OsStr::new("-o"), output.as_os_str(), OsStr::new(replica_url)])?.success()
    }

    /// Restores the database `db` as the configuration file says, to `output`.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn restore_with(&self, config: &Path, db: &Path, output: &Path) -> Result<Output> {
        let args = [OsStr::new("restore"), OsStr::new("-config"), config.as_os_str(), OsStr::new("-o")];
        self.run(args.into_iter().chain([output.as_os_str(), db.as_os_str()]))?.success()
    }

    /// `replicate -once`: captures `db` and uploads it to `replica_url`.
    ///
    /// # Errors
    /// As [`run`](Self::run), and when the command fails.
    pub fn replicate_once(&self, db: &Path, replica_url: &str) -> Result<Output> {
        let args = [OsStr::new("replicate"), OsStr::new("-once"), db.as_os_str(), OsStr::new(replica_url)];
        self.run(args)?.success()
    }

    /// Starts it with `args`; output of both kinds goes to the end of `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn daemon<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>, log: &Path) -> Result<Daemon> {
        Daemon::start(self, args, log)
    }

    /// `replicate -config`, as a daemon.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn replicate(&self, config: &Path, log: &Path) -> Result<Daemon> {
        self.daemon([OsStr::new("replicate"), OsStr::new("-config"), config.as_os_str()], log)
    }

    /// Gives `command` this program's environment and no input.
    pub(crate) fn prepare(&self, command: &mut Command) {
        command.env_clear().envs(self.env.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
    }
}

/// What a finished run left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output; bytes that are no UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Itself when the exit status was 0.
    ///
    /// # Errors
    /// Names the command, its status and everything it printed.
    pub fn success(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!("{}: {}\n{}{}", self.command, self.status, self.stdout, self.stderr)
    }
}

/// Reads a pipe to its end on a thread, so that a full pipe cannot stop the child.
fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A broken pipe ends the text where it broke, which is all there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
