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
    use litestream_fuzz::{Bound, Target, bounded};

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

    const LISTED: &str = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"x\"><Name>b</Name><IsTruncated>true</IsTruncated>\
        <NextContinuationToken>t</NextContinuationToken><Contents><Key>a&amp;b</Key><LastModified>2026-11-22T10:16:12Z\
        </LastModified><Size>12</Size></Contents><Contents><Key>c</Key></Contents></ListBucketResult>";
    const ANSWERS: [&str; 5] = [
        "<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code><Message>m</Message></Error></DeleteResult>",
        "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
        "<CompleteMultipartUploadResult><ETag>&quot;e&quot;</ETag></CompleteMultipartUploadResult>",
        "<Error><Code>NoSuchKey</Code><Message>m</Message><RequestId>r</RequestId><Region>eu</Region></Error>",
        "<LocationConstraint xmlns=\"x\">eu-west-3</LocationConstraint>",
    ];

    /// An empty element of eleven bytes becomes a row of some sixty, in a vector
    /// that doubles.
    const BOUND: Bound = Bound { base: 64 << 10, per_byte: 40 };

    fn body(input: &[u8]) {
        let page = bounded(input.len(), BOUND, || parse::<ListPage>(input, "list"));
        if let Ok(page) = page {
            let held: usize = page.contents.iter().map(|object| object.key.len()).sum();
            assert!(held <= input.len(), "nothing expands");
        }
        bounded(input.len(), BOUND, || {
            let _ = parse::<DeleteAnswer>(input, "delete");
            let _ = parse::<CreatedUpload>(input, "create");
            let _ = parse::<CompletedUpload>(input, "complete");
            let _ = parse::<ErrorBody>(input, "error");
            let _ = parse::<Location>(input, "location");
        });
    }

    #[test]
    fn no_answer_crashes_or_expands() {
        let words = [
            "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]>",
            "&b;",
            "&#0;",
            "&#x10ffff;",
            "<![CDATA[",
            "]]>",
            "<!--",
            "<?xml",
            "<a>",
            "</a>",
            "<Contents>",
            "</Contents>",
            "<Key>",
            "xsi:nil=\"true\"",
            "18446744073709551616",
            "-1",
        ];
        Target::new("s3 answer", ANSWERS.into_iter().chain([LISTED])).words(&words).run(body);
    }

    #[test]
    fn a_million_nested_elements_are_one_error() {
        for tag in ["<a>", "<Contents>", "<Key>", "<Error>", "<Contents><Key>"] {
            let nested = format!("<ListBucketResult>{}", tag.repeat(1 << 20));
            assert!(parse::<ListPage>(nested.as_bytes(), "list").is_err(), "{tag}");
            body(nested.as_bytes());
        }
    }

    #[test]
    fn entities_of_a_document_are_not_resolved() {
        let bomb = "<!DOCTYPE x [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;\">]><ListBucketResult><Contents><Key>&b;</Key></Contents></ListBucketResult>";
        assert!(parse::<ListPage>(bomb.as_bytes(), "list").is_err());
        let file = "<!DOCTYPE x [<!ENTITY a SYSTEM \"file:///etc/hostname\">]><Error><Code>&a;</Code></Error>";
        assert!(parse::<ErrorBody>(file.as_bytes(), "error").is_err());
    }
}
