//! Laws that hold for all files: round trips, independence of how work was
//! divided, and that no damage goes unseen.
//!
//! proptest prints the failing case and the seed that repeats it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod forge;

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use ltx::{
    Checksum, Decoder, Digest, Encoder, Footer, Header, IndexParser, Merge, MergeLimits, MergeOptions, PageSize, Pgno,
    RunEncoder, Spill, Summary, Txid, decode_frame, decode_run, merge, page_checksum, parse_index,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

type Pages = BTreeMap<u32, Vec<u8>>;

const PAGE_SIZES: [u32; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

fn header(page_size: u32, commit: u32, min: u64, max: u64) -> Header {
    let page_size = PageSize::new(page_size).unwrap();
    Header::new(page_size, commit, Txid::new(min), Txid::new(max), jiff::Timestamp::UNIX_EPOCH)
}

fn encode(header: &Header, pages: &Pages) -> (Vec<u8>, Summary) {
    let mut encoder = Encoder::new(Vec::new(), header.clone()).unwrap();
    for (pgno, page) in pages {
        encoder.encode_page(Pgno::new(*pgno).unwrap(), page).unwrap();
    }
    encoder.finish(Checksum::NONE).unwrap()
}

fn decode(reader: impl Read) -> ltx::Result<(Pages, Summary)> {
    let mut decoder = Decoder::new(reader)?;
    let mut page = vec![0xa5; decoder.header().page_size.len()];
    let mut pages = Pages::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.insert(pgno.get(), page.clone());
    }
    Ok((pages, decoder.finish()?))
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../tests/golden/ltx/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Pages as databases have them, and as nobody would wish them.
fn page(page_size: u32) -> impl Strategy<Value = Vec<u8>> {
    let len = page_size as usize;
    prop_oneof![
        any::<u8>().prop_map(move |byte| vec![byte; len]),
        any::<u32>().prop_map(move |seed| forge::page(len, seed)),
        any::<u64>().prop_map(move |seed| {
            (0..len as u64 / 8).flat_map(|i| forge::crc64(&(seed ^ i).to_be_bytes()).to_be_bytes()).collect()
        }),
        // Few symbols and short periods: matches that overlap themselves.
        (vec(0..4_u8, 1..40)).prop_map(move |unit| unit.iter().copied().cycle().take(len).collect()),
        // A few bytes in a page of zeros.
        vec((0..len, any::<u8>()), 0..20).prop_map(move |spots| {
            let mut page = vec![0; len];
            spots.into_iter().for_each(|(at, byte)| page[at] = byte);
            page
        }),
    ]
}

fn pages(page_size: u32, count: std::ops::Range<usize>) -> impl Strategy<Value = Pages> {
    btree_map(1..200_u32, page(page_size), count)
}

fn sized_pages() -> impl Strategy<Value = (u32, Pages)> {
    proptest::sample::select(&PAGE_SIZES[..]).prop_flat_map(|size| (Just(size), pages(size, 0..6)))
}

/// A chain of files: a snapshot, then deltas that grow and shrink the database
/// and hold each new page, as the writer promises.
fn chain() -> impl Strategy<Value = Vec<(u32, Pages)>> {
    vec((1..24_u32, btree_map(1..24_u32, page(512), 0..8), any::<u32>()), 1..14).prop_map(|steps| {
        let mut previous = 0;
        let mut chain = Vec::new();
        for (commit, mut changed, seed) in steps {
            changed.retain(|pgno, _| *pgno <= commit);
            for pgno in previous + 1..=commit {
                changed.entry(pgno).or_insert_with(|| forge::page(512, seed ^ pgno));
            }
            previous = commit;
            chain.push((commit, changed));
        }
        chain
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_by_every_reader((page_size, pages) in sized_pages()) {
        let (file, written) = encode(&header(page_size, 200, 2, 2), &pages);
        let (read, summary) = decode(file.as_slice()).unwrap();
        prop_assert_eq!(&read, &pages);
        prop_assert_eq!(&summary, &written);
        prop_assert_eq!(summary.size, file.len() as u64);

        // By index, page by page.
        let footer = Footer::parse(&file, summary.size).unwrap();
        let index = parse_index(footer.index_in(&file).unwrap()).unwrap();
        prop_assert_eq!(index.len(), pages.len());
        let page_size = PageSize::new(page_size).unwrap();
        let mut page = vec![0; page_size.len()];
        for entry in &index {
            let frame = &file[entry.offset as usize..][..entry.len as usize];
            prop_assert_eq!(decode_frame(frame, page_size, &mut page).unwrap(), entry.pgno);
            prop_assert_eq!(&page, &pages[&entry.pgno.get()]);
        }
    }

    #[test]
    fn a_file_verifies_in_parts((page_size, pages) in sized_pages(), cut in any::<prop::sample::Index>()) {
        let (file, summary) = encode(&header(page_size, 200, 2, 2), &pages);
        let footer = Footer::parse(&file, summary.size).unwrap();
        let index = parse_index(footer.index_in(&file).unwrap()).unwrap();
        let block_end = footer.index_offset as usize - 6;
        let cut = index.get(cut.index(index.len() + 1)).map_or(block_end, |entry| entry.offset as usize);
        let mut read = Pages::new();
        let mut sink = |pgno: Pgno, page: &[u8]| -> ltx::Result<()> {
            read.insert(pgno.get(), page.to_vec());
            Ok(())
        };
        let page_size = PageSize::new(page_size).unwrap();
        let left = decode_run(&file[100..cut], page_size, &mut sink).unwrap();
        let right = decode_run(&file[cut..block_end], page_size, &mut sink).unwrap();
        let whole = Digest::of(&file[..100])
            .combine(left.digest)
            .combine(right.digest)
            .combine(Digest::of(&file[block_end..file.len() - 8]));
        prop_assert_eq!(whole.finish(), footer.trailer.file);
        prop_assert_eq!(left.page_count + right.page_count, summary.page_count);
        prop_assert_eq!(right.last.or(left.last).map(Pgno::get), pages.keys().last().copied());
        prop_assert_eq!(read, pages);
    }

    #[test]
    fn runs_encoded_apart_give_the_bytes_of_one_encoder(
        (page_size, pages) in sized_pages(),
        lengths in vec(0..4_usize, 0..6),
    ) {
        let header = header(page_size, 200, 2, 2);
        let (expected, summary) = encode(&header, &pages);
        let mut encoder = Encoder::new(Vec::new(), header.clone()).unwrap();
        let mut runs = RunEncoder::new(header.page_size);
        let mut rest = pages.iter();
        for length in lengths {
            for (pgno, page) in rest.by_ref().take(length) {
                runs.push(Pgno::new(*pgno).unwrap(), page).unwrap();
            }
            encoder.append_run(runs.finish()).unwrap();
        }
        for (pgno, page) in rest {
            encoder.encode_page(Pgno::new(*pgno).unwrap(), page).unwrap();
        }
        let (file, of_runs) = encoder.finish(Checksum::NONE).unwrap();
        prop_assert_eq!(file, expected);
        prop_assert_eq!(of_runs, summary);
    }

    #[test]
    fn digests_join_to_the_crc_of_another_implementation(parts in vec(vec(any::<u8>(), 0..300), 0..8)) {
        let joined = parts.iter().fold(Digest::EMPTY, |digest, part| digest.combine(Digest::of(part)));
        let whole = parts.concat();
        prop_assert_eq!(joined, Digest::of(&whole));
        prop_assert_eq!(joined.crc(), forge::crc64(&whole));
        prop_assert_eq!(joined.len(), whole.len() as u64);
    }

    #[test]
    fn page_checksums_are_those_of_another_implementation(pgno in 1..=u32::MAX, page in page(512)) {
        let covered = [&pgno.to_be_bytes()[..], &page].concat();
        prop_assert_eq!(page_checksum(Pgno::new(pgno).unwrap(), &page).get(), 1 << 63 | forge::crc64(&covered));
    }

    #[test]
    fn a_merge_is_the_database_after_the_last_file(chain in chain(), first in any::<prop::sample::Index>()) {
        let mut database = Pages::new();
        let files: Vec<_> = (1..).zip(&chain).map(|(txid, (commit, changed))| {
            database.extend(changed.clone());
            database.retain(|pgno, _| pgno <= commit);
            encode(&header(512, *commit, txid, txid), changed).0
        }).collect();
        let merged = |files: &[Vec<u8>]| {
            let mut out = Vec::new();
            let summary = merge(files.iter().map(Vec::as_slice).collect(), &mut out).unwrap();
            assert_eq!(summary.size, out.len() as u64);
            out
        };
        let whole = merged(&files);
        prop_assert_eq!(&decode(whole.as_slice()).unwrap().0, &database);

        // Nor do limits: with three inputs open at once, the others fold first.
        let spill = Spill::new(|| Ok(Box::new(Cursor::new(Vec::new()))));
        let limits = MergeLimits { fan_in: 3, spill };
        let options = MergeOptions { limits: Some(&limits), ..MergeOptions::default() };
        let mut folded = Vec::new();
        let inputs = files.iter().map(Vec::as_slice).collect();
        Merge::with_options(inputs, options).unwrap().write_to(&mut folded).unwrap();
        prop_assert_eq!(&folded, &whole);

        // Compacting a part first changes nothing, not even a byte.
        let first = first.index(files.len());
        let mut levels = files[..first].to_vec();
        levels.push(merged(&files[first..]));
        prop_assert_eq!(merged(&levels), whole);
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in vec(any::<u8>(), 0..600), size in 0..u64::MAX) {
        let _ = Header::parse(&bytes);
        let _ = Footer::parse(&bytes, size);
        let _ = parse_index(&bytes);
        let _ = decode(bytes.as_slice());
        let mut page = [0; 512];
        let page_size = PageSize::new(512).unwrap();
        let _ = decode_frame(&bytes, page_size, &mut page);
        for flags in [0, 1] {
            // Past the checks of the head, to the decoders.
            let payload_len = (bytes.len() as u32).to_be_bytes();
            let mut frame = vec![0, 0, 0, 9, 0, flags];
            if flags == 1 {
                frame.extend(payload_len);
            } else {
                frame.extend([0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7]);
            }
            frame.extend(&bytes);
            let _ = decode_frame(&frame, page_size, &mut page);
        }
    }

    #[test]
    fn an_index_parses_alike_in_any_split((page_size, pages) in sized_pages(), step in 1..9_usize) {
        let (file, summary) = encode(&header(page_size, 200, 2, 2), &pages);
        let footer = Footer::parse(&file, summary.size).unwrap();
        let index = footer.index_in(&file).unwrap();
        let (mut parser, mut entries) = (IndexParser::for_footer(&footer), Vec::new());
        index.chunks(step).for_each(|chunk| parser.push(chunk, &mut entries).unwrap());
        parser.finish().unwrap();
        prop_assert_eq!(entries, parse_index(index).unwrap());
    }
}

#[test]
fn every_cut_of_a_file_is_an_error() {
    for name in [
        "p512/ltx/0/0000000000000001-0000000000000001.ltx",
        "p512/ltx/0/0000000000000002-0000000000000002.ltx",
        "p65536/ltx/0/0000000000000001-0000000000000001.ltx",
        "legacy512/ltx/0/0000000000000001-0000000000000001.ltx",
    ] {
        let file = golden(name);
        decode(file.as_slice()).unwrap();
        for len in 0..file.len() {
            let cut = &file[..len];
            assert!(decode(cut).is_err(), "{name} cut at {len}");
            assert!(merge(vec![cut], Vec::new()).is_err(), "{name} cut at {len}");
            if let Ok(footer) = Footer::parse(cut, len as u64) {
                let _ = footer.index_in(cut).map(parse_index);
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_an_error_or_changes_no_page() {
    let name = "p512/ltx/0/0000000000000001-0000000000000001.ltx";
    let sound = golden(name);
    let expected = decode(sound.as_slice()).unwrap();
    let mut harmless = 0;
    for bit in 0..sound.len() * 8 {
        let mut file = sound.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        if let Ok(read) = decode(file.as_slice()) {
            assert_eq!(read, expected, "bit {bit}");
            harmless += 1;
        }
    }
    // Two ways to write one page, as LZ4 often has; the real binary agrees (spec: ltx §7.2).
    assert_eq!(harmless, 41);
}

#[test]
fn every_flipped_bit_of_a_legacy_file_is_an_error_or_changes_no_page() {
    let sound = golden("legacy512/ltx/0/0000000000000001-0000000000000001.ltx");
    let expected = decode(sound.as_slice()).unwrap();
    for bit in 0..sound.len() * 8 {
        let mut file = sound.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        if let Ok(read) = decode(file.as_slice()) {
            assert_eq!(read, expected, "bit {bit}");
        }
    }
}
