//! Real processes on a stand-in for Alibaba Cloud's store: writes without pause,
//! kills, restores, and the original taking turns with us on one replica.
//!
//! Spec: backends §10.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot be set up fails")]

mod site;

use std::time::Duration;

use litestream_testkit::image::{Image, read_image};
use litestream_testkit::oss_server::{ACCESS_KEY, BUCKET, SECRET_KEY, fresh_place};
use litestream_testkit::{scenario, upstream};
use site::application::Application;
use site::{Site, ours, seed};

const LIMIT: Duration = Duration::from_secs(60);

/// Ours writes and is killed, goes on, and both restore; then the original goes
/// on where ours stopped, and both restore again; then ours once more.
#[test]
fn both_take_turns() {
    let seed = seed();
    let place = fresh_place().unwrap();
    let site = Site::with_replica(place.config(), Vec::new());
    site.config("");
    let application = Application::start(&site.db(), seed, 200, Duration::from_millis(3));
    let daemon = site.daemon(&ours());
    site.wait_for_file(LIMIT);
    daemon.kill9().unwrap();
    application.commit(20);

    for (turn, program) in [ours(), upstream::litestream(), ours()].into_iter().enumerate() {
        let what = format!("seed {seed}, turn {turn}");
        // The original overlooks what is checkpointed before it looks.
        application.set_autocheckpoint(turn != 1);
        let before = site.newest_txid();
        let daemon = site.daemon(&program);
        application.commit(5);
        site.wait_for_newer(&before, LIMIT);
        application.pause();
        site.wait_until_replicated(LIMIT, &what);
        assert!(daemon.terminate(LIMIT).unwrap().success(), "{what}");
        site.assert_restores(&what);
        if turn != 0 {
            application.resume();
        }
    }
    application.pause();
    // Both read the same times from the objects' metadata.
    let files = site.listed();
    let moment = &files[files.len() / 2].timestamp;
    let theirs = site.try_restored(&upstream::litestream(), &["-timestamp", moment]).unwrap();
    let own = site.try_restored(&ours(), &["-timestamp", moment]).unwrap();
    theirs.assert_same(&own, &format!("seed {seed}, at {moment}"));
    site.assert_no_panic();
}

#[test]
fn a_url_and_the_environment_are_enough_to_restore() {
    let place = fresh_place().unwrap();
    let site = Site::with_replica(place.config(), Vec::new());
    site.config("");
    let connection = scenario::quiet_connection(&site.db()).unwrap();
    scenario::commit(&connection, 3).unwrap();
    site.once(&ours());
    let url = format!("oss://{BUCKET}/{}?endpoint={}", place.path, place.endpoint);
    let output = site.path("by-url.db");
    let program = ours().env("OSS_ACCESS_KEY_ID", ACCESS_KEY).env("OSS_ACCESS_KEY_SECRET", SECRET_KEY);
    program.restore(&url, &output).unwrap();
    let restored = Image::of_closed_file(&output).unwrap();
    read_image(&site.db()).unwrap().assert_same(&restored, "restored from a URL");
}
