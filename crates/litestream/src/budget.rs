//! Keeping one database's local state, and its WAL, within what the operator allows.
//!
//! Normally it stays small by itself. It grows when files cannot be sent because
//! the store is away. Then what can best be spared goes first, in this order:
//!
//! 1. copies of compacted files: a cache, read from the store when missing;
//! 2. level-0 files that the replica has: the same;
//! 3. level-0 files that wait to be sent. History between the newest transaction
//!    in the replica and the moment of recovery cannot be restored then. Nothing
//!    is captured until the replica can be reached again; a whole image stored
//!    then is the next state. Meanwhile the WAL starts over as usual, because
//!    nothing holds it back.
//!
//! The rule that must never break: the third step is told (log, status, metrics)
//! and taken only for `max-local-bytes`, never by default.
//! Nothing in the database itself is ever touched.
//!
//! The WAL grows when nothing can be captured from it, because the disk of the local
//! state is full or refuses to be written. Beyond `max-wal-bytes` the pin is given up
//! and the WAL made to start over, again and again for as long as that lasts. The moments in
//! between cannot be restored then; the newest state is captured, by comparing all
//! pages, as soon as there is space. This is told as well.
//!
//! Spec: docs/operations.md, "Budgets".

use std::time::Duration;

use jiff::SignedDuration;
use litestream_replica::Inventory;
use ltx::Txid;

use crate::capture::{Capture, MIN_SPACE};
use crate::db::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::replica::with;

impl Database {
    /// Looks after the budgets behind a pass. `failure` says why it failed, if so.
    ///
    /// # Errors
    /// Local files cannot be listed or deleted; the next pass tries again.
    pub(crate) async fn keep_budget(&self, failure: Option<ErrorKind>) -> Result<()> {
        match failure {
            None => self.keep_local_budget().await,
            Some(ErrorKind::Missing | ErrorKind::Cancelled | ErrorKind::Busy) => Ok(()),
            Some(kind) => {
                if kind == ErrorKind::DiskFull && self.is_relief_due() {
                    self.drop_caches().await?;
                }
                Ok(())
            }
        }
    }

    async fn keep_local_budget(&self) -> Result<()> {
        let limit = self.options.max_local_bytes;
        // What waits is what grows; the rest is bounded by itself.
        if limit == 0 || !self.status().has_unsent() || self.local_bytes().await? <= limit {
            return Ok(());
        }
        self.drop_caches().await?;
        let left = self.local_bytes().await?;
        // Slow is not away: what is being sent is not thrown away.
        if left > limit && self.status().upload_error.is_some() {
            self.give_up_history("local files exceed max-local-bytes and cannot be sent", left).await?;
        }
        Ok(())
    }

    /// Steps one and two.
    async fn drop_caches(&self) -> Result<()> {
        // A job that runs may be writing such a copy; it is over soon, and the next
        // pass comes back.
        if let Ok(_heavy) = self.heavy.try_lock() {
            let staged = self.staged.clone();
            let removed = tokio::task::spawn_blocking(move || staged.trim(&Inventory::default(), 0)).await;
            let removed = removed.map_err(|err| Error::with_source(ErrorKind::Transient, "trim task", err))?;
            removed.map_err(|err| Error::io("delete local copies of compacted files", err))?;
        }
        let Some(uploaded) = self.status().replica_txid else { return Ok(()) };
        with(&self.capture, move |capture| {
            let files = capture.l0_txids()?;
            let newest = files.last().copied();
            // The newest stays: it proves at the next start where this history stands.
            let sent: Vec<Txid> = files.into_iter().filter(|txid| *txid <= uploaded && Some(*txid) != newest).collect();
            capture.remove_l0(&sent)
        })
        .await
    }

