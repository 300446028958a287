//! `litestream info`: which daemon is running.
//!
//! Spec: docs/commands.md, "info".

use std::process::ExitCode;
use std::time::Duration;

use crate::commands::target::{QUICK_TIMEOUT, SOCKET, ask};
use crate::commands::{CONFIG, CommandSpec, Invocation, JSON, NO_EXPAND_ENV};
use crate::control::types::Info;
use crate::output::{self, json};
use crate::units::GoDuration;

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "info",
    summary: "show information about a running daemon",
    about: "The info command shows version, process and uptime of a running daemon.",
    positionals: &[""],
    flags: &[&CONFIG, &JSON, &NO_EXPAND_ENV, &SOCKET, &QUICK_TIMEOUT],
    notes: "The daemon must have its control socket enabled.",
    examples: &[("", "litestream info"), ("", "litestream info -json")],
    hidden: false,
    run,
};

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let info: Info = ask(&invocation, "/info")?;
    let text = if invocation.arguments.is_set("json") { json::format(&info)? } else { text(&info) };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(info: &Info) -> String {
    let uptime = GoDuration::from(Duration::from_secs(u64::try_from(info.uptime_seconds).unwrap_or(0)));
    format!(
        "Litestream {}\n  PID:        {}\n  Uptime:     {uptime}\n  Started at: {}\n  Databases:  {}\n",
        info.version,
        info.pid,
        output::timestamp(info.started_at.0),
        info.database_count,
    )
}
