//! Fuzz bodies of everything that reads an LTX file or a name: what is accepted
//! means one thing to every reader, and memory depends on the page size and the
//! length of the input, never on what a field claims.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod forge;

use std::io::Cursor;

use forge::{Forge, legacy_info, page, uvarint};
use litestream_fuzz::{Bound, Target, bounded};
use ltx::wal::{FrameHeader, WalHeader};
use ltx::{
    Checksum, Decoder, Digest, FileName, Footer, Header, IndexParser, Merge, MergeLimits, MergeOptions, PageSize, Pgno,
    Pos, Spill, Summary, Txid, Warning, decode_frame, decode_run, parse_index,
};
use lz4_flex::frame::BlockSize;

/// Files of upstream's and forged ones, with every encoding and every feature.
fn files() -> Vec<Vec<u8>> {
    let golden = format!("{}/../../tests/golden/ltx", env!("CARGO_MANIFEST_DIR"));
    let names = [
        "legacy512/ltx/0/0000000000000001-0000000000000001.ltx",
        "p4096/ltx/9/0000000000000001-0000000000000002.ltx",
        "p512/ltx/0/0000000000000001-0000000000000001.ltx",
        "p512/ltx/0/0000000000000002-0000000000000002.ltx",
        "p512/ltx/1/0000000000000002-0000000000000005.ltx",
        "p65536/ltx/0/0000000000000001-0000000000000001.ltx",
    ];
    let mut files: Vec<Vec<u8>> = names.map(|name| std::fs::read(format!("{golden}/{name}")).unwrap()).into();
    let sum = 1 << 63 | 5;
    files.push(Forge::new(512, 9, 2, 2).build());
    files.push(Forge::new(512, 9, 2, 3).tracked(sum, sum).page(2, &page(512, 2)).page(9, &page(512, 9)).build());
    files.push(Forge::new(1024, 9, 4, 4).page(3, &[0; 1024]).legacy(4, &page(1024, 4)).page(5, &[7; 1024]).build());
    // A block of 4 MiB holds the small page.
    let large = legacy_info().block_size(BlockSize::Max4MB).content_size(Some(512));
    files.push(Forge::new(512, 9, 2, 2).legacy_with(1, &page(512, 1), large).build());
    files
}

/// Headers of frames and ends, counts and sizes as fields hold them.
fn words() -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = vec![
        b"LTX1".to_vec(),
        vec![0; 6],
        vec![0, 0, 0, 1, 0, 1],
        vec![0, 0, 0, 1, 0, 0, 0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7],
        vec![0xff; 10],
        vec![0xff, 0xff, 0xff, 0xff, 0x0f],
        // A literal run that goes on and on, and a match that does.
        [&[0xf0][..], &[0xff; 200]].concat(),
        [&[0x1f, 0, 1, 0][..], &[0xff; 200]].concat(),
    ];
    words.extend([0_u32, 1, 512, 1024, 65536, u32::MAX].map(|number| number.to_be_bytes().to_vec()));
    // Index entries, sound and not.
    for triple in [[1_u64, 100, 30], [2, 130, 30], [u64::from(u32::MAX), 100, u64::MAX], [1, u64::MAX - 5, 10]] {
        let mut entry = Vec::new();
        triple.into_iter().for_each(|value| uvarint(value, &mut entry));
        words.push(entry);
    }
    words
}

/// Makes the file checksum fit what the page block decodes to, as far as it does.
fn repair(file: &mut Vec<u8>) {
    let Ok(header) = Header::parse(file) else { return };
    let Some(end) = file.len().checked_sub(8).filter(|end| *end >= Header::LEN) else { return };
    let mut digest = Digest::of(&file[..Header::LEN]);
    let (mut at, mut page) = (Header::LEN, vec![0; header.page_size.len()]);
    while let Some(head) = file.get(at..at + 10) {
        let size = u32::from_be_bytes(head[6..].try_into().unwrap()) as usize;
        let Some(frame) = file.get(at..at.saturating_add(10 + size)) else { break };
        if head[4..6] != [0, 1] || decode_frame(frame, header.page_size, &mut page).is_err() {
            break;
        }
        digest = digest.combine(Digest::of(&head[..10])).combine(Digest::of(&page));
        at += frame.len();
    }
    let Some(rest) = file.get(at..end) else { return };
    let checksum = digest.combine(Digest::of(rest)).finish();
    file.truncate(end);
    file.extend(checksum.get().to_be_bytes());
}

