//! What goes through a client is counted, and nothing else is changed about it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use litestream_replica::lease::{LeaseOptions, LeasedClient};
use litestream_replica::metered::Metered;
use litestream_replica::{Body, Level, ReplicaClient, WriteMode, WriteRequest};
use ltx::Txid;

use crate::store::{Call, Fault, Shelf, file_key, id};

fn request(txid: u64, content: &'static [u8]) -> WriteRequest {
    let body = Body::Bytes(Bytes::from_static(content));
    WriteRequest { id: id(0, txid, txid), timestamp: Timestamp::UNIX_EPOCH, mode: WriteMode::CreateOnly, body }
}

#[tokio::test]
async fn operations_and_bytes_are_counted_by_kind() {
    let shelf = Shelf::new(&[]);
    let metered = Metered::new(shelf.client("db"));
    metered.write(request(1, b"first")).await.unwrap();
    metered.write(request(2, b"second")).await.unwrap();
    assert_eq!(metered.list(Level::L0, Txid::new(2), false).await.unwrap().len(), 1);
    let key = file_key(id(0, 1, 1));
    assert_eq!(metered.list_objects("ltx/").await.unwrap().len(), 2);
    let opened = metered.open(id(0, 2, 2), 0, 0).await.unwrap();
    assert_eq!(metered.snapshot().get.bytes, 0, "bytes count as they arrive");
    assert_eq!(opened.try_collect::<Vec<_>>().await.unwrap().concat(), b"second");
    let opened = metered.open_object(&key, 1, 3).await.unwrap();
    assert_eq!(opened.try_collect::<Vec<_>>().await.unwrap().concat(), b"irs");
    metered.delete(&[id(0, 1, 1), id(0, 2, 2)]).await.unwrap();
    metered.delete_all().await.unwrap();

    let counts = metered.snapshot().operations().map(|(name, counts)| {
        assert_eq!(counts.durations.buckets.iter().sum::<u64>(), counts.durations.count, "{name}");
        (name, counts.count, counts.bytes, counts.errors, counts.durations.count)
    });
    // Two files were deleted by one call; nobody knows how many by the other.
    assert_eq!(counts, [("PUT", 2, 11, 0, 2), ("GET", 2, 9, 0, 2), ("DELETE", 2, 0, 0, 2), ("LIST", 2, 0, 0, 2)]);
}

#[tokio::test]
async fn failures_are_counted_by_operation_and_code() {
    let calls = [Call::Write, Call::Open, Call::Delete, Call::DeleteAll, Call::List, Call::ListObjects];
    let shelf = Shelf::new(&calls.map(Fault::Refuses));
    let operations = Arc::default();
    let metered = Metered::sharing(shelf.client("db"), Arc::clone(&operations));
    metered.write(request(1, b"x")).await.unwrap_err();
    assert!(metered.open(id(0, 1, 1), 0, 0).await.is_err());
    assert!(metered.open_object("a/b", 0, 0).await.is_err());
    metered.delete(&[id(0, 1, 1)]).await.unwrap_err();
    metered.delete_all().await.unwrap_err();
    metered.list(Level::L0, Txid::NONE, false).await.unwrap_err();
    metered.list_objects("").await.unwrap_err();
    shelf.set_faults(&[]);
    assert!(metered.open(id(0, 1, 1), 0, 0).await.is_err(), "no such file");

    let code = |operation, code: &str, count| (operation, code.to_owned(), count);
    let wanted = [
        code("PUT", "setup", 1),
        code("GET", "not_found", 1),
        code("GET", "setup", 2),
        code("DELETE", "setup", 2),
        code("LIST", "setup", 2),
    ];
    assert_eq!(operations.failures(), wanted);
    let counts = operations.snapshot().operations().map(|(_, counts)| (counts.count, counts.bytes, counts.errors));
    assert_eq!(counts, [(0, 0, 1), (0, 0, 3), (0, 0, 2), (0, 0, 2)]);
}

#[tokio::test]
async fn what_is_not_counted_passes_through_as_it_is() {
    let shelf = Shelf::new(&[]);
    let metered = Metered::new(shelf.client("db"));
    assert_eq!((metered.kind(), &*metered.location()), ("memory", "memory:db"));
    assert_eq!(metered.log_fields(), [("path", "db".to_owned())]);
    assert!(!metered.lists_true_times());
    assert_eq!(metered.lock().unwrap().location(), "memory:db/lock.json");
    metered.init().await.unwrap();
    shelf.set_faults(&[Fault::Refuses(Call::Init)]);
    assert_eq!(metered.init().await.unwrap_err().to_string(), "Init: access denied");

    let options = LeaseOptions { owner: "a:1".to_owned(), ttl: Duration::from_secs(30) };
    let leased = LeasedClient::new(shelf.client("db"), options, shelf.clock.clone()).unwrap();
    let metered = Metered::new(Arc::new(leased));
    assert!(metered.claim().await.unwrap(), "a right that is new");
    assert!(!metered.claim().await.unwrap());
    assert_eq!(shelf.keys(), ["db/lock.json"]);
    metered.release().await.unwrap();
    assert_eq!(shelf.keys(), Vec::<String>::new());
    assert_eq!(metered.snapshot(), Metered::new(shelf.client("db")).snapshot(), "nothing was counted");
}
