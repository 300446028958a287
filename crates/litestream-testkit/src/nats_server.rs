//! Real NATS servers on loopback, one for each way to prove who one is.
//!
//! Ports are the system's choice, every test gets a bucket of its own, and no
//! server outlives the test process (see [`spawn`](crate::spawn)).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use async_nats::{Client, ConnectOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::nats_trust::{self, User};
use crate::python;
use crate::s3_server::{free_ports, run_dir, sweep};
use crate::spawn::spawn;

/// How users prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Not at all.
    Plain,
    /// By user name and password.
    User,
    /// By a token.
    Token,
    /// By an nkey.
    Nkey,
    /// By a certificate of [`CLIENT_CERT`]'s authority, and user name and password.
    Tls,
    /// By a JWT of the server's operator.
    Jwt,
    /// Not at all; but there is no JetStream.
    NoJetStream,
}

/// Every kind that can hold a bucket.
pub const ALL: [Kind; 6] = [Kind::Plain, Kind::User, Kind::Token, Kind::Nkey, Kind::Tls, Kind::Jwt];

/// User name on every server that asks for one.
pub const USERNAME: &str = "replica";
/// A user of the same servers who may read and no more.
pub const READER: &str = "reader";
/// Their password, and the token, with signs that mean something in URLs.
pub const PASSWORD: &str = "p:ss/w%rd+1";
/// PEM file of the authority that signed the certificate of [`Kind::Tls`] for
/// `localhost` and `127.0.0.1`.
pub const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/ca.pem");
/// PEM file of a certificate that [`Kind::Tls`] accepts, for a hundred years from
/// 2026. The authority's key is thrown away; this one's is worth nothing.
pub const CLIENT_CERT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/client.pem");
/// PEM file of its key.
pub const CLIENT_KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/client.key");

/// A bucket that nobody else uses, on the server of this kind that all tests of
/// this process share.
///
/// # Errors
/// When the server does not start.
///
/// # Panics
/// When the program cannot be installed.
pub fn fresh_bucket(kind: Kind) -> Result<NatsBucket> {
    static SERVERS: Mutex<BTreeMap<usize, &'static NatsServer>> = Mutex::new(BTreeMap::new());
    let server = {
        let mut servers = SERVERS.lock().map_err(|_| anyhow!("a thread panicked while it started a server"))?;
        match servers.get(&(kind as usize)) {
            Some(server) => *server,
            None => {
                let server: &'static NatsServer = Box::leak(Box::new(NatsServer::start(kind)?));
                servers.insert(kind as usize, server);
                server
            }
        }
    };
    server.fresh_bucket()
}

/// A server of a test's own, which can be stopped and started again. Killed when
/// dropped.
#[derive(Debug)]
pub struct NatsServer {
    child: Child,
    access: Access,
    dir: PathBuf,
}

/// What a client must know of a server.
#[derive(Clone, Debug)]
pub struct Access {
    /// How users prove who they are.
    pub kind: Kind,
    /// `127.0.0.1:<port>`.
    pub address: String,
    /// Seed of the user: the nkey, or the one behind the JWT.
    pub seed: String,
    /// The user's JWT.
    pub jwt: String,
    /// A file with both.
    pub creds: PathBuf,
}

impl NatsServer {
    /// Starts a server.
    ///
    /// # Errors
    /// When it does not listen within a minute, after three attempts.
    ///
    /// # Panics
    /// When the program cannot be installed.
    pub fn start(kind: Kind) -> Result<Self> {
        let mut attempts_left = 3;
        loop {
            attempts_left -= 1;
            // A port that was free may be taken before the server binds it.
            match Self::start_once(kind) {
                Err(_) if attempts_left > 0 => {}
                result => return result,
            }
        }
    }

