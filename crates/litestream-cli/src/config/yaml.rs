//! YAML as configuration files use it: the lenient 1.1 dialect of the original.
//!
//! The parser's events become a small tree that keeps two things a typed
//! decoder throws away: the source text of every scalar (so that a password of
//! digits survives unquoted) and its line (so that every complaint names one).
//! [`Section`] then answers for keys by name; the names asked for *are* the
//! known keys, and what is left over is reported.
//!
//! Nothing here knows what the keys mean. Spec: docs/configuration.md, "The file".

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;

use granit_parser::{Event, Options, Parser, ScalarStyle};

use crate::config::removed;
use crate::output::nearest;
use crate::units::{GoDuration, parse_integer, parse_size};

mod place;
/// A text of more than ten letters up to the seventh.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(7) {
        Some((end, _)) if text.chars().nth(10).is_some() => format!("{}...", text.get(..end).unwrap_or_default()),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;

/// A value and the line it starts at, counted from 1.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    line: usize,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    /// `plain` is false for quoted and block scalars, which are always text.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

/// What is wrong with a file, gathered while it is read.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// Values of the wrong type; the file cannot be used.
    pub(crate) errors: Vec<Mismatch>,
    /// What a person should look at; the file can be used.
    pub(crate) warnings: Vec<Warning>,
    /// Every key that was asked for, with its place (`dbs[0].replica.url`).
    #[cfg(test)]
    pub(crate) known_keys: Vec<String>,
}

/// A value that is not of the type its key wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Line in the file, counted from 1.
    pub(crate) line: usize,
    /// `cannot unmarshal …`
    pub(crate) message: String,
    /// Whether the line is announced in front of it, as the original does for
    /// everything but sizes.
    pub(crate) names_line: bool,
}

impl Problems {
    /// Notes something odd about a value that can be used.
    pub(crate) fn warn(&mut self, line: usize, message: impl Into<String>) {
        self.warnings.push(Warning { line, message: message.into() });
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names_line {
            true => write!(f, "line {}: {}", self.line, self.message),
            false => f.write_str(&self.message),
        }
    }
}

/// Something odd at a line, 0 where no line is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    /// Line in the file, counted from 1.
    pub(crate) line: usize,
    /// Lower case, without a full stop.
    pub(crate) message: String,
}

/// A sequence as a key presents it.
pub(crate) enum Presence<'a> {
    /// The key is not there.
    Absent,
    /// The key is there, with these elements (none for `key:` and `key: []`).
    Given(Vec<&'a Node>),
}

/// An alias is copied where it is used; these bound what a small file can become:
/// many nodes, or one long text many times.
const NODES_MAX: usize = 1_000_000;
const TEXT_MAX: usize = 64 << 20;

/// The first document of a stream, or `None` if there is none. `origin` gives
/// the line of the file for each line of `text`.
///
/// # Errors
/// The line, and `yaml: line N: …`, for text that is not YAML.
pub(crate) fn parse(text: &str, origin: impl Fn(usize) -> usize) -> Result<Option<Node>, (usize, String)> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut composer = Composer::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let line = origin(error.marker().line());
            (line, format!("yaml: line {line}: {}", error.info()))
        })?;
        let line = origin(span.start.line());
        if composer.take(event, line).map_err(|message| (line, message))? {
            break;
        }
    }
    Ok(composer.root)
}

/// Builds the tree from events.
#[derive(Default)]
struct Composer {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    node_count: usize,
    text_len: usize,
    root: Option<Node>,
}

struct Open {
    line: usize,
    anchor: usize,
    items: Vec<Node>,
    is_mapping: bool,
}

