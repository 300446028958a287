//! A replicator under a random application and random mishaps, against the
//! oracle.
//!
//! The application works; now and then the replicator is killed, ended, restarted
//! or frozen, with the application going on meanwhile. After each mishap the
//! application pauses, the replica must catch up to exactly the source, and the
//! TXID is noted together with the image. At the end every noted TXID must still
//! restore to its image, by the program under test and by a second reader.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use rustix::process::Signal;

use crate::daemon::Daemon;
use crate::image::{self, Image};
use crate::program::Program;
use crate::workload::{Options, Running, Workload};

/// What to run, and for how long.
#[derive(Clone, Debug)]
pub struct Soak {
    /// Replicates, and restores.
    pub program: Program,
    /// Restores too; upstream's binary when ours is under test.
    pub judge: Program,
    /// Determines schema, settings and mishaps.
    pub seed: u64,
    /// How long the application works, checks not counted.
    pub duration: Duration,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Moments compared, each while the replicator ran and again at the end.
    pub moments: usize,
    /// Times the replicator was killed, ended or frozen.
    pub mishaps: usize,
    /// Operations of the application.
    pub operations: u64,
}

impl Soak {
    /// Runs it. Leaves the files of a failed run and names their directory.
    ///
    /// # Errors
    /// The first difference or failure, with the seed and the replicator's log.
    pub fn run(&self) -> Result<Summary> {
        let dir = tempfile::Builder::new().prefix("litestream-soak-").tempdir()?;
        let mut episode = Episode::new(self, dir.path())?;
        let result = episode.run();
        if result.is_err() {
            let log = fs::read_to_string(&episode.log).unwrap_or_default();
            let kept = dir.keep();
            let about = format!("soak with seed {}; files in {}; log:\n{log}", self.seed, kept.display());
            return result.context(about);
        }
        result
    }
}

/// A moment whose content is known.
struct Moment {
    txid: String,
    image: Image,
}

struct Episode<'a> {
    soak: &'a Soak,
    rng: Rng,
    workload: Workload,
    config: PathBuf,
    log: PathBuf,
    db: PathBuf,
    url: String,
    moments: Vec<Moment>,
    summary: Summary,
}

impl<'a> Episode<'a> {
    fn new(soak: &'a Soak, dir: &Path) -> Result<Self> {
        let mut rng = Rng::with_seed(soak.seed);
        let (db, replica, config) = (dir.join("app.db"), dir.join("replica"), dir.join("litestream.yml"));
        let options = Options { vacuum: rng.bool(), checkpoints: rng.u8(0..4) > 0, ..Options::default() };
        let workload = Workload::create(&db, soak.seed, options)?;
        fs::write(&config, random_config(&mut rng, &db, &replica))?;
        let url = format!("file://{}", replica.display());
        let (log, moments, summary) = (dir.join("log"), Vec::new(), Summary::default());
        Ok(Self { soak, rng, workload, config, log, db, url, moments, summary })
    }

    fn run(&mut self) -> Result<Summary> {
        let running = self.workload.start();
        let mut daemon = self.start_daemon()?;
        let mut worked = Duration::ZERO;
        while worked < self.soak.duration {
            let spell = Duration::from_millis(self.rng.u64(50..1_500));
            running.go_on(spell);
            worked += spell;
            daemon = self.mishap(&running, daemon)?;
            running.pause();
            ensure!(daemon.status()?.is_none(), "the replicator has ended by itself");
            let moment = self.catch_up()?;
            self.moments.push(moment);
            running.resume();
        }
        self.summary.operations = running.stop()?.operations;
        let last = self.catch_up()?;
        self.moments.push(last);
        let status = daemon.terminate(LIMIT)?;
        ensure!(status.success(), "the replicator ended with {status}");
        self.check_history()?;
        self.summary.moments = self.moments.len();
        Ok(self.summary.clone())
    }

