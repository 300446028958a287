//! Breadth-first search over every state within bounds.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use crate::daemon::Violation;
use crate::world::{Bounds, Move, World};

/// How much was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Different states.
    pub states: usize,
    /// Moves tried.
    pub transitions: u64,
    /// Moves on the longest of the shortest ways to a state.
    pub depth: usize,
    /// Nothing was left to visit; otherwise the search ended at the given depth.
    pub is_complete: bool,
}

/// A property that does not hold, with the shortest way there.
pub struct Counterexample {
    /// What is broken.
    pub what: Violation,
    /// What happened, in order.
    pub moves: Vec<Move>,
}

impl fmt::Debug for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} after {} moves:", self.what, self.moves.len())?;
        self.moves.iter().try_for_each(|happens| writeln!(f, "  {happens:?}"))
    }
}

/// Visits every state up to `depth` moves away, and ends early at the first depth at
/// which more than `enough` states are known.
///
/// # Errors
/// The first property found broken.
pub fn explore(bounds: &Bounds, depth: usize, enough: usize) -> Result<Extent, Counterexample> {
    let first = World::new(bounds);
    let mut seen = HashSet::with_hasher(BuildHasherDefault::<Mixed>::default());
    seen.insert(first.fingerprint(bounds));
    // For each state the one it was reached from, and by which move.
    let mut origins: Vec<(u32, Option<Move>)> = vec![(0, None)];
    let mut level = vec![(first, 0_u32)];
    let mut extent = Extent { states: 1, transitions: 0, depth: 0, is_complete: false };
    let mut moves = Vec::new();
    while !level.is_empty() && extent.depth < depth && extent.states <= enough {
        let mut next = Vec::new();
        for (world, id) in &level {
            world.moves(bounds, &mut moves);
            for &happens in &moves {
                let mut then = world.clone();
                extent.transitions += 1;
                if let Err(what) = then.apply(happens, bounds) {
                    return Err(Counterexample { what, moves: way(&origins, *id, happens) });
                }
                if seen.insert(then.fingerprint(bounds)) {
                    if let Err(what) = then.check(bounds) {
                        return Err(Counterexample { what, moves: way(&origins, *id, happens) });
                    }
                    let new = u32::try_from(origins.len()).unwrap_or_else(|_| unreachable!("memory ends sooner"));
                    origins.push((*id, Some(happens)));
                    next.push((then, new));
                }
            }
        }
        level = next;
        extent.depth += usize::from(!level.is_empty());
        extent.states = origins.len();
    }
    extent.is_complete = level.is_empty();
    Ok(extent)
}

/// Lets `moves` happen from the beginning.
///
/// # Errors
/// The property they break.
pub fn replay(bounds: &Bounds, moves: &[Move]) -> Result<World, Violation> {
    let mut world = World::new(bounds);
    moves.iter().try_for_each(|&happens| {
        world.apply(happens, bounds)?;
        world.check(bounds)
    })?;
    Ok(world)
}

fn way(origins: &[(u32, Option<Move>)], mut id: u32, last: Move) -> Vec<Move> {
    let mut moves = vec![last];
    while let Some(&(before, Some(happens))) = origins.get(id as usize) {
        moves.push(happens);
        id = before;
    }
    moves.reverse();
    moves
}

/// Fingerprints are mixed already.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers of 128 bits");
    }

    #[allow(clippy::cast_possible_truncation, reason = "half of a fingerprint is as well mixed as the whole")]
    fn write_u128(&mut self, i: u128) {
        self.0 = i as u64;
    }
}
