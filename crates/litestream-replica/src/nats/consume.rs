//! Reads messages of one subject in their order, as many at a time as asked for.
//!
//! An ephemeral consumer stands on the server meanwhile. It hands out messages by
//! number; one that is lost on the way with its connection leaves a gap in the
//! numbers, which is an error here and never a hole in what is read.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Api;
use super::link::Session;
use super::object::new_nuid;
use crate::{Error, ErrorKind, Result};

/// Where a consumer begins.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// The newest message of each subject.
    LastPerSubject,
    /// The first message that has this number or a higher one.
    Sequence(u64),
}

/// A reader of messages; gone from the server when dropped.
pub(super) struct Consumer {
    api: Arc<Api>,
    session: Session,
    name: String,
    inbox: String,
    messages: Subscriber,
    /// Messages that were there when it was made.
    pub(super) found: u64,
    received: u64,
}

/// A message that was handed out.
pub(super) struct Delivery {
    pub(super) payload: Bytes,
    /// When the stream stored it, and under which number.
    pub(super) time: Timestamp,
    pub(super) sequence: u64,
    /// How many are left.
    pub(super) pending: u64,
}

impl Consumer {
    pub(super) async fn create(api: &Arc<Api>, session: &Session, filter: &str, start: Start) -> Result<Self> {
        let name = new_nuid();
        let inbox = session.client.new_inbox();
        let messages = session.client.subscribe(inbox.clone()).await;
        let messages = messages.map_err(|e| Error::with_source(ErrorKind::Transient, session.describe(filter), e))?;
        let mut config = json!({
            "name": name,
            "filter_subject": filter,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": u64::try_from(FORGOTTEN_AFTER.as_nanos()).unwrap_or(u64::MAX),
            "num_replicas": 1,
            "mem_storage": true,
        });
        let begin = match start {
            Start::LastPerSubject => json!({ "deliver_policy": "last_per_subject" }),
            Start::Sequence(number) => {
                json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": number.max(1) })
            }
        };
        if let (Some(config), Value::Object(begin)) = (config.as_object_mut(), begin) {
            config.extend(begin);
        }
        let stream = api.bucket.stream();
        let verb = format!("CONSUMER.CREATE.{stream}.{name}.{filter}");
        let question = json!({ "stream_name": stream, "config": config });
        let Created { num_pending } = api.ask(session, "make consumer", &verb, &question).await?;
        let (api, session) = (api.clone(), session.clone());
        Ok(Self { api, session, name, inbox, messages, found: num_pending, received: 0 })
    }

    /// Asks for the next `count` messages, or as many as there are.
    pub(super) async fn request(&self, count: u64) -> Result<()> {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.api.bucket.stream(), self.name);
        let question = json!({ "batch": count, "no_wait": true }).to_string();
        let sent = self.session.client.publish_with_reply(subject, self.inbox.clone(), question.into()).await;
        sent.map_err(|e| Error::with_source(ErrorKind::Transient, self.session.describe("ask for messages"), e))
    }

    /// The next message that was asked for; `None` when there is none.
    pub(super) async fn next(&mut self) -> Result<Option<Delivery>> {
        let next = self.session.wait(&self.inbox, self.messages.next()).await?;
        let fault = |what: &str| {
            Error::new(ErrorKind::Transient, format!("{}: {what}", self.session.describe("read messages")))
        };
        let Some(message) = next else { return Err(fault("connection closed")) };
        match message.status.map(|status| status.as_u16()) {
            None => {}
            // Nothing left, or fewer than asked for.
            Some(404 | 408) => return Ok(None),
            Some(503) => return Err(self.api.nobody("read messages")),
            Some(status) => {
                return Err(fault(&format!("{status} {}", message.description.unwrap_or_default())));
            }
        }
        let place =
            message.reply.as_deref().and_then(Place::parse).ok_or_else(|| fault("a message without a number"))?;
        self.received += 1;
        if place.number != self.received {
            return Err(fault("a message was lost"));
        }
        Ok(Some(Delivery {
            payload: message.payload,
            time: place.time,
            sequence: place.sequence,
            pending: place.pending,
        }))
    }

    /// How many messages the server has not handed out.
    pub(super) async fn pending(&self) -> Result<u64> {
        let verb = format!("CONSUMER.INFO.{}.{}", self.api.bucket.stream(), self.name);
        let Created { num_pending } = self.api.ask(&self.session, "look up consumer", &verb, &json!({})).await?;
        Ok(num_pending)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", self.api.bucket.stream(), self.name);
        let client = self.session.client.clone();
        runtime.spawn(async move {
            // The server forgets it by itself, only later.
            let _ = client.publish(subject, Bytes::new()).await;
        });
    }
}

#[derive(Deserialize)]
struct Created {
    #[serde(default)]
    num_pending: u64,
}

/// What the reply subject of a message tells about it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The how manieth that this consumer handed out.
    number: u64,
    /// Its number in the stream.
    sequence: u64,
    time: Timestamp,
    pending: u64,
}

impl Place {
    /// `$JS.ACK[.<domain>.<account>].<stream>.<consumer>.<deliveries>.<stream
    /// sequence>.<consumer sequence>.<nanoseconds>.<pending>[.<more>]`.
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.split('.').collect();
        let [first, second, rest @ ..] = tokens.as_slice() else { return None };
        let rest = if tokens.len() > 9 { rest.get(2..)? } else { rest };
        let [_stream, _consumer, _deliveries, sequence, number, nanoseconds, pending, ..] = rest else { return None };
        (*first == "$JS" && *second == "ACK").then_some(())?;
        Some(Self {
            number: number.parse().ok()?,
            sequence: sequence.parse().ok()?,
            time: Timestamp::from_nanosecond(nanoseconds.parse().ok()?).ok()?,
            pending: pending.parse().ok()?,
        })
    }
}

/// A restore reads its sources in turns and leaves some alone for long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_tell_their_place_in_either_form() {
        let place = Place {
            number: 3,
            sequence: 44,
            time: Timestamp::from_nanosecond(1_795_342_572_274_000_001).unwrap(),
            pending: 7,
        };
        for reply in [
            "$JS.ACK.OBJ_b.name.1.44.3.1795342572274000001.7",
            "$JS.ACK.hub.ACCHASH.OBJ_b.name.1.44.3.1795342572274000001.7",
            "$JS.ACK._.ACCHASH.OBJ_b.name.1.44.3.1795342572274000001.7.random",
        ] {
            assert_eq!(Place::parse(reply).as_ref(), Some(&place), "{reply}");
        }
        for reply in ["", "$JS.ACK.OBJ_b.name.1.44.3", "$JS.ACK.OBJ_b.name.1.44.x.1795342572274000001.7", "_INBOX.a.b"]
        {
            assert_eq!(Place::parse(reply), None, "{reply}");
        }
    }

    #[test]
    fn no_reply_subject_crashes() {
        let words = [".", "..", "18446744073709551616", "-1", "99999999999999999999999999999999999999", "$JS.ACK."];
        let subjects =
            ["$JS.ACK.OBJ_b.name.1.44.3.1795342572274000001.7", "$JS.ACK.h.A.OBJ_b.n.1.44.3.1795342572274000001.7.r"];
        litestream_fuzz::Target::new("nats reply subject", subjects).words(&words).run(|input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            let bound = litestream_fuzz::Bound { base: 1024, per_byte: 64 };
            let _ = litestream_fuzz::bounded(input.len(), bound, || Place::parse(text));
        });
    }
}
