//! Each server stores, lists and forgets objects, and upstream can use it.

use litestream_testkit::s3_server::{self, Kind, S3Server};
use litestream_testkit::{image, upstream};
use rusqlite::Connection;

#[test]
fn buckets_are_apart_and_keep_objects() {
    for kind in [Kind::Moto, Kind::SeaweedFs] {
        let bucket = s3_server::fresh_bucket(kind).unwrap();
        let other = s3_server::fresh_bucket(kind).unwrap();
        bucket.put("a/one", b"1").unwrap();
        bucket.put("a/two words", b"2").unwrap();
        bucket.put("b", b"3").unwrap();
        assert_eq!(bucket.keys("a/").unwrap(), ["a/one", "a/two words"], "{kind:?}");
        assert_eq!(bucket.get("a/two words").unwrap().as_deref(), Some(&b"2"[..]), "{kind:?}");
        bucket.delete("a/one").unwrap();
        assert_eq!(bucket.get("a/one").unwrap(), None, "{kind:?}");
        assert_eq!(other.keys("").unwrap(), Vec::<String>::new(), "{kind:?}");
    }
}

#[test]
fn upstream_replicates_to_each_server_and_restores() {
    for kind in [Kind::Moto, Kind::SeaweedFs] {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("db");
        let connection = Connection::open(&db).unwrap();
        connection.execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        let bucket = s3_server::fresh_bucket(kind).unwrap();
        let config = dir.path().join("litestream.yml");
        let replica = bucket.config("some/db").replace('\n', "\n      ");
        std::fs::write(&config, format!("dbs:\n  - path: {}\n    replica:\n      {replica}\n", db.display())).unwrap();

        let litestream = upstream::litestream();
        let args = ["replicate", "-once", "-config", config.to_str().unwrap()];
        litestream.run(args).unwrap().success().unwrap();
        assert!(!bucket.keys("some/db/").unwrap().is_empty(), "{kind:?}");
        let restored = dir.path().join("restored");
        litestream.restore_with(&config, &db, &restored).unwrap();
        let expected = image::read_image(&db).unwrap();
        expected.assert_same(&image::Image::of_closed_file(&restored).unwrap(), &format!("{kind:?}"));
    }
}

#[test]
fn dropping_a_server_ends_it() {
    let server = S3Server::start(Kind::Moto).unwrap();
    let bucket = server.fresh_bucket().unwrap();
    bucket.put("key", b"").unwrap();
    drop(server);
    assert!(bucket.get("key").is_err());
}
