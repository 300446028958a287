//! Real files, real inputs, and inputs of every bad kind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use litestream_replica::file::{FileClient, FileOptions};
use litestream_replica::{ByteStream, Level, ObjectInfo, Result as ReplicaResult};
use ltx::{Checksum, Encoder, Header, PageSize, Pgno, Txid};
use tokio::sync::mpsc;

use super::*;

/// A replica of upstream's level-0 files 1 to 5, and directories to work in.
struct Setup {
    dir: tempfile::TempDir,
    client: Arc<dyn ReplicaClient>,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let replica = dir.path().join("replica");
        fs::create_dir_all(replica.join("ltx/0")).unwrap();
        for txid in 1..=5 {
            fs::copy(golden(0, txid, txid), replica.join("ltx/0").join(name(txid, txid))).unwrap();
        }
        let client = Arc::new(FileClient::new(FileOptions::new(replica)).unwrap());
        Self { dir, client }
    }

    async fn remote(&self, level: u8) -> Vec<Source> {
        let files = self.client.list(Level::new(level).unwrap(), Txid::NONE, false).await.unwrap();
        files.into_iter().map(Source::Remote).collect()
    }

    fn local(&self, txids: impl IntoIterator<Item = u64>) -> Vec<Source> {
        txids.into_iter().map(|txid| Source::Local(self.path(0, txid, txid))).collect()
    }

    fn path(&self, level: u8, min: u64, max: u64) -> PathBuf {
        self.dir.path().join("replica/ltx").join(level.to_string()).join(name(min, max))
    }

    fn staging(&self) -> PathBuf {
        self.dir.path().join("meta/ltx/1/staged")
    }

    fn job(&self, into: FileId, inputs: Vec<Source>) -> Job {
        let scratch = self.dir.path().join("scratch");
        Job { into, inputs, staging: None, scratch, disk: Disk::default(), fan_in: FAN_IN }
    }

    /// Compacts streamed and staged; both must fail alike and leave nothing.
    async fn fault(&self, into: FileId, inputs: Vec<Source>) -> Fault {
        let mut faults = Vec::new();
        for staging in [None, Some(self.staging())] {
            let job = Job { staging, ..self.job(into, inputs.clone()) };
            faults.push(compact(&self.client, job).await.unwrap_err());
            self.assert_nothing_made();
        }
        assert_eq!(faults[0].to_string(), faults[1].to_string());
        faults.remove(0)
    }

    /// No output, no staging file, no temporary file, and no input still open.
    fn assert_nothing_made(&self) {
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new());
    }

    /// What a failed compaction must not leave: files, and open files.
    fn leftovers(&self) -> Vec<PathBuf> {
        let made = ["replica/ltx/1", "meta/ltx/1", "scratch"].map(|dir| fs::read_dir(self.dir.path().join(dir)));
        let made = made.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
        let mut leftovers: Vec<_> = made.collect();
        leftovers.extend(self.open_files());
        leftovers
    }

    fn open_files(&self) -> Vec<PathBuf> {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten().flat_map(|entry| fs::read_link(entry.path()));
        links.filter(|file| file.starts_with(self.dir.path())).collect()
    }
}

fn name(min: u64, max: u64) -> String {
    FileName { min: Txid::new(min), max: Txid::new(max) }.to_string()
}

fn golden(level: u8, min: u64, max: u64) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/ltx/p512/ltx");
    dir.join(level.to_string()).join(name(min, max))
}

fn id(level: u8, min: u64, max: u64) -> FileId {
    FileId { level: Level::new(level).unwrap(), min: Txid::new(min), max: Txid::new(max) }
}

/// A delta with pages of 512 bytes that all hold `fill`.
fn write_delta(path: &Path, txids: (u64, u64), fill: u8, pages: impl IntoIterator<Item = u32>) {
    let size = PageSize::new(512).unwrap();
    let time = Timestamp::from_second(1_795_341_969).unwrap();
    let header = Header::new(size, 90_000, Txid::new(txids.0), Txid::new(txids.1), time);
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    for pgno in pages {
        encoder.encode_page(Pgno::new(pgno).unwrap(), &[fill; 512]).unwrap();
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, encoder.finish(Checksum::NONE).unwrap().0).unwrap();
}