    fn start_once(kind: Kind) -> Result<Self> {
        let dir = run_dir(kind)?;
        let [port] = free_ports()?;
        let (rules, User { jwt, seed }) = rules(kind, &dir)?;
        let storage = match kind {
            Kind::NoJetStream => String::new(),
            _ => format!("jetstream {{ store_dir: \"{}/data\" }}\n", dir.display()),
        };
        fs::write(dir.join("nats.conf"), format!("listen: 127.0.0.1:{port}\n{storage}{rules}"))?;
        let access = Access { kind, address: format!("127.0.0.1:{port}"), seed, jwt, creds: dir.join("user.creds") };
        let child = launch(&dir)?;
        let mut server = Self { child, access, dir };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Where it is and how to get in.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Kills it. What it acknowledged stays.
    ///
    /// # Errors
    /// When it has ended by itself before.
    pub fn stop(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again in the same place.
    ///
    /// # Errors
    /// When it does not listen within a minute.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = launch(&self.dir)?;
        self.wait_until_ready()
    }

    /// A bucket that nobody else uses.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn fresh_bucket(&self) -> Result<NatsBucket> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bucket = NatsBucket { access: self.access.clone(), name };
        bucket.create()?;
        Ok(bucket)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("nats-server ended with {status}, log {}", self.log());
            }
            match TcpStream::connect(&self.access.address) {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > Duration::from_secs(60) => {
                    return Err(error).with_context(|| format!("nats-server, log {}", self.log()));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn log(&self) -> String {
        let text = fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(text.get(text.len().saturating_sub(4000)..).unwrap_or_default()).into_owned()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // Fails only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        sweep(&self.dir);
    }
}

fn launch(dir: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    let errors = log.try_clone()?;
    spawn(&python::program(python::NATS, "nats-server"), |command| {
        command.arg("-c").arg(dir.join("nats.conf")).env_clear().env("HOME", dir);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
    })
}

/// The part of the configuration that says who may come in.
fn rules(kind: Kind, dir: &Path) -> Result<(String, User)> {
    let users = format!(
        "authorization {{ users: [ {{ user: \"{USERNAME}\", password: \"{PASSWORD}\" }}, \
         {{ user: \"{READER}\", password: \"{PASSWORD}\", permissions: {{ publish: {{ \
         deny: [\"$O.>\", \"$JS.API.STREAM.PURGE.>\"] }} }} }} ] }}\n"
    );
    let mut user = User { jwt: String::new(), seed: String::new() };
    let text = match kind {
        Kind::Plain | Kind::NoJetStream => String::new(),
        Kind::User => users,
        Kind::Token => format!("authorization {{ token: \"{PASSWORD}\" }}\n"),
        Kind::Nkey => {
            let key = KeyPair::new_user();
            user.seed = key.seed()?;
            format!("authorization {{ users: [ {{ nkey: {} }} ] }}\n", key.public_key())
        }
        Kind::Tls => {
            let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tls");
            format!(
                "tls {{ cert_file: \"{own}/server.pem\", key_file: \"{own}/server.key\", ca_file: \"{own}/client-ca.pem\", \
                 verify: true }}\n{users}"
            )
        }
        Kind::Jwt => {
            user = nats_trust::write(dir)?;
            "include trust.conf\n".to_owned()
        }
    };
    Ok((text, user))
}

/// Where a bucket is, and a look at its messages that goes through none of the
/// code under test.
#[derive(Clone, Debug)]
pub struct NatsBucket {
    /// The server.
    pub access: Access,
    /// The bucket's name.
    pub name: String,
}

impl NatsBucket {
    /// The `replica:` mapping of a `litestream.yml`, without indentation.
    pub fn config(&self) -> String {
        let Access { kind, address, creds, seed, .. } = &self.access;
        let user = match kind {
            Kind::Plain | Kind::NoJetStream => String::new(),
            Kind::User => format!("username: {USERNAME}\npassword: \"{PASSWORD}\"\n"),
            Kind::Token => format!("token: \"{PASSWORD}\"\n"),
            Kind::Nkey => format!("nkey: {seed}\n"),
            Kind::Tls => format!(
                "username: {USERNAME}\npassword: \"{PASSWORD}\"\ntls: true\nroot-cas: [{CA}]\n\
                 client-cert: {CLIENT_CERT}\nclient-key: {CLIENT_KEY}\n"
            ),
            Kind::Jwt => format!("creds: {}\n", creds.display()),
        };
        format!("type: nats\nurl: nats://{address}/{}\n{user}", self.name)
    }

    /// Makes the bucket, as the `nats` tool does.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn create(&self) -> Result<()> {
        let (stream, name) = (self.stream(), &self.name);
        let config = json!({
            "name": stream, "subjects": [format!("$O.{name}.C.>"), format!("$O.{name}.M.>")], "discard": "new",
            "storage": "file", "num_replicas": 1, "allow_rollup_hdrs": true, "allow_direct": true,
        });
        self.ask(&format!("STREAM.CREATE.{stream}"), &config).map(drop)
    }

    /// How many messages each subject of the bucket has: `C.<nuid>` for chunks,
    /// `M.<name in base64>` for objects.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn messages(&self) -> Result<BTreeMap<String, u64>> {
        let answer = self.ask(&format!("STREAM.INFO.{}", self.stream()), &json!({"subjects_filter": ">"}))?;
        let subjects = answer.pointer("/state/subjects").and_then(Value::as_object).cloned().unwrap_or_default();
        let prefix = format!("$O.{}.", self.name);
        let short = |subject: String| subject.strip_prefix(&prefix).map_or(subject.clone(), str::to_owned);
        Ok(subjects.into_iter().map(|(subject, count)| (short(subject), count.as_u64().unwrap_or_default())).collect())
    }

