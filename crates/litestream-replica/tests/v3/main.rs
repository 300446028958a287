//! Restores of 0.3 backups: healthy ones against recorded images and upstream's
//! binary, damaged ones against what must be said.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may fail loudly")]
#![allow(clippy::cast_possible_truncation, reason = "test data is small")]

mod damage;
mod healthy;
mod world;
