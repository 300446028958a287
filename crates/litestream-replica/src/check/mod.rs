//! Is a store fit to hold a replica? Tried out, capability by capability.
//!
//! Findings are written for the person who has to mend what is wrong. What is
//! there already is only looked at; everything that is written lies below
//! [`PROBE_DIR`], which no listing takes for data, and is removed again whatever
//! happens, a timeout included.

mod probe;
mod restore;

use std::sync::Arc;
use std::time::Duration;

use ltx::Txid;

pub use probe::ProbeSite;

use crate::clock::Clock;
use crate::{Error, ErrorKind, Inventory, Level, ReplicaClient};

/// Directory of probes, below the replica's path.
pub const PROBE_DIR: &str = ".litestream-check";

/// How one capability fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Could not be tried, or does not exist here.
    Skipped,
    /// Replication works, but something is missing.
    Degraded,
    /// Does not work.
    Failed,
}

impl Grade {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// One capability and what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was tried: `connect`, `list`, `write`, …
    pub name: &'static str,
    /// How it fares.
    pub grade: Grade,
    /// What was seen, and what to do about it. No credentials.
    pub detail: String,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where.
    pub location: String,
    /// The replica's type.
    pub kind: &'static str,
    /// In the order in which it was tried.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst that counts: [`Ok`](Grade::Ok), [`Degraded`](Grade::Degraded) or
    /// [`Failed`](Grade::Failed).
    pub fn grade(&self) -> Grade {
        let worst = self.findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Failed);
        if worst == Grade::Skipped { Grade::Ok } else { worst }
    }
}

/// Tries the replica behind `client`; with a `probe` also what a writer needs,
/// without one what a restore needs. Takes `limit` at most, and as long again to
/// clean up.
pub async fn check(
    client: &Arc<dyn ReplicaClient>,
    probe: Option<&ProbeSite>,
    clock: &dyn Clock,
    limit: Duration,
) -> Report {
    let mut findings = Findings::default();
    let steps = async {
        let Some(inventory) = look(client, &mut findings).await else { return };
        contents(client, &inventory, clock, &mut findings).await;
        match probe {
            Some(probe) => probe.run(clock, &mut findings).await,
            None => restore::run(client, &inventory, &mut findings).await,
        }
    };
    if tokio::time::timeout(limit, steps).await.is_err() {
        findings
            .failed("timeout", format!("not finished within {limit:?}; the store is slow, or answers part of it only"));
    }
    if let Some(probe) = probe {
        match tokio::time::timeout(limit, probe.clean_up(clock)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => findings.degraded("clean-up", format!("remove {} yourself: {error}", probe.location())),
            Err(_) => findings.degraded("clean-up", format!("remove {} yourself: no answer", probe.location())),
        }
    }
    Report { location: client.location(), kind: client.kind(), findings: findings.0 }
}

/// Connects and lists.
async fn look(client: &Arc<dyn ReplicaClient>, findings: &mut Findings) -> Option<Inventory> {
    let first = async {
        client.init().await?;
        client.list(Level::L0, Txid::NONE, false).await
    };
    let listed = match first.await {
        Ok(_) => Ok(()),
        Err(error) => match unreachable(&error) {
            Some(advice) => {
                findings.failed("connect", format!("{advice}: {error}"));
                return None;
            }
            None => Err(error),
        },
    };
    findings.ok("connect", "the store answers");
    let listed = match listed {
        Ok(()) => Inventory::load(&**client, false).await,
        Err(error) => Err(error),
    };
    match listed {
        Ok(inventory) => {
            findings.ok("list", format!("{} files in all levels", inventory.files().len()));
            Some(inventory)
        }
        Err(error) => {
            findings.failed("list", error.to_string());
            // Writing may be allowed all the same; say what else is missing.
            Some(Inventory::default())
        }
    }
}

