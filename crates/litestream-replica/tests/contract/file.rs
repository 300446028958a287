//! The suite against a directory, and what only a directory can show.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use litestream_replica::file::{FileClient, FileOptions};
use litestream_replica::{Body, ClientContext, ErrorKind, Level, ReplicaClient, ReplicaUrl, WriteMode};

use super::suite::{self, Replica, bytes_of, id, request, stamp};

struct Directory(tempfile::TempDir);

impl Replica for Directory {
    fn open(&self, path: &str) -> Arc<dyn ReplicaClient> {
        let path = self.0.path().join(path.trim_start_matches('/'));
        Arc::new(FileClient::new(FileOptions::new(path)).unwrap())
    }
}

async fn directory() -> Directory {
    Directory(tempfile::tempdir().unwrap())
}

suite::for_replica!(directory);

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_under(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn files_lie_where_upstream_looks_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let client = ReplicaUrl::parse(&url).unwrap().into_client(&ClientContext::default()).unwrap();
    client.write(request(id(9, 1, 255), b"x")).await.unwrap();
    let wanted = dir.path().join("ltx/9/0000000000000001-00000000000000ff.ltx");
    assert_eq!(files_under(dir.path()), std::slice::from_ref(&wanted));
    assert_eq!(std::fs::metadata(wanted).unwrap().mtime(), stamp().as_second());
}

#[tokio::test]
async fn modes_are_private_unless_the_database_says_otherwise() {
    for (options, file_mode, dir_mode) in [
        (FileOptions::default(), 0o600, 0o700),
        (FileOptions { file_mode: Some(0o644), dir_mode: Some(0o755), ..FileOptions::default() }, 0o644, 0o755),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let client = FileClient::new(FileOptions { path: dir.path().join("r"), ..options }).unwrap();
        client.write(request(id(0, 1, 1), b"x")).await.unwrap();
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(files_under(dir.path()).remove(0)), file_mode);
        for path in ["r", "r/ltx", "r/ltx/0"] {
            assert_eq!(mode(dir.path().join(path)), dir_mode, "{path}");
        }
    }
}

#[tokio::test]
async fn failed_and_abandoned_writes_leave_no_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let client = FileClient::new(FileOptions::new(dir.path())).unwrap();

    client.write(request(id(0, 1, 1), b"first")).await.unwrap();
    client.write(request(id(0, 1, 1), b"second")).await.unwrap_err();
    client.write(suite::failing_request(id(0, 2, 2), 3 << 20)).await.unwrap_err();
    let missing = Body::File(dir.path().join("absent"));
    client.write(suite::request_with(id(0, 3, 3), missing, WriteMode::CreateOnly)).await.unwrap_err();
    assert_eq!(files_under(dir.path()).len(), 1);

    suite::abandon_write(&client, id(0, 4, 4)).await;
    // The file belongs to a blocking task that learns of the end by its channel.
    let gone = async {
        while files_under(dir.path()).len() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
}

#[tokio::test]
async fn foreign_names_are_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let client = FileClient::new(FileOptions::new(dir.path())).unwrap();
    client.write(request(id(0, 1, 1), b"x")).await.unwrap();
    let level = dir.path().join("ltx/0");
    for name in ["0000000000000002-0000000000000002.ltx.tmp", "0000000000000002-000000000000000A.ltx", "junk"] {
        std::fs::write(level.join(name), b"y").unwrap();
    }
    std::fs::create_dir(level.join("0000000000000003-0000000000000003.ltx")).unwrap();
    assert_eq!(suite::ids(&client, Level::L0).await, [id(0, 1, 1)]);
}

#[tokio::test]
async fn local_files_are_copied_whole() {
    let dir = tempfile::tempdir().unwrap();
    let client = FileClient::new(FileOptions::new(dir.path().join("r"))).unwrap();
    let content = bytes_of(5 << 20, 7);
    let source = dir.path().join("source");
    std::fs::write(&source, &content).unwrap();
    let info = client.write(suite::request_with(id(1, 1, 9), Body::File(source), WriteMode::CreateOnly)).await.unwrap();
    assert_eq!(info.size, content.len() as u64);
    assert_eq!(suite::read(&client, id(1, 1, 9), 0, 0).await.unwrap(), content);
}

#[tokio::test]
async fn root_of_the_filesystem_is_never_deleted() {
    let client = FileClient::new(FileOptions::new("/")).unwrap();
    assert!(client.delete_all().await.is_err());
}

#[tokio::test]
async fn objects_are_found_behind_links_and_not_while_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let client = FileClient::new(FileOptions::new(dir.path().join("r"))).unwrap();
    let disk = dir.path().join("other-disk/generations/0123456789abcdef");
    for name in
        ["snapshots/00000000.snapshot.lz4", "wal/00000000_00000000.wal.lz4", "wal/00000000_00001000.wal.lz4.tmp"]
    {
        std::fs::create_dir_all(disk.join(name).parent().unwrap()).unwrap();
        std::fs::write(disk.join(name), name).unwrap();
    }
    std::fs::create_dir(dir.path().join("r")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("other-disk/generations"), dir.path().join("r/generations")).unwrap();

    let found = client.list_objects("generations/").await.unwrap();
    let keys: Vec<&str> = found.iter().map(|object| object.key.as_str()).collect();
    let generation = "generations/0123456789abcdef";
    assert_eq!(
        keys,
        [
            &*format!("{generation}/snapshots/00000000.snapshot.lz4"),
            &format!("{generation}/wal/00000000_00000000.wal.lz4")
        ]
    );

    std::os::unix::fs::symlink(&disk, disk.join("circle")).unwrap();
    assert!(client.list_objects("generations/").await.is_err(), "a circle is no complete list");
    for prefix in ["/", "../", "generations/../", "a//b/"] {
        assert_eq!(client.list_objects(prefix).await.unwrap_err().kind(), ErrorKind::Setup, "{prefix}");
    }
}
