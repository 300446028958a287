//! Deletes, some at a time.
//!
//! Spec: store-and-restore §3, backends §5.

use futures_util::{StreamExt, stream};
use http::Method;

use super::api::{Api, Call, Exchange, Operation};
use crate::parts::deleted;
use crate::{ErrorKind, Result};

impl Api {
    /// Deletes these objects; one that is gone is no error.
    pub(super) async fn delete_keys(&self, keys: &[String]) -> Result<()> {
        let results = stream::iter(keys.to_vec()).map(|key| async move {
            let result = self.delete(&key).await;
            (key, result)
        });
        deleted(results.buffer_unordered(CONCURRENCY).collect().await)
    }

    /// Deletes everything whose name starts with `prefix`.
    pub(super) async fn delete_below(&self, prefix: &str) -> Result<()> {
        self.delete_keys(&self.list_names(prefix).await?).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        match self.call(&Call::new(DELETE, Method::DELETE, Some(key))).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map(drop),
        }
    }
}

const DELETE: Operation = Operation { store: "gs", name: "delete object", permission: "storage.objects.delete" };
const CONCURRENCY: usize = 8;
