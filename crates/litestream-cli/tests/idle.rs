//! What a daemon with many idle databases asks of their store: nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod scrape;
mod site;

use std::fs;

use litestream_testkit::scenario;
use scrape::{Page, address, wait_for};
use site::{Site, ours};

/// While one database is written to and synced again and again, a hundred others of
/// the same watched directory, and the watching itself, cost no request: all there are
/// belong to the one.
#[test]
fn a_hundred_idle_databases_of_a_watched_directory_make_no_request() {
    const COUNT: usize = 100;
    const SYNCS: u64 = 20;
    let site = Site::new();
    let (data, config) = (site.path("data"), site.path("litestream.yml"));
    fs::create_dir(&data).unwrap();
    let text = format!(
        "addr: \"127.0.0.1:0\"\nlevels:\n  - interval: 24h\ndbs:\n  - dir: {}\n    pattern: '*.db'\n    watch: true\n    replica:\n      type: file\n      path: {}\n      sync-interval: 20ms\n",
        data.display(),
        site.replica().display()
    );
    fs::write(&config, text).unwrap();
    for index in 0..COUNT {
        scenario::commit(&scenario::quiet_connection(&data.join(format!("{index}.db"))).unwrap(), 2).unwrap();
    }
    let active = data.join("active.db");
    let application = scenario::quiet_connection(&active).unwrap();
    scenario::commit(&application, 1).unwrap();
    let mut daemon = site.daemon(&ours());
    let address = address(&mut daemon);
    let txids = |page: &Page| -> Vec<f64> {
        page.families
            .get("litestream_replica_txid")
            .map_or(Vec::new(), |family| family.samples.iter().map(|(_, txid)| *txid).collect())
    };
    // An image and the file behind it.
    let is_settled = |page: &Page| {
        let txids = txids(page);
        txids.len() == COUNT + 1
            && txids.iter().all(|txid| *txid >= 2.0)
            && page.sum("litestream_unsent_transactions", &[]) == Some(0.0)
    };
    let before = wait_for(&address, "everything replicated", is_settled);
    let requests = |page: &Page| page.sum("litestream_replica_operation_total", &[]).unwrap();
    let synced = |page: &Page| page.sum("litestream_replica_txid", &["active.db"]).unwrap();
    for _ in 0..SYNCS {
        let now = synced(&Page::of(&address));
        scenario::commit(&application, 1).unwrap();
        wait_for(&address, "one more sync", |page| synced(page) > now);
    }
    let after = Page::of(&address);
    assert!(synced(&after) - synced(&before) >= SYNCS as f64);
    assert_eq!(requests(&after) - requests(&before), synced(&after) - synced(&before), "{:#?}", after.non_zero());
    assert!(daemon.terminate(scrape::LIMIT).unwrap().success());
}
