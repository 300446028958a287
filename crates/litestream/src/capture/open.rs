//! Opening a database, and finding out what of the past can be continued.

use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;

use ltx::{Decoder, Header, Pgno, Txid, page_checksum};

use super::live::Live;
use super::{Base, Capture, Local};
use std::sync::Arc;

use crate::continuity::{Evidence, Gap, judge, restarted_at_its_end};
use crate::error::{Error, ErrorKind, Result};
use crate::meta::MetaDir;
use crate::page_sums::PageSums;
use crate::position::{Position, PositionFile};
use crate::wal::{self, WalPosition};

/// Where capture stood when somebody last worked on this database.
struct Last {
    position: Position,
    /// We wrote it down ourselves. Otherwise the newest file tells: it is
    /// upstream's, or ours from right before a crash.
    is_recorded: bool,
}

impl Capture {
    /// Opens the database, pins its WAL and settles the base.
    pub(super) fn open(&mut self) -> Result<()> {
        let live = Live::open(&self.options.path, self.options.busy_timeout, &mut self.db_file)?;
        if self.local.is_none() {
            self.local = Some(Local::open(&self.options)?);
        }
        self.live = Some(live);
        // It continued pins that are gone.
        self.drop_deltas();
        let result = self.settle_base();
        match &result {
            Ok(()) => self.parked = None,
            Err(_) => self.live = None,
        }
        result
    }

    fn settle_base(&mut self) -> Result<()> {
        if matches!(self.base, Base::Missing { .. }) {
            return Ok(());
        }
        if self.local()?.is_image_lost {
            let expected = self.local()?.meta.expected_image().unwrap_or(Txid::NONE);
            // A write that was late may have put another image, or another file, in the
            // place that this one was to have.
            self.lose_base("the image of the base is not known to be stored", expected.previous());
            return Ok(());
        }
        let Some(Last { position, is_recorded }) = self.last_position()? else {
            self.lose_base("no local state", Txid::NONE);
            return Ok(());
        };
        let live = self.live()?;
        if live.page_size != position.page_size {
            return Err(Error::new(
                ErrorKind::Setup,
                format!(
                    "page size changed from {} to {}; the backup history cannot continue with another page size: \
                     give this database a new replica path, or change the page size back",
                    position.page_size, live.page_size
                ),
            ));
        }
        let evidence = Evidence {
            inode: live.inode,
            page_size: live.page_size,
            index: live.index()?,
            frame_before: live.frame_before(&position.wal)?,
        };
        let tail = live.tail(&position.wal);
        let parked = self.parked.as_ref().and_then(|parked| parked.tail);
        let verdict = match self.broken.take() {
            // The log contradicted itself; whatever it says about the position now
            // is no proof.
            Some(gap) => Err(gap),
            None => judge(&position, &evidence),
        };
        self.base = Base::Known(position);
        self.load_sums(&position)?;
        match verdict {
            Ok(()) if self.local()?.sums.is_some() && is_recorded => Ok(()),
            Err(Gap::Restarted)
                if self.local()?.sums.is_some()
                    && is_recorded
                    && restarted_at_its_end(&position, &evidence, parked, tail) =>
            {
                let wal = WalPosition { salts: evidence.index.end.salts, frame: 0, chain: wal::Chain::default() };
                self.publish(Position { wal, ..position }, &[])
            }
            // The log proves what comes next, but not that the program that wrote
            // the newest files had captured everything before them: upstream
            // overlooks restarts of the WAL (D1). The comparison tells.
            Ok(()) if self.local()?.sums.is_some() => self.rebase(Gap::Unrecorded),
            // The place in the WAL is proven, only the page sums are missing.
            Ok(()) if is_recorded => self.rebuild_sums(),
            // Taken over from upstream: nothing here can tell whether its history
            // is complete, so it is not continued with deltas.
            Ok(()) => {
                self.lose_base("local state of another program", position.txid);
                Ok(())
            }
            Err(gap) if self.local()?.sums.is_some() => self.rebase(gap),
            Err(gap) => {
                tracing::warn!(db = %self.options.path.display(), reason = %gap, "continuity lost and page sums missing, a whole image is needed");
                self.lose_base("continuity lost and no page sums", position.txid);
                Ok(())
            }
        }
    }