/// Page and first byte of each page of a file.
fn pages(path: &Path) -> Vec<(u32, u8)> {
    let file = fs::read(path).unwrap();
    let mut decoder = ltx::Decoder::new(file.as_slice()).unwrap();
    let (mut page, mut pages) = ([0; 512], Vec::new());
    while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
        pages.push((pgno.get(), page[0]));
    }
    decoder.finish().unwrap();
    pages
}

#[tokio::test]
async fn compaction_gives_upstreams_bytes_from_local_and_remote_files_staged_or_streamed() {
    let expected = fs::read(golden(1, 2, 5)).unwrap();
    for (local, stage) in [(false, false), (false, true), (true, false), (true, true)] {
        let setup = Setup::new();
        let inputs = if local { setup.local(2..=5) } else { setup.remote(0).await.split_off(1) };
        let staging = stage.then(|| setup.staging());
        let job = Job { staging: staging.clone(), ..setup.job(id(1, 2, 5), inputs) };
        let info = compact(&setup.client, job).await.unwrap();
        assert_eq!((info.id, info.size), (id(1, 2, 5), expected.len() as u64));
        assert_eq!(fs::read(setup.path(1, 2, 5)).unwrap(), expected, "local {local}, staged {stage}");
        if let Some(staging) = staging {
            assert_eq!(fs::read(staging).unwrap(), expected);
        }
    }
}

/// The body of a merged file does not depend on how often it is merged.
#[tokio::test]
async fn a_single_file_of_level_1_becomes_the_same_bytes_at_level_2() {
    let setup = Setup::new();
    fs::create_dir_all(setup.path(1, 2, 5).parent().unwrap()).unwrap();
    fs::copy(golden(1, 2, 5), setup.path(1, 2, 5)).unwrap();
    let inputs = setup.remote(1).await;
    compact(&setup.client, setup.job(id(2, 2, 5), inputs)).await.unwrap();
    assert_eq!(fs::read(setup.path(2, 2, 5)).unwrap(), fs::read(golden(1, 2, 5)).unwrap());
}

/// A reply that was lost: the second try meets what the first one stored.
#[tokio::test]
async fn compacting_again_meets_its_own_file_and_another_writers_is_an_error() {
    let setup = Setup::new();
    let job = setup.job(id(1, 2, 5), setup.local(2..=5));
    let first = compact(&setup.client, job.clone()).await.unwrap();
    assert_eq!(compact(&setup.client, job.clone()).await.unwrap(), first);
    fs::write(setup.path(1, 2, 5), "somebody else's").unwrap();
    let fault = compact(&setup.client, job).await.unwrap_err();
    assert!(matches!(&fault, Fault::Other(err) if err.kind() == ErrorKind::Setup), "{fault}");
    assert_eq!(fs::read(setup.path(1, 2, 5)).unwrap(), b"somebody else's");
    assert_eq!(setup.open_files(), Vec::<PathBuf>::new());
}

/// A store showed objects before all of their bytes could be read, and the
/// compacted file was garbage (upstream #760). And a header that did not decode
/// made an empty output that counted as success (upstream ltx#80).
#[tokio::test]
async fn input_that_is_damaged_anywhere_is_named_and_nothing_is_published() {
    let sound = fs::read(golden(0, 3, 3)).unwrap();
    let flipped = |at: usize| {
        let mut file = sound.clone();
        file[at] ^= 0x40;
        file
    };
    let cut = |len: usize| sound[..len].to_vec();
    let len = sound.len();
    let damaged =
        [flipped(1), flipped(70), flipped(140), flipped(len - 30), flipped(len - 1), cut(0), cut(99), cut(len - 1)];
    for (case, bytes) in damaged.into_iter().enumerate() {
        let setup = Setup::new();
        fs::write(setup.path(0, 3, 3), bytes).unwrap();
        for inputs in [setup.local(2..=5), setup.remote(0).await.split_off(1)] {
            let guilty = inputs[1].clone();
            match setup.fault(id(1, 2, 5), inputs).await {
                Fault::Input { source, problem: Problem::Corrupt, .. } => assert_eq!(source, guilty, "case {case}"),
                fault => panic!("case {case}: {fault}"),
            }
        }
    }
}

