//! `litestream restore`.
//!
//! The library proves the new database before it replaces anything; this file
//! decides what is asked of it and what is said about it. Standard output
//! carries results and log lines (with `-json` and `-dry-run`: results alone),
//! standard error everything meant for a person.
//!
//! Spec: docs/commands.md, "restore"; store-and-restore §13.

mod all;
mod dry_run;
mod follow;
mod options;
mod owner;
pub(crate) mod refusal;
mod report;
mod spec;
mod v3;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litestream::IntegrityCheck;
use litestream::follow::restore_copy;
use litestream_replica::restore::{Attributes, OutputPolicy, RestoreOptions, Restored, check_output, restore};
use litestream_replica::v3::V3Inventory;
use litestream_replica::{ErrorKind, ReplicaClient, Target};
use tokio_util::sync::CancellationToken;

pub(crate) use self::options::target;
pub(crate) use self::spec::SPEC;

use self::options::{integrity_check, output_path, parallelism, usage};
use crate::arguments::Arguments;
use crate::commands::{Invocation, runtime};
use crate::config::Surroundings;
use crate::environment::Environment;
use crate::failure::{Failure, fail};
use crate::output;
use crate::output::progress::ProgressLine;
use crate::signals::Signals;
use crate::source::Source;

/// Everything that is known before the replica is asked.
struct Job {
    arguments: Arguments,
    environment: Environment,
    /// Whether a URL named the replica, and not a configuration.
    is_by_url: bool,
    /// The positional argument as typed.
    source_text: String,
    client: Arc<dyn ReplicaClient>,
    output: PathBuf,
    target: Target,
    check: IntegrityCheck,
    attributes: Attributes,
    /// Requests at once; 0 means the default.
    parallelism: usize,
}

/// What became of one restore among many.
enum Outcome {
    Restored(Restored),
    /// With `-dry-run`: the state that would be restored, and bytes to fetch.
    Planned {
        txid: String,
        timestamp: String,
        size: u64,
    },
    Skipped(&'static str),
}

/// What the listings led to.
enum Prepared {
    /// The plan is printed, and that was all.
    Done,
    /// LTX files are to be restored.
    Ready,
    /// A backup of 0.3 is to be restored, or its plan printed.
    Old(V3Inventory),
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    if invocation.arguments.is_set("all") {
        return all::run(invocation);
    }
    let Invocation { arguments, environment, .. } = invocation;
    let source_text = match arguments.positionals.as_slice() {
        [] => return Err(usage().into()),
        [text] => text.clone(),
        _ => return fail("too many arguments"),
    };
    let check = integrity_check(&arguments)?;
    let target = target(&arguments, &environment)?;
    let attributes = owner::attributes(&arguments)?;
    let surroundings = Surroundings::of_process(&environment)?;
    let source = Source::find(&arguments, &surroundings, usage)?;
    let result_on_stdout = arguments.is_set("json") || arguments.is_set("dry-run");
    let log_options = source.log_options(&environment);
    let log_options = if result_on_stdout { log_options.on_stderr() } else { log_options };
    log_options.start(&environment);
    source.log_warnings();

    let output = output_path(&arguments, &source, &source_text)?;
    if arguments.is_set("if-db-not-exists") && output.exists() {
        tracing::info!("database already exists, skipping");
        return Ok(ExitCode::SUCCESS);
    }
    let client = source.client(&surroundings)?;
    let is_by_url = matches!(source, Source::Url(_));
    let parallelism = parallelism(&arguments);
    let job =
        Job { arguments, environment, is_by_url, source_text, client, output, target, check, attributes, parallelism };
    let runtime = runtime()?;
    let result =
        runtime.block_on(async { if job.arguments.is_set("f") { job.follow().await } else { job.run().await } });
    // Work that was cut short may still hold a thread; it must not hold us.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

impl Job {
    /// Runs until done or told to stop.
    async fn run(self) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::listen()?;
        let cancel = CancellationToken::new();
        let work = self.work(cancel.clone());
        tokio::pin!(work);
        let signal = tokio::select! {
            result = &mut work => return result,
            signal = signals.next() => signal,
        };
        cancel.cancel();
        // The library removes its temporary file on the way out. Whatever it
        // reports, the signal decides the exit code, unless it had just finished.
        if let Ok(Ok(code)) = tokio::time::timeout(CANCEL_GRACE, work).await {
            return Ok(code);
        }
        Err(Failure::new(format!("restore stopped by signal: {signal}")).code(signal.exit_code()).into())
    }

