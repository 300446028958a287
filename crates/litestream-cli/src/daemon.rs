//! The life of `replicate`: start, wait, stop.
//!
//! ```text
//! restore what is missing → find databases → build clients → start the store → child, one-shot run or wait
//!      → first signal or end of the child → final sync → exit code
//! ```
//!
//! Whatever ends the wait, the databases are closed with a final sync before
//! the process exits, and an exit code of 0 means that nothing known to be
//! written is missing from a replica.
//!
//! Spec: docs/commands.md, "replicate".

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litestream::levels::Levels;
use litestream::{CloseReport, DbOptions, ReplicaOptions, Store, StoreOptions};
use litestream_replica::clock::SystemClock;
use litestream_replica::restore::{NoProgress, RestoreOptions};
use litestream_replica::v3::restore_any_format;
use litestream_replica::{ErrorKind, ReplicaClient};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DbConfig, Surroundings, defaults};
use crate::control;
use crate::control::routes::Control;
use crate::control::server::Server;
use crate::control::socket::ControlSocket;
use crate::descriptors::Descriptors;
use crate::directory;
use crate::exec::{ChildEnd, ExecChild};
use crate::failure::{Failure, fail};
use crate::onlookers::Onlookers;
use crate::signals::{Signal, Signals};
use crate::units::GoDuration;

/// Repetitions of a stop signal within this time are the same request:
/// `timeout(1)` and terminals signal a process and its group at once.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Everything `replicate` runs with.
pub(crate) struct Daemon<'a> {
    pub(crate) config: Config,
    pub(crate) surroundings: &'a Surroundings<'a>,
    /// Sync once and exit, instead of running on.
    pub(crate) once: Option<Once>,
    /// The limit of open files.
    pub(crate) descriptors: Descriptors,
    /// Variables a child gets on top of the inherited ones.
    pub(crate) child_environment: Vec<(&'static str, String)>,
}

/// What a one-shot run does besides syncing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Once {
    pub(crate) force_snapshot: bool,
    pub(crate) enforce_retention: bool,
}

/// Why the wait ended, and what that means for the exit code.
enum End {
    /// The one-shot run is through, or failed.
    Once(anyhow::Result<()>),
    /// Asked to stop.
    Signal,
    /// The child ended, by itself or after a forwarded signal.
    Child { end: ChildEnd, signalled: bool },
    /// There never was a child.
    NoChild(Failure),
}

