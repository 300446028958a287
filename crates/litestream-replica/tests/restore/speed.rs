//! How fast and how lean a restore is. Run by hand, in release:
//!
//! ```text
//! cargo test --release -p litestream-replica --test restore speed -- --ignored --nocapture
//! ```

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use litestream_replica::file::{FileClient, FileOptions};
use litestream_replica::{FileId, OutputPolicy};
use ltx::{Checksum, Encoder, Header, PageSize, Pgno, Txid};

use crate::store::Store;
use crate::world::{id, restore_to};

/// A file replica in `dir`: a snapshot of `commit` pages, then deltas of every
/// tenth, kept for the next run.
fn replica(dir: &Path, page_size: PageSize, commit: u32, delta_count: u64) -> PathBuf {
    let path = dir.join(format!("litestream-speed-{page_size}-{commit}-{delta_count}"));
    if !path.exists() {
        write(&path, id(9, 1, 1), page_size, commit, 1);
        for txid in 2..2 + delta_count {
            write(&path, id(0, txid, txid), page_size, commit, 10);
        }
    }
    path
}

fn write(replica: &Path, id: FileId, page_size: PageSize, commit: u32, step: usize) {
    let path = replica.join(format!("ltx/{}/{}", id.level, id.name()));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let header = Header::new(page_size, commit, id.min, id.max, Store::time_of(Txid::new(1)));
    let mut encoder = Encoder::new(BufWriter::new(fs::File::create(path).unwrap()), header).unwrap();
    let mut rng = fastrand::Rng::with_seed(id.max.get());
    let mut page = vec![0; page_size.len()];
    for pgno in (1..=commit).step_by(step).filter(|pgno| *pgno != page_size.lock_page().get()) {
        // Like the pages of a table of short texts: half noise, half order.
        for row in page.chunks_mut(64) {
            rng.fill(&mut row[..32]);
        }
        encoder.encode_page(Pgno::new(pgno).unwrap(), &page).unwrap();
    }
    encoder.finish(Checksum::NONE).unwrap();
}

/// Highest resident memory of this process so far, in MiB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

async fn measure(page_size: u32, commit: u32, delta_count: u64) {
    let dir = std::env::temp_dir();
    let page_size = PageSize::new(page_size).unwrap();
    let replica = replica(&dir, page_size, commit, delta_count);
    let output = tempfile::tempdir_in(&dir).unwrap();
    for _ in 0..3 {
        let client = Arc::new(FileClient::new(FileOptions::new(&replica)).unwrap());
        let start = Instant::now();
        let restored = restore_to(client, output.path(), |o| o.policy = OutputPolicy::Force).await.unwrap();
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{commit} pages of {page_size}, {delta_count} deltas: {seconds:.2} s, {:.0} MB/s, {} MiB peak",
            restored.output_len as f64 / 1e6 / seconds,
            peak_memory()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes gigabytes of disk and means nothing in a debug build"]
async fn speed_of_a_snapshot() {
    measure(4096, 262_144, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes gigabytes of disk and means nothing in a debug build"]
async fn speed_with_deltas() {
    measure(4096, 262_144, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes gigabytes of disk and means nothing in a debug build"]
async fn speed_with_small_pages() {
    measure(512, 510_170, 0).await;
}
