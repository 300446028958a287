//! Every metric: its name, what it means, and where its numbers come from.
//!
//! The first table is the original's, name for name; the second is ours. Series
//! of a database are there from the moment it is added.
//!
//! Spec: docs/operations.md, "Metrics".

use jiff::Timestamp;
use litestream::{Counts, DatabaseStatus, Window};
use litestream_replica::metered::BOUNDS_SECONDS;

use super::Observer;
use super::machine;
use super::page::{Kind, Page};
use crate::commands::version::VERSION;

/// What is known about one database.
struct Row {
    /// Label `db`: the absolute path.
    path: String,
    /// The file name.
    name: String,
    status: DatabaseStatus,
    counts: Counts,
    lag_seconds: f64,
    window: Option<Window>,
    /// Files of the replica and their bytes.
    held: Option<(u64, u64)>,
}

/// A family with one series for each database.
struct PerDatabase {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: fn(&Row) -> f64,
}

const PER_DATABASE: &[PerDatabase] = &[
    // The original's.
    PerDatabase {
        name: "litestream_compaction_verify_error_count",
        kind: Kind::Counter,
        help: "Number of post-compaction verification failures",
        value: |row| row.status.compaction_verify_errors as f64,
    },
    PerDatabase {
        name: "litestream_db_size",
        kind: Kind::Gauge,
        help: "The current size of the real DB",
        value: |row| row.status.db_size as f64,
    },
    PerDatabase {
        name: "litestream_disk_full",
        kind: Kind::Gauge,
        help: "Whether replication is paused because the local disk is full",
        value: |row| flag(row.counts.is_disk_full),
    },
    PerDatabase {
        name: "litestream_sync_count",
        kind: Kind::Counter,
        help: "Number of sync operations performed",
        value: |row| row.counts.captures.count as f64,
    },
    PerDatabase {
        name: "litestream_sync_error_count",
        kind: Kind::Counter,
        help: "Number of sync errors that have occurred",
        value: |row| row.counts.captures.errors as f64,
    },
    PerDatabase {
        name: "litestream_sync_seconds",
        kind: Kind::Counter,
        help: "Time spent capturing the WAL, in seconds",
        value: |row| row.counts.captures.duration.as_secs_f64(),
    },
    PerDatabase {
        name: "litestream_total_wal_bytes",
        kind: Kind::Counter,
        help: "Total number of WAL bytes turned into LTX",
        value: |row| row.counts.captured_wal_bytes as f64,
    },
    PerDatabase {
        name: "litestream_txid",
        kind: Kind::Gauge,
        help: "The current transaction ID",
        value: |row| row.status.txid.map_or(0.0, |txid| txid.get() as f64),
    },
    PerDatabase {
        name: "litestream_wal_size",
        kind: Kind::Gauge,
        help: "The current size of the real WAL",
        value: |row| row.status.wal_size as f64,
    },
    // Ours.
    PerDatabase {
        name: "litestream_replica_lag_seconds",
        kind: Kind::Gauge,
        help: "Age of the oldest change that the replica lacks; 0 when it has everything",
        value: |row| row.lag_seconds,
    },
    PerDatabase {
        name: "litestream_replica_txid",
        kind: Kind::Gauge,
        help: "The newest transaction ID that the replica is known to have",
        value: |row| row.status.replica_txid.map_or(0.0, |txid| txid.get() as f64),
    },
    PerDatabase {
        name: "litestream_unsent_transactions",
        kind: Kind::Gauge,
        help: "Captured transactions that wait to be uploaded",
        value: |row| unsent(&row.status),
    },
    PerDatabase {
        name: "litestream_last_capture_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When a capture last succeeded; 0 when none has",
        value: |row| seconds(row.status.captured_at),
    },
    PerDatabase {
        name: "litestream_last_upload_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When an upload last succeeded; 0 when none has",
        value: |row| seconds(row.status.uploaded_at),
    },
    PerDatabase {
        name: "litestream_last_snapshot_timestamp_seconds",
        kind: Kind::Gauge,
        help: "Time of the newest snapshot in the replica; 0 when there is none",
        value: |row| seconds(row.status.snapshot_at.max(row.window.and_then(|window| window.snapshot))),
    },
    PerDatabase {
        name: "litestream_last_verification_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When the replica was last listed and found whole; 0 when it was not yet",
        value: |row| seconds(row.status.verified_at),
    },
    PerDatabase {
        name: "litestream_recoverable_earliest_timestamp_seconds",
        kind: Kind::Gauge,
        help: "Time of the oldest state that can be restored; 0 when there is none",
        value: |row| seconds(row.window.map(|window| window.earliest)),
    },
    PerDatabase {
        name: "litestream_recoverable_latest_timestamp_seconds",
        kind: Kind::Gauge,
        help: "Time of the newest state that can be restored; 0 when there is none",
        value: |row| seconds(row.window.map(|window| window.latest)),
    },
    PerDatabase {
        name: "litestream_replica_files",
        kind: Kind::Gauge,
        help: "Files in the replica, as far as they are known",
        value: |row| row.held.map_or(0.0, |(files, _)| files as f64),
    },
    PerDatabase {
        name: "litestream_replica_bytes",
        kind: Kind::Gauge,
        help: "Size of the files in the replica, as far as they are known",
        value: |row| row.held.map_or(0.0, |(_, bytes)| bytes as f64),
    },
    PerDatabase {
        name: "litestream_replica_problem",
        kind: Kind::Gauge,
        help: "Whether the replica lacks something and is being healed",
        value: |row| flag(row.status.problem.is_some()),
    },
    PerDatabase {
        name: "litestream_replica_problems_total",
        kind: Kind::Counter,
        help: "Problems of the replica that were found",
        value: |row| row.status.problems_found as f64,
    },
    PerDatabase {
        name: "litestream_local_bytes",
        kind: Kind::Gauge,
        help: "Local files that wait or are cached, as of the last look; only looked at under max-local-bytes",
        value: |row| row.counts.local_bytes as f64,
    },
    PerDatabase {
        name: "litestream_histories_given_up_total",
        kind: Kind::Counter,
        help: "How often unsent history was given up for max-local-bytes",
        value: |row| row.counts.histories_given_up as f64,
    },
    PerDatabase {
        name: "litestream_wals_given_up_total",
        kind: Kind::Counter,
        help: "How often the WAL was given up for max-wal-bytes because nothing could be captured",
        value: |row| row.counts.wals_given_up as f64,
    },
    PerDatabase {
        name: "litestream_upload_errors_total",
        kind: Kind::Counter,
        help: "Upload rounds that failed",
        value: |row| row.counts.upload_errors as f64,
    },
    PerDatabase {
        name: "litestream_compactions_total",
        kind: Kind::Counter,
        help: "Files made by compaction",
        value: |row| row.status.compactions as f64,
    },
    PerDatabase {
        name: "litestream_compaction_errors_total",
        kind: Kind::Counter,
        help: "Compactions that failed",
        value: |row| row.status.compaction_errors as f64,
    },
];

