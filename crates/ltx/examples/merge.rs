//! Merges neighbouring files into one, as compaction does.
//!
//! `cargo run --release -p ltx --example merge -- OUTPUT INPUT…`, oldest input first.
//! The output appears complete and durable or not at all.

#![allow(clippy::print_stderr, reason = "a command that prints")]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ltx::{Merge, MergeLimits, MergeOptions, Spill};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(output) = words.next().map(PathBuf::from) else {
        eprintln!("usage: merge OUTPUT INPUT...");
        return ExitCode::FAILURE;
    };
    match merge(&output, words.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn merge(output: &Path, inputs: Vec<OsString>) -> Result<(), Box<dyn std::error::Error>> {
    let mut unfinished = output.as_os_str().to_owned();
    unfinished.push(".tmp");
    let dir = output.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let limits = MergeLimits { fan_in: 128, spill: Spill::new(move || Ok(Box::new(unnamed(&dir)?))) };
    let inputs = inputs.into_iter().map(|path| Lazy { path: path.into(), file: None }).collect();
    let options = MergeOptions { limits: Some(&limits), ..MergeOptions::default() };
    let file = File::create(&unfinished)?;
    Merge::with_options(inputs, options)?.write_to(&file)?;
    file.sync_all()?;
    fs::rename(&unfinished, output)?;
    Ok(())
}

/// A temporary file that vanishes with its descriptor.
fn unnamed(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!(".merge-{}.tmp", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Opened when it is first read: there may be more inputs than descriptors.
struct Lazy {
    path: PathBuf,
    file: Option<File>,
}

impl io::Read for Lazy {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path)?),
        };
        file.read(buffer)
    }
}
