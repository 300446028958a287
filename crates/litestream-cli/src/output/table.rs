//! Aligned columns: each as wide as its widest cell and two spaces, the last
//! one not padded, so that no line ends in blanks.
//!
//! Spec: docs/commands.md, "Writing a command line".

use super::terminal_width;

/// Lays out a heading and rows, one line each. On a terminal too narrow for them
/// the middle of long cells gives way, prose in the last column goes on below, and
/// what still does not fit stands one cell to a line. What is read by a program is
/// never changed.
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
        if !rows.is_empty() && total(&widths) > columns {
            return one_below_another(&heading, rows);
        }
    }
    let mut text = String::new();
    for line in lines() {
        let mut indent = 0;
        for (column, cell) in line.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or(0);
            if column + 1 < line.len() {
                let cell = shortened(cell, width);
                text.push_str(&cell);
                text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + GAP));
                indent += width + GAP;
            } else {
                let below = format!("\n{}", " ".repeat(indent));
                text.push_str(&wrapped(cell, width).join(&below));
            }
        }
        text.push('\n');
    }
    text
}

/// Each row as a paragraph, each cell behind its heading.
fn one_below_another(heading: &[String], rows: &[Vec<String>]) -> String {
    let width = heading.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let paragraph = |row: &Vec<String>| -> String {
        let cells = heading.iter().zip(row);
        cells.map(|(name, cell)| format!("{name}{}  {cell}\n", " ".repeat(width - name.chars().count()))).collect()
    };
    rows.iter().map(paragraph).collect::<Vec<_>>().join("\n")
}

/// Prose in lines of at most `width`; a text of one word is shortened.
fn wrapped(cell: &str, width: usize) -> Vec<String> {
    if cell.chars().count() <= width || !cell.contains(' ') {
        return vec![shortened(cell, width)];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in cell.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(shortened(word, width)),
        }
    }
    lines
}

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

/// Takes from the widest column until the lines fit, or until nothing is left
/// that could be read shorter.
fn shrink(widths: &mut [usize], columns: usize) {
    while total(widths) > columns {
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

    #[test]
    fn prose_in_the_last_column_goes_on_below() {
        let rows = vec![vec!["list".to_owned(), "2 files in all of the levels".to_owned()]];
        let text = lay_out(&["check", "detail"], &rows, Some(26));
        assert_eq!(text, "check  detail\nlist   2 files in all of\n       the levels\n");
    }

    #[test]
    fn what_does_not_fit_stands_one_cell_to_a_line() {
        let rows = vec![vec!["/srv/data/tenants/acme/app.db".to_owned(), "0000000000000002".to_owned()]; 2];
        let text = lay_out(&["database", "txid"], &rows, Some(30));
        let row = "database  /srv/data/tenants/acme/app.db\ntxid      0000000000000002\n";
        assert_eq!(text, format!("{row}\n{row}"));
        assert_eq!(lay_out(&["database", "txid"], &[], Some(3)), "database  txid\n", "nothing to show");
    }
}
