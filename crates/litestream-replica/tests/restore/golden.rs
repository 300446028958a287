//! Files that upstream's released binaries wrote restore to what it restores.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use litestream_replica::Target;
use litestream_replica::file::{FileClient, FileOptions};
use sha2::{Digest, Sha256};

use crate::world::{names, restore_to};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/ltx")
}

fn manifest() -> serde_json::Value {
    serde_json::from_slice(&fs::read(golden().join("MANIFEST.json")).unwrap()).unwrap()
}

fn client(replica: &Path) -> Arc<FileClient> {
    Arc::new(FileClient::new(FileOptions::new(replica)).unwrap())
}

fn sha256(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_of_files_restores_to_upstreams_bytes() {
    for restore in manifest()["restores"].as_array().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let replica = dir.path().join("replica");
        for file in restore["files"].as_array().unwrap() {
            let file = Path::new(file.as_str().unwrap());
            let copy = replica.join(file.strip_prefix(restore["case"].as_str().unwrap()).unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(golden().join(file), copy).unwrap();
        }
        let restored = restore_to(client(&replica), dir.path(), |_| {}).await.unwrap();
        assert_eq!(restored.txid.to_string(), restore["txid"].as_str().unwrap());
        assert_eq!(restored.output_len, restore["db_size"].as_u64().unwrap());
        assert_eq!(sha256(&dir.path().join("db")), restore["db_sha256"].as_str().unwrap(), "{restore}");
        assert_eq!(names(dir.path()), ["db", "replica"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_txid_of_a_replica_restores_to_upstreams_bytes() {
    let mut seen = 0;
    for restore in manifest()["restores"].as_array().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let replica = golden().join(restore["case"].as_str().unwrap());
        let txid = restore["txid"].as_str().unwrap().parse().unwrap();
        restore_to(client(&replica), dir.path(), |options| options.target = Target::Txid(txid)).await.unwrap();
        assert_eq!(sha256(&dir.path().join("db")), restore["db_sha256"].as_str().unwrap(), "{restore}");
        seen += 1;
    }
    assert_eq!(seen, 9);
}

/// The base of this delta is not kept, so there is nothing to restore.
#[tokio::test]
async fn a_delta_alone_is_not_available() {
    let dir = tempfile::tempdir().unwrap();
    let error = restore_to(client(&golden().join("lock65536")), dir.path(), |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "no matching backup files available");
    assert!(names(dir.path()).is_empty());
}
