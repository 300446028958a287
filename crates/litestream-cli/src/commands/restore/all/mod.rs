//! `restore -all`: every database of the configuration, of a directory, or below
//! a URL, several at a time, with one report.
//!
//! One database that cannot be restored keeps no other from being restored; the
//! exit code and the report tell. The databases share `-parallelism`: more
//! databases at once never means more requests at once.
//!
//! Spec: docs/commands.md, "Many databases".

mod progress;
mod report;
mod select;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use litestream_replica::v3;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::progress::AllProgress;
use self::report::{Report, Row};
use self::select::{Selected, Selection};
use super::{CANCEL_GRACE, Job, Outcome, options};
use crate::commands::{Invocation, runtime};
use crate::config::Surroundings;
use crate::failure::{Failure, fail};
use crate::signals::Signals;

/// Runs the command once `-all` is given.
pub(super) fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let Invocation { arguments, environment, .. } = invocation;
    for flag in ["txid", "f"] {
        if arguments.is_given(flag) {
            return fail(format!("cannot use -all with -{flag}"));
        }
    }
    let check = options::integrity_check(&arguments)?;
    let target = options::target(&arguments, &environment)?;
    let attributes = super::owner::attributes(&arguments)?;
    let surroundings = Surroundings::of_process(&environment)?;
    let selection = Selection::from_arguments(&arguments, &surroundings)?;
    selection.start_logging(&environment);
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let selected = tokio::select! {
            selected = selection.databases(&surroundings) => selected?,
            signal = signals.next() => {
                return Err(Failure::new(format!("restore stopped by signal: {signal}")).code(signal.exit_code()).into());
            }
        };
        let is_json = arguments.is_set("json");
        let parallelism = match options::parallelism(&arguments) {
            0 => PARALLELISM,
            given => given,
        };
        let all = All {
            at_once: parallelism.clamp(1, DATABASES_AT_ONCE),
            report: Report::new(is_json, arguments.is_set("dry-run")),
        };
        let jobs = selected.into_iter().map(|database| {
            let Selected { name, source_text, output, client } = database;
            let job = client.map(|client| Job {
                arguments: arguments.clone(),
                environment: environment.clone(),
                is_by_url: selection.is_by_url(),
                source_text,
                client,
                output,
                target,
                check,
                attributes,
                parallelism: (parallelism / all.at_once).max(1),
            });
            (name, job)
        });
        let jobs = jobs.collect();
        all.run(jobs, signals, &environment).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

struct All {
    at_once: usize,
    report: Report,
}

impl All {
    /// Restores everything, and prints the report whatever happens.
    async fn run(
        mut self,
        jobs: Vec<(String, anyhow::Result<Job>)>,
        mut signals: Signals,
        environment: &crate::environment::Environment,
    ) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let cancel = CancellationToken::new();
        let progress = AllProgress::new(jobs.len(), environment);
        let mut waiting = Vec::new();
        for (name, job) in jobs {
            let index = self.report.expect(name);
            match job {
                Ok(job) => waiting.push((index, job)),
                Err(error) => self.conclude(index, &progress, Row::failed(&error)),
            }
        }
        let mut waiting = waiting.into_iter();
        let mut running = JoinSet::new();
        let mut stopped = None;
        loop {
            while running.len() < self.at_once {
                let Some((index, job)) = waiting.next() else { break };
                let (cancel, watcher) = (cancel.clone(), progress.watcher());
                running.spawn(async move {
                    let started = Instant::now();
                    let result = job.perform(cancel, watcher).await;
                    (index, Row::of(&job, result, started.elapsed()))
                });
            }
            tokio::select! {
                ended = running.join_next() => match ended {
                    None => break,
                    Some(Ok((index, row))) => self.conclude(index, &progress, row),
                    // The task's own panic has been printed; its row says that it is missing.
                    Some(Err(_)) => {}
                },
                signal = signals.next() => {
                    stopped = Some(signal);
                    break;
                }
            }
        }
        if stopped.is_some() {
            // The library removes its temporary files on the way out.
            cancel.cancel();
            let grace = tokio::time::Instant::now() + CANCEL_GRACE;
            while let Ok(Some(ended)) = tokio::time::timeout_at(grace, running.join_next()).await {
                if let Ok((index, row)) = ended {
                    self.conclude(index, &progress, row);
                }
            }
        }
        progress.finish();
        let failed_count = self.report.print(started.elapsed())?;
        match (stopped, failed_count) {
            (Some(signal), _) => {
                Err(Failure::new(format!("restore stopped by signal: {signal}")).code(signal.exit_code()).into())
            }
            (None, 0) => Ok(ExitCode::SUCCESS),
            (None, _) => Err(self.report.failure().into()),
        }
    }

    fn conclude(&mut self, index: usize, progress: &AllProgress, row: Row) {
        progress.ended(&self.report.describe(index, &row));
        self.report.conclude(index, row);
    }
}

impl Job {
    /// Restores one of many: everything `restore` does, without printing.
    pub(super) async fn perform(
        &self,
        cancel: CancellationToken,
        progress: Arc<dyn litestream_replica::Progress>,
    ) -> anyhow::Result<Outcome> {
        if self.arguments.is_set("if-db-not-exists") && self.output.exists() {
            return Ok(Outcome::Skipped("database already exists"));
        }
        let finding = v3::find(&*self.client, self.target);
        let old = tokio::select! {
            biased;
            () = cancel.cancelled() => return fail("restore cancelled"),
            old = finding => old?,
        };
        let result = match (&old, self.arguments.is_set("dry-run")) {
            (Some(inventory), true) => inventory.plan(self.target).map(|plan| Outcome::planned_old(&plan)),
            (None, true) => {
                let plan = litestream_replica::plan::plan_restore(Arc::clone(&self.client), self.target).await;
                plan.map(|plan| Outcome::planned(&plan))
            }
            (Some(inventory), false) => {
                let options = self.options(cancel);
                let restored = v3::restore(Arc::clone(&self.client), inventory, options, progress).await;
                restored.map(Outcome::Restored)
            }
            (None, false) => {
                let restored = litestream_replica::restore(Arc::clone(&self.client), self.options(cancel), progress);
                restored.await.map(Outcome::Restored)
            }
        };
        match result {
            Ok(outcome) => Ok(outcome),
            Err(error) if self.is_no_backup(&error) => Ok(Outcome::Skipped("no matching backups found")),
            Err(error) => match &old {
                Some(inventory) => Err(self.explain_old(&error, inventory)),
                None => Err(self.explain(&error).await),
            },
        }
    }
}

/// Databases restored at the same time, each of which holds some memory.
const DATABASES_AT_ONCE: usize = 4;

/// Requests at the same time unless `-parallelism` says otherwise.
const PARALLELISM: usize = 8;
