//! How many files this process may have open: a thousand databases need more than
//! the 1024 that most systems grant unasked.

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

    /// Refuses more databases than can be open at once: later, some of them would be
    /// without a backup, and the one that is would depend on chance.
    ///
    /// # Errors
    /// Says how many files are needed and where the limit is set.
    pub(crate) fn suffice_for(self, databases: usize) -> Result<(), Failure> {
        let needed = databases as u64 * PER_DATABASE + RESERVE;
        match self.limit {
            Some(limit) if limit < needed => Err(Failure::new(format!(
                "{databases} databases need {needed} open files, the limit is {limit}: raise it (LimitNOFILE= in a unit file, ulimit -Hn in a shell)"
            ))),
            _ => Ok(()),
        }
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

/// Open files of an idle database: three descriptors of SQLite's and one it keeps in
/// reserve, our own of the database and its WAL, the page sums, the lock.
const PER_DATABASE: u64 = 8;
/// Those that are being worked on have a few more; then logs, sockets, uploads.
const RESERVE: u64 = 100;
