//! What is refused, what is accepted, and with which words: the strictness
//! matrix of the specification, row by row (spec: ltx §11).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod forge;

use forge::{Forge, crc64, legacy_info, lz4_frame, page};
use ltx::{Checksum, DatabaseChecksum, Decoder, Error, Pgno, Summary, Warning, merge, page_checksum};
use lz4_flex::frame::{BlockMode, BlockSize};

const FLAG: u64 = 1 << 63;

fn delta() -> Forge {
    Forge::new(512, 9, 2, 2)
}

fn snapshot(commit: u32) -> Forge {
    (1..=commit).fold(Forge::new(512, commit, 1, 1), |forge, pgno| forge.page(pgno, &page(512, pgno)))
}

fn verify(file: &[u8]) -> ltx::Result<Summary> {
    Decoder::new(file)?.finish()
}

/// The error and its causes, as the command line prints them.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[track_caller]
fn refused(file: &[u8], message: &str) {
    assert_eq!(chain(&verify(file).unwrap_err()), message);
}

#[track_caller]
fn accepted(file: &[u8]) -> Summary {
    let summary = verify(file).unwrap();
    assert_eq!(summary.warnings, []);
    assert_eq!(summary.size, file.len() as u64);
    summary
}

fn merged(files: &[&[u8]]) -> ltx::Result<(Vec<u8>, Summary)> {
    let mut out = Vec::new();
    let summary = merge(files.to_vec(), &mut out)?;
    assert_eq!(accepted(&out).trailer, summary.trailer);
    Ok((out, summary))
}

fn pages(file: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut decoder = Decoder::new(file).unwrap();
    let mut page = vec![0; decoder.header().page_size.len()];
    let mut pages = Vec::new();
    while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
        pages.push((pgno.get(), page.clone()));
    }
    pages
}

#[test]
fn header_rules_have_upstreams_words() {
    let one = 1_u64.to_be_bytes();
    for (forge, message) in [
        (delta().at(0, b"LTX2"), "invalid LTX file"),
        (delta().at(7, &[1]), "invalid flags: 0x00000001"),
        (delta().at(7, &[3]), "invalid flags: 0x00000003"),
        (delta().at(7, &[4]), "invalid flags: 0x00000004"),
        (delta().at(4, &[0x80]), "invalid flags: 0x80000002"),
        (delta().at(8, &0_u32.to_be_bytes()), "invalid page size: 0"),
        (delta().at(8, &256_u32.to_be_bytes()), "invalid page size: 256"),
        (delta().at(8, &1000_u32.to_be_bytes()), "invalid page size: 1000"),
        (delta().at(8, &131_072_u32.to_be_bytes()), "invalid page size: 131072"),
        (delta().at(16, &[0; 8]), "minimum transaction id required"),
        (delta().at(24, &[0; 8]), "maximum transaction id required"),
        (delta().at(24, &one), "transaction ids out of order: (2,1)"),
        (delta().at(48, &[0xff; 8]), "wal offset cannot be negative: -1"),
        (delta().at(56, &i64::MIN.to_be_bytes()), "wal size cannot be negative: -9223372036854775808"),
        (delta().at(67, &[1]), "wal offset required if salt exists"),
        (delta().at(71, &[1]), "wal offset required if salt exists"),
        (delta().at(63, &[1]), "wal offset required if wal size exists"),
        (snapshot(1).at(47, &[1]), "pre-apply checksum must be zero on snapshots"),
        (snapshot(1).tracked(FLAG, FLAG), "pre-apply checksum must be zero on snapshots"),
        (delta().at(47, &[1]), "pre-apply checksum not allowed"),
        (delta().tracked(0, FLAG), "pre-apply checksum required on non-snapshot files"),
        (delta().tracked(1, FLAG), "invalid pre-apply checksum format"),
        (delta().at(12, &[0; 4]), "commit is zero: files that delete the database are not supported"),
    ] {
        refused(&forge.build(), message);
    }
}

#[test]
fn the_first_rule_broken_is_reported() {
    let everything = delta().at(4, &[0xff; 96]);
    refused(&everything.build(), "invalid flags: 0xffffffff");
    let everything = everything.at(4, &[0, 0, 0, 2]);
    refused(&everything.build(), "invalid page size: 4294967295");
    refused(&everything.at(0, b"ltx1").build(), "invalid LTX file");
}

