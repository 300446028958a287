//! `litestream restore`.
//!
//! The library proves the new database before it replaces anything; this file
//! decides what is asked of it and what is said about it. Standard output
//! carries results and log lines (with `-json` and `-dry-run`: results alone),
//! standard error everything meant for a person.
//!
//! Spec: cli §3.2, store-and-restore §13.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use litestream::IntegrityCheck;
use litestream_replica::restore::{OutputPolicy, RestoreOptions, Restored, check_output, restore};
use litestream_replica::{ErrorKind, Inventory, Plan, ReplicaClient, Target};
use ltx::Txid;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::arguments::Arguments;
use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, Invocation, NO_EXPAND_ENV, runtime};
use crate::config::Surroundings;
use crate::environment::Environment;
use crate::failure::{Failure, fail};
use crate::output::progress::ProgressLine;
use crate::output::{self, json, table};
use crate::signals::Signals;
use crate::source::Source;
use crate::units::{GoDuration, format_size};

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "restore",
    summary: "recovers database backup from a replica",
    about: "The restore command recovers a database from its replica. The output is\nuntouched until the restored database is complete and verified.",
    positionals: &["DB_PATH", "REPLICA_URL"],
    flags: &[
        &CONFIG,
        &NO_EXPAND_ENV,
        &FlagSpec {
            name: "txid",
            kind: FlagKind::Txid,
            value: "TXID",
            help: "Restore up to a specific hex-encoded transaction ID (inclusive).\nLeading zeros may be left out.",
            default: "the highest available transaction",
        },
        &FlagSpec {
            name: "timestamp",
            kind: FlagKind::Text,
            value: "TIMESTAMP",
            help: "Restore to a specific point-in-time, in RFC 3339 with a zone\n(e.g. 2000-01-01T00:00:00Z).",
            default: "the latest available backup",
        },
        &FlagSpec {
            name: "o",
            kind: FlagKind::Text,
            value: "PATH",
            help: "Output path of the restored database. Required with REPLICA_URL.",
            default: "the original database path",
        },
        &FlagSpec {
            name: "if-db-not-exists",
            kind: FlagKind::Bool,
            value: "",
            help: "Returns exit code of 0 if the database already exists.",
            default: "",
        },
        &FlagSpec {
            name: "if-replica-exists",
            kind: FlagKind::Bool,
            value: "",
            help: "Returns exit code of 0 if no backups found.",
            default: "",
        },
        &FlagSpec {
            name: "dry-run",
            kind: FlagKind::Bool,
            value: "",
            help: "Print the restore plan and exit without writing a database.",
            default: "",
        },
        &FlagSpec {
            name: "force",
            kind: FlagKind::Bool,
            value: "",
            help: "Replace an existing output database and its SQLite sidecar files, once\nthe restored database is proven.",
            default: "",
        },
        &FlagSpec {
            name: "json",
            kind: FlagKind::Bool,
            value: "",
            help: "Output raw JSON summary on successful restore.",
            default: "",
        },
        &FlagSpec {
            name: "f",
            kind: FlagKind::Bool,
            value: "",
            help: "Follow mode. Not available in this version yet.",
            default: "",
        },
        &FlagSpec {
            name: "follow-interval",
            kind: FlagKind::Duration,
            value: "DURATION",
            help: "Polling interval for follow mode.",
            default: "1s",
        },
        &FlagSpec {
            name: "parallelism",
            kind: FlagKind::Integer,
            value: "NUM",
            help: "Determines the number of requests to the replica at the same time.",
            default: "8",
        },
        &FlagSpec {
            name: "integrity-check",
            kind: FlagKind::Text,
            value: "MODE",
            help: "Run SQLite's integrity check on the restored database before it\nreplaces anything. MODE is one of: none, quick, full.",
            default: "none",
        },
    ],
    notes: "",
    examples: &[
        ("Restore latest replica for database to original location.", "litestream restore /path/to/db"),
        (
            "Restore replica for database to a given point in time.",
            "litestream restore -timestamp 2020-01-01T00:00:00Z /path/to/db",
        ),
        ("Restore latest replica for database to a new place.", "litestream restore -o /path/to/copy /path/to/db"),
        ("Restore database from S3 replica URL.", "litestream restore -o /path/to/copy s3://mybucket/db"),
        ("Preview restore plan without writing a database.", "litestream restore -dry-run -o /tmp/db s3://mybucket/db"),
    ],
    hidden: false,
    run,
};

/// What `-json` prints after a restore.
#[derive(Serialize)]
struct Summary {
    db_path: String,
    replica: &'static str,
    txid: String,
    duration_ms: u64,
    integrity_check: &'static str,
}

/// What `-dry-run -json` prints.
#[derive(Serialize)]
struct DryRun {
    source: String,
    target_path: String,
    replica: &'static str,
    min_txid: String,
    max_txid: String,
    files: Vec<PlannedFile>,
}

#[derive(Serialize)]
struct PlannedFile {
    level: u8,
    name: String,
    min_txid: String,
    max_txid: String,
    size: u64,
    timestamp: String,
}

