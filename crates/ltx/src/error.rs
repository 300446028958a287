//! Everything that can be wrong with a file.
//!
//! Texts that upstream prints and the specification records (ltx §3.2, §4.2,
//! §6.2, §9, §11) are kept word for word: users and scripts match them.

use std::io;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a file, or with the order in which one is being written.
///
/// [`Error::is_io`] separates faults of the transport, which may pass, from
/// faults of the content, which will not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The reader failed.
    #[error("read ltx file")]
    Read(#[source] io::Error),
    /// The writer failed.
    #[error("write ltx file")]
    Write(#[source] io::Error),
    /// The temporary storage of a large file or merge failed.
    #[error("temporary file")]
    Spill(#[source] io::Error),
    /// The file ends too early.
    #[error("unexpected EOF: truncated {part}")]
    Truncated {
        /// Where the file ends.
        part: &'static str,
    },

    /// The file does not start with `LTX1`.
    #[error("invalid LTX file")]
    Magic,
    /// A header flag that is not defined.
    #[error("invalid flags: 0x{flags:08x}")]
    HeaderFlags {
        /// All flags as stored.
        flags: u32,
    },
    /// Not a power of two from 512 to 65536.
    #[error("invalid page size: {page_size}")]
    PageSize {
        /// As stored.
        page_size: u32,
    },
    /// The first TXID is zero.
    #[error("minimum transaction id required")]
    MinTxidRequired,
    /// The last TXID is zero.
    #[error("maximum transaction id required")]
    MaxTxidRequired,
    /// The first TXID comes after the last.
    #[error("transaction ids out of order: ({min},{max})")]
    TxidOrder {
        /// First TXID.
        min: u64,
        /// Last TXID.
        max: u64,
    },
    /// The WAL offset, a signed field, is negative.
    #[error("wal offset cannot be negative: {offset}")]
    WalOffsetNegative {
        /// As stored.
        offset: i64,
    },
    /// The WAL size, a signed field, is negative.
    #[error("wal size cannot be negative: {size}")]
    WalSizeNegative {
        /// As stored.
        size: i64,
    },
    /// Salts without a WAL offset.
    #[error("wal offset required if salt exists")]
    WalOffsetRequiredBySalt,
    /// A WAL size without a WAL offset.
    #[error("wal offset required if wal size exists")]
    WalOffsetRequiredBySize,
    /// A snapshot has nothing before it, so no checksum of it either.
    #[error("pre-apply checksum must be zero on snapshots")]
    PreApplyOnSnapshot,
    /// A pre-apply checksum in a file without checksums.
    #[error("pre-apply checksum not allowed")]
    PreApplyNotAllowed,
    /// A tracked delta without pre-apply checksum.
    #[error("pre-apply checksum required on non-snapshot files")]
    PreApplyRequired,
    /// Bit 63 of the pre-apply checksum is clear.
    #[error("invalid pre-apply checksum format")]
    PreApplyFormat,
    /// `commit` is zero, which means "database deleted". Litestream can neither
    /// write nor merge such a file (spec: ltx §8.4).
    #[error("commit is zero: files that delete the database are not supported")]
    CommitZero,

    /// Page number zero with flags, so not the end of the page block.
    #[error("page number required")]
    PgnoRequired,
    /// A page flag that is not defined.
    #[error("invalid page header flags: 0x{flags:04x}")]
    PageFlags {
        /// All flags as stored.
        flags: u16,
    },
    /// A size field of zero, or larger than any compressed page can be.
    #[error("invalid payload size for page {pgno}: {size}")]
    PayloadSize {
        /// The page.
        pgno: u32,
        /// As stored.
        size: u64,
    },
    /// A payload that does not decode to exactly one page.
    #[error("decode page {pgno}: lz4: {reason}")]
    Payload {
        /// The page.
        pgno: u32,
        /// What the decoder found.
        reason: &'static str,
    },
    /// More bytes than one frame.
    #[error("data after page frame: pgno={pgno}")]
    FrameTrailingBytes {
        /// The page of the frame.
        pgno: u32,
    },

    /// A page beyond the database's end.
    #[error("page number {pgno} out-of-bounds for commit size {commit}")]
    PageOutOfBounds {
        /// The page.
        pgno: u32,
        /// Database size in pages.
        commit: u32,
    },
    /// The page that holds byte 1 GiB is never stored.
    #[error("cannot encode lock page: pgno={pgno}")]
    LockPage {
        /// The lock page.
        pgno: u32,
    },
    /// The first page of a snapshot is missing.
    #[error("snapshot transaction file must start with page number 1")]
    SnapshotStart,
    /// A hole in a snapshot.
    #[error("nonsequential page numbers in snapshot transaction: {previous},{pgno}")]
    SnapshotGap {
        /// The page before the hole.
        previous: u32,
        /// The page after it.
        pgno: u32,
    },
    /// A hole in a snapshot next to the lock page.
    #[error("nonsequential page numbers in snapshot transaction (skip lock page): {previous},{pgno}")]
    SnapshotGapAtLockPage {
        /// The page before the hole.
        previous: u32,
        /// The page after it.
        pgno: u32,
    },
    /// A snapshot ends before its last page.
    #[error("incomplete snapshot transaction: ends at page {last} of {commit}")]
    SnapshotShort {
        /// Last page present; 0 when there is none.
        last: u32,
        /// Database size in pages.
        commit: u32,
    },
    /// Pages that descend or repeat.
    #[error("out-of-order page numbers: {previous},{pgno}")]
    PageOrder {
        /// The page before.
        previous: u32,
        /// The page out of order.
        pgno: u32,
    },

    /// A varint of more than 64 bits in the page index.
    #[error("page index: varint overflow")]
    IndexVarint,
    /// An index entry that cannot describe the frames of a file.
    #[error("page index: {reason}")]
    Index {
        /// The rule broken.
        reason: &'static str,
    },
    /// Too short a file, or tail of one, for index and trailer.
    #[error("ltx file too short to contain a page index: {len} bytes")]
    TooShortForIndex {
        /// Bytes at hand.
        len: u64,
    },
    /// The index size field does not fit the file.
    #[error("invalid page index size: {index_len} in a file of {file_size} bytes")]
    IndexSize {
        /// As stored.
        index_len: u64,
        /// Size of the whole file.
        file_size: u64,
    },

    /// A post-apply checksum in a file without checksums.
    #[error("post-apply checksum not allowed")]
    PostApplyNotAllowed,
    /// A tracked file without post-apply checksum.
    #[error("post-apply checksum required")]
    PostApplyRequired,
    /// Bit 63 of the post-apply checksum is clear.
    #[error("invalid post-apply checksum format")]
    PostApplyFormat,
    /// The pages of a tracked snapshot do not sum to its post-apply checksum.
    #[error("post-apply checksum mismatch: {computed} != {stored}")]
    PostApplyMismatch {
        /// As stored.
        stored: crate::Checksum,
        /// From the pages.
        computed: crate::Checksum,
    },
    /// The content does not match the file checksum.
    #[error("file checksum mismatch")]
    FileChecksumMismatch,
    /// Bytes after the trailer. Upstream reports them as a checksum mismatch.
    #[error("file checksum mismatch: data after the trailer")]
    TrailingBytes,

    /// A merge of nothing.
    #[error("at least one input reader required")]
    NoInputs,
    /// The header of one input of a merge.
    #[error("decode header for input {input}")]
    InputHeader {
        /// Position of the input, from 0.
        input: usize,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// The pages of one input of a merge.
    #[error("read page from input {input}")]
    InputPage {
        /// Position of the input, from 0.
        input: usize,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// Index, trailer or file checksum of one input of a merge.
    #[error("close reader {input}")]
    InputClose {
        /// Position of the input, from 0.
        input: usize,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A file holds another range than its name says.
    #[error("header says {header}")]
    NameMismatch {
        /// The name it goes by.
        name: crate::FileName,
        /// What its header would be called.
        header: crate::FileName,
    },
    /// Two neighbouring inputs of a merge differ in page size.
    #[error("input files have mismatched page sizes: {left} != {right}")]
    MismatchedPageSizes {
        /// Of the earlier input.
        left: crate::PageSize,
        /// Of the later one.
        right: crate::PageSize,
    },
    /// Two neighbouring inputs of a merge leave a gap, or the later one adds nothing.
    #[error(
        "non-contiguous transaction ids in input files: ({},{}) -> ({},{})",
        left.min, left.max, right.min, right.max
    )]
    NonContiguous {
        /// TXIDs of the earlier input.
        left: crate::FileName,
        /// TXIDs of the later one.
        right: crate::FileName,
    },

    /// A page of another length than the header says.
    #[error("invalid page buffer size: {len}, expecting {page_size}")]
    BufferSize {
        /// Length given.
        len: usize,
        /// Length required.
        page_size: crate::PageSize,
    },
    /// An earlier error left the encoder or decoder in the middle of a file.
    #[error("ltx stream failed earlier")]
    Poisoned,
}

impl Error {
    /// True when reading or writing failed, not the content: trying again may help.
    pub fn is_io(&self) -> bool {
        match self {
            Self::Read(_) | Self::Write(_) | Self::Spill(_) => true,
            Self::InputHeader { source, .. } | Self::InputPage { source, .. } | Self::InputClose { source, .. } => {
                source.is_io()
            }
            _ => false,
        }
    }

    pub(crate) fn input_header(input: usize, source: Self) -> Self {
        Self::InputHeader { input, source: Box::new(source) }
    }

    pub(crate) fn input_page(input: usize, source: Self) -> Self {
        Self::InputPage { input, source: Box::new(source) }
    }

    pub(crate) fn input_close(input: usize, source: Self) -> Self {
        Self::InputClose { input, source: Box::new(source) }
    }
}
