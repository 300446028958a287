//! A deterministic simulation of Litestream.
//!
//! One number, the *seed*, decides everything that happens to one database: what its
//! application writes, who checkpoints, reads and vacuums meanwhile, which steps of
//! capture, upload, compaction, retention and restore are taken in which order, how
//! the store and the local disk fail, and where the process or the machine dies. SQLite
//! is the real one and so are the files; time, store and loss of power are simulated.
//!
//! - [`run`] – one seed, from its start to convergence
//! - `application` – who writes to the database, and every state it ever had
//! - `wal` – what a loss of power leaves of SQLite's own log
//! - `disk` – our local files: failures, kills, and what was not flushed
//! - `cloud` – the store: failures before and after the effect, late and twice
//! - `oracle` – what must be true of every transaction that can be restored
//! - `daemon` – one incarnation of the process under test
//! - `world` – what all of these share: the seed, the clock, who is alive
//! - `driver` – the order of steps
//!
//! Decisions are hashes of the seed and of what is being decided, not draws from one
//! generator, so that two threads of the code under test cannot change each other's
//! fate by the order in which they come.
//!
//! The rule that must never break: the same seed gives the same [`Outcome::trace`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod application;
mod chance;
mod cloud;
mod daemon;
mod disk;
mod driver;
mod oracle;
mod profile;
mod report;
mod time;
mod wal;
mod world;

pub use driver::{Options, run};
pub use report::{Outcome, Tally, run_many};
