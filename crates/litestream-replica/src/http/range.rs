//! Ranges of stored objects: asked for, and cut out of whatever comes.

use futures_util::TryStreamExt;
use http::{StatusCode, header};

use super::ResponseBody;
use crate::{ByteStream, Error, ErrorKind, Result};

/// The header that asks for `len` bytes from `offset`; `None` for a whole object.
/// A `len` of zero means to the end.
pub(crate) fn header_value(offset: u64, len: u64) -> Option<String> {
    match (offset, len) {
        (0, 0) => None,
        (_, 0) => Some(format!("bytes={offset}-")),
        _ => Some(format!("bytes={offset}-{}", offset.saturating_add(len) - 1)),
    }
}

/// The wanted bytes of an answer, as they arrive. `what` names operation and
/// object in errors. An answer "range not satisfiable" is no bytes: the object
/// ends before the range begins.
pub(crate) fn cut(response: http::Response<ResponseBody>, offset: u64, len: u64, what: String) -> Result<ByteStream> {
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
        return Ok(Box::pin(futures_util::stream::empty()));
    }
    let skip =
        first_byte_to_skip(response.status(), response.headers(), offset).map_err(|e| e.context(what.clone()))?;
    let take = if len == 0 { u64::MAX } else { len };
    Ok(Box::pin(response.into_body().into_stream(skip, take).map_err(move |e| e.context(what.clone()))))
}

/// How many bytes of the answer lie before `offset`.
///
/// `Content-Range` decides, not the status: some stores (`rclone serve s3`) send
/// the range they were asked for under `200`. Without it, `206` is taken at its
/// word, and any other answer is the whole object from a store without ranges.
///
/// # Errors
/// When another range was sent: its bytes under our offsets would be silent damage.
fn first_byte_to_skip(status: StatusCode, headers: &http::HeaderMap, offset: u64) -> Result<u64> {
    let range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start: Option<u64> =
        range.and_then(|range| range.trim().strip_prefix("bytes")?.trim().split('-').next()?.parse().ok());
    match start {
        Some(start) if start == offset => Ok(0),
        Some(start) => {
            Err(Error::new(ErrorKind::Transient, format!("asked for bytes from {offset}, got them from {start}")))
        }
        None if status == StatusCode::PARTIAL_CONTENT => Ok(0),
        None => Ok(offset),
    }
}

#[cfg(test)]
mod tests {
    use litestream_fuzz::Target;

    use super::*;

    /// What a hostile `Content-Range` says is an error or the range asked for.
    #[test]
    fn no_content_range_moves_bytes_to_another_offset() {
        let words = ["bytes", "bytes ", "-", "*", "/", "18446744073709551615", "18446744073709551616", " ", "=", "100"];
        Target::new("content-range", ["bytes 100-199/1000", "bytes */1000"]).words(&words).run(|input| {
            let Ok(value) = http::HeaderValue::from_bytes(input) else { return };
            let headers = http::HeaderMap::from_iter([(header::CONTENT_RANGE, value.clone())]);
            for offset in [0, 100, u64::MAX] {
                for status in [StatusCode::OK, StatusCode::PARTIAL_CONTENT] {
                    let text = value.to_str().unwrap_or_default().to_owned();
                    match first_byte_to_skip(status, &headers, offset) {
                        Ok(0) if status == StatusCode::OK && offset > 0 => {
                            assert!(text.contains(&offset.to_string()), "{text:?} gives bytes from {offset}");
                        }
                        Ok(skip) => assert!(skip == 0 || skip == offset, "{text:?} skips {skip}"),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Transient),
                    }
                }
            }
        });
        assert_eq!(header_value(u64::MAX, 5).unwrap(), format!("bytes={}-{}", u64::MAX, u64::MAX - 1));
    }
}
