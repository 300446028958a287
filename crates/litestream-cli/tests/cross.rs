//! Both binaries on the same replicas: each restores what the other wrote, both
//! plan and list alike, and either continues where the other stopped.
//!
//! Spec: store-and-restore §4–§6, replication §11; hazards D1, D16.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot be set up fails"
)]

mod site;

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use litestream_testkit::image::{Image, read_image};
use litestream_testkit::program::Program;
use litestream_testkit::s3_server::Kind;
use litestream_testkit::scenario::{self, CheckpointMode};
use litestream_testkit::upstream;
use site::application::{Application, MODES};
use site::{Listed, Site, ours, seed};

const LIMIT: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(2);

/// Levels, snapshots and retention of upstream, fast enough to see all of them.
const FAST_LEVELS: &str = "levels: [{interval: 1s}, {interval: 2s}, {interval: 4s}]
snapshot: {interval: 3s, retention: 24h}
l0-retention: 3s
l0-retention-check-interval: 1s
";

/// Ours writes, both restore.
fn both_restore_what_ours_wrote(site: &Site, targets: usize) {
    let seed = seed();
    site.config("");
    let application = Application::start(&site.db(), seed, 500, PACE);
    let mut daemon = site.daemon(&ours());
    daemon.wait_for_log("replicating to", LIMIT).unwrap();
    let mut moments = Vec::new();
    for round in 0..4 {
        thread::sleep(Duration::from_millis(500));
        application.checkpoint(MODES[round % 4]);
        application.pause();
        site.wait_until_replicated(LIMIT, &format!("seed {seed}, moment {round}"));
        moments.push((site.newest_txid(), read_image(&site.db()).unwrap()));
        application.resume();
    }
    application.pause();
    assert!(daemon.terminate(LIMIT).unwrap().success());
    site.assert_restores(&format!("seed {seed}, at the end"));
    for (txid, image) in moments {
        for program in [ours(), upstream::litestream()] {
            let restored = site.try_restored(&program, &["-txid", &txid]).unwrap();
            image.assert_same(&restored, &format!("seed {seed} at {txid} by {}", program.path().display()));
        }
    }
    assert_alike(site, seed, targets);
}

/// Upstream writes all its levels, both restore, plan and list alike.
fn both_restore_what_upstream_wrote(site: &Site, targets: usize) {
    let seed = seed();
    site.config(FAST_LEVELS);
    let application = Application::start(&site.db(), seed, 500, PACE);
    let daemon = site.daemon(&upstream::litestream());
    let started = Instant::now();
    let mut moments = Vec::new();
    let wanted: BTreeSet<u8> = [0, 1, 2, 3, 9].into();
    while !wanted.is_subset(&site.listed().iter().map(|file| file.level).collect()) || moments.len() < 4 {
        assert!(started.elapsed() < LIMIT, "levels so far: {:?}", site.listed());
        thread::sleep(Duration::from_millis(1500));
        application.pause();
        site.wait_until_replicated(LIMIT, &format!("seed {seed}, upstream at work"));
        moments.push((site.newest_txid(), read_image(&site.db()).unwrap()));
        application.resume();
    }
    application.pause();
    assert!(daemon.terminate(LIMIT).unwrap().success());
    site.assert_restores(&format!("seed {seed}, at the end"));
    let mut proven = 0;
    for (txid, image) in &moments {
        // Retention and compaction may have closed a moment; both must agree.
        if let Some(restored) = same_result(site, &["-txid", txid]) {
            image.assert_same(&restored, &format!("seed {seed} at {txid}"));
            proven += 1;
        }
    }
    println!("seed {seed}: {proven} of {} recorded moments restorable", moments.len());
    assert_alike(site, seed, targets);
}

