//! A store that lacks one thing: what a check, a lease and the counters make of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod lease;
mod metered;
mod reader;
mod store;
mod writer;
