//! The effective configuration as JSON: the shape of the file, each value as an
//! object with its source.

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::config::Loaded;
use crate::config::effective::{Source, Tree, Value};
use crate::output;

/// What `-json` prints. Fields may be added, never removed.
#[derive(Serialize)]
struct Document<'a> {
    file: String,
    warnings: Vec<Warning<'a>>,
    config: Node<'a>,
}

#[derive(Serialize)]
struct Warning<'a> {
    line: usize,
    message: &'a str,
}

pub(super) fn format(loaded: &Loaded, tree: &Tree) -> Result<String, serde_json::Error> {
    let warnings = loaded.warnings.iter().map(|warning| Warning { line: warning.line, message: &warning.message });
    output::json::format(&Document {
        file: loaded.file.display().to_string(),
        warnings: warnings.collect(),
        config: Node(tree),
    })
}

struct Node<'a>(&'a Tree);

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Tree::Setting(value, source) => Setting::new(value, source).serialize(serializer),
            Tree::Section(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, tree) in entries {
                    map.serialize_entry(key, &Node(tree))?;
                }
                map.end()
            }
            Tree::List(elements) => {
                let mut list = serializer.serialize_seq(Some(elements.len()))?;
                elements.iter().try_for_each(|element| list.serialize_element(&Node(element)))?;
                list.end()
            }
            // Names may repeat (the databases of a directory), so no object.
            Tree::Facts(facts) => {
                let mut list = serializer.serialize_seq(Some(facts.len()))?;
                for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_empty()) {
                    list.serialize_element(&Fact { name, value: fact })?;
                }
                list.end()
            }
        }
    }
}

#[derive(Serialize)]
struct Fact<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct Setting<'a> {
    value: serde_json::Value,
    /// `default`, `file` or `environment`.
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    variables: Vec<&'a str>,
}

impl<'a> Setting<'a> {
    fn new(value: &Value, source: &'a Source) -> Self {
        let value = match value {
            Value::Text(text) => text.as_str().into(),
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Duration(duration) => duration.to_string().into(),
            Value::Mode(mode) => format!("0{mode:o}").into(),
            Value::Texts(texts) => texts.clone().into(),
        };
        let (source, line, variables) = match source {
            Source::Default => ("default", None, Vec::new()),
            Source::Environment(name) => ("environment", None, vec![*name]),
            Source::File { line, variables } => ("file", Some(*line), variables.iter().map(String::as_str).collect()),
        };
        Self { value, source, line, variables }
    }
}
