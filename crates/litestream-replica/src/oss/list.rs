//! How OSS is asked for a page of a listing, and about one object.
//!
//! Spec: backends §1.4 and §10.

use http::{Method, StatusCode, header};

use super::api::{Answer, Api, Call, Exchange, Operation};
use super::xml;
use crate::Result;
use crate::http::listing::{Begin, Head, ListPage, Listing};
use crate::layout::parse_timestamp;

impl Listing for Api {
    const STORE: &'static str = "oss";

    async fn page(&self, prefix: &str, begin: Begin<'_>) -> Result<ListPage> {
        let mut call = Call::new(LIST, Method::GET, None);
        // Keys may hold signs that XML cannot.
        call.query.extend([("list-type", "2"), ("encoding-type", "url"), ("max-keys", "1000"), ("prefix", prefix)]);
        call.query.extend(begin.parameter());
        let Answer { body, .. } = self.call(&call).await.map_err(|e| e.context(format!("list {prefix}")))?;
        let mut page: ListPage = xml::parse(&body, LIST.name)?;
        for object in &mut page.contents {
            object.key = xml::decoded(&page.encoding_type, std::mem::take(&mut object.key));
        }
        Ok(page)
    }

    async fn head(&self, key: &str) -> Result<Option<Head>> {
        let mut call = Call::new(HEAD, Method::HEAD, Some(key));
        call.accept = &[StatusCode::NOT_FOUND];
        let answer = self.call(&call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(Head {
            timestamp: answer.header(TIMESTAMP_HEADER).and_then(parse_timestamp),
            last_modified: answer.header(header::LAST_MODIFIED.as_str()).and_then(crate::http::parse_http_date),
            size: answer.header(header::CONTENT_LENGTH.as_str()).and_then(|len| len.parse().ok()).unwrap_or_default(),
        }))
    }
}

const LIST: Operation = Operation { store: "oss", name: "list objects", permission: "oss:ListObjects" };
const HEAD: Operation = Operation { store: "oss", name: "head object", permission: "oss:GetObject" };

pub(super) const TIMESTAMP_HEADER: &str = "x-oss-meta-litestream-timestamp";
