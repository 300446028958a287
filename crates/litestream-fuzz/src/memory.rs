//! What a parser may take for an input of so many bytes.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use allocation_counter::measure;

/// Bytes a parser may hold at once: `base + per_byte · length`.
///
/// The same, a few times over, bounds what it allocates from start to end, which
/// stands for its work: a loop that a number in the input drives shows there, and
/// a clock does not have to be asked.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Whatever the input: buffers, the error.
    pub base: u64,
    /// For each byte of input.
    pub per_byte: u64,
}

impl Bound {
    fn peak(self, input_len: usize) -> u64 {
        self.base + self.per_byte * input_len as u64
    }
}

/// Runs `work` on an input of `input_len` bytes.
///
/// Counts this thread alone.
///
/// # Panics
/// When `work` panics, and when it takes more memory than `bound` allows.
pub fn bounded<T>(input_len: usize, bound: Bound, work: impl FnOnce() -> T) -> T {
    let mut result = None;
    // A panic must not pass through `measure`, which would stay one level deeper.
    let used = measure(|| result = Some(catch_unwind(AssertUnwindSafe(work))));
    let result = match result {
        Some(Ok(result)) => result,
        Some(Err(panic)) => resume_unwind(panic),
        None => unreachable!("measure runs the closure"),
    };
    let peak = bound.peak(input_len);
    assert!(used.bytes_max <= peak, "{} bytes at once for an input of {input_len}, allowed are {peak}", used.bytes_max);
    let total = peak * TURNOVER;
    assert!(
        used.bytes_total <= total,
        "{} bytes in all for an input of {input_len}, allowed are {total}",
        used.bytes_total
    );
    result
}

/// Memory taken from start to end, in units of what may be held at once.
const TURNOVER: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound = Bound { base: 1000, per_byte: 2 };

    #[test]
    fn what_stays_within_its_bound_passes() {
        assert_eq!(bounded(500, BOUND, || vec![1_u8; 2000].len()), 2000);
    }

    #[test]
    #[should_panic(expected = "2001 bytes at once for an input of 500, allowed are 2000")]
    fn too_much_at_once_is_noticed() {
        bounded(500, BOUND, || drop(std::hint::black_box(vec![1_u8; 2001])));
    }

    #[test]
    fn panics_pass_through_as_often_as_they_like() {
        for _ in 0..200 {
            catch_unwind(|| bounded(0, BOUND, || panic!("as a parser would"))).unwrap_err();
        }
    }

    #[test]
    #[should_panic(expected = "bytes in all for an input of 0, allowed are 16000")]
    fn too_much_work_is_noticed() {
        bounded(0, BOUND, || (0..200).for_each(|_| drop(std::hint::black_box(vec![1_u8; 100]))));
    }
}
