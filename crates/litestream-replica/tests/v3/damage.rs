//! What a damaged backup must lead to: an error that names the object and what can
//! be had instead, and nothing left behind.

use std::sync::Arc;

use litestream_replica::{ErrorKind, Target};
use litestream_testkit::image::Image;
use litestream_testkit::upstream;
use litestream_testkit::v3_backup::{compress, decompress};

use crate::world::{FIRST, Faulty, World, replace, timestamp};

/// The time an error offers, restored: it must be one of the recorded moments.
async fn restore_what_is_offered(world: &World, error: &litestream_replica::Error) {
    let text = error.to_string();
    let (_, time) = text.rsplit_once("restore with -timestamp ").unwrap_or_else(|| panic!("{text}"));
    world.restore(Target::Timestamp(time.parse().unwrap())).await.unwrap();
    let image = Image::of_closed_file(&world.output()).unwrap();
    let moment = world.writer.moments().iter().rfind(|moment| timestamp(moment.at).to_string() == time);
    moment.unwrap_or_else(|| panic!("{time} is no moment")).image.assert_same(&image, "what the error offered");
}

/// Which objects are lost.
type Missing = fn(&World) -> Vec<std::path::PathBuf>;

/// L63: upstream's words for each gap, the object it stumbles over, and a way out.
#[tokio::test]
async fn l63_gaps_are_named_as_upstream_names_them() {
    let cases: [(&str, Missing, &str); 4] = [
        ("middle segment", |w| vec![w.segments(5).remove(1)], "missing WAL segment: expected 5/4152, got 5/"),
        ("first segment", |w| vec![w.segments(5).remove(0)], "missing WAL segment: expected 5/0, got 5/4152"),
        ("whole log", |w| w.segments(6), "missing WAL index: expected 6/0, got 7/0"),
        ("first log", |w| w.segments(5), "missing WAL index: expected 5/0, got 6/0"),
    ];
    for (what, missing, text) in cases {
        let world = World::small();
        for path in missing(&world) {
            std::fs::remove_file(path).unwrap();
        }
        let error = world.fails(Target::Latest).await;
        assert_eq!(error.kind(), ErrorKind::Hole, "{what}");
        assert!(error.to_string().starts_with(&format!("apply WAL segments: {text}")), "{what}: {error}");
        let theirs = world.dir.path().join("theirs.db");
        let url = format!("file://{}", world.writer.replica().display());
        let output = upstream::litestream().run(["restore", "-o", theirs.to_str().unwrap(), &url]).unwrap();
        let first_sentence = error.to_string().split(". ").next().unwrap().to_owned();
        assert!(output.stderr.contains(&first_sentence), "{what}: {error}\nupstream: {}", output.stderr);
        restore_what_is_offered(&world, &error).await;
    }
}

/// Upstream glues the rest of a log whose start is lost to the log before it, when
/// the offset happens to fit, and reports success.
#[tokio::test]
async fn the_index_of_every_segment_is_compared() {
    let mut world = World::new(4096);
    world.commit(1);
    world.writer.start_generation(FIRST, 0).unwrap();
    // The second log's first segment ends where the first log ended.
    for _ in 0..2 {
        world.commit(1);
        world.writer.checkpoint(litestream_testkit::scenario::CheckpointMode::Truncate).unwrap();
    }
    let (first, second) = (world.segments(0), world.segments(1));
    assert_eq!((first.len(), second.len()), (1, 1));
    let log_len = decompress(&std::fs::read(&first[0]).unwrap()).unwrap().len();
    let moved = second[0].with_file_name(format!("00000001_{log_len:08x}.wal.lz4"));
    std::fs::rename(&second[0], moved).unwrap();
    let error = world.fails(Target::Latest).await;
    let text = format!("apply WAL segments: missing WAL segment: expected 1/0, got 1/{log_len}. ");
    assert!(error.to_string().starts_with(&text), "{error}");
    restore_what_is_offered(&world, &error).await;
}

#[tokio::test]
async fn a_cut_off_object_is_an_error_wherever_it_is_cut() {
    let world = World::small();
    for (object, context) in [
        (world.object("snapshots/00000005.snapshot.lz4"), "download snapshot: generations/"),
        (world.segments(5).remove(1), "apply WAL segments: generations/"),
        (world.segments(7).remove(0), "apply WAL segments: generations/"),
    ] {
        let whole = std::fs::read(&object).unwrap();
        let ends = [0, 1, 3, 4, 5, 6, 7, 8, 11, whole.len() / 2, whole.len() - 8, whole.len() - 4, whole.len() - 1];
        for end in ends {
            replace(&object, &whole[..end]);
            let error = world.fails(Target::Latest).await;
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{} cut at {end}: {error}", object.display());
            assert!(error.to_string().starts_with(context), "{error}");
        }
        replace(&object, &whole);
    }
    world.restore(Target::Latest).await.unwrap();
}

