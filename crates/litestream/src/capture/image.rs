//! A frozen moment of the whole database, read without disturbing anybody.
//!
//! The pin inside keeps every page of that moment readable: versions in the WAL
//! cannot be overwritten, and the database file cannot receive newer ones. Pages
//! are read and compressed on all cores and handed on in order, so an image
//! streams to the replica without a copy on local disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use ltx::{Checksum, EncodedRun, Encoder, Header, PageSize, Pgno, RunEncoder, Summary, Txid, page_checksum};

use super::l0::{Into, encode};
use super::{Base, Capture, Local};
use crate::continuity::Tally;
use crate::error::{Error, ErrorKind, Result};
use crate::page_sums::PageSums;
use crate::position::Position;
use crate::sqlite::Connection;
use crate::wal::{self, WalPosition};

/// What an image is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageKind {
    /// A new base with this TXID: nothing local can be continued.
    Rebase {
        /// TXID of the image, above everything known.
        txid: Txid,
    },
    /// A snapshot of the present position.
    Snapshot,
}

/// A moment of the database. Dropping it releases the pin.
///
/// The pin is declared first on purpose: fields drop in order, and closing the
/// last descriptor of the database file would drop the locks of the pin.
pub(crate) struct Frozen {
    _pin: Connection,
    pages: Pages,
    place: WalPosition,
    /// SQLite's count of commits.
    changes: u32,
    commit: u32,
    /// The transaction whose state this is.
    pub(crate) txid: Txid,
    timestamp: jiff::Timestamp,
    sums: Option<PageSums>,
}

/// Where the pages of a frozen moment are.
struct Pages {
    db: Arc<File>,
    wal: Arc<File>,
    /// Pages whose newest version is in the WAL only, with its offset there.
    in_wal: BTreeMap<Pgno, u64>,
    page_size: PageSize,
    commit: u32,
}

impl Capture {
    /// Freezes the present moment for an image and sets the position to it.
    pub(crate) fn freeze_image(&mut self, kind: ImageKind) -> Result<Frozen> {
        self.unpark()?;
        let mut frozen = self.freeze()?;
        match kind {
            ImageKind::Snapshot => frozen.txid = self.known()?.txid,
            ImageKind::Rebase { txid } => self.rebase_on(&mut frozen, txid)?,
        }
        Ok(frozen)
    }

    /// Pins the present moment. With a known base everything up to it is captured,
    /// so that the moment has a TXID.
    pub(super) fn freeze(&mut self) -> Result<Frozen> {
        // SQLite keeps the descriptor of a closed connection while another one is open,
        // and uses it for the next.
        self.live_mut()?.rest();
        let live = self.live()?;
        let pin = live.connect()?;
        let mut index = None;
        for _ in 0..FREEZE_ATTEMPTS {
            let before = live.index()?;
            pin.begin_read()?;
            let after = live.index()?;
            if before.end == after.end {
                index = Some(after);
                break;
            }
            pin.end()?;
        }
        let index =
            index.ok_or_else(|| Error::new(ErrorKind::Busy, "no moment between two commits to read the database"))?;
        self.options.disk.reach("freeze").map_err(|e| Error::io("read database", e))?;
        let page_size = live.page_size;
        let db_len = live.db.metadata().map_err(|e| Error::io("read attributes of database", e))?.len();
        let commit = if index.commit != 0 {
            index.commit
        } else {
            u32::try_from(db_len / u64::from(page_size.get())).unwrap_or(u32::MAX)
        };
        let mut in_wal = BTreeMap::new();
        // When everything is copied the pin sits on slot 0 and the WAL may start
        // over under it: the database file alone is the truth then.
        if !index.is_backfilled() {
            let header = live.header(index.end.salts)?;
            let start = WalPosition { salts: header.salts, frame: 0, chain: header.chain };
            let frames = wal::scan(&live.wal, &header, start, index.end.frame, u64::MAX)
                .map_err(|e| Error::with_source(ErrorKind::Transient, "read wal", e))?
                .filter(|frames| frames.end == index.end)
                .ok_or_else(|| Error::new(ErrorKind::Transient, "the wal is not what the wal-index says"))?;
            in_wal = frames.pages;
        }
        let pages = Pages { db: live.db.clone(), wal: live.wal.clone(), in_wal, page_size, commit };
        if matches!(self.base, Base::Known(_)) {
            while self.capture_chunk(&index, Into::File)?.is_some() {}
            self.publish_delta()?;
        }
        Ok(Frozen {
            pages,
            place: index.end,
            changes: index.changes,
            commit,
            txid: self.txid().unwrap_or(Txid::NONE),
            timestamp: self.timestamp(),
            sums: None,
            _pin: pin,
        })
    }

