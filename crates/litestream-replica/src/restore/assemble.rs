//! One attempt to build the database file from a plan.
//!
//! Two halves run side by side. The *survey* walks the files from the newest to
//! the oldest, in order, and settles which page is taken from where; it only
//! reads headers, indexes and trailers. Behind it chunks are fetched and decoded
//! in any order. Resources are taken in one order, memory before requests before
//! cores, so that the halves cannot wait for each other.

use std::fs::File;
use std::num::NonZero;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use ltx::{Digest, Footer, Header, IndexParser, PageSize, Pgno};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::Progress;
use super::fault::{Fault, task_failed};
use super::fetch::{Fetcher, MAX_PARALLELISM};
use super::journal::{Finished, Journal, Key, digest_in_place};
use super::output::{self, TempFile};
use super::pages::PageSet;
use super::sequential;
use super::source::Source;
use super::split::{Chunk, Extent, RunningDigest, Splitter};
use super::verdict::Verdict;
use crate::{Error, ErrorKind, FileId, Plan, Result};

/// What an attempt works with.
pub(super) struct Assembly {
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) parallelism: usize,
    pub(super) progress: Arc<dyn Progress>,
    /// Files to be read without their index.
    pub(super) distrusted: Vec<FileId>,
    /// What is done already, and where to note what gets done. Only large
    /// restores have one.
    pub(super) journal: Option<Arc<Journal>>,
}

/// What an attempt made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assembled {
    pub(super) commit: u32,
    pub(super) page_size: PageSize,
    pub(super) timestamp: Timestamp,
    pub(super) output_len: u64,
}

