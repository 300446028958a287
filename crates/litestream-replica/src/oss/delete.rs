//! Deletes, a thousand keys at a time.
//!
//! The answer lists what was deleted; a key that is missing there was not, and a
//! delete that is believed but did not happen fills a bucket.
//!
//! Spec: backends §10, store-and-restore §3.

use std::collections::HashSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::Method;
use md5::{Digest, Md5};

use super::api::{Api, Call, Exchange, Operation};
use super::xml::{self, DeleteAnswer};
use crate::http::listing;
use crate::parts::deleted;
use crate::{Error, ErrorKind, Result};

impl Api {
    /// Deletes everything whose key starts with `prefix`.
    pub(super) async fn delete_below(&self, prefix: &str) -> Result<()> {
        let mut keys = Vec::new();
        listing::keys(self, prefix, None, |object| keys.push(object.key)).await?;
        self.delete_keys(&keys).await
    }

    pub(super) async fn delete_keys(&self, keys: &[String]) -> Result<()> {
        let mut results = Vec::new();
        for batch in keys.chunks(BATCH) {
            let body = xml::delete_request(batch);
            let mut call = Call::new(DELETE, Method::POST, None);
            call.query.extend([("delete", ""), ("encoding-type", "url")]);
            call = call.header("content-type", "application/xml")?;
            // Over the exact bytes that are sent; the store insists on it.
            call = call.header("content-md5", &BASE64_STANDARD.encode(Md5::digest(&body)))?;
            call.body = Bytes::from(body);
            let answer: DeleteAnswer = xml::parse(&self.call(&call).await?.body, DELETE.name)?;
            let gone: HashSet<String> =
                answer.deleted.into_iter().map(|object| xml::decoded(&answer.encoding_type, object.key)).collect();
            results.extend(batch.iter().map(|key| (key.clone(), confirmed(gone.contains(key)))));
        }
        deleted(results)
    }
}

fn confirmed(is_gone: bool) -> Result<()> {
    match is_gone {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::Setup, "the store does not confirm that it is deleted")),
    }
}

const DELETE: Operation = Operation { store: "oss", name: "delete objects", permission: "oss:DeleteObject" };
const BATCH: usize = 1000;
