//! Restores from stores in memory and on disk, healthy and damaged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
#![allow(clippy::cast_possible_truncation, reason = "test data is small")]
#![allow(clippy::print_stdout, reason = "seeds and measurements")]

mod cancel;
mod damage;
mod engine;
mod golden;
mod large;
mod moment;
mod output;
mod resume;
mod store;
mod world;
