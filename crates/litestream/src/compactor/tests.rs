//! Real files, real inputs, and inputs of every bad kind.

use std::fs;
use std::path::Path;

use litestream_replica::Level;
use litestream_replica::file::{FileClient, FileOptions};
use ltx::Txid;

use super::*;

/// A replica made of upstream's files, and directories to work in.
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

    fn local(&self, level: u8, min: u64, max: u64) -> Source {
        Source::Local(self.path(level, min, max))
    }

    fn path(&self, level: u8, min: u64, max: u64) -> PathBuf {
        self.dir.path().join("replica/ltx").join(level.to_string()).join(name(min, max))
    }

    fn job(&self, into: FileId, inputs: Vec<Source>) -> Job {
        Job { into, inputs, staging: None, scratch: self.dir.path().join("scratch") }
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

#[tokio::test]
async fn compaction_gives_upstreams_bytes_from_local_and_remote_files_staged_or_streamed() {
    let expected = fs::read(golden(1, 2, 5)).unwrap();
    for (local, stage) in [(false, false), (false, true), (true, false), (true, true)] {
        let setup = Setup::new();
        let inputs = if local {
            (2..=5).map(|txid| setup.local(0, txid, txid)).collect()
        } else {
            setup.remote(0).await.split_off(1)
        };
        let staging = stage.then(|| setup.dir.path().join("meta/ltx/1").join(name(2, 5)));
        let job = Job { staging: staging.clone(), ..setup.job(id(1, 2, 5), inputs) };
        let info = compact(&setup.client, job).await.unwrap();
        assert_eq!((info.id, info.size), (id(1, 2, 5), expected.len() as u64));
        assert_eq!(fs::read(setup.path(1, 2, 5)).unwrap(), expected, "local {local}, staged {stage}");
        if let Some(staging) = staging {
            assert_eq!(fs::read(staging).unwrap(), expected);
        }
    }
}