impl Composer {
    /// True when the first document is complete.
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<bool, String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let forced = tag.is_some_and(|tag| tag.core_suffix() == Some("str"));
                let plain = style == ScalarStyle::Plain && !forced;
                self.add(Node { line, value: Value::Scalar { text: text.into_owned(), plain } }, anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => self.start(line, anchor, false),
            Event::MappingStart(_, anchor, _) => self.start(line, anchor, true),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(false) };
                let value =
                    if open.is_mapping { Value::Mapping(pairs(open.items)) } else { Value::Sequence(open.items) };
                self.add(Node { line: open.line, value }, open.anchor)?;
            }
            Event::Alias(anchor) => {
                let mut node =
                    self.anchors.get(&anchor).cloned().ok_or_else(|| format!("yaml: line {line}: unknown anchor"))?;
                node.line = line;
                self.add(node, 0)?;
            }
            Event::DocumentEnd => return Ok(true),
            _ => {}
        }
        Ok(false)
    }

    fn start(&mut self, line: usize, anchor: usize, is_mapping: bool) {
        self.open.push(Open { line, anchor, items: Vec::new(), is_mapping });
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        let (node_count, text_len) = node.weight();
        self.node_count += node_count;
        // What is inside another node was counted with it and will be again; only
        // documents far beyond any real one notice.
        self.text_len += text_len;
        if self.node_count > NODES_MAX || self.text_len > TEXT_MAX {
            return Err("yaml: document contains excessive aliasing".to_owned());
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            Some(open) => open.items.push(node),
            None => self.root = Some(node),
        }
        Ok(())
    }
}

/// Keys and values in turn, with `<<` merged in. A key given here beats a merged
/// one, and an earlier merged mapping beats a later one.
fn pairs(items: Vec<Node>) -> Vec<(Node, Node)> {
    let mut pairs = Vec::with_capacity(items.len() / 2);
    let mut merged = Vec::new();
    let mut items = items.into_iter();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        let is_merge = matches!(&key.value, Value::Scalar { text, plain: true } if text == "<<");
        match value.value {
            Value::Mapping(entries) if is_merge => merged.extend(entries),
            Value::Sequence(nodes) if is_merge => {
                for node in nodes {
                    if let Value::Mapping(entries) = node.value {
                        merged.extend(entries);
                    }
                }
            }
            value_kind => pairs.push((key, Node { line: value.line, value: value_kind })),
        }
    }
    let mut known: HashSet<Option<String>> =
        if merged.is_empty() { HashSet::new() } else { pairs.iter().map(|(own, _)| own.key_text()).collect() };
    for (key, value) in merged {
        if known.insert(key.key_text()) {
            pairs.push((key, value));
        }
    }
    pairs
}

impl Node {
    /// Line of the value, counted from 1.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// True for `null`, `~` and nothing at all.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// A scalar's source text; empty for anything else.
    pub(crate) fn as_written(&self) -> &str {
        self.scalar_text().unwrap_or_default()
    }

    fn key_text(&self) -> Option<String> {
        self.scalar_text().map(str::to_owned)
    }

    fn scalar_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// How many nodes it is, and how many bytes of text.
    fn weight(&self) -> (usize, usize) {
        let add = |(nodes, text): (usize, usize), node: &Self| {
            let (more_nodes, more_text) = node.weight();
            (nodes + more_nodes, text + more_text)
        };
        match &self.value {
            Value::Scalar { text, .. } => (1, text.len()),
            Value::Sequence(nodes) => nodes.iter().fold((1, 0), add),
            Value::Mapping(pairs) => pairs.iter().flat_map(|(key, value)| [key, value]).fold((1, 0), add),
        }
    }

    /// The type as error messages name it, and of a scalar its beginning, as the
    /// original does: the rest may be a URL with a password in it.
    fn describe(&self) -> String {
        match &self.value {
            Value::Sequence(_) => "!!seq".to_owned(),
            Value::Mapping(_) => "!!map".to_owned(),
            Value::Scalar { text, plain } => {
                let kind = if !plain {
                    "str"
                } else if boolean(text).is_some() {
                    "bool"
                } else if parse_integer(text).is_ok() {
                    "int"
                } else if float(text).is_some() {
                    "float"
                } else {
                    "str"
                };
                format!("!!{kind} `{}`", beginning(text))
            }
        }
    }

    fn mismatch(&self, wanted: &str, problems: &mut Problems) {
        let message = format!("cannot unmarshal {} into {wanted}{}", self.describe(), self.quotes_to_remove(wanted));
        problems.errors.push(Mismatch { line: self.line, message, names_line: true });
    }

