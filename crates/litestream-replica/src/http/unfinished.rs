//! Uploads in parts, as long as nobody has completed them.
//!
//! Stores keep the parts and charge for them until they are told that nobody will
//! finish the upload.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::exchange::{Call, Exchange, Operation};

/// Removes the parts of an upload that does not come to its end, even when the
/// future that made them is dropped.
pub(crate) struct Unfinished<E: Exchange + Send + 'static> {
    api: Arc<E>,
    /// How removing them is called.
    operation: Operation,
    key: String,
    pub(crate) upload_id: String,
    armed: bool,
}

impl<E: Exchange + Send + 'static> Unfinished<E> {
    pub(crate) fn new(api: &Arc<E>, operation: Operation, key: &str, upload_id: String) -> Self {
        Self { api: api.clone(), operation, key: key.to_owned(), upload_id, armed: true }
    }

    /// The upload is complete.
    pub(crate) fn finish(mut self) {
        self.armed = false;
    }

    pub(crate) async fn abort(mut self) {
        self.armed = false;
        abort(&*self.api, self.operation, &self.key, &self.upload_id).await;
    }
}

impl<E: Exchange + Send + 'static> Drop for Unfinished<E> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (api, operation) = (self.api.clone(), self.operation);
        let (key, upload_id) = (self.key.clone(), self.upload_id.clone());
        // Without a runtime the program is ending; the parts stay until the
        // bucket's lifecycle rules remove them.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { abort(&*api, operation, &key, &upload_id).await });
        }
    }
}

async fn abort<E: Exchange>(api: &E, operation: Operation, key: &str, upload_id: &str) {
    let mut call = Call::new(operation, Method::DELETE, Some(key));
    call.query.push(("uploadId", upload_id));
    call.accept = &[StatusCode::NOT_FOUND];
    if let Err(error) = api.call(&call).await {
        tracing::warn!(key, %error, "cannot remove the parts of a failed upload, they stay and are charged");
    }
}
