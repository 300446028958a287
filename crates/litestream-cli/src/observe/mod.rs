//! The listener of `addr`: metrics, liveness and readiness over HTTP.
//!
//! Everything is made when it is asked for: a process with a thousand idle
//! databases does nothing for its metrics between two scrapes. Nothing is served
//! that changes anything, and nothing listens unless `addr` is set.
//!
//! Spec: docs/operations.md.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use litestream::Store;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

mod address;
mod families;
mod health;
mod machine;
mod page;
pub(crate) mod pulse;

pub(crate) use address::Address;
pub(crate) use health::{is_wanted, judge_all};
use pulse::Pulse;

/// What is answered from.
pub(crate) struct Observer {
    pub(crate) store: Arc<Store>,
    pub(crate) pulse: Arc<Pulse>,
}

/// Binds the address and answers on it until the task is dropped. A failure to
/// bind is logged and leaves replication alone, as the original does.
pub(crate) async fn serve(address: Address, observer: Arc<Observer>) {
    let listener = match address.bind().await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(error = format!("listen tcp {address}: {error}"), "cannot start metrics server");
            return;
        }
    };
    match listener.local_addr() {
        // The address itself, not a name for it: it may be reachable from outside.
        Ok(bound) => tracing::info!(url = format!("http://{bound}/metrics"), "serving metrics on"),
        Err(error) => tracing::warn!(%error, "cannot tell the address of the metrics server"),
    }
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely; the next connection may have one.
                tracing::debug!(%error, "cannot accept connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let observer = observer.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request| {
                let response = answer(&observer, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::trace!(%error, "connection to the metrics server ended");
            }
        });
    }
}

/// What a request gets. Bodies of requests are not read.
fn answer<B>(observer: &Observer, request: &Request<B>) -> Response<Full<Bytes>> {
    let route: fn(&Observer) -> (StatusCode, &'static str, String) = match request.uri().path() {
        "/metrics" => |observer| (StatusCode::OK, page::CONTENT_TYPE, families::render(observer)),
        "/healthz" => health::live,
        "/readyz" => health::ready,
        _ => return response(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned()),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Method Not Allowed\n".to_owned());
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let (status, content_type, body) = route(observer);
    response(status, content_type, body)
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl Address {
    async fn bind(&self) -> io::Result<TcpListener> {
        let mut last = io::Error::other("no address");
        for address in self.resolve().await? {
            match TcpListener::bind(address).await {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
/// Scrapers and probes are few; whoever opens more waits.
const MAX_CONNECTIONS: usize = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Also how long an idle connection is kept; scrapers come back every minute at
/// the latest as a rule.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);
