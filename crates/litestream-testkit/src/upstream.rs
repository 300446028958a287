//! The released upstream binary, Litestream 0.5.17 in Go: the reference for
//! everything that must be interchangeable.

use crate::program::Program;
use crate::python;

/// The upstream binary, installed on first use.
///
/// # Panics
/// When it cannot be installed.
pub fn litestream() -> Program {
    Program::new(python::program(python::LITESTREAM, "litestream"))
}
