//! Real processes on NATS servers: writes without pause, kills, restores, both
//! binaries in turns on one bucket, and every sort of credentials.
//!
//! Spec: backends §8.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot be set up fails"
)]

mod site;

use std::time::Duration;

use litestream_testkit::image::{Image, read_image};
use litestream_testkit::nats_server::{ALL, Kind, NatsBucket, NatsServer, PASSWORD, USERNAME, fresh_bucket};
use litestream_testkit::{scenario, upstream};
use site::application::Application;
use site::{Site, ours, seed};

const LIMIT: Duration = Duration::from_secs(60);

fn site(bucket: &NatsBucket) -> Site {
    Site::with_replica(bucket.config(), Vec::new())
}

#[test]
fn kills_lose_nothing_on_nats() {
    let bucket = fresh_bucket(Kind::Plain).unwrap();
    site::backend::kills_lose_nothing(&site(&bucket), 2);
}

#[test]
fn either_continues_on_nats_with_certificates() {
    let bucket = fresh_bucket(Kind::Tls).unwrap();
    site::backend::either_continues(&site(&bucket));
}

/// Ours writes and upstream restores, then the reverse, with each sort of
/// credentials that both know.
#[test]
fn credentials_of_every_sort_replicate_and_restore() {
    for kind in ALL {
        let bucket = fresh_bucket(kind).unwrap();
        let mut configs = vec![bucket.config()];
        if kind == Kind::Jwt {
            let creds = format!("creds: {}\n", bucket.access.creds.display());
            let parts = format!("jwt: {}\nseed: {}\n", bucket.access.jwt, bucket.access.seed);
            configs.push(bucket.config().replace(&creds, &parts));
        }
        for config in configs {
            let bucket = NatsBucket { name: format!("{}-{}", bucket.name, fastrand::u32(..)), ..bucket.clone() };
            bucket.create().unwrap();
            let config: String = config
                .lines()
                .map(|line| match line.starts_with("url: ") {
                    true => format!("url: nats://{}/{}\n", bucket.access.address, bucket.name),
                    false => format!("{line}\n"),
                })
                .collect();
            let site = Site::with_replica(config, Vec::new());
            site.config("");
            let connection = scenario::quiet_connection(&site.db()).unwrap();
            // An nkey does not work in the original.
            let programs = if kind == Kind::Nkey { vec![ours()] } else { vec![ours(), upstream::litestream()] };
            for program in &programs {
                scenario::commit(&connection, 3).unwrap();
                site.once(program);
                let source = read_image(&site.db()).unwrap();
                for reader in &programs {
                    let restored = site.try_restored(reader, &["-integrity-check", "full"]).unwrap();
                    source.assert_same(&restored, &format!("{kind:?}"));
                }
            }
            let log = site.run(&ours(), "ltx", &["-level", "all"]).success().unwrap();
            assert!(!format!("{log:?}").contains(PASSWORD), "{log:?}");
        }
    }
}

#[test]
fn a_url_with_credentials_is_enough_to_restore() {
    for (kind, user) in [(Kind::User, "replica:p%3Ass%2Fw%25rd%2B1"), (Kind::Token, "p%3Ass%2Fw%25rd%2B1")] {
        let bucket = fresh_bucket(kind).unwrap();
        let site = site(&bucket);
        site.config("");
        let connection = scenario::quiet_connection(&site.db()).unwrap();
        scenario::commit(&connection, 2).unwrap();
        site.once(&ours());
        let output = site.path("by-url.db");
        let url = format!("nats://{user}@{}/{}", bucket.access.address, bucket.name);
        ours().restore(&url, &output).unwrap();
        let restored = Image::of_closed_file(&output).unwrap();
        read_image(&site.db()).unwrap().assert_same(&restored, "restored from a URL");
    }
}

/// The server is away when the daemon starts, comes, goes again while the
/// application writes, and comes back.
#[test]
fn a_server_that_comes_and_goes_loses_nothing() {
    let seed = seed();
    let mut server = NatsServer::start(Kind::User).unwrap();
    let bucket = server.fresh_bucket().unwrap();
    let site = site(&bucket);
    site.config("");
    server.stop().unwrap();
    let application = Application::start(&site.db(), seed, 200, Duration::from_millis(3));
    let daemon = site.daemon(&ours());
    application.commit(50);
    server.start_again().unwrap();
    site.wait_for_file(LIMIT);
    for _ in 0..2 {
        server.stop().unwrap();
        application.commit(50);
        server.start_again().unwrap();
    }
    application.pause();
    site.wait_until_replicated(LIMIT, &format!("seed {seed}"));
    assert!(daemon.terminate(LIMIT).unwrap().success());
    site.assert_restores(&format!("seed {seed}"));
    let log = std::fs::read_to_string(site.log()).unwrap();
    assert!(!log.contains(PASSWORD) && !log.contains(&format!("user={USERNAME}")), "{log}");
    site.assert_no_panic();
}

#[test]
fn both_describe_an_object_alike() {
    let mut descriptions = Vec::new();
    for program in [upstream::litestream(), ours()] {
        let bucket = fresh_bucket(Kind::Plain).unwrap();
        let site = site(&bucket);
        site.config("");
        let connection = scenario::quiet_connection(&site.db()).unwrap();
        scenario::commit(&connection, 1).unwrap();
        site.once(&program);
        let is_l0 = |meta: &serde_json::Value| meta["name"].as_str().unwrap().starts_with("ltx/0/");
        let mut meta = bucket.descriptions().unwrap().into_iter().find(is_l0).unwrap();
        println!("{meta}");
        // What differs by nature.
        for (key, like) in [("bucket", "test-"), ("nuid", ""), ("digest", "SHA-256="), ("name", "ltx/0/")] {
            let value = meta.as_object_mut().unwrap().remove(key).unwrap();
            assert!(value.as_str().unwrap().starts_with(like), "{key}: {value}");
        }
        let time = meta["headers"]["Litestream-Timestamp"].take();
        assert!(time[0].as_str().unwrap().ends_with('Z'), "{time}");
        assert!(meta["size"].take().as_u64().unwrap() > 100);
        // Upstream sends the header of a file apart.
        assert!(matches!(meta["chunks"].take().as_u64(), Some(1 | 2)));
        descriptions.push(meta);
    }
    // Ours alone: a promise that lets readers skip chunks.
    let own = descriptions[1]["headers"].as_object_mut().unwrap().remove("Litestream-Chunk-Size");
    assert_eq!(own, Some(serde_json::json!(["131072"])));
    assert_eq!(descriptions[0], descriptions[1]);
}

#[test]
fn databases_of_a_directory_are_refused() {
    let bucket = fresh_bucket(Kind::Plain).unwrap();
    let site = site(&bucket);
    scenario::quiet_connection(&site.db()).unwrap();
    let replica: String = bucket.config().lines().map(|line| format!("      {line}\n")).collect();
    let dir = site.path("").display().to_string();
    let text = format!("dbs:\n  - dir: {dir}\n    pattern: '*.db'\n    replica:\n{replica}");
    std::fs::write(site.path("litestream.yml"), text).unwrap();
    let config = site.path("litestream.yml");
    let output = ours().run(["replicate", "-once", "-config", config.to_str().unwrap()]).unwrap();
    assert!(!output.status.success());
    assert!(output.stderr.contains("a nats bucket holds one database"), "{}", output.stderr);
}
