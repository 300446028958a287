//! Decisions from a seed.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

/// What one run's decisions come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance {
    seed: u64,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// A number for this question; the same each time it is asked.
    pub(crate) fn number(self, question: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        question.hash(&mut hasher);
        hasher.finish()
    }

    /// True for `per_mille` of a thousand questions.
    pub(crate) fn happens(self, question: impl Hash, per_mille: u32) -> bool {
        self.number(question) % 1000 < u64::from(per_mille)
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(self, question: impl Hash, end: u64) -> u64 {
        self.number(question) % end.max(1)
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(self, question: impl Hash, choices: &[T]) -> Option<T> {
        let index = usize::try_from(self.below(question, choices.len() as u64)).unwrap_or(0);
        choices.get(index).copied()
    }

    /// Draws that follow each other.
    pub(crate) fn stream(self, question: impl Hash) -> Draws {
        Draws { chance: Self { seed: self.number(question) }, count: 0 }
    }
}

/// A sequence of decisions.
#[derive(Clone, Debug)]
pub(crate) struct Draws {
    chance: Chance,
    count: u64,
}

impl Draws {
    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.count += 1;
        self.chance.number(self.count)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn happens(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }
}

/// A hash that does not depend on anything but the value.
pub(crate) fn digest(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
