//! What identities are made of: variables, files, commands and issuers.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use serde_json::Value;

use crate::http::echo::Secrets;
use crate::http::{HttpClient, host_and_port};
use crate::url::{EnvLookup, setup};
use crate::{ClientContext, Error, ErrorKind, Result};

/// The program's surroundings, as far as identities look at them.
#[derive(Clone)]
pub(crate) struct Outside {
    env: Option<EnvLookup>,
    http: HttpClient,
}

impl Outside {
    pub(crate) fn new(context: &ClientContext) -> Result<Self> {
        Ok(Self { env: context.env.clone(), http: context.http.client(false)? })
    }

    /// A variable that is set to something.
    pub(crate) fn env(&self, name: &str) -> Option<String> {
        self.env.as_ref().and_then(|env| env(name)).filter(|value| !value.is_empty())
    }

    /// A file as text.
    pub(crate) async fn read(&self, path: &str) -> Result<String> {
        tokio::fs::read_to_string(path).await.map_err(|e| setup(format!("read {path}: {e}")))
    }

    /// What a command prints. `None` when there is no such command.
    pub(crate) async fn run(&self, program: &str, arguments: &[&str]) -> Result<Option<Vec<u8>>> {
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(COMMAND_TIMEOUT, command.output()).await {
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(output) => output.map_err(|e| setup(format!("run {program}: {e}")))?,
            Err(_) => return Err(setup(format!("{program} did not end within {}s", COMMAND_TIMEOUT.as_secs()))),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(setup(format!("{program} failed ({}): {}", output.status, first_line(&said))));
        }
        Ok(Some(output.stdout))
    }

    /// Asks an issuer for a JSON document. `issuer` names it in errors.
    ///
    /// # Errors
    /// [`Transient`](ErrorKind::Transient) for 408, 429, 5xx and everything that
    /// happens on the way; [`Setup`](ErrorKind::Setup) for refusals.
    pub(crate) async fn ask(&self, issuer: &str, request: Request<Bytes>, limit: Duration) -> Result<Value> {
        let body = self.fetch(issuer, request, limit).await?;
        serde_json::from_slice(&body)
            .map_err(|_| Error::new(ErrorKind::Transient, format!("{issuer} answered with something else than JSON")))
    }

    /// The same for any document.
    pub(crate) async fn fetch(&self, issuer: &str, request: Request<Bytes>, limit: Duration) -> Result<Bytes> {
        let host = host_and_port(request.uri());
        let secrets = Secrets::of_form(&request);
        let exchange = async {
            let (head, body) = self.http.send(request).await?.into_parts();
            Ok::<_, Error>((head.status, body.collect(ANSWER_LIMIT).await?))
        };
        let seconds = limit.as_secs();
        let silent = |_| Error::new(ErrorKind::Transient, format!("no answer from {host} within {seconds}s"));
        let answer = tokio::time::timeout(limit, exchange).await.map_err(silent).and_then(|answer| answer);
        let (status, body) = answer.map_err(|e| e.context(format!("ask {issuer}")))?;
        if status.is_success() {
            return Ok(body);
        }
        let kind = match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => ErrorKind::Transient,
            status if status.is_server_error() => ErrorKind::Transient,
            _ => ErrorKind::Setup,
        };
        Err(Error::new(kind, format!("{issuer} refused: {} ({})", reason(&secrets.hide(&body)), status.as_u16())))
    }
}

/// `POST` of a form, as token issuers want it.
pub(crate) fn form(url: &str, fields: &[(&str, &str)]) -> Result<Request<Bytes>> {
    let mut body = String::new();
    for (name, value) in fields {
        if !body.is_empty() {
            body.push('&');
        }
        body.push_str(name);
        body.push('=');
        body.push_str(&crate::http::endpoint::escape(value));
    }
    build(Request::post(url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded"), body)
}

/// Ends a request that configuration may have made impossible.
pub(crate) fn build(builder: http::request::Builder, body: impl Into<Bytes>) -> Result<Request<Bytes>> {
    builder.body(body.into()).map_err(|e| setup(format!("the address of a token issuer is malformed: {e}")))
}

/// Why an issuer refuses, in its own words. Several dialects:
/// `{"error", "error_description"}`, `{"error": {"message"}}`, plain text.
fn reason(body: &[u8]) -> String {
    let text = |value: &Value| value.as_str().map(first_line);
    let Ok(answer) = serde_json::from_slice::<Value>(body) else { return "no reason given".to_owned() };
    let error = answer.get("error").unwrap_or(&Value::Null);
    let message = answer.get("error_description").and_then(text).or_else(|| error.get("message").and_then(text));
    match (text(error), message) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(text), None) | (None, Some(text)) => text,
        (None, None) => "no reason given".to_owned(),
    }
}

/// Enough of a text for a message.
fn first_line(text: &str) -> String {
    text.trim().lines().next().unwrap_or_default().chars().take(300).collect()
}

/// Far from the network: the metadata services of clouds answer at once or, on
/// other machines, never.
pub(crate) const METADATA_TIMEOUT: Duration = Duration::from_secs(3);
pub(crate) const ISSUER_TIMEOUT: Duration = Duration::from_secs(30);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_all_dialects_are_read() {
        for (body, wanted) in [
            (r#"{"error":"invalid_grant","error_description":"Bad key.\nTrace ID: 1"}"#, "invalid_grant: Bad key."),
            (r#"{"error":{"code":403,"message":"denied"}}"#, "denied"),
            (r#"{"error":"invalid_client"}"#, "invalid_client"),
            ("<html>", "no reason given"),
            ("{}", "no reason given"),
        ] {
            assert_eq!(reason(body.as_bytes()), wanted);
        }
    }

    #[test]
    fn forms_are_escaped() {
        let request = form("http://h/t", &[("a", "x y&/"), ("b", "")]).unwrap();
        assert_eq!(request.body(), "a=x%20y%26%2F&b=");
    }
}
