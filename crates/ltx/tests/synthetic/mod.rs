//! Files of any number of pages, made while they are read: nothing of them is kept.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use ltx::{Checksum, Encoder, Header, MergeLimits, MergeOptions, PageSize, Pgno, RunEncoder, Spill, Txid};

/// A file whose pages differ only in their number, written by a thread of its own.
pub(crate) struct Synthetic {
    parts: Receiver<Vec<u8>>,
    part: Vec<u8>,
    read: usize,
}

impl Synthetic {
    /// Pages 1, 1 + `step`, … of a database of `commit` pages.
    pub(crate) fn new(txid: u64, page_size: PageSize, commit: u32, step: usize, spill: &Spill) -> Self {
        let (sender, parts) = sync_channel(2);
        let header = Header::new(page_size, commit, Txid::new(txid), Txid::new(txid), jiff::Timestamp::UNIX_EPOCH);
        let page: Vec<u8> = (0..page_size.len()).map(|at| ((at * at) >> 5 & 0xff) as u8 ^ txid as u8).collect();
        let mut run = RunEncoder::new(page_size);
        run.push(Pgno::FIRST, &page).unwrap();
        let mut frame = run.finish().bytes().to_vec();
        let encoder = Encoder::new(Pipe(sender), header).unwrap().spill_to(spill.clone());
        std::thread::spawn(move || {
            let mut encoder = encoder;
            let pages = (1..=commit).step_by(step).filter_map(Pgno::new).filter(|pgno| *pgno != page_size.lock_page());
            for pgno in pages {
                frame[..4].copy_from_slice(&pgno.get().to_be_bytes());
                encoder.copy_frame(pgno, &frame, &page).unwrap();
            }
            encoder.finish(Checksum::NONE).unwrap();
        });
        Self { parts, part: Vec::new(), read: 0 }
    }
}

impl Read for Synthetic {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.part.len() {
            (self.part, self.read) = (self.parts.recv().unwrap_or_default(), 0);
        }
        let len = (&self.part[self.read..]).read(buffer)?;
        self.read += len;
        Ok(len)
    }
}

struct Pipe(SyncSender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Merges an image of `pages` pages of 512 bytes with three deltas, and gives the
/// size of the result and how much memory this process ever held, in bytes.
pub(crate) fn merge(pages: u32) -> (ltx::Summary, u64) {
    let page_size = PageSize::new(512).unwrap();
    let spill = Spill::new(|| Ok(Box::new(tempfile::tempfile()?)));
    let limits = MergeLimits { fan_in: 8, spill: spill.clone() };
    let steps = (1..).zip([1, 2, 3, 100]);
    let inputs = steps.map(|(txid, step)| Synthetic::new(txid, page_size, pages, step, &spill)).collect();
    let options = MergeOptions { limits: Some(&limits), ..MergeOptions::default() };
    let merge = ltx::Merge::with_options(inputs, options).unwrap();
    let summary = merge.write_to(io::sink()).unwrap();
    (summary, peak_memory())
}

fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
