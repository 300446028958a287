//! How an object store lies in its stream: subjects, and the message that makes an
//! object of its chunks.
//!
//! Names and forms are those of every NATS client's object store; a bucket that one
//! program wrote is read by any other.
//!
//! Spec: backends §8, "Storage format".

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::layout::{format_timestamp, parse_timestamp};

/// The names of one bucket.
#[derive(Clone)]
pub(super) struct Bucket {
    pub(super) name: String,
}

impl Bucket {
    pub(super) fn stream(&self) -> String {
        format!("OBJ_{}", self.name)
    }

    /// Where the chunks of an upload go.
    pub(super) fn chunks(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.name)
    }

    /// Where the newest description of an object stands.
    pub(super) fn meta(&self, object: &str) -> String {
        format!("$O.{}.M.{}", self.name, URL_SAFE.encode(object))
    }

    /// All descriptions.
    pub(super) fn all_meta(&self) -> String {
        format!("$O.{}.M.>", self.name)
    }
}

/// The description of an object, or of one that was deleted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) headers: Option<BTreeMap<String, Vec<String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) options: Option<MetaOptions>,
    #[serde(default)]
    pub(super) bucket: String,
    #[serde(default)]
    pub(super) nuid: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) mtime: String,
    #[serde(default)]
    pub(super) chunks: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
}

/// How an object was stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct MetaOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_chunk_size: Option<u64>,
}

impl Meta {
    /// Describes what was uploaded as `nuid`, in chunks that are all full but the
    /// last.
    pub(super) fn new(bucket: &Bucket, name: &str, timestamp: Timestamp, upload: &Upload) -> Self {
        let headers = [
            (TIMESTAMP_HEADER.to_owned(), vec![format_timestamp(timestamp)]),
            (CHUNK_SIZE_HEADER.to_owned(), vec![upload.chunk_size.to_string()]),
        ];
        Self {
            name: name.to_owned(),
            headers: Some(headers.into()),
            options: Some(MetaOptions { max_chunk_size: Some(upload.chunk_size) }),
            bucket: bucket.name.clone(),
            nuid: upload.nuid.clone(),
            size: upload.size,
            mtime: NO_TIME.to_owned(),
            chunks: upload.chunks,
            digest: Some(upload.digest.clone()),
            deleted: false,
        }
    }

    /// When the file's last transaction was captured, as its writer noted.
    pub(super) fn timestamp(&self) -> Option<Timestamp> {
        parse_timestamp(self.header(TIMESTAMP_HEADER)?)
    }

    /// The length of every chunk but the last, if its writer promised one. Chunks of
    /// other writers may be of any length.
    pub(super) fn chunk_size(&self) -> Option<u64> {
        let size = self.header(CHUNK_SIZE_HEADER)?.parse().ok().filter(|size| *size > 0)?;
        (self.size.div_ceil(size) == self.chunks).then_some(size)
    }

    /// True when the object holds exactly the content with this size and digest.
    pub(super) fn holds(&self, size: u64, digest: &str) -> bool {
        self.size == size && self.digest.as_deref().is_some_and(|own| same_digest(own, digest))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let (_, values) = self.headers.as_ref()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        values.first().map(String::as_str)
    }
}

/// What was uploaded.
pub(super) struct Upload {
    pub(super) nuid: String,
    pub(super) size: u64,
    pub(super) chunks: u64,
    pub(super) chunk_size: u64,
    pub(super) digest: String,
}

/// The digest of a content, as descriptions spell it.
pub(super) fn digest_text(sha256: Sha256) -> String {
    format!("SHA-256={}", URL_SAFE.encode(sha256.finalize()))
}

/// Compares digests; writers differ in padding.
pub(super) fn same_digest(a: &str, b: &str) -> bool {
    a.trim_end_matches('=') == b.trim_end_matches('=')
}

/// The identity of one upload: 22 letters and digits.
pub(super) fn new_nuid() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(22).collect()
}

const TIMESTAMP_HEADER: &str = "Litestream-Timestamp";
/// Ours alone; other programs ignore it. Without it a range cannot be found but by
/// counting the bytes before.
const CHUNK_SIZE_HEADER: &str = "Litestream-Chunk-Size";
/// What clients write for a time that is not known; readers take the message's.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

#[cfg(test)]
mod tests {
    use litestream_fuzz::{Bound, Target, bounded};

    use super::*;

