//! What a store's refusal means, and what a person can do about it.
//!
//! Only codes and messages of the store are repeated; the rest of an error
//! document (string to sign, key ids) stays out of our texts.
//!
//! Spec: backends §4.5.

use http::{HeaderMap, StatusCode};

use super::xml::{self, ErrorBody};
use crate::{Error, ErrorKind};

/// A store's answer that is not success.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The protocol's error code; empty if the answer has no body.
    pub(super) code: String,
    message: String,
    request_id: String,
    /// The region that the store wants us in.
    region: String,
}

impl Refusal {
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let document: ErrorBody = xml::parse(body, "error").unwrap_or_default();
        let or = |text: String, name| if text.is_empty() { header(name) } else { text };
        Self {
            status,
            code: document.code,
            message: document.message,
            request_id: or(document.request_id, "x-amz-request-id"),
            region: or(document.region, "x-amz-bucket-region"),
        }
    }

    /// What the caller does next.
    pub(super) fn kind(&self) -> ErrorKind {
        match self.code.as_str() {
            "NoSuchKey" | "NoSuchUpload" => return ErrorKind::NotFound,
            "NoSuchBucket" => return ErrorKind::Setup,
            "PreconditionFailed" => return ErrorKind::Conflict,
            code if TRANSIENT_CODES.contains(&code) || code.starts_with("Throttl") => return ErrorKind::Transient,
            _ => {}
        }
        match self.status.as_u16() {
            404 => ErrorKind::NotFound,
            409 | 412 => ErrorKind::Conflict,
            501 | 505 => ErrorKind::Setup,
            408 | 425 | 429 | 500.. => ErrorKind::Transient,
            _ => ErrorKind::Setup,
        }
    }

    /// `NoSuchKey: The specified key does not exist. (404, request 1234)`.
    fn detail(&self) -> String {
        let code = match self.code.as_str() {
            "" => self.status.canonical_reason().unwrap_or("refused"),
            code => code,
        };
        let message = if self.message.is_empty() { String::new() } else { format!(": {}", self.message.trim()) };
        let request = if self.request_id.is_empty() { String::new() } else { format!(", request {}", self.request_id) };
        format!("{code}{message} ({}{request})", self.status.as_u16())
    }
}

/// The error for a refused request. `what` names operation and object.
pub(super) fn refusal(what: &str, permission: &str, refusal: &Refusal, bucket: &str, origin: &str) -> Error {
    let kind = refusal.kind();
    let detail = refusal.detail();
    let advice = match refusal.code.as_str() {
        "NoSuchBucket" => {
            format!("bucket \"{bucket}\" does not exist at {origin}; create it or correct the replica's bucket")
        }
        "SignatureDoesNotMatch" => "the secret-access-key does not belong to the access-key-id, or a proxy changes \
                                    requests"
            .to_owned(),
        "InvalidAccessKeyId" => format!("{origin} does not know the access-key-id; correct it or the endpoint"),
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            "the session token is no longer valid; renew the credentials".to_owned()
        }
        "RequestTimeTooSkewed" => "this machine's clock is wrong; set it".to_owned(),
        "InvalidBucketName" => format!("\"{bucket}\" is not a bucket name; correct the replica's bucket"),
        _ if !refusal.region.is_empty() && matches!(refusal.status.as_u16(), 301 | 307 | 400) => {
            format!("bucket \"{bucket}\" is in region {region}; set the replica's region", region = refusal.region)
        }
        "AccessDenied" | "AllAccessDisabled" | "" if matches!(refusal.status.as_u16(), 401 | 403) => {
            format!("access denied; the credentials need {permission} on bucket \"{bucket}\"")
        }
        "" if refusal.status.is_redirection() => format!("{origin} sends us elsewhere; correct the replica's endpoint"),
        _ => return Error::new(kind, format!("{what}: {detail}")).with_code(&refusal.code),
    };
    Error::new(kind, format!("{what}: {advice}: {detail}")).with_code(&refusal.code)
}

/// Codes that mean "later", whatever their status.
const TRANSIENT_CODES: [&str; 18] = [
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",
    "EC2ThrottledException",
    "InternalError",
    "LimitExceededException",
    "OperationAborted",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestCanceled",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "TooManyRequestsException",
    "TransactionInProgressException",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, code: &str) -> Refusal {
        let body = format!(
            "<Error><Code>{code}</Code><Message>The message.</Message><RequestId>R1</RequestId>\
             <AWSAccessKeyId>hidden</AWSAccessKeyId><StringToSign>hidden</StringToSign></Error>"
        );
        let body = if code.is_empty() { String::new() } else { body };
        Refusal::read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn refusals_have_the_kind_of_what_to_do_next() {
        for (status, code, kind) in [
            (404, "NoSuchKey", ErrorKind::NotFound),
            (404, "", ErrorKind::NotFound),
            (404, "NoSuchBucket", ErrorKind::Setup),
            (403, "AccessDenied", ErrorKind::Setup),
            (403, "", ErrorKind::Setup),
            (400, "InvalidArgument", ErrorKind::Setup),
            (400, "RequestTimeout", ErrorKind::Transient),
            (400, "ThrottlingException", ErrorKind::Transient),
            (408, "", ErrorKind::Transient),
            (409, "ConditionalRequestConflict", ErrorKind::Transient),
            (412, "PreconditionFailed", ErrorKind::Conflict),
            (412, "", ErrorKind::Conflict),
            (429, "", ErrorKind::Transient),
            (499, "RequestCanceled", ErrorKind::Transient),
            (500, "InternalError", ErrorKind::Transient),
            (501, "NotImplemented", ErrorKind::Setup),
            (503, "SlowDown", ErrorKind::Transient),
            (504, "", ErrorKind::Transient),
            (507, "", ErrorKind::Transient),
        ] {
            assert_eq!(read(status, code).kind(), kind, "{status} {code}");
        }
    }

    #[test]
    fn messages_say_what_to_do() {
        for (status, code, message) in [
            (
                404,
                "NoSuchBucket",
                "s3: put object k: bucket \"b\" does not exist at https://h; create it or correct the replica's \
                 bucket: NoSuchBucket: The message. (404, request R1)",
            ),
            (
                403,
                "AccessDenied",
                "s3: put object k: access denied; the credentials need s3:PutObject on bucket \"b\": AccessDenied: \
                 The message. (403, request R1)",
            ),
            (
                403,
                "",
                "s3: put object k: access denied; the credentials need s3:PutObject on bucket \"b\": Forbidden (403)",
            ),
            (500, "InternalError", "s3: put object k: InternalError: The message. (500, request R1)"),
        ] {
            let error = refusal("s3: put object k", "s3:PutObject", &read(status, code), "b", "https://h");
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn wrong_region_is_named() {
        let headers: HeaderMap =
            [("x-amz-bucket-region".parse().unwrap(), "eu-west-1".parse().unwrap())].into_iter().collect();
        let moved = Refusal::read(StatusCode::MOVED_PERMANENTLY, &headers, b"");
        let error = refusal("s3: list", "s3:ListBucket", &moved, "b", "https://h");
        assert!(error.to_string().contains("bucket \"b\" is in region eu-west-1"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Setup);
    }

    #[test]
    fn rest_of_an_error_document_stays_out() {
        for code in ["SignatureDoesNotMatch", "InvalidAccessKeyId"] {
            let error = refusal("s3: list", "s3:ListBucket", &read(403, code), "b", "https://h");
            assert!(!error.to_string().contains("hidden"), "{error}");
        }
    }
}