impl Assembly {
    /// Writes the database that `plan` describes to `temp`, verified and
    /// complete, but not yet flushed to the disk.
    pub(super) async fn run(&self, plan: &Plan, temp: &TempFile) -> Result<Assembled, Fault> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let decoders = Semaphore::new(cores);
        let slots = self.parallelism.clamp(1, MAX_PARALLELISM) + cores;
        let (sender, receiver) = mpsc::channel(1);
        let chunks = stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|chunk: Chunk| (chunk, receiver))
        });
        let written = chunks
            .map(|chunk| self.write_chunk(chunk, &decoders, temp.file()))
            .buffer_unordered(slots)
            .try_for_each(|()| async { Ok(()) });
        let (survey, ()) = tokio::try_join!(self.survey(plan, temp.file(), sender), written)?;
        // Asked last: where a damaged file is the reason, its checksum has told.
        survey.complete()
    }

    /// Opens the files from the newest to the oldest and sends their chunks.
    async fn survey(&self, plan: &Plan, file: Arc<File>, chunks: mpsc::Sender<Chunk>) -> Result<Survey, Fault> {
        // Opened ahead as tasks of their own: they must advance, and give their
        // request slots back, while this one waits for memory.
        let mut opened = stream::iter(plan.files.clone().into_iter().rev())
            .map(|info| AbortOnDropHandle::new(tokio::spawn(Source::open(Arc::clone(&self.fetcher), info))))
            .buffered(self.parallelism.clamp(1, OPEN_AHEAD));
        let mut survey: Option<Survey> = None;
        while let Some(source) = opened.next().await {
            let source = source.map_err(|e| Fault::Other(task_failed(e)))??;
            let mut current = match survey.take() {
                Some(survey) => survey.older(&source)?,
                None => {
                    let is_resumed = self.journal.as_ref().is_some_and(|journal| journal.is_over_leftover());
                    Survey::begin(&source, plan, Arc::clone(&file), is_resumed).await?
                }
            };
            match source.footer.filter(|_| !self.distrusted.contains(&source.info.id)) {
                Some(footer) => self.split(&source, footer, &mut current, &chunks).await?,
                None => {
                    let claims = current.claims;
                    let file = Arc::clone(&file);
                    current.claims = sequential::read(&source, claims, file, &self.fetcher, &*self.progress).await?;
                }
            }
            survey = Some(current);
        }
        survey.ok_or_else(|| Fault::Other(Error::new(ErrorKind::Unavailable, crate::plan::NOT_AVAILABLE)))
    }

    /// Walks the index of one file, claims its pages and sends its chunks.
    async fn split(
        &self,
        source: &Source,
        footer: Footer,
        survey: &mut Survey,
        chunks: &mpsc::Sender<Chunk>,
    ) -> Result<(), Fault> {
        let info = source.info;
        let misfit = |reason: String| Fault::Index { file: info, reason };
        survey.check_trailer(source, &footer)?;
        let verdict = Arc::new(Verdict::new(info, source.header.clone(), source.head));
        let mut splitter = Splitter::new(source.header.page_size, self.fetcher.chunk_len());
        let output = Arc::clone(&survey.file);
        let mut parser = IndexParser::for_footer(&footer);
        let mut entries = Vec::new();
        let mut digest = RunningDigest(Digest::EMPTY);
        let block_end = footer.index_offset - END_MARKER_LEN;
        let index = footer.index_offset..footer.index_offset + footer.index_len;
        // The file checksum covers everything up to itself.
        let end = info.size - CHECKSUM_LEN;
        let mut at = block_end;
        while at < end {
            // Cut where a new part begins, so that a window belongs to one part.
            let part_end = [index.start, index.end, end].into_iter().find(|edge| *edge > at).unwrap_or(end);
            let window = source.window(&self.fetcher, at, part_end).await;
            let window = window.map_err(|error| Fault::reading(&info, error))?;
            if window.is_empty() {
                return Err(Fault::corrupt(&info, ltx::Error::Truncated { part: "index" }));
            }
            digest.add(&window);
            if at < index.start && window.iter().any(|byte| *byte != 0) {
                return Err(misfit("no end of the page block before it".to_owned()));
            }
            if index.contains(&at) {
                parser.push(&window, &mut entries).map_err(|error| misfit(error.to_string()))?;
            }
            for entry in entries.drain(..) {
                if entry.pgno == source.header.page_size.lock_page() {
                    return Err(Fault::corrupt(&info, ltx::Error::LockPage { pgno: entry.pgno.get() }));
                }
                let owned = survey.claims.claim(entry.pgno);
                if let Some(extent) = splitter.push(entry, owned).map_err(|reason| misfit(reason.to_owned()))? {
                    self.send(source, &verdict, &footer, extent, chunks, &output).await?;
                }
            }
            at += window.len() as u64;
        }
        parser.finish().map_err(|error| misfit(error.to_string()))?;
        if let Some(extent) = splitter.take() {
            self.send(source, &verdict, &footer, extent, chunks, &output).await?;
        }
        verdict.add_end(splitter.count(), digest.0, footer.trailer)?;
        self.progress.advanced(info.size - (block_end - Header::LEN as u64));
        Ok(())
    }

    /// Hands a chunk on, once there is memory for it; one that was done before
    /// only tells its verdict.
    async fn send(
        &self,
        source: &Source,
        verdict: &Arc<Verdict>,
        footer: &Footer,
        extent: Extent,
        chunks: &mpsc::Sender<Chunk>,
        output: &Arc<File>,
    ) -> Result<(), Fault> {
        let resident = source.resident(extent.offset, extent.len);
        // What came along costs nothing to do again.
        let journal = self.journal.as_ref().filter(|_| resident.is_none());
        let note = journal.map(|journal| {
            let Header { page_size, commit, .. } = source.header;
            let (offset, len) = (extent.offset, extent.len);
            let frames = extent.fingerprint(commit);
            (Arc::clone(journal), Key::new(&source.info, footer.trailer.file, page_size, offset, len, frames))
        });
        let finished = note.as_ref().and_then(|(journal, key)| journal.find(key));
        let Some(extent) = self.fetch_again(extent, finished, verdict, output).await? else { return Ok(()) };
        let share = match &resident {
            Some(_) => source.share.clone(),
            None => Some(Arc::new(self.fetcher.reserve(extent.len).await.map_err(Fault::Other)?)),
        };
        let chunk = Chunk { extent, verdict: Arc::clone(verdict), resident, note, _share: share };
        // The receiver lives as long as this future, by construction of `run`.
        chunks.send(chunk).await.map_err(|_| Fault::Other(Error::new(ErrorKind::Cancelled, "restore cancelled")))
    }

    /// Gives the chunk back unless its pages are found in place as `finished`
    /// says; then its verdict counts.
    async fn fetch_again(
        &self,
        extent: Extent,
        finished: Option<Finished>,
        verdict: &Arc<Verdict>,
        output: &Arc<File>,
    ) -> Result<Option<Extent>, Fault> {
        let Some(finished) = finished else { return Ok(Some(extent)) };
        let (output, page_size) = (Arc::clone(output), verdict.header.page_size);
        let read = tokio::task::spawn_blocking(move || {
            let found = digest_in_place(&output, page_size, extent.owned());
            (extent, found == Some(finished.pages))
        });
        let (extent, is_in_place) = read.await.map_err(|e| Fault::Other(task_failed(e)))?;
        if !is_in_place {
            return Ok(Some(extent));
        }
        self.progress.advanced(extent.len);
        verdict.add_chunk(extent.number, finished.digest, finished.database)?;
        Ok(None)
    }

    /// Fetches a chunk where it is not at hand, decodes and writes it.
    async fn write_chunk(&self, mut chunk: Chunk, decoders: &Semaphore, file: Arc<File>) -> Result<(), Fault> {
        let info = chunk.verdict.info;
        let len = chunk.extent.len;
        let bytes = match chunk.resident.take() {
            Some(bytes) => bytes,
            None => {
                let read = self.fetcher.read(&info, chunk.extent.offset, len).await;
                read.map_err(|error| Fault::reading(&info, error))?
            }
        };
        let _core = decoders.acquire().await;
        let decoded = tokio::task::spawn_blocking(move || chunk.decode(bytes, &file));
        decoded.await.map_err(|e| Fault::Other(task_failed(e)))??;
        self.progress.advanced(len);
        Ok(())
    }
}

/// What is known of the database while the files go by, newest first.
struct Survey {
    newest: Header,
    newest_file: FileId,
    file: Arc<File>,
    claims: Claims,
}

