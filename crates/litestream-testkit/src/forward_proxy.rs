//! A forward proxy on loopback, as companies have them: it opens tunnels for
//! `CONNECT` and passes on requests that name a whole URL.
//!
//! Names below `store.invalid` lead to this machine, so that a client which never
//! takes a proxy to reach the machine itself has to take this one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};

/// A name that only the proxy can resolve.
pub const NAME: &str = "store.invalid";

/// A running proxy. Connections that are open when it is dropped stay open.
#[derive(Clone, Debug)]
pub struct ForwardProxy {
    port: u16,
    login: Option<&'static str>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl ForwardProxy {
    /// Starts one. `login` is the `user:password`, in base64, that it insists on.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(login: Option<&'static str>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let proxy = Self { port: listener.local_addr()?.port(), login, seen: Arc::default() };
        let own = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let own = own.clone();
                // Whoever hangs up early has been served.
                thread::spawn(move || own.serve(client).ok());
            }
        });
        Ok(proxy)
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `METHOD host:port` of every request that it let pass.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn serve(&self, mut client: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let (line, headers) = head.split_once("\r\n").context("a request without headers")?;
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let header = |name: &str| {
            headers.lines().find_map(|line| {
                let (known, value) = line.split_once(':')?;
                known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        if let Some(login) = self.login
            && header("proxy-authorization") != Some(format!("Basic {login}"))
        {
            let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"p\"\r\n";
            return Ok(write!(client, "{refusal}Content-Length: 0\r\nConnection: close\r\n\r\n")?);
        }
        let (authority, path) = match target.strip_prefix("http://") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => (target, ""),
        };
        let (name, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let address = if name.ends_with(NAME) { "127.0.0.1" } else { name };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {authority}"));
        let mut server = TcpStream::connect((address, port.parse()?))?;
        if method == "CONNECT" {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        } else {
            // One request a connection; the server closes it behind the answer.
            let kept = headers.lines().filter(|line| {
                let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
                !line.is_empty() && !name.starts_with("proxy-") && name != "connection"
            });
            let kept: String = kept.map(|line| format!("{line}\r\n")).collect();
            write!(server, "{method} {path} HTTP/1.1\r\n{kept}Connection: close\r\n\r\n")?;
            let len = header("content-length").map_or(Ok(0), |len| len.parse())?;
            std::io::copy(&mut reader.by_ref().take(len), &mut server)?;
            std::io::copy(&mut server, &mut client)?;
            return Ok(client.shutdown(Shutdown::Both)?);
        }
        // What the client has sent behind its first words belongs to the server.
        server.write_all(reader.buffer())?;
        let (mut up_from, mut up_to) = (client.try_clone()?, server.try_clone()?);
        let up = thread::spawn(move || {
            let copied = std::io::copy(&mut up_from, &mut up_to);
            // Fails only when the other end has closed it.
            let _ = up_to.shutdown(Shutdown::Write);
            copied
        });
        std::io::copy(&mut server, &mut client)?;
        // As above.
        let _ = client.shutdown(Shutdown::Write);
        // A panic there would be its own report.
        let _ = up.join();
        Ok(())
    }
}
