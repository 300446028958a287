//! The text of a lease.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{Error, ErrorKind, Result};

/// What `lock.json` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Grows by one with every change of the owner.
    pub generation: u64,
    /// Until when the owner may write, by the owner's clock.
    pub expires_at: Timestamp,
    /// `<host>:<pid>`; may be empty.
    pub owner: String,
}

impl Lease {
    /// The document.
    pub fn to_json(&self) -> Bytes {
        let mut document = json!({ "generation": self.generation, "expires_at": self.expires_at.to_string() });
        if let (false, Some(fields)) = (self.owner.is_empty(), document.as_object_mut()) {
            fields.insert("owner".to_owned(), Value::from(self.owner.clone()));
        }
        document.to_string().into()
    }

    /// Reads a document; what else it holds is ignored.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) when it is not a lease.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let wrong = |what: &str| Error::new(ErrorKind::Corrupt, format!("not a lease: {what}"));
        let document: Value = serde_json::from_slice(body).map_err(|_| wrong("no JSON"))?;
        let text = |key: &str| document.get(key).and_then(Value::as_str);
        Ok(Self {
            generation: document.get("generation").and_then(Value::as_u64).ok_or_else(|| wrong("no generation"))?,
            expires_at: text("expires_at")
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| wrong("no expires_at in RFC 3339"))?,
            owner: text("owner").unwrap_or_default().to_owned(),
        })
    }

    /// The owner as messages name it.
    pub(crate) fn holder(&self) -> &str {
        if self.owner.is_empty() { "an unnamed owner" } else { &self.owner }
    }
}

#[cfg(test)]
mod tests {
    use litestream_fuzz::{Bound, Target, bounded};

    use super::*;

    fn lease(owner: &str) -> Lease {
        let expires_at = "2026-11-22T10:16:12.5Z".parse().unwrap();
        Lease { generation: 7, expires_at, owner: owner.to_owned() }
    }

    #[test]
    fn documents_have_the_fields_of_the_original() {
        let text = |lease: Lease| String::from_utf8(lease.to_json().to_vec()).unwrap();
        assert_eq!(
            text(lease("db1:4711")),
            r#"{"expires_at":"2026-11-22T10:16:12.5Z","generation":7,"owner":"db1:4711"}"#
        );
        assert_eq!(text(lease("")), r#"{"expires_at":"2026-11-22T10:16:12.5Z","generation":7}"#);
    }

    #[test]
    fn documents_of_others_are_read() {
        for (body, owner) in [
            (r#"{"generation":7,"expires_at":"2026-11-22T11:16:12.500000000+01:00","owner":"a:1","more":[]}"#, "a:1"),
            (r#"{"generation":7,"expires_at":"2026-11-22T10:16:12.5Z"}"#, ""),
        ] {
            assert_eq!(Lease::parse(body.as_bytes()).unwrap(), lease(owner));
        }
    }

    #[test]
    fn what_is_no_lease_is_refused() {
        for body in [
            "",
            "{}",
            "[]",
            r#"{"generation":-1,"expires_at":"2026-11-22T10:16:12Z"}"#,
            r#"{"generation":1,"expires_at":"tomorrow"}"#,
        ] {
            assert_eq!(Lease::parse(body.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt, "{body}");
        }
    }

    #[test]
    fn no_document_crashes_or_takes_memory_beyond_its_length() {
        let document = lease("db1:4711").to_json().to_vec();
        let words = [
            "{",
            "[",
            "\"generation\":18446744073709551616,",
            "\"generation\":-1,",
            "1e999",
            "\\u0000",
            "\"\\ud800\"",
            "null,",
        ];
        Target::new("lease", [document]).words(&words).run(|input| {
            // An empty value of two bytes becomes one of some thirty, in a vector
            // that doubles.
            let read = bounded(input.len(), Bound { base: 64 << 10, per_byte: 80 }, || Lease::parse(input));
            if let Ok(lease) = read {
                assert_eq!(Lease::parse(&lease.to_json()).unwrap(), lease, "what is read is written the same");
            }
        });
        assert!(Lease::parse("[".repeat(1 << 20).as_bytes()).is_err());
        assert!(Lease::parse("{\"a\":".repeat(1 << 20).as_bytes()).is_err());
    }
}
