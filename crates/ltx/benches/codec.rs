//! Speed of the codec in MB of page content per second, median of several runs.
//!
//! `cargo bench -p ltx --bench codec`. One thread; the pages of each kind are
//! 32 MB, more than the caches hold.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

#[allow(dead_code, unused_imports, reason = "the benchmark reaches below the public interface")]
#[path = "../src/lz4.rs"]
mod lz4;

use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use ltx::{Checksum, Decoder, Digest, Encoder, Header, PageSize, Pgno, Txid, merge};

fn main() {
    println!("{:<28} {:>9} {:>9} {:>9} {:>9} {:>9}", "MB/s", "leaf", "index", "random", "zero", "leaf 64K");
    let kinds = [
        pages(4096, leaf_page),
        pages(4096, index_page),
        pages(4096, |_, page, random| random.fill(page)),
        pages(4096, |_, _, _| ()),
        pages(65536, leaf_page),
    ];
    let row = |name: &str, measure: &dyn Fn(&[u8], usize) -> f64| {
        let cells: Vec<_> = kinds.iter().map(|(size, data)| format!("{:>9.0}", measure(data, *size))).collect();
        println!("{name:<28} {}", cells.join(" "));
    };
    row("compress, Appendix A", &|data, size| {
        let (mut compressor, mut out) = (lz4::Compressor::new(), Vec::new());
        each_page(data, size, |page| {
            out.clear();
            compressor.compress(page, &mut out);
            black_box(&out);
        })
    });
    row("compress, lz4_flex", &|data, size| {
        let mut out = vec![0; lz4_flex::block::get_maximum_output_size(size)];
        each_page(data, size, |page| {
            black_box(lz4_flex::block::compress_into(page, &mut out).unwrap());
        })
    });
    for (name, strict) in [("decompress, checked", true), ("decompress, lz4_flex alone", false)] {
        row(name, &|data, size| {
            let mut compressor = lz4::Compressor::new();
            let blocks: Vec<_> = data
                .chunks(size)
                .map(|page| {
                    let mut block = Vec::new();
                    compressor.compress(page, &mut block);
                    block
                })
                .collect();
            let mut out = vec![0; size];
            median(data.len(), || {
                for block in &blocks {
                    if strict {
                        lz4::decompress(block, &mut out).unwrap();
                    } else {
                        lz4_flex::block::decompress_into(block, &mut out).unwrap();
                    }
                    black_box(&out);
                }
            })
        });
    }
    row("crc", &|data, size| each_page(data, size, |page| _ = black_box(Digest::of(page))));
    row("page checksum", &|data, size| {
        each_page(data, size, |page| _ = black_box(ltx::page_checksum(Pgno::FIRST, page)))
    });
    row("Encoder", &|data, size| median(data.len(), || _ = black_box(encode(data, size, 1, std::io::sink()))));
    row("Decoder", &|data, size| {
        let file = file(data, size, 1);
        median(data.len(), || drop(black_box(Decoder::new(file.as_slice()).unwrap().finish().unwrap())))
    });
    row("merge of two, output", &|data, size| {
        let (old, new) = (file(data, size, 1), file(&data[..data.len() / 16 / size * size], size, 2));
        median(data.len(), || drop(black_box(merge(vec![old.as_slice(), new.as_slice()], std::io::sink()).unwrap())))
    });
    for (name, index) in [("ratio, Appendix A (%)", 0), ("ratio, lz4_flex (%)", 1)] {
        row(name, &|data, size| {
            let (mut compressor, mut total) = (lz4::Compressor::new(), 0);
            for page in data.chunks(size) {
                let mut out = Vec::new();
                compressor.compress(page, &mut out);
                total += if index == 0 { out.len() } else { lz4_flex::block::compress(page).len() };
            }
            100.0 * total as f64 / data.len() as f64
        });
    }
}

fn each_page(data: &[u8], size: usize, mut step: impl FnMut(&[u8])) -> f64 {
    median(data.len(), || data.chunks(size).for_each(&mut step))
}

/// Median of seven runs, after one that does not count.
fn median(bytes: usize, mut run: impl FnMut()) -> f64 {
    run();
    let mut speeds: Vec<f64> = (0..7)
        .map(|_| {
            let start = Instant::now();
            run();
            bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
        })
        .collect();
    speeds.sort_by(f64::total_cmp);
    speeds[3]
}

fn file(data: &[u8], size: usize, min: u64) -> Vec<u8> {
    encode(data, size, min, Vec::new())
}