/// The whole page.
pub(super) fn render(observer: &Observer) -> String {
    let rows: Vec<Row> = observer.store.databases().iter().map(|db| Row::of(db)).collect();
    let mut page = Page::default();
    for family in PER_DATABASE {
        page.family(family.name, family.kind, family.help, |samples| {
            for row in &rows {
                samples.sample(&[("db", &row.path)], (family.value)(row));
            }
        });
    }
    add_checkpoints(&mut page, &rows);
    page.family(
        "litestream_backoff_seconds",
        Kind::Gauge,
        "Pause after the last failure; 0 when there was none",
        |f| {
            for row in &rows {
                f.sample(&[("db", &row.path), ("task", "capture")], row.counts.capture_backoff.as_secs_f64());
                f.sample(&[("db", &row.path), ("task", "upload")], row.counts.upload_backoff.as_secs_f64());
            }
        },
    );
    let help = "Number of L0 files by retention status";
    page.family("litestream_l0_retention_files_total", Kind::Gauge, help, |family| {
        for row in &rows {
            let Some(found) = row.counts.l0_expiry else { continue };
            let by_status = [
                ("eligible", found.eligible),
                ("not_compacted", found.not_compacted),
                ("too_recent", found.too_recent),
            ];
            for (status, count) in by_status {
                // The file name, as the original has it here and nowhere else.
                family.sample(&[("db", &row.name), ("status", status)], count as f64);
            }
        }
    });
    add_operations(&mut page, observer);
    add_process(&mut page, observer, rows.len());
    machine::add_to(&mut page);
    page.finish()
}

fn add_checkpoints(page: &mut Page, rows: &[Row]) {
    // A mode's series appear with the first checkpoint.
    let done = || rows.iter().filter(|row| row.counts.checkpoints.count > 0);
    let mut family = |name, help, value: fn(&Row) -> f64| {
        page.family(name, Kind::Counter, help, |samples| {
            done().for_each(|row| samples.sample(&[("db", &row.path), ("mode", "PASSIVE")], value(row)));
        });
    };
    family("litestream_checkpoint_count", "Number of checkpoint operations performed", |row| {
        row.counts.checkpoints.count as f64
    });
    family("litestream_checkpoint_error_count", "Number of checkpoint errors that have occurred", |row| {
        row.counts.checkpoints.errors as f64
    });
    family("litestream_checkpoint_seconds", "Time spent checkpointing WAL, in seconds", |row| {
        row.counts.checkpoints.duration.as_secs_f64()
    });
}

