//! What kind of world a seed gets: how the database looks, what is configured, and how
//! often what goes wrong.

use std::time::Duration;

use crate::chance::Chance;

/// Rates are per mille of the occasions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    pub(crate) page_size: u32,
    /// `PRAGMA synchronous`: with NORMAL, commits since the last checkpoint may be lost
    /// with the power.
    pub(crate) is_synchronous_full: bool,
    pub(crate) autocheckpoint: u32,
    pub(crate) min_checkpoint_page_count: u32,
    pub(crate) truncate_page_n: i64,
    pub(crate) max_sync_wal_bytes: u64,
    pub(crate) max_sync_ltx_files: u32,
    pub(crate) max_local_bytes: u64,
    pub(crate) max_wal_bytes: u64,
    pub(crate) snapshot_interval: Duration,
    pub(crate) snapshot_retention: Duration,
    pub(crate) l0_retention: Duration,
    /// A request fails before it has an effect.
    pub(crate) refused: u32,
    /// A request has its effect, and the answer is lost.
    pub(crate) unanswered: u32,
    /// A write has its effect only later, or a second time.
    pub(crate) late: u32,
    /// A body breaks off.
    pub(crate) cut: u32,
    /// A listing lacks what is new, or still has what is gone.
    pub(crate) stale: u32,
    /// A local operation fails.
    pub(crate) disk: u32,
    /// The application does something between two steps of ours.
    pub(crate) interleaved: u32,
    /// A step is one in which the process dies.
    pub(crate) kill: u32,
    /// A death that is the machine's.
    pub(crate) power: u32,
}

impl Profile {
    pub(crate) fn of(chance: Chance) -> Self {
        let rate = |what: &str, choices: &[u32]| chance.pick(("profile", what), choices).unwrap_or(0);
        let seconds =
            |what: &str, choices: &[u64]| Duration::from_secs(chance.pick(("profile", what), choices).unwrap_or(60));
        Self {
            page_size: rate("page size", &[512, 512, 1024, 4096]),
            is_synchronous_full: rate("synchronous", &[0, 0, 1]) == 1,
            autocheckpoint: rate("autocheckpoint", &[0, 5, 20, 1000]),
            min_checkpoint_page_count: rate("min checkpoint", &[1, 5, 10, 1000]),
            truncate_page_n: i64::from(rate("truncate", &[12, 25, 0])),
            max_sync_wal_bytes: u64::from(rate("max sync", &[0, 0, 4096, 20_000])),
            max_sync_ltx_files: rate("max files", &[0, 1, 3, 256]),
            max_local_bytes: u64::from(rate("max local", &[0, 0, 3000, 20_000])),
            max_wal_bytes: u64::from(rate("max wal", &[0, 0, 3000, 30_000])),
            snapshot_interval: seconds("snapshot interval", &[120, 300, 900]),
            snapshot_retention: seconds("snapshot retention", &[300, 900]),
            l0_retention: seconds("l0 retention", &[0, 10, 30, 120]),
            refused: rate("refused", &[0, 0, 30, 150]),
            unanswered: rate("unanswered", &[0, 0, 30, 150]),
            late: rate("late", &[0, 0, 30, 100]),
            cut: rate("cut", &[0, 0, 50]),
            stale: rate("stale", &[0, 0, 0, 100]),
            disk: rate("disk", &[0, 0, 5, 30]),
            interleaved: rate("interleaved", &[0, 50, 200, 500]),
            kill: rate("kill", &[0, 40, 100, 200]),
            power: rate("power", &[0, 300, 700]),
        }
    }
}
