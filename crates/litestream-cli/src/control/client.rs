//! The commands' side of the control socket: one request, one answer, one limit.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::control::types::{ErrorBody, Request};

/// A daemon by its control socket.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    /// For the whole of a request; `None` is no limit.
    limit: Option<Duration>,
}

/// Why there is no answer of the expected kind.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// Nobody listens.
    Unreachable(io::Error),
    /// It took longer than allowed.
    TimedOut(Duration),
    /// The daemon said no, in these words.
    Refused(String),
    /// What came back was not understood.
    Garbled(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without the system's number behind its words.
            Self::Unreachable(error) => f.write_str(error.to_string().split(" (os error").next().unwrap_or_default()),
            Self::TimedOut(limit) => write!(f, "timed out after {limit:?}"),
            Self::Refused(why) | Self::Garbled(why) => f.write_str(why),
        }
    }
}

impl Client {
    /// Asks whoever listens on `socket`.
    pub(crate) fn new(socket: impl Into<PathBuf>, limit: Option<Duration>) -> Self {
        Self { socket: socket.into(), limit }
    }

    /// The socket's path, as it was given.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks without changing anything.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn get<T: DeserializeOwned>(&self, route: &str) -> Result<T, ClientError> {
        self.limited(self.ask(Method::GET, route, Bytes::new())).await
    }

    /// Tells the daemon to do something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn post<T: DeserializeOwned>(&self, route: &str, request: &Request) -> Result<T, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| ClientError::Garbled(error.to_string()))?;
        self.limited(self.ask(Method::POST, route, body.into())).await
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        match self.limit {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Err(ClientError::TimedOut(limit))),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, route: &str, body: Bytes) -> Result<T, ClientError> {
        let garbled = |error: &dyn fmt::Display| ClientError::Garbled(format!("no answer from the daemon: {error}"));
        let stream = UnixStream::connect(&self.socket).await.map_err(ClientError::Unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| garbled(&error))?;
        // Ends with the sender, or with the other side.
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(route)
            .header("Host", "localhost")
            .header("Content-Type", "application/json")
            .body(Full::new(body))
            .map_err(|error| garbled(&error))?;
        let response = sender.send_request(request).await.map_err(|error| garbled(&error))?;
        let status = response.status();
        let bytes =
            Limited::new(response.into_body(), MAX_ANSWER_LEN).collect().await.map_err(|error| garbled(&error))?;
        let bytes = bytes.to_bytes();
        if status != StatusCode::OK {
            let refused = serde_json::from_slice::<ErrorBody>(&bytes);
            return Err(ClientError::Refused(refused.map_or_else(
                |_| format!("{status}: {}", String::from_utf8_lossy(&bytes).trim_end()),
                |body| body.error,
            )));
        }
        serde_json::from_slice(&bytes).map_err(|error| garbled(&error))
    }
}

/// Ten thousand databases with long paths and errors fit.
const MAX_ANSWER_LEN: usize = 64 << 20;
