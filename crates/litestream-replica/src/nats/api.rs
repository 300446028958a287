//! Requests to JetStream, and what its refusals mean.
//!
//! One exchange, one attempt: operations decide what is tried again.
//!
//! Spec: backends §8.

use std::sync::Arc;

use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::link::{Link, Session};
use super::object::{Bucket, Meta};
use super::options::Settings;
use crate::{Error, ErrorKind, Result};

/// One bucket of one server.
pub(super) struct Api {
    pub(super) link: Link,
    pub(super) bucket: Bucket,
    pub(super) server: String,
}

impl Api {
    pub(super) fn new(settings: &Arc<Settings>) -> Self {
        Self {
            link: Link::new(settings.clone()),
            bucket: Bucket { name: settings.bucket.clone() },
            server: settings.server.clone(),
        }
    }

    /// Fails unless the bucket exists. It is never made: how it is replicated and
    /// how large it may grow is for its owner to decide.
    pub(super) async fn check_bucket(&self) -> Result<()> {
        let session = self.link.session().await?;
        let subject = format!("$JS.API.STREAM.INFO.{}", self.bucket.stream());
        match session.request(&subject, None, Bytes::new()).await? {
            Some(answer) => self.parse::<Value>("look up bucket", &answer.payload).map(drop),
            None => Err(Error::new(
                ErrorKind::Setup,
                format!(
                    "JetStream does not answer on nats server {}: switch it on there (`jetstream {{}}` in its \
                     configuration, or `-js`)",
                    self.server
                ),
            )),
        }
    }

