//! What the open files tell when the paths change.

use std::sync::Barrier;

use litestream_testkit::scenario;

use super::*;

/// Database and WAL go in one step, with their directory: no look may find the one
/// still there and the other gone, and take it for a broken log. What was committed
/// last is captured only from a database that is known to be missing.
#[test]
fn a_database_that_goes_with_its_directory_is_missing() {
    const ROUNDS: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let [here, away] = ["here", "away"].map(|name| dir.path().join(name));
    fs::create_dir(&here).unwrap();
    let application = scenario::quiet_connection(&here.join("db")).unwrap();
    scenario::commit(&application, 1).unwrap();
    let live = Live::open(&here.join("db"), Duration::from_secs(5), &mut None).unwrap();

    let turn = Barrier::new(2);
    let seen: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                turn.wait();
                fs::rename(&here, &away).unwrap();
                turn.wait();
                fs::rename(&away, &here).unwrap();
                turn.wait();
            }
        });
        let look = |_| {
            turn.wait();
            let error = loop {
                if let Err(error) = live.check() {
                    break error;
                }
            };
            turn.wait();
            turn.wait();
            error
        };
        (0..ROUNDS).map(look).collect()
    });
    for (round, error) in seen.iter().enumerate() {
        assert_eq!(error.kind(), ErrorKind::Missing, "round {round}: {error}");
    }
    live.check().unwrap();
}