#[test]
fn header_oddities_are_accepted() {
    accepted(&delta().at(80, &[0xee; 20]).build());
    accepted(&delta().at(72, &[0xee; 8]).build());
    assert_eq!(accepted(&delta().at(32, &[0xff; 8]).build()).header.timestamp_ms(), -1);
    accepted(&delta().at(32, &i64::MIN.to_be_bytes()).build());
    // A salt and a size are fine once there is an offset.
    accepted(&delta().at(55, &[32]).at(63, &[1]).at(64, &[1; 8]).build());
}

#[test]
fn a_delta_without_frames_is_the_smallest_file() {
    let file = delta().build();
    assert_eq!(file.len(), 131);
    assert_eq!(accepted(&file).page_count, 0);
}

#[test]
fn a_wrong_file_checksum_is_refused() {
    let sound = delta().page(3, &page(512, 3)).build();
    let stored = u64::from_be_bytes(sound[sound.len() - 8..].try_into().unwrap());
    for checksum in [stored ^ 1, 0, stored & !FLAG] {
        let file = Forge { file_checksum: Some(checksum), ..delta().page(3, &page(512, 3)) }.build();
        refused(&file, "file checksum mismatch");
    }
    // A payload that decodes to another page.
    let forged = delta().payload(3, 1, &lz4_flex::block::compress(&page(512, 4)), &page(512, 3)).build();
    refused(&forged, "file checksum mismatch");
}

#[test]
fn bytes_after_the_trailer_are_refused() {
    let mut file = delta().page(3, &page(512, 3)).build();
    file.push(0);
    refused(&file, "file checksum mismatch: data after the trailer");
}

#[test]
fn cuts_are_named_by_the_part_they_hit() {
    let file = delta().page(3, &page(512, 3)).build();
    let frames_end = file.len() - 24 - 5 - 6;
    for (len, part) in [
        (0, "header"),
        (99, "header"),
        (100, "page block"),
        (103, "page block"),
        (107, "page block"),
        (111, "page frame"),
        (frames_end - 1, "page frame"),
        (frames_end, "page block"),
        (frames_end + 6, "page index"),
        (frames_end + 10, "page index"),
        (frames_end + 11, "page index"),
        (frames_end + 18, "page index"),
        (frames_end + 19, "trailer"),
        (file.len() - 1, "trailer"),
    ] {
        refused(&file[..len], &format!("unexpected EOF: truncated {part}"));
    }
}

#[test]
fn pages_of_a_delta_must_ascend() {
    let both = delta().page(4, &page(512, 4)).page(3, &page(512, 3));
    refused(&both.build(), "out-of-order page numbers: 4,3");
    let twice = delta().page(4, &page(512, 4)).page(4, &page(512, 4));
    refused(&twice.build(), "out-of-order page numbers: 4,4");
}

#[test]
fn a_snapshot_with_a_hole_is_refused_unless_a_later_input_fills_it() {
    let without = |hole: u32| {
        let mut forge = snapshot(4);
        forge.frames.retain(|(pgno, ..)| *pgno != hole);
        forge.build()
    };
    refused(&without(1), "snapshot transaction file must start with page number 1");
    refused(&without(3), "nonsequential page numbers in snapshot transaction: 2,4");
    refused(&without(4), "incomplete snapshot transaction: ends at page 3 of 4");
    for hole in [1, 3, 4] {
        let filler = Forge::new(512, 4, 2, 2).page(hole, &page(512, 90 + hole)).build();
        let (out, _) = merged(&[&without(hole), &filler]).unwrap();
        let numbers: Vec<_> = pages(&out).iter().map(|(pgno, _)| *pgno).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        let other = Forge::new(512, 4, 2, 2).page(2, &page(512, 9)).build();
        merged(&[&without(hole), &other]).unwrap_err();
    }
}

