//! `restore` from backups of Litestream 0.3, alone and beside LTX files.

use std::time::{Duration, SystemTime};

use litestream_testkit::image::Image;
use litestream_testkit::scenario::{CheckpointMode, commit};
use litestream_testkit::v3_backup::V3Writer;

use crate::Sandbox;

const GENERATION: &str = "0123456789abcdef";

/// A 0.3 backup in `replica/`: a snapshot and a log of two segments, stored at the
/// seconds 06, 07 and 08 of 2023-01-02 03:04 UTC.
fn backup(sandbox: &Sandbox) -> V3Writer {
    let mut writer = V3Writer::begin(&sandbox.path("."), 4096).unwrap();
    commit(writer.connection(), 2).unwrap();
    writer.start_generation(GENERATION, 0).unwrap();
    for _ in 0..2 {
        commit(writer.connection(), 3).unwrap();
        writer.ship().unwrap();
    }
    writer
}

fn url(sandbox: &Sandbox) -> String {
    format!("file://{}", sandbox.text("replica"))
}

/// Both formats in one replica, as after an upgrade in place. LTX files are of now.
fn upgraded(sandbox: &Sandbox) -> V3Writer {
    let writer = backup(sandbox);
    let outcome = sandbox.run(&["replicate", "-once", "app.db", &url(sandbox)]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    writer
}

#[test]
fn an_old_backup_comes_back_and_the_summary_has_no_txid() {
    let sandbox = Sandbox::new();
    let writer = backup(&sandbox);
    let arguments = ["restore", "-json", "-integrity-check", "full", "-o", "out.db", &url(&sandbox)];
    let outcome = sandbox.run(&arguments);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let summary: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((summary["txid"].as_str(), summary["replica"].as_str()), (Some(""), Some("file")));
    assert_eq!(summary["integrity_check"], "full");
    assert!(outcome.stderr.contains("restoring a backup made by v0.3.x, generation 0123456789abcdef\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("restored out.db at the state of 2023-01-02T03:04:08Z: "), "{outcome:?}");
    let image = Image::of_closed_file(&sandbox.path("out.db")).unwrap();
    writer.last().unwrap().image.assert_same(&image, "restored");
    assert!(!sandbox.path("out.db-wal").exists() && !sandbox.path("out.db.tmp-wal").exists());
}

/// Upstream plans LTX files alone and finds none.
#[test]
fn a_dry_run_shows_the_old_plan_in_the_known_shape() {
    let sandbox = Sandbox::new();
    backup(&sandbox);
    let url = url(&sandbox);
    let text = sandbox.run(&["restore", "-dry-run", "-o", "out.db", "-timestamp", "2023-01-02T03:04:07Z", &url]);
    assert_eq!((text.code, text.stderr.as_str()), (0, ""), "{text:?}");
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert_eq!(
        lines[..7],
        [
            "Restore plan:",
            &format!("  source: {url}"),
            "  target: out.db",
            "  replica: file",
            "  txid range: none (v0.3.x, generation 0123456789abcdef)",
            "",
            "Files to fetch:"
        ]
    );
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells(lines[7]), ["level", "file", "min_txid", "max_txid", "size", "timestamp"]);
    let snapshot = format!("generations/{GENERATION}/snapshots/00000000.snapshot.lz4");
    assert_eq!(cells(lines[8])[..4], ["9", &snapshot, "-", "-"]);
    assert_eq!(cells(lines[9])[5], "2023-01-02T03:04:07Z");
    assert_eq!(lines.len(), 10, "{text:?}");

    let json = sandbox.run(&["restore", "-dry-run", "-json", "-o", "out.db", &url]);
    let plan: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((plan["min_txid"].as_str(), plan["max_txid"].as_str()), (Some(""), Some("")));
    let files = plan["files"].as_array().unwrap();
    assert_eq!(files.iter().map(|file| file["level"].as_u64().unwrap()).collect::<Vec<_>>(), [9, 0, 0]);
    assert_eq!(files[0]["name"].as_str(), Some(&*snapshot));
    assert!(files.iter().all(|file| file["size"].as_u64().unwrap() > 0 && file["min_txid"] == ""));
    assert!(!sandbox.path("out.db").exists());
}

#[test]
fn after_an_upgrade_old_times_come_from_the_old_backup_and_new_ones_do_not() {
    let sandbox = Sandbox::new();
    let writer = upgraded(&sandbox);
    let url = url(&sandbox);
    for (time, moment) in [("2023-01-02T03:04:06Z", 0), ("2023-01-02T03:04:07Z", 1), ("2024-01-01T00:00:00Z", 2)] {
        let outcome = sandbox.run(&["restore", "-force", "-o", "out.db", "-timestamp", time, &url]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let image = Image::of_closed_file(&sandbox.path("out.db")).unwrap();
        writer.moments()[moment].image.assert_same(&image, time);
    }
    for arguments in [
        &["restore", "-json", "-force", "-o", "out.db", &url] as &[&str],
        &["restore", "-json", "-force", "-o", "out.db", "-timestamp", "2100-01-01T00:00:00Z", &url],
    ] {
        let outcome = sandbox.run(arguments);
        let summary: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(summary["txid"].as_str().unwrap().len(), 16, "{outcome:?}");
    }
}

/// A machine went back to 0.3: its objects are newer than every LTX file.
#[test]
fn the_newer_backup_is_the_latest() {
    let sandbox = Sandbox::new();
    let writer = upgraded(&sandbox);
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800); // the year 2100
    for key in writer.objects().unwrap() {
        let file = std::fs::File::open(sandbox.path("replica").join(key)).unwrap();
        file.set_modified(later).unwrap();
    }
    let outcome = sandbox.run(&["restore", "-o", "out.db", &url(&sandbox)]);
    assert!(outcome.stderr.contains("restoring a backup made by v0.3.x"), "{outcome:?}");
}

#[test]
fn a_txid_is_never_looked_for_in_an_old_backup() {
    let sandbox = Sandbox::new();
    backup(&sandbox);
    let outcome = sandbox.run(&["restore", "-o", "out.db", "-txid", "1", &url(&sandbox)]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("Error: no matching backup files available"), "{outcome:?}");
}

#[test]
fn a_time_before_the_first_backup_says_when_that_was() {
    let sandbox = Sandbox::new();
    backup(&sandbox);
    let config = sandbox.write("c.yml", "dbs: [{path: app.db, replica: {path: replica}}]");
    let hint = "The oldest backup, made by v0.3.x, is of 2023-01-02T03:04:06Z.";
    let time = ["-timestamp", "2023-01-02T03:04:05Z"];
    let outcome = sandbox.run(&["restore", "-o", "out.db", time[0], time[1], &url(&sandbox)]);
    outcome.fails_with(&["Error: timestamp does not exist", hint]);
    let by_path = ["restore", "-config", &config, "-o", "out.db", time[0], time[1], "app.db"];
    sandbox.run(&by_path).fails_with(&["Error: no matching backup files available", hint]);

    let quietly = ["restore", "-if-replica-exists", "-config", &config, "-o", "out.db", time[0], time[1], "app.db"];
    let outcome = sandbox.run(&quietly);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.contains("no matching backups found"), "{outcome:?}");
}

/// Segments without a snapshot are a damaged backup, and not "no backup yet".
#[test]
fn segments_without_a_snapshot_are_an_error_for_if_replica_exists_too() {
    let sandbox = Sandbox::new();
    backup(&sandbox);
    std::fs::remove_dir_all(sandbox.path("replica/generations").join(GENERATION).join("snapshots")).unwrap();
    let outcome = sandbox.run(&["restore", "-if-replica-exists", "-o", "out.db", &url(&sandbox)]);
    outcome.fails_with(&["Error: no snapshots available"]);
}

#[test]
fn a_gap_names_the_time_that_can_be_restored() {
    let sandbox = Sandbox::new();
    let mut writer = backup(&sandbox);
    writer.checkpoint(CheckpointMode::Truncate).unwrap();
    commit(writer.connection(), 1).unwrap();
    writer.checkpoint(CheckpointMode::Truncate).unwrap();
    commit(writer.connection(), 1).unwrap();
    writer.ship().unwrap();
    let missing = writer.objects().unwrap().into_iter().find(|key| key.contains("/wal/00000001_")).unwrap();
    std::fs::remove_file(sandbox.path("replica").join(missing)).unwrap();
    for dry in [&[] as &[&str], &["-dry-run"]] {
        let url = url(&sandbox);
        let arguments: Vec<&str> = ["restore", "-o", "out.db"].iter().chain(dry).copied().chain([&*url]).collect();
        let outcome = sandbox.run(&arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{outcome:?}");
        let error = "Error: apply WAL segments: missing WAL index: expected 1/0, got 2/0. Complete up to \
                     2023-01-02T03:04:08Z: restore with -timestamp 2023-01-02T03:04:08Z\n";
        assert!(outcome.stderr.ends_with(error), "{outcome:?}");
    }
}

#[test]
fn replication_that_restores_first_takes_the_old_backup() {
    let sandbox = Sandbox::new();
    let writer = backup(&sandbox);
    let expected = writer.last().unwrap().image.clone();
    drop(writer);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(sandbox.path(&format!("app.db{suffix}")));
    }
    let arguments = ["replicate", "-once", "-restore-if-db-not-exists", "app.db", &url(&sandbox)];
    let outcome = sandbox.run(&arguments);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stdout.contains("restore completed"), "{outcome:?}");
    expected.assert_same(&litestream_testkit::image::read_image(&sandbox.path("app.db")).unwrap(), "restored first");
}
