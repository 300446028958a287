//! Deletes, some at a time.
//!
//! Spec: store-and-restore §3, backends §6.

use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};

use super::api::{Answer, Api, Call, Exchange, Operation};
use super::refusal;
use crate::Result;
use crate::parts::deleted;

impl Api {
    /// Deletes these blobs; one that is gone is no error.
    pub(super) async fn delete_keys(&self, keys: &[String]) -> Result<()> {
        let results = stream::iter(keys.to_vec()).map(|key| async move {
            let result = self.delete(&key).await;
            (key, result)
        });
        deleted(results.buffer_unordered(CONCURRENCY).collect().await)
    }

    /// Deletes everything whose name starts with `prefix`. A hierarchical account
    /// deletes a directory only when nothing is left in it: files go first, then
    /// directories from the deepest up.
    pub(super) async fn delete_below(&self, prefix: &str) -> Result<()> {
        let blobs = self.list_blobs(prefix).await?;
        let names = |folders: bool| blobs.iter().filter(move |b| b.is_folder == folders).map(|b| b.name.clone());
        self.delete_keys(&names(false).collect::<Vec<_>>()).await?;
        let mut folders: Vec<String> = names(true).collect();
        folders.sort_unstable_by(|a, b| b.cmp(a));
        for folder in folders {
            self.delete(&folder).await?;
        }
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let mut call = Call::new(DELETE, Method::DELETE, Some(key));
        call.accept = &[StatusCode::NOT_FOUND];
        let Answer { status, headers, body } = self.call(&call).await?;
        if status == StatusCode::NOT_FOUND && refusal::code(&headers, &body) == "ContainerNotFound" {
            return Err(self.refuse(&call, status, &headers, &body));
        }
        Ok(())
    }
}

const DELETE: Operation = Operation { store: "abs", name: "delete blob", permission: "delete" };
const CONCURRENCY: usize = 8;
