//! How a restore shows that it advances: one line at the start, and on a
//! terminal a bar with rate and remaining time.

use std::io::{self, IsTerminal};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use litestream_replica::restore::Progress;

use crate::environment::Environment;
use crate::output::{note, without_credentials};
use crate::units::format_size;

/// Tells about one restore on standard error.
pub(crate) struct ProgressLine {
    source: String,
    /// `None` where there is nobody to look at a bar.
    bar: Option<ProgressBar>,
    rounds: Mutex<u32>,
}

impl ProgressLine {
    /// For a restore from `source`. A bar appears only on a terminal that is
    /// neither dumb nor asked to be plain.
    pub(crate) fn new(source: &str, environment: &Environment) -> Self {
        let bar = (io::stderr().is_terminal() && environment.allows_decoration()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            // The template is a constant; were it wrong, the default is shown.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style);
            }
            bar
        });
        Self { source: source.to_owned(), bar, rounds: Mutex::new(0) }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }
}

impl Progress for ProgressLine {
    fn planned(&self, file_count: usize, total_bytes: u64) {
        let first = self.rounds.lock().is_ok_and(|mut rounds| {
            *rounds += 1;
            *rounds == 1
        });
        if let Some(bar) = &self.bar {
            bar.set_length(total_bytes);
            bar.set_position(0);
        }
        let plural = if file_count == 1 { "" } else { "s" };
        let size = format_size(total_bytes);
        if first {
            self.note(&format!(
                "restoring from {}: {file_count} file{plural}, {size}",
                without_credentials(&self.source)
            ));
        } else {
            self.note(&format!("starting over without a damaged file: {file_count} file{plural}, {size}"));
        }
    }

    fn advanced(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn finishing(&self) {
        if let Some(bar) = &self.bar {
            bar.set_message("writing to disk");
        }
    }
}

const TEMPLATE: &str = "[{bar:30}] {decimal_bytes} of {decimal_total_bytes}  {decimal_bytes_per_sec}  ETA {eta}  {msg}";