/// Two read buffers and pages, and what LZ4 keeps for blocks of 4 MiB.
fn codec(page_size: usize) -> Bound {
    Bound { base: (9 << 20) + page_size as u64 * 8, per_byte: 4 }
}

type Pages = Vec<(Pgno, Vec<u8>)>;

fn decode(input: &[u8]) -> ltx::Result<(Pages, Summary)> {
    let mut decoder = Decoder::new(input)?;
    let mut page = vec![0; decoder.header().page_size.len()];
    let mut pages = Vec::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.push((pgno, page.clone()));
    }
    Ok((pages, decoder.finish()?))
}

/// Front to back without keeping anything.
fn verify(input: &[u8]) -> ltx::Result<Summary> {
    Decoder::new(input)?.finish()
}

fn file_body(input: &[u8]) {
    let page_size = Header::parse(input).map_or(512, |header| header.page_size.len());
    let Ok(summary) = bounded(input.len(), codec(page_size), || verify(input)) else { return };
    assert_eq!(summary.size, input.len() as u64);
    // The smallest block of a page of n bytes has n / 255 of them.
    assert!(summary.page_count <= input.len() as u64 / (10 + page_size as u64 / 256));
    let (pages, again) = decode(input).unwrap();
    assert_eq!(again, summary);
    assert!(pages.is_sorted_by(|(a, _), (b, _)| a < b), "pages ascend");
    assert!(pages.iter().all(|(pgno, _)| pgno.get() <= summary.header.commit));
    assert_eq!(summary.header.encode()[..80], input[..80], "the header comes back");

    // Where the index is right, single pages are those of the stream.
    if !summary.warnings.iter().any(|warning| matches!(warning, Warning::IndexMismatch { .. })) {
        let footer = Footer::parse(input, summary.size).unwrap();
        let index = parse_index(footer.index_in(input).unwrap()).unwrap();
        let mut page = vec![0; page_size];
        // Pages beyond the end are in the index and not in the database.
        assert!(index.len() >= pages.len());
        for (entry, (pgno, content)) in index.iter().zip(&pages) {
            let frame = &input[entry.offset as usize..][..entry.len as usize];
            assert_eq!(decode_frame(frame, summary.header.page_size, &mut page).unwrap(), *pgno);
            assert_eq!(&page, content);
        }
    }
    merge_body(input);
}

/// A merge with itself as its own neighbour, and with a sound one.
fn merge_body(input: &[u8]) {
    let sound = Forge::new(512, 9, 2, 2).page(2, &page(512, 2)).build();
    let spill = Spill::new(|| Ok(Box::new(Cursor::new(Vec::new()))));
    for inputs in [vec![input], vec![&sound[..], input], vec![input, &sound], vec![input; 5]] {
        let count = inputs.len();
        let mut out = Vec::new();
        let len = inputs.iter().map(|input| input.len()).sum();
        let bound = Bound { base: (count as u64 + 2) << 20 | 10 << 20, per_byte: 600 };
        let merged = bounded(len, bound, || {
            let limits = MergeLimits { fan_in: 3, spill: spill.clone() };
            let options = MergeOptions { limits: Some(&limits), ..MergeOptions::default() };
            Merge::with_options(inputs, options)?.write_to(&mut out)
        });
        if merged.is_ok() {
            let (pages, summary) = decode(&out).unwrap();
            assert_eq!(summary.warnings, [], "what is written is sound");
            if count == 1 {
                assert_eq!(pages, decode(input).unwrap().0);
            }
        }
    }
}

