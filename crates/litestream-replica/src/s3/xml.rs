//! The few XML documents of the protocol.
//!
//! Every field may be missing: stores differ, and an absent element must never
//! be worse than an error.

use quick_xml::escape::escape;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Result};

/// Answer of `DeleteObjects`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DeleteAnswer {
    pub(super) error: Vec<DeleteError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DeleteError {
    pub(super) key: String,
    pub(super) code: String,
    pub(super) message: String,
}

/// Answer of `CreateMultipartUpload`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreatedUpload {
    pub(super) upload_id: String,
}

/// Answer of `CompleteMultipartUpload`, which may be an error in spite of its status.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CompletedUpload {
    #[serde(rename = "ETag")]
    pub(super) etag: Option<String>,
    pub(super) code: Option<String>,
}

/// What stores say when they refuse.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ErrorBody {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) request_id: String,
    pub(super) region: String,
}

/// Answer of `GetBucketLocation`: the text of the root element.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Location {
    #[serde(rename = "$text")]
    pub(super) region: Option<String>,
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T> {
    let broken = |cause: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Transient, format!("s3: answer to {what} is malformed: {cause}"))
    };
    let text = std::str::from_utf8(body).map_err(|e| broken(&e))?;
    quick_xml::de::from_str(text).map_err(|e| broken(&e))
}

pub(super) fn delete_request(keys: &[String], quiet: bool) -> String {
    let mut xml = String::from("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for key in keys {
        xml.push_str("<Object><Key>");
        xml.push_str(&escape(key));
        xml.push_str("</Key></Object>");
    }
    if quiet {
        xml.push_str("<Quiet>true</Quiet>");
    }
    xml.push_str("</Delete>");
    xml
}

/// A part that the store has acknowledged.
pub(super) struct PartReceipt {
    pub(super) number: usize,
    pub(super) etag: String,
    pub(super) crc32: Option<String>,
}

pub(super) fn complete_request(parts: &[PartReceipt]) -> String {
    let mut xml = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for PartReceipt { number, etag, crc32 } in parts {
        let crc32 = match crc32 {
            Some(crc32) => format!("<ChecksumCRC32>{crc32}</ChecksumCRC32>"),
            None => String::new(),
        };
        let etag = escape(etag);
        xml.push_str(&format!("<Part><ETag>{etag}</ETag>{crc32}<PartNumber>{number}</PartNumber></Part>"));
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::listing::ListPage;

    #[test]
    fn list_pages_are_read_whatever_is_missing() {
        let page: ListPage = parse(
            br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
            <IsTruncated>true</IsTruncated><NextContinuationToken>t&amp;1=</NextContinuationToken>
            <Contents><Key>a&amp;b/0000/x y</Key><LastModified>2026-11-22T10:16:12.000Z</LastModified><Size>12</Size><ETag>&quot;e&quot;</ETag><Owner><ID>i</ID></Owner></Contents>
            <Contents><Key>c</Key></Contents></ListBucketResult>"#,
            "list",
        )
        .unwrap();
        assert!(page.is_truncated);
        assert_eq!(page.next_continuation_token.as_deref(), Some("t&1="));
        assert_eq!(page.contents[0].key, "a&b/0000/x y");
        assert_eq!((page.contents[0].size, page.contents[1].size), (Some(12), None));
        let empty: ListPage = parse(b"<ListBucketResult/>", "list").unwrap();
        assert!(!empty.is_truncated && empty.contents.is_empty());
    }

    #[test]
    fn bucket_location_is_the_text_of_the_root() {
        for (xml, region) in [
            ("<LocationConstraint xmlns=\"x\">eu-west-3</LocationConstraint>", Some("eu-west-3")),
            ("<LocationConstraint xmlns=\"x\"/>", None),
            ("<LocationConstraint></LocationConstraint>", None),
        ] {
            let location: Location = parse(xml.as_bytes(), "location").unwrap();
            assert_eq!(location.region.as_deref(), region);
        }
    }

    #[test]
    fn what_is_not_xml_is_an_error() {
        for body in [b"".as_slice(), b"<ListBucketResult><Contents>", b"\xff\xfe", b"not found"] {
            assert!(parse::<ListPage>(body, "list").is_err(), "{body:?}");
        }
    }

    #[test]
    fn keys_are_escaped() {
        let xml = delete_request(&["a<b>&\"c".to_owned()], false);
        assert!(xml.contains("<Key>a&lt;b&gt;&amp;&quot;c</Key>"), "{xml}");
    }
}
