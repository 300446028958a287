//! Writing under a lease, on a store whose answers and time the tests own.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use litestream_replica::clock::Clock;
use litestream_replica::lease::{Lease, LeaseOptions, LeasedClient};
use litestream_replica::{Body, ErrorKind, Level, ReplicaClient, Result, WriteMode, WriteRequest};
use ltx::Txid;
use tokio::time::Instant;
use tracing::field::{Field, Visit};

use crate::store::{Call, Fault, Shelf, file_key, id};

fn leased(shelf: &Arc<Shelf>, ttl: Duration) -> Result<LeasedClient> {
    let options = LeaseOptions { owner: "a:1".to_owned(), ttl };
    LeasedClient::new(shelf.client("db"), options, Arc::new(Passing(Instant::now())))
}

/// Wall-clock time that passes as that of the runtime does, the virtual one included.
struct Passing(Instant);

impl Clock for Passing {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap() + self.0.elapsed()
    }
}

/// A client that may write.
async fn holder(shelf: &Arc<Shelf>) -> LeasedClient {
    let client = leased(shelf, TTL).unwrap();
    assert!(client.claim().await.unwrap());
    assert!(!client.claim().await.unwrap());
    client
}

fn request(txid: u64) -> WriteRequest {
    let body = Body::Bytes(Bytes::from_static(b"content"));
    WriteRequest { id: id(0, txid, txid), timestamp: Timestamp::UNIX_EPOCH, mode: WriteMode::CreateOnly, body }
}

/// Somebody else's lease, as its document says.
fn put_foreign_lease(shelf: &Shelf) {
    let expires_at = "2099-01-01T00:00:00Z".parse().unwrap();
    shelf.put(LOCK, Lease { generation: 9, expires_at, owner: "b:2".to_owned() }.to_json(), 0);
}

fn assert_not_held<T: Debug>(result: Result<T>) {
    let error = result.unwrap_err();
    assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::Leased, "memory:db/lock.json: lease not held"));
}

#[tokio::test]
async fn a_lease_that_cannot_be_held_is_refused_before_anything_is_asked() {
    let shelf = Shelf::new(&[Fault::NoLock]);
    let error = leased(&shelf, TTL).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Setup);
    assert_eq!(error.to_string(), "lease is not supported for memory replicas, only for s3");

    let shelf = Shelf::new(&[]);
    let error = leased(&shelf, Duration::from_millis(999)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Setup);
    assert_eq!(error.to_string(), "lease ttl must be at least 1s, got 999ms");
    assert_eq!((shelf.count(Call::ReadLock), shelf.count(Call::PutLock)), (0, 0));
}

#[tokio::test]
async fn reading_needs_no_lease_and_changing_does() {
    let shelf = Shelf::new(&[]);
    shelf.put(&format!("db/{}", file_key(id(0, 1, 1))), "content", 0);
    let client = leased(&shelf, TTL).unwrap();
    assert_eq!((client.kind(), &*client.location()), ("memory", "memory:db"));
    assert_eq!(client.log_fields(), [("path", "db".to_owned())]);
    assert!(!client.lists_true_times(), "as the client inside says");
    assert!(client.lock().is_none(), "it is taken already");
    client.init().await.unwrap();
    assert_eq!(client.list(Level::L0, Txid::NONE, false).await.unwrap().len(), 1);
    let objects = client.list_objects("ltx/").await.unwrap();
    let opened = client.open(id(0, 1, 1), 3, 2).await.unwrap();
    assert_eq!(opened.try_collect::<Vec<_>>().await.unwrap().concat(), b"te");
    let opened = client.open_object(&objects.first().unwrap().key, 0, 0).await.unwrap();
    assert_eq!(opened.try_collect::<Vec<_>>().await.unwrap().concat(), b"content");

    assert_not_held(client.write(request(2)).await);
    assert_not_held(client.delete(&[id(0, 1, 1)]).await);
    assert_not_held(client.delete_all().await);
    assert_eq!(shelf.keys(), [format!("db/{}", file_key(id(0, 1, 1)))]);
}

