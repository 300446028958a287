//! The packets of SFTP version 3, as bytes.
//!
//! Every packet is a length, a type and, but for the greeting, an identifier that
//! its answer repeats. Texts are a length and bytes; handles are the server's own
//! bytes and mean nothing here.
//!
//! Source: draft-ietf-secsh-filexfer-02; OpenSSH's PROTOCOL file for what is named
//! `…@openssh.com`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{Error, ErrorKind, Result};

/// A packet to the server, without its identifier.
pub(super) struct Request {
    kind: u8,
    body: BytesMut,
}

impl Request {
    pub(super) fn new(kind: u8) -> Self {
        Self { kind, body: BytesMut::new() }
    }

    /// One of the requests that OpenSSH has added to the protocol.
    pub(super) fn extended(name: &str) -> Self {
        Self::new(EXTENDED).text(name)
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        // What is sent is names, handles and pieces of files, all far below 4 GiB.
        self.body.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.body.put_slice(bytes);
        self
    }

    pub(super) fn number(mut self, number: u32) -> Self {
        self.body.put_u32(number);
        self
    }

    pub(super) fn offset(mut self, offset: u64) -> Self {
        self.body.put_u64(offset);
        self
    }

    /// Access and modification time as a file's attributes.
    pub(super) fn times(self, seconds: u32) -> Self {
        self.number(ATTR_TIMES).number(seconds).number(seconds)
    }

    /// The packet as it is sent.
    pub(super) fn encode(&self, id: u32) -> Bytes {
        let mut packet = BytesMut::with_capacity(self.body.len() + 9);
        packet.put_u32(u32::try_from(self.body.len() + 5).unwrap_or(u32::MAX));
        packet.put_u8(self.kind);
        packet.put_u32(id);
        packet.put_slice(&self.body);
        packet.freeze()
    }
}

/// The greeting of a client.
pub(super) fn greeting() -> Bytes {
    Bytes::from_static(&[0, 0, 0, 5, INIT, 0, 0, 0, 3])
}

/// What the server sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Done, or a reason why not.
    Status(u32, String),
    /// An open file or directory.
    Handle(Bytes),
    /// Bytes of a file.
    Data(Bytes),
    /// Some rows of a directory.
    Names(Vec<Entry>),
    /// Facts of one file.
    Attributes(Attributes),
    /// Names of what the server has added to the protocol: the answer to the
    /// greeting.
    Version(Vec<String>),
}

/// A row of a directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Bytes,
    pub(super) attributes: Attributes,
}

/// What a server tells of a file. It need not tell all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    pub(super) mode: Option<u32>,
    /// Seconds since the epoch.
    pub(super) modified: Option<u32>,
}

impl Attributes {
    pub(super) fn is_directory(&self) -> bool {
        self.mode.is_some_and(|mode| mode & MODE_KIND == MODE_DIRECTORY)
    }

    /// True when nothing says that it is something else.
    pub(super) fn is_file(&self) -> bool {
        self.mode.is_none_or(|mode| matches!(mode & MODE_KIND, 0 | MODE_FILE))
    }
}

