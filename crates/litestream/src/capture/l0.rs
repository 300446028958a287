//! From a range of WAL frames to one level-0 file.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use ltx::{Checksum, Encoder, Header, Pgno, page_checksum};

use super::sealed::Written;
use super::{Base, Capture, Local};
use crate::continuity::{Next, Tally, proceed};
use crate::error::{Error, ErrorKind, Result};
use crate::meta::{MetaDir, Pace};
use crate::position::Position;
use crate::wal::{self, Frames, ScanError, WalHeader, WalPosition};
use crate::wal_index::WalIndex;

impl Capture {
    /// Captures the next range of frames up to `target`, at most
    /// `max-sync-wal-bytes` long: into a level-0 file of its own, or into the open
    /// delta. Returns its length in bytes, `None` when nothing is left.
    ///
    /// # Errors
    /// [`ErrorKind::Discontinuous`] when the WAL does not continue the position.
    pub(super) fn capture_chunk(&mut self, target: &WalIndex, into: Into) -> Result<Option<u64>> {
        let wal = self.live()?.wal.clone();
        self.capture_from(&wal, None, target, into)
    }

    /// As [`capture_chunk`](Self::capture_chunk), from `wal`: the WAL itself, or a copy
    /// with the frames in their places and the header it had.
    pub(super) fn capture_from(
        &mut self,
        wal: &File,
        header: Option<WalHeader>,
        target: &WalIndex,
        into: Into,
    ) -> Result<Option<u64>> {
        let mut here = self.captured()?;
        let live = self.live()?;
        let mut tally = live.tally.filter(|tally| tally.is_at(&here.wal));
        let mut has_started_over = false;
        match proceed(&here.wal, &target.end, tally.is_some()).map_err(discontinuous)? {
            Next::Frames => {}
            Next::Nothing => return prove(tally, target).map(|()| None),
            Next::StartedOver(start) => {
                here.wal = start;
                tally = tally.map(|tally| tally.started_over(&start));
                has_started_over = true;
            }
        }
        if target.end.frame == 0 {
            // Nothing was written since the log started over.
            prove(tally, target)?;
            self.move_captured(here)?;
            self.live_mut()?.tally = tally;
            return Ok(None);
        }
        let is_copy = header.is_some();
        let header = header.map_or_else(|| live.header(target.end.salts), Ok)?;
        let from = if here.wal.frame == 0 { WalPosition { chain: header.chain, ..here.wal } } else { here.wal };
        let limit = self.options.sync_limit();
        let frames = read_frames(wal, &header, from, target, limit)?;
        let tally_before = tally;
        let tally = tally.map(|tally| tally.after(&frames.end, frames.commits));
        if frames.end.frame == target.end.frame {
            prove(tally, target)?;
        } else if has_started_over {
            // What is written below becomes a record of the new generation, so everything
            // that the old one may lack has to show first.
            let all = read_frames(wal, &header, from, target, u64::MAX)?;
            prove(tally_before.map(|tally| tally.after(&all.end, all.commits)), target)?;
        }
        check_growth(&here, &frames)?;
        if has_started_over {
            self.move_captured(here)?;
        }
        let bytes = wal::frame_offset(here.page_size, frames.end.frame) - wal::frame_offset(here.page_size, from.frame);
        match into {
            Into::File if !self.has_open_delta() => self.write_delta(&here, &frames)?,
            Into::File | Into::Delta => {
                self.absorb(&frames, wal)?;
                if !is_copy && let Err(err) = self.live()?.is_still_in(frames.end.salts) {
                    // What was absorbed is not what was scanned.
                    self.forget();
                    return Err(err);
                }
            }
        }
        self.live_mut()?.tally = tally;
        Ok(Some(bytes))
    }

    /// Writes a level-0 file that holds the last frame's page only, or nothing.
    ///
    /// It follows an image that lives at another level, so that level 0 always
    /// carries the newest TXID: upstream takes its position from there alone.
    pub(crate) fn write_anchor(&mut self) -> Result<()> {
        self.unpark()?;
        if self.has_open_delta() {
            return self.publish_delta();
        }
        match self.try_write_anchor(true) {
            // The application was faster: no page will do as well.
            Err(err) if err.kind() == ErrorKind::Discontinuous => self.try_write_anchor(false),
            other => other,
        }
    }

