//! Continuity was lost: compare every page with its sum and capture what differs.
//!
//! Costs a read of the database and a file with the changed pages, not a new
//! snapshot. The chain of TXIDs goes on without a hole.

use ltx::{Checksum, Encoder, Header};

use super::Capture;
use super::l0::encode;
use crate::continuity::Gap;
use crate::error::Result;
use crate::meta::Pace;
use crate::position::Position;
use crate::wal;

impl Capture {
    /// Brings the position to the present moment by comparison.
    pub(super) fn rebase(&mut self, gap: Gap) -> Result<()> {
        let position = self.known()?;
        // The position's place in the WAL means nothing here: freeze without
        // capturing up to it.
        self.base = super::Base::Unopened;
        let frozen = self.freeze();
        self.base = super::Base::Known(position);
        let frozen = frozen?;
        let live = self.live_mut()?;
        live.tally = Some(frozen.tally());
        let inode = live.inode;
        let here = Position { wal: frozen.place(), commit: frozen.commit(), inode, ..position };

        let mut header = Header::new(
            frozen.page_size(),
            frozen.commit(),
            position.txid.next(),
            position.txid.next(),
            self.timestamp(),
        );
        header.wal_offset = wal::frame_offset(frozen.page_size(), 0);
        header.wal_size = wal::frame_offset(frozen.page_size(), frozen.place().frame) - header.wal_offset;
        header.wal_salt1 = frozen.place().salts.0;
        header.wal_salt2 = frozen.place().salts.1;

        let local = self.local()?;
        let Some(sums) = &local.sums else { return self.known().map(|_| ()) };
        let mut changed = Vec::new();
        let mut nothing_differs = frozen.commit() == position.commit;
        let written = local.meta.stage_l0(header.max, Pace::AtOnce, |out| {
            let mut encoder = Encoder::new(out, header.clone()).map_err(encode)?;
            frozen.differences(sums, |pgno, page, sum| {
                changed.push((pgno, sum));
                encoder.encode_page(pgno, page).map_err(encode)
            })?;
            nothing_differs &= changed.is_empty();
            let (_, summary) = encoder.finish(Checksum::NONE).map_err(encode)?;
            Ok(summary.trailer.file)
        });
        let (staged, file_checksum) = written?;
        if nothing_differs {
            tracing::info!(db = %self.options.path.display(), reason = %gap, "continuity lost, but no page differs");
            return self.publish(Position { file_checksum: position.file_checksum, ..here }, &[]);
        }
        tracing::warn!(
            db = %self.options.path.display(),
            reason = %gap,
            txid = %header.max,
            pages = changed.len(),
            "continuity lost, captured the pages that differ"
        );
        self.local()?.meta.publish_l0(staged)?;
        self.publish(Position { txid: header.max, file_checksum, ..here }, &changed)
    }
}