#[test]
fn pages_beyond_commit_are_left_out_with_a_warning() {
    let file = delta().page(9, &page(512, 9)).page(10, &page(512, 10)).page(11, &page(512, 11)).build();
    let summary = verify(&file).unwrap();
    assert_eq!(summary.warnings, [Warning::PagesBeyondCommit { input: 0, count: 2 }]);
    assert_eq!(pages(&file), [(9, page(512, 9))]);

    let (out, summary) = merged(&[&snapshot(9).build(), &file]).unwrap();
    assert_eq!(summary.warnings, [Warning::PagesBeyondCommit { input: 1, count: 2 }]);
    assert_eq!(pages(&out).len(), 9);
}

#[test]
fn a_smaller_commit_truncates_and_a_larger_one_needs_its_pages() {
    let nine = snapshot(9).build();
    let shrunk = Forge::new(512, 4, 2, 2).build();
    let (out, _) = merged(&[&nine, &shrunk]).unwrap();
    assert_eq!(pages(&out).len(), 4);

    let grown = Forge::new(512, 6, 3, 3).page(6, &page(512, 6)).build();
    let error = merged(&[&snapshot(4).build(), &Forge::new(512, 4, 2, 2).build(), &grown]).unwrap_err();
    assert_eq!(chain(&error), "nonsequential page numbers in snapshot transaction: 4,6");

    let whole = Forge::new(512, 6, 3, 3).page(5, &page(512, 55)).page(6, &page(512, 66)).build();
    let (out, _) = merged(&[&nine, &shrunk, &whole]).unwrap();
    assert_eq!(pages(&out)[4..], [(5, page(512, 55)), (6, page(512, 66))]);
}

#[test]
fn pages_that_return_after_a_shrink_have_their_new_content() {
    let back = (5..=9).fold(Forge::new(512, 9, 3, 3), |forge, pgno| forge.page(pgno, &page(512, pgno + 100)));
    let (out, _) = merged(&[&snapshot(9).build(), &Forge::new(512, 4, 2, 2).build(), &back.build()]).unwrap();
    for (pgno, data) in pages(&out) {
        assert_eq!(data, page(512, if pgno > 4 { pgno + 100 } else { pgno }));
    }
}

#[test]
fn page_heads_that_no_frame_has_are_refused() {
    let data = page(512, 3);
    let block = lz4_flex::block::compress(&data);
    refused(&delta().payload(3, 2, &block, &data).build(), "invalid page header flags: 0x0002");
    refused(&delta().payload(3, 0x8001, &block, &data).build(), "invalid page header flags: 0x8001");
    refused(&delta().payload(3, 0, &block, &data).build(), "decode page 3: lz4: bad magic number");
    refused(&Forge { end: vec![0, 0, 0, 0, 0, 1], ..delta() }.build(), "page number required");
    refused(&delta().payload(3, 1, &[], &data).build(), "invalid payload size for page 3: 0");
    for size in [531, 1 << 20, u32::MAX] {
        let mut file = delta().payload(3, 1, &block, &data).build();
        file[106..110].copy_from_slice(&size.to_be_bytes());
        refused(&file, &format!("invalid payload size for page 3: {size}"));
    }
}

#[test]
fn payloads_that_are_not_exactly_one_page_are_refused() {
    let data = page(512, 3);
    let long = "decode page 3: lz4: invalid source or destination buffer too short";
    for (payload, message) in [
        (lz4_flex::block::compress(&data[..511]), "decode page 3: lz4: decoded page is too short"),
        (lz4_flex::block::compress(&[&data[..], &[1]].concat()), long),
        ([&lz4_flex::block::compress(&data)[..], &[0]].concat(), long),
        ([&lz4_flex::block::compress(&data)[..], &[0, 0, 0]].concat(), long),
    ] {
        refused(&delta().payload(3, 1, &payload, &data).build(), message);
    }
    // All literals, so that the only token is the final one: its nibble of a match must be zero.
    let mut literal = [&[0xf0, 255, 242][..], &data].concat();
    accepted(&delta().payload(3, 1, &literal, &data).build());
    for nibble in 1..16 {
        literal[0] = 0xf0 | nibble;
        refused(&delta().payload(3, 1, &literal, &data).build(), long);
    }
}