impl Survey {
    /// The newest file decides page size and length.
    ///
    /// `is_resumed` says that the file holds what an earlier restore left.
    async fn begin(source: &Source, plan: &Plan, file: Arc<File>, is_resumed: bool) -> Result<Self, Fault> {
        let newest = source.header.clone();
        let (page_len, commit) = (u64::from(newest.page_size.get()), newest.commit);
        // Every page must come from some frame, and no page of n bytes takes
        // less than n / 255 of LZ4. More pages than that is damage; to believe it
        // could cost any amount of memory and disk.
        let least = u64::from(newest.page_size.stored_pages(commit)) * (page_len / 256 + MIN_FRAME_LEN);
        if least > plan.total_bytes() {
            let problem = format!("a database of {commit} pages cannot be in files of {} bytes", plan.total_bytes());
            return Err(Fault::corrupt(&source.info, problem));
        }
        let len = u64::from(commit) * page_len;
        // Nobody writes the lock page; in a new file it is zeros by itself.
        let lock_page = newest.page_size.lock_page();
        let stale = (is_resumed && lock_page.get() <= commit).then_some((lock_page, newest.page_size));
        let output = Arc::clone(&file);
        let allocated = tokio::task::spawn_blocking(move || {
            output::allocate(&output, len)?;
            stale.map_or(Ok(()), |(pgno, page_size)| output::clear_page(&output, pgno, page_size))
        });
        allocated.await.map_err(|e| Fault::Other(task_failed(e)))?.map_err(Fault::Other)?;
        Ok(Self { newest, newest_file: source.info.id, file, claims: Claims::new(commit) })
    }

    /// The next older file.
    fn older(mut self, source: &Source) -> Result<Self, Fault> {
        let (left, right) = (source.header.page_size, self.newest.page_size);
        if left != right {
            // Two histories in one place, or a page size changed under a program
            // that did not notice. The newest file is what is wanted, so this one
            // is in the way; another chain may do without it.
            let error = ltx::Error::MismatchedPageSizes { left, right };
            return Err(Fault::corrupt(&source.info, format!("{error} (in {})", self.newest_file)));
        }
        self.claims.begin_file(source.header.commit);
        Ok(self)
    }

    /// The form of the checksums. A superfluous one matters only in the last
    /// file, whose state is the result.
    fn check_trailer(&self, source: &Source, footer: &Footer) -> Result<(), Fault> {
        let is_newest = source.header.max == self.newest.max;
        match footer.trailer.validate(&source.header) {
            Err(error @ ltx::Error::PostApplyNotAllowed) if !is_newest => {
                tracing::warn!(file = %source.info.id, %error, "odd trailer ignored");
                Ok(())
            }
            result => result.map_err(|error| Fault::corrupt(&source.info, error)),
        }
    }

    fn complete(self) -> Result<Assembled, Fault> {
        let Header { page_size, commit, timestamp, .. } = self.newest;
        if let Some(pgno) = self.claims.pages.first_unclaimed(page_size) {
            let problem = format!("decode database: page {pgno} of {commit} is in no backup file");
            return Err(Fault::Other(Error::new(ErrorKind::Corrupt, problem)));
        }
        if self.claims.resurrected > 0 {
            tracing::warn!(
                pages = self.claims.resurrected,
                "the database shrank and grew again without all of its new pages, older content stands in"
            );
        }
        let output_len = u64::from(commit) * u64::from(page_size.get());
        Ok(Assembled { commit, page_size, timestamp, output_len })
    }
}

/// Which pages are taken, and by the rules of which file.
pub(super) struct Claims {
    pages: PageSet,
    /// Length of the database after the file being read.
    commit: u32,
    /// Its least length after any newer file.
    least_commit: u32,
    /// Pages taken from before the database shrank below them. A correct writer
    /// stores them again when it grows; upstream's merge takes the old content
    /// otherwise, and so do we.
    resurrected: u64,
}

impl Claims {
    fn new(commit: u32) -> Self {
        Self { pages: PageSet::new(commit), commit, least_commit: commit, resurrected: 0 }
    }

    fn begin_file(&mut self, commit: u32) {
        self.least_commit = self.least_commit.min(self.commit);
        self.commit = commit;
    }

    /// Claims a page for the file being read. Pages beyond its own end do not
    /// belong to the database.
    pub(super) fn claim(&mut self, pgno: Pgno) -> bool {
        let claimed = pgno.get() <= self.commit && self.pages.claim(pgno);
        self.resurrected += u64::from(claimed && pgno.get() > self.least_commit);
        claimed
    }
}

/// Files opened before their turn: few enough that small ones, read whole, leave
/// most of the memory budget to chunks.
const OPEN_AHEAD: usize = 8;

/// Six zero bytes close the page block.
const END_MARKER_LEN: u64 = 6;

/// The file checksum itself.
const CHECKSUM_LEN: u64 = 8;

/// Page number and flags; with the payload's first bytes every frame has more.
const MIN_FRAME_LEN: u64 = 6;
