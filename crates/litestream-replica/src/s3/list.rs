//! How S3 is asked for a page of a listing, and about one object.
//!
//! Spec: backends §1.4 and §4.4.

use http::{Method, StatusCode, header};

use super::api::{Answer, Api, Call, Exchange, Operation};
use super::xml;
use crate::Result;
use crate::http::listing::{Begin, Head, ListPage, Listing};
use crate::layout::parse_timestamp;

impl Listing for Api {
    const STORE: &'static str = "s3";

    async fn page(&self, prefix: &str, begin: Begin<'_>) -> Result<ListPage> {
        let mut call = Call::new(LIST, Method::GET, None);
        call.query.extend([("list-type", "2"), ("prefix", prefix)]);
        call.query.extend(begin.parameter());
        let Answer { body, .. } = self.call(&call).await.map_err(|e| e.context(format!("list {prefix}")))?;
        xml::parse(&body, LIST.name)
    }

    async fn head(&self, key: &str) -> Result<Option<Head>> {
        let mut call = self.with_customer_key(Call::new(HEAD, Method::HEAD, Some(key)))?;
        call.accept = &[StatusCode::NOT_FOUND];
        let Answer { status, headers, .. } = self.call(&call).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Ok(Some(Head {
            timestamp: text("x-amz-meta-litestream-timestamp").and_then(parse_timestamp),
            last_modified: text(header::LAST_MODIFIED.as_str()).and_then(crate::http::parse_http_date),
            size: text(header::CONTENT_LENGTH.as_str()).and_then(|len| len.parse().ok()).unwrap_or_default(),
        }))
    }
}

const LIST: Operation = Operation { store: "s3", name: "list objects", permission: "s3:ListBucket" };
const HEAD: Operation = Operation { store: "s3", name: "head object", permission: "s3:GetObject" };
