//! Real processes on Azurite: kill -9, both binaries on one replica.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod site;

use litestream_testkit::azure_server::{KEY, SAS, fresh_container};
use site::Site;
use site::backend::{either_continues, kills_lose_nothing};

#[test]
fn kills_lose_nothing_on_azure() {
    kills_lose_nothing(&Site::with_replica(fresh_container().unwrap().config("some/db"), Vec::new()), 2);
}

#[test]
fn either_continues_the_others_container() {
    either_continues(&Site::with_replica(fresh_container().unwrap().config("some/db"), Vec::new()));
}

/// The key and the signature as the environment gives them, and a replica's own
/// account in the URL.
#[test]
fn credentials_come_from_the_environment_too() {
    for (name, value) in [("LITESTREAM_AZURE_ACCOUNT_KEY", KEY), ("LITESTREAM_AZURE_SAS_TOKEN", SAS)] {
        let container = fresh_container().unwrap();
        let config =
            format!("url: abs://devstoreaccount1@{}/some//db/\nendpoint: {}\n", container.name, container.endpoint);
        let site = Site::with_replica(config, vec![(name, value.to_owned())]);
        kills_lose_nothing(&site, 1);
        assert!(container.keys("some/db/ltx/0/").unwrap().len() > 1, "{name}");
        let log = std::fs::read_to_string(site.log()).unwrap();
        assert!(log.contains("type=abs") && !log.contains(value), "{log}");
    }
}
