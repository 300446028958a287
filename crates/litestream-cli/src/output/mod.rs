//! What commands print: aligned tables, JSON, and "did you mean".
//!
//! Results go to standard output through [`print()`], which survives a reader that
//! has gone away; everything else a person should know goes to standard error.

use std::io::{self, Write};

use jiff::Timestamp;

pub(crate) mod json;
pub(crate) mod progress;
pub(crate) mod table;

/// Writes a result to standard output.
///
/// A closed pipe (`litestream ltx … | head -1`) is not an error: the reader has
/// seen what it wanted.
///
/// # Errors
/// Any other failure to write, a full disk for instance.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Columns of the terminal that results go to; `None` where no person reads them.
pub(crate) fn terminal_width() -> Option<usize> {
    let terminal = console::Term::stdout();
    let (_, columns) = terminal.is_term().then(|| terminal.size_checked()).flatten()?;
    (columns > 0).then_some(columns.into())
}

/// Writes a note for a person to standard error.
pub(crate) fn note(text: &str) {
    // There is nowhere left to report a failure to.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A moment to the second, in UTC.
pub(crate) fn timestamp(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A moment to the millisecond, in UTC: what backups are told apart by.
pub(crate) fn timestamp_millis(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// A URL may carry a password; what is printed must not.
pub(crate) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Somebody forgot the scheme, perhaps.
        return url.rsplit_once('@').filter(|(user, _)| user.contains(':')).map_or(url, |(_, host)| host).to_owned();
    };
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    let host_len = place.find(['/', '#']).unwrap_or(place.len());
    let (host, path) = place.split_at(host_len);
    let place = match host.rsplit_once('@') {
        Some((_, host)) => format!("{host}{path}"),
        // A password with a slash that is not escaped looks like a port and a path.
        None if has_odd_port(host) => {
            path.rsplit_once('@').map_or_else(|| place.to_owned(), |(_, rest)| rest.to_owned())
        }
        None => place.to_owned(),
    };
    let query = query.map(|query| format!("?{}", query.split('&').map(masked_parameter).collect::<Vec<_>>().join("&")));
    format!("{scheme}://{place}{}", query.unwrap_or_default())
}

/// The server that a URL names, and nothing else: of some URLs whoever knows the
/// rest may use it.
pub(crate) fn server_of(url: &str) -> String {
    let plain = without_credentials(url);
    let host_at = plain.find("://").map_or(0, |at| at + 3);
    match plain.get(host_at..).and_then(|rest| rest.find(['/', '?', '#'])) {
        Some(len) => format!("{}/…", plain.get(..host_at + len).unwrap_or_default()),
        None => plain,
    }
}

fn has_odd_port(host: &str) -> bool {
    !host.ends_with(']') && host.rsplit_once(':').is_some_and(|(_, port)| !port.bytes().all(|b| b.is_ascii_digit()))
}

/// `name=value` of a query, the value only where it opens nothing.
fn masked_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, _)) if is_secret_name(name) => format!("{name}={MASK}"),
        _ => parameter.to_owned(),
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase().replace('-', "");
    let opens = ["key", "secret", "token", "password", "signature"].iter().any(|part| name.contains(part));
    (opens && name != "ssekmskeyid") || name == "sig"
}

/// What stands for a secret.
pub(crate) const MASK: &str = "***";

/// The candidate that was perhaps meant by `word`: at most two edits away, and
/// fewer edits than half its letters, so that short words are not paired at
/// random.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (edits(&lower, candidate), candidate))
        .filter(|(count, candidate)| *count <= 2 && count * 2 < candidate.chars().count().max(2))
        .min_by_key(|(count, _)| *count)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn edits(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in to.iter().enumerate() {
            let at = |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&above, column) + usize::from(a != b))
                .min(at(&above, column + 1) + 1)
                .min(at(&current, column) + 1);
            let swapped = row > 0 && column > 0 && from.get(row - 1) == Some(b) && to.get(column - 1) == Some(a);
            if swapped {
                best = best.min(at(&before, column - 1) + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut above, current);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        assert_eq!(without_credentials("sftp://me:secret@host/x?y"), "sftp://host/x?y");
        assert_eq!(without_credentials("s3://bucket/a@b"), "s3://bucket/a@b");
        assert_eq!(without_credentials("/a.db"), "/a.db");
        assert_eq!(without_credentials("me:secret@host/x"), "host/x");
        assert_eq!(without_credentials("sftp://me:sec/ret@host/x"), "sftp://host/x");
        assert_eq!(without_credentials("s3://arn:aws:s3:eu:1:accesspoint/a"), "s3://arn:aws:s3:eu:1:accesspoint/a");
        assert_eq!(
            without_credentials("s3://b/p?sign-payload=t&sse-kms-key-id=i&sse-customer-key=k"),
            "s3://b/p?sign-payload=t&sse-kms-key-id=i&sse-customer-key=***"
        );
    }

    #[test]
    fn edits_count_letters_and_swaps() {
        assert_eq!(edits("txid", "txid"), 0);
        assert_eq!(edits("tixd", "txid"), 1);
        assert_eq!(edits("levl", "level"), 1);
        assert_eq!(edits("", "abc"), 3);
    }

    #[test]
    fn only_near_words_are_suggested() {
        let flags = ["o", "txid", "force", "config"];
        assert_eq!(nearest("confg", flags), Some("config"));
        assert_eq!(nearest("FORCE", flags), Some("force"));
        assert_eq!(nearest("x", flags), None, "one letter is near to everything");
        assert_eq!(nearest("elephant", flags), None);
    }

    #[test]
    fn of_a_heartbeat_only_the_server_is_shown() {
        for (url, wanted) in [
            ("https://hc.example/planted-uuid", "https://hc.example/…"),
            ("https://me:planted@hc.example:8443/planted?planted", "https://hc.example:8443/…"),
            ("https://hc.example?planted", "https://hc.example/…"),
            ("https://hc.example", "https://hc.example"),
        ] {
            assert_eq!(server_of(url), wanted);
        }
    }
}