impl Daemon<'_> {
    /// Runs until the work is done or somebody asks to stop.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        // Before anything else: a signal during start-up must be heard.
        let mut signals = Signals::listen()?;
        let mut onlookers = Onlookers::prepare(&self.config, self.surroundings)?;
        if self.config.dbs.is_empty() {
            tracing::error!("no databases specified in configuration");
        }
        // A second daemon must be refused before it touches anything.
        let socket = control::bind(&self.config.socket).await?;
        let databases = tokio::select! {
            databases = self.start_up() => databases?,
            signal = signals.next() => {
                let message = format!("stopped during start-up by signal: {signal}");
                return Err(Failure::new(message).code(signal.exit_code()).into());
            }
        };
        self.descriptors.suffice_for(databases.len())?;
        let max_descriptors = self.descriptors.for_databases();
        let options = StoreOptions { max_descriptors, ..store_options(&self.config)? };
        let store = Arc::new(Store::new(options, Arc::new(SystemClock)));
        // Consumed: a thousand entries are not worth keeping.
        for (db, client) in databases {
            store.add(db.options()?, Arc::clone(&client), db.replica_options()?)?;
            self.log_added(&db, &*client)?;
        }
        onlookers.begin(&store, &self.config, self.surroundings, self.once.is_some());
        let server = self.serve(socket, &store);

        let end = match self.once {
            Some(once) => tokio::select! {
                result = run_once(&store, once) => End::Once(result.map_err(Into::into)),
                signal = signals.next() => self.signalled(signal),
            },
            None => {
                store.start();
                tokio::select! {
                    end = self.wait(&mut signals) => end,
                    never = directory::watch_all(&self, &store) => match never {},
                }
            }
        };
        if let End::Once(Ok(())) = end {
            tracing::info!("one-shot replication complete");
            tracing::info!("replication complete, litestream shutting down");
        }
        onlookers.stopping(self.config.shutdown_sync_timeout.to_duration());
        if let Some(server) = server {
            server.close().await;
        }
        let report = close(&store, &mut signals).await;
        tracing::info!("litestream shut down");
        exit(end, &report)
    }

    /// What must be done before replication: bring back missing databases, find
    /// those of directories, and make a client for each.
    async fn start_up(&self) -> anyhow::Result<Vec<(DbConfig, Arc<dyn ReplicaClient>)>> {
        for db in self.config.dbs.iter().filter(|db| db.restore_if_db_not_exists) {
            self.restore_if_missing(db).await?;
        }
        let mut databases = Vec::new();
        for db in &self.config.dbs {
            if db.dir.is_none() {
                databases.push(db.clone());
                continue;
            }
            let found = db.find_databases().map_err(Failure::new)?;
            tracing::info!(
                dir = %found.dir.display(),
                count = found.databases.len(),
                watch = db.watch,
                "found databases in directory"
            );
            databases.extend(found.databases);
        }
        let mut clients = Vec::with_capacity(databases.len());
        for db in databases {
            let client = db.writing_client(self.surroundings)?;
            clients.push((db, client));
        }
        refuse_sharing(&clients)?;
        Ok(clients)
    }

    /// Spec: docs/configuration.md, "Database" (`restore-if-db-not-exists`).
    async fn restore_if_missing(&self, db: &DbConfig) -> anyhow::Result<()> {
        let Some(path) = &db.path else { return Ok(()) };
        if path.exists() {
            tracing::info!(path = %path.display(), "database exists, skipping restore");
            return Ok(());
        }
        tracing::info!(path = %path.display(), "attempting restore before replication");
        let client = db.client(self.surroundings)?;
        match restore_any_format(client, RestoreOptions::new(path), Arc::new(NoProgress)).await {
            Ok(restored) => tracing::info!(path = %path.display(), txid = %restored.txid, "restore completed"),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tracing::info!(path = %path.display(), "no backup found, starting fresh");
            }
            Err(error) => return fail(format!("restore failed: {error}")),
        }
        Ok(())
    }

    /// Adds a database while others are replicated.
    ///
    /// # Errors
    /// Settings that cannot work, or a store that is shutting down.
    pub(crate) async fn register(&self, store: &Store, db: &DbConfig) -> anyhow::Result<()> {
        let client = db.client(self.surroundings)?;
        store.register(db.options()?, Arc::clone(&client), db.replica_options()?).await?;
        self.log_added(db, &*client)
    }

    fn log_added(&self, db: &DbConfig, client: &dyn ReplicaClient) -> anyhow::Result<()> {
        let Some(path) = &db.path else { return Ok(()) };
        let sync_interval = db.replica_options()?.sync_interval;
        tracing::info!(path = %path.display(), "initialized db");
        let facts = client.log_fields();
        let fact = |name: &str| facts.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        tracing::info!(
            r#type = client.kind(),
            "sync-interval" = ?sync_interval,
            host = fact("host"),
            user = fact("user"),
            bucket = fact("bucket"),
            path = fact("path"),
            region = fact("region"),
            endpoint = fact("endpoint"),
            url = fact("url"),
            "replicating to"
        );
        if self.once.is_none() && !path.exists() {
            tracing::warn!(path = %path.display(), "database file not found, waiting for it");
        }
        Ok(())
    }

    /// Serves the control socket, if there is one.
    fn serve(&self, socket: Option<ControlSocket>, store: &Arc<Store>) -> Option<Server> {
        let control = Control::new(store.clone(), self.config.clone(), self.surroundings);
        Server::start(socket?, control)
            .inspect_err(|error| tracing::warn!(%error, "failed to start control server"))
            .ok()
    }

    /// Waits for the child or a signal.
    async fn wait(&self, signals: &mut Signals) -> End {
        if self.config.exec.is_empty() {
            return self.signalled(signals.next().await);
        }
        let mut child = match ExecChild::start(&self.config.exec, &self.child_environment) {
            Ok(child) => child,
            Err(failure) => return End::NoChild(failure),
        };
        if let Some(id) = child.id() {
            self.descriptors.give_back(id);
        }
        let mut forwarded: Option<Instant> = None;
        loop {
            tokio::select! {
                end = child.wait() => return match end {
                    Ok(end) => {
                        if forwarded.is_none() {
                            tracing::info!("subprocess exited, litestream shutting down");
                        }
                        End::Child { end, signalled: forwarded.is_some() }
                    }
                    Err(error) => End::NoChild(Failure::new(format!("cannot wait for exec process: {error}"))),
                },
                signal = signals.next() => {
                    if forwarded.is_some_and(|at| at.elapsed() < SAME_REQUEST) {
                        continue;
                    }
                    self.signalled(signal);
                    tracing::info!("sending signal to exec process");
                    child.send(signal);
                    tracing::info!("waiting for exec process to close");
                    forwarded = Some(Instant::now());
                }
            }
        }
    }

    fn signalled(&self, signal: Signal) -> End {
        tracing::info!(%signal, "signal received, litestream shutting down");
        End::Signal
    }
}

