//! What Azure's refusals mean, and what a person can do about them.
//!
//! Only code and message are repeated; details such as the string to sign stay
//! out of our texts.
//!
//! Spec: backends §6. Microsoft, "Blob service error codes".

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::api::Call;
use crate::clock::{Clock, SystemClock};
use crate::http::clock_skew;
use crate::{Error, ErrorKind};

/// How the refused request proved who sent it.
#[derive(Clone, Copy)]
pub(super) enum Who<'a> {
    Sas,
    SharedKey { account: &'a str },
    Token,
}

/// The protocol's error document.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Document {
    code: String,
    message: String,
}

/// The code of a refusal; answers to some requests have it as a header only.
pub(super) fn code(headers: &HeaderMap, body: &[u8]) -> String {
    let header = headers.get("x-ms-error-code").and_then(|value| value.to_str().ok());
    header.map(str::to_owned).unwrap_or_else(|| document(body).code)
}

fn document(body: &[u8]) -> Document {
    // Some answers begin with a byte order mark.
    let text = std::str::from_utf8(body).unwrap_or_default().trim_start_matches('\u{feff}');
    quick_xml::de::from_str(text).unwrap_or_default()
}

/// What the caller does next.
fn kind(status: StatusCode, code: &str) -> ErrorKind {
    match code {
        "BlobNotFound" => return ErrorKind::NotFound,
        "ContainerNotFound" | "ResourceNotFound" | "AccountBeingCreated" => return ErrorKind::Setup,
        "BlobAlreadyExists" | "ConditionNotMet" | "TargetConditionNotMet" => return ErrorKind::Conflict,
        "ServerBusy" | "InternalError" | "OperationTimedOut" | "ContainerBeingDeleted" => return ErrorKind::Transient,
        "Md5Mismatch" | "Crc64Mismatch" => return ErrorKind::Transient,
        _ => {}
    }
    match (status.as_u16(), code) {
        (404, "") => ErrorKind::NotFound,
        (409 | 412, "") => ErrorKind::Conflict,
        (501 | 505, _) => ErrorKind::Setup,
        (408 | 425 | 429 | 500.., _) => ErrorKind::Transient,
        _ => ErrorKind::Setup,
    }
}

/// The error for a refused call.
pub(super) fn error(
    call: &Call<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    container: &str,
    origin: &str,
    who: Who<'_>,
) -> Error {
    let mut code = code(headers, body);
    if code == "AuthorizationFailure" && document(body).message.starts_with("Server failed to authenticate") {
        // What Azurite calls it.
        code = "AuthenticationFailed".to_owned();
    }
    let kind = kind(status, &code);
    let what = call.describe();
    let detail = detail(status, &code, headers, body);
    let skew = clock_skew(headers, SystemClock.now()).filter(|_| matches!(status.as_u16(), 401 | 403));
    let error = match advice(status, &code, container, origin, who, call.operation.permission, skew) {
        Some(advice) => Error::new(kind, format!("{what}: {advice}: {detail}")),
        None => Error::new(kind, format!("{what}: {detail}")),
    };
    error.with_code(&code)
}

/// `BlobNotFound: The specified blob does not exist. (404, request 1234)`
fn detail(status: StatusCode, code: &str, headers: &HeaderMap, body: &[u8]) -> String {
    let code = match code {
        "" => status.canonical_reason().unwrap_or("refused"),
        code => code,
    };
    // Further lines repeat request and time.
    let message = document(body).message;
    let message = message.trim().lines().next().unwrap_or_default();
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    let request = headers.get("x-ms-request-id").and_then(|value| value.to_str().ok());
    let request = request.map(|id| format!(", request {id}")).unwrap_or_default();
    format!("{code}{message} ({}{request})", status.as_u16())
}

