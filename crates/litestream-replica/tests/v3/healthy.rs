//! What must come back, byte for byte.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use litestream_replica::restore::{NoProgress, RestoreOptions};
use litestream_replica::s3::{S3Client, S3Options};
use litestream_replica::v3::{self, V3Inventory};
use litestream_replica::{ClientContext, ErrorKind, OutputPolicy, Target};
use litestream_testkit::image::Image;
use litestream_testkit::s3_server::{Kind, fresh_bucket};
use litestream_testkit::scenario::CheckpointMode::{Passive, Restart, Truncate};
use litestream_testkit::upstream;
use litestream_testkit::v3_backup::compress;

use crate::world::{FIRST, Faulty, SECOND, World, replace, timestamp};

/// Two generations, snapshots in the middle, both kinds of restart.
fn rich(page_size: u32) -> World {
    let mut world = World::new(page_size);
    world.commit(2);
    world.writer.start_generation(FIRST, 0x1f).unwrap();
    world.logs(&[Truncate, Restart]);
    world.writer.snapshot().unwrap();
    world.logs(&[Restart, Truncate]);
    world.commit(1);
    world.writer.start_generation(SECOND, 3).unwrap();
    world.logs(&[Restart]);
    let app = world.writer.connection();
    app.execute_batch("INSERT INTO event (body) VALUES (zeroblob(200000)); DELETE FROM event; VACUUM").unwrap();
    world.writer.ship().unwrap();
    world.commit(3);
    world.writer.ship().unwrap();
    world
}