    /// Makes a frozen moment the new base: local files of the old one go, and the
    /// page sums are built while the image streams.
    fn rebase_on(&mut self, frozen: &mut Frozen, txid: Txid) -> Result<()> {
        self.drop_deltas();
        let live = self.live.as_mut().ok_or_else(super::not_open)?;
        live.tally = Some(frozen.tally());
        let position = Position {
            txid,
            file_checksum: Checksum::NONE,
            page_size: live.page_size,
            commit: frozen.commit,
            wal: frozen.place,
            inode: live.inode,
        };
        let Local { meta, position_file, sums, is_image_lost } = self.local.as_mut().ok_or_else(super::not_open)?;
        position_file.clear()?;
        meta.expect_image(txid)?;
        for old in meta.l0_txids()? {
            meta.remove_l0(old)?;
        }
        // One that came back after a loss of power would be taken for what the page sums
        // below describe: they have the same number.
        meta.flush_names()?;
        *sums = None;
        *is_image_lost = false;
        frozen.txid = txid;
        frozen.sums = Some(PageSums::create(meta.open_side_file(PAGE_SUMS)?, position.page_size)?);
        position_file.store(&position)?;
        self.base = Base::Known(position);
        Ok(())
    }

    /// The image of the base is stored; its page sums are those of the base.
    pub(crate) fn image_arrived(&mut self, sums: Option<PageSums>) -> Result<()> {
        self.adopt_sums(sums)?;
        self.local()?.meta.image_arrived()
    }

    /// The image of the base could not be stored, or may be yet: whatever has its number in
    /// the replica later, it is not known to be this one.
    pub(crate) fn lose_image(&mut self) {
        if let Some(local) = &mut self.local {
            local.is_image_lost = true;
        }
        // Its own number may be taken again: both would be created under one name, and the
        // first one there stays.
        let below = self.txid().map_or(Txid::NONE, Txid::previous);
        self.lose_base("the image could not be stored", below);
    }

    /// Takes over page sums that were built beside us.
    fn adopt_sums(&mut self, sums: Option<PageSums>) -> Result<()> {
        let Some(sums) = sums else { return Ok(()) };
        self.local_mut()?.sums = Some(sums);
        self.replay_sums()
    }

    /// Builds the page sums from the database itself; for a position taken over
    /// from upstream, which keeps none.
    pub(super) fn rebuild_sums(&mut self) -> Result<()> {
        let mut frozen = self.freeze()?;
        let file = self.local()?.meta.open_side_file(PAGE_SUMS)?;
        frozen.sums = Some(PageSums::create(file, frozen.pages.page_size)?);
        let sums = frozen.sum_pages()?;
        self.adopt_sums(sums)
    }
}

impl Frozen {
    /// The header of the image as a file of transactions `min` to its own.
    pub(crate) fn header(&self, min: Txid) -> Header {
        let mut header = Header::new(self.pages.page_size, self.commit, min, self.txid, self.timestamp);
        let page_size = self.pages.page_size;
        // Upstream describes the last frame only (spec: replication §7).
        let last = self.place.frame.saturating_sub(1);
        header.wal_offset = wal::frame_offset(page_size, last);
        header.wal_size = wal::frame_offset(page_size, self.place.frame) - header.wal_offset;
        header.wal_salt1 = self.place.salts.0;
        header.wal_salt2 = self.place.salts.1;
        header
    }

