//! Tells the program which compiler and which commit it was built from, for
//! `litestream version -verbose`. Facts that cannot be found out are left out.

use std::process::Command;

fn main() {
    #[allow(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    // "rustc 1.95.0 (f2d3ce0bd 2026-03-21)": name and number are enough.
    if let Some(version) = output(&rustc, &["--version"]) {
        let version: Vec<&str> = version.split(' ').take(2).collect();
        println!("cargo::rustc-env=LITESTREAM_RUST_VERSION={}", version.join(" "));
    }
    if let Some(commit) = output("git", &["rev-parse", "HEAD"]) {
        println!("cargo::rustc-env=LITESTREAM_COMMIT={commit}");
    }
    if let Some(seconds) = output("git", &["log", "-1", "--format=%ct"]) {
        println!("cargo::rustc-env=LITESTREAM_COMMIT_SECONDS={seconds}");
    }
    // The reflog grows with every commit and every switch of branch.
    if let Some(log) = output("git", &["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}

/// What a program prints, or `None` if it fails or prints nothing.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
