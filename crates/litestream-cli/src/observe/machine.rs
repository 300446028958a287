//! What the kernel says about this process: the `process_*` metrics that every
//! dashboard for a Prometheus client expects.
//!
//! Where `/proc` is missing they are left out.

use rustix::process::{Resource, getrlimit};

use super::page::{Kind, Page};

/// Adds everything that can be found out.
pub(super) fn add_to(page: &mut Page) {
    let mut gauge = |name, kind, help, value: Option<f64>| {
        if let Some(value) = value {
            page.family(name, kind, help, |family| family.sample(&[], value));
        }
    };
    let usage = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Usage::parse);
    let usage = usage.as_ref();
    let limit = |resource| Some(getrlimit(resource).current.map_or(UNLIMITED, |limit| limit as f64));
    let descriptors = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64);
    gauge(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Total user and system CPU time spent in seconds.",
        usage.map(|usage| usage.cpu_seconds),
    );
    gauge("process_max_fds", Kind::Gauge, "Maximum number of open file descriptors.", limit(Resource::Nofile));
    gauge("process_open_fds", Kind::Gauge, "Number of open file descriptors.", descriptors);
    gauge(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory size in bytes.",
        usage.map(|usage| usage.resident_bytes),
    );
    gauge(
        "process_start_time_seconds",
        Kind::Gauge,
        "Start time of the process since unix epoch in seconds.",
        usage.and_then(|usage| Some(boot_seconds()? + usage.start_seconds)),
    );
    gauge(
        "process_virtual_memory_bytes",
        Kind::Gauge,
        "Virtual memory size in bytes.",
        usage.map(|usage| usage.virtual_bytes),
    );
    gauge(
        "process_virtual_memory_max_bytes",
        Kind::Gauge,
        "Maximum amount of virtual memory available in bytes.",
        limit(Resource::As),
    );
}

/// Figures of `/proc/self/stat`.
#[derive(Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    /// After the machine's start.
    start_seconds: f64,
}

impl Usage {
    fn parse(stat: &str) -> Option<Self> {
        // The name before it is in parentheses and may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Numbered from 1 in proc(5), and the first of the rest is the third.
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<f64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            start_seconds: field(22)? / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * rustix::param::page_size() as f64,
        })
    }
}

/// When the machine started, since the epoch.
fn boot_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// What the original reports for no limit.
const UNLIMITED: f64 = u64::MAX as f64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_moves_no_field() {
        let numbers: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let stat = format!("1234 (a) b (c) S {}", numbers.join(" "));
        let usage = Usage::parse(&stat).unwrap();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(usage.cpu_seconds, (14.0 + 15.0) / ticks);
        assert_eq!(usage.start_seconds, 22.0 / ticks);
        assert_eq!(usage.virtual_bytes, 23.0);
        assert_eq!(usage.resident_bytes, 24.0 * rustix::param::page_size() as f64);
        assert_eq!(Usage::parse("1 (x"), None);
        assert_eq!(Usage::parse("1 (x) S 1 2"), None);
    }
}