#[tokio::test]
async fn the_holder_removes_everything_the_lease_included() {
    let shelf = Shelf::new(&[]);
    let client = holder(&shelf).await;
    client.write(request(1)).await.unwrap();
    assert_eq!(shelf.keys(), [LOCK.to_owned(), format!("db/{}", file_key(id(0, 1, 1)))]);
    client.delete_all().await.unwrap();
    assert_eq!(shelf.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_is_deleted_once_the_document_is_another_s() {
    let shelf = Shelf::new(&[]);
    let client = holder(&shelf).await;
    client.write(request(1)).await.unwrap();
    // By its own clock the lease is still good.
    put_foreign_lease(&shelf);
    assert_not_held(client.delete(&[id(0, 1, 1)]).await);
    assert_not_held(client.delete_all().await);
    assert_eq!((shelf.count(Call::Delete), shelf.count(Call::DeleteAll)), (0, 0));
}

#[tokio::test]
async fn a_document_that_is_no_lease_stops_the_claim_and_says_what_to_do() {
    let shelf = Shelf::new(&[]);
    shelf.put(LOCK, "{", 0);
    let error = leased(&shelf, TTL).unwrap().claim().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let wanted = "memory:db/lock.json; remove it if nobody else writes here: not a lease: no JSON";
    assert_eq!(error.to_string(), wanted);
    assert_eq!(shelf.body(LOCK).unwrap(), "{".as_bytes());
}

#[tokio::test]
async fn a_claim_that_is_overtaken_again_and_again_ends() {
    let shelf = Shelf::new(&[Fault::NeverPuts]);
    let error = leased(&shelf, TTL).unwrap().claim().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(error.to_string(), "memory:db/lock.json: lease changes all the time");
}

#[tokio::test]
async fn a_claim_that_may_not_write_gives_no_right() {
    let shelf = Shelf::new(&[Fault::Refuses(Call::PutLock)]);
    let client = leased(&shelf, TTL).unwrap();
    assert_eq!(client.claim().await.unwrap_err().to_string(), "PutLock: access denied");
    assert_not_held(client.write(request(1)).await);
    // Nothing arrived, so the next claim takes it as if nothing had been.
    shelf.set_faults(&[]);
    assert!(client.claim().await.unwrap());
}

#[tokio::test]
async fn a_store_whose_conditions_could_not_be_tried_gives_no_right_yet() {
    let shelf = Shelf::new(&[Fault::LosesPutsOverOthers]);
    let client = leased(&shelf, TTL).unwrap();
    let error = client.claim().await.unwrap_err();
    assert_eq!((error.kind(), &*error.to_string()), (ErrorKind::Transient, "connection reset"));
    assert_not_held(client.write(request(1)).await);
    assert_eq!(shelf.keys(), [LOCK], "a fault that passes gives no lease away");
    shelf.set_faults(&[]);
    assert!(client.claim().await.unwrap(), "the lease is new to whoever asked");
    assert_eq!(shelf.count(Call::PutLock), 4, "the lease, a condition in vain, and both again");
}

/// The document stands there and is ours, and nobody has looked yet whether the store
/// would keep it from others.
#[tokio::test]
async fn a_lease_whose_first_answer_was_lost_is_looked_at_like_any_other() {
    for (fault, kind) in [(None, None), (Some(Fault::IgnoresMatch), Some(ErrorKind::Setup))] {
        let shelf = Shelf::new(&[Fault::LosesPutAnswers]);
        let client = leased(&shelf, TTL).unwrap();
        assert_eq!(client.claim().await.unwrap_err().kind(), ErrorKind::Transient);
        assert_eq!(shelf.keys(), [LOCK]);
        shelf.set_faults(fault.as_slice());
        let claimed = client.claim().await;
        match kind {
            None => assert!(claimed.unwrap(), "others may have written before"),
            Some(kind) => assert_eq!(claimed.unwrap_err().kind(), kind),
        }
        assert_eq!(shelf.count(Call::PutLock), 3, "the lease and both conditions");
        assert_not_held(client.write(request(1)).await);
    }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_given_up_even_if_the_document_stays() {
    let (log, _guard) = Log::listen();
    let shelf = Shelf::new(&[Fault::IgnoresMatch, Fault::Refuses(Call::RemoveLock)]);
    let client = leased(&shelf, TTL).unwrap();
    let error = client.claim().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setup);
    let wanted = "memory:db/lock.json ignores If-Match: this store cannot hold a lease";
    assert_eq!(error.to_string(), wanted);
    assert_not_held(client.write(request(1)).await);
    assert_eq!(log.of("cannot remove lease"), ["lock=memory:db/lock.json error=RemoveLock: access denied"]);
}

#[tokio::test]
async fn a_released_lease_is_taken_anew_and_conditions_are_tried_once() {
    let (log, _guard) = Log::listen();
    let shelf = Shelf::new(&[]);
    let client = holder(&shelf).await;
    assert_eq!(shelf.count(Call::PutLock), 3, "the lease and both conditions");
    client.release().await.unwrap();
    assert_eq!(shelf.keys(), Vec::<String>::new());
    assert_not_held(client.write(request(1)).await);
    assert!(client.claim().await.unwrap(), "others may have written meanwhile");
    assert_not_held(client.write(request(1)).await);
    assert!(!client.claim().await.unwrap());
    client.write(request(1)).await.unwrap();
    assert_eq!(shelf.count(Call::PutLock), 4);
    let acquired = "lock=memory:db/lock.json owner=a:1 generation=1 ttl=30s";
    assert_eq!(log.of("lease acquired"), [acquired, acquired]);
    assert_eq!(log.of("lease released"), ["lock=memory:db/lock.json"]);
}

#[tokio::test]
async fn a_release_leaves_alone_what_is_not_ours_any_more() {
    let (log, _guard) = Log::listen();
    let shelf = Shelf::new(&[]);
    let client = holder(&shelf).await;
    shelf.remove(LOCK);
    client.release().await.unwrap();
    assert_eq!(log.of("lease already released"), ["lock=memory:db/lock.json"]);
    client.release().await.unwrap();
    assert_eq!(shelf.count(Call::RemoveLock), 1, "there is nothing to give back twice");

    let client = holder(&shelf).await;
    put_foreign_lease(&shelf);
    client.release().await.unwrap();
    assert_eq!(log.of("lease was taken before it was released"), ["lock=memory:db/lock.json"]);
    assert_eq!(shelf.keys(), [LOCK]);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_tried_again_before_the_lease_ends() {
    let (log, _guard) = Log::listen();
    let shelf = Shelf::new(&[]);
    let client = holder(&shelf).await;
    shelf.set_faults(&[Fault::Refuses(Call::PutLock)]);
    // The clock is virtual: it passes a renewal, a third of the lease, and attempts.
    tokio::time::sleep(TTL / 2).await;
    let complaints = log.of("cannot renew lease, trying again");
    assert!(complaints.len() > 1, "{complaints:?}");
    assert_eq!(complaints.first().unwrap(), "lock=memory:db/lock.json error=PutLock: access denied");
    client.write(request(1)).await.unwrap();

    shelf.set_faults(&[]);
    tokio::time::sleep(TTL).await;
    client.write(request(2)).await.unwrap();
    assert_eq!(log.of("lease lost, not writing to the replica"), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_renewed_ends_in_time() {
    let shelf = Shelf::new(&[]);
    let client = holder(&shelf).await;
    shelf.set_faults(&[Fault::Refuses(Call::PutLock), Fault::Hangs(Call::Write)]);
    let began = Instant::now();
    assert_not_held(client.write(request(1)).await);
    let took = began.elapsed();
    // Others may take it after a whole one; a tenth is left for what is under way.
    assert!(took >= TTL * 8 / 10 && took <= TTL * 9 / 10 + Duration::from_millis(10), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn losing_the_lease_ends_a_write_under_way() {
    let (log, _guard) = Log::listen();
    let shelf = Shelf::new(&[]);
    let client = holder(&shelf).await;
    put_foreign_lease(&shelf);
    shelf.set_faults(&[Fault::Hangs(Call::Write)]);
    let began = Instant::now();
    assert_not_held(client.write(request(1)).await);
    assert!(began.elapsed() <= TTL / 2, "noticed by the next renewal: {:?}", began.elapsed());
    let lost = log.of("lease lost, not writing to the replica");
    let [text] = &*lost else { panic!("{lost:?}") };
    assert!(text.contains("lease already held by b:2 until 2099-01-01T00:00:00Z"), "{text}");
    let error = client.claim().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Leased, "{error}");
}

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Line>>>);

#[derive(Clone, Default)]
struct Line {
    message: String,
    fields: Vec<String>,
}

impl Log {
    /// Listens until the guard is dropped.
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        (log.clone(), tracing::subscriber::set_default(log))
    }

    /// The fields of each line with this message.
    fn of(&self, message: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.message == message).map(|line| line.fields.join(" ")).collect()
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.fields.push(format!("{name}={value:?}")),
        }
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

const LOCK: &str = "db/lock.json";
const TTL: Duration = Duration::from_secs(30);
