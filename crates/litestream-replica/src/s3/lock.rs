//! `lock.json` in a bucket: written and removed under conditions.
//!
//! Spec: backends §4.7.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, header};

use super::S3Client;
use super::api::{Answer, Call, Exchange, Operation};
use crate::lease::{Condition, LOCK_NAME, LockStore, Removal, Stored};
use crate::{Error, ErrorKind, Result};

/// The lock object of one replica.
pub(super) struct S3Lock {
    client: S3Client,
    key: String,
}

impl S3Lock {
    pub(super) fn new(client: S3Client) -> Self {
        let path = &client.settings.path;
        let key = if path.is_empty() { LOCK_NAME.to_owned() } else { format!("{path}/{LOCK_NAME}") };
        Self { client, key }
    }

    fn etag(&self, answer: &Answer) -> Result<String> {
        answer.header(header::ETAG.as_str()).map(str::to_owned).ok_or_else(|| {
            Error::new(ErrorKind::Setup, format!("{}: store returns no ETag, cannot hold a lease", self.location()))
        })
    }

    fn without_conditions(&self, what: &str) -> Error {
        let location = self.location();
        Error::new(ErrorKind::Setup, format!("{location}: store has no conditional {what}, cannot hold a lease"))
    }
}

#[async_trait::async_trait]
impl LockStore for S3Lock {
    fn location(&self) -> String {
        format!("s3://{}/{}", self.client.settings.bucket, self.key)
    }

    async fn read(&self) -> Result<Option<Stored>> {
        let api: Arc<_> = self.client.api().await?.clone();
        let call = api.with_customer_key(Call::new(GET, Method::GET, Some(&self.key)))?;
        match api.call(&call).await {
            Ok(answer) => Ok(Some(Stored { etag: self.etag(&answer)?, body: answer.body })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn put(&self, body: Bytes, condition: Condition) -> Result<Option<String>> {
        let api: Arc<_> = self.client.api().await?.clone();
        let call = Call::new(PUT, Method::PUT, Some(&self.key)).header("content-type", "application/json")?;
        let call = api.with_customer_key(call)?;
        let mut call = match &condition {
            Condition::Absent => call.header("if-none-match", "*")?,
            Condition::Unchanged(etag) => call.header("if-match", etag)?,
        };
        call.body = body;
        // Not found: `If-Match` on an object that is gone.
        call.accept = &[StatusCode::PRECONDITION_FAILED, StatusCode::NOT_IMPLEMENTED, StatusCode::NOT_FOUND];
        let answer = api.call(&call).await?;
        match answer.status {
            StatusCode::PRECONDITION_FAILED => Ok(None),
            StatusCode::NOT_IMPLEMENTED => Err(self.without_conditions("writes")),
            StatusCode::NOT_FOUND if condition != Condition::Absent => Ok(None),
            StatusCode::NOT_FOUND => Err(api.refuse(&call, answer.status, &answer.headers, &answer.body)),
            _ => self.etag(&answer).map(Some),
        }
    }

    async fn remove(&self, etag: &str) -> Result<Removal> {
        let api: Arc<_> = self.client.api().await?.clone();
        let mut call = Call::new(DELETE, Method::DELETE, Some(&self.key)).header("if-match", etag)?;
        call.accept = &[StatusCode::PRECONDITION_FAILED, StatusCode::NOT_IMPLEMENTED, StatusCode::NOT_FOUND];
        match api.call(&call).await?.status {
            StatusCode::PRECONDITION_FAILED => Ok(Removal::Changed),
            StatusCode::NOT_FOUND => Ok(Removal::Gone),
            StatusCode::NOT_IMPLEMENTED => Err(self.without_conditions("deletes")),
            _ => Ok(Removal::Removed),
        }
    }
}

const GET: Operation = Operation { store: "s3", name: "read lease", permission: "s3:GetObject" };
const PUT: Operation = Operation { store: "s3", name: "write lease", permission: "s3:PutObject" };
const DELETE: Operation = Operation { store: "s3", name: "remove lease", permission: "s3:DeleteObject" };