    async fn work(&self, cancel: CancellationToken) -> anyhow::Result<ExitCode> {
        let preparing = async {
            // What is followed are LTX files; an old backup does not grow.
            let may_be_old = !self.arguments.is_set("f");
            if may_be_old && let Some(old) = litestream_replica::v3::find(&*self.client, self.target).await? {
                return Ok(Prepared::Old(old));
            }
            self.check_timestamp().await?;
            match self.arguments.is_set("dry-run") {
                true => self.dry_run().await.map(|()| Prepared::Done),
                false => Ok(Prepared::Ready),
            }
        };
        // Listings leave nothing to clean up, so they are simply dropped.
        let prepared: Prepared = tokio::select! {
            biased;
            () = cancel.cancelled() => return fail("restore cancelled"),
            prepared = preparing => prepared?,
        };
        match prepared {
            Prepared::Done => Ok(ExitCode::SUCCESS),
            Prepared::Ready => self.restore(cancel).await,
            Prepared::Old(inventory) => self.restore_old(&inventory, cancel).await,
        }
    }

    fn policy(&self) -> OutputPolicy {
        if self.arguments.is_set("force") { OutputPolicy::Force } else { OutputPolicy::RefuseExisting }
    }

    fn options(&self, cancel: CancellationToken) -> RestoreOptions {
        RestoreOptions {
            target: self.target,
            parallelism: self.parallelism,
            policy: self.policy(),
            attributes: self.attributes,
            verify: verify_hook(self.check),
            cancel,
            ..RestoreOptions::new(&self.output)
        }
    }

    async fn restore(&self, cancel: CancellationToken) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        if let Some(restored) = self.make_database(cancel).await? {
            self.report(&restored, started.elapsed())?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// `None` when there is no backup and that is no error.
    async fn make_database(&self, cancel: CancellationToken) -> anyhow::Result<Option<Restored>> {
        check_output(&self.output, self.policy())?;
        if let Target::Txid(txid) = self.target {
            output::note(&format!("restoring up to transaction {txid}"));
        }
        let progress = Arc::new(ProgressLine::new(&self.source_text, &self.environment));
        let (client, watcher) = (Arc::clone(&self.client), Arc::clone(&progress) as _);
        let result = match self.arguments.is_set("f") {
            true => restore_copy(client, self.options(cancel), watcher).await,
            false => restore(client, self.options(cancel), watcher).await,
        };
        progress.finish();
        match result {
            Ok(restored) => Ok(Some(restored)),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                // A wrong time in a URL's replica has always been an error of its own.
                let is_wrong_time = self.is_by_url && matches!(self.target, Target::Timestamp(_));
                if self.arguments.is_set("if-replica-exists") && !is_wrong_time {
                    tracing::info!("no matching backups found");
                    return Ok(None);
                }
                Err(self.explain(&error).await)
            }
            Err(error) => Err(self.explain(&error).await),
        }
    }
}

/// How long the library may take to clean up after a cancellation.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

fn verify_hook(check: IntegrityCheck) -> Option<litestream_replica::restore::VerifyHook> {
    if check == IntegrityCheck::None {
        return None;
    }
    Some(Box::new(move |path: &Path| {
        litestream::integrity_check(path, check).map_err(|error| {
            litestream_replica::Error::with_source(ErrorKind::Corrupt, "post-restore integrity check", error)
        })
    }))
}
