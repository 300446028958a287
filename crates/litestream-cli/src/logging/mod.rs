//! Log lines: where they go, which ones, and in what form.
//!
//! One subscriber for the whole process, made of one layer of our own: the
//! forms are read by people's scripts and none of the ready-made ones matches.
//! [`mod@line`] is the pure part, from facts to text.
//!
//! Spec: docs/configuration.md, "Top of the file" (`logging`).

use std::io::{self, IsTerminal, Write};

use jiff::tz::TimeZone;
use litestream_replica::clock::{Clock, SystemClock};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

use crate::config::model::Logging;
use crate::environment::Environment;

mod line;
pub(crate) mod zone;

use line::{Form, Line, Source, Value};

/// Everything about log lines.
#[derive(Clone, Debug)]
pub(crate) struct LogOptions {
    level: Level,
    /// The level as it was asked for, which the start line shows.
    pub(crate) level_text: String,
    form: Form,
    stderr: bool,
    source: bool,
}

impl LogOptions {
    /// From a configuration's `logging` section and what overrides it:
    /// `-log-level` before `LOG_LEVEL` before the file.
    pub(crate) fn new(logging: &Logging, flag: Option<&str>, environment: &Environment) -> Self {
        let level_text = flag.or(environment.non_empty("LOG_LEVEL")).unwrap_or(&logging.level).to_owned();
        let form = match logging.kind.as_str() {
            "json" => Form::Json,
            "pretty" => Form::Pretty,
            _ => Form::Text,
        };
        Self { level: parse_level(&level_text), level_text, form, stderr: logging.stderr, source: logging.source }
    }

    /// Sends lines to standard error whatever the configuration says, because
    /// standard output carries a result.
    #[must_use]
    pub(crate) fn on_stderr(self) -> Self {
        Self { stderr: true, ..self }
    }

    /// Starts logging. Only the first call of a process has an effect.
    pub(crate) fn start(&self, environment: &Environment) {
        let terminal = if self.stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        let layer = LogLayer {
            options: self.clone(),
            zone: zone::local(environment),
            color: terminal && environment.allows_decoration(),
            clock: SystemClock,
        };
        // Fails only when a subscriber is set already, which is as good.
        let _ = tracing::subscriber::set_global_default(Registry::default().with(layer));
    }
}

/// A library that logs a server's words as they come, which may repeat what it was
/// sent. All of them reach us as errors, too.
const QUOTES_SERVERS: &str = "async_nats";

/// Unknown names mean info, silently, as they always did.
fn parse_level(name: &str) -> Level {
    match name.to_lowercase().as_str() {
        "trace" => Level::TRACE,
        "debug" => Level::DEBUG,
        "warn" | "warning" => Level::WARN,
        "error" => Level::ERROR,
        _ => Level::INFO,
    }
}

/// Turns events into lines on a stream.
struct LogLayer {
    options: LogOptions,
    zone: TimeZone,
    color: bool,
    clock: SystemClock,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Libraries below ours are heard when something is wrong.
        let ours = metadata.target().starts_with("litestream") || metadata.target().starts_with("ltx");
        if metadata.target().starts_with(QUOTES_SERVERS) {
            return false;
        }
        let level = if ours { self.options.level } else { self.options.level.min(Level::WARN) };
        *metadata.level() <= level
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut facts = Facts::default();
        event.record(&mut facts);
        let source = self.options.source.then(|| Source {
            function: metadata.module_path().unwrap_or_default(),
            file: metadata.file().map_or("", |file| file.rsplit('/').next().unwrap_or(file)),
            line: metadata.line().unwrap_or(0),
        });
        let line = Line {
            time: self.clock.now().to_zoned(self.zone.clone()),
            level: *metadata.level(),
            source,
            message: facts.message,
            fields: facts.fields,
        };
        let text = line.format(self.options.form, self.color);
        // A log reader that has gone away must not end replication.
        let _ = if self.options.stderr {
            io::stderr().lock().write_all(text.as_bytes())
        } else {
            let mut stdout = io::stdout().lock();
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        };
    }
}

/// Collects an event's message and fields.
#[derive(Default)]
struct Facts {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Facts {
    fn add(&mut self, field: &Field, value: Value) {
        // A field may be called by a Rust keyword, and the library that makes the
        // records keeps the name `message` for the text of the line.
        let name = match field.name() {
            "message_" => "message",
            name => name.strip_prefix("r#").unwrap_or(name),
        };
        self.fields.push((name, value));
    }
}

impl Visit for Facts {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, Value::from_debug(field.name(), text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, Value::Text(value.to_owned()));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Integer(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Integer(value.into()));
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.add(field, Value::Integer(value));
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, Value::Integer(i128::try_from(value).unwrap_or(i128::MAX)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bool(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(config: &str, flag: Option<&str>, variable: Option<&str>) -> LogOptions {
        let environment = Environment::new(variable.map(|value| ("LOG_LEVEL".into(), value.into())));
        LogOptions::new(&Logging { level: config.to_owned(), ..Logging::default() }, flag, &environment)
    }

    #[test]
    fn the_flag_beats_the_variable_beats_the_file() {
        assert_eq!(options("error", Some("trace"), Some("warn")).level, Level::TRACE);
        assert_eq!(options("error", None, Some("Warning")).level, Level::WARN);
        assert_eq!(options("ERROR", None, Some("")).level, Level::ERROR);
        assert_eq!(options("", None, None).level, Level::INFO);
        assert_eq!(options("loud", None, None).level, Level::INFO);
        assert_eq!(options("error", None, Some("debug")).level_text, "debug");
    }
}