/// Takes the first whole packet out of `buffer`, if one has arrived: identifier
/// and content. The greeting has no identifier, which counts as zero.
///
/// # Errors
/// [`Setup`](ErrorKind::Setup) when this is not SFTP at all.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<(u32, Reply)>> {
    let Some(len) = buffer.first_chunk::<4>().map(|len| u32::from_be_bytes(*len) as usize) else { return Ok(None) };
    if len > MAX_LEN {
        // A shell that prints something before it starts the server.
        let message = "the server does not speak SFTP; make sure that nothing is printed at login";
        return Err(Error::new(ErrorKind::Setup, message));
    }
    if buffer.len() < 4 + len {
        buffer.reserve(4 + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    let mut packet = Fields(buffer.split_to(len).freeze());
    read(&mut packet)
        .map(Some)
        .ok_or_else(|| Error::new(ErrorKind::Transient, "the server's answer breaks the rules of SFTP"))
}

fn read(packet: &mut Fields) -> Option<(u32, Reply)> {
    let kind = packet.byte()?;
    let number = packet.number()?;
    let reply = match kind {
        VERSION => {
            let mut names = Vec::new();
            while let Some(name) = packet.bytes() {
                packet.bytes()?;
                names.push(String::from_utf8_lossy(&name).into_owned());
            }
            return Some((0, Reply::Version(names)));
        }
        STATUS => {
            let code = packet.number()?;
            // Old servers leave the text out.
            let text = packet.bytes().unwrap_or_default();
            Reply::Status(code, String::from_utf8_lossy(&text).into_owned())
        }
        HANDLE => Reply::Handle(packet.bytes()?),
        DATA => Reply::Data(packet.bytes()?),
        NAME => {
            let count = packet.number()?;
            let mut entries = Vec::new();
            for _ in 0..count {
                let name = packet.bytes()?;
                packet.bytes()?; // as `ls -l` would show it
                entries.push(Entry { name, attributes: packet.attributes()? });
            }
            Reply::Names(entries)
        }
        ATTRS => Reply::Attributes(packet.attributes()?),
        _ => return None,
    };
    Some((number, reply))
}

/// A packet's fields, one after the other; `None` past its end.
struct Fields(Bytes);

impl Fields {
    fn byte(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    fn number(&mut self) -> Option<u32> {
        self.0.try_get_u32().ok()
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let mut rest = self.0.clone();
        let len = usize::try_from(rest.try_get_u32().ok()?).ok()?;
        if rest.len() < len {
            return None;
        }
        let bytes = rest.split_to(len);
        self.0 = rest;
        Some(bytes)
    }

    fn attributes(&mut self) -> Option<Attributes> {
        let flags = self.number()?;
        let mut attributes = Attributes::default();
        if flags & ATTR_SIZE != 0 {
            attributes.size = Some(self.0.try_get_u64().ok()?);
        }
        if flags & ATTR_OWNER != 0 {
            self.0.try_get_u64().ok()?;
        }
        if flags & ATTR_MODE != 0 {
            attributes.mode = Some(self.number()?);
        }
        if flags & ATTR_TIMES != 0 {
            self.number()?;
            attributes.modified = Some(self.number()?);
        }
        if flags & ATTR_EXTENDED != 0 {
            for _ in 0..self.number()?.checked_mul(2)? {
                self.bytes()?;
            }
        }
        Some(attributes)
    }
}

const INIT: u8 = 1;
const VERSION: u8 = 2;
pub(super) const OPEN: u8 = 3;
pub(super) const CLOSE: u8 = 4;
pub(super) const READ: u8 = 5;
pub(super) const WRITE: u8 = 6;
pub(super) const FSTAT: u8 = 8;
pub(super) const SETSTAT: u8 = 9;
pub(super) const FSETSTAT: u8 = 10;
pub(super) const OPENDIR: u8 = 11;
pub(super) const READDIR: u8 = 12;
pub(super) const REMOVE: u8 = 13;
pub(super) const MKDIR: u8 = 14;
pub(super) const RMDIR: u8 = 15;
pub(super) const STAT: u8 = 17;
pub(super) const RENAME: u8 = 18;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 200;

pub(super) const OPEN_READ: u32 = 1;
pub(super) const OPEN_WRITE: u32 = 2;
pub(super) const OPEN_CREATE: u32 = 8;

const ATTR_SIZE: u32 = 1;
const ATTR_OWNER: u32 = 2;
const ATTR_MODE: u32 = 4;
const ATTR_TIMES: u32 = 8;
const ATTR_EXTENDED: u32 = 1 << 31;

const MODE_KIND: u32 = 0o170_000;
const MODE_DIRECTORY: u32 = 0o040_000;
const MODE_FILE: u32 = 0o100_000;

pub(super) const OK: u32 = 0;
pub(super) const END: u32 = 1;
pub(super) const NO_SUCH_FILE: u32 = 2;
pub(super) const PERMISSION_DENIED: u32 = 3;
pub(super) const FAILURE: u32 = 4;
pub(super) const UNSUPPORTED: u32 = 8;

/// Longest packet taken. OpenSSH's own limit; longer ones are not SFTP.
const MAX_LEN: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use litestream_fuzz::{Bound, Target, bounded};

    use super::*;

    fn framed(content: &[u8]) -> BytesMut {
        let mut packet = BytesMut::new();
        packet.put_u32(u32::try_from(content.len()).unwrap());
        packet.put_slice(content);
        packet
    }

    #[test]
    fn packets_are_taken_whole_and_in_order() {
        let mut arriving = BytesMut::new();
        let mut all = framed(&[STATUS, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 2, b'n', b'o', 0, 0, 0, 0]);
        all.extend_from_slice(&framed(&[DATA, 0, 0, 0, 8, 0, 0, 0, 3, 1, 2, 3]));
        let mut taken = Vec::new();
        for byte in all {
            arriving.put_u8(byte);
            taken.extend(take(&mut arriving).unwrap());
        }
        let wanted = [(7, Reply::Status(4, "no".into())), (8, Reply::Data(Bytes::from_static(&[1, 2, 3])))];
        assert_eq!(taken, wanted);
    }

    #[test]
    fn rows_of_directories_are_read_with_whatever_facts_they_have() {
        let mut names = vec![NAME, 0, 0, 0, 1, 0, 0, 0, 2];
        names.extend([0, 0, 0, 1, b'a', 0, 0, 0, 0]);
        names.extend([0x80, 0, 0, 0x0f]);
        names.extend([0, 0, 0, 0, 0, 0, 1, 0]); // size
        names.extend([0; 8]); // owner
        names.extend([0, 0, 0o200, 0o244]); // mode
        names.extend([0, 0, 0, 1, 0, 0, 0, 2]); // times
        names.extend([0, 0, 0, 1, 0, 0, 0, 1, b'x', 0, 0, 0, 0]);
        names.extend([0, 0, 0, 1, b'b', 0, 0, 0, 0, 0, 0, 0, 0]);
        let (_, reply) = take(&mut framed(&names)).unwrap().unwrap();
        let Reply::Names(entries) = reply else { panic!("{reply:?}") };
        let known = Attributes { size: Some(256), mode: Some(0o100_244), modified: Some(2) };
        assert_eq!(entries[0], Entry { name: Bytes::from_static(b"a"), attributes: known });
        assert_eq!(entries[1], Entry { name: Bytes::from_static(b"b"), attributes: Attributes::default() });
        assert!(entries.iter().all(|entry| entry.attributes.is_file() && !entry.attributes.is_directory()));
    }

    #[test]
    fn every_cut_and_every_lie_about_a_length_is_an_error_or_a_wait() {
        let status = framed(&[STATUS, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 2, b'n', b'o']);
        for len in 0..status.len() {
            assert_eq!(take(&mut BytesMut::from(&status[..len])).unwrap(), None, "{len}");
        }
        for content in [&[HANDLE, 0, 0, 0, 1, 0, 0, 0, 9, 1][..], &[NAME, 0, 0, 0, 1, 255, 255, 255, 255], &[99], &[]] {
            assert_eq!(take(&mut framed(content)).unwrap_err().kind(), ErrorKind::Transient, "{content:?}");
        }
        let error = take(&mut BytesMut::from(&b"Welcome to this server"[..])).unwrap_err();
        assert!(error.to_string().contains("does not speak SFTP"), "{error}");
    }

    #[test]
    fn requests_are_length_type_identifier_and_fields() {
        let request = Request::new(READ).bytes(&[9]).offset(1 << 32).number(5);
        let bytes = request.encode(7);
        assert_eq!(bytes[..], [0, 0, 0, 22, READ, 0, 0, 0, 7, 0, 0, 0, 1, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(greeting().len(), 9);
    }

    /// Reads everything that arrives, in one piece and in many.
    fn body(input: &[u8]) {
        let all = |step: usize| {
            let (mut arriving, mut taken) = (BytesMut::new(), Vec::new());
            for piece in input.chunks(step.max(1)) {
                arriving.extend_from_slice(piece);
                loop {
                    match take(&mut arriving) {
                        Ok(Some(packet)) => taken.push(packet),
                        Ok(None) => break,
                        Err(error) => return (taken, Some(error.kind())),
                    }
                }
                assert!(arriving.capacity() <= 2 * (input.len() + MAX_LEN + 4), "{}", arriving.capacity());
            }
            (taken, None)
        };
        // A row of a directory takes twelve bytes and becomes eighty, in a vector
        // that doubles; a packet that was announced gets its room.
        let bound = Bound { base: 2 * MAX_LEN as u64, per_byte: 40 };
        assert_eq!(bounded(input.len(), bound, || all(input.len())), all(7), "in any split");
    }

    #[test]
    fn no_packet_crashes_or_takes_more_than_it_brings() {
        let mut names = vec![NAME, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, b'a', 0, 0, 0, 0, 0x80, 0, 0, 0x0f];
        names.extend([0; 24]);
        names.extend([0, 0, 0, 1, 0, 0, 0, 1, b'x', 0, 0, 0, 0]);
        names.extend([0, 0, 0, 1, b'b', 0, 0, 0, 0, 0, 0, 0, 0]);
        let corpus = [
            framed(&[STATUS, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 2, b'n', b'o', 0, 0, 0, 0]),
            framed(&[DATA, 0, 0, 0, 8, 0, 0, 0, 3, 1, 2, 3]),
            framed(&[HANDLE, 0, 0, 0, 8, 0, 0, 0, 1, 1]),
            framed(&[VERSION, 0, 0, 0, 3, 0, 0, 0, 1, b'x', 0, 0, 0, 1, b'1']),
            framed(&names),
        ];
        let words = [&[0xff; 4][..], &[0x80, 0, 0, 0], &[0, 0, 0, 0], &[NAME], &[0, 4, 0, 0], &[0, 3, 0xff, 0xff]];
        let repair = |input: &mut Vec<u8>| {
            if let Some(len) = input.len().checked_sub(4).and_then(|len| u32::try_from(len).ok()) {
                input[..4].copy_from_slice(&len.to_be_bytes());
            }
        };
        let corpus = corpus.map(|packet| packet.to_vec());
        Target::new("sftp packet", corpus).words(&words).repair(repair).cases(500).run(body);
    }
}