fn advice(
    status: StatusCode,
    code: &str,
    container: &str,
    origin: &str,
    who: Who<'_>,
    permission: &str,
    skew: Option<i64>,
) -> Option<String> {
    if let Some(seconds) = skew {
        return Some(format!(
            "this machine's clock is {} s {}; set it",
            seconds.abs(),
            if seconds > 0 { "fast" } else { "slow" }
        ));
    }
    Some(match code {
        "ContainerNotFound" => {
            format!("container \"{container}\" does not exist at {origin}; create it or correct the replica's bucket")
        }
        "ContainerBeingDeleted" => format!("container \"{container}\" is being deleted"),
        "AuthenticationFailed" | "InvalidAuthenticationInfo" | "NoAuthenticationInformation" => match who {
            Who::SharedKey { account } => format!("the account-key does not belong to account \"{account}\""),
            Who::Sas => "the sas-token is wrong or has expired".to_owned(),
            Who::Token => "the identity's token is not accepted by this account; is it of the same tenant?".to_owned(),
        },
        "AuthorizationPermissionMismatch" | "InsufficientAccountPermissions" => match who {
            Who::Token => format!(
                "the identity lacks a role on container \"{container}\"; give it \"Storage Blob Data Contributor\""
            ),
            _ => format!("the sas-token does not permit to {permission}; it needs read, write, delete and list"),
        },
        "AuthorizationProtocolMismatch" => "the sas-token is for https only; use an https endpoint".to_owned(),
        "AuthorizationSourceIPMismatch" => "the sas-token is not for this machine's address".to_owned(),
        "AuthorizationServiceMismatch" | "AuthorizationResourceTypeMismatch" => {
            "the sas-token is not for blobs and containers; make one with services=b and resource types=co".to_owned()
        }
        "AuthorizationFailure" => {
            "the account refuses this machine: its network rules, or the identity's or sas-token's rights".to_owned()
        }
        "KeyBasedAuthenticationNotPermitted" => {
            "the account does not allow account-key; use sas-token or an identity".to_owned()
        }
        "PublicAccessNotPermitted" => "the account wants credentials; set account-key or sas-token".to_owned(),
        "AccountIsDisabled" => "the account is disabled".to_owned(),
        "InvalidResourceName" | "OutOfRangeInput" => {
            format!("\"{container}\" is not a container name; correct the replica's bucket")
        }
        "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold" => {
            "the container's immutability policy forbids it; set retention.enabled to false".to_owned()
        }
        "SnapshotsPresent" => "the blob has snapshots of its own, which Litestream never makes; delete them".to_owned(),
        "" if matches!(status.as_u16(), 401 | 403) => "access denied".to_owned(),
        "" if status.is_redirection() => format!("{origin} sends us elsewhere; correct the replica's endpoint"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::api::Operation;
    use super::*;

    const PUT: Operation = Operation { store: "abs", name: "put blob", permission: "write" };

    fn told(status: u16, code: &str, who: Who<'_>, headers: &HeaderMap) -> Error {
        let body = format!(
            "\u{feff}<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>The message.\nRequestId:r\nTime:t</Message>\
             <AuthenticationErrorDetail>hidden</AuthenticationErrorDetail></Error>"
        );
        let call = Call::new(PUT, Method::PUT, Some("k"));
        let body = if code.is_empty() { "" } else { &body };
        error(&call, StatusCode::from_u16(status).unwrap(), headers, body.as_bytes(), "c", "https://h", who)
    }

    #[test]
    fn refusals_have_the_kind_of_what_to_do_next() {
        for (status, code, kind) in [
            (404, "BlobNotFound", ErrorKind::NotFound),
            (404, "", ErrorKind::NotFound),
            (404, "ContainerNotFound", ErrorKind::Setup),
            (403, "AuthenticationFailed", ErrorKind::Setup),
            (400, "InvalidHeaderValue", ErrorKind::Setup),
            (400, "Md5Mismatch", ErrorKind::Transient),
            (409, "BlobAlreadyExists", ErrorKind::Conflict),
            (409, "SnapshotsPresent", ErrorKind::Setup),
            (412, "ConditionNotMet", ErrorKind::Conflict),
            (412, "LeaseIdMissing", ErrorKind::Setup),
            (408, "", ErrorKind::Transient),
            (429, "", ErrorKind::Transient),
            (500, "OperationTimedOut", ErrorKind::Transient),
            (503, "ServerBusy", ErrorKind::Transient),
            (502, "", ErrorKind::Transient),
        ] {
            assert_eq!(told(status, code, Who::Sas, &HeaderMap::new()).kind(), kind, "{status} {code}");
        }
    }

    #[test]
    fn messages_say_what_to_do_and_keep_details_out() {
        for (status, code, who, message) in [
            (
                404,
                "ContainerNotFound",
                Who::Sas,
                "abs: put blob k: container \"c\" does not exist at https://h; create it or correct the replica's \
                 bucket: ContainerNotFound: The message. (404)",
            ),
            (
                403,
                "AuthenticationFailed",
                Who::SharedKey { account: "a" },
                "abs: put blob k: the account-key does not belong to account \"a\": AuthenticationFailed: The message. \
                 (403)",
            ),
            (
                403,
                "AuthenticationFailed",
                Who::Sas,
                "abs: put blob k: the sas-token is wrong or has expired: AuthenticationFailed: The message. (403)",
            ),
            (500, "InternalError", Who::Token, "abs: put blob k: InternalError: The message. (500)"),
        ] {
            assert_eq!(told(status, code, who, &HeaderMap::new()).to_string(), message);
        }
    }

    #[test]
    fn wrong_clock_is_told_from_a_wrong_key() {
        let date = HeaderMap::from_iter([(http::header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap())]);
        let text = told(403, "AuthenticationFailed", Who::SharedKey { account: "a" }, &date).to_string();
        assert!(text.contains("this machine's clock is ") && text.contains(" s fast; set it"), "{text}");
    }

    #[test]
    fn code_may_stand_in_a_header_alone() {
        let headers =
            HeaderMap::from_iter([("x-ms-error-code".parse().unwrap(), "ContainerNotFound".parse().unwrap())]);
        assert_eq!(told(404, "", Who::Sas, &headers).kind(), ErrorKind::Setup);
    }
}
