//! What is told to somebody who only restores.

use std::sync::Arc;
use std::time::Duration;

use litestream_replica::FileId;
use litestream_replica::check::{Grade, Report, check};
use ltx::{Checksum, Encoder, Header, PageSize, Pgno};

use crate::store::{Call, Fault, Shelf, file_key, id};

/// Stores a file of one page; returns its size.
fn store(shelf: &Shelf, id: FileId) -> usize {
    let header = Header::new(PageSize::new(512).unwrap(), 1, id.min, id.max, jiff::Timestamp::UNIX_EPOCH);
    let mut encoder = Encoder::new(Vec::new(), header).unwrap();
    encoder.encode_page(Pgno::new(1).unwrap(), &[7; 512]).unwrap();
    let file = encoder.finish(Checksum::NONE).unwrap().0;
    let size = file.len();
    shelf.put(&format!("db/{}", file_key(id)), file, 0);
    size
}

async fn checked(shelf: &Arc<Shelf>) -> Report {
    check(&shelf.client("db"), None, &*shelf.clock, Duration::from_secs(60)).await
}

/// What was found out about restores, after `connect`, `list` and `contents`.
fn verdict(report: &Report) -> Vec<(&'static str, Grade, &str)> {
    report.findings.iter().skip(3).map(|finding| (finding.name, finding.grade, &*finding.detail)).collect()
}

#[tokio::test]
async fn a_replica_that_can_be_restored_is_read_and_not_written_to() {
    let shelf = Shelf::new(&[]);
    let bytes = store(&shelf, id(9, 1, 4)) + store(&shelf, id(0, 5, 5));
    let before = shelf.keys();
    let report = checked(&shelf).await;
    let plan = format!("2 files, {bytes} bytes give txid 0000000000000005");
    let wanted = [
        ("restore", Grade::Ok, &*plan),
        ("read", Grade::Ok, "0/0000000000000005-0000000000000005.ltx can be read"),
        ("range", Grade::Ok, "parts of files can be read"),
    ];
    assert_eq!(verdict(&report), wanted);
    assert_eq!((report.grade(), shelf.keys()), (Grade::Ok, before));
    for call in [Call::Write, Call::Delete, Call::DeleteAll, Call::PutLock, Call::RemoveLock] {
        assert_eq!(shelf.count(call), 0, "{call:?}");
    }
}

#[tokio::test]
async fn an_empty_replica_and_one_with_a_hole_are_told_apart() {
    let shelf = Shelf::new(&[]);
    let report = checked(&shelf).await;
    let wanted = ("restore", Grade::Failed, "nothing to restore from: no matching backup files available");
    assert_eq!((verdict(&report), report.grade()), (vec![wanted], Grade::Failed));

    store(&shelf, id(9, 1, 4));
    store(&shelf, id(0, 6, 6));
    let report = checked(&shelf).await;
    let said = verdict(&report);
    let [("restore", Grade::Failed, text)] = &*said else { panic!("{said:?}") };
    let wanted = "non-contiguous ltx files: have up to 0000000000000004 but next file starts at 0000000000000006";
    assert_eq!(*text, wanted);
}

#[tokio::test]
async fn what_keeps_a_restore_from_reading_is_named() {
    let file = "0/0000000000000001-0000000000000001.ltx";
    let garbled = format!("{file}: ");
    let can_be_read = format!("{file} can be read");
    let cases = [
        (Fault::Refuses(Call::Open), vec![("read", Grade::Failed, "Open: access denied")]),
        (
            Fault::IgnoresRanges,
            vec![("read", Grade::Ok, &*can_be_read), ("range", Grade::Failed, "asked for 16 bytes and got ")],
        ),
        (
            Fault::RefusesParts,
            vec![("read", Grade::Ok, &*can_be_read), ("range", Grade::Failed, "Open: access denied")],
        ),
        // The first byte of each answer, hence of the header and of the part.
        (
            Fault::Garbles,
            vec![("read", Grade::Failed, &*garbled), ("range", Grade::Failed, "asked for 16 bytes and got 16 others")],
        ),
    ];
    for (fault, wanted) in cases {
        let shelf = Shelf::new(&[fault]);
        store(&shelf, id(0, 1, 1));
        let report = checked(&shelf).await;
        let said = verdict(&report);
        assert_eq!(said.len(), wanted.len() + 1, "{fault:?}: {said:?}");
        for ((name, grade, text), (wanted_name, wanted_grade, words)) in said.iter().skip(1).zip(&wanted) {
            assert_eq!((name, grade), (wanted_name, wanted_grade), "{fault:?}: {text}");
            assert!(text.starts_with(words), "{fault:?}: {text}");
        }
        assert_eq!(report.grade(), Grade::Failed, "{fault:?}");
    }
}
