//! What every backend proves with real processes: an application writes all the
//! time, the daemon is killed, and both binaries read and continue the replica.

use std::thread;
use std::time::Duration;

use fastrand::Rng;
use litestream_testkit::upstream;

use super::application::{Application, MODES};
use super::{Site, ours, seed};

const LIMIT: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(2);

/// Ours is killed while the application writes, started again, and killed again;
/// after each life both binaries restore the database as it is.
pub fn kills_lose_nothing(site: &Site, lives: usize) {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    site.config("");
    let application = Application::start(&site.db(), seed, 500, PACE);
    for life in 0..lives {
        let what = format!("seed {seed}, life {life}");
        let daemon = site.daemon(&ours());
        site.wait_for_file(LIMIT);
        thread::sleep(Duration::from_millis(rng.u64(100..600)));
        application.checkpoint(rng.choice(MODES).unwrap());
        daemon.kill9().unwrap();
        application.commit(rng.u32(1..20));

        let daemon = site.daemon(&ours());
        application.pause();
        site.wait_until_replicated(LIMIT, &what);
        daemon.kill9().unwrap();
        site.assert_restores(&what);
        application.resume();
    }
    application.pause();
    site.assert_no_panic();
}

/// Upstream writes, ours takes over, upstream takes over again; all quietly, since
/// upstream loses what is checkpointed while it does not look.
pub fn either_continues(site: &Site) {
    let seed = seed();
    site.config("");
    let application = Application::start(&site.db(), seed, 500, PACE);
    application.set_autocheckpoint(false);
    for (turn, program) in [upstream::litestream(), ours(), upstream::litestream()].into_iter().enumerate() {
        let what = format!("seed {seed}, turn {turn}");
        application.pause();
        let daemon = site.daemon(&program);
        site.wait_for_file(LIMIT);
        let before = site.newest_txid();
        application.commit(1);
        site.wait_for_newer(&before, LIMIT);
        application.resume();
        thread::sleep(Duration::from_millis(300));
        application.pause();
        site.wait_until_replicated(LIMIT, &what);
        let status = daemon.terminate(LIMIT).unwrap();
        assert!(status.success(), "{what}: {status}: {}", std::fs::read_to_string(site.log()).unwrap());
        site.assert_restores(&what);
    }
    let (ours, theirs) = (site.listing(&ours()), site.listing(&upstream::litestream()));
    assert_eq!(ours, theirs, "seed {seed}: names, sizes and times");
    site.assert_no_panic();
}