    fn try_write_anchor(&mut self, with_page: bool) -> Result<()> {
        let position = self.known()?;
        let live = self.live()?;
        let last = position.wal.frame.checked_sub(1).filter(|_| with_page);
        let mut pages = BTreeMap::new();
        if let Some(frame) = last {
            let mut number = [0; 4];
            let offset = wal::frame_offset(live.page_size, frame);
            live.wal.read_exact_at(&mut number, offset).map_err(|e| Error::io("read wal frame", e))?;
            if let Some(pgno) = Pgno::new(u32::from_be_bytes(number))
                && pgno.get() <= position.commit
                && live.index()?.end.salts == position.wal.salts
            {
                pages.insert(pgno, offset + wal::FRAME_HEADER_LEN as u64);
            }
        }
        let start = WalPosition {
            frame: if pages.is_empty() { position.wal.frame } else { last.unwrap_or(0) },
            ..position.wal
        };
        let frames = Frames { pages, commit: position.commit, commits: 0, end: position.wal };
        self.write_delta(&Position { wal: start, ..position }, &frames)
    }

    /// Writes the next level-0 file from frames of the WAL.
    fn write_delta(&mut self, from: &Position, frames: &Frames) -> Result<()> {
        let header = self.l0_header(from, frames.commit, frames.end);
        let live = self.live()?;
        let meta = &self.local()?.meta;
        let written = write_file(meta, header, &frames.pages, &live.wal, Pace::AtOnce, || {
            if frames.pages.is_empty() { Ok(()) } else { live.is_still_in(frames.end.salts) }
        })?;
        self.publish(written.position(*from, frames.commit, frames.end), &written.sums)
    }

    /// The header of the file that follows `from`, where its frames begin, up to `end`.
    pub(super) fn l0_header(&mut self, from: &Position, commit: u32, end: WalPosition) -> Header {
        let txid = from.txid.next();
        let mut header = Header::new(from.page_size, commit, txid, txid, self.timestamp());
        // Frames of an older generation are gone; the range names the present one.
        let start = if from.wal.salts == end.salts { from.wal.frame } else { 0 };
        header.wal_offset = wal::frame_offset(from.page_size, start);
        header.wal_size = wal::frame_offset(from.page_size, end.frame) - header.wal_offset;
        header.wal_salt1 = end.salts.0;
        header.wal_salt2 = end.salts.1;
        header
    }

    /// Makes a durable file the new position.
    pub(super) fn publish(&mut self, position: Position, sums: &[(Pgno, Checksum)]) -> Result<()> {
        let Local { position_file, sums: table, .. } = self.local.as_mut().ok_or_else(super::not_open)?;
        // While a table is being built beside us it describes an older
        // transaction; the files in between are replayed when it is complete.
        if let Some(table) = table
            && table.txid() == position.txid.previous()
            && let Err(err) = table.apply(position.txid, position.commit, sums)
        {
            self.distrust_sums();
            return Err(err);
        }
        self.base = Base::Known(position);
        position_file.store(&position)
    }
}

/// Writes one level-0 file and makes it durable. The pages stand in `source` at the
/// given offsets; `is_sound` is asked once they were read.
pub(super) fn write_file(
    meta: &MetaDir,
    header: Header,
    pages: &BTreeMap<Pgno, u64>,
    source: &File,
    pace: Pace,
    is_sound: impl FnOnce() -> Result<()>,
) -> Result<Written> {
    let (txid, page_size) = (header.max, header.page_size);
    let mut sums = Vec::with_capacity(pages.len());
    let (staged, file_checksum) = meta.stage_l0(txid, pace, |out| {
        let mut encoder = Encoder::new(out, header).map_err(encode)?;
        let mut page = vec![0; page_size.len()];
        for (&pgno, &offset) in pages {
            source.read_exact_at(&mut page, offset).map_err(|e| Error::io("read captured page", e))?;
            encoder.encode_page(pgno, &page).map_err(encode)?;
            sums.push((pgno, page_checksum(pgno, &page)));
        }
        is_sound()?;
        let (_, summary) = encoder.finish(Checksum::NONE).map_err(encode)?;
        Ok(summary.trailer.file)
    })?;
    let path = meta.publish_l0(staged)?;
    tracing::debug!(%txid, pages = sums.len(), path = %path.display(), "ltx file written");
    Ok(Written { txid, file_checksum, sums })
}

