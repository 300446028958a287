//! What the daemon answers on its control socket.
//!
//! Every request is answered: with JSON, with an error in JSON, or with the plain
//! texts of unknown routes and wrong methods. A request that is cut off by its
//! deadline, by the shutdown or by a client that went away leaves nothing half
//! done: uploads are all or nothing, and a stop that has begun goes on.
//!
//! Spec: docs/commands.md, "Control socket".

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use litestream::{Database, DatabaseState, ErrorKind, Registration, ReplicaOptions, StopReport, Store};
use litestream_replica::ClientContext;
use litestream_replica::clock::{Clock, SystemClock};
use ltx::Txid;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::commands::version::VERSION;
use crate::config::{Config, ReplicaSettings, Surroundings};
use crate::control::types::{Changed, ErrorBody, Info, List, LocalTxid, Request, SyncStatus, Synced, number};
use crate::control::views::{changed, diagnosis, listed, local_txid};
use crate::environment::Environment;

/// What the routes work on.
pub(crate) struct Control {
    store: Arc<Store>,
    config: Config,
    environment: Environment,
    cwd: PathBuf,
    clients: ClientContext,
    started: Instant,
    started_at: Timestamp,
}

type Response = hyper::Response<Full<Bytes>>;

/// An answer that is not 200.
struct Refusal {
    status: StatusCode,
    body: ErrorBody,
}

type Answer<T> = Result<T, Refusal>;

impl Control {
    /// Over the databases of `store`, in the process as it stands.
    pub(crate) fn new(store: Arc<Store>, config: Config, surroundings: &Surroundings<'_>) -> Self {
        Self {
            store,
            config,
            environment: surroundings.environment.clone(),
            cwd: surroundings.cwd.clone(),
            clients: surroundings.clients.clone(),
            started: Instant::now(),
            started_at: SystemClock.now(),
        }
    }

    /// Answers one request; with 503 once `cancel` is cancelled.
    pub(crate) async fn answer(&self, request: hyper::Request<Incoming>, cancel: &CancellationToken) -> Response {
        tokio::select! {
            response = self.route(request) => response,
            () = cancel.cancelled() => refusal(StatusCode::SERVICE_UNAVAILABLE, "litestream is shutting down").into(),
        }
    }

    async fn route(&self, request: hyper::Request<Incoming>) -> Response {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let is_read = matches!(path, "/list" | "/info" | "/txid" | "/debug/sync-status");
        let is_change = matches!(path, "/sync" | "/start" | "/stop" | "/register" | "/unregister");
        if !is_read && !is_change {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        let fits = if is_read {
            head.method == Method::GET || head.method == Method::HEAD
        } else {
            head.method == Method::POST
        };
        if !fits {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(if is_read { "GET, HEAD" } else { "POST" }));
            return response;
        }
        if is_read {
            let wanted = query_path(head.uri.query().unwrap_or_default());
            return match path {
                "/list" => json(self.list().await),
                "/info" => json(Ok(self.info())),
                "/txid" => json(self.txid(wanted.as_deref())),
                _ => json(self.sync_status(wanted.as_deref())),
            };
        }
        let request = match read(body).await {
            Ok(request) => request,
            Err(refusal) => return refusal.into(),
        };
        match path {
            "/sync" => json(self.sync(request).await),
            "/start" => json(self.start(request).await),
            "/stop" => json(self.stop(request).await),
            "/register" => json(self.register(request).await),
            _ => json(self.unregister(request).await),
        }
    }

    async fn list(&self) -> Answer<List> {
        let databases = self.store.databases();
        // Looks at local files of databases that have something to send.
        let listed = tokio::task::spawn_blocking(move || databases.iter().map(|db| listed(db)).collect());
        let databases = listed.await.map_err(|error| internal(format!("list databases: {error}")))?;
        Ok(List { databases })
    }

    fn info(&self) -> Info {
        Info {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_seconds: i64::try_from(self.started.elapsed().as_secs()).unwrap_or(i64::MAX),
            started_at: self.started_at.into(),
            database_count: self.store.databases().len(),
        }
    }

