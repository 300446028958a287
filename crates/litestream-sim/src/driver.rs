//! One run: which step comes next, what is checked after it, and how it ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use litestream::Step;

use crate::application::Application;
use crate::chance::{Chance, Draws, digest};
use crate::cloud::Cloud;
use crate::daemon::{Daemon, Went};
use crate::disk::SimDisk;
use crate::oracle::Oracle;
use crate::profile::Profile;
use crate::report::{Outcome, Tally};
use crate::time::SimClock;
use crate::world::World;

/// How long a run is, and how much it says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Steps before things calm down.
    pub steps: u64,
    /// Goes on until so much virtual time has passed, whatever the number of steps.
    pub at_least: Duration,
    /// Tells each step on standard error.
    pub is_verbose: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 60, at_least: Duration::ZERO, is_verbose: false }
    }
}

/// Runs one seed from an empty database to convergence.
pub fn run(seed: u64, options: &Options) -> Outcome {
    let mut outcome = Outcome { seed, trace: 0, tally: Tally { seeds: 1, ..Tally::default() }, violation: None };
    let result = directory().and_then(|dir| {
        let mut run = Run::new(seed, options, dir.path())?;
        let result = run.live(options).with_context(|| format!("step {}", run.tally.steps));
        run.bury();
        run.count();
        outcome.trace = run.trace;
        outcome.tally += run.tally;
        result
    });
    outcome.violation = result.err().map(|err| format!("{err:#}"));
    outcome
}

/// A directory in memory where there is one: nothing here depends on a real disk.
fn directory() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new().prefix("litestream-sim-").to_owned();
    if memory.is_dir()
        && let Ok(dir) = builder.tempdir_in(memory)
    {
        return Ok(dir);
    }
    builder.tempdir().context("make a directory")
}

struct Run {
    world: Arc<World>,
    disk: Arc<SimDisk>,
    cloud: Arc<Cloud>,
    oracle: Oracle,
    daemon: Option<Daemon>,
    draws: Draws,
    db: PathBuf,
    trace: u64,
    tally: Tally,
}

impl Run {
    fn new(seed: u64, options: &Options, dir: &Path) -> Result<Self> {
        let chance = Chance::new(seed);
        let profile = Profile::of(chance);
        let db = dir.join("app.db");
        // Files have the real time; it must be on one side of all virtual times.
        let start = if chance.happens("future", 500) { FAR_FUTURE } else { PAST };
        let clock = Arc::new(SimClock::new(start));
        let application = Application::create(&db, profile, options.is_verbose)?;
        let world = Arc::new(World::new(chance, profile, clock, application, options.is_verbose));
        world.tell(|| format!("seed {seed}: {profile:?}"));
        let disk = Arc::new(SimDisk::new(world.clone()));
        let cloud = Arc::new(Cloud::new(world.clone()));
        let oracle = Oracle::new(world.clone(), cloud.clone(), dir)?;
        let draws = chance.stream("driver");
        Ok(Self { world, disk, cloud, oracle, daemon: None, draws, db, trace: seed, tally: Tally::default() })
    }