    /// The frozen database's size in bytes.
    pub(crate) fn len(&self) -> u64 {
        u64::from(self.commit) * u64::from(self.pages.page_size.get())
    }

    /// Encodes every page in order into `out`, and completes the page sums if they
    /// are being built. Uses all cores; memory is bounded by a few runs of pages.
    pub(crate) fn encode<W: io::Write>(&mut self, header: Header, out: W) -> Result<(Summary, Option<PageSums>)> {
        let mut encoder = Encoder::new(out, header).map_err(encode)?;
        let mut sums = self.sums.take();
        self.pages.for_each_run(true, |first, run| {
            if let Some(sums) = &mut sums {
                sums.append(first, &run.sums)?;
            }
            match run.encoded {
                Some(encoded) => encoder.append_run(encoded).map_err(self::encode),
                None => Ok(()),
            }
        })?;
        let (_, summary) = encoder.finish(Checksum::NONE).map_err(self::encode)?;
        if let Some(sums) = &mut sums {
            sums.complete(self.txid, self.commit)?;
            sums.stamp()?;
        }
        Ok((summary, sums))
    }

    /// Completes the page sums without encoding anything.
    fn sum_pages(&mut self) -> Result<Option<PageSums>> {
        let Some(mut sums) = self.sums.take() else { return Ok(None) };
        self.pages.for_each_run(false, |first, run| sums.append(first, &run.sums))?;
        sums.complete(self.txid, self.commit)?;
        sums.stamp()?;
        Ok(Some(sums))
    }