#[test]
fn a_wrong_index_is_a_warning_when_the_checksum_is_right() {
    let forge = delta().page(3, &page(512, 3)).page(5, &page(512, 5));
    for odd in [
        Forge { index: Some(vec![0]), ..forge.clone() },
        Forge { index: Some(vec![3, 100, 1, 0]), ..forge.clone() },
        Forge { index_len: Some(0), ..forge.clone() },
        Forge { index_len: Some(u64::MAX), ..forge.clone() },
    ] {
        let summary = verify(&odd.build()).unwrap();
        assert_eq!(summary.warnings, [Warning::IndexMismatch { input: 0 }]);
        assert!(!summary.index_matches());
        let (_, summary) = merged(&[&snapshot(9).build(), &odd.build()]).unwrap();
        assert_eq!(summary.warnings, [Warning::IndexMismatch { input: 1 }]);
    }
    assert!(accepted(&forge.build()).index_matches());
    verify(&Forge { index: Some(vec![]), ..forge.clone() }.build()).unwrap_err();
    verify(&Forge { index: Some(vec![3, 100]), ..forge }.build()).unwrap_err();
}

#[test]
fn tracked_files_are_verified_and_merge_into_untracked_ones() {
    let mut database = DatabaseChecksum::new();
    for pgno in 1..=4 {
        database.toggle(page_checksum(Pgno::new(pgno).unwrap(), &page(512, pgno)));
    }
    let sum = database.value().get();
    let tracked = snapshot(4).tracked(0, sum);
    assert_eq!(accepted(&tracked.build()).trailer.post_apply, Checksum::new(sum));
    let error = verify(&Forge { post_apply: sum ^ 1, ..tracked.clone() }.build()).unwrap_err();
    assert!(matches!(error, Error::PostApplyMismatch { .. }), "{error}");
    refused(&Forge { post_apply: 0, ..tracked.clone() }.build(), "post-apply checksum required");

    let change = Forge::new(512, 4, 2, 2).page(2, &page(512, 22)).tracked(sum, FLAG | 5);
    accepted(&change.build());
    refused(&Forge { post_apply: 5, ..change.clone() }.build(), "invalid post-apply checksum format");
    refused(&Forge { post_apply: 0, ..change.clone() }.build(), "post-apply checksum required");

    let (_, summary) = merged(&[&tracked.build(), &change.build()]).unwrap();
    assert!(summary.header.flags.no_checksum());
    assert_eq!(summary.trailer.post_apply, Checksum::NONE);
    // The first input's pre-apply checksum does not leak either.
    let (_, summary) = merged(&[&change.build()]).unwrap();
    assert_eq!(summary.header.pre_apply, Checksum::NONE);
}

#[test]
fn a_post_apply_checksum_that_should_not_be_is_refused_in_the_last_input_only() {
    let odd = Forge { post_apply: FLAG, ..snapshot(4) }.build();
    refused(&odd, "post-apply checksum not allowed");
    assert_eq!(chain(&merged(&[&odd]).unwrap_err()), "close reader 0: post-apply checksum not allowed");
    let (_, summary) = merged(&[&odd, &Forge::new(512, 4, 2, 2).build()]).unwrap();
    assert_eq!(summary.warnings, [Warning::PostApply { input: 0 }]);
}

#[test]
fn merge_reports_its_inputs_in_upstreams_words() {
    let file = |min, max| Forge::new(512, 9, min, max).page(1, &page(512, 1)).build();
    assert_eq!(chain(&merged(&[]).unwrap_err()), "at least one input reader required");
    let bad = Forge::new(512, 9, 3, 3).at(0, b"nope").build();
    assert_eq!(chain(&merged(&[&file(2, 2), &bad]).unwrap_err()), "decode header for input 1: invalid LTX file");
    let other = Forge::new(1024, 9, 3, 3).build();
    assert_eq!(
        chain(&merged(&[&file(2, 2), &other]).unwrap_err()),
        "input files have mismatched page sizes: 512 != 1024"
    );
    for (left, right) in [((2, 2), (4, 4)), ((2, 5), (3, 5)), ((2, 5), (2, 4)), ((2, 2), (2, 2))] {
        let hex = |(min, max)| format!("({min:016x},{max:016x})");
        assert_eq!(
            chain(&merged(&[&file(left.0, left.1), &file(right.0, right.1)]).unwrap_err()),
            format!("non-contiguous transaction ids in input files: {} -> {}", hex(left), hex(right))
        );
    }
    for (left, right) in [((2, 2), (3, 3)), ((2, 5), (3, 6)), ((2, 5), (2, 6)), ((4, 5), (2, 6))] {
        let (_, summary) = merged(&[&file(left.0, left.1), &file(right.0, right.1)]).unwrap();
        assert_eq!((summary.header.min.get(), summary.header.max.get()), (left.0, right.1));
    }
    let damaged = Forge { file_checksum: Some(FLAG), ..Forge::new(512, 9, 3, 3) }.build();
    assert_eq!(
        chain(&merged(&[&file(2, 2), &damaged, &file(4, 4)]).unwrap_err()),
        "close reader 1: file checksum mismatch"
    );
}