/// What applies to all databases alike.
///
/// # Errors
/// Levels that cannot be; loading has refused those before.
pub(crate) fn store_options(config: &Config) -> anyhow::Result<StoreOptions> {
    Ok(StoreOptions {
        levels: Levels::new(config.levels.iter().map(|interval| interval.to_duration()).collect())?,
        snapshot_interval: config.snapshot.interval.to_duration(),
        snapshot_retention: config.snapshot.retention.to_duration(),
        l0_retention: config.l0_retention.to_duration(),
        l0_retention_check_interval: config.l0_retention_check_interval.to_duration(),
        retention_enabled: config.retention_enabled,
        validation_interval: config
            .validation_interval
            .filter(|interval| interval.is_positive())
            .map(GoDuration::to_duration),
        verify_compaction: config.verify_compaction,
        shutdown_sync_timeout: config.shutdown_sync_timeout.to_duration(),
        shutdown_sync_interval: config.shutdown_sync_interval.to_duration(),
        max_descriptors: None,
    })
}

async fn run_once(store: &Store, once: Once) -> litestream::Result<()> {
    store.once(once.force_snapshot).await?;
    if once.enforce_retention {
        store.enforce_retention().await?;
    }
    Ok(())
}

/// Refuses what would make two databases destroy each other's backups: one file
/// listed twice under different names, one state directory, one replica.
pub(crate) fn refuse_sharing(databases: &[(DbConfig, Arc<dyn ReplicaClient>)]) -> anyhow::Result<()> {
    let mut owners: HashMap<String, String> = HashMap::new();
    for (db, client) in databases {
        let Some(path) = &db.path else { continue };
        // A database that does not exist yet has only its name.
        let file = path.canonicalize().unwrap_or_else(|_| path.clone());
        let state = db.meta_path.clone().unwrap_or_else(|| litestream::meta_path(path));
        let replica = format!("{} replica {} {:?}", client.kind(), client.location(), client.log_fields());
        let shared = [
            (format!("file {}", file.display()), format!("one file, {}", file.display())),
            (format!("state {}", state.display()), format!("one meta-path, {}", state.display())),
            (replica, format!("one replica, {}", client.location())),
        ];
        for (key, what) in shared {
            if let Some(other) = owners.insert(key, db.place()) {
                return Err(Failure::new(format!("{other} and {} share {what}", db.place()))
                    .hint("Each database needs a file, a meta-path and a replica of its own.")
                    .into());
            }
        }
    }
    Ok(())
}

