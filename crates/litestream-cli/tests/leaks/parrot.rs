//! Servers that repeat in their refusal everything they were told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::TOKEN;

/// How a server speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    Http,
    Nats,
    Ssh,
}

/// Starts one, and tells where.
pub(crate) fn parrot(speech: Speech) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that hangs up early is done with us.
            thread::spawn(move || match speech {
                Speech::Http => http(stream).ok(),
                Speech::Nats => nats(stream).ok(),
                Speech::Ssh => ssh(stream).ok(),
            });
        }
    });
    address
}

fn http(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut head, mut len) = (String::new(), 0);
        loop {
            let start = head.len();
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
            let line = head.get(start..).unwrap_or_default().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                len = value.trim().parse().unwrap_or(0);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = Vec::new();
        reader.by_ref().take(len).read_to_end(&mut body)?;
        let lower = head.to_lowercase();
        let is_form = lower.contains("x-www-form-urlencoded");
        let told = if is_form { format!("{head}{}", String::from_utf8_lossy(&body)) } else { head.clone() };
        let (status, kind, body) = if head.lines().next().unwrap_or_default().contains("/ok/") {
            ("200 OK", "application/json", format!("{{\"access_token\":\"{TOKEN}\",\"expires_in\":3600}}"))
        } else if is_form {
            let told = told.replace('\\', "\\\\").replace('"', "\\\"").replace(['\r', '\n'], " ");
            ("400 Bad Request", "application/json", format!("{{\"error\":\"no\",\"error_description\":\"{told}\"}}"))
        } else {
            // Basic authentication is sent only to who asks for it.
            let is_known = lower.contains("\r\nauthorization:") || lower.contains("sig=");
            let told = told.replace('&', "&amp;").replace('<', "&lt;");
            let document = format!("<Error><Code>Refused</Code><Message>cannot do {told}</Message></Error>");
            (if is_known { "403 Forbidden" } else { "401 Unauthorized" }, "application/xml", document)
        };
        let authorization = head.lines().find(|line| line.to_lowercase().starts_with("authorization:"));
        let id = authorization.and_then(|line| line.split_once(": ")).map_or("none", |(_, value)| value);
        write!(
            stream,
            "HTTP/1.1 {status}\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Type: {kind}\r\n\
             x-amz-request-id: {id}\r\nx-ms-request-id: {id}\r\nx-oss-request-id: {id}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

fn nats(mut stream: TcpStream) -> std::io::Result<()> {
    let info = "{\"server_id\":\"x\",\"server_name\":\"x\",\"version\":\"2.10.0\",\"proto\":1,\"host\":\"127.0.0.1\",\
                \"port\":4222,\"headers\":true,\"max_payload\":1048576,\"auth_required\":true,\"nonce\":\"abcdef\"}";
    write!(stream, "INFO {info}\r\n")?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    write!(stream, "-ERR 'cannot do {}'\r\n", line.trim())
}

fn ssh(mut stream: TcpStream) -> std::io::Result<()> {
    write!(stream, "SSH-2.0-parrot\r\n")?;
    let mut told = [0; 4096];
    let len = stream.read(&mut told)?;
    stream.write_all(told.get(..len).unwrap_or_default())
}
