//! Aligned columns: each as wide as its widest cell and two spaces, the last
//! one not padded, so that no line ends in blanks.
//!
//! Spec: docs/commands.md, "Writing a command line".

/// Lays out a heading and rows, one line each.
pub(crate) fn format(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(ToString::to_string).collect();
    let lines = || std::iter::once(&heading).chain(rows);
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines() {
        for (column, cell) in line.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < line.len() {
                let width = widths.get(column).copied().unwrap_or(0);
                text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
            }
        }
        text.push('\n');
    }
    text
}

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
}
