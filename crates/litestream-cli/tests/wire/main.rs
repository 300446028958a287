//! What both programs ask of a store for the same small job, as a recorder in
//! front of a real server sees it.
//!
//! `tests/golden/wire/<store>.upstream` and `.ours` hold the facts of every
//! request; each run records both programs anew and compares. After a meant
//! change `UPDATE_GOLDEN=1 cargo test -p litestream-cli --test wire` writes the
//! files, and the difference is part of the change. Where ours differs from the
//! original, docs/wire.md has a row with the reason; a difference without a row
//! fails, and so does a row without a difference.

#![allow(clippy::unwrap_used, reason = "what a test needs and cannot have fails the test")]

mod differences;
mod job;
mod store;

use std::path::Path;
use std::thread;

use litestream_testkit::facts::{Fact, headers, requests};
use litestream_testkit::program::Program;
use litestream_testkit::upstream;

use job::Step;
use store::Store;

#[test]
fn s3_is_asked_as_recorded() {
    compare(
        "s3",
        &[
            ("s3", store::s3),
            ("s3-amazon", store::s3_amazon),
            ("s3-sse-c", store::s3_customer_key),
            ("s3-kms", store::s3_kms),
        ],
    );
}

#[test]
fn azure_is_asked_as_recorded() {
    compare("abs", &[("abs", store::abs)]);
}

#[test]
fn google_is_asked_as_recorded() {
    compare("gs", &[("gs", store::gs)]);
}

#[test]
fn oss_is_asked_as_recorded() {
    compare("oss", &[("oss", store::oss)]);
}

#[test]
fn webdav_is_asked_as_recorded() {
    compare("webdav", &[("webdav", store::webdav)]);
}

/// The name of a recording, and its store.
type Variant = (&'static str, fn() -> Store);

/// Records both programs on every variant of a type of store and compares them
/// with the golden files, and with one another.
fn compare(section: &str, variants: &[Variant]) {
    // All at once: most of the time is spent waiting for a second to pass.
    let recorded = thread::scope(|scope| {
        let jobs = variants.iter().map(|&(name, open)| {
            let theirs = scope.spawn(move || job::record(&upstream::litestream(), &open()));
            let ours = scope.spawn(move || job::record(&Program::new(env!("CARGO_BIN_EXE_litestream")), &open()));
            (name, theirs, ours)
        });
        let jobs: Vec<_> = jobs.collect();
        let ended = jobs.into_iter().map(|(name, theirs, ours)| (name, theirs.join().unwrap(), ours.join().unwrap()));
        ended.collect::<Vec<_>>()
    });
    let mut found = Vec::new();
    let mut wrong = Vec::new();
    for (name, upstream, ours) in &recorded {
        check(&format!("{name}.upstream"), upstream, &mut wrong);
        check(&format!("{name}.ours"), ours, &mut wrong);
        found.extend(differences::between(&facts(upstream), &facts(ours)));
    }
    found.sort();
    found.dedup();
    let mut complaints = differences::undocumented(section, &found);
    if !wrong.is_empty() {
        complaints
            .push(format!("{wrong:?} differ; if that is meant, run this test once with UPDATE_GOLDEN=1 and commit"));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn facts(steps: &[Step]) -> Vec<Fact> {
    steps.iter().flat_map(|step| step.facts.iter().cloned()).collect()
}

fn check(name: &str, steps: &[Step], wrong: &mut Vec<String>) {
    let mut text: String =
        steps.iter().map(|Step { title, facts }| format!("== {title}\n{}\n", requests(facts))).collect();
    text.push_str(&format!("== headers and bodies\n{}", headers(&facts(steps))));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire").join(name);
    #[allow(clippy::disallowed_methods, reason = "asked for by whoever runs the test")]
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    if golden != text {
        let line = golden.lines().zip(text.lines()).position(|(a, b)| a != b);
        let line = line.unwrap_or_else(|| golden.lines().count().min(text.lines().count()));
        let shown = |text: &str| text.lines().nth(line).unwrap_or("(its end)").to_owned();
        wrong.push(format!("{name}, line {}: {} instead of {}", line + 1, shown(&text), shown(&golden)));
    }
}
