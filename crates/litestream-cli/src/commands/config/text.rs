//! The effective configuration as YAML, with the source of each value in a
//! comment behind it.

use std::fmt::Write;

use crate::config::Loaded;
use crate::config::effective::{Source, Tree, Value};

/// The whole file.
pub(super) fn format(loaded: &Loaded, tree: &Tree) -> String {
    let mut lines = Lines::default();
    lines.write(tree, "");
    let width = lines.0.iter().filter(|line| !line.comment.is_empty()).map(|line| line.width()).max().unwrap_or(0);
    let width = width.min(COMMENT_COLUMN_MAX);
    let mut text = format!("# {}\n", loaded.file.display());
    for line in &lines.0 {
        let padding = match (line.comment.as_str(), line.content.trim().is_empty()) {
            ("", _) | (_, true) => 0,
            _ => width.saturating_sub(line.width()) + 2,
        };
        let _ = writeln!(text, "{}{}{}", line.content, " ".repeat(padding), line.comment);
    }
    text
}

/// Comments further right than this are not aligned.
const COMMENT_COLUMN_MAX: usize = 56;

struct Line {
    content: String,
    comment: String,
}

impl Line {
    fn width(&self) -> usize {
        self.content.chars().count()
    }
}

#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    fn push(&mut self, content: String, comment: String) {
        self.0.push(Line { content, comment });
    }

    /// Writes the inside of `tree`, every line behind `indent`.
    fn write(&mut self, tree: &Tree, indent: &str) {
        match tree {
            Tree::Setting(value, source) => self.push(format!("{indent}{}", scalar(value)), format!("# {source}")),
            Tree::Section(entries) => entries.iter().for_each(|(key, inner)| self.write_entry(key, inner, indent)),
            Tree::List(elements) => {
                for element in elements {
                    let first = self.0.len();
                    self.write(element, &format!("{indent}  "));
                    // The mark of an element stands in the indent of its first line.
                    if let Some(line) = self.0.get_mut(first) {
                        line.content.replace_range(indent.len()..indent.len() + 1, "-");
                    }
                }
            }
            Tree::Facts(facts) => {
                for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
                    self.push(indent.to_owned(), format!("# {name}: {}", fact.replace('\n', " ")));
                }
            }
        }
    }

    fn write_entry(&mut self, key: &str, tree: &Tree, indent: &str) {
        match tree {
            Tree::Setting(value, source) => {
                self.push(format!("{indent}{key}: {}", scalar(value)), format!("# {source}"));
            }
            Tree::List(elements) if elements.is_empty() => self.push(format!("{indent}{key}: []"), String::new()),
            Tree::Facts(facts) if facts.is_empty() => {}
            Tree::Facts(_) => {
                self.push(indent.to_owned(), format!("# {key}"));
                self.write(tree, &format!("{indent}  "));
            }
            Tree::Section(_) | Tree::List(_) => {
                self.push(format!("{indent}{key}:"), String::new());
                self.write(tree, &format!("{indent}  "));
            }
        }
    }
}

impl std::fmt::Display for Source {
    /// `line 5`, `line 5, $HOME`, `default`, `environment AWS_ACCESS_KEY_ID`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File { line, variables } => {
                write!(f, "line {line}")?;
                variables.iter().try_for_each(|name| write!(f, ", ${name}"))
            }
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Duration(duration) => duration.to_string(),
        Value::Mode(mode) => format!("0{mode:o}"),
        Value::Texts(texts) => {
            format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Plain where every reader of YAML takes it for the same text.
fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && !text.ends_with(':')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+:=".contains(c))
        && !matches!(text, "null" | "Null" | "NULL");
    // A JSON string is one of YAML's.
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_without_meaning_to_yaml_stand_plain() {
        for (text, shown) in [
            ("/data/a.db", "/data/a.db"),
            ("s3://b/p", "s3://b/p"),
            ("", "\"\""),
            ("*.db", "\"*.db\""),
            ("null", "\"null\""),
            ("***", "\"***\""),
            ("a: b", "\"a: b\""),
            ("a \"b\"", "\"a \\\"b\\\"\""),
            (":9090", "\":9090\""),
        ] {
            assert_eq!(quoted(text), shown);
        }
    }

    #[test]
    fn lists_and_sections_are_laid_out_as_people_write_them() {
        let setting = |value: i64| Tree::Setting(value.into(), Source::Default);
        let element = |value| Tree::Section(vec![("a", setting(value)), ("b", Tree::Section(vec![("c", setting(3))]))]);
        let tree =
            Tree::Section(vec![("list", Tree::List(vec![element(1), element(2)])), ("none", Tree::List(vec![]))]);
        let mut lines = Lines::default();
        lines.write(&tree, "");
        let lines: Vec<&str> = lines.0.iter().map(|line| line.content.as_str()).collect();
        assert_eq!(
            lines,
            ["list:", "  - a: 1", "    b:", "      c: 3", "  - a: 2", "    b:", "      c: 3", "none: []"]
        );
    }
}
