//! One log line, from facts to text in the three forms of the original.
//!
//! ```text
//! text    time=2026-11-22T09:48:56.089Z level=INFO msg="initialized db" path=/data/a.db
//! json    {"time":"2026-11-22T10:05:42.672587495Z","level":"INFO","msg":"initialized db","path":"/data/a.db"}
//! pretty  10:05:42 INF initialized db path=/data/s.db
//! ```
//!
//! A field `a.b` is a group: dotted in text, nested in JSON. Durations are Go
//! durations in text and nanoseconds in JSON. Control characters never reach
//! the stream unescaped, so one event is always one line.
//!
//! Spec: docs/configuration.md, "Top of the file" (`logging`).

use std::fmt::Write;

use jiff::Zoned;
use serde_json::{Number, Value as Json};
use tracing::Level;

use crate::units::GoDuration;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Json,
    Pretty,
}

/// The facts of one line.
pub(crate) struct Line {
    /// In the zone it is printed in.
    pub(crate) time: Zoned,
    pub(crate) level: Level,
    pub(crate) source: Option<Source>,
    pub(crate) message: String,
    pub(crate) fields: Vec<(&'static str, Value)>,
}

/// Where in the program the line comes from.
pub(crate) struct Source {
    pub(crate) function: &'static str,
    pub(crate) file: &'static str,
    pub(crate) line: u32,
}

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    Bool(bool),
    Duration(GoDuration),
}

/// Fields that hold durations. Their values arrive as the `Debug` text of a
/// [`std::time::Duration`], which is a Go duration with a single unit.
const DURATION_FIELDS: [&str; 10] = [
    "interval",
    "sync-interval",
    "retention",
    "elapsed",
    "remaining",
    "duration",
    "backoff",
    "timeout",
    "delay",
    "lag",
];

impl Value {
    /// A value that was recorded by its text.
    pub(crate) fn from_debug(name: &str, text: String) -> Self {
        if DURATION_FIELDS.contains(&name)
            && let Ok(duration) = text.parse()
        {
            return Self::Duration(duration);
        }
        Self::Text(text)
    }

    fn to_text(&self) -> String {
        match self {
            Self::Text(text) => quoted_if_needed(text),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Duration(value) => value.to_string(),
        }
    }

    fn to_json(&self) -> Json {
        match self {
            Self::Text(text) => Json::String(text.clone()),
            Self::Integer(value) => match i64::try_from(*value) {
                Ok(value) => Json::Number(value.into()),
                Err(_) => u64::try_from(*value)
                    .map_or_else(|_| Json::String(value.to_string()), |value| Json::Number(value.into())),
            },
            Self::Float(value) => Number::from_f64(*value).map_or(Json::Null, Json::Number),
            Self::Bool(value) => Json::Bool(*value),
            Self::Duration(value) => Json::Number(value.as_nanos().into()),
        }
    }
}

impl Line {
    /// The line with its newline.
    pub(crate) fn format(&self, form: Form, color: bool) -> String {
        let mut line = match form {
            Form::Text => self.text(),
            Form::Json => self.json(),
            Form::Pretty => self.pretty(color),
        };
        line.push('\n');
        line
    }

    fn text(&self) -> String {
        let mut line =
            format!("time={}{} level={}", self.time.strftime("%Y-%m-%dT%H:%M:%S%.3f"), self.offset(), self.level);
        if let Some(source) = &self.source {
            let _ = write!(line, " source={}:{}", source.file, source.line);
        }
        let _ = write!(line, " msg={}", quoted_if_needed(&self.message));
        for (name, value) in &self.fields {
            let _ = write!(line, " {}={}", quoted_if_needed(name), value.to_text());
        }
        line
    }

