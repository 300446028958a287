//! Transports that fail, stall into small pieces, or interrupt.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod forge;

use std::io::{self, Read, Write};

use forge::{Forge, page};
use ltx::{Checksum, Decoder, Encoder, Error, Header, PageSize, Pgno, Txid, merge};

fn sound() -> Vec<u8> {
    Forge::new(512, 9, 2, 2).page(3, &page(512, 3)).legacy(4, &page(512, 4)).page(9, &page(512, 9)).build()
}

/// Gives one byte a read, an interruption before each, and fails at the end.
struct Drip<'a> {
    bytes: &'a [u8],
    interrupt: bool,
    fail: bool,
}

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupt = !self.interrupt;
        if self.interrupt {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.bytes.is_empty() && self.fail {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let len = buffer.len().min(1);
        self.bytes.read(&mut buffer[..len])
    }
}

#[test]
fn a_dripping_reader_gives_the_same_file() {
    let file = sound();
    let drip = Drip { bytes: &file, interrupt: false, fail: false };
    let expected = Decoder::new(file.as_slice()).unwrap().finish().unwrap();
    assert_eq!(Decoder::new(drip).unwrap().finish().unwrap(), expected);
}

#[test]
fn a_reader_that_fails_anywhere_is_told_from_damage() {
    let file = sound();
    for len in 0..=file.len() {
        let drip = Drip { bytes: &file[..len], interrupt: false, fail: true };
        let error = Decoder::new(drip).and_then(Decoder::finish).unwrap_err();
        assert!(matches!(error, Error::Read(_)), "after {len} bytes: {error}");
        let drip = Drip { bytes: &file[..len], interrupt: false, fail: true };
        assert!(merge(vec![drip], Vec::new()).unwrap_err().is_io(), "after {len} bytes");
        assert!(!Decoder::new(&file[..len.min(file.len() - 1)]).and_then(Decoder::finish).unwrap_err().is_io());
    }
}

/// Takes so many bytes, then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let len = bytes.len().min(self.0);
        self.0 -= len;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_writer_that_fails_anywhere_fails_the_file() {
    let file = sound();
    let mut out = Vec::new();
    merge(vec![file.as_slice()], &mut out).unwrap();
    for len in 0..out.len() {
        let error = merge(vec![file.as_slice()], Full(len)).unwrap_err();
        assert!(matches!(error, Error::Write(_)), "after {len} bytes: {error}");
    }
    merge(vec![file.as_slice()], Full(out.len())).unwrap();
}

fn delta() -> Header {
    let page_size = PageSize::new(512).unwrap();
    Header::new(page_size, 9, Txid::new(2), Txid::new(2), jiff::Timestamp::UNIX_EPOCH)
}

#[test]
fn an_encoder_that_failed_does_not_finish() {
    let mut encoder = Encoder::new(Vec::new(), delta()).unwrap();
    encoder.encode_page(Pgno::new(4).unwrap(), &[0; 512]).unwrap();
    let error = encoder.encode_page(Pgno::new(4).unwrap(), &[0; 512]).unwrap_err();
    assert!(matches!(error, Error::PageOrder { previous: 4, pgno: 4 }));
    assert!(matches!(encoder.encode_page(Pgno::new(5).unwrap(), &[0; 512]), Err(Error::Poisoned)));
    assert!(matches!(encoder.finish(Checksum::NONE), Err(Error::Poisoned)));
}

#[test]
fn a_decoder_that_failed_does_not_finish() {
    let file = Forge::new(512, 9, 2, 2).page(4, &page(512, 3)).page(3, &page(512, 4)).build();
    let mut decoder = Decoder::new(file.as_slice()).unwrap();
    let mut page = [0; 512];
    decoder.next_page(&mut page).unwrap();
    decoder.next_page(&mut page).unwrap_err();
    assert!(matches!(decoder.next_page(&mut page), Err(Error::Poisoned)));
    assert!(matches!(decoder.finish(), Err(Error::Poisoned)));
}

#[test]
fn pages_of_another_length_are_refused() {
    let mut encoder = Encoder::new(Vec::new(), delta()).unwrap();
    let error = encoder.encode_page(Pgno::FIRST, &[0; 511]).unwrap_err();
    assert_eq!(error.to_string(), "invalid page buffer size: 511, expecting 512");
    let file = sound();
    let mut decoder = Decoder::new(file.as_slice()).unwrap();
    assert!(matches!(decoder.next_page(&mut [0; 1024]), Err(Error::BufferSize { len: 1024, .. })));
}

#[test]
fn nothing_is_written_for_a_header_that_breaks_a_rule() {
    let mut out = Vec::new();
    assert!(matches!(Encoder::new(&mut out, Header { commit: 0, ..delta() }), Err(Error::CommitZero)));
    assert!(matches!(Encoder::new(&mut out, Header { wal_salt1: 1, ..delta() }), Err(Error::WalOffsetRequiredBySalt)));
    assert_eq!(out, []);
}

#[test]
fn post_apply_checksums_follow_the_header() {
    let tracked = || Header { flags: ltx::HeaderFlags::NONE, pre_apply: Checksum::EMPTY, ..delta() };
    let finish = |header, sum| Encoder::new(Vec::new(), header).unwrap().finish(sum).map(|(file, _)| file);
    for (header, sum, message) in [
        (delta(), Checksum::EMPTY, "post-apply checksum not allowed"),
        (tracked(), Checksum::NONE, "post-apply checksum required"),
        (tracked(), Checksum::new(1), "invalid post-apply checksum format"),
    ] {
        assert_eq!(finish(header, sum).unwrap_err().to_string(), message);
    }
    let file = finish(tracked(), Checksum::EMPTY).unwrap();
    Decoder::new(file.as_slice()).unwrap().finish().unwrap();
}
