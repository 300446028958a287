//! Many seeds, and what they came to.

use std::fmt;
use std::ops::{AddAssign, Range};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::driver::{Options, run};

/// What happened in one run or in many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs.
    pub seeds: u64,
    /// Virtual time that passed.
    pub simulated: Duration,
    /// Steps taken.
    pub steps: u64,
    /// Transactions the application committed.
    pub commits: u64,
    /// Actions of the application in the midst of a step.
    pub interleaved: u64,
    /// Requests and local operations that failed.
    pub faults: u64,
    /// Deaths of the process.
    pub kills: u64,
    /// Losses of power.
    pub power_losses: u64,
    /// Restores whose result was compared.
    pub restores: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.simulated += other.simulated;
        self.steps += other.steps;
        self.commits += other.commits;
        self.interleaved += other.interleaved;
        self.faults += other.faults;
        self.kills += other.kills;
        self.power_losses += other.power_losses;
        self.restores += other.restores;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds, {:.1} simulated hours, {} steps, {} transactions, {} of the application's actions in the midst of \
             a step, {} faults, {} deaths of the process, {} losses of power, {} restores compared",
            self.seeds,
            self.simulated.as_secs_f64() / 3600.0,
            self.steps,
            self.commits,
            self.interleaved,
            self.faults,
            self.kills,
            self.power_losses,
            self.restores
        )
    }
}

/// How one run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// A digest of all steps, results, transactions and states, in order.
    pub trace: u64,
    /// What happened.
    pub tally: Tally,
    /// What was found broken, if anything.
    pub violation: Option<String>,
}

/// Runs seeds on `threads` threads, and calls `done` with each as it ends, until a
/// `done` says to stop by returning false.
pub fn run_many(seeds: Range<u64>, options: &Options, threads: usize, done: impl Fn(&Outcome) -> bool + Sync) -> Tally {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed, options);
                    *total.lock().unwrap_or_else(PoisonError::into_inner) += outcome.tally;
                    if !done(&outcome) {
                        next.store(seeds.end, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}