#[tokio::test]
async fn a_remote_file_shorter_than_its_listing_is_corrupt() {
    let setup = Setup::new();
    let mut inputs = setup.remote(0).await.split_off(1);
    let Source::Remote(info) = &mut inputs[2] else { unreachable!() };
    info.size += 1;
    let guilty = inputs[2].clone();
    match compact(&setup.client, setup.job(id(1, 2, 5), inputs)).await.unwrap_err() {
        Fault::Input { source, problem: Problem::Corrupt, .. } => assert_eq!(source, guilty),
        fault => panic!("{fault}"),
    }
    setup.assert_nothing_made();
}

#[tokio::test]
async fn input_that_is_gone_is_named_as_missing() {
    let setup = Setup::new();
    let (local, remote) = (setup.local(2..=5), setup.remote(0).await.split_off(1));
    fs::remove_file(setup.path(0, 4, 4)).unwrap();
    for inputs in [local, remote] {
        let guilty = inputs[2].clone();
        match setup.fault(id(1, 2, 5), inputs).await {
            Fault::Input { source, problem: Problem::Missing, .. } => assert_eq!(source, guilty),
            fault => panic!("{fault}"),
        }
    }
}

#[tokio::test]
async fn input_that_is_not_what_its_name_says_is_corrupt() {
    let setup = Setup::new();
    fs::copy(setup.path(0, 3, 3), setup.path(0, 4, 4)).unwrap();
    let fault = setup.fault(id(1, 2, 5), setup.local(2..=5)).await;
    assert!(fault.to_string().contains("header says 0000000000000003-0000000000000003.ltx"), "{fault}");
    assert!(matches!(fault, Fault::Input { source, problem: Problem::Corrupt, .. } if source == setup.local([4])[0]));
}

#[tokio::test]
async fn a_hole_between_inputs_is_told_apart_from_a_bad_input() {
    let setup = Setup::new();
    let fault = setup.fault(id(1, 2, 5), setup.local([2, 3, 5])).await;
    assert_eq!(
        fault.to_string(),
        "non-contiguous transaction ids in input files: \
         (0000000000000003,0000000000000003) -> (0000000000000005,0000000000000005)"
    );
    assert!(matches!(fault, Fault::Hole { .. }));
    let range = setup.fault(id(1, 2, 4), setup.local(2..=5)).await;
    assert!(matches!(range, Fault::Unfit(_)), "{range}");
    let nothing = setup.fault(id(1, 2, 4), Vec::new()).await;
    assert!(matches!(nothing, Fault::Unfit(_)), "{nothing}");
}

/// Sorting that mixed min and max broke overlapping files (upstream ltx#59, #857).
#[tokio::test]
async fn overlapping_inputs_merge_in_the_order_given() {
    let setup = Setup::new();
    let files = [((2, 4), 1, vec![1, 2, 3]), ((2, 6), 2, vec![2, 4]), ((5, 9), 3, vec![3, 4, 5])];
    let mut inputs = Vec::new();
    for (txids, fill, pages) in files {
        let path = setup.path(0, txids.0, txids.1);
        write_delta(&path, txids, fill, pages);
        inputs.push(Source::Local(path));
    }
    compact(&setup.client, setup.job(id(1, 2, 9), inputs.clone())).await.unwrap();
    assert_eq!(pages(&setup.path(1, 2, 9)), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 3)]);
    fs::remove_file(setup.path(1, 2, 9)).unwrap();
    inputs.swap(1, 2);
    let fault = setup.fault(id(1, 2, 9), inputs).await;
    assert!(matches!(fault, Fault::Hole { .. }), "{fault}");
}

