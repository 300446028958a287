//! What to do about a replica that may not hold what we think: one decision, made
//! before the first upload, from one complete listing. No I/O.
//!
//! The rules that must never break: TXIDs never go back below anything the
//! replica holds at *any* level (upstream looks at level 0 alone, D16), and a
//! delta is only sent on top of the transaction it was made from.

use ltx::Txid;

/// What the replica holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remote {
    /// Newest TXID over all levels; `NONE` for an empty replica.
    pub(crate) newest: Txid,
    /// Newest TXID at level 0.
    pub(crate) newest_l0: Txid,
    /// An unbroken chain of files leads to `newest`.
    pub(crate) intact: bool,
}

/// What local state says.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// The captured position; `None` without a base.
    pub(crate) position: Option<Txid>,
    /// The newest number that is taken: the position's, or that of a history that was
    /// given up. An image under it may arrive in the replica yet.
    pub(crate) floor: Txid,
    /// TXIDs of the local level-0 files, ascending.
    pub(crate) files: Vec<Txid>,
    /// Whether the newest common file has the same checksum on both sides;
    /// `None` when it could not be compared.
    pub(crate) same: Option<bool>,
}

/// How to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Send the local files after this one.
    Upload {
        /// The newest transaction the replica already has.
        after: Txid,
    },
    /// Nothing is missing, but level 0 lacks the newest TXID, and no local file has
    /// it: write one behind it and send that.
    Anchor {
        /// The newest transaction the replica has.
        after: Txid,
    },
    /// Store a snapshot of the present position, then go on behind it.
    Snapshot,
    /// Store a whole image under a new TXID and go on from there.
    Rebase {
        /// TXID of the image.
        txid: Txid,
        /// As a delta that holds every page, right behind the chain that is there;
        /// otherwise as a level-9 snapshot that needs nothing before it.
        continues: bool,
    },
}

