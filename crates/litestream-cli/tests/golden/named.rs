//! The documents promise a test for each hazard, lesson and setting. A test that
//! was renamed must not leave a promise behind that nobody keeps.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn files_below(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target" && name != ".git") {
            files.extend(files_below(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            files.push(path);
        }
    }
    files
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

#[test]
fn every_test_that_a_document_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let code: Vec<String> =
        files_below(&root.join("crates"), ".rs").iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let known: BTreeSet<&str> = code.iter().flat_map(|text| words(text)).collect();
    let mut documents = files_below(&root.join("docs"), ".md");
    documents.push(root.join("ARCHITECTURE.md"));
    let mut checked = 0;
    let mut gone = Vec::new();
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        // What stands between backticks and has at least five words is a test.
        for name in text.split('`').skip(1).step_by(2) {
            let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if is_name && name.matches('_').count() >= 4 {
                checked += 1;
                if !known.contains(name) {
                    gone.push(format!("{}: {name}", document.display()));
                }
            }
        }
    }
    assert!(checked > 200, "{checked} names found");
    assert!(gone.is_empty(), "{gone:#?}");
}