fn encode<W: Write>(data: &[u8], size: usize, min: u64, out: W) -> W {
    let pages = (data.len() / size) as u32;
    let commit = if min == 1 { pages } else { (DATA_LEN / size) as u32 };
    let page_size = PageSize::new(size as u32).unwrap();
    let header = Header::new(page_size, commit, Txid::new(min), Txid::new(min), jiff::Timestamp::UNIX_EPOCH);
    let mut encoder = Encoder::new(out, header).unwrap();
    for (page, pgno) in data.chunks(size).zip(1..) {
        encoder.encode_page(Pgno::new(pgno).unwrap(), page).unwrap();
    }
    encoder.finish(Checksum::NONE).unwrap().0
}

fn pages(size: usize, make: impl Fn(u64, &mut [u8], &mut Random)) -> (usize, Vec<u8>) {
    let (mut data, mut random) = (vec![0; DATA_LEN], Random(42));
    for (number, page) in data.chunks_mut(size).enumerate() {
        make(number as u64, page, &mut random);
    }
    (size, data)
}

/// A table leaf as SQLite lays it out: rows of an id, a name, a mail address, a
/// time, an amount and a line of words; filled from the end, 80 % full.
fn leaf_page(number: u64, page: &mut [u8], random: &mut Random) {
    fill_btree_page(0x0d, page, |row, cell| {
        let id = number * 100 + row;
        let name = format!("{} {}", pick(FIRST_NAMES, random), pick(LAST_NAMES, random));
        let mail = format!("{}{}@example.com", name.to_lowercase().replace(' ', "."), random.next() % 1000);
        let time =
            format!("2026-{:02}-{:02}T{:02}:{:02}:00Z", 1 + id / 9000 % 12, 1 + id / 300 % 28, id / 12 % 24, id % 60);
        let words: Vec<_> = (0..4 + random.next() % 12).map(|_| pick(WORDS, random)).collect();
        cell.extend([0x07, 0x01, name.len() as u8, mail.len() as u8, time.len() as u8, 0x04]);
        cell.extend(&(id as u32).to_be_bytes());
        cell.extend([name.as_str(), &mail, &time].concat().bytes());
        cell.extend(&(random.next() as u32 % 1_000_000).to_be_bytes());
        cell.extend(words.join(" ").bytes());
    });
}

/// A leaf of an index over random 16-byte keys in hexadecimal.
fn index_page(number: u64, page: &mut [u8], random: &mut Random) {
    fill_btree_page(0x0a, page, |row, cell| {
        cell.extend([0x26, 0x03, 0x4d, 0x04]);
        cell.extend(format!("{:06x}{:016x}{:010x}", number * 64 + row, random.next(), random.next() >> 24).bytes());
        cell.extend(&(random.next() as u32 % 2_000_000).to_be_bytes());
    });
}

fn fill_btree_page(kind: u8, page: &mut [u8], mut make: impl FnMut(u64, &mut Vec<u8>)) {
    let (mut end, mut count, mut cell) = (page.len(), 0_usize, Vec::new());
    while end > page.len() / 5 + 8 + 2 * count + 300 {
        cell.clear();
        make(count as u64, &mut cell);
        end -= cell.len();
        page[end..end + cell.len()].copy_from_slice(&cell);
        page[8 + 2 * count..][..2].copy_from_slice(&(end as u16).to_be_bytes());
        count += 1;
    }
    page[0] = kind;
    page[3..5].copy_from_slice(&(count as u16).to_be_bytes());
    page[5..7].copy_from_slice(&(end as u16).to_be_bytes());
}

fn pick<'a>(words: &[&'a str], random: &mut Random) -> &'a str {
    words[(random.next() % words.len() as u64) as usize]
}

/// SplitMix64: the same pages in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

const DATA_LEN: usize = 32 << 20;
const FIRST_NAMES: &[&str] =
    &["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Leslie", "Margaret", "Tony", "Niklaus"];
const LAST_NAMES: &[&str] =
    &["Lovelace", "Hopper", "Turing", "Dijkstra", "Liskov", "Knuth", "Lamport", "Hamilton", "Hoare", "Wirth"];
const WORDS: &[&str] = &[
    "order",
    "shipped",
    "pending",
    "invoice",
    "customer",
    "returned",
    "priority",
    "warehouse",
    "payment",
    "received",
    "delayed",
    "express",
    "standard",
    "the",
    "of",
    "and",
    "to",
    "for",
    "with",
    "note",
];