    /// Objects are written by hand where order or a repeated key matters: the
    /// start line has two `level` keys.
    fn json(&self) -> String {
        let time = format!("{}{}", self.time.strftime("%Y-%m-%dT%H:%M:%S%.f"), self.offset());
        let mut members =
            vec![member("time", &Json::String(time)), member("level", &Json::String(self.level.to_string()))];
        if let Some(source) = &self.source {
            let source = format!(
                "{{{},{},{}}}",
                member("function", &Json::String(source.function.to_owned())),
                member("file", &Json::String(source.file.to_owned())),
                member("line", &Json::Number(source.line.into()))
            );
            members.push(format!("\"source\":{source}"));
        }
        members.push(member("msg", &Json::String(self.message.clone())));
        let mut fields = self.fields.iter().peekable();
        while let Some((name, value)) = fields.next() {
            let Some((group, key)) = name.split_once('.') else {
                members.push(member(name, &value.to_json()));
                continue;
            };
            let mut inner = vec![member(key, &value.to_json())];
            while let Some((key, value)) = fields
                .next_if(|(name, _)| name.split_once('.').is_some_and(|(other, _)| other == group))
                .and_then(|(name, value)| Some((name.split_once('.')?.1, value)))
            {
                inner.push(member(key, &value.to_json()));
            }
            members.push(format!("{}:{{{}}}", json_text(group), inner.join(",")));
        }
        format!("{{{}}}", members.join(","))
    }

    fn pretty(&self, color: bool) -> String {
        let (name, paint) = match self.level {
            Level::TRACE => ("TRACE", None),
            Level::DEBUG => ("DBG", None),
            Level::INFO => ("INF", Some("92")),
            Level::WARN => ("WRN", Some("93")),
            Level::ERROR => ("ERR", Some("91")),
        };
        let painted =
            |code: &str, text: &str| if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() };
        let level = paint.map_or_else(|| name.to_owned(), |paint| painted(paint, name));
        let mut line = format!("{} {}", painted("2", &self.time.strftime("%H:%M:%S").to_string()), level);
        if let Some(source) = &self.source {
            let _ = write!(line, " {}", painted("2", &format!("{}:{}", source.file, source.line)));
        }
        let _ = write!(line, " {}", single_line(&self.message));
        for (name, value) in &self.fields {
            let _ = write!(line, " {}{}", painted("2", &format!("{name}=")), value.to_text());
        }
        line
    }

    /// `Z`, or the distance from UTC as `+05:30`.
    fn offset(&self) -> String {
        if self.time.offset().seconds() == 0 { "Z".to_owned() } else { self.time.strftime("%:z").to_string() }
    }
}

fn member(name: &str, value: &Json) -> String {
    match value {
        Json::String(text) => format!("{}:{}", json_text(name), json_text(text)),
        value => format!("{}:{value}", json_text(name)),
    }
}

/// A string as Go's JSON handler writes it: two controls and two line separators
/// are escaped where other writers do otherwise.
fn json_text(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\0'..='\u{1f}' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// As Go's text handler: quoted when empty or when a reader that splits at
/// spaces and `=` would be misled.
fn quoted_if_needed(text: &str) -> String {
    let plain = |c: char| match c {
        ' ' | '=' | '"' | char::REPLACEMENT_CHARACTER => false,
        // Delete counts as plain there.
        c if c.is_ascii() => c >= ' ',
        c => is_printable(c),
    };
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { quote(text) }
}

/// Go's `strconv.Quote`.
fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            ' ' => quoted.push(' '),
            c if is_printable(c) => quoted.push(c),
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..0x80 => write!(quoted, "\\x{code:02x}"),
                    0x80..0x1_0000 => write!(quoted, "\\u{code:04x}"),
                    _ => write!(quoted, "\\U{code:08x}"),
                };
            }
        }
    }
    quoted.push('"');
    quoted
}

/// Go's `unicode.IsPrint` but for characters that Unicode has not assigned: no
/// controls, no blanks besides the plain space, no invisible format characters,
/// nothing for private use.
fn is_printable(c: char) -> bool {
    !c.is_control()
        && !c.is_whitespace()
        && !matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{8e2}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}'
            | '\u{e0020}'..='\u{e007f}' | '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10ffff}')
}