    /// Advice for a value that would do without its quotes, as one from a
    /// variable often has them.
    fn quotes_to_remove(&self, wanted: &str) -> &'static str {
        match (&self.value, wanted) {
            (Value::Scalar { text, plain: false }, "bool") if boolean(text).is_some() => "; remove the quotes",
            (Value::Scalar { text, plain: false }, "int" | "uint32") if integer(text).is_some() => {
                "; remove the quotes"
            }
            _ => "",
        }
    }

    /// A mapping to ask for keys. Null gives an empty one.
    pub(crate) fn section(&self, problems: &mut Problems) -> Option<Section<'_>> {
        match &self.value {
            Value::Mapping(pairs) => Some(Section { pairs, asked: RefCell::default() }),
            _ if self.is_null() => Some(Section { pairs: &[], asked: RefCell::default() }),
            _ => {
                self.mismatch("mapping", problems);
                None
            }
        }
    }

    /// Any scalar as its source text.
    pub(crate) fn text(&self, problems: &mut Problems) -> Option<String> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text.clone()),
            _ => {
                self.mismatch("string", problems);
                None
            }
        }
    }

    fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        let value = match &self.value {
            Value::Scalar { text, plain: true } => boolean(text),
            _ => None,
        };
        if value.is_none() {
            self.mismatch("bool", problems);
        }
        value
    }

    fn integer(&self, problems: &mut Problems) -> Option<i64> {
        let value = match &self.value {
            Value::Scalar { text, plain: true } => integer(text),
            _ => None,
        };
        if value.is_none() {
            self.mismatch("int", problems);
        }
        value
    }

    fn unsigned(&self, problems: &mut Problems) -> Option<u32> {
        let value = match &self.value {
            Value::Scalar { text, plain: true } => integer(text).and_then(|value| u32::try_from(value).ok()),
            _ => None,
        };
        if value.is_none() {
            self.mismatch("uint32", problems);
        }
        value
    }

    fn size(&self, key: &str, problems: &mut Problems) -> Option<u64> {
        let text = self.text(problems)?;
        let refused = |message| Mismatch { line: self.line, message: format!("{message} ({key})"), names_line: false };
        parse_size(&text).map_err(|message| problems.errors.push(refused(message))).ok()
    }

    fn duration(&self, key: &str, problems: &mut Problems) -> Option<GoDuration> {
        let Value::Scalar { text, plain } = &self.value else {
            self.mismatch("duration", problems);
            return None;
        };
        if let Ok(duration) = text.parse::<GoDuration>() {
            return Some(duration);
        }
        let Some(nanos) = integer(text).filter(|_| *plain) else {
            self.mismatch("duration", problems);
            return None;
        };
        if nanos != 0 {
            problems.warnings.push(Warning {
                line: self.line,
                message: format!(
                    "{key}: the number {text} without a unit means nanoseconds; write {text}s for seconds"
                ),
            });
        }
        Some(GoDuration::from_nanos(nanos))
    }
}