/// The decoder takes an end between two blocks for the end of the frame.
#[tokio::test]
async fn an_object_that_ends_between_two_blocks_is_cut_off() {
    let world = World::small();
    let object = world.object("snapshots/00000005.snapshot.lz4");
    let content = decompress(&std::fs::read(&object).unwrap()).unwrap();
    let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
    for block in content.chunks(4096) {
        replace(&object, &frame);
        assert_eq!(world.fails(Target::Latest).await.kind(), ErrorKind::Corrupt);
        frame.extend((block.len() as u32 | 1 << 31).to_le_bytes());
        frame.extend(block);
    }
    replace(&object, &frame);
    assert!(world.fails(Target::Latest).await.to_string().contains("unexpected EOF"));
    frame.extend([0; 4]);
    replace(&object, &frame);
    world.restore(Target::Latest).await.unwrap();
}

#[tokio::test]
async fn a_flipped_bit_or_foreign_bytes_behind_are_errors() {
    let world = World::small();
    for object in [world.object("snapshots/00000005.snapshot.lz4"), world.segments(6).remove(0)] {
        let whole = std::fs::read(&object).unwrap();
        // Flags and block size may survive a flip; everything else may not.
        for at in (0..4).chain([6]).chain((7..whole.len()).step_by(whole.len() / 16)) {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            replace(&object, &flipped);
            let error = world.fails(Target::Latest).await;
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{} byte {at}: {error}", object.display());
        }
        replace(&object, &[whole.as_slice(), b"trailing garbage"].concat());
        assert_eq!(world.fails(Target::Latest).await.kind(), ErrorKind::Corrupt);
        replace(&object, &whole);
    }
}

/// Damage that the compression does not see: it was there before.
#[tokio::test]
async fn a_corrupt_frame_in_a_sound_object_is_an_error() {
    let world = World::small();
    let object = world.segments(6).remove(0);
    let mut log = decompress(&std::fs::read(&object).unwrap()).unwrap();
    log[32 + 24 + 100] ^= 1;
    replace(&object, &compress(&log).unwrap());
    let error = world.fails(Target::Latest).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = error.to_string();
    assert!(text.contains("/wal/00000006_00000000.wal.lz4: write WAL segment 6/0: WAL frame 1: "), "{text}");
    restore_what_is_offered(&world, &error).await;
}

#[tokio::test]
async fn two_objects_for_one_place_are_an_error() {
    let world = World::small();
    let object = world.segments(6).remove(1);
    let name = object.file_name().unwrap().to_str().unwrap().replace("_0000", "_000000");
    std::fs::copy(&object, object.with_file_name(name)).unwrap();
    let error = world.fails(Target::Latest).await;
    assert!(error.to_string().contains("two objects for WAL segment 6/"), "{error}");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_named() {
    let world = World::small();
    for key in world.writer.objects().unwrap() {
        let mut client = Faulty::new(&world);
        client.forbidden.insert(key.clone());
        let error = world.restore_from(Arc::new(client), Target::Latest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup, "{key}: {error}");
        assert!(error.to_string().contains(&format!("{key}: permission denied")), "{error}");
        assert!(!world.output().parent().unwrap().exists());
    }
}

#[tokio::test]
async fn a_damaged_snapshot_names_the_one_before_it() {
    let mut world = World::small();
    world.writer.checkpoint(litestream_testkit::scenario::CheckpointMode::Truncate).unwrap();
    world.writer.snapshot().unwrap();
    world.commit(2);
    world.writer.ship().unwrap();
    let damaged = world.object("snapshots/00000008.snapshot.lz4");
    replace(&damaged, b"nothing like lz4");
    let error = world.fails(Target::Latest).await;
    let text = error.to_string();
    let last = timestamp(world.writer.last().unwrap().at);
    assert!(text.contains("With that object moved away, generations/"), "{text}");
    assert!(text.ends_with(&format!("/snapshots/00000005.snapshot.lz4 leads to {last}")), "{text}");
    // As promised.
    std::fs::rename(&damaged, world.dir.path().join("away")).unwrap();
    world.restore(Target::Latest).await.unwrap();
    let image = Image::of_closed_file(&world.output()).unwrap();
    world.writer.last().unwrap().image.assert_same(&image, "from the older snapshot");
}

/// 32 MiB of zeros in a hundred KiB: refused after the first bytes.
#[tokio::test]
async fn an_object_that_is_no_database_is_not_unpacked() {
    let world = World::small();
    let bomb = compress(&vec![0; 32 << 20]).unwrap();
    assert!(bomb.len() < 1 << 20);
    replace(&world.object("snapshots/00000005.snapshot.lz4"), &bomb);
    let error = world.fails(Target::Latest).await;
    assert!(error.to_string().contains("not a SQLite database"), "{error}");
}

#[tokio::test]
async fn pages_of_another_size_are_not_mixed_in() {
    let world = World::small();
    let other = {
        let mut other = World::new(8192);
        other.commit(3);
        other.writer.start_generation(FIRST, 5).unwrap();
        other.commit(1);
        other.writer.ship().unwrap();
        other
    };
    let segment = world.segments(5).remove(0);
    replace(&segment, &std::fs::read(other.segments(5).remove(0)).unwrap());
    let error = world.fails(Target::Latest).await;
    assert!(error.to_string().contains("the WAL has pages of 8192, the database of 4096"), "{error}");
}