#[tokio::test]
async fn a_burst_of_more_files_than_may_be_open_is_merged_in_parts() {
    let setup = Setup::new();
    let count = u32::try_from(FAN_IN).unwrap() * 3 / 2;
    let fill = |txid: u32| u8::try_from(txid % 251).unwrap();
    let mut inputs = Vec::new();
    for txid in 2..=count {
        let path = setup.path(0, txid.into(), txid.into());
        write_delta(&path, (txid.into(), txid.into()), fill(txid), [1, 1 + txid]);
        inputs.push(Source::Local(path));
    }
    let into = id(1, 2, count.into());
    compact(&setup.client, setup.job(into, inputs)).await.unwrap();
    let expected: Vec<_> =
        [(1, fill(count))].into_iter().chain((2..=count).map(|txid| (1 + txid, fill(txid)))).collect();
    assert_eq!(pages(&setup.path(1, 2, count.into())), expected);
    assert_eq!(fs::read_dir(setup.dir.path().join("scratch")).unwrap().count(), 0);
    assert_eq!(setup.open_files(), Vec::<PathBuf>::new());
}

/// What goes wrong with a store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mishap {
    /// Every download ends after so many bytes.
    ShortReads(usize),
    /// Downloads never begin.
    StalledReads,
    /// Uploads fail after their first chunk.
    FailingWrites,
    /// Uploads take one chunk and then wait for ever.
    StalledWrites,
}

/// A store with a mishap. Reports on `events` when it stalls; the channel closes
/// when nobody holds the store any more.
struct Unlucky {
    inner: Arc<dyn ReplicaClient>,
    mishap: Mishap,
    events: mpsc::UnboundedSender<()>,
}

impl Unlucky {
    fn over(setup: &Setup, mishap: Mishap) -> (Arc<dyn ReplicaClient>, mpsc::UnboundedReceiver<()>) {
        let (events, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self { inner: Arc::clone(&setup.client), mishap, events }), receiver)
    }

    async fn stall(&self) -> ! {
        let _ = self.events.send(());
        std::future::pending().await
    }
}

#[async_trait::async_trait]
impl ReplicaClient for Unlucky {
    fn kind(&self) -> &'static str {
        "unlucky"
    }

    fn location(&self) -> String {
        self.inner.location()
    }

    fn log_fields(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    async fn init(&self) -> ReplicaResult<()> {
        Ok(())
    }

    async fn list(&self, level: Level, seek: Txid, metadata: bool) -> ReplicaResult<Vec<FileInfo>> {
        self.inner.list(level, seek, metadata).await
    }

    async fn open(&self, id: FileId, offset: u64, len: u64) -> ReplicaResult<ByteStream> {
        match self.mishap {
            Mishap::StalledReads => self.stall().await,
            Mishap::ShortReads(most) => {
                let parts: Vec<Bytes> = self.inner.open(id, offset, len).await?.try_collect().await?;
                let bytes = Bytes::from(parts.concat());
                Ok(Box::pin(stream::iter([Ok(bytes.slice(..most.min(bytes.len())))])))
            }
            _ => self.inner.open(id, offset, len).await,
        }
    }

    async fn write(&self, request: WriteRequest) -> ReplicaResult<FileInfo> {
        if let Body::Stream(mut body) = request.body {
            assert!(body.next().await.unwrap().is_ok());
            if self.mishap == Mishap::StalledWrites {
                self.stall().await;
            }
        }
        Err(litestream_replica::Error::new(ReplicaErrorKind::Transient, "the store is on fire"))
    }

    async fn delete(&self, files: &[FileId]) -> ReplicaResult<()> {
        self.inner.delete(files).await
    }

    async fn list_objects(&self, prefix: &str) -> ReplicaResult<Vec<ObjectInfo>> {
        self.inner.list_objects(prefix).await
    }

    async fn open_object(&self, key: &str, offset: u64, len: u64) -> ReplicaResult<ByteStream> {
        self.inner.open_object(key, offset, len).await
    }

    async fn delete_all(&self) -> ReplicaResult<()> {
        self.inner.delete_all().await
    }
}