/// Everything that is known before the replica is asked.
struct Job {
    arguments: Arguments,
    environment: Environment,
    source: Source,
    /// The positional argument as typed.
    source_text: String,
    client: Arc<dyn ReplicaClient>,
    output: PathBuf,
    target: Target,
    check: IntegrityCheck,
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    let source_text = match arguments.positionals.as_slice() {
        [] => return Err(usage().into()),
        [text] => text.clone(),
        _ => return fail("too many arguments"),
    };
    let check = integrity_check(&arguments)?;
    let timestamp = timestamp(&arguments)?;
    refuse_follow(&arguments)?;
    let target = match (arguments.txid("txid"), timestamp) {
        (Some(_), Some(_)) => return fail("cannot specify index & timestamp to restore"),
        (Some(txid), None) => Target::Txid(txid),
        (None, Some(timestamp)) => Target::Timestamp(timestamp),
        (None, None) => Target::Latest,
    };

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
    let job = Job { arguments, source_text, client, output, target, check, source, environment };
    let runtime = runtime()?;
    let result = runtime.block_on(job.run());
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
            self.check_timestamp().await?;
            if self.arguments.is_set("dry-run") { self.dry_run().await.map(|()| true) } else { Ok(false) }
        };
        // Listings leave nothing to clean up, so they are simply dropped.
        let done = tokio::select! {
            biased;
            () = cancel.cancelled() => return fail("restore cancelled"),
            done = preparing => done?,
        };
        if done { Ok(ExitCode::SUCCESS) } else { self.restore(cancel).await }
    }

    /// Says so when a wanted time lies after everything the replica holds: then
    /// its newest state is what there is.
    ///
    /// Listing times do; true creation times may cost a request per file, and
    /// planning asks for them anyway.
    async fn check_timestamp(&self) -> anyhow::Result<()> {
        let Target::Timestamp(wanted) = self.target else { return Ok(()) };
        match Inventory::load(&*self.client, false).await?.bounds() {
            None if self.is_by_url() => fail("no backups found"),
            Some(bounds) if wanted > bounds.newest => {
                output::note(&format!(
                    "-timestamp is after the newest backup of {}; restoring that one",
                    bounds.newest
                ));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn is_by_url(&self) -> bool {
        matches!(self.source, Source::Url(_))
    }

    async fn dry_run(&self) -> anyhow::Result<()> {
        let inventory = Inventory::load(&*self.client, self.target.needs_times()).await?;
        let plan = inventory.plan(self.target).map_err(|error| self.explain(&error, Some(&inventory)))?;
        let text = if self.arguments.is_set("json") {
            json::format(&self.describe_plan(&plan))?
        } else {
            plan_text(&self.describe_plan(&plan))
        };
        output::print(&text)?;
        Ok(())
    }

    fn describe_plan(&self, plan: &Plan) -> DryRun {
        let files = plan.files.iter().map(|file| PlannedFile {
            level: file.id.level.get(),
            name: file.id.name().to_string(),
            min_txid: file.id.min.to_string(),
            max_txid: file.id.max.to_string(),
            size: file.size,
            timestamp: output::timestamp(file.created_at),
        });
        DryRun {
            source: self.source_text.clone(),
            target_path: self.output.display().to_string(),
            replica: self.client.kind(),
            min_txid: plan.files.first().map_or(Txid::NONE, |file| file.id.min).to_string(),
            max_txid: plan.txid().to_string(),
            files: files.collect(),
        }
    }

    async fn restore(&self, cancel: CancellationToken) -> anyhow::Result<ExitCode> {
        let policy = if self.arguments.is_set("force") { OutputPolicy::Force } else { OutputPolicy::RefuseExisting };
        check_output(&self.output, policy)?;
        if let Target::Txid(txid) = self.target {
            output::note(&format!("restoring up to transaction {txid}"));
        }
        let started = Instant::now();
        let progress = Arc::new(ProgressLine::new(&self.source_text, &self.environment));
        let options = RestoreOptions {
            target: self.target,
            parallelism: parallelism(&self.arguments),
            policy,
            verify: verify_hook(self.check),
            cancel,
            ..RestoreOptions::new(&self.output)
        };
        let result = restore(Arc::clone(&self.client), options, Arc::clone(&progress) as _).await;
        progress.finish();
        let restored = match result {
            Ok(restored) => restored,
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                // A wrong time in a URL's replica has always been an error of its own.
                let is_wrong_time = self.is_by_url() && matches!(self.target, Target::Timestamp(_));
                if self.arguments.is_set("if-replica-exists") && !is_wrong_time {
                    tracing::info!("no matching backups found");
                    return Ok(ExitCode::SUCCESS);
                }
                // Only for the hints, so a listing that fails now changes nothing.
                let inventory = Inventory::load(&*self.client, false).await.ok();
                return Err(self.explain(&error, inventory.as_ref()));
            }
            Err(error) => return Err(self.explain(&error, None)),
        };
        self.report(&restored, started.elapsed())?;
        Ok(ExitCode::SUCCESS)
    }

    fn report(&self, restored: &Restored, elapsed: Duration) -> anyhow::Result<()> {
        if self.check != IntegrityCheck::None {
            tracing::info!("post-restore integrity check passed");
        }
        output::note(&format!(
            "restored {} at transaction {} of {}: {} in {}",
            self.output.display(),
            restored.txid,
            output::timestamp(restored.timestamp),
            format_size(restored.output_len),
            rounded(elapsed),
        ));
        if self.arguments.is_set("json") {
            output::print(&json::format(&Summary {
                db_path: self.output.display().to_string(),
                replica: self.client.kind(),
                txid: restored.txid.to_string(),
                duration_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                integrity_check: check_name(self.check),
            })?)?;
        }
        Ok(())
    }

    /// The known words first; where what was wanted is out of reach, what can be
    /// had below.
    fn explain(&self, error: &litestream_replica::Error, inventory: Option<&Inventory>) -> anyhow::Error {
        let failure = Failure::new(error.to_string());
        let Some(inventory) = inventory.filter(|_| error.kind() == ErrorKind::Unavailable) else {
            return failure.into();
        };
        let failure = match self.target {
            Target::Latest => failure,
            Target::Txid(txid) => {
                let (before, after) = inventory.nearest(txid);
                let hints = [("before", before), ("after", after)];
                hints.into_iter().fold(failure, |failure, (side, point)| match point {
                    Some(point) => failure.hint(format!("Nearest {side} it: {point}")),
                    None => failure,
                })
            }
            Target::Timestamp(_) => {
                let failure = if self.is_by_url() { Failure::new("timestamp does not exist") } else { failure };
                match inventory.bounds() {
                    Some(bounds) => failure.hint(format!("The replica covers {} to {}.", bounds.oldest, bounds.newest)),
                    None => failure,
                }
            }
        };
        failure.into()
    }
}

/// How long the library may take to clean up after a cancellation.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

fn usage() -> Failure {
    Failure::new("database path or replica URL required")
        .try_line("litestream restore -o /path/to/db s3://bucket/prefix")
}

fn integrity_check(arguments: &Arguments) -> anyhow::Result<IntegrityCheck> {
    Ok(match arguments.text("integrity-check").unwrap_or("none") {
        "none" => IntegrityCheck::None,
        "quick" => IntegrityCheck::Quick,
        "full" => IntegrityCheck::Full,
        other => return fail(format!("invalid -integrity-check value: {other}")),
    })
}

fn check_name(check: IntegrityCheck) -> &'static str {
    match check {
        IntegrityCheck::None => "none",
        IntegrityCheck::Quick => "quick",
        IntegrityCheck::Full => "full",
    }
}