    /// Step three. Not while something is being sent: an image that takes longer than
    /// the budget lasts would never arrive.
    async fn give_up_history(&self, reason: &'static str, bytes: u64) -> Result<()> {
        let Ok(_uploader) = self.uploader.try_lock() else { return Ok(()) };
        let dropped = with(&self.capture, move |capture| {
            if capture.txid().is_none() {
                // Given up already, or there never was a base.
                return Ok(None);
            }
            let files = capture.l0_txids()?;
            capture.lose_base(reason, capture.floor());
            capture.remove_l0(&files)?;
            Ok(Some(files.len()))
        })
        .await?;
        let Some(files) = dropped else { return Ok(()) };
        tracing::warn!(
            system = "store",
            db = self.name(),
            path = %self.path().display(),
            reason,
            bytes,
            files,
            hint = "moments since the last upload cannot be restored; a whole image is stored as soon as the replica can be reached",
            "local history given up"
        );
        self.health.found(reason);
        self.counters.gave_up_history();
        self.update_status(|status, _| status.txid = None);
        self.lost_base();
        Ok(())
    }

    /// Sits out the pause after a failed pass and keeps the WAL within its budget
    /// meanwhile. Ends early when there is space again for what was given up.
    pub(crate) async fn outlast(&self, pause: Duration) {
        let until = tokio::time::Instant::now() + pause;
        let mut was_full = false;
        while tokio::time::Instant::now() < until {
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + WAL_LOOK)).await;
            match self.keep_wal_budget().await {
                // Only space that came back: where there was some all the time, writes are
                // refused for another reason, and would be again.
                Ok(Some(true)) if was_full => return,
                Ok(has_space) => was_full |= has_space == Some(false),
                Err(err) if err.kind() == ErrorKind::Busy => {}
                Err(err) => {
                    tracing::debug!(db = %self.path().display(), error = %err, "cannot copy the wal into the database")
                }
            }
        }
    }

    /// One look at the WAL while nothing can be captured. Once it was given up, says
    /// whether there is space to begin anew.
    pub(crate) async fn keep_wal_budget(&self) -> Result<Option<bool>> {
        let limit = self.options.max_wal_bytes;
        if limit == 0 {
            return Ok(None);
        }
        let is_closed = self.is_closed.clone();
        let look = move |capture: &mut Capture| {
            if is_closed.load(std::sync::atomic::Ordering::Acquire) {
                return Ok((None, None));
            }
            let len = capture.wal_in_use();
            let given_up = len > limit && capture.let_go_of_wal(limit)?;
            let space = capture.local_space().filter(|_| capture.has_given_up_wal());
            Ok((given_up.then_some(len), space.map(|space| space >= MIN_SPACE)))
        };
        let (given_up, has_space) = with(&self.capture, look).await?;
        if let Some(wal_bytes) = given_up {
            self.counters.gave_up_wal();
            tracing::warn!(
                system = "store",
                db = self.name(),
                path = %self.path().display(),
                wal_bytes,
                limit,
                hint = "moments since the last capture cannot be restored; all pages are compared as soon as local files can be written",
                "wal given up: it exceeds max-wal-bytes and cannot be captured"
            );
        }
        Ok(has_space)
    }

    /// Bytes of level-0 files and of copies of compacted files.
    async fn local_bytes(&self) -> Result<u64> {
        let staged = self.staged.clone();
        let bytes = with(&self.capture, move |capture: &mut Capture| {
            let copies = staged.len().map_err(|err| Error::io("list local copies of compacted files", err))?;
            Ok(capture.l0_len()? + copies)
        })
        .await?;
        self.counters.holds_locally(bytes);
        Ok(bytes)
    }

    /// True once in a while: a full disk fails many passes in a row.
    fn is_relief_due(&self) -> bool {
        let now = self.clock.now();
        let pause = SignedDuration::try_from(RELIEF_INTERVAL).unwrap_or_default();
        let mut last = self.relieved_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_due = last.is_none_or(|at| now.duration_since(at) >= pause);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// How often the WAL is looked at while nothing can be captured.
const WAL_LOOK: Duration = Duration::from_millis(100);
const RELIEF_INTERVAL: Duration = Duration::from_secs(30);
