//! Every way to tell who we are to every store.

use std::path::Path;

use litestream_testkit::sftp_server::{Kind, fresh_share};

use super::parrot::Speech;
use super::{KEY, PASSWORD, PASSWORD_IN_URL, SEED, SIGNATURE, TOKEN};

/// One way.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) speech: Speech,
    /// Makes what it needs in a directory; the store is at an address.
    pub(crate) settings: fn(&Path, &str) -> Settings,
}

/// A `replica:` mapping and what stands beside it.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) replica: String,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Secrets of this case alone.
    pub(crate) secrets: Vec<String>,
}

impl Settings {
    fn of(replica: String) -> Self {
        Self { replica, ..Self::default() }
    }

    fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    fn secret(mut self, text: impl Into<String>) -> Self {
        self.secrets.push(text.into());
        self
    }

    /// Every long line of a file is one.
    fn secret_lines(mut self, text: &str) -> Self {
        self.secrets.extend(text.lines().filter(|line| line.len() > 30 && !line.contains("---")).map(str::to_owned));
        self
    }
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn s3(address: &str) -> String {
    format!("url: s3://b/p?endpoint=http://{address}&region=us-east-1\n")
}

fn abs(address: &str) -> String {
    format!("type: abs\naccount-name: a\nbucket: b\npath: p\nendpoint: http://{address}/a\n")
}

fn gs(dir: &Path, credentials: &str) -> Settings {
    let path = file(dir, "credentials.json", credentials);
    Settings::of("type: gs\nbucket: b\npath: p\n".into()).env("GOOGLE_APPLICATION_CREDENTIALS", path)
}

/// Made for tests of signatures; opens nothing.
const PRIVATE_KEY: &str = include_str!("../../../litestream-replica/src/http/identity/testdata/pkcs8.pem");

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "s3",
        speech: Speech::Http,
        settings: |_, address| {
            Settings::of(format!(
                "type: s3\nbucket: b\npath: p\nregion: us-east-1\nendpoint: http://{address}\naccess-key-id: AKID\n\
                 secret-access-key: {KEY}\nsse-customer-key: {KEY}\n"
            ))
        },
    },
    Case {
        name: "s3, key for the objects in the URL",
        speech: Speech::Http,
        settings: |_, address| {
            let replica = format!(
                "url: s3://b/p?endpoint=http://{address}&region=us-east-1&sseCustomerKey={}\n\
                 access-key-id: AKID\nsecret-access-key: {KEY}\n",
                KEY.replace('=', "%3D")
            );
            Settings::of(replica)
        },
    },
    Case {
        name: "s3, environment",
        speech: Speech::Http,
        settings: |_, address| {
            let settings = Settings::of(s3(address)).env("AWS_ACCESS_KEY_ID", "AKID");
            settings.env("AWS_SECRET_ACCESS_KEY", KEY).env("AWS_SESSION_TOKEN", TOKEN)
        },
    },
    Case {
        name: "s3, shared file",
        speech: Speech::Http,
        settings: |dir, address| {
            let text =
                format!("[me]\naws_access_key_id = AKID\naws_secret_access_key = {KEY}\naws_session_token = {TOKEN}\n");
            let path = file(dir, "credentials", &text);
            Settings::of(s3(address)).env("AWS_SHARED_CREDENTIALS_FILE", path).env("AWS_PROFILE", "me")
        },
    },
    Case {
        name: "s3, container",
        speech: Speech::Http,
        settings: |_, address| {
            Settings::of(s3(address))
                .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{address}/role"))
                .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", TOKEN)
                .env("AWS_EC2_METADATA_DISABLED", "true")
        },
    },
    Case {
        name: "s3, proxy",
        speech: Speech::Http,
        settings: |_, address| {
            let replica = "type: s3\nbucket: b\nregion: us-east-1\nendpoint: http://store.example\n\
                           access-key-id: AKID\n";
            Settings::of(format!("{replica}secret-access-key: {KEY}\n"))
                .env("HTTP_PROXY", format!("http://user:{PASSWORD_IN_URL}@{address}"))
        },
    },
    Case {
        name: "abs",
        speech: Speech::Http,
        settings: |_, address| Settings::of(format!("{}account-key: {KEY}\n", abs(address))),
    },
    Case {
        name: "abs, signature",
        speech: Speech::Http,
        settings: |_, address| {
            Settings::of(format!("{}sas-token: \"sv=2019-12-12&sp=rw&sig={SIGNATURE}\"\n", abs(address)))
        },
    },
    Case {
        name: "abs, signature in the environment",
        speech: Speech::Http,
        settings: |_, address| {
            let token = format!("?sv=2019-12-12&sp=rw&sig={SIGNATURE}");
            Settings::of(abs(address)).env("LITESTREAM_AZURE_SAS_TOKEN", token)
        },
    },
    Case {
        name: "abs, service principal",
        speech: Speech::Http,
        settings: |_, address| {
            Settings::of(abs(address))
                .env("AZURE_AUTHORITY_HOST", format!("http://{address}"))
                .env("AZURE_TENANT_ID", "t")
                .env("AZURE_CLIENT_ID", "c")
                .env("AZURE_CLIENT_SECRET", PASSWORD)
        },
    },
    Case {
        name: "abs, token",
        speech: Speech::Http,
        settings: |_, address| {
            Settings::of(abs(address))
                .env("IDENTITY_ENDPOINT", format!("http://{address}/ok/token"))
                .env("IDENTITY_HEADER", PASSWORD)
                .env("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        },
    },
    Case {
        name: "gs, service account",
        speech: Speech::Http,
        settings: |dir, address| {
            let key = PRIVATE_KEY.replace('\n', "\\n");
            let text = format!(
                "{{\"type\":\"service_account\",\"client_email\":\"me@x\",\"private_key_id\":\"k\",\
                 \"private_key\":\"{key}\",\"token_uri\":\"http://{address}/token\"}}"
            );
            // The statement is a token of three parts, which begins so.
            gs(dir, &text).secret_lines(PRIVATE_KEY).secret("eyJhbGciOiJ")
        },
    },
    Case {
        name: "gs, person",
        speech: Speech::Http,
        settings: |dir, address| {
            let text = format!(
                "{{\"type\":\"authorized_user\",\"client_id\":\"c\",\"client_secret\":\"{PASSWORD}\",\
                 \"refresh_token\":\"{TOKEN}\",\"token_uri\":\"http://{address}/token\"}}"
            );
            gs(dir, &text)
        },
    },
    Case {
        name: "gs, other cloud",
        speech: Speech::Http,
        settings: |dir, address| {
            let subject = file(dir, "subject", TOKEN);
            let text = format!(
                "{{\"type\":\"external_account\",\"audience\":\"a\",\"subject_token_type\":\"jwt\",\
                 \"token_url\":\"http://{address}/token\",\"credential_source\":{{\"file\":\"{subject}\"}}}}"
            );
            gs(dir, &text)
        },
    },
    Case {
        name: "webdav",
        speech: Speech::Http,
        settings: |_, address| Settings::of(format!("url: webdav://user:{PASSWORD_IN_URL}@{address}/p\n")),
    },
    Case {
        name: "webdav, keys",
        speech: Speech::Http,
        settings: |_, address| {
            let replica = format!("type: webdav\nwebdav-url: http://{address}/base\npath: p\nwebdav-username: user\n");
            Settings::of(format!("{replica}webdav-password: {PASSWORD}\n"))
        },
    },
    Case {
        name: "oss",
        speech: Speech::Http,
        settings: |_, address| {
            let replica = format!("type: oss\nbucket: b\npath: p\nendpoint: http://{address}\nregion: r\n");
            Settings::of(format!("{replica}access-key-id: AKID\nsecret-access-key: {KEY}\n"))
        },
    },
    Case {
        name: "oss, environment",
        speech: Speech::Http,
        settings: |_, address| {
            Settings::of(format!("url: oss://b/p?endpoint=http://{address}&region=r\n"))
                .env("OSS_ACCESS_KEY_ID", "AKID")
                .env("OSS_ACCESS_KEY_SECRET", KEY)
                .env("OSS_SESSION_TOKEN", TOKEN)
        },
    },
    Case {
        name: "nats, user",
        speech: Speech::Nats,
        settings: |_, address| Settings::of(format!("url: nats://user:{PASSWORD_IN_URL}@{address}/b\n")),
    },
    Case {
        name: "nats, token",
        speech: Speech::Nats,
        settings: |_, address| Settings::of(format!("url: nats://{address}/b\ntoken: {TOKEN}\n")),
    },
    Case {
        name: "nats, jwt and seed",
        speech: Speech::Nats,
        settings: |_, address| Settings::of(format!("url: nats://{address}/b\njwt: {TOKEN}\nseed: {SEED}\n")),
    },
    Case {
        name: "nats, nkey",
        speech: Speech::Nats,
        settings: |_, address| Settings::of(format!("url: nats://{address}/b\nnkey: {SEED}\n")),
    },
    Case {
        name: "nats, file",
        speech: Speech::Nats,
        settings: |dir, address| {
            let text = format!(
                "-----BEGIN NATS USER JWT-----\n{TOKEN}\n------END NATS USER JWT------\n\
                 -----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
            );
            let path = file(dir, "user.creds", &text);
            Settings::of(format!("url: nats://{address}/b\ncreds: {path}\n"))
        },
    },
    Case {
        name: "sftp, broken server",
        speech: Speech::Ssh,
        settings: |_, address| Settings::of(format!("url: sftp://user:{PASSWORD_IN_URL}@{address}/p\n")),
    },
    Case {
        name: "sftp, refused",
        speech: Speech::Ssh,
        settings: |_, _| {
            let share = fresh_share(Kind::OpenSsh).unwrap();
            let key = share.key("stranger");
            let text = std::fs::read_to_string(&key).unwrap();
            let replica = format!("type: sftp\nhost: {}\nuser: {}\npath: /p\n", share.host, share.user);
            Settings::of(format!("{replica}password: {PASSWORD}\nkey-path: {}\n", key.display())).secret_lines(&text)
        },
    },
    Case {
        name: "sftp, key with a passphrase",
        speech: Speech::Ssh,
        settings: |_, _| {
            let share = fresh_share(Kind::OpenSsh).unwrap();
            let key = share.key("encrypted");
            let text = std::fs::read_to_string(&key).unwrap();
            let replica = format!("type: sftp\nhost: {}\nuser: {}\npath: /p\n", share.host, share.user);
            Settings::of(format!("{replica}key-path: {}\n", key.display())).secret_lines(&text)
        },
    },
    Case {
        name: "sftp, broken key",
        speech: Speech::Ssh,
        settings: |dir, address| {
            let key = file(dir, "key", &format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{TOKEN}\n{KEY}\n"));
            Settings::of(format!("type: sftp\nhost: {address}\nuser: u\npath: /p\nkey-path: {key}\n"))
        },
    },
];