    /// The recorded position, or the one the newest local file implies.
    fn last_position(&mut self) -> Result<Option<Last>> {
        let Local { meta, position_file, .. } = self.local.as_mut().ok_or_else(super::not_open)?;
        let recorded = position_file.load()?;
        let newest = meta.l0_txids()?.last().copied();
        let as_recorded = |position| Last { position, is_recorded: true };
        let Some(newest) = newest else { return Ok(recorded.map(as_recorded)) };
        let verified = verify(&meta.l0_path(newest));
        match (recorded, verified) {
            (recorded, Err(err)) if err.kind() == ErrorKind::Corrupt => {
                let aside = meta.quarantine_l0(newest)?;
                tracing::warn!(db = %self.options.path.display(), txid = %newest, error = %err, moved_to = %aside.display(), "local ltx file is damaged");
                // The position itself still holds; whether the replica has the
                // damaged transaction is found out before the next upload.
                Ok(recorded.filter(|position| position.txid >= newest).map(as_recorded))
            }
            (_, Err(err)) => Err(err),
            (Some(position), Ok(_)) if position.txid > newest => Ok(Some(as_recorded(position))),
            (Some(position), Ok((_, sum))) if position.txid == newest && position.file_checksum == sum => {
                Ok(Some(as_recorded(position)))
            }
            (_, Ok((header, sum))) => {
                let position = self.position_of(&header, sum)?;
                Ok(position.map(|position| Last { position, is_recorded: false }))
            }
        }
    }

    /// The position behind a local file that has no record of ours: one of
    /// upstream's, or one written right before a crash. The log is read from its
    /// start, which proves as much as the record would have.
    fn position_of(&self, header: &Header, file_checksum: ltx::Checksum) -> Result<Option<Position>> {
        let live = self.live()?;
        let salts = wal::Salts(header.wal_salt1, header.wal_salt2);
        let mut position = Position {
            txid: header.max,
            file_checksum,
            page_size: header.page_size,
            commit: header.commit,
            // An impossible place: it makes the continuity rule say no.
            wal: WalPosition { salts, frame: u32::MAX, chain: wal::Chain::default() },
            inode: live.inode,
        };
        let Some(frame) = wal::frame_at(header.page_size, header.wal_offset + header.wal_size) else {
            return Ok(Some(position));
        };
        if live.page_size != header.page_size {
            return Ok(Some(position));
        }
        if frame == 0 {
            position.wal.frame = 0;
            return Ok(Some(position));
        }
        let Ok(wal_header) = live.header(salts) else { return Ok(Some(position)) };
        let start = WalPosition { salts, frame: 0, chain: wal_header.chain };
        if let Ok(Some(frames)) = wal::scan(&live.wal, &wal_header, start, frame, u64::MAX)
            && frames.end.frame == frame
            && self.last_frame_is_in(header.max, frame)?
        {
            position.wal = frames.end;
        }
        Ok(Some(position))
    }

    /// The page in the frame before the position is in the newest local file, with
    /// the same content.
    fn last_frame_is_in(&self, txid: Txid, frame: u32) -> Result<bool> {
        let live = self.live()?;
        let offset = wal::frame_offset(live.page_size, frame - 1);
        let mut bytes = vec![0; wal::frame_len(live.page_size)];
        live.wal.read_exact_at(&mut bytes, offset).map_err(|e| Error::io("read wal frame", e))?;
        let (head, page) = bytes.split_at(wal::FRAME_HEADER_LEN);
        let Some(pgno) = head.first_chunk().and_then(|number| Pgno::new(u32::from_be_bytes(*number))) else {
            return Ok(false);
        };
        let mut found = false;
        for_each_page(&self.local()?.meta.l0_path(txid), |candidate, content| {
            found |= candidate == pgno && content == page;
        })?;
        Ok(found)
    }