/// Decides, and says why where it is not the ordinary case.
pub(crate) fn decide(remote: Remote, local: &Local) -> (Decision, Option<&'static str>) {
    let txid = remote.newest.max(local.floor).next();
    let continues = remote.intact && !remote.newest.is_none() && txid == remote.newest.next();
    let next = Decision::Rebase { txid, continues };
    let Some(position) = local.position else {
        let reason = (!remote.newest.is_none()).then_some("no local state for a replica that already has data");
        return (next, reason);
    };
    let has = |txid| local.files.binary_search(&txid).is_ok();
    let has_all_after = |after: Txid| (after.get() + 1..=position.get()).all(|txid| has(Txid::new(txid)));
    if remote.newest.is_none() {
        // A chain that starts at TXID 1 is a base by itself.
        return if has_all_after(Txid::NONE) {
            (Decision::Upload { after: Txid::NONE }, None)
        } else {
            (Decision::Snapshot, Some("the replica is empty"))
        };
    }
    if position < remote.newest {
        return (next, Some("the replica is ahead of the local state"));
    }
    if local.same == Some(false) {
        return (next, Some("the replica holds another history than the local state"));
    }
    if !remote.intact {
        return (Decision::Snapshot, Some("the replica has a hole"));
    }
    if has_all_after(remote.newest) {
        // Upstream takes its position from level 0 alone (D16).
        if remote.newest_l0 < remote.newest && position == remote.newest {
            let mut after = remote.newest;
            while after > remote.newest_l0 && has(after) {
                after = after.previous();
            }
            let has_none = after == remote.newest;
            return (if has_none { Decision::Anchor { after } } else { Decision::Upload { after } }, None);
        }
        return (Decision::Upload { after: remote.newest }, None);
    }
    // The transactions in between exist nowhere any more; nobody has seen them.
    (next, Some("local files were lost before they were uploaded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(newest: u64, intact: bool, position: Option<u64>, files: &[u64], same: Option<bool>) -> Decision {
        decide_above(0, newest, intact, position, files, same)
    }

    fn decide_above(
        floor: u64,
        newest: u64,
        intact: bool,
        position: Option<u64>,
        files: &[u64],
        same: Option<bool>,
    ) -> Decision {
        let files = files.iter().copied().map(Txid::new).collect();
        let floor = Txid::new(position.unwrap_or(0).max(floor));
        let local = Local { position: position.map(Txid::new), floor, files, same };
        super::decide(Remote { newest: Txid::new(newest), newest_l0: Txid::new(newest), intact }, &local).0
    }

    const fn upload(after: u64) -> Decision {
        Decision::Upload { after: Txid::new(after) }
    }

    const fn rebase(txid: u64, continues: bool) -> Decision {
        Decision::Rebase { txid: Txid::new(txid), continues }
    }

    #[test]
    fn ordinary_restarts_send_the_difference() {
        assert_eq!(decide(5, true, Some(5), &[5], Some(true)), upload(5));
        assert_eq!(decide(5, true, Some(8), &[5, 6, 7, 8], Some(true)), upload(5));
        assert_eq!(decide(5, true, Some(5), &[], None), upload(5), "an image has no local file");
        assert_eq!(decide(0, false, Some(3), &[1, 2, 3], None), upload(0), "upstream's own layout");
    }

    #[test]
    fn an_empty_replica_gets_a_base() {
        assert_eq!(decide(0, false, None, &[], None), rebase(1, false));
        assert_eq!(decide(0, false, Some(10), &[7, 8, 9, 10], None), Decision::Snapshot, "D8: prefix emptied");
    }

    /// D16: level 0 emptied by a lifecycle rule, level 1 at 6, local state lost.
    #[test]
    fn numbering_starts_above_every_level() {
        assert_eq!(decide(6, true, None, &[], None), rebase(7, true));
        assert_eq!(decide(6, false, None, &[], None), rebase(7, false));
    }

    #[test]
    fn a_replica_that_is_ahead_or_different_is_continued_above_it() {
        assert_eq!(decide(9, true, Some(5), &[5], None), rebase(10, true));
        assert_eq!(decide(5, true, Some(5), &[5], Some(false)), rebase(6, true));
        assert_eq!(decide(5, true, Some(8), &[5, 6, 7, 8], Some(false)), rebase(9, false));
    }

    /// Seed 1637 of the simulation: a snapshot of a transaction that was given up arrives
    /// when its number stands for another one.
    #[test]
    fn numbers_of_a_history_that_was_given_up_stay_taken() {
        assert_eq!(decide_above(10, 3, true, None, &[], None), rebase(11, false));
        assert_eq!(decide_above(10, 0, false, None, &[], None), rebase(11, false));
        assert_eq!(decide_above(3, 3, true, None, &[], None), rebase(4, true));
        assert_eq!(decide_above(10, 12, true, None, &[], None), rebase(13, true));
    }

    /// D16: a lifecycle rule or a person emptied level 0 while the rest is there.
    #[test]
    fn level_0_always_carries_the_newest_txid() {
        let emptied = Remote { newest: Txid::new(6), newest_l0: Txid::NONE, intact: true };
        let local = |files: &[u64]| Local {
            position: Some(Txid::new(6)),
            floor: Txid::new(6),
            files: files.iter().copied().map(Txid::new).collect(),
            same: None,
        };
        assert_eq!(super::decide(emptied, &local(&[3, 5, 6])).0, upload(4), "what is there goes out again");
        assert_eq!(super::decide(emptied, &local(&[])).0, Decision::Anchor { after: Txid::new(6) });
    }

    #[test]
    fn lost_files_and_holes_never_leave_a_gap() {
        assert_eq!(decide(5, true, Some(8), &[7, 8], None), rebase(9, false));
        assert_eq!(decide(5, false, Some(8), &[6, 7, 8], Some(true)), Decision::Snapshot);
    }
}
