//! Memory of a merge of very many pages, made while they are read.
//!
//! `cargo bench -p ltx --bench synthetic_merge -- -pages 20000000`

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given = arguments.iter().position(|word| word == "-pages").and_then(|at| arguments.get(at + 1));
    let pages = given.map_or(20_000_000, |pages| pages.parse().unwrap());
    let start = Instant::now();
    let (summary, peak) = synthetic::merge(pages);
    println!(
        "{} pages, {} MB merged in {:.1} s (most of it to make them), peak memory {:.1} MiB",
        summary.page_count,
        summary.size / 1_000_000,
        start.elapsed().as_secs_f64(),
        peak as f64 / f64::from(1 << 20)
    );
}
