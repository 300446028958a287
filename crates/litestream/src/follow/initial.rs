//! The restore that begins following: a plain one, made ready for readers.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use litestream_replica::restore::{Progress, RestoreOptions, Restored, restore};
use litestream_replica::{Error, ErrorKind, ReplicaClient, Result};
use ltx::Txid;

use super::{page_one, sidecar};

/// Restores a copy that a [`Follower`](super::Follower) can keep up to date.
///
/// As [`restore`], except that the database says rollback journal instead of WAL
/// from the first moment it is visible, and that its position stands in
/// `<output>-txid` before that.
///
/// # Errors
/// As [`restore`].
///
/// Spec: store-and-restore §14.1, §14.4 point 4.
pub async fn restore_copy(
    client: Arc<dyn ReplicaClient>,
    mut options: RestoreOptions,
    progress: Arc<dyn Progress>,
) -> Result<Restored> {
    let output = options.output.clone();
    let aim = Arc::new(Aim { txid: Mutex::new(Txid::NONE), inner: progress });
    let (inner, position, beside) = (options.verify.take(), Arc::clone(&aim), output.clone());
    options.verify = Some(Box::new(move |path| {
        leave_wal_mode(path)?;
        if let Some(verify) = inner {
            verify(path)?;
        }
        let failed = |e| Error::with_source(ErrorKind::Setup, "save position", e);
        sidecar::prepare(&beside, position.get()).and_then(|()| sidecar::publish(&beside)).map_err(failed)
    }));
    let result = restore(client, options, aim).await;
    if result.is_err() && !output.exists() {
        // Written for a database that did not come to be.
        let _ = std::fs::remove_file(sidecar::txid_path(&output));
    }
    result
}

/// Knows where the plan in use ends.
struct Aim {
    txid: Mutex<Txid>,
    inner: Arc<dyn Progress>,
}

impl Aim {
    fn get(&self) -> Txid {
        *self.txid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Aim {
    fn aimed(&self, txid: Txid) {
        *self.txid.lock().unwrap_or_else(PoisonError::into_inner) = txid;
        self.inner.aimed(txid);
    }

    fn planned(&self, file_count: usize, total_bytes: u64) {
        self.inner.planned(file_count, total_bytes);
    }

    fn advanced(&self, bytes: u64) {
        self.inner.advanced(bytes);
    }

    fn finishing(&self) {
        self.inner.finishing();
    }
}

/// Nobody but the restore knows this file yet.
fn leave_wal_mode(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let failed = |e| Error::io(format!("write header of {}", path.display()), e);
    let file = std::fs::OpenOptions::new().write(true).open(path).map_err(failed)?;
    file.write_all_at(&page_one::ROLLBACK_VERSIONS, page_one::VERSIONS as u64).map_err(failed)
}