fn single_line(text: &str) -> String {
    if text.chars().any(char::is_control) { quote(text) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::{Offset, TimeZone};

    use super::*;

    fn line(offset_hours: i8, fields: Vec<(&'static str, Value)>) -> Line {
        let time: Timestamp = "2026-11-22T09:48:56.089587495Z".parse().unwrap();
        Line {
            time: time.to_zoned(TimeZone::fixed(Offset::constant(offset_hours))),
            level: Level::INFO,
            source: None,
            message: "initialized db".to_owned(),
            fields,
        }
    }

    fn path() -> Vec<(&'static str, Value)> {
        vec![("path", Value::Text("/data/a.db".to_owned()))]
    }

    #[test]
    fn text_lines_are_as_go_writes_them() {
        assert_eq!(
            line(0, path()).format(Form::Text, true),
            "time=2026-11-22T09:48:56.089Z level=INFO msg=\"initialized db\" path=/data/a.db\n"
        );
        assert_eq!(
            line(-5, Vec::new()).format(Form::Text, false),
            "time=2026-11-22T04:48:56.089-05:00 level=INFO msg=\"initialized db\"\n"
        );
    }

    #[test]
    fn json_lines_are_as_go_writes_them() {
        assert_eq!(
            line(0, path()).format(Form::Json, false),
            "{\"time\":\"2026-11-22T09:48:56.089587495Z\",\"level\":\"INFO\",\"msg\":\"initialized db\",\"path\":\"/data/a.db\"}\n"
        );
    }

    #[test]
    fn pretty_lines_have_colour_only_when_asked() {
        assert_eq!(line(0, path()).format(Form::Pretty, false), "09:48:56 INF initialized db path=/data/a.db\n");
        assert!(line(0, path()).format(Form::Pretty, true).contains("\u{1b}[92mINF\u{1b}[0m"));
    }

    #[test]
    fn the_source_stands_before_the_message() {
        let mut line = line(0, Vec::new());
        line.source = Some(Source { function: "litestream::store", file: "store.rs", line: 9 });
        assert_eq!(
            line.format(Form::Text, false),
            "time=2026-11-22T09:48:56.089Z level=INFO source=store.rs:9 msg=\"initialized db\"\n"
        );
        assert_eq!(
            line.format(Form::Json, false),
            "{\"time\":\"2026-11-22T09:48:56.089587495Z\",\"level\":\"INFO\",\"source\":{\"function\":\"litestream::store\",\"file\":\"store.rs\",\"line\":9},\"msg\":\"initialized db\"}\n"
        );
        assert_eq!(line.format(Form::Pretty, false), "09:48:56 INF store.rs:9 initialized db\n");
    }

    #[test]
    fn groups_are_dotted_in_text_and_nested_in_json() {
        let fields = vec![
            ("txid.min", Value::Text("1".to_owned())),
            ("txid.max", Value::Text("2".to_owned())),
            ("size", Value::Integer(568)),
        ];
        assert!(line(0, fields.clone()).format(Form::Text, false).ends_with(" txid.min=1 txid.max=2 size=568\n"));
        assert!(
            line(0, fields)
                .format(Form::Json, false)
                .ends_with(",\"txid\":{\"min\":\"1\",\"max\":\"2\"},\"size\":568}\n")
        );
    }

    #[test]
    fn durations_are_words_in_text_and_nanoseconds_in_json() {
        let fields = vec![(
            "sync-interval",
            Value::from_debug("sync-interval", format!("{:?}", std::time::Duration::from_secs(90))),
        )];
        assert!(line(0, fields.clone()).format(Form::Text, false).ends_with(" sync-interval=1m30s\n"));
        assert!(line(0, fields).format(Form::Json, false).ends_with(",\"sync-interval\":90000000000}\n"));
        assert_eq!(Value::from_debug("name", "1s".to_owned()), Value::Text("1s".to_owned()), "only known fields");
    }

    #[test]
    fn values_are_quoted_when_a_reader_would_be_misled() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a=b", "\"a=b\""),
            ("say \"x\"", "\"say \\\"x\\\"\""),
            ("a\\b", "a\\b"),
            ("a\nb", "\"a\\nb\""),
            ("\u{1b}[1m", "\"\\x1b[1m\""),
            ("größe", "größe"),
            ("\u{202e}x", "\"\\u202ex\""),
        ] {
            assert_eq!(quoted_if_needed(text), expected);
        }
    }

    #[test]
    fn one_event_is_one_line_in_every_form() {
        let mut line = line(0, vec![("error", Value::Text("first\nsecond".to_owned()))]);
        line.message = "two\nlines".to_owned();
        for form in [Form::Text, Form::Json, Form::Pretty] {
            assert_eq!(line.format(form, false).matches('\n').count(), 1, "{form:?}");
        }
    }

    #[test]
    fn a_repeated_key_is_kept() {
        let text = line(0, vec![("level", Value::Text(String::new()))]).format(Form::Json, false);
        assert_eq!(text.matches("\"level\"").count(), 2);
    }
}