    /// Perhaps does something to the replicator while the application goes on.
    fn mishap(&mut self, running: &Running, daemon: Daemon) -> Result<Daemon> {
        let away = Duration::from_millis(self.rng.u64(0..800));
        match self.rng.u32(0..8) {
            0 | 1 => daemon.kill9()?,
            2 => {
                let status = daemon.terminate(LIMIT)?;
                ensure!(status.success(), "the replicator ended with {status}");
            }
            3 => {
                daemon.signal(Signal::STOP)?;
                running.go_on(away);
                daemon.signal(Signal::CONT)?;
                self.summary.mishaps += 1;
                return Ok(daemon);
            }
            4 => {
                // Killed while it starts, several times over.
                daemon.kill9()?;
                for _ in 0..self.rng.usize(1..4) {
                    let daemon = self.start_daemon()?;
                    running.go_on(Duration::from_millis(self.rng.u64(0..150)));
                    daemon.kill9()?;
                }
            }
            _ => return Ok(daemon),
        }
        self.summary.mishaps += 1;
        running.go_on(away);
        self.start_daemon()
    }

    fn start_daemon(&self) -> Result<Daemon> {
        self.soak.program.replicate(&self.config, &self.log)
    }

    /// Waits until the replica restores to what the quiet source holds.
    fn catch_up(&self) -> Result<Moment> {
        let start = Instant::now();
        loop {
            let result = self.restore(&self.soak.program, None);
            // Taken afresh: upstream writes to the database by itself.
            let image = image::read_image(&self.db)?;
            match result {
                Ok((txid, restored)) if restored == image => {
                    let (_, judged) = self.restore(&self.soak.judge, Some(&txid)).context("second reader")?;
                    if let Some(difference) = image.difference(&judged) {
                        bail!("second reader, TXID {txid}: {difference}");
                    }
                    return Ok(Moment { txid, image });
                }
                Ok((txid, restored)) if start.elapsed() > LIMIT => {
                    let difference = image.difference(&restored).map(|difference| difference.to_string());
                    bail!("no equality after {LIMIT:?}, TXID {txid}: {}", difference.unwrap_or_default());
                }
                Err(error) if start.elapsed() > LIMIT => return Err(error.context("restore")),
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn check_history(&self) -> Result<()> {
        for moment in &self.moments {
            for (reader, name) in [(&self.soak.program, "program"), (&self.soak.judge, "second reader")] {
                let (_, restored) = self
                    .restore(reader, Some(&moment.txid))
                    .with_context(|| format!("{name}: TXID {} was restorable and is not any more", moment.txid))?;
                if let Some(difference) = moment.image.difference(&restored) {
                    bail!("{name}: TXID {} has changed: {difference}", moment.txid);
                }
            }
        }
        Ok(())
    }

    /// Restores into a file of its own; returns the TXID reached and the image.
    fn restore(&self, reader: &Program, txid: Option<&str>) -> Result<(String, Image)> {
        let output = self.db.with_file_name("restored.db");
        for suffix in ["", "-txid"] {
            // Not there unless an earlier attempt failed half way.
            let _ = fs::remove_file(image::sidecar(&output, suffix));
        }
        let mut args: Vec<OsString> = vec!["restore".into(), "-json".into(), "-o".into(), output.clone().into()];
        if let Some(txid) = txid {
            args.extend(["-txid".into(), txid.into()]);
        }
        args.push(self.url.clone().into());
        let report = reader.run(args)?.success()?;
        let summary: serde_json::Value =
            serde_json::from_str(&report.stdout).with_context(|| format!("restore printed {:?}", report.stdout))?;
        let txid = summary.get("txid").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        let image = Image::of_closed_file(&output)?;
        fs::remove_file(&output)?;
        Ok((txid, image))
    }
}

/// How long a replica may take to catch up with a quiet source.
const LIMIT: Duration = Duration::from_secs(30);

/// Settings that make everything happen within seconds.
fn random_config(rng: &mut Rng, db: &Path, replica: &Path) -> String {
    format!(
        "levels: [{{interval: {}s}}, {{interval: {}s}}]\nsnapshot: {{interval: {}s, retention: 24h}}\n\
         dbs:\n  - path: {}\n    monitor-interval: {}ms\n    checkpoint-interval: {}s\n    \
         min-checkpoint-page-count: {}\n    truncate-page-n: {}\n    \
         replica:\n      path: {}\n      sync-interval: {}ms\n",
        rng.u32(1..3),
        rng.u32(3..6),
        rng.u32(4..20),
        db.display(),
        rng.choice([10, 50, 200, 1_000]).unwrap_or(50),
        rng.u32(1..10),
        rng.choice([1, 10, 100, 1_000]).unwrap_or(100),
        rng.choice([100, 2_000, 121_359]).unwrap_or(2_000),
        replica.display(),
        rng.choice([10, 100, 1_000]).unwrap_or(100),
    )
}
