//! `demo LITESTREAM`: replicates a bank under load, kills writer and replicator
//! with SIGKILL, and proves what came back. Run by `scripts/demo`.
//!
//! Every claim it prints has just been checked; the first that does not hold ends
//! it with an error.

#![allow(clippy::print_stdout, reason = "a demonstration talks")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use litestream_testkit::bank::{self, Bank};
use litestream_testkit::daemon::Daemon;
use litestream_testkit::image::{self, Image};
use litestream_testkit::program::Program;
use litestream_testkit::spawn::spawn;

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match arguments.as_slice() {
        [word, db] if word == Path::new("writer") => write_for_ever(db),
        [litestream] => Demo::new(litestream)?.run(),
        _ => anyhow::bail!("usage: demo LITESTREAM"),
    }
}

struct Demo {
    litestream: Program,
    dir: tempfile::TempDir,
    db: PathBuf,
    replica: PathBuf,
    start: Instant,
}

impl Demo {
    fn new(litestream: &Path) -> Result<Self> {
        let path = fs::canonicalize(litestream).with_context(|| format!("find {}", litestream.display()))?;
        let dir = tempfile::Builder::new().prefix("litestream-demo-").tempdir()?;
        let (db, replica) = (dir.path().join("bank.db"), dir.path().join("replica"));
        Ok(Self { litestream: Program::new(path), dir, db, replica, start: Instant::now() })
    }

    fn run(&self) -> Result<()> {
        self.say("an application moves money between 500 accounts, one transaction after another");
        drop(Bank::open(&self.db, 1)?);
        let mut writer = BankWriter::start(&self.db)?;
        let mut daemon = self.replicate()?;
        self.say(&format!("litestream replicates {} to {}", self.db.display(), self.replica.display()));
        let proven = self.wait_for_restore(1, &mut daemon)?;
        thread::sleep(Duration::from_secs(4));
        let proven = self.restore("while-running")?.max(proven);
        self.say(&format!("a restore made just now, while both go on, holds {proven} transfers: they are uploaded"));

        writer.kill9()?;
        daemon.kill9()?;
        let acknowledged = writer.acknowledged();
        self.say(&format!("kill -9 of both, in the middle of a write; {acknowledged} transfers were acknowledged"));
        let restored = self.restore("after-crash")?;
        ensure!(restored >= proven, "{proven} transfers were uploaded, {restored} came back");
        self.say(&format!(
            "restored from the replica alone: {restored} transfers, no gap, balances add up, integrity ok \
             ({} were committed but not yet uploaded)",
            acknowledged.saturating_sub(restored)
        ));

        let mut daemon = self.replicate()?;
        self.say("litestream starts again and finds what it had not uploaded");
        let all = self.wait_for_restore(acknowledged, &mut daemon)?;
        self.say(&format!("now all {acknowledged} acknowledged transfers are in the replica (it holds {all})"));
        daemon.terminate(Duration::from_secs(30)).context("stop the replicator")?;
        self.prove_equality()?;
        self.say_farewell();
        Ok(())
    }

    fn replicate(&self) -> Result<Daemon> {
        let url = self.url();
        let args = [OsStr::new("replicate"), self.db.as_os_str(), OsStr::new(&url)];
        self.litestream.daemon(args, &self.dir.path().join("log"))
    }

    /// Restores until at least `transfers` are there.
    fn wait_for_restore(&self, transfers: u64, daemon: &mut Daemon) -> Result<u64> {
        let start = Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            if let Some(status) = daemon.status()? {
                anyhow::bail!("litestream has ended: {status}; its log:\n{}", daemon.log());
            }
            match self.restore(&format!("wait-{transfers}-{attempt}")) {
                Ok(restored) if restored >= transfers => return Ok(restored),
                result if start.elapsed() > Duration::from_secs(20) => {
                    let log = daemon.log();
                    let restored = result.with_context(|| format!("restore; litestream's log:\n{log}"))?;
                    anyhow::bail!("after 20 s the replica holds {restored} of {transfers} transfers:\n{log}");
                }
                _ => thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Restores into a new file, audits it and returns its number of transfers.
    fn restore(&self, name: &str) -> Result<u64> {
        let output = self.dir.path().join(name);
        self.litestream.restore(&self.url(), &output)?;
        let transfers = bank::audit(&output)?;
        fs::remove_file(&output)?;
        Ok(transfers)
    }

    fn prove_equality(&self) -> Result<()> {
        let (restored, source) = (self.dir.path().join("restored.db"), self.dir.path().join("source.db"));
        self.litestream.restore(&self.url(), &restored)?;
        image::checkpointed_copy(&self.db, &source)?;
        let (restored, source) = (Image::of_closed_file(&restored)?, Image::of_closed_file(&source)?);
        if let Some(difference) = source.difference(&restored) {
            anyhow::bail!("the restored database is not the source: {difference}");
        }
        self.say(&format!(
            "restored database = source, byte for byte: {} pages, sha256 {}",
            source.page_count(),
            source.sha256()
        ));
        Ok(())
    }

    fn url(&self) -> String {
        format!("file://{}", self.replica.display())
    }

    fn say(&self, text: &str) {
        println!("{:5.1} s  {text}", self.start.elapsed().as_secs_f64());
    }

    fn say_farewell(&self) {
        let litestream = self.litestream.path().display();
        println!(
            "\nThe same with your own database (it is switched to WAL mode if it is not in it), in two terminals:\n\n  \
             {litestream} replicate /path/to/app.db file:///path/to/backup\n  \
             {litestream} restore -o restored.db file:///path/to/backup\n\n\
             For a bucket: s3://bucket/app instead of file:///path/to/backup."
        );
    }
}

/// A child process that transfers money and prints each transfer's number once it
/// is committed: what it has printed is acknowledged.
struct BankWriter {
    child: Child,
    acknowledged: Arc<AtomicU64>,
    reader: Option<thread::JoinHandle<()>>,
}

impl BankWriter {
    fn start(db: &Path) -> Result<Self> {
        let mut child = spawn(&std::env::current_exe()?, |command| {
            command.arg("writer").arg(db).stdin(Stdio::null()).stdout(Stdio::piped());
        })?;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (newest, output) = (Arc::clone(&acknowledged), child.stdout.take().context("writer has no output")?);
        let reader = thread::spawn(move || {
            for number in BufReader::new(output).lines().map_while(Result::ok).filter_map(|line| line.parse().ok()) {
                newest.store(number, Ordering::Relaxed);
            }
        });
        Ok(Self { child, acknowledged, reader: Some(reader) })
    }

    fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        // The rest of its output has been read when the reader ends.
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| anyhow::anyhow!("the reader of the writer's output panicked"))?;
        }
        Ok(())
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

fn write_for_ever(db: &Path) -> Result<()> {
    let mut bank = Bank::open(db, 2)?;
    let mut out = std::io::stdout();
    loop {
        // A partial last line cannot happen: one write call per line.
        out.write_all(format!("{}\n", bank.transfer()?).as_bytes())?;
        out.flush()?;
        thread::sleep(Duration::from_micros(500));
    }
}
