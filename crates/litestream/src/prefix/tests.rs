//! The mirror against a store whose answers come late, or not at all.

use bytes::Bytes;
use litestream_replica::clock::ManualClock;
use litestream_replica::{Body, Error as ReplicaError, ErrorKind as ReplicaErrorKind, WriteMode};
use tokio::sync::Notify;

use super::*;

/// A store that holds names only, whose listings and writes can be held up.
#[derive(Default)]
struct Names {
    files: Mutex<Inventory>,
    listing: Option<(Notify, Notify)>,
    fails: bool,
}

fn file(level: u8, min: u64, max: u64) -> FileInfo {
    let id = FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) };
    FileInfo { id, size: 1, created_at: Timestamp::UNIX_EPOCH }
}

fn request(info: FileInfo) -> WriteRequest {
    let body = Body::Bytes(Bytes::from_static(b"x"));
    WriteRequest { id: info.id, timestamp: info.created_at, mode: WriteMode::CreateOnly, body }
}

fn prefix(names: Names) -> (Arc<Names>, Prefix) {
    let names = Arc::new(names);
    (names.clone(), Prefix::new(names, Arc::new(ManualClock::new(0))))
}

#[async_trait::async_trait]
impl ReplicaClient for Names {
    fn kind(&self) -> &'static str {
        "names"
    }

    fn location(&self) -> String {
        "here".to_owned()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    async fn init(&self) -> ReplicaResult<()> {
        Ok(())
    }

    async fn list(&self, level: Level, _seek: Txid, _metadata: bool) -> ReplicaResult<Vec<FileInfo>> {
        let files = self.files.lock().unwrap().level(level).to_vec();
        if let Some((started, go_on)) = self.listing.as_ref().filter(|_| level == Level::L0) {
            started.notify_one();
            go_on.notified().await;
        }
        Ok(files)
    }

    async fn open(&self, _id: FileId, _offset: u64, _len: u64) -> ReplicaResult<ByteStream> {
        Err(ReplicaError::new(ReplicaErrorKind::NotFound, "names only"))
    }

    async fn write(&self, request: WriteRequest) -> ReplicaResult<FileInfo> {
        let info = FileInfo { id: request.id, size: 1, created_at: request.timestamp };
        self.files.lock().unwrap().insert(info);
        // The reply is lost: it was stored all the same.
        if self.fails { Err(ReplicaError::new(ReplicaErrorKind::Transient, "no reply")) } else { Ok(info) }
    }

    async fn delete(&self, files: &[FileId]) -> ReplicaResult<()> {
        let mut held = self.files.lock().unwrap();
        files.iter().for_each(|id| assert!(held.remove(*id).is_some()));
        Ok(())
    }

    async fn list_objects(&self, _prefix: &str) -> ReplicaResult<Vec<ObjectInfo>> {
        Ok(Vec::new())
    }

    async fn open_object(&self, _key: &str, _offset: u64, _len: u64) -> ReplicaResult<ByteStream> {
        Err(ReplicaError::new(ReplicaErrorKind::NotFound, "names only"))
    }

    async fn delete_all(&self) -> ReplicaResult<()> {
        Ok(())
    }
}

#[tokio::test]
async fn own_writes_and_deletes_are_known_without_a_listing() {
    let (_, prefix) = prefix(Names::default());
    assert!(prefix.known().is_none(), "nothing is known before the first listing");
    prefix.list_all().await.unwrap();
    prefix.write(request(file(0, 1, 1))).await.unwrap();
    prefix.write(request(file(0, 2, 2))).await.unwrap();
    prefix.delete(&[file(0, 1, 1).id]).await.unwrap();
    let names: Vec<FileId> = prefix.known().unwrap().files().iter().map(|file| file.id).collect();
    assert_eq!(names, [file(0, 2, 2).id]);
}

#[tokio::test]
async fn after_a_lost_reply_nothing_is_known_until_the_next_listing() {
    let (_, prefix) = prefix(Names { fails: true, ..Names::default() });
    prefix.list_all().await.unwrap();
    prefix.write(request(file(0, 1, 1))).await.unwrap_err();
    assert!(prefix.known().is_none());
    assert_eq!(prefix.inventory().await.unwrap().files().len(), 1);
    assert!(prefix.known().is_some());
}

