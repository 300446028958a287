//! `litestream points`: what a replica can be restored to, and how finely.
//!
//! Written for somebody who is about to restore and has to choose. Only names,
//! sizes and times are looked at, so the answer is quick; that the files are
//! sound is proved by a restore.
//!
//! Spec: store-and-restore §9, §11; docs/commands.md.

mod answer;
mod text;
mod window;

use std::process::ExitCode;
use std::sync::Arc;

use litestream_replica::clock::{Clock, SystemClock};
use litestream_replica::plan::plan_restore;
use litestream_replica::points::with_true_times;
use litestream_replica::{Inventory, ReplicaClient, Target};

use self::window::Window;
use crate::arguments::Arguments;
use crate::commands::restore::{refusal, target};
use crate::commands::{CONFIG, CommandSpec, FlagKind, FlagSpec, Invocation, JSON, NO_EXPAND_ENV, runtime};
use crate::config::Surroundings;
use crate::failure::{Failure, fail};
use crate::output::{self, json};
use crate::source::Source;

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "points",
    summary: "show what a database can be restored to",
    about: "The points command shows which states of a database its replica can restore:\nthe oldest and the newest, how close together they lie, and what is missing.",
    positionals: &["DB_PATH", "REPLICA_URL"],
    flags: &[
        &CONFIG,
        &NO_EXPAND_ENV,
        &FlagSpec {
            name: "timestamp",
            kind: FlagKind::Text,
            value: "TIMESTAMP",
            help: "Show which state \"restore -timestamp TIMESTAMP\" would give.",
            default: "",
        },
        &FlagSpec {
            name: "txid",
            kind: FlagKind::Txid,
            value: "TXID",
            help: "Show whether \"restore -txid TXID\" works, and which points lie next to it.",
            default: "",
        },
        &FlagSpec { name: "all", kind: FlagKind::Bool, value: "", help: "List every restorable point.", default: "" },
        &FlagSpec {
            name: "limit",
            kind: FlagKind::Integer,
            value: "NUM",
            help: "List the newest NUM restorable points.",
            default: "",
        },
        &JSON,
    ],
    notes: "\
A restore gives exactly one of these points; what lies between two of them was
compacted away. -timestamp takes the last point strictly before the given time.
Files are not opened: that they are sound is proved by a restore.",
    examples: &[
        ("Show the restorable window of a configured database.", "litestream points /path/to/db"),
        ("List the twenty newest points of a replica.", "litestream points -limit 20 s3://mybkt/db"),
        (
            "Ask what a restore to a point in time would give.",
            "litestream points -timestamp 2020-01-01T00:00:00Z /path/to/db",
        ),
        ("The same for scripts.", "litestream points -json -all s3://mybkt/db"),
    ],
    hidden: false,
    run,
};

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    if arguments.positionals.len() > 1 {
        return fail("too many arguments");
    }
    let target = target(&arguments, &environment)?;
    let listed = Listed::of(&arguments, target)?;
    let surroundings = Surroundings::of_process(&environment)?;
    let usage = || Failure::new("database path or replica URL required").try_line("litestream points /path/to/db");
    let source = Source::find(&arguments, &surroundings, usage)?;
    source.log_options(&environment).on_stderr().start(&environment);
    source.log_warnings();
    let client = source.client(&surroundings)?;
    let shown = output::without_credentials(arguments.positionals.first().map_or("", String::as_str));
    let is_json = arguments.is_set("json");
    let text = runtime()?.block_on(async {
        if target == Target::Latest {
            window(client, shown, listed, is_json).await
        } else {
            answer(client, shown, target, matches!(source, Source::Url(_)), is_json).await
        }
    })?;
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The whole window.
async fn window(
    client: Arc<dyn ReplicaClient>,
    source: String,
    listed: Listed,
    is_json: bool,
) -> anyhow::Result<String> {
    let inventory = Inventory::load(&*client, client.lists_true_times()).await?;
    if inventory.files().is_empty() {
        return fail("no backups found");
    }
    let mut points = inventory.restore_points();
    if points.is_empty() {
        return Err(refusal::nothing_restorable(&inventory).into());
    }
    // A few requests are worth true times, thousands are not.
    let is_exact = client.lists_true_times() || points.len() <= EXACT_POINTS_MAX;
    if is_exact {
        points = with_true_times(Arc::clone(&client), &inventory, &points).await?;
    }
    let window = Window::new(source, client.kind(), &inventory, &points, SystemClock.now(), is_exact);
    let first_listed = points.len().saturating_sub(listed.count());
    let listed = points.get(first_listed..).unwrap_or_default();
    Ok(if is_json { json::format(&window.with_points(listed))? } else { text::window(&window, listed) })
}

/// What one target would give.
async fn answer(
    client: Arc<dyn ReplicaClient>,
    source: String,
    target: Target,
    is_by_url: bool,
    is_json: bool,
) -> anyhow::Result<String> {
    let plan = match plan_restore(Arc::clone(&client), target).await {
        Ok(plan) => plan,
        Err(error) => return Err(refusal::explain(&client, &error, target, is_by_url, &source).await),
    };
    let inventory = Inventory::load(&*client, client.lists_true_times()).await?;
    let (_, next) = inventory.nearest(plan.txid());
    let next = with_true_times(client.clone(), &inventory, next.as_slice()).await?;
    let answer = answer::Answer::new(source, client.kind(), target, &plan, next.first().copied());
    Ok(if is_json { json::format(&answer)? } else { answer.text() })
}

/// How many points to list, from the newest backwards.
#[derive(Clone, Copy)]
enum Listed {
    None,
    Newest(usize),
    All,
}

impl Listed {
    fn of(arguments: &Arguments, target: Target) -> anyhow::Result<Self> {
        let listed = match (arguments.is_set("all"), arguments.integer("limit")) {
            (true, Some(_)) => return fail("cannot specify -all and -limit"),
            (true, None) => Self::All,
            (false, None) => Self::None,
            (false, Some(count)) => match usize::try_from(count) {
                Ok(count) if count > 0 => Self::Newest(count),
                _ => return fail("-limit must be greater than 0"),
            },
        };
        if target != Target::Latest && !matches!(listed, Self::None) {
            return fail("cannot list points with -txid or -timestamp");
        }
        Ok(listed)
    }

    fn count(self) -> usize {
        match self {
            Self::None => 0,
            Self::Newest(count) => count,
            Self::All => usize::MAX,
        }
    }
}

/// Up to so many points their files are asked for the time of capture, where the
/// store's listing does not tell it.
const EXACT_POINTS_MAX: usize = 500;
