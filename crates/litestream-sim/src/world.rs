//! What all parts of one run share: the seed, the clock, the application, and whether
//! the process under test is alive.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::application::Application;
use crate::chance::{Chance, digest};
use crate::profile::Profile;
use crate::time::SimClock;

/// See the module's description.
pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) profile: Profile,
    pub(crate) clock: std::sync::Arc<SimClock>,
    application: Mutex<Application>,
    /// The process is dead: nothing it does has an effect.
    is_dead: AtomicBool,
    death: tokio::sync::Notify,
    /// Things go wrong.
    is_faulty: AtomicBool,
    /// The process dies somewhere in the present step.
    is_armed: AtomicBool,
    /// Occasions so far, by name.
    occasions: Mutex<HashMap<String, u64>>,
    /// A sum over all events of the present step; their order does not count.
    events: AtomicU64,
    faults: AtomicU64,
    interleaved: AtomicU64,
    /// How often the application may still come in between in the present step.
    patience: AtomicU64,
    /// What the application met that it must never meet.
    failure: Mutex<Option<String>>,
    is_verbose: bool,
}

/// One occasion at which something may happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occasion {
    key: u64,
}

impl World {
    pub(crate) fn new(
        chance: Chance,
        profile: Profile,
        clock: std::sync::Arc<SimClock>,
        application: Application,
        is_verbose: bool,
    ) -> Self {
        Self {
            chance,
            profile,
            clock,
            application: Mutex::new(application),
            is_dead: AtomicBool::new(false),
            death: tokio::sync::Notify::new(),
            is_faulty: AtomicBool::new(true),
            is_armed: AtomicBool::new(false),
            occasions: Mutex::default(),
            events: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            interleaved: AtomicU64::new(0),
            patience: AtomicU64::new(0),
            failure: Mutex::default(),
            is_verbose,
        }
    }

    pub(crate) fn application(&self) -> MutexGuard<'_, Application> {
        self.application.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::SeqCst)
    }

    /// The process dies in the step that begins, or does not.
    pub(crate) fn arm(&self, is_armed: bool) {
        self.patience.store(MOST_INTERLEAVED, Ordering::SeqCst);
        self.is_armed.store(is_armed, Ordering::SeqCst);
    }

    /// A process begins.
    pub(crate) fn revive(&self) {
        self.is_dead.store(false, Ordering::SeqCst);
        self.arm(false);
    }

    /// The process ends as if it had never been asked.
    pub(crate) fn kill(&self) {
        self.is_dead.store(true, Ordering::SeqCst);
        self.death.notify_one();
    }

    /// Returns when the process is dead.
    pub(crate) async fn death(&self) {
        while !self.is_dead() {
            self.death.notified().await;
        }
    }

    /// From here on nothing goes wrong any more.
    pub(crate) fn calm_down(&self) {
        self.is_faulty.store(false, Ordering::SeqCst);
        self.arm(false);
    }

    /// The next occasion of this name.
    pub(crate) fn occasion(&self, name: &str) -> Occasion {
        let mut occasions = self.occasions.lock().unwrap_or_else(PoisonError::into_inner);
        let count = occasions.entry(name.to_owned()).or_default();
        *count += 1;
        Occasion { key: self.chance.number((name, *count)) }
    }

    /// Whether the process dies at this occasion; if so it is dead.
    pub(crate) fn dies(&self, at: Occasion, name: &str) -> bool {
        let dies = self.is_armed.load(Ordering::SeqCst) && self.chance.happens((at.key, "dies"), KILL_AT_STEP);
        if dies {
            self.kill();
            self.tell(|| format!("killed before {name}"));
        }
        dies
    }

    /// Whether this goes wrong here.
    pub(crate) fn fails(&self, at: Occasion, what: &str, per_mille: u32) -> bool {
        let fails = self.is_faulty.load(Ordering::SeqCst) && self.chance.happens((at.key, what), per_mille);
        if fails {
            self.faults.fetch_add(1, Ordering::SeqCst);
        }
        fails
    }

    /// A number for a question about this occasion.
    pub(crate) fn number(&self, at: Occasion, what: &str, end: u64) -> u64 {
        self.chance.below((at.key, what), end)
    }

    /// Lets the application do something at this occasion, perhaps.
    pub(crate) fn interleave(&self, at: Occasion, name: &str) {
        let chance = self.chance;
        let is_wanted = self.is_faulty.load(Ordering::SeqCst)
            && chance.happens((at.key, "interleaved"), self.profile.interleaved)
            && self.patience.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if !is_wanted {
            return;
        }
        self.interleaved.fetch_add(1, Ordering::SeqCst);
        let mut draws = chance.stream((at.key, "act"));
        let done = self.application().act(&mut draws);
        match done {
            Ok(what) => {
                self.event(("interleaved", name, what));
                self.tell(|| format!("    before {name} the application: {what}"));
            }
            Err(err) => self.failed(&format!("{err:#}")),
        }
    }

    /// The application met something that it must never meet.
    pub(crate) fn failed(&self, what: &str) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what.to_owned());
    }

    pub(crate) fn take_failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Something happened in the present step.
    pub(crate) fn event(&self, what: impl Hash) {
        self.events.fetch_add(digest(what), Ordering::SeqCst);
    }

    /// The sum of the events since the last call.
    pub(crate) fn take_events(&self) -> u64 {
        self.events.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn fault_count(&self) -> u64 {
        self.faults.load(Ordering::SeqCst)
    }

    pub(crate) fn interleaved_count(&self) -> u64 {
        self.interleaved.load(Ordering::SeqCst)
    }

    /// A line for whoever reads along.
    #[allow(clippy::print_stderr, reason = "asked for by the person at the terminal")]
    pub(crate) fn tell(&self, text: impl FnOnce() -> String) {
        if self.is_verbose {
            eprintln!("{:>9} ms  {}", self.clock.elapsed_millis(), text());
        }
    }
}

/// So often the application comes in between in one step at most: a step must end.
const MOST_INTERLEAVED: u64 = 5;
/// Per mille of the occasions of a step in which the process dies.
const KILL_AT_STEP: u32 = 150;
