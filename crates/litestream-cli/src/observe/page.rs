//! The text form in which metrics are scraped (Prometheus text format 0.0.4).

use std::fmt::Write;

/// The media type of a page.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page under construction.
#[derive(Default)]
pub(super) struct Page {
    text: String,
}

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// One family's samples.
pub(super) struct Family<'a> {
    name: &'static str,
    text: &'a mut String,
}

impl Page {
    /// Adds a family. One without samples leaves no trace, heading included.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str, fill: impl FnOnce(&mut Family<'_>)) {
        let before = self.text.len();
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        let heading = self.text.len();
        fill(&mut Family { name, text: &mut self.text });
        if self.text.len() == heading {
            self.text.truncate(before);
        }
    }

    /// The whole page.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// A sample with these labels.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.line("", labels, value);
    }

    /// A histogram of calls: `buckets` holds upper bounds and the calls up to each
    /// that no smaller bucket has.
    pub(super) fn histogram(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let mut seen = 0;
        let bounded = buckets.map(|(bound, calls)| (bound.to_string(), calls));
        for (bound, calls) in bounded {
            seen += calls;
            self.line("_bucket", &[labels, &[("le", &bound)]].concat(), seen as f64);
        }
        self.line("_bucket", &[labels, &[("le", "+Inf")]].concat(), count as f64);
        self.line("_sum", labels, sum);
        self.line("_count", labels, count as f64);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        let text = &mut *self.text;
        text.push_str(self.name);
        text.push_str(suffix);
        for (n, (name, value)) in labels.iter().enumerate() {
            text.push(if n == 0 { '{' } else { ',' });
            text.push_str(name);
            text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stand_under_their_heading() {
        let mut page = Page::default();
        page.family("up", Kind::Gauge, "Whether it runs", |family| {
            family.sample(&[], 1.0);
            family.sample(&[("db", "/a\"b\\c\nd"), ("mode", "x")], 0.25);
        });
        page.family("none", Kind::Counter, "Nothing", |_| {});
        assert_eq!(
            page.finish(),
            "# HELP up Whether it runs\n# TYPE up gauge\nup 1\nup{db=\"/a\\\"b\\\\c\\nd\",mode=\"x\"} 0.25\n"
        );
    }

    #[test]
    fn buckets_are_cumulative() {
        let mut page = Page::default();
        page.family("s", Kind::Histogram, "Seconds", |family| {
            family.histogram(&[("op", "PUT")], [(0.01, 2), (5.0, 3)].into_iter(), 6, 70.5);
        });
        let text = page.finish();
        let samples: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            samples,
            [
                "s_bucket{op=\"PUT\",le=\"0.01\"} 2",
                "s_bucket{op=\"PUT\",le=\"5\"} 5",
                "s_bucket{op=\"PUT\",le=\"+Inf\"} 6",
                "s_sum{op=\"PUT\"} 70.5",
                "s_count{op=\"PUT\"} 6",
            ]
        );
    }
}
