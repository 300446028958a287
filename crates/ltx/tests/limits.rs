//! Merges of many files and of many pages: what they hold at once is bounded.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod forge;
mod synthetic;

use std::cell::Cell;
use std::io::{self, Cursor, Read};
use std::process::Command;
use std::rc::Rc;

use forge::{Forge, page};
use ltx::{Error, FileName, Merge, MergeLimits, MergeOptions, Spill, Txid};

/// Counts how many of its kind are open; opens on the first read.
struct Counted {
    file: Vec<u8>,
    read: usize,
    open: bool,
    counts: Rc<Counts>,
}

#[derive(Default)]
struct Counts {
    open: Cell<usize>,
    most: Cell<usize>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.open {
            self.open = true;
            self.counts.open.set(self.counts.open.get() + 1);
            self.counts.most.set(self.counts.most.get().max(self.counts.open.get()));
        }
        let len = (&self.file[self.read..]).read(buffer)?;
        self.read += len;
        Ok(len)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counts.open.set(self.counts.open.get() - usize::from(self.open));
    }
}

/// An image and `count - 1` deltas that overlap.
fn burst(count: u64) -> Vec<Vec<u8>> {
    (1..=count)
        .map(|txid| match txid {
            1 => (1..=40).fold(Forge::new(512, 40, 1, 1), |file, pgno| file.page(pgno, &page(512, pgno))).build(),
            _ => {
                let seed = txid as u32;
                let (first, second) = (1 + seed % 20, 21 + seed * 7 % 20);
                Forge::new(512, 40, txid, txid).page(first, &page(512, seed)).page(second, &page(512, !seed)).build()
            }
        })
        .collect()
}

fn limits(fan_in: usize) -> MergeLimits {
    MergeLimits { fan_in, spill: Spill::new(|| Ok(Box::new(Cursor::new(Vec::new())))) }
}

fn within(limits: &MergeLimits) -> MergeOptions<'_> {
    MergeOptions { limits: Some(limits), ..MergeOptions::default() }
}

#[test]
fn a_thousand_inputs_are_never_open_together() {
    let files = burst(1_000);
    let mut expected = Vec::new();
    ltx::merge(files.iter().map(Vec::as_slice).collect(), &mut expected).unwrap();
    for fan_in in [3, 10, 128] {
        let counts = Rc::new(Counts::default());
        let open = |file: &Vec<u8>| Counted { file: file.clone(), read: 0, open: false, counts: Rc::clone(&counts) };
        let limits = limits(fan_in);
        let mut merged = Vec::new();
        Merge::with_options(files.iter().map(open).collect(), within(&limits)).unwrap().write_to(&mut merged).unwrap();
        assert!(counts.most.get() <= fan_in, "{} open of {fan_in}", counts.most.get());
        assert_eq!(counts.open.get(), 0);
        assert!(merged == expected, "fan-in {fan_in}");
    }
}

#[test]
fn the_damaged_input_is_named_however_early_it_was_merged() {
    for damaged in [0, 1, 77, 198, 199] {
        let mut files = burst(200);
        let last = files[damaged].len() - 1;
        files[damaged][last] ^= 1;
        let limits = limits(8);
        let merge = Merge::with_options(files.iter().map(Vec::as_slice).collect(), within(&limits));
        match merge.and_then(|merge| merge.write_to(Vec::new())).unwrap_err() {
            Error::InputClose { input, source } if matches!(*source, Error::FileChecksumMismatch) => {
                assert_eq!(input, damaged);
            }
            err => panic!("{damaged}: {err}"),
        }
    }
}

#[test]
fn an_input_that_is_not_what_its_name_says_is_refused() {
    let files = burst(9);
    let mut names: Vec<_> = (1..=9).map(|txid| FileName { min: Txid::new(txid), max: Txid::new(txid) }).collect();
    names[4].max = Txid::new(6);
    for limits in [None, Some(&limits(3))] {
        let options = MergeOptions { names: &names, limits };
        match Merge::with_options(files.iter().map(Vec::as_slice).collect(), options).err().unwrap() {
            Error::InputHeader { input: 4, source } => assert!(matches!(*source, Error::NameMismatch { .. })),
            err => panic!("{err}"),
        }
    }
}

/// A hole in an image that a later file fills is legal, wherever the parts are cut.
#[test]
fn a_hole_in_a_snapshot_may_be_filled_by_a_part_merged_later() {
    let mut files = burst(9);
    let all_but_7 = (1..=40).filter(|pgno| *pgno != 7);
    files[0] = all_but_7.fold(Forge::new(512, 40, 1, 1), |file, pgno| file.page(pgno, &page(512, pgno))).build();
    let limits = limits(3);
    let merge = |files: &[Vec<u8>]| {
        Merge::with_options(files.iter().map(Vec::as_slice).collect(), within(&limits))?.write_to(Vec::new())
    };
    let sums = |files: &[Vec<u8>]| merge(files).unwrap().trailer;
    // TXID 6 holds page 7.
    assert_eq!(sums(&files), ltx::merge(files.iter().map(Vec::as_slice).collect(), Vec::new()).unwrap().trailer);
    assert!(matches!(merge(&files[..5]).unwrap_err(), Error::SnapshotGap { previous: 6, pgno: 8 }));
}

#[test]
fn temporary_storage_that_fails_is_not_blamed_on_an_input() {
    let files = burst(20);
    let spill = Spill::new(|| Err(io::ErrorKind::StorageFull.into()));
    let limits = MergeLimits { fan_in: 4, spill };
    let err = Merge::with_options(files.iter().map(Vec::as_slice).collect(), within(&limits)).err().unwrap();
    assert!(matches!(err, Error::Spill(err) if err.kind() == io::ErrorKind::StorageFull));
}

/// The index of 1.2 million pages alone is larger than this limit, and upstream's
/// memory is some 450 bytes a page.
#[test]
fn memory_of_a_merge_does_not_grow_with_its_pages() {
    const LIMIT: u64 = 16 << 20;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "merge_in_a_process_of_its_own", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once("peak memory: ")).map(|(_, peak)| peak);
    let peak: u64 = line.unwrap_or_else(|| panic!("{text}")).trim().parse().unwrap();
    assert!(peak < LIMIT, "{peak} bytes held at once");
}

/// Memory is a matter of the process; the test above starts this one alone.
#[test]
#[ignore = "run by another test"]
fn merge_in_a_process_of_its_own() {
    let (summary, peak) = synthetic::merge(1_200_000);
    assert_eq!(summary.page_count, 1_200_000);
    println!("peak memory: {peak}");
}