/// L62 and L63: every recorded moment, over generations, snapshots and restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l63_every_moment_comes_back() {
    for (page_size, step) in [(512, 7), (4096, 1), (65_536, 7)] {
        let world = rich(page_size);
        for moment in world.writer.moments().iter().step_by(step) {
            let time = timestamp(moment.at);
            let restored = world.restore(Target::Timestamp(time)).await.unwrap();
            let image = Image::of_closed_file(&world.output()).unwrap();
            moment.image.assert_same(&image, &format!("page size {page_size}, {time}"));
            assert_eq!((restored.timestamp, restored.txid.is_none()), (time, true));
            assert_eq!(restored.output_len, image.bytes().len() as u64);
            std::fs::remove_dir_all(world.output().parent().unwrap()).unwrap();
        }
        world.restore(Target::Latest).await.unwrap();
        let image = Image::of_closed_file(&world.output()).unwrap();
        world.writer.last().unwrap().image.assert_same(&image, "latest");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_result_is_what_upstreams_binary_makes() {
    let world = rich(4096);
    let url = format!("file://{}", world.writer.replica().display());
    let moments = world.writer.moments();
    for moment in [&moments[1], &moments[moments.len() / 2], &moments[moments.len() - 1]] {
        let time = timestamp(moment.at);
        world.restore(Target::Timestamp(time)).await.unwrap();
        let theirs = world.dir.path().join("theirs.db");
        let arguments = ["restore", "-timestamp", &time.to_string(), "-o", theirs.to_str().unwrap(), &url];
        upstream::litestream().run(arguments).unwrap().success().unwrap();
        assert!(std::fs::read(world.output()).unwrap() == std::fs::read(&theirs).unwrap(), "{time}");
        std::fs::remove_dir_all(world.output().parent().unwrap()).unwrap();
        std::fs::remove_file(theirs).unwrap();
    }
}

/// L62: the second log is shorter than the first; nothing of the first may be read
/// as its continuation.
#[tokio::test]
async fn l62_a_shorter_log_does_not_go_on_into_the_longer_one_before() {
    let mut world = World::new(4096);
    world.commit(1);
    world.writer.start_generation(FIRST, 0).unwrap();
    world.commit(50);
    world.writer.checkpoint(Restart).unwrap();
    world.commit(1);
    world.writer.ship().unwrap();
    world.restore(Target::Latest).await.unwrap();
    let image = Image::of_closed_file(&world.output()).unwrap();
    world.writer.last().unwrap().image.assert_same(&image, "after a shorter log");
}

#[tokio::test]
async fn a_snapshot_alone_is_a_backup() {
    let mut world = World::new(4096);
    world.commit(5);
    world.writer.start_generation(FIRST, 9).unwrap();
    world.writer.ship().unwrap();
    let restored = world.restore(Target::Latest).await.unwrap();
    assert_eq!(restored.file_count, 1);
    let image = Image::of_closed_file(&world.output()).unwrap();
    world.writer.last().unwrap().image.assert_same(&image, "a snapshot");
}

/// A checkpoint that does not restart the log leaves the index as it is.
#[tokio::test]
async fn a_passive_checkpoint_within_a_log_changes_nothing() {
    let mut world = World::new(4096);
    world.commit(1);
    world.writer.start_generation(FIRST, 0).unwrap();
    world.commit(5);
    world.writer.ship().unwrap();
    litestream_testkit::scenario::checkpoint(world.writer.connection(), Passive).unwrap();
    world.writer.snapshot().unwrap(); // holds pages of the log already
    world.restore(Target::Latest).await.unwrap();
    let image = Image::of_closed_file(&world.output()).unwrap();
    world.writer.last().unwrap().image.assert_same(&image, "with a snapshot taken later");
}

#[tokio::test]
async fn frames_of_other_writers_are_understood() {
    let world = World::small();
    let object = world.object("snapshots/00000005.snapshot.lz4");
    let content = litestream_testkit::v3_backup::decompress(&std::fs::read(&object).unwrap()).unwrap();
    let (head, tail) = content.split_at(5000);
    // Blocks stored as they are, no content checksum; then two frames in a row.
    let mut stored = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
    stored.extend((content.len() as u32 | 1 << 31).to_le_bytes());
    stored.extend(&content);
    stored.extend([0; 4]);
    let two = [compress(head).unwrap(), compress(tail).unwrap()].concat();
    for (what, object_bytes) in [("stored blocks", stored), ("two frames", two)] {
        replace(&object, &object_bytes);
        world.restore(Target::Latest).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let image = Image::of_closed_file(&world.output()).unwrap();
        world.writer.last().unwrap().image.assert_same(&image, what);
        std::fs::remove_file(world.output()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_is_resumed_where_it_broke() {
    let world = World::small();
    let client = Faulty::new(&world);
    let keys = world.writer.objects().unwrap();
    *client.breaks.lock().unwrap() = keys.iter().cloned().collect();
    let client = Arc::new(client);
    world.restore_from(Arc::clone(&client) as _, Target::Latest).await.unwrap();
    assert!(client.breaks.lock().unwrap().is_empty(), "every object broke once");
    assert!(client.opened.load(Ordering::SeqCst) > keys.len() as u64);
    let image = Image::of_closed_file(&world.output()).unwrap();
    world.writer.last().unwrap().image.assert_same(&image, "after breaks");
}

#[tokio::test]
async fn an_existing_database_is_replaced_only_by_force_and_only_by_a_whole_one() {
    let world = World::small();
    std::fs::create_dir(world.output().parent().unwrap()).unwrap();
    std::fs::write(world.output(), b"old").unwrap();
    let client = Arc::new(world.client());
    let inventory = V3Inventory::load(&*client).await.unwrap();
    let run = async |policy: OutputPolicy, inventory: &V3Inventory| {
        let options = RestoreOptions { policy, ..RestoreOptions::new(world.output()) };
        v3::restore(Arc::clone(&client) as _, inventory, options, Arc::new(NoProgress)).await
    };
    let refused = run(OutputPolicy::RefuseExisting, &inventory).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let snapshot = world.object("snapshots/00000005.snapshot.lz4");
    let whole = std::fs::read(&snapshot).unwrap();
    replace(&snapshot, &whole[..whole.len() / 2]);
    let listed_anew = V3Inventory::load(&*client).await.unwrap();
    assert_eq!(run(OutputPolicy::Force, &listed_anew).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(std::fs::read(world.output()).unwrap(), b"old");
    replace(&snapshot, &whole);
    run(OutputPolicy::Force, &inventory).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(world.output().parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let image = Image::of_closed_file(&world.output()).unwrap();
    world.writer.last().unwrap().image.assert_same(&image, "forced");
}

#[tokio::test]
async fn a_failing_check_keeps_the_new_database_away() {
    let world = World::small();
    let client = Arc::new(world.client());
    let inventory = V3Inventory::load(&*client).await.unwrap();
    let verify = |path: &std::path::Path| {
        assert!(std::fs::read(path).unwrap().starts_with(b"SQLite format 3\0"));
        Err(litestream_replica::Error::new(ErrorKind::Corrupt, "not liked"))
    };
    let options = RestoreOptions { verify: Some(Box::new(verify)), ..RestoreOptions::new(world.output()) };
    let error = v3::restore(client, &inventory, options, Arc::new(NoProgress)).await.unwrap_err();
    assert_eq!(error.to_string(), "not liked");
    assert!(!world.output().parent().unwrap().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_restores_as_a_directory_does() {
    let bucket = tokio::task::spawn_blocking(|| fresh_bucket(Kind::Moto)).await.unwrap().unwrap();
    let world = World::small();
    for key in world.writer.objects().unwrap() {
        bucket.put(&format!("old/db/{key}"), &std::fs::read(world.writer.replica().join(&key)).unwrap()).unwrap();
    }
    let options = S3Options {
        bucket: Some(bucket.bucket.clone()),
        path: Some("old/db".to_owned()),
        endpoint: Some(bucket.endpoint.clone()),
        region: Some(bucket.region.clone()),
        access_key_id: Some(bucket.access_key.clone()),
        secret_access_key: Some(bucket.secret_key.clone()),
        ..S3Options::default()
    };
    let client = Arc::new(S3Client::new(options, &ClientContext::default()).unwrap());
    world.restore_from(client, Target::Latest).await.unwrap();
    let image = Image::of_closed_file(&world.output()).unwrap();
    world.writer.last().unwrap().image.assert_same(&image, "from a bucket");

    let theirs = world.dir.path().join("theirs.db");
    let url = format!("s3://{}/old/db?endpoint={}&region={}", bucket.bucket, bucket.endpoint, bucket.region);
    let program = upstream::litestream()
        .env("AWS_ACCESS_KEY_ID", &bucket.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &bucket.secret_key)
        .time_limit(Duration::from_secs(60));
    program.restore(&url, &theirs).unwrap();
    assert!(std::fs::read(world.output()).unwrap() == std::fs::read(theirs).unwrap());
}