    /// Recorded from the released upstream binary.
    const UPSTREAM: &str = r#"{"bucket":"test-14332-1","chunks":2,"digest":"SHA-256=urIQLPG8VUCZWHfN0jpyyAj7cFAb4IQFCpOrLHWSW5Q=","headers":{"Litestream-Timestamp":["2026-11-22T23:13:17.217Z"]},"mtime":"0001-01-01T00:00:00Z","name":"ltx/0/0000000000000001-0000000000000001.ltx","nuid":"2LOvxImGVW835oXlBrqneh","options":{"max_chunk_size":131072},"size":785}"#;

    fn captured() -> Timestamp {
        "2026-11-22T23:13:17.217Z".parse().unwrap()
    }

    #[test]
    fn upstreams_descriptions_are_read() {
        let meta: Meta = serde_json::from_str(UPSTREAM).unwrap();
        assert_eq!((meta.size, meta.chunks, meta.deleted, meta.chunk_size()), (785, 2, false, None));
        assert_eq!(meta.timestamp(), Some(captured()));
        // Some clients leave the padding out.
        assert!(meta.holds(785, "SHA-256=urIQLPG8VUCZWHfN0jpyyAj7cFAb4IQFCpOrLHWSW5Q"));
        assert!(!meta.holds(786, "SHA-256=urIQLPG8VUCZWHfN0jpyyAj7cFAb4IQFCpOrLHWSW5Q="));
        let text = digest_text(Sha256::new());
        assert_eq!(text, "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=");
        let deleted: Meta = serde_json::from_str(r#"{"name":"x","headers":null,"bucket":"b","deleted":true}"#).unwrap();
        assert!(deleted.deleted && deleted.timestamp().is_none());
    }

    #[test]
    fn ours_are_upstreams_with_one_header_more() {
        let bucket = Bucket { name: "test-14332-1".into() };
        let upload = Upload {
            nuid: "2LOvxImGVW835oXlBrqneh".into(),
            size: 785,
            chunks: 2,
            chunk_size: 131_072,
            digest: "SHA-256=urIQLPG8VUCZWHfN0jpyyAj7cFAb4IQFCpOrLHWSW5Q=".into(),
        };
        let meta = Meta::new(&bucket, "ltx/0/0000000000000001-0000000000000001.ltx", captured(), &upload);
        let mut ours = serde_json::to_value(&meta).unwrap();
        let own = ours["headers"].as_object_mut().unwrap().remove(CHUNK_SIZE_HEADER);
        assert_eq!(own, Some(serde_json::json!(["131072"])));
        assert_eq!(ours, serde_json::from_str::<serde_json::Value>(UPSTREAM).unwrap());
    }

    #[test]
    fn promised_chunk_sizes_must_fit_the_number_of_chunks() {
        let mut meta: Meta = serde_json::from_str(UPSTREAM).unwrap();
        let headers = meta.headers.as_mut().unwrap();
        headers.insert(CHUNK_SIZE_HEADER.into(), vec!["100".into()]);
        // 785 bytes take eight chunks of a hundred.
        for (chunks, promised) in [(7, None), (8, Some(100)), (9, None)] {
            meta.chunks = chunks;
            assert_eq!(meta.chunk_size(), promised, "{chunks}");
        }
        meta.headers.as_mut().unwrap().insert(CHUNK_SIZE_HEADER.into(), vec!["0".into()]);
        assert_eq!(meta.chunk_size(), None);
    }

    #[test]
    fn names_stand_in_subjects_as_padded_base64() {
        let bucket = Bucket { name: "b".into() };
        assert_eq!(bucket.meta("ltx/0/x"), "$O.b.M.bHR4LzAveA==");
        assert_eq!((bucket.chunks("N"), bucket.stream()), ("$O.b.C.N".into(), "OBJ_b".into()));
        assert_eq!(new_nuid().len(), 22);
        assert_ne!(new_nuid(), new_nuid());
    }

    #[test]
    fn no_description_crashes_or_promises_what_cannot_be() {
        let words =
            ["{", "[", "18446744073709551615", "-1", "\"Litestream-Chunk-Size\":[\"1\"]", "\"chunks\":0", "null"];
        Target::new("nats description", [UPSTREAM]).words(&words).run(|input| {
            let bound = Bound { base: 64 << 10, per_byte: 80 };
            let Ok(meta) = bounded(input.len(), bound, || serde_json::from_slice::<Meta>(input)) else { return };
            let _ = (meta.timestamp(), meta.holds(1, "SHA-256="));
            if let Some(size) = meta.chunk_size() {
                assert!(size > 0 && meta.size.div_ceil(size) == meta.chunks);
            }
            let again = serde_json::to_vec(&meta).unwrap();
            assert_eq!(serde_json::to_vec(&serde_json::from_slice::<Meta>(&again).unwrap()).unwrap(), again);
        });
    }
}
