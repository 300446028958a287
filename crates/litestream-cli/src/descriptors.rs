//! How many files this process may have open: a thousand databases need more than
//! the 1024 that most systems grant unasked.

use litestream::{DESCRIPTORS_OPEN, DESCRIPTORS_PARKED};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::failure::Failure;

/// The limit as it was when the process started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptors {
    original: Option<u64>,
    /// What may be open now; `None` without limit.
    limit: Option<u64>,
}

impl Descriptors {
    /// Raises the limit as far as the system lets us.
    pub(crate) fn raise() -> Self {
        let Rlimit { current: original, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        if let Err(error) = raised {
            tracing::debug!(%error, "cannot raise the limit of open files");
        }
        Self { original, limit: getrlimit(Resource::Nofile).current }
    }

    /// How many of them databases may have; `None` without limit.
    pub(crate) fn for_databases(self) -> Option<usize> {
        self.limit.map(|limit| usize::try_from(limit - reserve(limit)).unwrap_or(usize::MAX))
    }

    /// Refuses more databases than can be replicated even in turns: some of them would
    /// be without a backup, and the one that is would depend on chance. Says so when
    /// not all of them can be open at once.
    ///
    /// # Errors
    /// Says how many files are needed and where the limit is set.
    pub(crate) fn suffice_for(self, databases: usize) -> Result<(), Failure> {
        let Some(limit) = self.limit else { return Ok(()) };
        let count = databases as u64;
        let (parked, open) = (u64::from(DESCRIPTORS_PARKED), u64::from(DESCRIPTORS_OPEN));
        let needed = count * parked + open.min(count * open) + reserve(limit);
        if limit < needed {
            return Err(Failure::new(format!(
                "{databases} databases need {needed} open files, the limit is {limit}: raise it ({WHERE})"
            )));
        }
        let at_once = (limit - reserve(limit) - count * parked) / open;
        if at_once < count {
            tracing::info!(
                databases,
                at_once,
                limit,
                for_all = count * (parked + open) + MAX_RESERVE,
                hint = format!(
                    "idle databases are closed and opened again when they change; to keep all open, raise the limit ({WHERE})"
                ),
                "not all databases can be open at once"
            );
        }
        Ok(())
    }

    /// Gives a child the limit we were given: some programs misbehave with more.
    pub(crate) fn give_back(self, child: u32) {
        let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) else { return };
        let maximum = getrlimit(Resource::Nofile).maximum;
        if let Err(error) = prlimit(Some(pid), Resource::Nofile, Rlimit { current: self.original, maximum }) {
            tracing::debug!(%error, "cannot set the limit of open files of the child");
        }
    }
}

/// What is not the databases': logs, sockets, 64 uploads, eight merges of up to 128
/// files, files that are being written. With a small limit there is less of it.
fn reserve(limit: u64) -> u64 {
    (40 + limit / 4).min(MAX_RESERVE)
}

const MAX_RESERVE: u64 = 1280;
const WHERE: &str = "LimitNOFILE= in a unit file, ulimit -Hn in a shell";
