//! A server of one process on one port of this machine.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::s3_server::{free_ports, run_dir, sweep};
use crate::spawn::spawn;

/// A running server. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Where it listens.
    pub(crate) port: u16,
    dir: PathBuf,
}

impl Running {
    /// The server in `slot`, started by the first caller. `arguments` gets a
    /// directory for its data and the port to listen on.
    ///
    /// # Errors
    /// When it does not listen within a minute, after three attempts.
    pub(crate) fn shared(
        slot: &'static OnceLock<Self>,
        starting: &'static Mutex<()>,
        program: &Path,
        arguments: impl Fn(&Path, u16) -> Vec<OsString>,
    ) -> Result<&'static Self> {
        let _starting = starting.lock().map_err(|_| anyhow!("a thread panicked while it started a server"))?;
        if let Some(server) = slot.get() {
            return Ok(server);
        }
        let server = Self::start_one(program, arguments)?;
        Ok(slot.get_or_init(|| server))
    }

    /// A server for one caller alone.
    ///
    /// # Errors
    /// As [`shared`](Self::shared).
    pub(crate) fn start_one(program: &Path, arguments: impl Fn(&Path, u16) -> Vec<OsString>) -> Result<Self> {
        let mut attempts_left = 3;
        loop {
            attempts_left -= 1;
            // A port that was free may be taken before the server binds it.
            match Self::start(program, &arguments) {
                Err(_) if attempts_left > 0 => {}
                result => return result,
            }
        }
    }

    fn start(program: &Path, arguments: &impl Fn(&Path, u16) -> Vec<OsString>) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = run_dir(Name(&name))?;
        let [port] = free_ports()?;
        let log = File::create(dir.join("log"))?;
        let errors = log.try_clone()?;
        let child = spawn(program, |command| {
            command.args(arguments(&dir, port)).env_clear().env("HOME", &dir);
            command.stdin(Stdio::null()).stdout(log).stderr(errors);
            if let Some(path) = std::env::var_os("PATH") {
                command.env("PATH", path);
            }
        })?;
        let mut server = Self { child, port, dir };
        server.wait_until_it_listens().with_context(|| format!("{name}, log {}", server.log()))?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
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

    fn log(&self) -> String {
        let text = std::fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(text.get(text.len().saturating_sub(4000)..).unwrap_or_default()).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        sweep(&self.dir);
    }
}

/// A text that shows itself without quotes.
struct Name<'a>(&'a str);

impl std::fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}
