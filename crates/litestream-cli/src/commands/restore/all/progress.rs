//! How the restore of many databases shows that it advances: on a terminal one
//! bar over all of them, everywhere a line for each that has ended.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use litestream_replica::Progress;

use crate::environment::Environment;
use crate::output::note;

/// The bar over all databases.
pub(super) struct AllProgress {
    total: usize,
    ended: std::cell::Cell<usize>,
    /// `None` where there is nobody to look at a bar.
    bar: Option<ProgressBar>,
}

impl AllProgress {
    pub(super) fn new(total: usize, environment: &Environment) -> Self {
        let bar = (io::stderr().is_terminal() && environment.allows_decoration()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            // The template is a constant; were it wrong, the default is shown.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style);
            }
            bar.set_message(format!("0 of {total} databases"));
            bar
        });
        Self { total, ended: std::cell::Cell::new(0), bar }
    }

    /// For the restore of one database.
    pub(super) fn watcher(&self) -> Arc<dyn Progress> {
        match &self.bar {
            Some(bar) => Arc::new(Watcher { bar: bar.clone(), counted: AtomicU64::new(0) }),
            None => Arc::new(litestream_replica::restore::NoProgress),
        }
    }

    /// One more database has ended, which `line` tells about.
    pub(super) fn ended(&self, line: &str) {
        self.ended.set(self.ended.get() + 1);
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{} of {} databases", self.ended.get(), self.total));
                bar.suspend(|| note(line));
            }
            None => note(line),
        }
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Adds one restore to the bar.
struct Watcher {
    bar: ProgressBar,
    /// Bytes of this restore that the bar counts as done.
    counted: AtomicU64,
}

impl Progress for Watcher {
    fn planned(&self, _: usize, total_bytes: u64) {
        // A second plan starts from nothing.
        let counted = self.counted.swap(0, Ordering::Relaxed);
        self.bar.set_position(self.bar.position().saturating_sub(counted));
        self.bar.inc_length(total_bytes);
    }

    fn advanced(&self, bytes: u64) {
        self.counted.fetch_add(bytes, Ordering::Relaxed);
        self.bar.inc(bytes);
    }
}

const TEMPLATE: &str = "[{bar:30}] {msg}, {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}";
