//! Damages valid inputs and watches what a parser makes of them.
//!
//! A *fuzz body* is a function of bytes that hands them to one parser and asserts
//! what must hold whatever they are: no panic, what is accepted comes back the
//! same when it is written again, and memory within a bound that depends on the
//! length of the input alone ([`bounded`]). A [`Target`] is a body's corpus of
//! valid inputs and the words of its grammar; it damages them by [`Mutation`]s and
//! calls the body.
//!
//! Bodies stand beside the parsers they attack, private ones in unit tests, so that
//! nothing is public for their sake. `cargo test` runs some hundred cases of each;
//! `scripts/fuzz` runs them for as long as it is told.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod memory;
mod mutation;
mod target;

pub use memory::{Bound, bounded};
pub use mutation::Mutation;
pub use target::Target;
