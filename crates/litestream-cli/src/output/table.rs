//! Aligned columns: each as wide as its widest cell and two spaces, the last
//! one not padded, so that no line ends in blanks.
//!
//! Spec: docs/commands.md, "Writing a command line".

use super::terminal_width;

/// Lays out a heading and rows, one line each. On a terminal too narrow for them
/// the middle of long cells gives way; what is read by a program is never cut.
pub(crate) fn format(heading: &[&str], rows: &[Vec<String>]) -> String {
    lay_out(heading, rows, terminal_width())
}

fn lay_out(heading: &[&str], rows: &[Vec<String>], columns: Option<usize>) -> String {
    let heading: Vec<String> = heading.iter().map(ToString::to_string).collect();
    let lines = || std::iter::once(&heading).chain(rows);
    let mut widths: Vec<usize> = (0..heading.len())
        .map(|column| lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    if let Some(columns) = columns {
        shrink(&mut widths, columns);
    }
    let mut text = String::new();
    for line in lines() {
        for (column, cell) in line.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or(0);
            let cell = shortened(cell, width);
            text.push_str(&cell);
            if column + 1 < line.len() {
                text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + GAP));
            }
        }
        text.push('\n');
    }
    text
}

/// Takes from the widest column until the lines fit, or until nothing is left
/// that could be read shorter.
fn shrink(widths: &mut [usize], columns: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > columns {
        match widths.iter_mut().max() {
            Some(widest) if *widest > WIDTH_MIN => *widest -= 1,
            _ => break,
        }
    }
}

/// Begin and end of a text, which of a path tell most.
fn shortened(cell: &str, width: usize) -> String {
    let len = cell.chars().count();
    if len <= width {
        return cell.to_owned();
    }
    let tail = width / 2;
    let head = width.saturating_sub(tail + 1);
    let (start, end): (String, String) = (cell.chars().take(head).collect(), cell.chars().skip(len - tail).collect());
    format!("{start}…{end}")
}

/// Blanks between columns.
const GAP: usize = 2;

/// A TXID stays whole.
const WIDTH_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_their_widest_cell_and_the_last_is_not_padded() {
        let rows = vec![
            vec!["/data/a.db".to_owned(), "file".to_owned()],
            vec!["/data/missing.db".to_owned(), "s3".to_owned()],
        ];
        assert_eq!(
            format(&["path", "replica"], &rows),
            "path              replica\n/data/a.db        file\n/data/missing.db  s3\n"
        );
    }

    #[test]
    fn a_table_without_rows_is_its_heading() {
        assert_eq!(format(&["path", "replica"], &[]), "path  replica\n");
    }

    #[test]
    fn a_narrow_terminal_cuts_long_cells_in_the_middle() {
        let rows = vec![vec!["/srv/data/tenants/acme/app.db".to_owned(), "0000000000000002".to_owned()]];
        let text = lay_out(&["database", "txid"], &rows, Some(40));
        assert_eq!(text, "database                txid\n/srv/data/…acme/app.db  0000000000000002\n");
        assert!(text.lines().all(|line| line.chars().count() <= 40));
        let whole = lay_out(&["database", "txid"], &rows, None);
        assert!(whole.contains("/srv/data/tenants/acme/app.db"), "{whole}");
        assert!(lay_out(&["database", "txid"], &rows, Some(10)).contains("0000000000000002"), "a TXID stays whole");
    }
}
