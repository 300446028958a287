//! The writer of 0.3 backups against upstream's binary, which restores them.

#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use litestream_testkit::image::Image;
use litestream_testkit::scenario::{CheckpointMode, commit};
use litestream_testkit::upstream;
use litestream_testkit::v3_backup::V3Writer;

#[test]
fn upstream_restores_what_the_writer_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = V3Writer::begin(dir.path(), 4096).unwrap();
    commit(writer.connection(), 3).unwrap();
    writer.start_generation("0123456789abcdef", 5).unwrap();
    for mode in [CheckpointMode::Truncate, CheckpointMode::Restart, CheckpointMode::Truncate] {
        commit(writer.connection(), 20).unwrap();
        writer.ship().unwrap();
        commit(writer.connection(), 2).unwrap();
        writer.checkpoint(mode).unwrap();
    }
    commit(writer.connection(), 1).unwrap();
    writer.ship().unwrap();

    let restored = dir.path().join("restored");
    upstream::litestream().restore(&format!("file://{}", writer.replica().display()), &restored).unwrap();
    let expected = &writer.last().unwrap().image;
    expected.assert_same(&Image::of_closed_file(&restored).unwrap(), "restored by upstream");
    assert_eq!(writer.objects().unwrap().len(), 8, "{:?}", writer.objects());
}
