//! Serves the control socket: connections, limits, shutdown. What is answered is
//! decided in [`routes`](super::routes).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::routes::Control;
use crate::control::socket::ControlSocket;

/// A control socket that is served.
#[derive(Debug)]
pub(crate) struct Server {
    socket: ControlSocket,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Serves `socket` in the background. Needs a tokio runtime.
    ///
    /// # Errors
    /// The listener cannot be used on this runtime.
    pub(crate) fn start(mut socket: ControlSocket, control: Control) -> std::io::Result<Self> {
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        if let Some(listener) = socket.listener() {
            listener.set_nonblocking(true)?;
            let listener = UnixListener::from_std(listener)?;
            tasks.spawn(accept(listener, Arc::new(control), cancel.clone(), tasks.clone()));
        }
        tracing::info!(system = "server", path = %socket.path().display(), "control socket listening");
        Ok(Self { socket, cancel, tasks })
    }

    /// Takes no more requests, cancels those that run, waits a moment for their
    /// answers to leave, and removes the socket.
    pub(crate) async fn close(self) {
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(system = "server", path = %self.socket.path().display(), "control connections were cut off");
        }
    }
}

async fn accept(listener: UnixListener, control: Arc<Control>, cancel: CancellationToken, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (control, cancel) = (control.clone(), cancel.clone());
                tasks.spawn(async move {
                    serve(stream, &control, &cancel).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely; others may free some.
                tracing::warn!(system = "server", %error, "control connection not accepted");
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

async fn serve(stream: UnixStream, control: &Control, cancel: &CancellationToken) {
    let service = service_fn(|request| async move { Ok::<_, Infallible>(control.answer(request, cancel).await) });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        // The other side's business: it went away or does not speak HTTP.
        tracing::debug!(system = "server", %error, "control connection ended");
    }
}

const CLOSE_GRACE: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
