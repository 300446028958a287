//! What the flags of `litestream restore` ask for.
//!
//! Spec: docs/commands.md, "restore".

use std::path::PathBuf;

use jiff::Timestamp;
use litestream::IntegrityCheck;
use litestream_replica::Target;
use litestream_replica::clock::{Clock, SystemClock};
use litestream_replica::is_replica_url;

use crate::arguments::Arguments;
use crate::environment::Environment;
use crate::failure::{Failure, fail};
use crate::logging::zone;
use crate::output::{self, without_credentials};
use crate::source::Source;
use crate::timestamp;

pub(super) fn usage() -> Failure {
    Failure::new("database path or replica URL required")
        .try_line("litestream restore -o /path/to/db s3://bucket/prefix")
}

pub(super) fn integrity_check(arguments: &Arguments) -> anyhow::Result<IntegrityCheck> {
    Ok(match arguments.text("integrity-check").unwrap_or("none") {
        "none" => IntegrityCheck::None,
        "quick" => IntegrityCheck::Quick,
        "full" => IntegrityCheck::Full,
        other => return fail(format!("invalid -integrity-check value: {other}")),
    })
}

/// Which moment is asked for. Checks the time's form before anything that
/// follow mode or a second target would object to.
pub(crate) fn target(arguments: &Arguments, environment: &Environment) -> anyhow::Result<Target> {
    let timestamp = timestamp(arguments, environment)?;
    check_follow(arguments)?;
    Ok(match (arguments.txid("txid"), timestamp) {
        (Some(_), Some(_)) => return fail("cannot specify index & timestamp to restore"),
        (Some(txid), None) => Target::Txid(txid),
        (None, Some(timestamp)) => Target::Timestamp(timestamp),
        (None, None) => Target::Latest,
    })
}

/// The moment asked for. One that was partly inferred is said back: nobody should
/// find out from the data which zone was meant.
fn timestamp(arguments: &Arguments, environment: &Environment) -> anyhow::Result<Option<Timestamp>> {
    let Some(text) = arguments.non_empty("timestamp") else { return Ok(None) };
    let Some(moment) = timestamp::parse(text, SystemClock.now(), &zone::local(environment)) else {
        return Err(Failure::new("invalid -timestamp, must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z)")
            .hint("Also understood: \"2000-01-01 14:00\" (local time), \"14:00\", \"yesterday 14:00\", \"5 minutes ago\", \"now\".")
            .into());
    };
    if moment.is_inferred {
        output::note(&format!("-timestamp {text} means {}", output::timestamp_millis(moment.timestamp)));
    }
    Ok(Some(moment.timestamp))
}

/// What follow mode cannot be combined with.
fn check_follow(arguments: &Arguments) -> anyhow::Result<()> {
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
    Ok(())
}

/// Where the database goes: as given, or back to where it came from.
pub(super) fn output_path(arguments: &Arguments, source: &Source, source_text: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = arguments.non_empty("o") {
        if is_replica_url(path) {
            return fail(format!("-o is the path of a file, not a URL: {}", without_credentials(path)));
        }
        return Ok(PathBuf::from(path));
    }
    match source {
        Source::Configured { path, .. } => Ok(path.clone()),
        Source::Url(_) => Err(Failure::new("-o is required when restoring from a replica URL")
            .try_line(format_args!("litestream restore -o /path/to/db {}", without_credentials(source_text)))
            .into()),
    }
}

/// Nonsense means the default, as it always did.
pub(super) fn parallelism(arguments: &Arguments) -> usize {
    arguments.integer("parallelism").and_then(|count| usize::try_from(count).ok()).unwrap_or(0).min(PARALLELISM_MAX)
}

/// More requests than this only wait for one another.
const PARALLELISM_MAX: usize = 256;
