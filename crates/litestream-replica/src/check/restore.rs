//! What a restore needs: a plan, and files that can be read. Writes nothing.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;

use super::Findings;
use crate::{ErrorKind, FileInfo, Inventory, ReplicaClient, Result, Target};

pub(super) async fn run(client: &Arc<dyn ReplicaClient>, inventory: &Inventory, findings: &mut Findings) {
    let plan = match inventory.plan(Target::Latest) {
        Ok(plan) => plan,
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            findings.failed("restore", format!("nothing to restore from: {error}"));
            return;
        }
        Err(error) => {
            findings.failed("restore", error.to_string());
            return;
        }
    };
    findings
        .ok("restore", format!("{} files, {} bytes give txid {}", plan.files.len(), plan.total_bytes(), plan.txid()));
    let Some(file) = plan.files.last() else { return };
    let header = match read(client, file, 0, ltx::Header::LEN as u64).await {
        Ok(header) => header,
        Err(error) => {
            findings.failed("read", error.to_string());
            return;
        }
    };
    match ltx::Header::parse(&header) {
        Ok(_) => findings.ok("read", format!("{} can be read", file.id)),
        Err(error) => findings.failed("read", format!("{}: {error}", file.id)),
    }
    let (from, len) = (4, 16);
    match (read(client, file, from, len).await, header.get(4..20)) {
        (Ok(part), Some(wanted)) if part == wanted => findings.ok("range", "parts of files can be read"),
        (Ok(part), _) => findings.failed("range", format!("asked for {len} bytes and got {} others", part.len())),
        (Err(error), _) => findings.failed("range", error.to_string()),
    }
}

async fn read(client: &Arc<dyn ReplicaClient>, file: &FileInfo, offset: u64, len: u64) -> Result<Vec<u8>> {
    let chunks: Vec<Bytes> = client.open(file.id, offset, len).await?.try_collect().await?;
    Ok(chunks.concat())
}
