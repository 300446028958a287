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
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host_len = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(host_len);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

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
}