fn timestamp(arguments: &Arguments) -> anyhow::Result<Option<Timestamp>> {
    let Some(text) = arguments.non_empty("timestamp") else { return Ok(None) };
    match text.parse() {
        Ok(timestamp) => Ok(Some(timestamp)),
        Err(_) => fail("invalid -timestamp, must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z)"),
    }
}

fn refuse_follow(arguments: &Arguments) -> anyhow::Result<()> {
    if !arguments.is_set("f") {
        return Ok(());
    }
    if arguments.txid("txid").is_some() {
        return fail("cannot use follow mode with -txid");
    }
    if arguments.non_empty("timestamp").is_some() {
        return fail("cannot use follow mode with -timestamp");
    }
    if arguments.is_set("dry-run") {
        return fail("cannot use -dry-run with -f");
    }
    fail("follow mode (-f) is not supported yet")
}

/// Where the database goes: as given, or back to where it came from.
fn output_path(arguments: &Arguments, source: &Source, source_text: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = arguments.non_empty("o") {
        return Ok(PathBuf::from(path));
    }
    match source {
        Source::Configured { path, .. } => Ok(path.clone()),
        Source::Url(_) => Err(Failure::new("-o is required when restoring from a replica URL")
            .try_line(format_args!("litestream restore -o /path/to/db {source_text}"))
            .into()),
    }
}

/// Nonsense means the default, as it always did.
fn parallelism(arguments: &Arguments) -> usize {
    arguments.integer("parallelism").and_then(|count| usize::try_from(count).ok()).unwrap_or(0).min(PARALLELISM_MAX)
}

/// More requests than this only wait for one another.
const PARALLELISM_MAX: usize = 256;

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

fn plan_text(plan: &DryRun) -> String {
    let rows: Vec<_> = plan
        .files
        .iter()
        .map(|file| {
            vec![
                file.level.to_string(),
                file.name.clone(),
                file.min_txid.clone(),
                file.max_txid.clone(),
                file.size.to_string(),
                file.timestamp.clone(),
            ]
        })
        .collect();
    format!(
        "Restore plan:\n  source: {}\n  target: {}\n  replica: {}\n  txid range: {} - {}\n\nFiles to fetch:\n{}",
        plan.source,
        plan.target_path,
        plan.replica,
        plan.min_txid,
        plan.max_txid,
        table::format(&["level", "file", "min_txid", "max_txid", "size", "timestamp"], &rows)
    )
}

/// A duration for people: milliseconds are precise enough.
fn rounded(elapsed: Duration) -> GoDuration {
    GoDuration::from_millis(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
