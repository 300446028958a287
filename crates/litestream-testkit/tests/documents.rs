//! Documents that name tests must go on naming tests that exist.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names in backticks with two underscores or more are functions of the tests; an
/// ellipsis stands for any part of a name.
#[test]
fn every_test_that_a_document_names_exists() {
    let root = root();
    let mut functions = BTreeSet::new();
    for path in sources(&root.join("crates")) {
        let text = fs::read_to_string(&path).unwrap();
        functions.extend(text.lines().filter_map(function).map(str::to_owned));
    }
    assert!(functions.len() > 1000, "only {} functions were found", functions.len());
    let mut named = 0;
    let mut missing = Vec::new();
    for document in ["docs/hazards.md", "ARCHITECTURE.md", "docs/proof.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        for name in text.split('`').skip(1).step_by(2).filter(|name| is_test_name(name)) {
            named += 1;
            if !functions.iter().any(|function| matches(name, function)) {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(named > 300, "only {named} names were found");
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
}

/// Every lesson has a row, and every row a test or a reason.
#[test]
fn every_lesson_has_its_row() {
    let text = fs::read_to_string(root().join("docs/hazards.md")).unwrap();
    for (kind, count) in [("SR-", 70), ("LTX-", 26), ("CLI-", 31), ("CFG-", 14), ("L", 85)] {
        let rows: Vec<(u32, &str)> = text
            .lines()
            .filter_map(|line| {
                let cells: Vec<&str> = line.split(" | ").collect();
                let number = cells.first()?.strip_prefix("| ")?.strip_prefix(kind)?.parse().ok()?;
                Some((number, cells.last()?.trim_end_matches('|').trim()))
            })
            .collect();
        assert!(rows.iter().map(|row| row.0).eq(1..=count), "rows of {kind}: {rows:?}");
        for (number, tests) in rows {
            let says_why = ["open", "by construction"].iter().any(|word| tests.starts_with(word));
            assert!(says_why || tests.contains('`') || tests.starts_with("tests of"), "{kind}{number}: {tests}");
        }
    }
}

/// The bugs that `scripts/mutants` puts back in still fit the source, and the tests that
/// must catch them exist. Whether they do is what that script finds out.
#[test]
fn every_mutant_applies_and_names_its_test() {
    let root = root();
    let mut functions = BTreeSet::new();
    for path in sources(&root.join("crates")) {
        functions.extend(fs::read_to_string(&path).unwrap().lines().filter_map(function).map(str::to_owned));
    }
    let mut count = 0;
    for entry in fs::read_dir(root.join("tests/mutants")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        assert!(field("Bug: ").is_some() && field("Check: cargo test ").is_some(), "{}: no header", path.display());
        let test = field("Caught by: ").unwrap();
        assert!(functions.contains(&test), "{}: no test {test}", path.display());
        let applied = Command::new("git")
            .args(["apply", "--check"])
            .arg(fs::canonicalize(&path).unwrap())
            .current_dir(&root)
            .output();
        let applied = applied.unwrap();
        assert!(applied.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&applied.stderr));
        count += 1;
    }
    assert!(count >= 10, "only {count} mutants");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn function(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    for word in ["pub(crate) ", "pub(super) ", "pub ", "async "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    Some(&name[..name.find(|c: char| !(c.is_alphanumeric() || c == '_'))?])
}

fn is_test_name(name: &str) -> bool {
    let is_word = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '…');
    is_word && !name.starts_with('…') && (name.matches('_').count() > 1 || name.contains('…'))
}

fn matches(name: &str, function: &str) -> bool {
    let parts: Vec<&str> = name.split('…').collect();
    match parts.as_slice() {
        [whole] => *whole == function,
        [start, .., end] => {
            function.len() >= start.len() + end.len() && function.starts_with(start) && function.ends_with(end)
        }
        [] => false,
    }
}