/// What upstream can do here, ours does alike; the image if there is one.
fn same_result(site: &Site, args: &[&str]) -> Option<Image> {
    let theirs = site.try_restored(&upstream::litestream(), args);
    let ours = site.try_restored(&ours(), args);
    match (theirs, ours) {
        (Ok(theirs), Ok(ours)) => {
            theirs.assert_same(&ours, &format!("restored with {args:?}"));
            Some(ours)
        }
        (Ok(_), Err(error)) => panic!("upstream restores {args:?}, ours does not: {error}"),
        (Err(error), Ok(_)) => panic!("ours restores {args:?}, upstream does not: {error}"),
        (Err(_), Err(_)) => None,
    }
}

/// Same listing, same plans and same databases at TXIDs and times all over it.
fn assert_alike(site: &Site, seed: u64, count: usize) {
    for level in ["all", "0", "1", "9"] {
        assert_same_output(site, "ltx", &["-level", level]);
        assert_same_output(site, "ltx", &["-level", level, "-json"]);
    }
    let files = site.listed();
    let mut rng = Rng::with_seed(seed);
    let mut targets = vec![Vec::new()];
    for _ in 0..count {
        let file = rng.choice(&files).unwrap();
        targets.push(vec!["-txid", file.max.as_str()]);
        targets.push(vec!["-timestamp", file.timestamp.as_str()]);
    }
    let later: Vec<String> = files.iter().map(|file| file.timestamp.replace('Z', ".5Z")).collect();
    for _ in 0..count / 2 {
        targets.push(vec!["-timestamp", rng.choice(&later).unwrap().as_str()]);
    }
    let mut restored = 0;
    for target in &targets {
        restored += usize::from(same_result(site, target).is_some());
        if restorable(site, target) {
            assert_same_output(site, "restore", &[target.as_slice(), &["-dry-run"]].concat());
            assert_same_output(site, "restore", &[target.as_slice(), &["-dry-run", "-json"]].concat());
        }
    }
    println!("seed {seed}: {} files, {restored} of {} targets restored alike", files.len(), targets.len());
    assert!(restored > 1, "nothing but the newest state could be restored");
}

fn restorable(site: &Site, target: &[&str]) -> bool {
    site.run(&upstream::litestream(), "restore", &[target, &["-dry-run"]].concat()).status.success()
}

fn assert_same_output(site: &Site, command: &str, args: &[&str]) {
    let run = |program: &Program| site.run(program, command, args).success().unwrap().stdout;
    pretty(&run(&upstream::litestream()), &run(&ours()), &format!("{command} {args:?}"));
}

#[track_caller]
fn pretty(expected: &str, found: &str, what: &str) {
    assert!(expected == found, "{what}\nupstream:\n{expected}\nours:\n{found}");
}

/// Either binary continues the other's replica, turn by turn; after each turn
/// both restore the database as it is.
///
/// Upstream loses what is checkpointed before it looks (D1). With `rough` that
/// happens, and our turns must mend it; without, its turns begin quietly and must
/// be right as well.
fn alternate(site: &Site, forget_at: Option<usize>, rough: bool) {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    site.config("");
    let application = Application::start(&site.db(), seed, 1_000, PACE);
    for turn in 0..8 {
        let is_ours = turn % 2 == 0;
        let program = if is_ours { ours() } else { upstream::litestream() };
        let what = format!("seed {seed}, turn {turn} ({})", if is_ours { "ours" } else { "upstream" });
        let quiet = !is_ours && !rough;
        if forget_at == Some(turn) {
            fs::remove_dir_all(site.meta()).unwrap();
        }
        application.set_autocheckpoint(!quiet);
        if quiet {
            application.pause();
        } else {
            application.resume();
            application.commit(rng.u32(0..50));
            for _ in 0..rng.u8(0..4) {
                application.checkpoint(rng.choice(MODES).unwrap());
                application.commit(rng.u32(0..5));
            }
        }
        let daemon = site.daemon(&program);
        if turn == 0 {
            // Taken over within the first second, after a crash.
            site.wait_for_file(LIMIT);
            thread::sleep(Duration::from_millis(rng.u64(0..200)));
            daemon.kill9().unwrap();
            continue;
        }
        if quiet {
            let before = site.newest_txid();
            application.commit(1);
            site.wait_for_newer(&before, LIMIT);
            application.resume();
            application.set_autocheckpoint(true);
        }
        thread::sleep(Duration::from_millis(rng.u64(300..1500)));
        if rng.bool() {
            application.checkpoint(rng.choice(MODES).unwrap());
        }
        application.pause();
        if is_ours || quiet {
            site.wait_until_replicated(LIMIT, &what);
        }
        let status = daemon.terminate(LIMIT).unwrap();
        assert!(status.success(), "{what}: {status}: {}", fs::read_to_string(site.log()).unwrap());
        if is_ours || quiet {
            site.assert_restores(&what);
        }
    }
    let daemon = site.daemon(&ours());
    site.wait_until_replicated(LIMIT, &format!("seed {seed}, after the last turn"));
    assert!(daemon.terminate(LIMIT).unwrap().success());
    site.assert_restores(&format!("seed {seed}, at the end"));
    let deltas: Vec<_> = site.listed().into_iter().filter(|file| file.level == 0).collect();
    assert_dense(&deltas, seed);
    println!("seed {seed}: {} files at level 0 after 8 turns", deltas.len());
    site.assert_no_panic();
}

