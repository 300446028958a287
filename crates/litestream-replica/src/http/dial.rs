//! Connections: direct, through a proxy that reads requests, or through a tunnel.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::ProxyOptions;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Opens TCP connections; TLS comes on top.
#[derive(Clone)]
pub(super) struct Dialer {
    tcp: HttpConnector,
    proxies: Arc<Matcher>,
    timeout: Duration,
}

impl Dialer {
    pub(super) fn new(proxies: Arc<Matcher>, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(timeout));
        Self { tcp, proxies, timeout }
    }
}

impl Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Dialed, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let tcp = self.tcp.clone();
        let proxy = proxy_for(&self.proxies, &destination);
        let limit = self.timeout;
        Box::pin(async move {
            let dialed = tokio::time::timeout(limit, dial(tcp, proxy, destination)).await;
            dialed.map_err(|_| format!("no connection within {}s", limit.as_secs()))?
        })
    }
}

async fn dial(mut tcp: HttpConnector, proxy: Option<Intercept>, destination: Uri) -> Result<Dialed, BoxError> {
    let Some(proxy) = proxy else {
        return Ok(Dialed { io: tcp.call(destination).await?, reads_requests: false });
    };
    let address = proxy.uri().clone();
    match address.scheme_str() {
        Some("socks5" | "socks5h") => {
            let mut socks = SocksV5::new(address, tcp);
            if let Some((user, password)) = proxy.raw_auth() {
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            Ok(Dialed { io: socks.call(destination).await?, reads_requests: false })
        }
        Some("http") if destination.scheme_str() == Some("https") => {
            let mut tunnel = Tunnel::new(address, tcp);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            Ok(Dialed { io: tunnel.call(destination).await?, reads_requests: false })
        }
        Some("http") => Ok(Dialed { io: tcp.call(address).await?, reads_requests: true }),
        scheme => Err(format!("proxies of type \"{}\" are not supported", scheme.unwrap_or_default()).into()),
    }
}

/// The proxy for a destination, if it needs one. This machine does not, nor
/// does the cloud's metadata service, which answers to neighbours only.
pub(super) fn proxy_for(proxies: &Matcher, destination: &Uri) -> Option<Intercept> {
    let host = destination.host()?.trim_start_matches('[').trim_end_matches(']');
    let near = match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unicast_link_local(),
        Err(_) => host == "localhost",
    };
    if near { None } else { proxies.intercept(destination) }
}

pub(super) fn matcher(options: &ProxyOptions) -> Matcher {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Matcher::builder().http(text(&options.http)).https(text(&options.https)).no(text(&options.no_proxy)).build()
}

/// A TCP connection, to the server or to a proxy.
pub(super) struct Dialed {
    io: TokioIo<TcpStream>,
    /// The other end is a proxy that wants whole URLs in request lines.
    reads_requests: bool,
}

impl Connection for Dialed {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.reads_requests)
    }
}

impl rt::Read for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl rt::Write for Dialed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

const KEEPALIVE: Duration = Duration::from_secs(30);
