//! `litestream check`: whether a store is fit to hold a replica, or to restore
//! from, said before it matters.
//!
//! Spec: docs/commands.md, "check".

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use litestream_replica::check::{Grade, ProbeSite, Report, check};
use litestream_replica::clock::SystemClock;
use litestream_replica::{ClientContext, ReplicaClient, ReplicaUrl};
use serde::Serialize;

use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, Invocation, JSON, NO_EXPAND_ENV, runtime};
use crate::config::Surroundings;
use crate::failure::Failure;
use crate::output::{self, json, table};
use crate::source::Source;
use crate::units::GoDuration;

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "check",
    summary: "try out whether a replica's store works",
    about: "The check command tries out what replication and restores need of a store:\nconnection, permissions, reading, writing, deleting, and what it guarantees.",
    positionals: &["DB_PATH", "REPLICA_URL"],
    flags: &[
        &CONFIG,
        &NO_EXPAND_ENV,
        &FlagSpec {
            name: "read-only",
            kind: FlagKind::Bool,
            value: "",
            help: "Write nothing; check whether a restore would work.",
            default: "",
        },
        &FlagSpec {
            name: "timeout",
            kind: FlagKind::Duration,
            value: "DURATION",
            help: "Give up after this time.",
            default: "1m",
        },
        &JSON,
    ],
    notes: "\
Without -read-only, small files are written below .litestream-check/ in the
replica's path and removed again. Data that is there is never touched.

The exit code is 0 if all is well, 2 if replication works but something is
missing (no conditional writes, a wrong clock, no permission to delete), and 1
if it does not work.",
    examples: &[
        ("Check the replica of a configured database.", "litestream check /path/to/db"),
        ("Check a bucket before using it.", "litestream check s3://mybkt/db"),
        ("On a host that only restores.", "litestream check -read-only s3://mybkt/db"),
        ("The same for scripts.", "litestream check -json -timeout 20s /path/to/db"),
    ],
    hidden: false,
    run,
};

/// The result as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    location: &'a str,
    r#type: &'a str,
    read_only: bool,
    result: &'static str,
    checks: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    result: &'static str,
    detail: &'a str,
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    let surroundings = Surroundings::of_process(&environment)?;
    let usage = || Failure::new("database path or replica URL required").try_line("litestream check /path/to/db");
    let source = Source::find(&arguments, &surroundings, usage)?;
    source.log_options(&environment).on_stderr().start(&environment);
    source.log_warnings();
    let is_read_only = arguments.is_set("read-only");
    let limit = arguments.duration("timeout").filter(|limit| limit.is_positive());
    let limit = limit.map_or(DEFAULT_LIMIT, GoDuration::to_duration);

    let place = source.place(&surroundings)?;
    let mut context = surroundings.clients.clone();
    // Somebody is waiting for the answer.
    context.retry.attempts = ATTEMPTS;
    let client = open(place.clone(), &context)?;
    let probe = match is_read_only {
        true => None,
        false => ProbeSite::new(|path| open(place.clone().join(path), &context))?,
    };
    if probe.is_none() && !is_read_only {
        output::note(&format!(
            "a {} replica has no place for probes: checking only what a restore needs",
            client.kind()
        ));
    }
    let missing = missing_directories(&place);
    let report = runtime()?.block_on(check(&client, probe.as_ref(), &SystemClock, limit));
    for directory in missing {
        // Only an empty directory goes: whoever runs the daemon makes its own.
        if std::fs::remove_dir(&directory).is_err() {
            break;
        }
    }
    let text = if arguments.is_set("json") { json::format(&answer(&report, probe.is_none()))? } else { text(&report) };
    output::print(&text)?;
    Ok(match report.grade() {
        Grade::Ok | Grade::Skipped => ExitCode::SUCCESS,
        Grade::Degraded => ExitCode::from(DEGRADED),
        Grade::Failed => ExitCode::FAILURE,
    })
}

fn open(place: ReplicaUrl, context: &ClientContext) -> anyhow::Result<Arc<dyn ReplicaClient>> {
    place.into_client(context).map_err(|error| Failure::new(error.to_string()).into())
}

/// The directories that a local replica lacks, innermost first.
fn missing_directories(place: &ReplicaUrl) -> Vec<PathBuf> {
    let ReplicaUrl::File(options) = place else { return Vec::new() };
    options.path.ancestors().take_while(|path| !path.exists()).map(PathBuf::from).collect()
}

fn answer(report: &Report, read_only: bool) -> Answer<'_> {
    let checks = report.findings.iter();
    Answer {
        location: &report.location,
        r#type: report.kind,
        read_only,
        result: report.grade().name(),
        checks: checks.map(|f| Row { name: f.name, result: f.grade.name(), detail: &f.detail }).collect(),
    }
}

fn text(report: &Report) -> String {
    let rows: Vec<_> = report
        .findings
        .iter()
        .map(|finding| vec![finding.name.to_owned(), finding.grade.name().to_owned(), finding.detail.clone()])
        .collect();
    let table = table::format(&["check", "result", "detail"], &rows);
    format!("{} ({})\n\n{table}\nresult: {}\n", report.location, report.kind, report.grade().name())
}

const DEFAULT_LIMIT: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 3;
const DEGRADED: u8 = 2;
