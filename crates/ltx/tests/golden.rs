//! Files written by upstream's released binaries: we read every field of them,
//! write the same bytes, and merge them to the same databases.
//!
//! How the files were made: `tests/golden/ltx/README.md`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::path::PathBuf;

use ltx::{
    Checksum, DatabaseChecksum, Decoder, Encoder, FileName, Footer, Header, Merge, PageSize, Pgno, decode_frame,
    page_checksum, parse_index,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/ltx")
}

fn manifest() -> Value {
    serde_json::from_slice(&std::fs::read(directory().join("MANIFEST.json")).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(directory().join(name)).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pages(file: &[u8]) -> Vec<(Pgno, Vec<u8>)> {
    let mut decoder = Decoder::new(file).unwrap();
    let mut page = vec![0; decoder.header().page_size.len()];
    let mut pages = Vec::new();
    while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
        pages.push((pgno, page.clone()));
    }
    pages
}

#[test]
fn every_header_field_is_read_as_written() {
    for entry in list(&manifest(), "files") {
        let name = text(entry, "file");
        let file = read(name);
        assert_eq!(sha256(&file), text(entry, "sha256"), "{name}");
        let summary = Decoder::new(file.as_slice()).unwrap().finish().unwrap();
        let header = &summary.header;

        assert_eq!(Some(u64::from(header.flags.bits())), entry["flags"].as_u64(), "{name}");
        assert_eq!(Some(u64::from(header.page_size.get())), entry["page_size"].as_u64(), "{name}");
        assert_eq!(Some(u64::from(header.commit)), entry["commit"].as_u64(), "{name}");
        assert_eq!(header.min.to_string(), text(entry, "min_txid"), "{name}");
        assert_eq!(header.max.to_string(), text(entry, "max_txid"), "{name}");
        assert_eq!(Some(header.timestamp_ms()), entry["timestamp"].as_i64(), "{name}");
        assert_eq!(format!("{:.3}", header.timestamp), text(entry, "timestamp_iso"), "{name}");
        assert_eq!(header.pre_apply.to_string(), text(entry, "pre_apply_checksum"), "{name}");
        assert_eq!(Some(header.wal_offset), entry["wal_offset"].as_u64(), "{name}");
        assert_eq!(Some(header.wal_size), entry["wal_size"].as_u64(), "{name}");
        assert_eq!(format!("{:08x}", header.wal_salt1), text(entry, "wal_salt1"), "{name}");
        assert_eq!(format!("{:08x}", header.wal_salt2), text(entry, "wal_salt2"), "{name}");
        assert_eq!(Some(header.node_id), entry["node_id"].as_u64(), "{name}");
        assert_eq!(header.encode(), file[..Header::LEN], "{name}");

        let base = name.rsplit('/').next().unwrap();
        assert_eq!(FileName::parse(base), Some(FileName { min: header.min, max: header.max }), "{name}");
        assert_eq!(Some(summary.size), entry["size"].as_u64(), "{name}");
        assert_eq!(summary.trailer.post_apply.to_string(), text(entry, "post_apply_checksum"), "{name}");
        assert_eq!(summary.trailer.file.to_string(), text(entry, "file_checksum"), "{name}");
        assert_eq!(summary.warnings, [], "{name}");
    }
}

#[test]
fn every_page_is_read_as_written_in_order_and_by_index() {
    for entry in list(&manifest(), "files") {
        let name = text(entry, "file");
        let file = read(name);
        let footer = Footer::parse(&file, file.len() as u64).unwrap();
        assert_eq!(Some(footer.index_offset), entry["index_offset"].as_u64(), "{name}");
        assert_eq!(Some(footer.index_len), entry["index_bytes"].as_u64(), "{name}");
        let index = parse_index(footer.index_in(&file).unwrap()).unwrap();
        let expected = list(entry, "pages");
        let pages = pages(&file);
        assert_eq!((pages.len(), index.len()), (expected.len(), expected.len()), "{name}");

        let page_size = Header::parse(&file).unwrap().page_size;
        let mut alone = vec![0; page_size.len()];
        for (((pgno, data), entry), expected) in pages.iter().zip(&index).zip(expected) {
            assert_eq!(Some(u64::from(pgno.get())), expected["pgno"].as_u64(), "{name}");
            assert_eq!(page_checksum(*pgno, data).to_string(), text(expected, "page_checksum"), "{name}");
            assert_eq!(sha256(data), text(expected, "sha256"), "{name}");
            assert_eq!(Some(entry.offset), expected["offset"].as_u64(), "{name}");
            assert_eq!(Some(u64::from(entry.len)), expected["frame_size"].as_u64(), "{name}");
            let frame = &file[entry.offset as usize..][..entry.len as usize];
            assert_eq!(decode_frame(frame, page_size, &mut alone).unwrap(), *pgno, "{name}");
            assert_eq!(alone, *data, "{name}");
        }
    }
}

#[test]
fn files_written_again_have_the_same_bytes() {
    let mut compared = 0;
    for entry in list(&manifest(), "files") {
        let name = text(entry, "file");
        if list(entry, "page_encoding").iter().any(|encoding| encoding != "block") {
            continue;
        }
        let file = read(name);
        let mut encoder = Encoder::new(Vec::new(), Header::parse(&file).unwrap()).unwrap();
        for (pgno, data) in pages(&file) {
            encoder.encode_page(pgno, &data).unwrap();
        }
        let (again, summary) = encoder.finish(Checksum::NONE).unwrap();
        assert_eq!(again, file, "{name}");
        assert_eq!(summary, Decoder::new(file.as_slice()).unwrap().finish().unwrap(), "{name}");
        compared += 1;
    }
    assert_eq!(compared, 9, "all but the legacy file");
}

#[test]
fn merging_gives_upstreams_compacted_file() {
    let manifest = manifest();
    let compactions = list(&manifest, "compactions");
    assert!(!compactions.is_empty());
    for entry in compactions {
        let inputs: Vec<_> = list(entry, "inputs").iter().map(|name| read(name.as_str().unwrap())).collect();
        let mut merged = Vec::new();
        let summary = ltx::merge(inputs.iter().map(Vec::as_slice).collect(), &mut merged).unwrap();
        assert_eq!(merged, read(text(entry, "output")));
        assert_eq!(summary.size, merged.len() as u64);
    }
}

#[test]
fn restores_give_upstreams_databases() {
    let manifest = manifest();
    let restores = list(&manifest, "restores");
    assert!(!restores.is_empty());
    for entry in restores {
        let files: Vec<_> = list(entry, "files").iter().map(|name| read(name.as_str().unwrap())).collect();
        let mut merge = Merge::new(files.iter().map(Vec::as_slice).collect()).unwrap();
        let page_size: PageSize = merge.header().page_size;
        let mut database = vec![0; merge.header().commit as usize * page_size.len()];
        let mut sum = DatabaseChecksum::new();
        while let Some(page) = merge.next_page().unwrap() {
            database[page.pgno.offset(page_size) as usize..][..page.data.len()].copy_from_slice(page.data);
            sum.toggle(page_checksum(page.pgno, page.data));
        }
        assert_eq!(merge.finish().unwrap(), []);
        assert_eq!(Some(database.len() as u64), entry["db_size"].as_u64(), "{entry}");
        assert_eq!(sha256(&database), text(entry, "db_sha256"), "{entry}");
        assert_eq!(sum.value().to_string(), text(entry, "db_checksum"), "{entry}");
    }
}
