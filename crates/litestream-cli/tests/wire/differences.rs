//! Where two programs differ, held against the page that gives the reasons.

use std::collections::BTreeSet;
use std::path::Path;

use litestream_testkit::facts::{Fact, by_kind};

/// One thing that only one of the programs sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    /// Which requests; see [`Fact::kind`].
    kind: String,
    /// `- …` if only the original sends it, `+ …` if only ours does.
    item: String,
}

/// Everything in which requests of one kind differ, and the kinds that only one
/// program sends at all.
pub(crate) fn between(theirs: &[Fact], ours: &[Fact]) -> Vec<Difference> {
    let (theirs, ours) = (by_kind(theirs), by_kind(ours));
    let kinds: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    let mut found = Vec::new();
    for kind in kinds {
        let mut add = |item: String| found.push(Difference { kind: kind.clone(), item });
        match (theirs.get(kind), ours.get(kind)) {
            (Some(theirs), Some(ours)) => {
                theirs.difference(ours).for_each(|item| add(format!("- {item}")));
                ours.difference(theirs).for_each(|item| add(format!("+ {item}")));
            }
            (Some(_), None) => add("- request".to_owned()),
            (None, _) => add("+ request".to_owned()),
        }
    }
    found
}

/// A row of the page: what it allows, for which requests.
struct Row {
    line: String,
    /// Empty for all.
    kinds: Vec<String>,
    items: Vec<String>,
}

impl Row {
    fn allows(&self, difference: &Difference) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&difference.kind)) && self.items.contains(&difference.item)
    }
}

/// Differences without a row, and what rows name without need.
pub(crate) fn undocumented(section: &str, found: &[Difference]) -> Vec<String> {
    let rows = rows(section);
    let mut complaints = Vec::new();
    for difference in found.iter().filter(|difference| !rows.iter().any(|row| row.allows(difference))) {
        let Difference { kind, item } = difference;
        complaints.push(format!("docs/wire.md, {section}: no row has a reason for `{kind}` | `{item}`"));
    }
    for row in &rows {
        let used: Vec<&Difference> = found.iter().filter(|difference| row.allows(difference)).collect();
        for kind in row.kinds.iter().filter(|kind| !used.iter().any(|difference| difference.kind == **kind)) {
            complaints.push(format!("docs/wire.md, {section}: `{kind}` does not differ so: {}", row.line));
        }
        for item in row.items.iter().filter(|item| !used.iter().any(|difference| difference.item == **item)) {
            complaints.push(format!("docs/wire.md, {section}: `{item}` is no difference: {}", row.line));
        }
    }
    complaints
}

/// The rows of the table of differences below the heading `## <section>`.
fn rows(section: &str) -> Vec<Row> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/wire.md");
    let page = std::fs::read_to_string(page).unwrap();
    let heading = format!("## {section}");
    let lines = page.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("## "));
    // Other tables of a section are for people.
    let table = lines.skip_while(|line| *line != "| request | difference | why |").skip(2);
    let rows = table.take_while(|line| line.starts_with("| ")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [kinds, items, why] = cells.try_into().unwrap_or_else(|_| panic!("docs/wire.md: not three cells: {line}"));
        assert!(!why.is_empty() && items.contains('`'), "docs/wire.md: {line}");
        Row { line: line.to_owned(), kinds: spans(kinds), items: spans(items) }
    });
    rows.collect()
}

/// The texts between backquotes.
fn spans(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