/// What the error says about the way to the store, if that is what is wrong.
fn unreachable(error: &Error) -> Option<&'static str> {
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if error.kind() == ErrorKind::Setup && says(&["certificate of", "does not answer in TLS"]) {
        return Some("no trusted TLS connection");
    }
    if error.kind() != ErrorKind::Transient || !says(&["cannot connect to", "lost connection to", "no answer from"]) {
        return None;
    }
    Some(if says(&["dns error", "failed to lookup", "Name or service not known"]) {
        "the name does not resolve, correct the endpoint or the name service"
    } else if says(&["refused"]) {
        "nobody listens there, correct host and port or start the server"
    } else {
        "cannot reach the store, look at network, proxy and firewall"
    })
}

/// What lies there already, and whose it may be.
async fn contents(client: &Arc<dyn ReplicaClient>, inventory: &Inventory, clock: &dyn Clock, findings: &mut Findings) {
    let mut facts = Vec::new();
    for level in Level::all() {
        let files = inventory.level(level);
        if !files.is_empty() {
            facts.push(format!("level {level}: {}", files.len()));
        }
    }
    if let Some(bounds) = inventory.bounds() {
        let age = clock.now().as_second() - bounds.newest.as_second();
        facts.push(format!("newest txid {}", bounds.last_txid));
        facts.push(format!("last written {}", bounds.newest.strftime("%Y-%m-%dT%H:%M:%SZ")));
        if age < RECENT_SECONDS {
            facts.push("in use: a litestream writes here at this time".to_owned());
        }
    }
    if client.list_objects("generations/").await.is_ok_and(|objects| !objects.is_empty()) {
        facts.push("backups of litestream 0.3".to_owned());
    }
    if let Some(lock) = client.lock()
        && let Ok(Some(stored)) = lock.read().await
    {
        facts.push(match crate::lease::Lease::parse(&stored.body) {
            Ok(lease) => format!("lease of {} until {}", lease.holder(), lease.expires_at),
            Err(error) => format!("lock.json is {error}"),
        });
    }
    let detail = if facts.is_empty() { "nothing there yet".to_owned() } else { facts.join(", ") };
    findings.ok("contents", detail);
}

/// Collects findings in order.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, name: &'static str, grade: Grade, detail: impl Into<String>) {
        self.0.push(Finding { name, grade, detail: detail.into() });
    }

    fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Grade::Ok, detail);
    }

    fn skipped(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Grade::Skipped, detail);
    }

    fn degraded(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Grade::Degraded, detail);
    }

    fn failed(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Grade::Failed, detail);
    }
}

/// Younger than this, the newest file is taken for the work of a live writer.
const RECENT_SECONDS: i64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreachable_stores_are_told_from_refusing_ones() {
        let advice = |kind, text: &str| unreachable(&Error::new(kind, text)).map(|advice| &advice[..8]);
        for (kind, text, wanted) in [
            (ErrorKind::Transient, "s3: list: cannot connect to x:443: dns error: no such host", Some("the name")),
            (ErrorKind::Transient, "cannot connect to x:1: tcp connect error: Connection refused", Some("nobody l")),
            (ErrorKind::Transient, "no answer from x:443 for 120s", Some("cannot r")),
            (ErrorKind::Setup, "certificate of x:443 is not trusted, …", Some("no trust")),
            (ErrorKind::Setup, "s3: list objects: access denied; …", None),
            (ErrorKind::Transient, "s3: list objects: InternalError (500)", None),
        ] {
            assert_eq!(advice(kind, text), wanted, "{text}");
        }
    }

    #[test]
    fn what_was_skipped_does_not_count() {
        let report = |grades: &[Grade]| {
            let findings = grades.iter().map(|&grade| Finding { name: "x", grade, detail: String::new() }).collect();
            Report { location: String::new(), kind: "file", findings }.grade()
        };
        assert_eq!(report(&[Grade::Ok, Grade::Skipped]), Grade::Ok);
        assert_eq!(report(&[Grade::Degraded, Grade::Skipped]), Grade::Degraded);
        assert_eq!(report(&[Grade::Failed, Grade::Degraded]), Grade::Failed);
        assert_eq!(report(&[]), Grade::Failed);
    }
}
