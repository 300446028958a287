use std::path::Path;

use litestream::{DbOptions, ReplicaOptions, StoreOptions};
use litestream_replica::{ClientContext, ReplicaUrl};
use litestream_testkit::scenario;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A store of one database with a replica beside it.
fn store(dir: &Path) -> Arc<Store> {
    let store = Store::new(StoreOptions::default(), Arc::new(SystemClock));
    let url = format!("file://{}", dir.join("replica").display());
    let client = ReplicaUrl::parse(&url).unwrap().into_client(&ClientContext::default()).unwrap();
    store.add(DbOptions::new(dir.join("app.db")), client, ReplicaOptions::default()).unwrap();
    Arc::new(store)
}

fn later(time: Duration) -> Timestamp {
    SystemClock.now() + SignedDuration::try_from(time).unwrap()
}

#[tokio::test]
async fn no_ping_is_sent_for_a_store_without_databases() {
    let store = Store::new(StoreOptions::default(), Arc::new(SystemClock));
    assert_eq!(obstacle(&store, MINUTE, SystemClock.now()).as_deref(), Some("no database is open"));
}

#[tokio::test]
async fn pings_stop_when_changes_do_not_reach_the_replica_and_an_idle_database_does_not_stop_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let db = store.databases().remove(0);
    db.sync().await.unwrap_err();
    assert!(obstacle(&store, MINUTE, SystemClock.now()).is_some(), "there is no database yet");

    let application = scenario::quiet_connection(&dir.path().join("app.db")).unwrap();
    scenario::commit(&application, 10).unwrap();
    assert!(obstacle(&store, MINUTE, SystemClock.now()).is_some(), "nothing was sent yet");
    db.sync().await.unwrap();
    assert_eq!(obstacle(&store, MINUTE, SystemClock.now()), None);
    assert_eq!(obstacle(&store, MINUTE, later(60 * MINUTE)), None, "idle for an hour, and nothing is missing");

    // A commit that nobody captures is seen by the look at the ping.
    scenario::commit(&application, 1).unwrap();
    assert_eq!(obstacle(&store, MINUTE, SystemClock.now()), None, "within the interval");
    assert!(obstacle(&store, MINUTE, later(2 * MINUTE)).is_some(), "beyond it");

    // Captured, but not sent.
    let replica = dir.path().join("replica");
    std::fs::rename(&replica, dir.path().join("away")).unwrap();
    std::fs::write(&replica, "no directory").unwrap();
    db.sync().await.unwrap_err();
    assert!(obstacle(&store, MINUTE, later(2 * MINUTE)).is_some());
    std::fs::remove_file(&replica).unwrap();
    std::fs::rename(dir.path().join("away"), &replica).unwrap();
    db.sync().await.unwrap();
    assert_eq!(obstacle(&store, MINUTE, later(60 * MINUTE)), None);

    // The file is replaced behind our back.
    drop(application);
    let new = dir.path().join("new.db");
    scenario::commit(&scenario::quiet_connection(&new).unwrap(), 5).unwrap();
    scenario::replace_by_rename(&dir.path().join("app.db"), &new).unwrap();
    assert!(obstacle(&store, MINUTE, later(2 * MINUTE)).is_some());
    store.close(&CancellationToken::new()).await;
}

/// The address is fetched with `GET`, redirects are followed, and a failure is not
/// repeated before the interval is over.
#[tokio::test]
async fn pings_are_gets_that_follow_redirects() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let application = scenario::quiet_connection(&dir.path().join("app.db")).unwrap();
    scenario::commit(&application, 10).unwrap();
    store.databases().remove(0).sync().await.unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ping?id=1", listener.local_addr().unwrap());
    let heartbeat = Heartbeat {
        url,
        interval: Duration::from_millis(300),
        check_interval: Duration::from_millis(10),
        http: HttpPool::default(),
    };
    let running = tokio::spawn(heartbeat.run(store.clone()));
    let answers = ["302 Found\r\nlocation: /other", "204 No Content", "500 Internal Server Error", "200 OK"];
    let mut lines = Vec::new();
    let mut times = Vec::new();
    for answer in answers {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let len = stream.read(&mut request).await.unwrap();
        times.push(Instant::now());
        lines.push(String::from_utf8_lossy(&request[..len]).lines().next().unwrap().to_owned());
        let answer = format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    running.abort();
    assert_eq!(
        lines,
        ["GET /ping?id=1 HTTP/1.1", "GET /other HTTP/1.1", "GET /ping?id=1 HTTP/1.1", "GET /ping?id=1 HTTP/1.1"]
    );
    assert!(times[3] - times[2] >= Duration::from_millis(250), "{:?}", times[3] - times[2]);
    store.close(&CancellationToken::new()).await;
}