fn add_operations(page: &mut Page, observer: &Observer) {
    let kinds: Vec<_> = observer
        .store
        .operations()
        .into_iter()
        .map(|(kind, operations)| (kind, operations.snapshot(), operations.failures()))
        .collect();
    // Series of an operation appear with its first call.
    let called = || {
        kinds.iter().flat_map(|(kind, snapshot, _)| {
            let operations = snapshot.operations().into_iter().filter(|(_, counts)| counts.durations.count > 0);
            operations.map(move |(operation, counts)| ([("replica_type", *kind), ("operation", operation)], counts))
        })
    };
    let help = "The number of replica operations performed";
    page.family("litestream_replica_operation_total", Kind::Counter, help, |family| {
        called().for_each(|(labels, counts)| family.sample(&labels, counts.count as f64));
    });
    let help = "The number of bytes used by replica operations";
    page.family("litestream_replica_operation_bytes", Kind::Counter, help, |family| {
        called().for_each(|(labels, counts)| family.sample(&labels, counts.bytes as f64));
    });
    let help = "Duration of replica operations by type and operation";
    page.family("litestream_replica_operation_duration_seconds", Kind::Histogram, help, |family| {
        for (labels, counts) in called() {
            let took = counts.durations;
            let buckets = BOUNDS_SECONDS.into_iter().zip(took.buckets);
            family.histogram(&labels, buckets, took.count, took.sum.as_secs_f64());
        }
    });
    let help = "Number of replica operation errors by type, operation, and error code";
    page.family("litestream_replica_operation_errors_total", Kind::Counter, help, |family| {
        for (kind, _, failures) in &kinds {
            for (operation, code, count) in failures {
                let labels = [("replica_type", *kind), ("operation", *operation), ("code", code.as_str())];
                family.sample(&labels, *count as f64);
            }
        }
    });
}

/// What belongs to the process and no database.
fn add_process(page: &mut Page, observer: &Observer, database_count: usize) {
    let mut single = |name, kind, help, value: f64| {
        page.family(name, kind, help, |family| family.sample(&[], value));
    };
    single("litestream_databases", Kind::Gauge, "Databases that are known", database_count as f64);
    let help = "Background tasks that ended by a panic; restart when this is not 0";
    single("litestream_crashed_tasks_total", Kind::Counter, help, observer.store.crashed_tasks() as f64);
    let seats = observer.store.seats();
    let help = "Databases that are open; the others are idle and closed, or wait to be opened";
    single("litestream_databases_open", Kind::Gauge, help, seats.open as f64);
    let help = "Idle databases that were closed for want of descriptors and are opened when they change";
    single("litestream_databases_parked", Kind::Gauge, help, seats.parked as f64);
    let help = "Databases that wait until they can be opened";
    single("litestream_databases_waiting", Kind::Gauge, help, seats.waiting as f64);
    let help = "How often a database was closed so that another could be opened";
    single("litestream_parkings_total", Kind::Counter, help, seats.parkings as f64);
    let queues = observer.store.queues();
    page.family("litestream_queue_running", Kind::Gauge, "Work of all databases that runs now", |family| {
        queues.iter().for_each(|queue| family.sample(&[("queue", queue.name)], queue.running as f64));
    });
    page.family("litestream_queue_limit", Kind::Gauge, "Work of all databases that may run at once", |family| {
        queues.iter().for_each(|queue| family.sample(&[("queue", queue.name)], queue.limit as f64));
    });
    page.family("litestream_build_info", Kind::Gauge, "Version and commit of the program", |family| {
        let commit = option_env!("LITESTREAM_COMMIT").unwrap_or_default();
        let compiler = option_env!("LITESTREAM_RUST_VERSION").unwrap_or_default();
        family.sample(&[("version", VERSION), ("revision", commit), ("rustversion", compiler)], 1.0);
    });
}

impl Row {
    fn of(db: &litestream::Database) -> Self {
        Self {
            path: db.path().to_string_lossy().into_owned(),
            name: db.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
            status: db.status(),
            counts: db.counts(),
            lag_seconds: db.lag().as_secs_f64(),
            window: db.window(),
            held: db.replica_size(),
        }
    }
}

fn unsent(status: &DatabaseStatus) -> f64 {
    let captured = status.txid.map_or(0, |txid| txid.get());
    let uploaded = status.replica_txid.map_or(0, |txid| txid.get());
    captured.saturating_sub(uploaded) as f64
}

fn flag(is_set: bool) -> f64 {
    if is_set { 1.0 } else { 0.0 }
}

fn seconds(time: Option<Timestamp>) -> f64 {
    time.map_or(0.0, |time| time.as_millisecond() as f64 / 1000.0)
}
