//! What Google's refusals mean, and what a person can do about them.
//!
//! Spec: backends §5. Google, "HTTP status and error codes for JSON".

use http::StatusCode;
use serde::Deserialize;

use super::api::Call;
use super::upload::{CHUNK, INSERT, START};
use crate::{Error, ErrorKind};

/// The protocol's error document.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    error: Told,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    message: String,
    errors: Vec<Reason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
}

/// The error for a refused call.
pub(super) fn error(call: &Call<'_>, status: StatusCode, body: &[u8], bucket: &str, origin: &str) -> Error {
    let told = serde_json::from_slice::<Document>(body).unwrap_or_default().error;
    // Media answers explain themselves in plain text.
    let message = match told.message.as_str() {
        "" => String::from_utf8_lossy(body).lines().next().unwrap_or_default().chars().take(200).collect(),
        message => message.to_owned(),
    };
    let reason = told.errors.first().map(|error| error.reason.as_str()).unwrap_or_default();
    let bucket_missing = status == StatusCode::NOT_FOUND
        && (call.key.is_none()
            || [INSERT, START].contains(&call.operation)
            || message.contains("bucket does not exist"));
    let kind = match status.as_u16() {
        _ if reason.ends_with("ateLimitExceeded") => ErrorKind::Transient,
        // The place where an upload goes on is gone: it begins anew elsewhere.
        404 | 410 if call.operation == CHUNK => ErrorKind::Transient,
        404 if bucket_missing => ErrorKind::Setup,
        404 => ErrorKind::NotFound,
        409 | 412 => ErrorKind::Conflict,
        501 | 505 => ErrorKind::Setup,
        408 | 425 | 429 | 500.. => ErrorKind::Transient,
        _ => ErrorKind::Setup,
    };
    let advice = match status.as_u16() {
        404 if bucket_missing && call.operation != CHUNK => {
            Some(format!("bucket \"{bucket}\" does not exist at {origin}; create it or correct the replica's bucket"))
        }
        401 => Some("the credentials are not accepted; renew them".to_owned()),
        403 if kind == ErrorKind::Setup && reason == "accountDisabled" => {
            Some("the bucket's project is disabled, perhaps for lack of billing".to_owned())
        }
        403 if kind == ErrorKind::Setup && reason.contains("etention") => {
            Some("the bucket's retention policy forbids it; set retention.enabled to false".to_owned())
        }
        403 if kind == ErrorKind::Setup => {
            let permission = call.operation.permission;
            Some(format!("access denied; the credentials need {permission} on bucket \"{bucket}\""))
        }
        300..=399 => Some(format!("{origin} sends us elsewhere")),
        _ => None,
    };
    let name = if reason.is_empty() { status.canonical_reason().unwrap_or("refused") } else { reason };
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    let detail = format!("{name}{message} ({})", status.as_u16());
    let what = call.describe();
    let error = match advice {
        Some(advice) => Error::new(kind, format!("{what}: {advice}: {detail}")),
        None => Error::new(kind, format!("{what}: {detail}")),
    };
    error.with_code(reason)
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::api::Operation;
    use super::*;

    const GET: Operation = Operation { store: "gs", name: "get object", permission: "storage.objects.get" };

    fn told(operation: Operation, status: u16, reason: &str, message: &str) -> Error {
        let body = serde_json::json!({"error": {"code": status, "message": message, "errors": [{"reason": reason}]}});
        let call = Call::new(operation, Method::GET, Some("k"));
        error(&call, StatusCode::from_u16(status).unwrap(), body.to_string().as_bytes(), "b", "https://h")
    }

    #[test]
    fn refusals_have_the_kind_of_what_to_do_next() {
        for (operation, status, reason, message, kind) in [
            (GET, 404, "notFound", "No such object: b/k", ErrorKind::NotFound),
            (GET, 404, "notFound", "The specified bucket does not exist.", ErrorKind::Setup),
            (INSERT, 404, "notFound", "", ErrorKind::Setup),
            (CHUNK, 410, "", "", ErrorKind::Transient),
            (GET, 401, "authError", "", ErrorKind::Setup),
            (GET, 403, "forbidden", "", ErrorKind::Setup),
            (GET, 403, "rateLimitExceeded", "", ErrorKind::Transient),
            (GET, 403, "userRateLimitExceeded", "", ErrorKind::Transient),
            (INSERT, 412, "conditionNotMet", "", ErrorKind::Conflict),
            (GET, 408, "", "", ErrorKind::Transient),
            (GET, 429, "", "", ErrorKind::Transient),
            (GET, 503, "backendError", "", ErrorKind::Transient),
            (GET, 400, "invalid", "", ErrorKind::Setup),
        ] {
            let error = told(operation, status, reason, message);
            assert_eq!(error.kind(), kind, "{error}");
        }
    }

    #[test]
    fn messages_say_what_to_do() {
        for (error, text) in [
            (
                told(INSERT, 404, "notFound", "The specified bucket does not exist."),
                "gs: insert object k: bucket \"b\" does not exist at https://h; create it or correct the replica's \
                 bucket: notFound: The specified bucket does not exist. (404)",
            ),
            (
                told(GET, 403, "forbidden", "me does not have access"),
                "gs: get object k: access denied; the credentials need storage.objects.get on bucket \"b\": forbidden: \
                 me does not have access (403)",
            ),
            (told(GET, 503, "backendError", "Try later"), "gs: get object k: backendError: Try later (503)"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
