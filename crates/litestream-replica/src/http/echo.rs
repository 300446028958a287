//! Servers, and proxies before them, repeat requests in their refusals. What
//! lets its reader in must not reach a log that way.
//!
//! Only answers that become errors come through here.

use http::Request;
use percent_encoding::percent_decode_str;

/// The parts of one request that nobody else may read.
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// Of a request as it is sent.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let mut secrets = Vec::new();
        for name in HEADERS {
            let Some(value) = request.headers().get(name).and_then(|value| value.to_str().ok()) else { continue };
            secrets.push(value.to_owned());
            if name.ends_with("authorization") {
                // `Basic` and the like may be left out.
                secrets.extend(value.split_once(' ').map(|(_, rest)| rest.to_owned()));
            }
        }
        for pair in request.uri().query().unwrap_or_default().split('&') {
            let Some((name, value)) = pair.split_once('=') else { continue };
            if PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
                secrets.push(value.to_owned());
                secrets.push(percent_decode_str(value).decode_utf8_lossy().into_owned());
            }
        }
        // Longest first, so that no part of a longer one is left.
        secrets.retain(|secret| !secret.is_empty());
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    /// A refusal without them.
    pub(crate) fn hide(&self, body: &[u8]) -> Vec<u8> {
        let mut text = String::from_utf8_lossy(body).into_owned();
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "(hidden)");
            }
        }
        text.into_bytes()
    }
}

const HEADERS: [&str; 5] = [
    "authorization",
    "proxy-authorization",
    "x-amz-security-token",
    "x-amz-server-side-encryption-customer-key",
    "x-oss-security-token",
];

/// `sig` is what makes Azure's shared access signatures valid.
const PARAMETERS: [&str; 3] = ["sig", "x-amz-signature", "x-amz-security-token"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_credentials_are_hidden_and_the_rest_is_kept() {
        let request = Request::get("https://x/y?comp=list&sig=a%2Fb%3D&se=2099")
            .header("authorization", "Basic dXNlcjpwdw==")
            .header("x-amz-security-token", "tok en")
            .body(())
            .unwrap();
        let refusal = "GET /y?comp=list&sig=a%2Fb%3D&se=2099, a/b=, Basic dXNlcjpwdw==, dXNlcjpwdw==, tok en";
        let hidden = Secrets::of(&request).hide(refusal.as_bytes());
        let wanted = "GET /y?comp=list&sig=(hidden)&se=2099, (hidden), (hidden), (hidden), (hidden)";
        assert_eq!(String::from_utf8(hidden).unwrap(), wanted);
    }
}