    /// The newest description of each object, deleted ones included.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn descriptions(&self) -> Result<Vec<Value>> {
        let verb = format!("STREAM.MSG.GET.{}", self.stream());
        let subjects: Vec<String> = self.messages()?.into_keys().filter(|subject| subject.starts_with("M.")).collect();
        let describe = |subject: &String| {
            let answer = self.ask(&verb, &json!({ "last_by_subj": format!("$O.{}.{subject}", self.name) }))?;
            let data = answer.pointer("/message/data").and_then(Value::as_str).context("message without content")?;
            Ok(serde_json::from_slice(&STANDARD.decode(data)?)?)
        };
        subjects.iter().map(describe).collect()
    }

    /// How many consumers stand on the bucket's stream.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn consumers(&self) -> Result<u64> {
        let answer = self.ask(&format!("STREAM.INFO.{}", self.stream()), &json!({}))?;
        answer.pointer("/state/consumer_count").and_then(Value::as_u64).context("consumer_count")
    }

    /// Asks JetStream's API.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub fn ask(&self, verb: &str, question: &Value) -> Result<Value> {
        let (subject, question) = (format!("$JS.API.{verb}"), question.to_string());
        let answer = self.with_client(async move |client| {
            let message = client.request(subject, question.into()).await?;
            Ok(serde_json::from_slice::<Value>(&message.payload)?)
        })?;
        match answer.get("error") {
            Some(error) => bail!("{verb}: {error}"),
            None => Ok(answer),
        }
    }

    /// Publishes a message below the bucket's subjects and waits for its
    /// acknowledgement.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub fn publish(&self, subject: &str, payload: &[u8]) -> Result<()> {
        let (subject, payload) = (format!("$O.{}.{subject}", self.name), payload.to_vec());
        self.with_client(async move |client| Ok(client.request(subject, payload.into()).await.map(drop)?))
    }

    /// Runs `job` with a connection, on a thread of its own: callers may be async.
    fn with_client<T: Send>(&self, job: impl AsyncFnOnce(Client) -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let run = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async { job(self.connect().await?).await })
            };
            scope.spawn(run).join().map_err(|_| anyhow!("a look into the bucket panicked"))?
        })
    }

    async fn connect(&self) -> Result<Client> {
        let Access { kind, address, creds, seed, .. } = &self.access;
        let options = ConnectOptions::new();
        let options = match kind {
            Kind::Plain | Kind::NoJetStream => options,
            Kind::User => options.user_and_password(USERNAME.to_owned(), PASSWORD.to_owned()),
            Kind::Token => options.token(PASSWORD.to_owned()),
            Kind::Nkey => options.nkey(seed.clone()),
            Kind::Tls => options
                .user_and_password(USERNAME.to_owned(), PASSWORD.to_owned())
                .add_root_certificates(CA.into())
                .add_client_certificate(CLIENT_CERT.into(), CLIENT_KEY.into())
                .require_tls(true),
            Kind::Jwt => options.credentials_file(creds).await?,
        };
        Ok(options.connect(format!("nats://{address}")).await?)
    }

    fn stream(&self) -> String {
        format!("OBJ_{}", self.name)
    }
}