/// A mapping that remembers which keys it was asked for.
pub(crate) struct Section<'a> {
    pairs: &'a [(Node, Node)],
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The last value of a key, nulls included.
    pub(crate) fn node(&self, key: &'static str) -> Option<&'a Node> {
        self.asked.borrow_mut().push(key);
        self.pairs.iter().rev().find(|(name, _)| name.scalar_text() == Some(key)).map(|(_, node)| node)
    }

    fn value(&self, key: &'static str) -> Option<&'a Node> {
        self.node(key).filter(|node| !node.is_null())
    }

    /// Any scalar as its source text.
    pub(crate) fn text(&self, key: &'static str, problems: &mut Problems) -> Option<String> {
        self.value(key)?.text(problems)
    }

    /// An unquoted yes or no in any of their spellings.
    pub(crate) fn boolean(&self, key: &'static str, problems: &mut Problems) -> Option<bool> {
        self.value(key)?.boolean(problems)
    }

    /// A number, in any base; decimal fractions are cut off.
    pub(crate) fn integer(&self, key: &'static str, problems: &mut Problems) -> Option<i64> {
        self.value(key)?.integer(problems)
    }

    /// A number of bytes, possibly negative, or a size with a unit.
    pub(crate) fn bytes(&self, key: &'static str, problems: &mut Problems) -> Option<i64> {
        let node = self.value(key)?;
        let with_unit = match &node.value {
            Value::Scalar { text, plain: true } => parse_size(text).ok(),
            _ => None,
        };
        match with_unit.and_then(|bytes| i64::try_from(bytes).ok()) {
            Some(bytes) if integer(node.scalar_text().unwrap_or_default()).is_none() => Some(bytes),
            _ => node.integer(problems),
        }
    }

    /// A number that is not negative and fits 32 bits.
    pub(crate) fn unsigned(&self, key: &'static str, problems: &mut Problems) -> Option<u32> {
        self.value(key)?.unsigned(problems)
    }

    /// A byte count with an optional unit.
    pub(crate) fn size(&self, key: &'static str, problems: &mut Problems) -> Option<u64> {
        self.value(key)?.size(key, problems)
    }

    /// A Go duration, or a bare number of nanoseconds.
    pub(crate) fn duration(&self, key: &'static str, problems: &mut Problems) -> Option<GoDuration> {
        self.value(key)?.duration(key, problems)
    }

    /// A list of scalars.
    pub(crate) fn texts(&self, key: &'static str, problems: &mut Problems) -> Option<Vec<String>> {
        match self.list(key, problems) {
            Presence::Absent => None,
            Presence::Given(nodes) => Some(nodes.into_iter().filter_map(|node| node.text(problems)).collect()),
        }
    }

    /// A list of anything.
    pub(crate) fn list(&self, key: &'static str, problems: &mut Problems) -> Presence<'a> {
        let Some(node) = self.node(key) else { return Presence::Absent };
        match &node.value {
            Value::Sequence(nodes) => Presence::Given(nodes.iter().collect()),
            _ if node.is_null() => Presence::Given(Vec::new()),
            _ => {
                node.mismatch("list", problems);
                Presence::Absent
            }
        }
    }

    /// A mapping under a key; `None` when absent or null.
    pub(crate) fn section(&self, key: &'static str, problems: &mut Problems) -> Option<Section<'a>> {
        self.value(key)?.section(problems)
    }

    /// Reports keys nobody asked for. `place` is where the section stands
    /// (`dbs[0].replica`), empty at the top.
    pub(crate) fn report_unknown_keys(&self, place: &str, problems: &mut Problems) {
        let asked = self.asked.borrow();
        #[cfg(test)]
        problems.known_keys.extend(asked.iter().map(|key| match place {
            "" => (*key).to_owned(),
            _ => format!("{place}.{key}"),
        }));
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (key, _) in self.pairs {
            let Some(name) = key.scalar_text() else { continue };
            match seen.entry(name) {
                Entry::Occupied(mut first) => {
                    problems.warnings.push(Warning {
                        line: key.line,
                        message: format!(
                            "key {name:?} is repeated, first at line {}; the last one counts",
                            first.get()
                        ),
                    });
                    first.insert(key.line);
                    continue;
                }
                Entry::Vacant(first) => first.insert(key.line),
            };
            if asked.contains(&name) {
                continue;
            }
            let within = if place.is_empty() { String::new() } else { format!(" in {place}") };
            let advice = match removed::instead_of(place, name) {
                Some(instead) => format!("; {instead}"),
                None => nearest(name, asked.iter().copied())
                    .map_or_else(String::new, |near| format!(", did you mean {near:?}?")),
            };
            problems
                .warnings
                .push(Warning { line: key.line, message: format!("unknown key {name:?}{within} is ignored{advice}") });
        }
    }
}

/// YAML 1.1 booleans.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// An integer, or a float with its fraction cut off.
fn integer(text: &str) -> Option<i64> {
    let text = text.replace('_', "");
    if let Ok(value) = parse_integer(&text) {
        return Some(value);
    }
    let value = float(&text)?;
    #[allow(clippy::cast_possible_truncation, reason = "range checked")]
    (value.abs() < 9.2e18).then_some(value as i64)
}

/// A decimal fraction or exponent; not `inf`, `nan` or hex.
fn float(text: &str) -> Option<f64> {
    let looks_decimal = text.contains(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'));
    looks_decimal.then(|| text.parse().ok()).flatten()
}
