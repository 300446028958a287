//! `litestream restore -dry-run`: the plan, as text or JSON.
//!
//! Both forms are interfaces that scripts read.
//!
//! Spec: store-and-restore §13.4.

use std::sync::Arc;

use litestream_replica::Plan;
use litestream_replica::plan::plan_restore;
use ltx::Txid;
use serde::Serialize;

use super::Job;
use crate::output::{self, json, table};

/// What `-dry-run -json` prints.
#[derive(Serialize)]
pub(super) struct DryRun {
    pub(super) source: String,
    pub(super) target_path: String,
    pub(super) replica: &'static str,
    pub(super) min_txid: String,
    pub(super) max_txid: String,
    pub(super) files: Vec<PlannedFile>,
}

#[derive(Serialize)]
pub(super) struct PlannedFile {
    pub(super) level: u8,
    pub(super) name: String,
    pub(super) min_txid: String,
    pub(super) max_txid: String,
    pub(super) size: u64,
    pub(super) timestamp: String,
}

impl Job {
    /// Prints the plan and touches nothing.
    pub(super) async fn dry_run(&self) -> anyhow::Result<()> {
        let plan = match plan_restore(Arc::clone(&self.client), self.target).await {
            Ok(plan) => plan,
            Err(error) => return Err(self.explain(&error).await),
        };
        let text = if self.arguments.is_set("json") {
            json::format(&self.describe_plan(&plan))?
        } else {
            plan_text(&self.describe_plan(&plan))
        };
        output::print(&text)?;
        Ok(())
    }

    fn describe_plan(&self, plan: &Plan) -> DryRun {
        let files = plan.files.iter().map(|file| PlannedFile {
            level: file.id.level.get(),
            name: file.id.name().to_string(),
            min_txid: file.id.min.to_string(),
            max_txid: file.id.max.to_string(),
            size: file.size,
            timestamp: output::timestamp(file.created_at),
        });
        DryRun {
            source: self.source_text.clone(),
            target_path: self.output.display().to_string(),
            replica: self.client.kind(),
            min_txid: plan.files.first().map_or(Txid::NONE, |file| file.id.min).to_string(),
            max_txid: plan.txid().to_string(),
            files: files.collect(),
        }
    }
}

fn plan_text(plan: &DryRun) -> String {
    let rows: Vec<_> = plan
        .files
        .iter()
        .map(|file| {
            vec![
                file.level.to_string(),
                file.name.clone(),
                file.min_txid.clone(),
                file.max_txid.clone(),
                file.size.to_string(),
                file.timestamp.clone(),
            ]
        })
        .collect();
    format!(
        "Restore plan:\n  source: {}\n  target: {}\n  replica: {}\n  txid range: {} - {}\n\nFiles to fetch:\n{}",
        plan.source,
        plan.target_path,
        plan.replica,
        plan.min_txid,
        plan.max_txid,
        table::format(&["level", "file", "min_txid", "max_txid", "size", "timestamp"], &rows)
    )
}
