//! `litestream restore` from a backup of Litestream 0.3.
//!
//! Same flags, same output forms; what has no counterpart there stays empty: 0.3
//! knew no TXIDs. Level 9 stands for its snapshots and level 0 for its WAL
//! segments, so that scripts that read the plan find the shape they know.
//!
//! Spec: store-and-restore §13.4, §15.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use litestream_replica::restore::check_output;
use litestream_replica::v3::{self, V3Inventory, V3Plan};
use litestream_replica::{ErrorKind, Target};
use tokio_util::sync::CancellationToken;

use super::Job;
use super::dry_run::{DryRun, PlannedFile};
use crate::failure::Failure;
use crate::output::progress::ProgressLine;
use crate::output::{self, json, table};

impl Job {
    /// Restores from `inventory`, or prints the plan where that is asked for.
    pub(super) async fn restore_old(
        &self,
        inventory: &V3Inventory,
        cancel: CancellationToken,
    ) -> anyhow::Result<ExitCode> {
        self.note_late_time(inventory);
        let is_dry = self.arguments.is_set("dry-run");
        let plan = match inventory.plan(self.target) {
            Ok(plan) => plan,
            Err(error) if !is_dry && self.is_no_backup(&error) => {
                tracing::info!("no matching backups found");
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => return Err(self.explain_old(&error, inventory)),
        };
        if is_dry {
            output::print(&self.format_old_plan(&plan)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        check_output(&self.output, self.policy())?;
        output::note(&format!("restoring a backup made by v0.3.x, generation {}", plan.snapshot.generation));
        let started = Instant::now();
        let progress = Arc::new(ProgressLine::new(&self.source_text, &self.environment));
        let options = self.options(cancel);
        let result = v3::restore(Arc::clone(&self.client), inventory, options, Arc::clone(&progress) as _).await;
        progress.finish();
        let restored = result.map_err(|error| self.explain_old(&error, inventory))?;
        self.report(&restored, started.elapsed())?;
        Ok(ExitCode::SUCCESS)
    }

    /// Whether an error is one that `-if-replica-exists` overlooks. A wrong time in
    /// a URL's replica never was.
    pub(super) fn is_no_backup(&self, error: &litestream_replica::Error) -> bool {
        let is_wrong_time = self.is_by_url && matches!(self.target, Target::Timestamp(_));
        error.kind() == ErrorKind::Unavailable && !is_wrong_time && self.arguments.is_set("if-replica-exists")
    }

    fn note_late_time(&self, inventory: &V3Inventory) {
        let Target::Timestamp(wanted) = self.target else { return };
        if let Some((_, newest)) = inventory.bounds().filter(|(_, newest)| wanted > *newest) {
            output::note(&format!("-timestamp is after the newest backup of {newest}; restoring that one"));
        }
    }

    pub(super) fn explain_old(&self, error: &litestream_replica::Error, inventory: &V3Inventory) -> anyhow::Error {
        if error.kind() != ErrorKind::Unavailable {
            return Failure::new(error.to_string()).into();
        }
        let is_wrong_time = self.is_by_url && matches!(self.target, Target::Timestamp(_));
        let failure =
            Failure::new(if is_wrong_time { "timestamp does not exist".to_owned() } else { error.to_string() });
        match inventory.bounds() {
            Some((oldest, _)) => failure.hint(format!("The oldest backup, made by v0.3.x, is of {oldest}.")).into(),
            None => failure.into(),
        }
    }

    fn format_old_plan(&self, plan: &V3Plan) -> anyhow::Result<String> {
        let file = |level, object: &litestream_replica::ObjectInfo| PlannedFile {
            level,
            name: object.key.clone(),
            min_txid: String::new(),
            max_txid: String::new(),
            size: object.size,
            timestamp: output::timestamp(object.modified),
        };
        let segments = plan.segments.iter().map(|segment| file(0, &segment.object));
        let plan_shown = DryRun {
            source: self.source_text.clone(),
            target_path: self.output.display().to_string(),
            replica: self.client.kind(),
            min_txid: String::new(),
            max_txid: String::new(),
            files: std::iter::once(file(9, &plan.snapshot.object)).chain(segments).collect(),
        };
        if self.arguments.is_set("json") {
            return Ok(json::format(&plan_shown)?);
        }
        let row = |file: &PlannedFile| {
            let (level, size) = (file.level.to_string(), file.size.to_string());
            vec![level, file.name.clone(), "-".to_owned(), "-".to_owned(), size, file.timestamp.clone()]
        };
        let rows: Vec<_> = plan_shown.files.iter().map(row).collect();
        Ok(format!(
            "Restore plan:\n  source: {}\n  target: {}\n  replica: {}\n  txid range: none (v0.3.x, generation {})\n\n\
             Files to fetch:\n{}",
            plan_shown.source,
            plan_shown.target_path,
            plan_shown.replica,
            plan.snapshot.generation,
            table::format(&["level", "file", "min_txid", "max_txid", "size", "timestamp"], &rows)
        ))
    }
}