#[test]
fn of_a_page_in_several_inputs_the_newest_wins() {
    let first = delta().page(1, &page(512, 11)).page(3, &page(512, 13)).page(4, &page(512, 14));
    let second = Forge::new(512, 9, 3, 4).page(3, &page(512, 23)).page(5, &page(512, 25));
    let third = Forge::new(512, 9, 4, 5).page(1, &page(512, 31)).page(5, &page(512, 35)).at(39, &[7]);
    let (out, summary) = merged(&[&first.build(), &second.build(), &third.build()]).unwrap();
    assert_eq!(pages(&out), [(1, page(512, 31)), (3, page(512, 23)), (4, page(512, 14)), (5, page(512, 35))]);
    let last = verify(&third.build()).unwrap().header;
    assert_eq!(summary.header.timestamp, last.timestamp, "the time of the newest change, not of merging");
    assert_eq!(summary.page_count, 4);
}

#[test]
fn legacy_frames_alternate_with_blocks_and_are_converted() {
    let noise: Vec<u8> = (0..512_u32).flat_map(|i| crc64(&i.to_be_bytes()).to_be_bytes()).take(512).collect();
    let forge = delta()
        .legacy(1, &page(512, 1))
        .legacy(2, &noise)
        .page(3, &page(512, 3))
        .legacy(4, &[0; 512])
        .page(5, &noise)
        .legacy(6, &page(512, 6));
    assert_eq!(forge.frames[0].1[6..13], [0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7], "the form upstream wrote");
    let file = forge.build();
    accepted(&file);
    let read = pages(&file);
    assert_eq!(read[1], (2, noise));
    let (out, _) = merged(&[&file]).unwrap();
    assert_eq!(pages(&out), read);
    let flags_of_first = &out[104..106];
    assert_eq!(flags_of_first, [0, 1]);
}

#[test]
fn legacy_frames_of_other_forms_are_accepted() {
    for page_size in [512, 65536] {
        let data = page(page_size, 3);
        for info in [
            legacy_info().block_checksums(true),
            legacy_info().content_size(Some(page_size as u64)),
            legacy_info().block_mode(BlockMode::Linked),
            legacy_info().block_size(BlockSize::Max4MB),
        ] {
            let forge = Forge::new(page_size as u32, 9, 2, 2).legacy_with(3, &data, info).page(4, &data);
            accepted(&forge.build());
        }
    }
}

#[test]
fn legacy_frames_without_their_checksum_or_with_a_wrong_one_are_refused() {
    let data = page(512, 3);
    let end_frame = "decode page 3: lz4: expected lz4 end frame";
    let unchecked = delta().legacy_with(3, &data, legacy_info().content_checksum(false));
    refused(&unchecked.build(), end_frame);
    let mut frame = lz4_frame(&data, legacy_info());
    *frame.last_mut().unwrap() ^= 1;
    refused(&delta().payload(3, 0, &frame, &data).build(), end_frame);
    for other in [&data[..511], &[&data[..], &[0]].concat()] {
        let frame = lz4_frame(other, legacy_info());
        verify(&delta().payload(3, 0, &frame, &data).build()).unwrap_err();
    }
}

#[test]
fn a_legacy_frame_cannot_ask_for_endless_input() {
    let data = page(512, 3);
    // A block of nearly 2 GiB, as its size field claims.
    let mut frame = lz4_frame(&data, legacy_info());
    frame[7..11].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    refused(&delta().payload(3, 0, &frame, &data).build(), "decode page 3: lz4: frame is longer than any page");
}
