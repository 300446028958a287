//! The lease: one object that says who may write to a replica.
//!
//! `lock.json` beside the levels names an owner and a moment. Whoever finds it
//! expired, or not there, may put its own name in, on the condition that nobody
//! else did meanwhile; the store decides. The rules are in `keeper`, which is pure;
//! `client` carries them out and refuses to write without the lease.
//!
//! The rule that must never break: between the moment up to which we were sure
//! and the moment somebody else may take over lies the whole uncertainty about
//! clocks and requests under way, never less than nothing.
//!
//! Spec: store-and-restore §17, backends §4.7.

mod client;
mod document;
mod keeper;

use std::time::Duration;

use bytes::Bytes;

pub use client::LeasedClient;
pub use document::Lease;

use crate::Result;

/// Name of the object, below the replica's path.
pub const LOCK_NAME: &str = "lock.json";

/// How long a lease lasts where nothing else is said.
pub const DEFAULT_TTL: Duration = Duration::from_secs(30);

/// Shortest lease that leaves time to renew it.
pub const MIN_TTL: Duration = Duration::from_secs(1);

/// One object that is replaced and removed under conditions.
#[async_trait::async_trait]
pub trait LockStore: Send + Sync {
    /// Where it is, for messages. No credentials.
    fn location(&self) -> String;

    /// What it holds; `None` if there is no such object.
    async fn read(&self) -> Result<Option<Stored>>;

    /// Stores `body` if the condition holds, and returns the new entity tag;
    /// `None` when it does not hold. After a lost answer the request is repeated,
    /// so `None` may mean that the first attempt succeeded.
    ///
    /// # Errors
    /// [`Setup`](crate::ErrorKind::Setup) when the store does not know conditions.
    async fn put(&self, body: Bytes, condition: Condition) -> Result<Option<String>>;

    /// Removes the object if it has this entity tag.
    async fn remove(&self, etag: &str) -> Result<Removal>;
}

/// An object and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The content.
    pub body: Bytes,
    /// Entity tag, as the store spells it.
    pub etag: String,
}

/// When a conditional write may happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no such object.
    Absent,
    /// The object has this entity tag.
    Unchanged(String),
}

/// How a conditional removal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is removed.
    Removed,
    /// It was not there any more.
    Gone,
    /// It is another version by now, and stays.
    Changed,
}

/// Who asks for a lease, and for how long at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseOptions {
    /// `<host>:<pid>`, to be found by a person.
    pub owner: String,
    /// How long it lasts without renewal; all writers of a replica should agree.
    pub ttl: Duration,
}

/// What the store was found to do with conditions.
///
/// # Errors
/// [`Setup`](crate::ErrorKind::Setup) with the reason why it cannot hold a lease.
pub(crate) async fn check_conditions(lock: &dyn LockStore, body: &Bytes) -> Result<()> {
    for (name, condition) in
        [("If-None-Match", Condition::Absent), ("If-Match", Condition::Unchanged(NO_ETAG.to_owned()))]
    {
        if lock.put(body.clone(), condition).await?.is_some() {
            return Err(crate::Error::new(
                crate::ErrorKind::Setup,
                format!("{} ignores {name}: this store cannot hold a lease", lock.location()),
            ));
        }
    }
    Ok(())
}

/// The entity tag of nothing.
const NO_ETAG: &str = "\"00000000000000000000000000000000\"";
