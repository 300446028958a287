//! Metrics and health of a running daemon, scraped as a monitoring system does,
//! and compared with the original's.
//!
//! Spec: docs/operations.md.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod scrape;
mod site;

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use litestream_testkit::daemon::Daemon;
use litestream_testkit::s3_server::Kind;
use litestream_testkit::{scenario, upstream};
use rusqlite::Connection;
use scrape::{LIMIT, Page, address, request, wait_for};
use site::{Site, ours};

/// Quick levels and retention, so that everything there is happens in seconds.
const QUICK: &str = "addr: \"127.0.0.1:0\"
levels: [{interval: 1s}]
l0-retention: 1s
l0-retention-check-interval: 1s
snapshot: {interval: 2s, retention: 4s}
validation: {interval: 1s}
verify-compaction: true
shutdown-sync-timeout: 1s
";

fn application(site: &Site, rows: u32) -> Connection {
    let application = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&application, rows).unwrap();
    application
}

/// A daemon of ours on `site`, and where it listens.
fn watched(site: &Site) -> (Daemon, String) {
    let mut daemon = site.daemon(&ours());
    let address = address(&mut daemon);
    (daemon, address)
}

/// The same work under both programs: whatever the original exposes is there
/// with the same type and the same labels.
#[test]
fn names_types_and_labels_are_upstreams() {
    let pages = [upstream::litestream(), ours()].map(|program| {
        let site = Site::on(Kind::Moto);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let checkpoints = "checkpoint-interval: 100ms";
        let config = site.config(&QUICK.replace("127.0.0.1:0", &address).replace("validation: {interval: 1s}\n", ""));
        let text = fs::read_to_string(&config)
            .unwrap()
            .replace("    replica:\n", &format!("    {checkpoints}\n    replica:\n"));
        fs::write(&config, text).unwrap();
        let application = application(&site, 10);
        let mut daemon = site.daemon(&program);
        daemon.wait_for_log("serving metrics on", LIMIT).unwrap();
        let started = Instant::now();
        let page = loop {
            scenario::commit(&application, 1).unwrap();
            let page = Page::of(&address);
            let is_complete = page.sum("litestream_l0_retention_files_total", &["eligible"]).is_some()
                && page.sum("litestream_checkpoint_count", &["PASSIVE"]).is_some()
                && page.sum("litestream_replica_operation_total", &["DELETE"]).is_some();
            if is_complete {
                break page;
            }
            assert!(started.elapsed() < LIMIT, "{page:#?}");
            std::thread::sleep(Duration::from_millis(100));
        };
        let db = format!("db=\"{}\"", site.db().display());
        (page, db)
    });
    let [(theirs, their_db), (ours, our_db)] = pages;
    let names = theirs.families.keys().filter(|name| !name.starts_with("go_") && !name.starts_with("promhttp_"));
    let mut compared = 0;
    for name in names {
        let mine = ours.families.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        let original = &theirs.families[name];
        assert_eq!(mine.kind, original.kind, "{name}");
        assert_eq!(mine.label_names(), original.label_names(), "{name}");
        if original.samples.iter().any(|(labels, _)| labels.contains(&their_db)) {
            assert!(mine.samples.iter().any(|(labels, _)| labels.contains(&our_db)), "{name}: {mine:?}");
        }
        // Our file name is the same as theirs, and so is the one label that holds it.
        if name == "litestream_l0_retention_files_total" {
            let statuses = |family: &scrape::Family| family.samples.iter().map(|(l, _)| l.clone()).collect::<Vec<_>>();
            assert_eq!(statuses(mine), statuses(original));
        }
        compared += 1;
    }
    assert!(compared >= 20, "{compared} families compared: {:?}", theirs.families.keys());
}

