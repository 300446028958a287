//! The few XML documents of the protocol.
//!
//! Every field may be missing: an absent element must never be worse than an
//! error.

use percent_encoding::percent_decode_str;
use quick_xml::escape::escape;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Result};

/// Answer of `DeleteMultipleObjects`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DeleteAnswer {
    pub(super) encoding_type: String,
    pub(super) deleted: Vec<DeletedObject>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DeletedObject {
    pub(super) key: String,
}

/// Answer of `InitiateMultipartUpload`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreatedUpload {
    pub(super) upload_id: String,
}

/// What the store says when it refuses.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ErrorBody {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) request_id: String,
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T> {
    let broken = |cause: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Transient, format!("oss: answer to {what} is malformed: {cause}"))
    };
    let text = std::str::from_utf8(body).map_err(|e| broken(&e))?;
    quick_xml::de::from_str(text).map_err(|e| broken(&e))
}

/// A key of an answer whose `EncodingType` is `encoding`; a `+` there is a space,
/// as in queries.
pub(super) fn decoded(encoding: &str, key: String) -> String {
    if encoding != "url" {
        return key;
    }
    percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
}

pub(super) fn delete_request(keys: &[String]) -> String {
    let objects: String = keys.iter().map(|key| format!("<Object><Key>{}</Key></Object>", escape(key))).collect();
    format!("<Delete><Quiet>false</Quiet>{objects}</Delete>")
}

/// A part that the store has acknowledged.
pub(super) struct PartReceipt {
    pub(super) number: usize,
    pub(super) etag: String,
}

pub(super) fn complete_request(parts: &[PartReceipt]) -> String {
    let part = |PartReceipt { number, etag }: &PartReceipt| {
        format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", escape(etag))
    };
    format!("<CompleteMultipartUpload>{}</CompleteMultipartUpload>", parts.iter().map(part).collect::<String>())
}

#[cfg(test)]
mod tests {
    use litestream_fuzz::{Bound, Target, bounded};

    use super::*;
    use crate::http::listing::ListPage;

    #[test]
    fn list_pages_are_read_whatever_is_missing() {
        let page: ListPage = parse(
            b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>b</Name><EncodingType>url</EncodingType>\
              <IsTruncated>true</IsTruncated><NextContinuationToken>t=</NextContinuationToken>\
              <Contents><Key>a%26b%2F0000%2Fx+y%2B</Key><LastModified>2026-11-22T10:16:12.000Z</LastModified><Size>12</Size></Contents>\
              <Contents><Key>c</Key></Contents></ListBucketResult>",
            "list",
        )
        .unwrap();
        assert!(page.is_truncated);
        assert_eq!(decoded(&page.encoding_type, page.contents[0].key.clone()), "a&b/0000/x y+");
        assert_eq!(decoded("", page.contents[0].key.clone()), "a%26b%2F0000%2Fx+y%2B");
        assert_eq!((page.contents[0].size, page.contents[1].size), (Some(12), None));
        assert!(parse::<ListPage>(b"<ListBucketResult><Contents>", "list").is_err());
    }

    #[test]
    fn keys_are_escaped() {
        let xml = delete_request(&["a<b>&\"c".to_owned()]);
        assert!(xml.contains("<Key>a&lt;b&gt;&amp;&quot;c</Key>"), "{xml}");
    }

    #[test]
    fn no_answer_crashes_or_expands() {
        let listed = "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
            <NextContinuationToken>t=</NextContinuationToken><Contents><Key>a%26b%2F+y</Key><Size>12</Size></Contents>\
            <Contents><Key>c</Key></Contents></ListBucketResult>";
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
            "%",
            "%2e%2e%2f",
            "%00",
        ];
        Target::new("oss answer", [listed]).words(&words).run(|input| {
            let bound = Bound { base: 64 << 10, per_byte: 40 };
            let Ok(page) = bounded(input.len(), bound, || parse::<ListPage>(input, "list")) else { return };
            for object in page.contents {
                // What is no text becomes one sign of three bytes.
                assert!(decoded(&page.encoding_type, object.key.clone()).len() <= 3 * object.key.len());
            }
        });
    }
}
