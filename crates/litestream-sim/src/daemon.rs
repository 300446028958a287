//! One incarnation of the process under test: a store with one database, on a runtime
//! of its own whose time is virtual. When it dies nothing of it is asked again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use litestream::{Database, DbOptions, Disk, ErrorKind, ReplicaOptions, Step, Store, StoreOptions};
use ltx::Txid;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::cloud::{Cloud, CloudClient};
use crate::disk::SimDisk;
use crate::time::SimClock;
use crate::world::World;

/// See the module's description.
pub(crate) struct Daemon {
    // In this order: whatever waits on the runtime is dropped before it.
    db: Arc<Database>,
    store: Store,
    runtime: Runtime,
    world: Arc<World>,
}

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Went<T> {
    /// It is done.
    Well(T),
    /// It failed, as it may.
    Badly(ErrorKind, String),
    /// The process died.
    Dead,
}

impl Daemon {
    pub(crate) fn start(world: &Arc<World>, disk: &Arc<SimDisk>, cloud: &Arc<Cloud>, db: &Path) -> Result<Self> {
        world.revive();
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build()?;
        let entered = runtime.enter();
        let profile = world.profile;
        let levels = [10, 60, 300].map(Duration::from_secs).to_vec();
        let options = StoreOptions {
            levels: litestream::levels::Levels::new(levels).context("levels")?,
            snapshot_interval: profile.snapshot_interval,
            snapshot_retention: profile.snapshot_retention,
            l0_retention: profile.l0_retention,
            shutdown_sync_timeout: Duration::ZERO,
            validation_interval: Some(Duration::from_secs(200)),
            ..StoreOptions::default()
        };
        let clock: Arc<SimClock> = world.clock.clone();
        let store = Store::new(options, clock);
        let db_options = DbOptions {
            min_checkpoint_page_count: profile.min_checkpoint_page_count,
            truncate_page_n: profile.truncate_page_n,
            max_sync_wal_bytes: profile.max_sync_wal_bytes,
            max_local_bytes: profile.max_local_bytes,
            max_wal_bytes: profile.max_wal_bytes,
            checkpoint_interval: Duration::from_secs(30),
            busy_timeout: Duration::from_millis(1),
            disk: Disk::behind(disk.clone()),
            ..DbOptions::new(db)
        };
        let replica = ReplicaOptions { max_sync_ltx_files: profile.max_sync_ltx_files, ..ReplicaOptions::default() };
        let db = store.add(db_options, Arc::new(CloudClient::mortal(cloud.clone())), replica)?;
        drop(entered);
        Ok(Self { db, store, runtime, world: world.clone() })
    }

    /// The newest captured transaction, as it says itself.
    pub(crate) fn txid(&self) -> Option<Txid> {
        self.db.status().txid
    }

    /// The newest transaction that the replica has, as it says itself.
    pub(crate) fn replica_txid(&self) -> Option<Txid> {
        self.db.status().replica_txid
    }

    /// What it says is wrong with the replica.
    pub(crate) fn problem(&self) -> Option<String> {
        self.db.status().problem.map(|problem| problem.text)
    }

    pub(crate) fn take(&self, step: Step) -> Went<bool> {
        self.until_death(self.db.take_step(step))
    }

    pub(crate) fn sync(&self) -> Went<Txid> {
        self.until_death(self.db.sync())
    }

    pub(crate) fn snapshot(&self) -> Went<Txid> {
        self.until_death(self.db.snapshot())
    }

    /// Ends as it does when it is asked to.
    pub(crate) fn close(&self) -> Went<()> {
        self.until_death(async {
            self.store.close(&CancellationToken::new()).await;
            Ok(())
        })
    }

    /// Lets its own monotonic time pass.
    pub(crate) fn advance(&self, by: Duration) {
        self.runtime.block_on(tokio::time::advance(by));
    }

    fn until_death<T>(&self, step: impl Future<Output = litestream::Result<T>>) -> Went<T> {
        let went = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.world.death() => Went::Dead,
                result = step => match result {
                    Ok(value) => Went::Well(value),
                    Err(err) => Went::Badly(err.kind(), err.to_string()),
                },
            }
        });
        if self.world.is_dead() { Went::Dead } else { went }
    }
}
