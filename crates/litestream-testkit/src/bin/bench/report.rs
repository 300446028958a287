//! Collects samples; prints medians, spreads, ratios and targets.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::stage::Stage;

/// What a figure is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
    Mebibytes,
    PerSecond,
    Percent,
    Count,
}

/// What our figure is wanted to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// No larger than this.
    AtMost(f64),
    /// No larger than upstream's divided by this.
    UpstreamDividedBy(f64),
    /// No larger than the figure without any replicator times this.
    NoneTimes(f64),
}

/// Everything measured.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    failures: Vec<String>,
}

struct Row {
    scenario: String,
    metric: &'static str,
    unit: Unit,
    targets: &'static [Target],
    /// By contestant: `ours`, `upstream`, `none`.
    samples: BTreeMap<&'static str, Vec<f64>>,
}

impl Report {
    /// Adds a sample to the row of this scenario and metric, made on first use.
    pub(crate) fn add(&mut self, scenario: &str, metric: Metric, contestant: &'static str, sample: f64) {
        let found = self.rows.iter().position(|row| row.scenario == scenario && row.metric == metric.name);
        let index = found.unwrap_or_else(|| {
            self.rows.push(Row {
                scenario: scenario.to_owned(),
                metric: metric.name,
                unit: metric.unit,
                targets: metric.targets,
                samples: BTreeMap::new(),
            });
            self.rows.len() - 1
        });
        if let Some(row) = self.rows.get_mut(index) {
            row.samples.entry(contestant).or_default().push(sample);
        }
    }

    /// Notes that a result was checked; a wrong one is a failure of the run.
    pub(crate) fn check(&mut self, what: &str, holds: bool) {
        if !holds {
            eprintln!("  WRONG: {what}");
            self.failures.push(what.to_owned());
        }
    }

    /// Whether every check held.
    pub(crate) fn is_sound(&self) -> bool {
        self.failures.is_empty()
    }

    /// Aligned text, one row per metric.
    pub(crate) fn to_table(&self) -> String {
        let head = ["scenario", "metric", "ours", "upstream", "none", "upstream/ours", "target", "met"];
        let mut lines = vec![head.map(str::to_owned)];
        lines.extend(self.rows.iter().map(Row::cells));
        let mut text = String::new();
        for line in &lines {
            for (column, cell) in line.iter().enumerate() {
                let width = lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
                text.push_str(cell);
                let padding = width.unwrap_or(0) + 2 - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', padding));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text.push_str("\nEach figure: median (smallest..largest).\n");
        match self.failures.as_slice() {
            [] => text.push_str("Every restored database and every replica was equal to its source."),
            failures => text.push_str(&format!("WRONG RESULTS:\n  {}", failures.join("\n  "))),
        }
        text
    }

    /// Every sample.
    pub(crate) fn to_json(&self, stage: &Stage) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::to_json).collect();
        json!({ "about": stage.describe(), "sound": self.is_sound(), "failures": self.failures, "rows": rows })
    }
}

/// Name, unit and targets of a figure.
#[derive(Clone, Copy)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) targets: &'static [Target],
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let spread = |contestant| self.samples.get(contestant).map_or(String::new(), |samples| self.spread(samples));
        let ratio = match (self.median("upstream"), self.median("ours")) {
            (Some(upstream), Some(ours)) if ours > 0.0 => format!("{:.2}", upstream / ours),
            _ => String::new(),
        };
        let targets: Vec<String> = self.targets.iter().map(|target| self.describe(*target)).collect();
        let met = match self.met() {
            None => "",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        [
            self.scenario.clone(),
            self.metric.to_owned(),
            spread("ours"),
            spread("upstream"),
            spread("none"),
            ratio,
            targets.join(", "),
            met.to_owned(),
        ]
    }

    fn to_json(&self) -> Value {
        let medians: BTreeMap<_, _> = self.samples.keys().map(|name| (*name, self.median(name))).collect();
        json!({
            "scenario": self.scenario,
            "metric": self.metric,
            "unit": self.unit.name(),
            "median": medians,
            "samples": self.samples,
            "targets": self.targets.iter().map(|target| self.describe(*target)).collect::<Vec<_>>(),
            "met": self.met(),
        })
    }

    fn median(&self, contestant: &str) -> Option<f64> {
        quantile(self.samples.get(contestant)?, 0.5)
    }

    fn spread(&self, samples: &[f64]) -> String {
        let at = |share| quantile(samples, share).map_or(String::new(), |value| self.unit.print(value));
        format!("{} {} ({}..{})", at(0.5), self.unit.name(), at(0.0), at(1.0))
    }

    fn describe(&self, target: Target) -> String {
        match target {
            Target::AtMost(limit) => format!("≤ {} {}", self.unit.print(limit), self.unit.name()),
            Target::UpstreamDividedBy(1.0) => "≤ upstream".to_owned(),
            Target::UpstreamDividedBy(factor) => format!("≤ upstream/{factor}"),
            Target::NoneTimes(factor) => format!("≤ {factor} × none"),
        }
    }

    /// Whether our median keeps all targets; `None` without target or figures.
    fn met(&self) -> Option<bool> {
        let ours = self.median("ours")?;
        let limits = self.targets.iter().map(|target| match target {
            Target::AtMost(limit) => Some(*limit),
            Target::UpstreamDividedBy(factor) => Some(self.median("upstream")? / factor),
            Target::NoneTimes(factor) => Some(self.median("none")? * factor),
        });
        let limits: Vec<f64> = limits.collect::<Option<_>>()?;
        if limits.is_empty() { None } else { Some(limits.iter().all(|limit| ours <= *limit)) }
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::PerSecond => "/s",
            Self::Percent => "%",
            Self::Count => "",
        }
    }

    fn print(self, value: f64) -> String {
        match self {
            Self::PerSecond | Self::Count => format!("{value:.0}"),
            _ if value >= 100.0 => format!("{value:.0}"),
            _ if value >= 1.0 => format!("{value:.2}"),
            _ => format!("{value:.3}"),
        }
    }
}

/// The value below which `share` of the samples lie, interpolated between the two
/// nearest samples.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
pub(crate) fn quantile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = share * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted.get(rank.floor() as usize)?, sorted.get(rank.ceil() as usize)?);
    Some(below + (above - below) * rank.fract())
}

/// Bytes as mebibytes.
#[allow(clippy::cast_precision_loss, reason = "for people to read")]
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_count_lies_between() {
        assert_eq!(quantile(&[5.0, 1.0, 3.0], 0.5), Some(3.0));
        assert_eq!(quantile(&[4.0, 1.0, 2.0, 8.0], 0.5), Some(3.0));
        assert_eq!((quantile(&[4.0, 1.0], 0.0), quantile(&[4.0, 1.0], 1.0)), (Some(1.0), Some(4.0)));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn target_counts_only_with_the_figure_it_compares_with() {
        let targets = &[Target::AtMost(10.0), Target::UpstreamDividedBy(5.0)];
        let metric = Metric { name: "stall", unit: Unit::Milliseconds, targets };
        let mut report = Report::default();
        report.add("write", metric, "ours", 8.0);
        assert_eq!(report.rows[0].met(), None);
        report.add("write", metric, "upstream", 41.0);
        assert_eq!(report.rows[0].met(), Some(true));
        report.add("write", metric, "upstream", 30.0);
        report.add("write", metric, "upstream", 30.0);
        assert_eq!(report.rows[0].met(), Some(false));
    }
}
