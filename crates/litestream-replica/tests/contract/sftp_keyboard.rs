//! A server that asks for the password "by keyboard", as OpenSSH with PAM does: one
//! that does so without being root does not exist, so the library's own server
//! stands in up to the moment at which somebody is let in.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use litestream_replica::retry::RetryPolicy;
use litestream_replica::sftp::{SftpClient, SftpOptions};
use litestream_replica::{ClientContext, ErrorKind, ReplicaClient};
use litestream_testkit::sftp_server::{Kind, fresh_share};
use russh::server::{Auth, Config, Handler, Response};
use russh::{MethodKind, MethodSet};
use tokio::net::TcpListener;

const PASSWORD: &str = "hunter2-by-keyboard";

/// Who was let in, and what was answered on the way.
#[derive(Clone, Default)]
struct Door {
    answers: Arc<Mutex<Vec<Vec<String>>>>,
    entered: Arc<Mutex<u32>>,
}

impl Handler for Door {
    type Error = russh::Error;

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let Some(response) = response else {
            let prompts = vec![(Cow::from("Terminal: "), true), (Cow::from("Password: "), false)];
            return Ok(Auth::Partial { name: "".into(), instructions: "".into(), prompts: prompts.into() });
        };
        let answers: Vec<String> = response.map(|answer| String::from_utf8(answer.to_vec()).unwrap()).collect();
        let is_right = answers.last().is_some_and(|answer| answer == PASSWORD);
        self.answers.lock().unwrap().push(answers);
        if !is_right {
            return Ok(Auth::reject());
        }
        *self.entered.lock().unwrap() += 1;
        Ok(Auth::Accept)
    }
}

/// The server, which nobody gets further into than the door.
async fn door() -> (String, Door) {
    let share = tokio::task::spawn_blocking(|| fresh_share(Kind::OpenSsh)).await.unwrap().unwrap();
    let key = std::fs::read_to_string(share.key("ed25519")).unwrap();
    let config = Arc::new(Config {
        methods: MethodSet::from(&[MethodKind::KeyboardInteractive][..]),
        keys: vec![russh::keys::decode_secret_key(&key, None).unwrap()],
        auth_rejection_time: Duration::from_millis(1),
        ..Config::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let door = Door::default();
    let own = door.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (config, door) = (config.clone(), own.clone());
            tokio::spawn(async move {
                if let Ok(session) = russh::server::run_stream(config, stream, door).await {
                    // Clients hang up, which is no failure of the server's.
                    let _ = session.await;
                }
            });
        }
    });
    (address, door)
}

fn client(host: String, password: &str) -> SftpClient {
    let options = SftpOptions {
        host: Some(host),
        user: Some("me".into()),
        password: Some(password.into()),
        path: Some("/p".into()),
        ..SftpOptions::default()
    };
    let context =
        ClientContext { retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() }, ..ClientContext::default() };
    SftpClient::new(options, &context).unwrap()
}

#[tokio::test]
async fn the_password_answers_a_server_that_asks_by_keyboard() {
    let (address, door) = door().await;
    let error = client(address, PASSWORD).init().await.unwrap_err();
    assert_eq!(*door.entered.lock().unwrap(), 1, "{error}");
    // What is asked with an echo is for a person.
    assert_eq!(*door.answers.lock().unwrap(), [["".to_owned(), PASSWORD.to_owned()]]);
    assert!(!error.to_string().contains("does not accept"), "there is no directory behind the door: {error}");
}

#[tokio::test]
async fn a_password_that_the_keyboard_refuses_is_explained_and_not_shown() {
    let (address, door) = door().await;
    let error = client(address, "wrong-by-keyboard").init().await.unwrap_err();
    assert_eq!((error.kind(), *door.entered.lock().unwrap()), (ErrorKind::Setup, 0), "{error}");
    let text = error.to_string();
    assert!(text.contains("does not accept user me with") && text.contains("keyboard-interactive"), "{text}");
    assert!(!text.contains("wrong-by-keyboard"), "{text}");
    assert_eq!(door.answers.lock().unwrap().len(), 1, "nobody is locked out by repetitions");
}
