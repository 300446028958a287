//! Clears away what was never finished: chunks of uploads whose process was killed,
//! and the markers that other programs leave of what they delete, which every
//! listing would read for ever.
//!
//! Only what is a day older than the newest message of the bucket is touched, by
//! the server's clock alone: an upload that still sends is never that old, and one
//! that was silent for so long has lost its connection.
//!
//! Spec: backends §8.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::api::Api;
use crate::Result;

/// When a bucket was swept last.
#[derive(Default)]
pub(super) struct Sweeps {
    last: Mutex<Option<Instant>>,
}

impl Sweeps {
    /// Sweeps the bucket, once a day; retention is when this is called. A failure
    /// harms nothing but the space it leaves taken, and is only logged.
    pub(super) async fn sweep_daily(&self, api: &Arc<Api>) {
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < LEFT_ALONE) {
                return;
            }
            *last = Some(Instant::now());
        }
        let bucket = &api.bucket.name;
        match api.sweep(LEFT_ALONE).await {
            Ok((0, 0)) => {}
            Ok((uploads, markers)) => tracing::info!(bucket, uploads, markers, "leftovers removed from the bucket"),
            Err(error) => tracing::warn!(bucket, %error, "leftovers could not be removed from the bucket"),
        }
    }
}

impl Api {
    /// Removes unfinished uploads and markers of deleted objects that are older than
    /// the newest message by `age`, and tells how many of each.
    async fn sweep(self: &Arc<Self>, age: Duration) -> Result<(u64, u64)> {
        let session = self.link.session().await?;
        let question = json!({ "subjects_filter": self.bucket.chunks(">") });
        let verb = format!("STREAM.INFO.{}", self.bucket.stream());
        let StreamInfo { state } = self.ask(&session, "look for leftovers", &verb, &question).await?;
        let before = state.last_ts.parse::<Timestamp>().ok().zip(SignedDuration::try_from(age).ok());
        let Some(before) = before.and_then(|(newest, age)| newest.checked_sub(age).ok()) else { return Ok((0, 0)) };

        // Descriptions are read after the chunks, so that what is finished in
        // between counts as finished.
        let objects = self.descriptions().await?;
        let finished: HashSet<String> =
            objects.iter().filter(|o| !o.meta.deleted).map(|o| self.bucket.chunks(&o.meta.nuid)).collect();
        let (mut uploads, mut markers) = (0, 0);
        for subject in state.subjects.unwrap_or_default().into_keys().filter(|subject| !finished.contains(subject)) {
            let newest = self.last_message(&session, &subject).await?.and_then(|message| message.time());
            if newest.is_some_and(|time| time < before) {
                self.purge(&session, &subject, None).await?;
                uploads += 1;
            }
        }
        for object in objects.iter().filter(|o| o.meta.deleted && o.time < before) {
            // Somebody may write the name again meanwhile: that message is newer.
            self.purge(&session, &self.bucket.meta(&object.meta.name), Some(object.sequence.saturating_add(1))).await?;
            markers += 1;
        }
        Ok((uploads, markers))
    }
}

#[derive(Deserialize)]
struct StreamInfo {
    state: StreamState,
}

#[derive(Deserialize)]
struct StreamState {
    #[serde(default)]
    last_ts: String,
    /// Subjects with their counts; absent when there are none.
    #[serde(default)]
    subjects: Option<BTreeMap<String, u64>>,
}

/// Also how often this is done.
const LEFT_ALONE: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use litestream_testkit::nats_server::{Kind, fresh_bucket};

    use super::*;
    use crate::nats::NatsOptions;
    use crate::nats::options::Settings;

    /// With a real server: that it counts and filters as assumed is the point.
    #[tokio::test]
    async fn leftovers_go_and_objects_stay() {
        let bucket = fresh_bucket(Kind::Plain).unwrap();
        let describe = |name: &str, nuid: &str, deleted: bool| {
            let meta =
                json!({"name": name, "bucket": bucket.name, "nuid": nuid, "size": 1, "chunks": 1, "deleted": deleted});
            let subject = crate::nats::object::Bucket { name: bucket.name.clone() }.meta(name);
            let subject = subject.strip_prefix(&format!("$O.{}.", bucket.name)).unwrap().to_owned();
            bucket.publish(&subject, meta.to_string().as_bytes()).unwrap();
        };
        bucket.publish("C.finished", b"x").unwrap();
        describe("object", "finished", false);
        bucket.publish("C.unfinished", b"x").unwrap();
        bucket.publish("C.unfinished", b"y").unwrap();
        describe("gone", "gone", true);
        bucket.publish("C.newest", b"x").unwrap();

        let options = NatsOptions {
            server: Some(bucket.access.address.clone()),
            bucket: Some(bucket.name.clone()),
            ..NatsOptions::default()
        };
        let api = Arc::new(Api::new(&Arc::new(Settings::resolve(options).unwrap())));
        let before = bucket.messages().unwrap();
        assert_eq!(api.sweep(LEFT_ALONE).await.unwrap(), (0, 0));
        assert_eq!(bucket.messages().unwrap(), before, "what is young is left alone");
        assert_eq!(api.sweep(Duration::ZERO).await.unwrap(), (1, 1));
        let left: Vec<String> = bucket.messages().unwrap().into_keys().collect();
        assert_eq!(left, ["C.finished", "C.newest", "M.b2JqZWN0"]);
    }
}
