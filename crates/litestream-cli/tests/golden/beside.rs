//! The released 0.5.17 and ours on the same inputs.

use std::path::Path;

use serde_json::Value;

use crate::{Outcome, Site};

/// Fields may be added, never lost, renamed, reordered or given another type:
/// that is what scripts were promised.
#[test]
fn json_has_every_field_of_the_original_in_its_order() {
    let site = Site::replicated();
    let url = format!("file://{}", site.path("replica").display());
    for line in [
        "databases -json -config c.yml",
        "status -json -config c.yml",
        "ltx -json URL",
        "ltx -json -level all -config c.yml a.db",
        "restore -json -o out.db URL",
        "restore -json -dry-run -o out.db URL",
        "restore -json -force -integrity-check quick -o out.db URL",
    ] {
        let line = line.replace("URL", &url);
        let arguments: Vec<&str> = line.split(' ').collect();
        let [ours, theirs] = both(&site, &arguments).map(|outcome| {
            assert!(is_result(&line, outcome.code), "{line}: {outcome:?}");
            outcome.stdout
        });
        // Upstream logs to standard output in front of the document.
        let theirs = theirs.get(theirs.find(['{', '[']).unwrap()..).unwrap();
        let parse =
            |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"));
        assert_has_all(&parse(&ours), &parse(theirs), &line);
        let (ours, theirs) = (keys(&ours), keys(theirs));
        let kept: Vec<&String> = ours.iter().filter(|key| theirs.contains(key)).collect();
        let in_order: Vec<&String> = theirs.iter().collect();
        let count = kept.len().min(in_order.len());
        assert_eq!(kept[..count], in_order[..count], "{line}: order of fields");
    }
}

/// Everything in `theirs` is in `ours`, with the same type.
fn assert_has_all(ours: &Value, theirs: &Value, at: &str) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in theirs {
                let own = ours.get(key).unwrap_or_else(|| panic!("{at}: no field {key}"));
                assert_has_all(own, value, &format!("{at}.{key}"));
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{at}");
            ours.iter().zip(theirs).for_each(|(own, value)| assert_has_all(own, value, at));
        }
        (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Null, Value::Null) => {}
        _ => panic!("{at}: {ours} is of another type than {theirs}"),
    }
}

/// The names of fields in the order they are printed.
fn keys(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix('"')?.split_once("\":"));
    lines.map(|(key, _)| key.to_owned()).collect()
}

/// Scripts cut tables by columns, so new ones come last.
#[test]
fn tables_begin_with_the_columns_of_the_original() {
    let site = Site::replicated();
    let url = format!("file://{}", site.path("replica").display());
    for line in [
        "databases -config c.yml",
        "status -config c.yml",
        "ltx URL",
        "ltx -level all -config c.yml a.db",
        "restore -dry-run -o out.db URL",
    ] {
        let line = line.replace("URL", &url);
        let arguments: Vec<&str> = line.split(' ').collect();
        let [ours, theirs] = both(&site, &arguments).map(|outcome| {
            assert!(is_result(&line, outcome.code), "{line}: {outcome:?}");
            table(&outcome.stdout)
        });
        assert!(ours.len() >= theirs.len() && !theirs.is_empty(), "{line}: {ours:?} {theirs:?}");
        for (own, row) in ours.iter().zip(&theirs) {
            assert_eq!(own.get(..row.len()), Some(row.as_slice()), "{line}");
        }
    }
}

/// Cells of lines that have several.
fn table(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()));
    lines.map(|cells| cells.map(str::to_owned).collect::<Vec<_>>()).filter(|cells| cells.len() > 1).collect()
}