/// Lesson 12: nothing is declared and then never set. What a healthy daemon moves.
#[test]
fn every_metric_of_a_healthy_daemon_moves() {
    let site = Site::new();
    let config = site.config(QUICK);
    let text = fs::read_to_string(&config)
        .unwrap()
        .replace("    replica:\n", "    checkpoint-interval: 100ms\n    replica:\n");
    fs::write(&config, text).unwrap();
    let application = application(&site, 50);
    let (daemon, address) = watched(&site);
    let first = Page::of(&address);
    let db = format!("db=\"{}\"", site.db().display());
    for name in [
        "litestream_db_size",
        "litestream_sync_count",
        "litestream_disk_full",
        "litestream_compaction_verify_error_count",
    ] {
        assert!(first.sum(name, &[&db]).is_some(), "{name} is not there from the start");
    }
    let above_zero = [
        "litestream_db_size",
        "litestream_wal_size",
        "litestream_total_wal_bytes",
        "litestream_txid",
        "litestream_sync_count",
        "litestream_sync_seconds",
        "litestream_checkpoint_count",
        "litestream_checkpoint_seconds",
        "litestream_l0_retention_files_total",
        "litestream_replica_operation_total",
        "litestream_replica_operation_bytes",
        "litestream_replica_operation_duration_seconds",
        "litestream_replica_txid",
        "litestream_last_capture_timestamp_seconds",
        "litestream_last_upload_timestamp_seconds",
        "litestream_last_snapshot_timestamp_seconds",
        "litestream_last_verification_timestamp_seconds",
        "litestream_recoverable_earliest_timestamp_seconds",
        "litestream_recoverable_latest_timestamp_seconds",
        "litestream_replica_files",
        "litestream_replica_bytes",
        "litestream_compactions_total",
        "litestream_databases",
        "litestream_databases_open",
        "litestream_queue_limit",
        "litestream_build_info",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_virtual_memory_bytes",
        "process_virtual_memory_max_bytes",
    ];
    let started = Instant::now();
    loop {
        scenario::commit(&application, 5).unwrap();
        let page = Page::of(&address);
        let still: Vec<_> = above_zero.iter().filter(|name| page.sum(name, &[]).is_none_or(|sum| sum <= 0.0)).collect();
        if still.is_empty() {
            break;
        }
        assert!(started.elapsed() < LIMIT, "never above zero: {still:?}\n{}", daemon.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    // The window opens at the oldest snapshot, which expires.
    let earliest = |page: &Page| page.sum("litestream_recoverable_earliest_timestamp_seconds", &[&db]).unwrap();
    let before = earliest(&Page::of(&address));
    let started = Instant::now();
    while earliest(&Page::of(&address)) <= before {
        scenario::commit(&application, 1).unwrap();
        assert!(started.elapsed() < LIMIT, "the window never moves");
        std::thread::sleep(Duration::from_millis(200));
    }
    let page = wait_for(&address, "a database at rest", |page| {
        page.sum("litestream_txid", &[&db]) == page.sum("litestream_replica_txid", &[&db])
            && page.sum("litestream_replica_lag_seconds", &[&db]) == Some(0.0)
    });
    assert_eq!(page.sum("litestream_unsent_transactions", &[&db]), Some(0.0));
    assert_eq!(page.sum("litestream_replica_problem", &[&db]), Some(0.0));
    assert_eq!(page.sum("litestream_crashed_tasks_total", &[]), Some(0.0));
}

/// What moves when the store is away, and goes back when it returns.
#[test]
fn failures_show_in_metrics_and_pass() {
    let site = Site::new();
    site.config(QUICK);
    let application = application(&site, 50);
    let (daemon, address) = watched(&site);
    wait_for(&address, "a first upload", |page| page.sum("litestream_replica_txid", &[]) > Some(1.0));
    let away = site.path("replica-away");
    fs::rename(site.replica(), &away).unwrap();
    fs::write(site.replica(), "no directory").unwrap();
    scenario::commit(&application, 5).unwrap();
    wait_for(&address, "failures", |page| {
        let is_moved = |name, parts: &[&str]| page.sum(name, parts).is_some_and(|sum| sum > 0.0);
        is_moved("litestream_upload_errors_total", &[])
            && is_moved("litestream_backoff_seconds", &["task=\"upload\""])
            && is_moved("litestream_replica_lag_seconds", &[])
            && is_moved("litestream_unsent_transactions", &[])
            && is_moved("litestream_replica_operation_errors_total", &["replica_type=\"file\"", "code=\""])
    });
    fs::remove_file(site.replica()).unwrap();
    fs::rename(&away, site.replica()).unwrap();
    wait_for(&address, "recovery", |page| {
        let is_zero = |name| page.sum(name, &[]) == Some(0.0);
        is_zero("litestream_backoff_seconds")
            && is_zero("litestream_replica_lag_seconds")
            && is_zero("litestream_unsent_transactions")
    });
    assert!(daemon.log().contains("msg=\"replica sync recovered\""), "{}", daemon.log());

    // Somebody deletes backups.
    fs::remove_dir_all(site.replica()).unwrap();
    scenario::commit(&application, 5).unwrap();
    wait_for(&address, "a problem", |page| page.sum("litestream_replica_problems_total", &[]) > Some(0.0));
    wait_for(&address, "a healed problem", |page| page.sum("litestream_replica_problem", &[]) == Some(0.0));

    // Level 1 cannot be written.
    let level = site.replica().join("ltx/1");
    let _ = fs::remove_dir_all(&level);
    fs::write(&level, "no directory").unwrap();
    wait_for(&address, "failed compactions", |page| {
        // A single small change behind a new image is not worth a compaction.
        scenario::commit(&application, 1).unwrap();
        page.sum("litestream_compaction_errors_total", &[]) > Some(0.0)
    });
    fs::remove_file(&level).unwrap();
}

/// Liveness, readiness and why not; methods and paths that are not there.
#[test]
fn health_tells_which_database_is_not_safe_and_why() {
    let site = Site::new();
    site.config(QUICK);
    let (_daemon, address) = watched(&site);
    let live = request(&address, "GET", "/healthz");
    assert_eq!((live.status, live.body.contains("\"ok\"")), (200, true), "{live:?}");
    let unready = request(&address, "GET", "/readyz");
    assert_eq!(unready.status, 503, "{unready:?}");
    let body: serde_json::Value = serde_json::from_str(&unready.body).unwrap();
    assert_eq!(body["ready"], false);
    assert_eq!(body["databases"][0]["path"], site.db().to_str().unwrap());
    assert!(body["databases"][0]["reason"].is_string(), "{body}");
    let application = application(&site, 10);
    let started = Instant::now();
    while request(&address, "GET", "/readyz").status != 200 {
        assert!(started.elapsed() < LIMIT, "never ready: {}", request(&address, "GET", "/readyz").body);
        std::thread::sleep(Duration::from_millis(50));
    }
    let head = request(&address, "HEAD", "/readyz");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.headers.contains("application/json"), "{head:?}");
    for path in ["/", "/debug/pprof/", "/metrics/", "/list"] {
        assert_eq!(request(&address, "GET", path).status, 404, "{path}");
    }
    let refused = request(&address, "POST", "/metrics");
    assert_eq!(refused.status, 405);
    assert!(refused.headers.to_lowercase().contains("allow: get, head"), "{refused:?}");
    let page = request(&address, "GET", "/metrics");
    assert!(page.headers.contains("text/plain; version=0.0.4; charset=utf-8"), "{}", page.headers);
    drop(application);
    // The file goes away under the daemon.
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(site.path(&format!("app.db{suffix}")));
    }
    let started = Instant::now();
    loop {
        let unready = request(&address, "GET", "/readyz");
        if unready.status == 503 && unready.body.contains("database file not found") {
            break;
        }
        assert!(started.elapsed() < LIMIT, "{unready:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Lesson 13: the log says where the listener really is, and a missing port is told
/// before anything starts. A port that is taken leaves replication alone.
#[test]
fn the_address_is_told_as_it_is() {
    for bad in ["9090", "host:", ":", "a:b:c"] {
        let site = Site::new();
        site.config(&format!("addr: {bad:?}"));
        let config = site.path("litestream.yml");
        let output = ours().run(["replicate", "-config", config.to_str().unwrap()]).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stderr.contains(&format!("Error: must specify port for bind address: {bad:?}")), "{output:?}");
        assert!(!site.meta().exists(), "nothing was started");
    }
    let site = Site::new();
    site.config("addr: \":0\"");
    let (daemon, address) = watched(&site);
    let port = address.rsplit_once(':').unwrap().1;
    assert!(address.starts_with("[::]:") || address.starts_with("0.0.0.0:"), "{address}");
    assert_eq!(request(&format!("127.0.0.1:{port}"), "GET", "/healthz").status, 200, "{}", daemon.log());

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let site = Site::new();
    site.config(&format!("addr: \"{}\"", taken.local_addr().unwrap()));
    let application = application(&site, 10);
    let mut daemon = site.daemon(&ours());
    let line = daemon.wait_for_log("cannot start metrics server", LIMIT).unwrap();
    assert!(line.contains("level=ERROR"), "{line}");
    site.wait_until_replicated(LIMIT, "without metrics");
    drop(application);
}