    fn txid(&self, path: Option<&str>) -> Answer<LocalTxid> {
        let path = path.filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "path required"))?;
        let db = self.find(&self.absolute(path)?);
        let db = db.ok_or_else(|| refusal(StatusCode::NOT_FOUND, "database not found"))?;
        let replicated_txid = db.status().replica_txid.map(Txid::get);
        Ok(LocalTxid { txid: local_txid(&db), replicated_txid })
    }

    fn sync_status(&self, path: Option<&str>) -> Answer<SyncStatus> {
        let databases = match path.filter(|path| !path.is_empty()) {
            None => self.store.databases(),
            Some(path) => {
                let db = self.find(&self.absolute(path)?);
                vec![db.ok_or_else(|| refusal(StatusCode::NOT_FOUND, "database not found"))?]
            }
        };
        Ok(SyncStatus { databases: databases.iter().map(|db| diagnosis(db)).collect() })
    }

    async fn sync(&self, request: Request) -> Answer<Synced> {
        let path = self.path_of(&request)?;
        let wait = request.wait.unwrap_or(false);
        let limit = match request.timeout.unwrap_or(0) {
            0 if wait => Some(DEFAULT_TIMEOUT),
            seconds => u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs),
        };
        let db = self.find(&path).ok_or_else(|| not_found(StatusCode::NOT_FOUND, &path))?;
        if matches!(db.status().state, DatabaseState::Stopped | DatabaseState::Stopping) {
            return Err(refusal(StatusCode::CONFLICT, format!("database not open: {}", path.display())));
        }
        let before = local_txid(&db);
        let work = async {
            let synced = if wait { db.sync().await.map(Some) } else { db.sync_local().await };
            match synced {
                Ok(_) => Ok(()),
                // There is no database file yet, hence nothing to capture.
                Err(error) if error.kind() == ErrorKind::Missing && !wait => Ok(()),
                Err(error) if error.kind() == ErrorKind::Missing => {
                    Err(internal(format!("sync database: replica sync: no position, waiting for data: {error}")))
                }
                Err(error) => Err(internal(error.to_string())),
            }
        };
        match limit {
            None => work.await?,
            // The limit covers waiting for locks that a wedged upload holds.
            Some(limit) => timeout(limit, work).await.map_err(|_| {
                let status = db.status();
                let why = status.current_error().map_or_else(String::new, |error| format!(": {error}"));
                internal(format!("sync database: timed out after {}s{why}", limit.as_secs()))
            })??,
        }
        let txid = local_txid(&db);
        let status = match (wait, txid == before) {
            (_, true) => "no_change",
            (true, false) => "synced",
            (false, false) => "synced_local",
        };
        let replicated_txid = number(db.status().replica_txid);
        Ok(Synced { status: status.to_owned(), path: path.display().to_string(), txid, replicated_txid })
    }

    async fn start(&self, request: Request) -> Answer<Changed> {
        let path = self.path_of(&request)?;
        let seconds = request.timeout.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        let limit = seconds.map_or(LONGEST, Duration::from_secs);
        let db = self.find(&path).ok_or_else(|| not_found(StatusCode::INTERNAL_SERVER_ERROR, &path))?;
        let started = timeout(limit, self.store.start_database(&db))
            .await
            .map_err(|_| internal(format!("start database: timed out after {}s", limit.as_secs())))?
            .map_err(|error| internal(error.to_string()))?;
        if started {
            // The answer says how opening went, if that is known at once.
            first_pass(&db, OPEN_PATIENCE.min(limit)).await;
        }
        Ok(changed(&db, if started { "started" } else { "already_running" }))
    }

    async fn stop(&self, request: Request) -> Answer<Changed> {
        let path = self.path_of(&request)?;
        let limit = match request.timeout.unwrap_or(0) {
            0 => DEFAULT_TIMEOUT,
            // A negative one has passed already: closed without a final sync.
            seconds => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        };
        let db = self.find(&path).ok_or_else(|| not_found(StatusCode::INTERNAL_SERVER_ERROR, &path))?;
        let stopped = self.store.stop_database(&db, limit).await;
        let report = stopped.map_err(|error| internal(format!("close database: {error}")))?;
        match &report {
            StopReport { was_stopped: true, .. } => Ok(changed(&db, "already_stopped")),
            StopReport { unsent: Some(why), .. } => Err(unsent(format!("close database: {why}"), &db, "stopped")),
            _ => Ok(changed(&db, "stopped")),
        }
    }

    async fn register(&self, request: Request) -> Answer<Changed> {
        let path = self.path_of(&request)?;
        let url = request.replica_url.as_deref().filter(|url| !url.is_empty());
        let url = url.ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "replica_url required"))?;
        let surroundings = self.surroundings();
        let client = ReplicaSettings::from_registered_url(url, &self.environment)
            .client(Some(&path), &surroundings)
            .map_err(|why| {
                // What a wrong type is called here.
                let why = why.replace("unknown replica type in config:", "unsupported replica URL scheme:");
                refusal(StatusCode::BAD_REQUEST, format!("invalid replica url: {why}"))
            })?;
        let failed = |why: &dyn std::fmt::Display| internal(format!("failed to register database: {why}"));
        // A database the configuration knows keeps its settings, above all where its
        // local state is; only the replica is another.
        let options = match self.config.find(&path) {
            Some(known) => known.options().map_err(|error| failed(&error))?,
            None => litestream::DbOptions::new(&path),
        };
        if let Some(why) = self.sharing(&path, &options.meta_path(), &*client) {
            return Err(failed(&why));
        }
        let location = client.location();
        let registered = self.store.register(options, client, ReplicaOptions::default()).await;
        match registered.map_err(|error| failed(&error))? {
            Registration::New(db) => {
                tracing::info!(system = "server", path = %path.display(), replica = location, "database registered");
                Ok(Changed { txid: None, replicated_txid: None, ..changed(&db, "registered") })
            }
            Registration::Known(db) => {
                let known = db.client().location();
                let other_replica = (known != location).then_some(known);
                Ok(Changed { txid: None, replicated_txid: None, other_replica, ..changed(&db, "already_registered") })
            }
        }
    }

    async fn unregister(&self, request: Request) -> Answer<Changed> {
        let path = self.path_of(&request)?;
        let seconds = request.timeout.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        let limit = seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        let absent = |status: &str| Changed {
            status: status.to_owned(),
            path: path.display().to_string(),
            txid: Some(0),
            ..Changed::default()
        };
        let Some(db) = self.find(&path) else { return Ok(absent("already_unregistered")) };
        let failed = |why: &dyn std::fmt::Display| format!("failed to unregister database: {why}");
        let report = self.store.unregister(db.path(), limit).await.map_err(|error| internal(failed(&error)))?;
        let Some(report) = report else { return Ok(absent("already_unregistered")) };
        tracing::info!(system = "server", path = %path.display(), "database unregistered");
        match report.unsent {
            Some(why) => Err(unsent(failed(&why), &db, "unregistered")),
            None => Ok(changed(&db, "unregistered")),
        }
    }

    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings { environment: &self.environment, cwd: self.cwd.clone(), clients: self.clients.clone() }
    }

    fn absolute(&self, path: &str) -> Answer<PathBuf> {
        self.surroundings().absolute(path).map_err(|error| refusal(StatusCode::BAD_REQUEST, error.to_string()))
    }

    fn path_of(&self, request: &Request) -> Answer<PathBuf> {
        let path = request.path.as_deref().filter(|path| !path.is_empty());
        self.absolute(path.ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "path required"))?)
    }

    fn find(&self, path: &Path) -> Option<Arc<Database>> {
        self.store.find(path)
    }

    /// What a new database would share with one that is replicated: two of them
    /// would destroy each other's backups.
    fn sharing(&self, path: &Path, meta: &Path, client: &dyn litestream_replica::ReplicaClient) -> Option<String> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let file = real(path);
        self.store.databases().iter().filter(|other| other.path() != path).find_map(|other| {
            let theirs = other.client();
            let what = if real(other.path()) == file {
                format!("one file, {}", file.display())
            } else if other.meta_path() == meta {
                format!("one meta-path, {}", meta.display())
            } else if theirs.location() == client.location() && theirs.log_fields() == client.log_fields() {
                format!("one replica, {}", client.location())
            } else {
                return None;
            };
            Some(format!("{} and {} share {what}", other.path().display(), path.display()))
        })
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