    fn live(&mut self, options: &Options) -> Result<()> {
        let mut steps = 0;
        while steps < options.steps || self.elapsed() < options.at_least {
            steps += 1;
            self.pass_time();
            self.step()?;
        }
        self.converge()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.world.clock.elapsed_millis()).unwrap_or(0))
    }

    fn pass_time(&mut self) {
        let by = match self.draws.below(20) {
            0..5 => Duration::ZERO,
            5..18 => Duration::from_millis(self.draws.below(6000)),
            _ => Duration::from_millis(self.draws.below(240_000)),
        };
        self.advance(by);
    }

    fn advance(&self, by: Duration) {
        self.world.clock.advance(by);
        if let Some(daemon) = &self.daemon {
            daemon.advance(by);
        }
    }

    fn step(&mut self) -> Result<()> {
        let profile = self.world.profile;
        match self.draws.below(1000) {
            0..330 => return self.act(),
            330..360 if self.daemon.is_some() => return self.end(),
            360..363 => return self.lose_local_state(),
            363..370 => return self.replace_file(),
            _ => {}
        }
        if self.daemon.is_none() {
            self.begin()?;
        }
        let dies = self.draws.happens(profile.kill);
        self.world.arm(dies);
        match self.draws.below(100) {
            0..12 => self.take(Step::CaptureLater)?,
            12..24 => self.take(Step::CaptureSoon)?,
            24..32 => self.take(Step::CaptureNow)?,
            32..52 => self.take(Step::Upload)?,
            52..66 => self.sync()?,
            66..78 => self.take(Step::Levels)?,
            78..86 => self.take(Step::Snapshots)?,
            86..88 => self.snapshot()?,
            88..91 => self.take(Step::Park)?,
            _ => {
                self.world.arm(false);
                let (choice, is_faulty) = (self.draws.next(), self.draws.happens(400));
                self.note("restore", is_faulty);
                self.oracle.compare_some(choice, is_faulty)?;
            }
        }
        self.world.arm(false);
        self.check()
    }

    fn act(&mut self) -> Result<()> {
        let mut draws = self.world.chance.stream(("act", self.tally.steps));
        let what = self.world.application().act(&mut draws)?;
        self.note("application", what);
        self.check()
    }

    /// Ends the process as it should end.
    fn end(&mut self) -> Result<()> {
        if let Some(daemon) = &self.daemon {
            let went = daemon.close();
            self.settle_step("close", &went, None)?;
        }
        self.bury();
        if self.draws.happens(300) {
            // The application leaves too, and the last one takes the log away.
            self.world.application().close();
            self.world.application().open()?;
        }
        self.check()
    }

    fn begin(&mut self) -> Result<()> {
        self.note("begin", 0);
        self.oracle.process_began();
        self.daemon = Some(Daemon::start(&self.world, &self.disk, &self.cloud, &self.db)?);
        Ok(())
    }

    /// Takes the process away without a word of it.
    fn bury(&mut self) {
        self.world.kill();
        self.daemon = None;
        self.world.revive();
    }

    fn lose_local_state(&mut self) -> Result<()> {
        self.note("local state is deleted", 0);
        self.bury();
        let meta = litestream::meta_path(&self.db);
        if meta.exists() {
            std::fs::remove_dir_all(&meta)?;
        }
        self.disk.forget(&meta);
        self.check()
    }

    fn replace_file(&mut self) -> Result<()> {
        self.note("the database file is replaced", 0);
        let mut draws = self.world.chance.stream(("replace", self.tally.steps));
        self.world.application().replace_file(&mut draws)?;
        self.check()
    }

    fn take(&mut self, step: Step) -> Result<()> {
        let proof = (step == Step::CaptureNow).then(|| self.present());
        let Some(daemon) = &self.daemon else { return Ok(()) };
        let went = daemon.take(step);
        let proof = proof.filter(|_| matches!(went, Went::Well(_)));
        // What the daemon does until it tries again.
        let is_in_trouble = is_capture(step) && matches!(went, Went::Badly(..)) && self.world.profile.max_wal_bytes > 0;
        self.settle_step(name(step), &went, proof)?;
        if is_in_trouble { self.take(Step::WatchWal) } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        let present = self.present();
        let Some(daemon) = &self.daemon else { return Ok(()) };
        let went = daemon.sync();
        let is_well = matches!(went, Went::Well(_));
        self.settle_step("sync", &went, is_well.then_some(present))?;
        if is_well {
            self.oracle.inspect()?;
            self.oracle.compare_newest(Some(present))?;
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<()> {
        let Some(daemon) = &self.daemon else { return Ok(()) };
        let went = daemon.snapshot();
        self.settle_step("snapshot", &went, None)
    }

    /// The place of the present state in the application's history.
    fn present(&self) -> usize {
        self.world.application().state_count().saturating_sub(1)
    }

    /// Takes down how a step went, and carries out a death.
    fn settle_step<T: std::fmt::Debug>(&mut self, what: &str, went: &Went<T>, proof: Option<usize>) -> Result<()> {
        let profile = self.world.profile;
        let said = match went {
            Went::Well(value) => format!("{value:?}"),
            Went::Badly(kind, text) => {
                self.world.tell(|| format!("  {what} failed: {text}"));
                let is_accused = text.contains("second writer") || text.contains("another writer");
                ensure!(
                    !is_accused || profile.late > 0 || profile.stale > 0,
                    "{what} accuses another writer where there is none: {text}"
                );
                format!("{kind:?}")
            }
            Went::Dead => "dead".to_owned(),
        };
        if let (Some(daemon), false) = (&self.daemon, matches!(went, Went::Dead)) {
            self.oracle.says_captured(daemon.txid(), proof);
            self.oracle.says_stored(daemon.replica_txid());
            let told = (daemon.txid(), daemon.replica_txid());
            self.note(what, (said, told));
        } else {
            self.note(what, said);
            self.die()?;
        }
        Ok(())
    }

    /// The process has died, and perhaps the machine.
    fn die(&mut self) -> Result<()> {
        self.tally.kills += 1;
        self.bury();
        if self.draws.happens(self.world.profile.power) {
            self.lose_power()?;
        }
        Ok(())
    }

    fn lose_power(&mut self) -> Result<()> {
        self.tally.power_losses += 1;
        let mut draws = self.world.chance.stream(("power", self.tally.steps));
        self.disk.lose_power(&mut draws)?;
        self.world.application().lose_power(&mut draws)?;
        let present = self.present();
        self.note("power is lost", present);
        Ok(())
    }

    /// What must be true after each step.
    fn check(&mut self) -> Result<()> {
        if let Some(failure) = self.world.take_failure() {
            bail!("{failure}");
        }
        self.oracle.inspect()
    }

    /// Nothing goes wrong any more: everything must come right by itself.
    fn converge(&mut self) -> Result<()> {
        self.world.calm_down();
        self.cloud.settle();
        self.note("calm", 0);
        for attempt in 0.. {
            if attempt == 2 {
                // What needs a person may need a restart as well.
                self.bury();
            }
            if self.daemon.is_none() {
                self.begin()?;
            }
            self.advance(Duration::from_secs(400));
            let mut problem = None;
            for step in [Step::Levels, Step::Snapshots] {
                let Some(daemon) = &self.daemon else { break };
                let went = daemon.take(step);
                self.settle_step(name(step), &went, None)?;
            }
            self.check()?;
            if let Some(daemon) = &self.daemon {
                problem = match daemon.sync() {
                    Went::Well(_) => daemon.problem(),
                    Went::Badly(_, text) => Some(text),
                    Went::Dead => Some("dead".to_owned()),
                };
            }
            match problem {
                None if attempt >= 1 => break,
                Some(problem) if attempt >= MOST_ATTEMPTS => bail!("does not converge: {problem}"),
                _ => {}
            }
        }
        self.sync()?;
        self.world.arm(false);
        let present = self.present();
        self.oracle.compare_newest(Some(present))?;
        self.oracle.compare_all(RESTORES_AT_THE_END)?;
        self.check()?;
        self.note("end", present);
        Ok(())
    }

    /// Adds a step and its result to the trace.
    fn note(&mut self, what: &str, result: impl std::hash::Hash + std::fmt::Debug) {
        self.tally.steps += 1;
        self.world.tell(|| format!("{what}: {result:?}"));
        let (count, state) = {
            let application = self.world.application();
            (application.state_count(), application.state())
        };
        let events = self.world.take_events();
        self.trace = digest((self.trace, what, result, count, state, events, self.world.clock.elapsed_millis()));
    }

    fn count(&mut self) {
        self.tally.simulated = self.elapsed();
        self.tally.commits = self.world.application().commits;
        self.tally.interleaved = self.world.interleaved_count();
        self.tally.faults = self.world.fault_count();
        self.tally.restores = self.oracle.compared;
    }
}

fn is_capture(step: Step) -> bool {
    matches!(step, Step::CaptureLater | Step::CaptureSoon | Step::CaptureNow)
}

fn name(step: Step) -> &'static str {
    match step {
        Step::CaptureLater => "capture for later",
        Step::CaptureSoon => "capture",
        Step::CaptureNow => "capture now",
        Step::Upload => "upload",
        Step::Levels => "levels",
        Step::Snapshots => "snapshots",
        Step::Park => "park",
        Step::WatchWal => "watch wal",
    }
}

/// 2040-01-01T00:00:00Z
const FAR_FUTURE: i64 = 2_208_988_800_000;
/// 2020-01-01T00:00:00Z
const PAST: i64 = 1_577_836_800_000;
const MOST_ATTEMPTS: u32 = 5;
const RESTORES_AT_THE_END: usize = 8;