fn index_body(input: &[u8]) {
    let file_size = input.first_chunk().map_or(0, |size| u64::from_be_bytes(*size));
    let rest = input.get(8..).unwrap_or_default();
    for size in [file_size, rest.len() as u64, u64::MAX, 0] {
        let Ok(footer) = Footer::parse(rest, size) else { continue };
        assert!(footer.index_offset >= 106 && footer.index_len >= 1);
        assert_eq!(footer.index_offset + footer.index_len + 24, size);
        let Some(index) = footer.index_in(rest) else { continue };
        let mut entries = Vec::new();
        let mut parser = IndexParser::for_footer(&footer);
        let _ = parser.push(index, &mut entries).and_then(|()| parser.finish());
    }
    // An entry takes three bytes and becomes 24, in a vector that doubles.
    let entries = bounded(rest.len(), Bound { base: 1024, per_byte: 32 }, || parse_index(rest));
    let Ok(entries) = entries else { return };
    let mut next = 100;
    for entry in &entries {
        assert_eq!(entry.offset, next, "frames are contiguous");
        next += u64::from(entry.len);
    }
    assert!(entries.is_sorted_by(|a, b| a.pgno < b.pgno));
    let (mut parser, mut pieces) = (IndexParser::new(), Vec::new());
    rest.chunks(1).for_each(|byte| parser.push(byte, &mut pieces).unwrap());
    parser.finish().unwrap();
    assert_eq!(pieces, entries, "in any split");
}

fn frame_body(input: &[u8]) {
    for page_size in [512, 4096, 65536] {
        let page_size = PageSize::new(page_size).unwrap();
        let bound = codec(page_size.len());
        let mut page = vec![0; page_size.len()];
        let single = bounded(input.len(), bound, || decode_frame(input, page_size, &mut page));
        let mut pages = Vec::new();
        let run = bounded(input.len(), Bound { per_byte: 300, ..bound }, || {
            decode_run(input, page_size, |pgno, page: &[u8]| -> ltx::Result<()> {
                pages.push((pgno, page.to_vec()));
                Ok(())
            })
        });
        if let Ok(pgno) = single {
            assert_eq!(run.unwrap().page_count, 1);
            assert_eq!(pages, [(pgno, page)]);
        }
    }
}

fn name_body(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    bounded(input.len(), Bound { base: 1024, per_byte: 8 }, || {
        if let Some(name) = FileName::parse(text) {
            assert_eq!(name.to_string(), text, "a name has one spelling");
            assert!(!text.contains(['/', '\0']) && name.min <= name.max);
        }
        if let Ok(txid) = text.parse::<Txid>() {
            assert_eq!(txid.to_string(), text.to_lowercase());
        }
        if let Ok(pos) = text.parse::<Pos>() {
            assert_eq!(pos.to_string(), text.to_lowercase());
        }
        if let Ok(sum) = text.parse::<Checksum>() {
            assert_eq!(sum.to_string(), text.to_lowercase());
        }
    });
}

fn wal_body(input: &[u8]) {
    let header = bounded(input.len(), Bound { base: 0, per_byte: 0 }, || {
        let _ = FrameHeader::parse(input);
        input.first_chunk().and_then(WalHeader::parse)
    });
    let Some(header) = header else { return };
    // What a header's checksum covers decides all of it.
    assert_eq!(input[8..12], header.page_size.get().to_be_bytes());
    assert_eq!(input[16..20], header.salts.0.to_be_bytes());
}

#[test]
fn no_file_crashes_its_readers_or_takes_their_memory() {
    Target::new("ltx file", files()).words(&words()).repair(repair).cases(400).run(file_body);
}

#[test]
fn no_file_crashes_a_merge() {
    Target::new("merge", files()).words(&words()).repair(repair).cases(200).run(merge_body);
}

#[test]
fn no_index_names_more_than_it_holds() {
    let tails = files().into_iter().map(|file| [&(file.len() as u64).to_be_bytes()[..], &file].concat());
    let indexes = files().into_iter().map(|file| {
        let footer = Footer::parse(&file, file.len() as u64).unwrap();
        [&[0; 8][..], footer.index_in(&file).unwrap()].concat()
    });
    Target::new("page index", tails.chain(indexes).collect::<Vec<_>>()).words(&words()).cases(1000).run(index_body);
}