/// Waits until the first pass after a start has ended, one way or the other.
async fn first_pass(db: &Database, limit: Duration) {
    let deadline = Instant::now() + limit;
    while db.status().state == DatabaseState::Starting && Instant::now() < deadline {
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Reads a request's JSON as leniently as upstream: whatever follows the first
/// value is ignored, and so is the content type.
async fn read(body: Incoming) -> Answer<Request> {
    let invalid = |details: String| Refusal {
        status: StatusCode::BAD_REQUEST,
        body: ErrorBody { error: "invalid request body".to_owned(), details: Some(details.into()) },
    };
    let bytes = timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_LEN).collect()).await;
    let bytes = bytes.map_err(|_| invalid("timed out".to_owned()))?.map_err(|error| invalid(error.to_string()))?;
    decode(&bytes.to_bytes()).map_err(invalid)
}

/// What a body asks for, or what is wrong with it.
pub(crate) fn decode(body: &[u8]) -> Result<Request, String> {
    let value = match serde_json::Deserializer::from_slice(body).into_iter::<Value>().next() {
        None => return Err("EOF".to_owned()),
        Some(value) => value.map_err(|error| error.to_string())?,
    };
    match value {
        Value::Null => Ok(Request::default()),
        Value::Object(_) => serde_json::from_value(value).map_err(|error| error.to_string()),
        _ => Err("expected an object".to_owned()),
    }
}

/// The `path` of a query string, decoded.
pub(crate) fn query_path(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("path="))?.replace('+', " ");
    Some(percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned())
}

fn refusal(status: StatusCode, error: impl Into<String>) -> Refusal {
    Refusal { status, body: ErrorBody { error: error.into(), details: None } }
}

fn internal(error: impl Into<String>) -> Refusal {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, error)
}

fn not_found(status: StatusCode, path: &Path) -> Refusal {
    refusal(status, format!("database not found: {}", path.display()))
}

/// It is done, but something is missing from the replica.
fn unsent(error: String, db: &Database, status: &str) -> Refusal {
    let details = serde_json::to_value(changed(db, status)).ok();
    Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, body: ErrorBody { error, details } }
}

fn json<T: Serialize>(answer: Answer<T>) -> Response {
    match answer {
        Ok(value) => body(StatusCode::OK, &value),
        Err(refusal) => refusal.into(),
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        body(refusal.status, &refusal.body)
    }
}

fn body(status: StatusCode, value: &impl Serialize) -> Response {
    // Our own types always have a JSON form.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    respond(status, "application/json", bytes.into())
}

fn text(status: StatusCode, body: &'static str) -> Response {
    respond(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn respond(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response {
    let mut response = hyper::Response::new(Full::new(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Stands for "no limit" where a request names none.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a start waits to see how the database was opened.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
const LOOK_PAUSE: Duration = Duration::from_millis(5);
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BODY_LEN: usize = 1 << 20;
