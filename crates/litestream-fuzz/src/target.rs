//! A parser under attack.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use crate::Mutation;

/// Valid inputs of one parser, and how to damage them.
pub struct Target {
    name: &'static str,
    corpus: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    repair: fn(&mut Vec<u8>),
    cases: u32,
}

impl Target {
    /// A target with these valid inputs.
    ///
    /// # Panics
    /// When there are none.
    pub fn new(name: &'static str, corpus: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        let corpus: Vec<Vec<u8>> = corpus.into_iter().map(Into::into).collect();
        assert!(!corpus.is_empty(), "{name}: nothing to damage");
        Self { name, corpus, words: Vec::new(), repair: |_| {}, cases: CASES }
    }

    /// Words of the grammar, to insert and to overwrite with.
    #[must_use]
    pub fn words<'a>(mut self, words: impl IntoIterator<Item = &'a (impl AsRef<[u8]> + ?Sized + 'a)>) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_vec()));
        self
    }

    /// What makes a damaged input agree with its own checksums, so that code behind
    /// them is reached. Half of the inputs get it.
    #[must_use]
    pub fn repair(mut self, repair: fn(&mut Vec<u8>)) -> Self {
        self.repair = repair;
        self
    }

    /// How many damaged inputs to try, other than 256.
    #[must_use]
    pub fn cases(mut self, cases: u32) -> Self {
        self.cases = cases;
        self
    }

    /// Hands every valid input to `body`, then damaged ones. `LITESTREAM_FUZZ_SECONDS`
    /// says how long instead of how many, `LITESTREAM_FUZZ_SEED` which.
    ///
    /// # Panics
    /// When `body` does, with the smallest input found, the mutations that made it
    /// and the seed.
    pub fn run(self, body: impl Fn(&[u8])) {
        for input in &self.corpus {
            body(input);
        }
        let until = number("LITESTREAM_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut seed = number("LITESTREAM_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
        let mut tried = 0_u64;
        loop {
            self.round(seed, &body);
            tried += u64::from(self.cases);
            seed = seed.wrapping_add(1);
            match until {
                Some(until) if Instant::now() < until => {}
                Some(_) => return report(self.name, tried),
                None => return,
            }
        }
    }

    fn round(&self, seed: u64, body: &impl Fn(&[u8])) {
        let mut runner = TestRunner::new(Config {
            cases: self.cases,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(seed),
            max_shrink_iters: 2000,
            ..Config::default()
        });
        let plan = (any::<Index>(), proptest::collection::vec(Mutation::any(), 1..8), any::<bool>());
        let run = runner.run(&plan, |(which, mutations, repaired)| {
            let input = self.input(which, &mutations, repaired);
            // proptest shrinks what panics as well, but would forget the input.
            catch_unwind(AssertUnwindSafe(|| body(&input))).map_err(|panic| {
                let message = panic.downcast_ref::<String>().cloned();
                let message = message.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
                match message {
                    Some(message) => TestCaseError::fail(message),
                    None => resume_unwind(panic),
                }
            })
        });
        if let Err(TestError::Fail(reason, (which, mutations, repaired))) = run {
            let input = self.input(which, &mutations, repaired);
            let number = which.index(self.corpus.len());
            panic!(
                "{}: {reason}\nLITESTREAM_FUZZ_SEED={seed}\ninput {number} with {mutations:?}, repaired: {repaired}\n{}",
                self.name,
                shown(&input)
            );
        }
    }

    fn input(&self, which: Index, mutations: &[Mutation], repaired: bool) -> Vec<u8> {
        let mut input = self.corpus.get(which.index(self.corpus.len())).cloned().unwrap_or_default();
        for mutation in mutations {
            mutation.apply(&mut input, &self.words, &self.corpus);
        }
        if repaired {
            (self.repair)(&mut input);
        }
        input
    }
}

fn number(variable: &str) -> Option<u64> {
    #[allow(clippy::disallowed_methods, reason = "the test runner passes nothing else on")]
    std::env::var(variable).ok()?.parse().ok()
}

#[allow(clippy::print_stderr, reason = "for who waits for it")]
fn report(name: &str, tried: u64) {
    eprintln!("{name}: {tried} damaged inputs tried");
}

fn shown(input: &[u8]) -> String {
    let mut text = format!("{} bytes: ", input.len());
    for byte in input.iter().take(SHOWN) {
        match byte {
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a string cannot fail.
            byte => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    if input.len() > SHOWN {
        text.push('…');
    }
    text
}

const CASES: u32 = 256;
const SHOWN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_body_refuses_is_found_and_told_with_its_seed() {
        let target = Target::new("sample", ["the quick brown fox"]).cases(5000);
        let found = catch_unwind(AssertUnwindSafe(|| {
            target.run(|input| assert!(!input.ends_with(b"fo"), "ends too early"));
        }));
        let message = *found.unwrap_err().downcast::<String>().unwrap();
        assert!(message.starts_with("sample: ends too early\nLITESTREAM_FUZZ_SEED="), "{message}");
        assert!(message.contains("input 0 with ["), "{message}");
    }

    #[test]
    fn repaired_inputs_pass_the_check_that_others_fail() {
        let sum = |input: &[u8]| input.iter().skip(1).fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
        let counts = std::cell::Cell::new((0, 0));
        let target = Target::new("sample", [vec![6, 1, 2, 3]]).repair(|input| {
            let sum = input.iter().skip(1).fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
            if let Some(first) = input.first_mut() {
                *first = sum;
            }
        });
        target.run(|input| {
            let (sound, broken) = counts.get();
            let is_sound = input.first() == Some(&sum(input));
            counts.set(if is_sound { (sound + 1, broken) } else { (sound, broken + 1) });
        });
        let (sound, broken) = counts.get();
        assert!(sound > 100 && broken > 50, "{sound} sound, {broken} broken");
    }
}