/// Where captured pages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Into {
    /// A level-0 file, at once.
    File,
    /// The open delta, which becomes a file later.
    Delta,
}

/// Reads the committed frames from `from` on, up to `target` or `limit` bytes.
fn read_frames(wal: &File, header: &WalHeader, from: WalPosition, target: &WalIndex, limit: u64) -> Result<Frames> {
    let Some(frames) = wal::scan(wal, header, from, target.end.frame, limit).map_err(broken)? else {
        return Err(discontinuous("the wal holds no commit where the wal-index says one ends"));
    };
    if frames.end.frame == target.end.frame && frames.end != target.end {
        return Err(discontinuous("the wal's checksum is not the one in the wal-index"));
    }
    Ok(frames)
}

/// Every commit that SQLite counted up to `target` was found.
fn prove(tally: Option<Tally>, target: &WalIndex) -> Result<()> {
    match tally {
        Some(tally) if !tally.adds_up(target.changes) => {
            Err(discontinuous("sqlite counted more commits than the wal held, a read transaction was lost"))
        }
        _ => Ok(()),
    }
}

/// Every page the database grew by is in the log; SQLite always writes them. One
/// that is missing means that frames were missed.
fn check_growth(position: &Position, frames: &Frames) -> Result<()> {
    let lock_page = position.page_size.lock_page();
    let missing = (position.commit + 1..=frames.commit)
        .filter_map(Pgno::new)
        .find(|pgno| *pgno != lock_page && !frames.pages.contains_key(pgno));
    match missing {
        None => Ok(()),
        Some(_) => Err(discontinuous("the database grew by a page that is not in the wal")),
    }
}

fn discontinuous(what: &str) -> Error {
    Error::new(ErrorKind::Discontinuous, what)
}

fn broken(err: ScanError) -> Error {
    match err {
        ScanError::Broken { .. } => Error::with_source(ErrorKind::Discontinuous, "read wal", err),
        ScanError::Io { source, frame } => Error::io(format!("read wal frame {frame}"), source),
    }
}

/// Errors of the encoder are errors of the file it writes to.
pub(super) fn encode(err: ltx::Error) -> Error {
    match err {
        ltx::Error::Write(err) => Error::io("stage-write ltx file", err),
        other => Error::with_source(ErrorKind::Corrupt, "encode ltx file", other),
    }
}

#[cfg(test)]
mod tests {
    use ltx::{PageSize, Txid};

    use super::*;
    use crate::position::Inode;
    use crate::wal::{Chain, Salts};

    /// L25: SQLite writes every page a database grows by; one that is not among the
    /// frames was in frames nobody saw.
    #[test]
    fn growth_by_a_page_that_is_not_in_the_log_is_a_gap() {
        let place = |frame| WalPosition { salts: Salts(1, 2), frame, chain: Chain(3, 4) };
        let page_size = PageSize::new(65536).unwrap();
        let lock_page = page_size.lock_page().get();
        let check = |before: u32, after: u32, pages: &[u32]| {
            let position = Position {
                txid: Txid::new(1),
                file_checksum: Checksum::EMPTY,
                page_size,
                commit: before,
                wal: place(0),
                inode: Inode { device: 1, number: 2 },
            };
            let pages = pages.iter().map(|&page| (Pgno::new(page).unwrap(), 0)).collect();
            check_growth(&position, &Frames { pages, commit: after, commits: 1, end: place(9) })
        };
        assert!(check(3, 5, &[1, 4, 5]).is_ok());
        assert_eq!(check(3, 5, &[1, 5]).unwrap_err().kind(), ErrorKind::Discontinuous);
        assert_eq!(check(3, 5, &[1, 4]).unwrap_err().kind(), ErrorKind::Discontinuous);
        assert!(check(5, 3, &[1]).is_ok(), "shrinking needs no page");
        let around = [lock_page - 1, lock_page + 1];
        assert!(check(lock_page - 2, lock_page + 1, &around).is_ok(), "the lock page is in no log");
    }
}