    /// Calls `changed` with each page whose sum differs from `sums`, in order.
    pub(super) fn differences(
        &self,
        sums: &PageSums,
        mut changed: impl FnMut(Pgno, &[u8], Checksum) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = Vec::new();
        for (first, count) in self.pages.runs() {
            self.pages.read(first, count, &mut buffer)?;
            let known = sums.read(first, count)?;
            for ((pgno, page), known) in self.pages.split(first, &buffer).zip(known) {
                if pgno == self.pages.page_size.lock_page() {
                    continue;
                }
                let sum = page_checksum(pgno, page);
                if sum != known {
                    changed(pgno, page, sum)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn place(&self) -> WalPosition {
        self.place
    }

    /// Everything up to this moment counts as captured.
    pub(super) fn tally(&self) -> Tally {
        Tally::new(&self.place, self.changes)
    }

    pub(super) fn commit(&self) -> u32 {
        self.commit
    }

    pub(super) fn page_size(&self) -> PageSize {
        self.pages.page_size
    }
}

/// Consecutive pages, read and coded by one worker.
struct CodedRun {
    encoded: Option<EncodedRun>,
    sums: Vec<Checksum>,
}

impl Pages {
    /// First page and page count of each run, in order.
    fn runs(&self) -> impl Iterator<Item = (Pgno, usize)> + use<> {
        let per_run = (RUN_LEN / self.page_size.get()).max(1);
        let commit = self.commit;
        (0..commit.div_ceil(per_run)).filter_map(move |i| {
            let first = i * per_run + 1;
            Some((Pgno::new(first)?, per_run.min(commit - first + 1) as usize))
        })
    }

    /// Reads a run as of the frozen moment.
    fn read(&self, first: Pgno, count: usize, buffer: &mut Vec<u8>) -> Result<()> {
        let page_len = self.page_size.len();
        buffer.resize(count * page_len, 0);
        let filled = read_up_to(&self.db, buffer, first.offset(self.page_size))
            .map_err(|e| Error::io("read database pages", e))?;
        // Pages that have only ever been in the WAL lie behind the file's end.
        buffer.get_mut(filled..).unwrap_or_default().fill(0);
        let complete = filled / page_len;
        let mut from_wal = 0;
        if let Some(after) = Pgno::new(first.get().saturating_add(u32::try_from(count).unwrap_or(u32::MAX))) {
            for (pgno, &offset) in self.in_wal.range(first..after) {
                let at = (pgno.get() - first.get()) as usize * page_len;
                let page = buffer.get_mut(at..at + page_len).unwrap_or_default();
                self.wal.read_exact_at(page, offset).map_err(|e| Error::io("read wal page", e))?;
                if (pgno.get() - first.get()) as usize >= complete {
                    from_wal += 1;
                }
            }
        }
        let lock = self.page_size.lock_page();
        let lock_missing = usize::from(
            lock >= first
                && (lock.get() - first.get()) as usize >= complete
                && ((lock.get() - first.get()) as usize) < count,
        );
        if complete + from_wal + lock_missing < count {
            return Err(Error::new(ErrorKind::Transient, "a page is neither in the database file nor in the wal"));
        }
        Ok(())
    }

    fn split<'a>(&self, first: Pgno, buffer: &'a [u8]) -> impl Iterator<Item = (Pgno, &'a [u8])> + use<'a> {
        buffer
            .chunks_exact(self.page_size.len())
            .zip(first.get()..)
            .filter_map(|(page, number)| Some((Pgno::new(number)?, page)))
    }

    /// Reads, sums and (on request) encodes all runs on all cores, and calls
    /// `sink` with each in order.
    fn for_each_run(&self, encoding: bool, mut sink: impl FnMut(Pgno, CodedRun) -> Result<()>) -> Result<()> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
        std::thread::scope(|scope| {
            // Worker k codes every `workers`-th run into its own short queue; taking
            // from the queues in turn restores the order.
            let queues: Vec<Receiver<Result<CodedRun>>> = (0..workers)
                .map(|worker| {
                    let (sender, receiver) = sync_channel(QUEUE_LEN);
                    scope.spawn(move || self.work(worker, workers, encoding, &sender));
                    receiver
                })
                .collect();
            for ((first, _), queue) in self.runs().zip(queues.iter().cycle()) {
                let run = queue.recv().map_err(|_| Error::new(ErrorKind::Transient, "a page reader ended early"))??;
                sink(first, run)?;
            }
            Ok(())
        })
    }

    fn work(&self, worker: usize, workers: usize, encoding: bool, queue: &SyncSender<Result<CodedRun>>) {
        let mut encoder = RunEncoder::new(self.page_size);
        let mut buffer = Vec::new();
        for (first, count) in self.runs().skip(worker).step_by(workers) {
            let run = self
                .read(first, count, &mut buffer)
                .and_then(|()| self.code(first, &buffer, encoding.then_some(&mut encoder)));
            let failed = run.is_err();
            // The other side hangs up when it failed; there is nothing to report then.
            if queue.send(run).is_err() || failed {
                return;
            }
        }
    }

    fn code(&self, first: Pgno, buffer: &[u8], mut encoder: Option<&mut RunEncoder>) -> Result<CodedRun> {
        let mut sums = Vec::with_capacity(buffer.len() / self.page_size.len());
        for (pgno, page) in self.split(first, buffer) {
            if pgno == self.page_size.lock_page() {
                sums.push(Checksum::NONE);
                continue;
            }
            sums.push(page_checksum(pgno, page));
            if let Some(encoder) = &mut encoder {
                encoder.push(pgno, page).map_err(encode)?;
            }
        }
        Ok(CodedRun { encoded: encoder.map(RunEncoder::finish), sums })
    }
}

/// Fills `buffer` from `offset` on, as far as the file reaches.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(filled)
}

/// Name of the side file with the page sums.
pub(super) const PAGE_SUMS: &str = "page-sums";
/// Database bytes in one run: large enough that hand-over costs nothing, small
/// enough that all runs in flight stay below 16 MiB.
const RUN_LEN: u32 = 512 << 10;
/// Runs a worker may be ahead.
const QUEUE_LEN: usize = 2;
const MAX_WORKERS: usize = 4;
/// A writer at full speed leaves tens of microseconds between commits, a read
/// transaction begins in ten; this many misses in a row do not happen.
const FREEZE_ATTEMPTS: usize = 2000;