fn assert_dense(files: &[Listed], seed: u64) {
    for pair in files.windows(2) {
        let (before, after) = (number(&pair[0].max), number(&pair[1].min));
        assert_eq!(after, before + 1, "seed {seed}: a hole or an overlap at level 0 behind {before:016x}");
    }
}

fn number(txid: &str) -> u64 {
    u64::from_str_radix(txid, 16).unwrap()
}

#[test]
fn both_restore_what_ours_wrote_to_a_directory() {
    both_restore_what_ours_wrote(&Site::new(), 6);
}

#[test]
fn both_restore_what_upstream_wrote_to_a_directory() {
    both_restore_what_upstream_wrote(&Site::new(), 6);
}

#[test]
fn either_continues_the_others_directory() {
    alternate(&Site::new(), None, false);
}

#[test]
fn either_continues_the_others_directory_without_local_state() {
    alternate(&Site::new(), Some(2), false);
    alternate(&Site::new(), Some(3), false);
}

#[test]
fn ours_mends_what_upstream_lost() {
    alternate(&Site::new(), None, true);
}

/// D1: the application restarts the WAL while nobody looks, with fewer frames than
/// were captured before. Upstream goes on as if nothing had happened; when ours
/// takes over, the replica is complete again.
#[test]
fn a_restart_that_upstream_overlooked_is_mended_at_the_take_over() {
    let site = Site::new();
    site.config("");
    let application = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&application, 200).unwrap();
    site.once(&ours());
    scenario::commit(&application, 200).unwrap();
    site.once(&upstream::litestream());

    scenario::commit(&application, 20).unwrap();
    application.execute_batch("UPDATE event SET body = randomblob(200) WHERE id < 100").unwrap();
    scenario::checkpoint(&application, CheckpointMode::Passive).unwrap();
    scenario::commit(&application, 2).unwrap();
    site.once(&upstream::litestream());
    let lost = read_image(&site.db()).unwrap().difference(&site.try_restored(&ours(), &[]).unwrap());
    assert!(lost.is_some(), "upstream has learned to see this: the test proves nothing any more");

    site.once(&ours());
    site.assert_restores("after the take-over");
}
#[test]
fn both_restore_what_ours_wrote_to_s3() {
    for kind in [Kind::Moto, Kind::SeaweedFs] {
        both_restore_what_ours_wrote(&Site::on(kind), 2);
    }
}

#[test]
fn both_restore_what_upstream_wrote_to_s3() {
    for kind in [Kind::Moto, Kind::SeaweedFs] {
        both_restore_what_upstream_wrote(&Site::on(kind), 2);
    }
}

#[test]
fn either_continues_the_others_bucket() {
    alternate(&Site::on(Kind::Moto), None, false);
    alternate(&Site::on(Kind::SeaweedFs), Some(2), false);
}
