//! Long histories in a short time: both binaries with intervals of seconds, each
//! restoring what the other compacted, snapshotted and expired, at every point
//! that its planner can reach.
//!
//! Spec: store-and-restore §7–§11, §19.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot be set up fails"
)]

mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use litestream_testkit::image::{Image, read_image};
use litestream_testkit::program::Program;
use litestream_testkit::s3_server::Kind;
use litestream_testkit::upstream;
use site::application::Application;
use site::{Listed, Site, ours, seed};

const LIMIT: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(2);

/// Everything happens within seconds, deletions too.
const FAST: &str = "levels: [{interval: 1s}, {interval: 2s}, {interval: 4s}]
snapshot: {interval: 3s, retention: 4s}
l0-retention: 2s
l0-retention-check-interval: 1s
verify-compaction: true
";

/// Lets a daemon work until it has made `snapshots` snapshots, recording moments.
fn work(
    site: &Site,
    program: &Program,
    application: &Application,
    snapshots: usize,
    moments: &mut BTreeMap<String, Image>,
) {
    let daemon = site.daemon(program);
    let started = Instant::now();
    let mut seen = BTreeSet::new();
    let before: BTreeSet<String> = snapshots_of(site);
    while seen.len() < snapshots {
        assert!(started.elapsed() < LIMIT, "snapshots so far: {seen:?}: {}", fs::read_to_string(site.log()).unwrap());
        thread::sleep(Duration::from_millis(700));
        application.pause();
        site.wait_until_replicated(LIMIT, "at work");
        moments.insert(site.newest_txid(), read_image(&site.db()).unwrap());
        application.resume();
        seen.extend(snapshots_of(site).difference(&before).cloned());
    }
    application.pause();
    site.wait_until_replicated(LIMIT, "before the end");
    assert!(daemon.terminate(LIMIT).unwrap().success());
    moments.insert(site.newest_txid(), read_image(&site.db()).unwrap());
}

fn snapshots_of(site: &Site) -> BTreeSet<String> {
    site.listed().into_iter().filter(|file| file.level == 9).map(|file| file.max).collect()
}

/// Whether files that are there lead from nothing to exactly this transaction.
fn has_chain(files: &[Listed], txid: &str) -> bool {
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let (wanted, mut reached) = (number(txid), 0);
    loop {
        let fits = |file: &&Listed| number(&file.min) <= reached + 1 && number(&file.max) <= wanted;
        let next = files.iter().filter(fits).map(|file| number(&file.max)).max().unwrap_or(0);
        if next <= reached {
            return reached == wanted;
        }
        reached = next;
    }
}

/// Restores every end of a file by both: alike, and as recorded. None fails but those to
/// which no files lead: upstream's retention takes files away that others stood on.
/// Returns the share of what can be restored.
fn assert_every_point(site: &Site, moments: &BTreeMap<String, Image>, seed: u64) -> f64 {
    let listed = site.listed();
    let points: BTreeSet<String> = listed.iter().map(|file| file.max.clone()).collect();
    let (mut restored, mut compared) = (0_u32, 0);
    for txid in &points {
        let theirs = site.try_restored(&upstream::litestream(), &["-txid", txid]);
        let our = site.try_restored(&ours(), &["-txid", txid]);
        match (&theirs, &our) {
            (Ok(theirs), Ok(our)) => {
                theirs.assert_same(our, &format!("seed {seed}, {txid}"));
                restored += 1;
                if let Some(image) = moments.get(txid) {
                    image.assert_same(our, &format!("seed {seed}, recorded {txid}"));
                    compared += 1;
                }
            }
            (Err(theirs), Err(_)) => {
                let name = |file: &Listed| format!("{}/{}-{}", file.level, file.min, file.max);
                let files = || listed.iter().map(name).collect::<Vec<_>>().join(" ");
                assert!(!has_chain(&listed, txid), "seed {seed}: nobody restores {txid} of {}: {theirs}", files());
            }
            _ => panic!("seed {seed}, {txid}: upstream {:?}, ours {:?}", theirs.err(), our.err()),
        }
    }
    println!("seed {seed}: {restored} of {} points, {compared} of {} moments", points.len(), moments.len());
    assert!(compared >= 1, "seed {seed}: no recorded moment was compared");
    site.assert_restores(&format!("seed {seed}, the newest state"));
    f64::from(restored) / points.len() as f64
}