/// Stores close downloads that stand idle while other inputs are read (upstream
/// #1077, #1308, #1326).
#[tokio::test]
async fn downloads_that_end_early_go_on_where_they_stopped() {
    let setup = Setup::new();
    let (client, _events) = Unlucky::over(&setup, Mishap::ShortReads(400));
    let inputs = Inputs::new(client, setup.remote(0).await.split_off(1), FAN_IN, CancellationToken::new());
    let scratch = setup.dir.path().join("scratch");
    let merged = tokio::task::spawn_blocking(move || {
        let mut merged = Vec::new();
        Merging::open(inputs, id(1, 2, 5), scratch)?.write(&mut merged)?;
        Ok::<_, Fault>(merged)
    });
    assert_eq!(merged.await.unwrap().unwrap(), fs::read(golden(1, 2, 5)).unwrap());
}

/// More than fits between merge and store, so that the merge must wait for it.
fn large_inputs(setup: &Setup) -> Vec<Source> {
    let paths = [6, 7].map(|txid| {
        let path = setup.path(0, txid, txid);
        write_delta(&path, (txid, txid), u8::try_from(txid).unwrap(), 1..=60_000);
        path
    });
    let size = fs::metadata(&paths[1]).unwrap().len();
    assert!(size > 8 * (64 << 10));
    let remote = FileInfo { id: id(0, 7, 7), size, created_at: Timestamp::UNIX_EPOCH };
    vec![Source::Local(paths[0].clone()), Source::Remote(remote)]
}

/// The producer task leaked for ever, with all inputs open (upstream #1286).
#[tokio::test]
async fn an_upload_that_fails_ends_the_merge_and_closes_its_inputs() {
    for staged in [false, true] {
        let setup = Setup::new();
        let inputs = large_inputs(&setup);
        let (client, mut events) = Unlucky::over(&setup, Mishap::FailingWrites);
        let job = Job { staging: staged.then(|| setup.staging()), ..setup.job(id(1, 6, 7), inputs) };
        let fault = compact(&client, job).await.unwrap_err();
        assert!(matches!(&fault, Fault::Other(err) if err.kind() == ErrorKind::Replica), "{fault}");
        drop(client);
        assert_eq!(events.recv().await, None, "the merge has ended");
        setup.assert_nothing_made();
    }
}

#[tokio::test]
async fn a_compaction_that_is_dropped_ends_the_merge_and_closes_its_inputs() {
    for (mishap, staged) in
        [(Mishap::StalledWrites, false), (Mishap::StalledReads, false), (Mishap::StalledReads, true)]
    {
        let setup = Setup::new();
        let inputs = large_inputs(&setup);
        let (client, mut events) = Unlucky::over(&setup, mishap);
        let job = Job { staging: staged.then(|| setup.staging()), ..setup.job(id(1, 6, 7), inputs) };
        tokio::select! {
            result = compact(&client, job) => panic!("{result:?}"),
            stalled = events.recv() => assert_eq!(stalled, Some(())),
        }
        // The thread lets go of the store and, a moment later, of its files.
        drop(client);
        assert_eq!(events.recv().await, None, "the merge has ended");
        for _ in 0..5_000 {
            if setup.leftovers().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        setup.assert_nothing_made();
    }
}

/// Two compactions at once must not share a chunk or a temporary file.
#[tokio::test]
async fn compactions_run_side_by_side() {
    let setup = Setup::new();
    let jobs = [(2, 4), (2, 5), (3, 5)].map(|(min, max)| setup.job(id(1, min, max), setup.local(min..=max)));
    let clients = [Arc::clone(&setup.client), Arc::clone(&setup.client), Arc::clone(&setup.client)];
    let running = jobs.into_iter().zip(&clients).map(|(job, client)| compact(client, job));
    let infos = futures_util::future::join_all(running).await;
    assert!(infos.iter().all(Result::is_ok));
    assert_eq!(fs::read(setup.path(1, 2, 5)).unwrap(), fs::read(golden(1, 2, 5)).unwrap());
}