    /// Opens the page sums and brings them to `position`, or leaves none.
    fn load_sums(&mut self, position: &Position) -> Result<()> {
        let local = self.local_mut()?;
        if local.sums.as_ref().is_some_and(|sums| sums.txid() == position.txid) {
            return Ok(());
        }
        let sums = PageSums::open(local.meta.open_side_file(super::image::PAGE_SUMS)?)?;
        local.sums = sums.filter(|sums| sums.page_size() == position.page_size && sums.txid() <= position.txid);
        self.replay_sums()
    }

    /// Applies the local files after the page sums' transaction; drops the sums
    /// when one is missing or damaged.
    pub(super) fn replay_sums(&mut self) -> Result<()> {
        let Some(position) = self.position() else { return Ok(()) };
        let local = self.local_mut()?;
        let Some(sums) = &mut local.sums else { return Ok(()) };
        while sums.txid() < position.txid {
            let txid = sums.txid().next();
            let path = local.meta.l0_path(txid);
            let mut changed = Vec::new();
            match for_each_page(&path, |pgno, page| changed.push((pgno, page_checksum(pgno, page)))) {
                Ok(header) => {
                    if let Err(err) = sums.apply(txid, header.commit, &changed) {
                        // Half of it may be there: the next attempt reads it again.
                        local.sums = None;
                        return Err(err);
                    }
                }
                Err(err) => {
                    tracing::warn!(path = %path.display(), error = %err, "page sums cannot be brought up to date");
                    local.sums = None;
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Local {
    fn open(options: &crate::options::DbOptions) -> Result<Self> {
        let meta = Arc::new(MetaDir::open(&options.meta_path(), &options.path, options.disk.clone())?);
        let position_file = PositionFile::new({
            let meta = meta.clone();
            move || meta.open_side_file("position")
        });
        let is_image_lost = meta.expected_image().is_some();
        Ok(Self { meta, position_file, sums: None, is_image_lost })
    }
}

/// Reads a local file to its end and returns its header and checksum.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when it fails its own checksum or is cut short.
fn verify(path: &std::path::Path) -> Result<(Header, ltx::Checksum)> {
    let decoder = open_file(path)?;
    let summary = drain(decoder, path, |_, _| {})?;
    Ok((summary.header, summary.trailer.file))
}

fn for_each_page(path: &std::path::Path, sink: impl FnMut(Pgno, &[u8])) -> Result<Header> {
    let decoder = open_file(path)?;
    Ok(drain(decoder, path, sink)?.header)
}

fn open_file(path: &std::path::Path) -> Result<Decoder<BufReader<File>>> {
    let file = File::open(path).map_err(|e| Error::io(format!("open ltx file {}", path.display()), e))?;
    Decoder::new(BufReader::with_capacity(256 << 10, file)).map_err(|e| damaged(path, e))
}

fn drain(
    mut decoder: Decoder<BufReader<File>>,
    path: &std::path::Path,
    mut sink: impl FnMut(Pgno, &[u8]),
) -> Result<ltx::Summary> {
    let mut page = vec![0; decoder.header().page_size.len()];
    while let Some(pgno) = decoder.next_page(&mut page).map_err(|e| damaged(path, e))? {
        sink(pgno, &page);
    }
    decoder.finish().map_err(|e| damaged(path, e))
}

fn damaged(path: &std::path::Path, err: ltx::Error) -> Error {
    let kind = if err.is_io() { ErrorKind::Transient } else { ErrorKind::Corrupt };
    Error::with_source(kind, format!("read ltx file {}", path.display()), err)
}