#[test]
fn no_frame_decodes_to_more_than_its_page() {
    let frames = files().into_iter().map(|file| {
        let footer = Footer::parse(&file, file.len() as u64).unwrap();
        file[Header::LEN..footer.index_offset as usize - 6].to_vec()
    });
    Target::new("page frame", frames.collect::<Vec<_>>()).words(&words()).cases(1000).run(frame_body);
}

#[test]
fn names_have_one_spelling_and_stay_in_their_directory() {
    let name = "0000000000000001-00000000000000ff.ltx";
    let names = [name, "00000000000000ff", "00000000000000ff/8000000000000001", "8000000000000001"];
    let words = ["..", "/", "\0", "-", ".ltx", "ffffffffffffffff", "0000000000000000", "+1", "٠", "F"];
    Target::new("name", names).words(&words).cases(1000).run(name_body);
    for hostile in ["../0000000000000001-0000000000000001.ltx", "0000000000000002-0000000000000001.ltx"] {
        assert_eq!(FileName::parse(hostile), None, "{hostile}");
    }
}

#[test]
fn no_wal_header_is_half_believed() {
    let mut header = [0x377f_0682_u32, 3_007_000, 4096, 0, 1, 2].map(u32::to_be_bytes).concat();
    repair_wal(&mut header);
    let frame = [1_u32, 1, 1, 2, 3, 4].map(u32::to_be_bytes).concat();
    Target::new("wal header", [[header, frame].concat()]).words(&words()).repair(repair_wal).cases(1000).run(wal_body);
}

fn repair_wal(header: &mut Vec<u8>) {
    let order = if header.get(3) == Some(&0x83) { ltx::wal::WordOrder::Big } else { ltx::wal::WordOrder::Little };
    header.resize(header.len().max(24), 0);
    let chain = ltx::wal::Chain::default().over(&header[..24], order);
    let rest = header.get(32..).unwrap_or_default().to_vec();
    header.truncate(24);
    header.extend([chain.0.to_be_bytes(), chain.1.to_be_bytes()].concat());
    header.extend(rest);
}

/// What a field may claim, against what is there: nothing is taken for the claim.
#[test]
fn counts_near_the_end_of_their_range_cost_nothing() {
    for commit in [u32::MAX, u32::MAX - 1, 1 << 31] {
        for (min, max) in [(1, 1), (2, u64::MAX), (u64::MAX, u64::MAX)] {
            let file = Forge::new(512, commit, min, max).page(1, &page(512, 1)).build();
            file_body(&file);
            let payload =
                Forge::new(512, commit, 2, 2).frame(1, vec![0, 0, 0, 1, 0, 1, 0xff, 0xff, 0xff, 0xff], vec![]);
            file_body(&payload.build());
        }
    }
    for index_len in [u64::MAX, u64::MAX - 24, 1 << 63, u64::from(u32::MAX)] {
        let file = Forge { index_len: Some(index_len), ..Forge::new(512, 9, 2, 2).page(1, &page(512, 1)) }.build();
        file_body(&file);
        assert!(Footer::parse(&file, file.len() as u64).is_err(), "{index_len}");
    }
}

/// LZ4 gives 255 bytes for one: no page takes more than a page, whatever is left.
#[test]
fn a_bomb_ends_at_the_page() {
    for unit in [&[0x1f, 0, 1, 0][..], &[0xf0][..]] {
        let payload = [unit, &vec![0xff; 500]].concat();
        frame_body(&[&[0, 0, 0, 1, 0, 1][..], &(payload.len() as u32).to_be_bytes(), &payload].concat());
    }
    let bomb = forge::lz4_frame(&vec![0; 4 << 20], legacy_info().block_size(BlockSize::Max4MB));
    frame_body(&[&[0, 0, 0, 1, 0, 0][..], &bomb].concat());
}
