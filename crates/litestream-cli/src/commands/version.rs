//! `litestream version`.
//!
//! Spec: docs/commands.md, "version".

use std::fmt::Write;
use std::process::ExitCode;

use jiff::Timestamp;

use crate::commands::{CommandSpec, FlagKind, FlagSpec, Invocation};
use crate::output;

/// The version that is reported everywhere.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) const SPEC: CommandSpec = CommandSpec {
    name: "version",
    summary: "prints the binary version",
    about: "Prints the version.",
    positionals: &[""],
    flags: &[&FlagSpec {
        name: "verbose",
        kind: FlagKind::Bool,
        value: "",
        help: "Print detailed build metadata (compiler version, commit, commit time,\nOS/arch).",
        default: "",
    }],
    notes: "",
    examples: &[("", "litestream version"), ("", "litestream version -verbose")],
    hidden: false,
    run,
};

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let text = if invocation.arguments.is_set("verbose") { verbose() } else { format!("{VERSION}\n") };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn verbose() -> String {
    let mut text = format!("Version:     {VERSION}\n");
    if let Some(rust) = option_env!("LITESTREAM_RUST_VERSION") {
        let _ = writeln!(text, "Rust Version: {rust}");
    }
    if let Some(commit) = option_env!("LITESTREAM_COMMIT") {
        let _ = writeln!(text, "Git Commit:  {commit}");
    }
    let commit_time = option_env!("LITESTREAM_COMMIT_SECONDS")
        .and_then(|seconds| seconds.parse().ok())
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    if let Some(time) = commit_time {
        let _ = writeln!(text, "Commit Time: {time}");
    }
    let _ = writeln!(text, "OS/Arch:     {}/{}", std::env::consts::OS, architecture());
    text
}

/// The processor by the name the original prints.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}