fn ours_compacts(site: &Site) {
    let seed = seed();
    site.config(FAST);
    let application = Application::start(&site.db(), seed, 200, PACE);
    let mut moments = BTreeMap::new();
    work(site, &ours(), &application, 4, &mut moments);
    let levels: BTreeSet<u8> = site.listed().iter().map(|file| file.level).collect();
    assert_eq!(levels, [0, 1, 2, 3, 9].into(), "seed {seed}");
    let share = assert_every_point(site, &moments, seed);
    assert!(share >= 0.5, "seed {seed}: {share}");
    let log = fs::read_to_string(site.log()).unwrap();
    for line in [
        "msg=\"compaction complete\" system=store db=app.db level=3 txid.min=",
        "msg=\"snapshot complete\" system=store db=app.db txid=",
        "msg=\"l0 retention enforced\"",
    ] {
        assert!(log.contains(line), "{line} in\n{log}");
    }
    assert!(!log.contains("level=ERROR") && !log.contains("post-compaction"), "{log}");
    site.assert_no_panic();
}

#[test]
fn upstream_restores_every_point_of_a_history_that_ours_compacted() {
    ours_compacts(&Site::new());
}

#[test]
fn upstream_restores_every_point_of_a_history_that_ours_compacted_in_s3() {
    ours_compacts(&Site::on(Kind::Moto));
}

/// One after the other writes, compacts and expires the same prefix.
#[test]
fn either_goes_on_with_the_others_levels() {
    let site = Site::new();
    let seed = seed();
    site.config(FAST);
    let application = Application::start(&site.db(), seed, 200, PACE);
    // What upstream loses to checkpoints is not what is tested here (D1).
    application.set_autocheckpoint(false);
    let mut moments = BTreeMap::new();
    for turn in 0..3 {
        let program = if turn % 2 == 0 { ours() } else { upstream::litestream() };
        work(&site, &program, &application, 2, &mut moments);
        assert_every_point(&site, &moments, seed);
    }
    site.assert_no_panic();
}

/// `-enforce-retention`: the preview names what goes, and nothing else goes.
#[test]
fn enforced_retention_deletes_what_its_preview_says() {
    let site = Site::new();
    let seed = seed();
    let keeping = "levels: [{interval: 1s}]\nsnapshot: {interval: 2s, retention: 1h}\nl0-retention: 1h\n";
    site.config(keeping);
    let application = Application::start(&site.db(), seed, 50, PACE);
    let mut moments = BTreeMap::new();
    work(&site, &ours(), &application, 3, &mut moments);

    let config = site.config("snapshot: {interval: 1ms, retention: 1ms}\nl0-retention: 1ms\n");
    let config = config.to_str().unwrap();
    let args = ["replicate", "-once", "-enforce-retention", "-dry-run", "-config", config];
    let before = site.listed().len();
    let table = ours().run(args).unwrap().success().unwrap().stdout;
    assert!(table.lines().next().unwrap().starts_with("database"), "{table}");
    let deleted = table.lines().filter(|line| line.contains("  delete  ")).count();
    let kept: Vec<&str> = table.lines().filter(|line| line.contains("  keep ")).collect();
    assert!(deleted > 2 && kept.len() == 1 && kept[0].contains("base"), "{table}");
    assert_eq!(site.listed().len(), before, "nothing was deleted");
    let json = ours().run(args.into_iter().chain(["-json"])).unwrap().success().unwrap().stdout;
    assert_eq!(json.matches("\"action\": \"delete\"").count(), deleted, "{json}");

    ours().run(["replicate", "-once", "-enforce-retention", "-config", config]).unwrap().success().unwrap();
    assert_eq!(site.listed().len(), before - deleted, "{table}\n{:?}", site.listed());
    site.assert_restores(&format!("seed {seed}, after retention"));
}

/// A hole in a level is reported as upstream reports it, and healed.
#[test]
fn validation_reports_a_hole_and_heals_it() {
    let site = Site::new();
    let seed = seed();
    site.config("levels: [{interval: 1s}]\nvalidation: {interval: 1s}\nl0-retention: 1s\n");
    let application = Application::start(&site.db(), seed, 50, PACE);
    let mut daemon = site.daemon(&ours());
    daemon.wait_for_log("compaction complete", LIMIT).unwrap();
    let started = Instant::now();
    let removed = loop {
        assert!(started.elapsed() < LIMIT, "seed {seed}: level 1 never has four files");
        thread::sleep(Duration::from_millis(100));
        let files = site.level(1);
        // Its transactions must be gone from level 0 by now, else nothing is lost.
        if let [_, (name, _), .., _] = files.as_slice()
            && site.level(0).first().is_some_and(|(first, _)| first.min > name.max)
            && files.len() > 3
        {
            break *name;
        }
    };
    fs::remove_file(site.replica().join(format!("ltx/1/{removed}"))).unwrap();
    let line = daemon.wait_for_log("validation error detected", LIMIT).unwrap();
    assert!(line.contains("level=1 type=gap message=\"TXID gap detected: prev.MaxTXID="), "{line}");
    daemon.wait_for_log("replica is healthy again", LIMIT).unwrap();
    application.pause();
    site.wait_until_replicated(LIMIT, "after healing");
    assert!(daemon.terminate(LIMIT).unwrap().success());
    site.assert_restores(&format!("seed {seed}, after healing"));
}