    /// Asks JetStream's API; `verb` is the subject behind `$JS.API.`.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        session: &Session,
        what: &str,
        verb: &str,
        question: &Value,
    ) -> Result<T> {
        let subject = format!("$JS.API.{verb}");
        let question = Bytes::from(question.to_string());
        match session.request(&subject, None, question).await? {
            Some(answer) => self.parse(what, &answer.payload),
            None => Err(self.nobody(what)),
        }
    }

    /// Stores one message and waits until the server says that it has.
    pub(super) async fn publish(
        &self,
        session: &Session,
        what: &str,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<()> {
        match session.request(subject, Some(headers), payload).await? {
            Some(answer) => self.parse::<Stored>(what, &answer.payload).map(drop),
            None => Err(self.nobody(what)),
        }
    }

    /// The newest message with this subject.
    pub(super) async fn last_message(&self, session: &Session, subject: &str) -> Result<Option<StoredMessage>> {
        let verb = format!("STREAM.MSG.GET.{}", self.bucket.stream());
        let question = json!({ "last_by_subj": subject });
        match self.ask::<MessageAnswer>(session, "get message", &verb, &question).await {
            Ok(answer) => Ok(Some(answer.message)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is known of an object: the description and the number of its message.
    /// A deleted object has both, too.
    pub(super) async fn meta(&self, session: &Session, object: &str) -> Result<Option<(Meta, u64)>> {
        let Some(message) = self.last_message(session, &self.bucket.meta(object)).await? else { return Ok(None) };
        let meta = serde_json::from_slice(&message.payload()?)
            .map_err(|e| Error::with_source(ErrorKind::Corrupt, format!("read description of {object}"), e))?;
        Ok(Some((meta, message.seq)))
    }

    /// Removes all messages of a subject, or those before a sequence number.
    pub(super) async fn purge(&self, session: &Session, subject: &str, before: Option<u64>) -> Result<()> {
        let mut question = json!({ "filter": subject });
        if let (Some(before), Some(question)) = (before, question.as_object_mut()) {
            question.insert("seq".to_owned(), before.into());
        }
        let verb = format!("STREAM.PURGE.{}", self.bucket.stream());
        self.ask::<Value>(session, "remove messages", &verb, &question).await.map(drop)
    }

    /// The answer of JetStream, or its refusal as an error.
    pub(super) fn parse<T: DeserializeOwned>(&self, what: &str, payload: &[u8]) -> Result<T> {
        let broken =
            |e| Error::with_source(ErrorKind::Transient, format!("{what}: nats server {}: odd answer", self.server), e);
        let answer: Value = serde_json::from_slice(payload).map_err(broken)?;
        match answer.get("error").map(Refusal::deserialize) {
            Some(refusal) => Err(self.explain(what, &refusal.map_err(broken)?)),
            None => serde_json::from_value(answer).map_err(broken),
        }
    }

    fn explain(&self, what: &str, refusal: &Refusal) -> Error {
        let Refusal { code, err_code, description } = refusal;
        let (bucket, server) = (&self.bucket.name, &self.server);
        let setup = |text: String| Error::new(ErrorKind::Setup, text);
        match *err_code {
            STREAM_NOT_FOUND => setup(format!(
                "failed to access object store bucket {bucket:?} (bucket must be created beforehand, as by \
                 `nats object add {bucket}`) on nats server {server}: {description}"
            )),
            NOT_ENABLED | NOT_ENABLED_FOR_ACCOUNT => setup(format!(
                "JetStream is not enabled on nats server {server} or for this account there: {description}"
            )),
            NO_RESOURCES | STORAGE_EXCEEDED | STORE_FAILED => setup(format!(
                "bucket {bucket:?} on nats server {server} is full, raise its limit or that of its account: {description}"
            )),
            MESSAGE_NOT_FOUND => Error::new(ErrorKind::NotFound, format!("{what}: {description}")),
            WRONG_LAST_SEQUENCE | WRONG_LAST_SEQUENCE_CONSTANT => {
                Error::new(ErrorKind::Conflict, format!("{what}: {description}"))
            }
            _ => {
                // A consumer that is gone went with its server or its idleness.
                let kind = match code {
                    400..=407 | 409..=428 | 430..=499 if *err_code != CONSUMER_NOT_FOUND => ErrorKind::Setup,
                    _ => ErrorKind::Transient,
                };
                Error::new(kind, format!("{what}: nats server {server}, bucket {bucket:?}: {description} ({err_code})"))
            }
        }
    }

    /// Nobody listens: the stream is between two leaders, or its server away.
    pub(super) fn nobody(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::Transient,
            format!(
                "{what}: JetStream does not answer for bucket {:?} on nats server {}",
                self.bucket.name, self.server
            ),
        )
    }
}

/// A message as the stream keeps it.
#[derive(Deserialize)]
pub(super) struct StoredMessage {
    pub(super) seq: u64,
    #[serde(default)]
    data: String,
    #[serde(default)]
    time: String,
}

impl StoredMessage {
    /// When it was stored, if the server says so.
    pub(super) fn time(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }

    pub(super) fn payload(&self) -> Result<Bytes> {
        let decoded = STANDARD.decode(&self.data);
        decoded.map(Bytes::from).map_err(|e| Error::with_source(ErrorKind::Transient, "read message: odd answer", e))
    }
}

#[derive(Deserialize)]
struct MessageAnswer {
    message: StoredMessage,
}

/// The acknowledgement of a published message.
#[derive(Deserialize)]
pub(super) struct Stored {
    pub(super) seq: u64,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

// Numbers of JetStream's errors, as its documentation lists them.
const CONSUMER_NOT_FOUND: u32 = 10014;
const NO_RESOURCES: u32 = 10023;
const MESSAGE_NOT_FOUND: u32 = 10037;
const NOT_ENABLED_FOR_ACCOUNT: u32 = 10039;
const STORAGE_EXCEEDED: u32 = 10047;
const STREAM_NOT_FOUND: u32 = 10059;
const WRONG_LAST_SEQUENCE: u32 = 10071;
const NOT_ENABLED: u32 = 10076;
const STORE_FAILED: u32 = 10077;
const WRONG_LAST_SEQUENCE_CONSTANT: u32 = 10164;