/// Closes every database with a final sync. A further signal, once the first
/// attempt has had its second, gives up waiting for replicas.
async fn close(store: &Store, signals: &mut Signals) -> CloseReport {
    let interrupt = CancellationToken::new();
    let started = Instant::now();
    let closing = store.close(&interrupt);
    tokio::pin!(closing);
    loop {
        tokio::select! {
            report = &mut closing => return report,
            _ = signals.next() => {
                if started.elapsed() >= SAME_REQUEST {
                    interrupt.cancel();
                }
            }
        }
    }
}

/// The exit code, and on standard error what stands against a clean one.
fn exit(end: End, report: &CloseReport) -> anyhow::Result<ExitCode> {
    for (path, why) in &report.unsent {
        tracing::error!(db = %path.display(), error = why, "database closed with changes that are not replicated");
    }
    match end {
        End::Once(result) => result?,
        End::Child { end, signalled: false } if !end.success() => {
            return Err(Failure::new(end.to_string()).code(end.exit_code()).into());
        }
        End::Child { end, signalled: true } if !end.success() && !end.by_signal() => {
            let message = format!("cannot wait for exec process: {end}");
            return Err(Failure::new(message).code(end.exit_code()).into());
        }
        End::NoChild(failure) => return Err(failure.into()),
        End::Signal | End::Child { .. } => {}
    }
    match report.unsent.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        [(path, why)] => fail(format!("{}: not replicated: {why}", path.display())),
        [(path, why), rest @ ..] => {
            fail(format!("{}: not replicated: {why} (and {} more databases)", path.display(), rest.len()))
        }
    }
}

impl DbConfig {
    /// The library's options of the replica; what the file leaves out keeps its default.
    pub(crate) fn replica_options(&self) -> anyhow::Result<ReplicaOptions> {
        let replica = self.replica()?;
        let sync_interval = replica.sync_interval.unwrap_or(defaults::SYNC_INTERVAL).to_duration();
        let mut options = ReplicaOptions { sync_interval, ..ReplicaOptions::default() };
        if let Some(count) = replica.max_sync_ltx_files {
            // Negative values meant "all" to the original, as zero does.
            options.max_sync_ltx_files = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
        }
        options.auto_recover = replica.auto_recover.unwrap_or(false);
        Ok(options)
    }

    /// The library's options; what the file leaves out keeps its default.
    pub(crate) fn options(&self) -> anyhow::Result<DbOptions> {
        let mut options = DbOptions::new(self.path.clone().unwrap_or_default());
        options.meta_path.clone_from(&self.meta_path);
        let set = |target: &mut Duration, value: Option<GoDuration>| {
            if let Some(value) = value {
                *target = value.to_duration();
            }
        };
        set(&mut options.monitor_interval, self.monitor_interval);
        set(&mut options.checkpoint_interval, self.checkpoint_interval);
        set(&mut options.busy_timeout, self.busy_timeout);
        if let Some(count) = self.min_checkpoint_page_count {
            if count <= 0 {
                return fail(format!("minimum checkpoint page count required ({})", self.place()));
            }
            options.min_checkpoint_page_count = u32::try_from(count).unwrap_or(u32::MAX);
        }
        if let Some(count) = self.truncate_page_n {
            options.truncate_page_n = count;
        }
        if let Some(bytes) = self.max_sync_wal_bytes {
            // Negative values meant "no limit" to the original, as zero does.
            options.max_sync_wal_bytes = u64::try_from(bytes).unwrap_or(0);
        }
        options.max_local_bytes = self.max_local_bytes.unwrap_or(0);
        if let Some(bytes) = self.max_wal_bytes {
            options.max_wal_bytes = bytes;
        }
        Ok(options)
    }
}