#[tokio::test]
async fn what_is_written_during_a_listing_is_not_forgotten() {
    let (names, prefix) = prefix(Names { listing: Some(Default::default()), ..Names::default() });
    let write = async {
        let (started, go_on) = names.listing.as_ref().unwrap();
        started.notified().await;
        // The listing of level 0 was answered already, without this file.
        prefix.write(request(file(0, 1, 1))).await.unwrap();
        go_on.notify_one();
    };
    let (listed, ()) = tokio::join!(prefix.list_all(), write);
    assert_eq!(listed.unwrap().files().len(), 1);
    assert_eq!(prefix.known().unwrap().files().len(), 1);
}

#[tokio::test]
async fn transactions_beyond_ours_are_another_writers() {
    let (names, prefix) = prefix(Names::default());
    prefix.list_all().await.unwrap();
    prefix.write(request(file(0, 1, 1))).await.unwrap();
    names.files.lock().unwrap().insert(file(0, 2, 2));
    assert_eq!(prefix.list_all().await.unwrap_err().kind(), ErrorKind::Setup);
    assert!(prefix.known().is_none(), "nothing may be planned from it");
}

/// Levels may be due before the database could be opened, and then nothing newer was
/// written yet. Seeds 356 and 816 of the simulation.
#[tokio::test]
async fn merging_what_was_there_before_accuses_nobody() {
    let (names, prefix) = prefix(Names::default());
    names.files.lock().unwrap().insert(file(0, 1, 1));
    names.files.lock().unwrap().insert(file(0, 2, 2));
    prefix.list_all().await.unwrap();
    prefix.write(request(file(1, 1, 1))).await.unwrap();
    assert_eq!(prefix.list_all().await.unwrap().newest_txid(), Txid::new(2));
    names.files.lock().unwrap().insert(file(0, 3, 3));
    assert_eq!(prefix.list_all().await.unwrap_err().kind(), ErrorKind::Setup, "this one came later");
}

#[tokio::test]
async fn after_a_lost_reply_during_a_listing_the_listing_is_no_mirror() {
    let (names, prefix) = prefix(Names { listing: Some(Default::default()), fails: true, ..Names::default() });
    let write = async {
        let (started, go_on) = names.listing.as_ref().unwrap();
        started.notified().await;
        prefix.write(request(file(0, 1, 1))).await.unwrap_err();
        go_on.notify_one();
    };
    let (listed, ()) = tokio::join!(prefix.list_all(), write);
    assert!(listed.unwrap().files().is_empty(), "it was answered before");
    assert!(prefix.known().is_none());
}

#[tokio::test]
async fn what_only_reads_is_passed_on_and_changes_nothing_that_is_known() {
    let (names, prefix) = prefix(Names::default());
    assert_eq!(prefix.inspect(|mirror| mirror.files().len()), None);
    prefix.list_all().await.unwrap();
    prefix.write(request(file(0, 1, 1))).await.unwrap();
    names.files.lock().unwrap().insert(file(0, 2, 2));
    assert_eq!((prefix.kind(), prefix.location()), (names.kind(), names.location()));
    assert_eq!(prefix.log_fields(), names.log_fields());
    assert_eq!(prefix.lists_true_times(), names.lists_true_times());
    prefix.init().await.unwrap();
    assert_eq!(prefix.list(Level::L0, Txid::NONE, false).await.unwrap().len(), 2, "the store's answer");
    let missing = |kind| assert_eq!(kind, ReplicaErrorKind::NotFound);
    missing(prefix.open(file(0, 1, 1).id, 0, 1).await.err().unwrap().kind());
    missing(prefix.open_object("key", 0, 1).await.err().unwrap().kind());
    assert!(prefix.list_objects("").await.unwrap().is_empty());
    assert!(!prefix.claim().await.unwrap(), "there is no lease to be had");
    prefix.release().await.unwrap();
    assert_eq!(prefix.inspect(|mirror| mirror.files().len()), Some(1), "and not what that call found");
}

#[tokio::test]
async fn what_is_seen_to_be_gone_is_not_known_and_after_a_reset_nothing_is() {
    let (_, prefix) = prefix(Names::default());
    prefix.is_gone(file(0, 1, 1).id);
    prefix.list_all().await.unwrap();
    prefix.write(request(file(0, 1, 1))).await.unwrap();
    prefix.write(request(file(0, 2, 2))).await.unwrap();
    prefix.is_gone(file(0, 1, 1).id);
    let names: Vec<FileId> = prefix.known().unwrap().files().iter().map(|file| file.id).collect();
    assert_eq!(names, [file(0, 2, 2).id]);
    prefix.delete_all().await.unwrap();
    assert!(prefix.known().is_none());
}