/// Each of these differs from the original on purpose, and the page that says so
/// has a row that begins with the given words. One that stops differing, or whose
/// row is gone, fails.
#[test]
fn differences_are_meant_and_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    let page = std::fs::read_to_string(page).unwrap();
    let site = Site::replicated();
    std::fs::write(site.path("unknown.yml"), "nonsense: 1\ndbs: []\n").unwrap();
    std::fs::write(site.path("null.yml"), "dbs: [null]\n").unwrap();
    std::fs::write(site.path("gcs.yml"), "dbs: [{path: /a, replica: {type: gcs, bucket: b}}]\n").unwrap();
    std::fs::write(site.path("bytes.yml"), "dbs: [{path: /a, max-sync-wal-bytes: 1MiB, replica: {path: /r}}]\n")
        .unwrap();
    std::fs::write(site.path("bucket.yml"), "bucket: b\ndbs: [{path: /a, replica: {url: 's3://c/p'}}]\n").unwrap();
    let url = format!("file://{}", site.path("replica").display());
    for (line, row) in [
        ("restore -bogus", "flag errors"),
        ("bogus", "unknown command"),
        ("restore -o out.db URL -h", "`-h` after an argument"),
        ("restore -txid 1 -dry-run -o out.db URL", "`-txid`"),
        ("restore -txid 00000000000000ff -o out.db URL", "TXID out of reach"),
        ("points URL", "`points`"),
        ("config -config c.yml", "`config`, `completion`, `man`"),
        ("completion bash", "`config`, `completion`, `man`"),
        ("restore -timestamp now -dry-run -o out.db URL", "`-timestamp` without zone, or relative"),
        ("help", "`help`"),
        ("version -verbose", "`version -verbose`"),
        ("restore -o out.db URL", "plain success"),
        ("restore -timestamp 2999-01-01T00:00:00Z -dry-run -o out.db URL", "`-timestamp` after the newest backup"),
        ("restore -timestamp 2000-01-01T00:00:00Z -o out.db URL", "`-timestamp` before the first"),
        ("restore -all -o all URL", "`-all`, `-owner`, `-mode`"),
        ("restore -mode 0600 -o out.db URL", "`-all`, `-owner`, `-mode`"),
        ("replicate -once -exec", "flag errors"),
        ("replicate -exec |x a.db URL", "`-exec` with"),
        ("databases -config unknown.yml", "unknown and repeated keys"),
        ("databases -config null.yml", "null elements"),
        ("databases -config gcs.yml", "type and scheme `gcs`"),
        ("databases -config bytes.yml", "`max-sync-wal-bytes: 64MiB`"),
        ("databases -config bucket.yml", "global `bucket`"),
        ("status -config c.yml a.db", "`status a.db` (relative)"),
        ("status -config c.yml nope.db", "`status` of an unknown path"),
        ("reset -dry-run -config c.yml a.db", "`reset`"),
    ] {
        assert!(page.contains(&format!("\n| {row}")), "no row of docs/compatibility.md begins with {row:?}");
        let line = line.replace("URL", &url);
        let arguments: Vec<&str> = line.split(' ').collect();
        let [ours, theirs] = both(&site, &arguments);
        assert_ne!(contract(&ours), contract(&theirs), "{line} no longer differs: {row}");
    }
}

/// Whether an exit code is that of a result. Ours says 2 where no daemon runs, as
/// docs/compatibility.md has it.
fn is_result(line: &str, code: i32) -> bool {
    code == 0 || code == 2 && line.starts_with("status")
}

/// Both programs, each without what the other wrote.
fn both(site: &Site, arguments: &[&str]) -> [Outcome; 2] {
    let clean = || {
        for name in ["out.db", "out.db-wal", "out.db-shm"] {
            let _ = std::fs::remove_file(site.path(name));
        }
        let _ = std::fs::remove_dir_all(site.path("all"));
    };
    clean();
    let theirs = site.theirs(arguments);
    clean();
    let ours = site.ours(arguments);
    clean();
    [ours, theirs]
}

/// What a script may look at: everything but the times of log lines.
fn contract(outcome: &Outcome) -> (i32, String, String) {
    let without_times = |text: &str| -> String {
        let lines = text.lines().map(|line| match line.strip_prefix("time=").and_then(|rest| rest.split_once(' ')) {
            Some((_, rest)) => rest,
            None => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    (outcome.code, without_times(&outcome.stdout), without_times(&outcome.stderr))
}
