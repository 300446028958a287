//! The restorable window in words, for somebody in a hurry.

use std::fmt::Write;

use jiff::Timestamp;
use litestream_replica::RestorePoint;

use super::window::{HoleRow, Point, Window};
use crate::output::table;
use crate::units::format_size;

/// The window and, below it, the listed points.
pub(super) fn window(window: &Window, listed: &[RestorePoint]) -> String {
    let mut text = String::new();
    let plural = if window.point_count == 1 { "" } else { "s" };
    let _ = writeln!(
        text,
        "{} can be restored to {} point{plural} ({} files, {}).\n",
        window.source,
        window.point_count,
        window.files,
        format_size(window.size)
    );
    let end = |name: &str, point: &Point| {
        vec![name.to_owned(), point.txid.clone(), point.timestamp.clone(), ago(window.now, point.created_at)]
    };
    text +=
        &table::format(&["", "txid", "timestamp", ""], &[end("oldest", &window.oldest), end("newest", &window.newest)]);
    text.push('\n');
    let spacing = |seconds: Option<f64>| seconds.map_or("-".to_owned(), span);
    let rows: Vec<_> = window
        .ages
        .iter()
        .map(|age| {
            vec![
                age.age.to_owned(),
                age.points.to_string(),
                spacing(age.typical_spacing_seconds),
                spacing(age.widest_spacing_seconds),
            ]
        })
        .collect();
    text += &table::format(&["age", "points", "usual spacing", "widest spacing"], &rows);
    text.push('\n');
    if window.holes.is_empty() {
        text.push_str("No holes: the newest state can be restored.\n");
    }
    for hole in &window.holes {
        describe_hole(&mut text, hole);
    }
    if !window.exact_times {
        text.push_str("Times are those of upload; -timestamp tells the exact one.\n");
    }
    if !listed.is_empty() {
        let rows: Vec<_> = listed
            .iter()
            .map(Point::from)
            .map(|point| vec![point.txid, point.timestamp, point.level.to_string()])
            .collect();
        text.push('\n');
        text += &table::format(&["txid", "timestamp", "level"], &rows);
    }
    without_blanks(&text)
}

fn describe_hole(text: &mut String, hole: &HoleRow) {
    let HoleRow { first_txid, last_txid, .. } = hole;
    let missing = if first_txid == last_txid {
        format!("transaction {first_txid} is missing")
    } else {
        format!("transactions {first_txid} to {last_txid} are missing")
    };
    match (&hole.covered_by, &hole.after) {
        (Some(snapshot), Some(after)) if after.txid == *last_txid && first_txid == last_txid => {
            let _ = writeln!(text, "Hole without loss: {missing} at level 0, snapshot {snapshot} has it.");
        }
        (Some(snapshot), Some(after)) => {
            let _ = writeln!(text, "Hole: {missing}. Snapshot {snapshot} bridges it:");
            if let Some(before) = &hole.before {
                let _ = writeln!(text, "  restorable up to        {} of {}", before.txid, before.timestamp);
            }
            let _ = writeln!(text, "  restorable again from   {} of {}", after.txid, after.timestamp);
        }
        _ => {
            let _ = writeln!(text, "OPEN HOLE: {missing}, and no snapshot bridges it.");
            match &hole.before {
                Some(before) => {
                    let _ = writeln!(text, "  last restorable point   {} of {}", before.txid, before.timestamp);
                    let _ = writeln!(
                        text,
                        "  Nothing after it can be restored; \"restore\" fails without -txid {}",
                        before.txid
                    );
                    text.push_str("  (or an earlier point). A new snapshot closes the hole for what comes after it.\n");
                }
                None => text.push_str("  Nothing after it can be restored.\n"),
            }
        }
    }
}

/// How long before `now`.
fn ago(now: Timestamp, moment: Timestamp) -> String {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of an age are far below 2^53")]
    let seconds = now.as_millisecond().saturating_sub(moment.as_millisecond()) as f64 / 1000.0;
    if seconds < 0.0 { format!("{} ahead of this clock", span(-seconds)) } else { format!("{} ago", span(seconds)) }
}

/// Two units at most: `45s`, `5m 30s`, `2h`, `3d 4h`.
fn span(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "ages and spacings fit into 64 bits by far")]
    let millis = (seconds * 1000.0).round() as i64;
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = millis / 1000;
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (name, len) in units {
        if rest >= len && parts.len() < 2 {
            parts.push(format!("{}{name}", rest / len));
            rest %= len;
        } else if !parts.is_empty() {
            break;
        }
    }
    parts.join(" ")
}

/// No line ends in blanks.
pub(super) fn without_blanks(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let spans = [0.0, 0.25, 1.0, 59.9, 90.0, 3600.0, 3605.0, 100_000.0, 864_000.0].map(span);
        assert_eq!(spans, ["0ms", "250ms", "1s", "59s", "1m 30s", "1h", "1h", "1d 3h", "10d"]);
    }
}
