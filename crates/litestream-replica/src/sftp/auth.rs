//! Who we are to an SSH server.
//!
//! In upstream's order: nothing, the password (also as the answer to a server
//! that asks for it by keyboard), the key file. Where neither is set, the keys of
//! an agent. A server may want several in a row. Nothing here is ever logged, and
//! no error holds more than names of methods and paths.
//!
//! Spec: backends §7; RFC 4252, RFC 4256.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::client::{AuthResult, Handle, Handler, KeyboardInteractiveAuthResponse as Keyboard};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Error as KeyError, HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};

use crate::{Error, ErrorKind, Result};

/// What we can show.
#[derive(PartialEq, Eq, Hash, Clone)]
pub(super) struct Identity {
    pub(super) user: String,
    pub(super) password: Option<String>,
    pub(super) key_path: Option<PathBuf>,
    /// Socket of an agent.
    pub(super) agent: Option<PathBuf>,
}

impl Identity {
    /// Satisfies the server behind `connection`, named `host` in messages.
    ///
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) when it does not accept what we have, or the
    /// key file cannot be used.
    pub(super) async fn prove<H: Handler>(&self, connection: &mut Handle<H>, host: &str) -> Result<()> {
        // Read first: a broken file is better told before the server is asked.
        let key = self.key_path.as_deref().map(read_key).transpose()?;
        let mut attempt = Attempt { identity: self, connection, tried: Vec::new(), allowed: MethodSet::empty() };
        // Each round satisfies one demand of a server that has several.
        for _ in 0..MOST_DEMANDS {
            match attempt.round(key.as_ref()).await? {
                Outcome::Accepted => return Ok(()),
                Outcome::MoreWanted => {}
                Outcome::Refused => break,
            }
        }
        Err(attempt.refused(host))
    }
}

struct Attempt<'a, H: Handler> {
    identity: &'a Identity,
    connection: &'a mut Handle<H>,
    /// What was shown, for the message.
    tried: Vec<&'static str>,
    /// What the server would take.
    allowed: MethodSet,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Accepted,
    /// That was right, and something else is wanted besides.
    MoreWanted,
    Refused,
}

impl<H: Handler> Attempt<'_, H> {
    async fn round(&mut self, key: Option<&Arc<PrivateKey>>) -> Result<Outcome> {
        let user = self.identity.user.clone();
        if self.tried.is_empty() {
            self.tried.push("nothing");
            let result = self.connection.authenticate_none(&user).await.map_err(broken)?;
            let outcome = self.note(result);
            if outcome != Outcome::Refused {
                return Ok(outcome);
            }
        }
        if let Some(password) = &self.identity.password {
            if self.may("password", MethodKind::Password) {
                let result = self.connection.authenticate_password(&user, password).await.map_err(broken)?;
                let outcome = self.note(result);
                if outcome != Outcome::Refused {
                    return Ok(outcome);
                }
            }
            if self.may("keyboard-interactive", MethodKind::KeyboardInteractive) {
                let outcome = self.by_keyboard(&user, password).await?;
                if outcome != Outcome::Refused {
                    return Ok(outcome);
                }
            }
        }
        if let Some(key) = key
            && self.may("key-path", MethodKind::PublicKey)
        {
            let hash = if key.algorithm().is_rsa() { self.rsa_hash().await? } else { None };
            let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
            let result = self.connection.authenticate_publickey(&user, key).await.map_err(broken)?;
            return Ok(self.note(result));
        }
        if let Some(socket) = &self.identity.agent
            && key.is_none()
            && self.identity.password.is_none()
            && self.may("ssh-agent", MethodKind::PublicKey)
        {
            return self.by_agent(&user, socket).await;
        }
        Ok(Outcome::Refused)
    }

    /// Whether `method` is worth a try; if so it counts as tried.
    fn may(&mut self, name: &'static str, method: MethodKind) -> bool {
        // A server that says nothing of what it takes may take anything.
        let allowed = self.allowed.is_empty() || self.allowed.contains(&method);
        let may = allowed && !self.tried.contains(&name);
        if may {
            self.tried.push(name);
        }
        may
    }

    fn note(&mut self, result: AuthResult) -> Outcome {
        match result {
            AuthResult::Success => Outcome::Accepted,
            AuthResult::Failure { remaining_methods, partial_success } => {
                self.allowed = remaining_methods;
                if partial_success { Outcome::MoreWanted } else { Outcome::Refused }
            }
        }
    }

    /// The best signature over an RSA key that the server says it takes.
    async fn rsa_hash(&mut self) -> Result<Option<HashAlg>> {
        let known = self.connection.best_supported_rsa_hash().await.map_err(broken)?;
        // Every server of the last ten years takes SHA-2, even if it does not say so.
        Ok(known.unwrap_or(Some(HashAlg::Sha512)))
    }

    /// Answers what is asked without echo with the password; anything else would
    /// be for a person.
    async fn by_keyboard(&mut self, user: &str, password: &str) -> Result<Outcome> {
        let mut reply = self.connection.authenticate_keyboard_interactive_start(user, None).await.map_err(broken)?;
        let mut answered = false;
        for _ in 0..MOST_DEMANDS {
            match reply {
                Keyboard::Success => return Ok(Outcome::Accepted),
                Keyboard::Failure { remaining_methods, partial_success } => {
                    return Ok(self.note(AuthResult::Failure { remaining_methods, partial_success }));
                }
                Keyboard::InfoRequest { prompts, .. } => {
                    let asked = prompts.iter().any(|prompt| !prompt.echo);
                    if asked && answered {
                        break;
                    }
                    answered |= asked;
                    let answers = prompts.iter().map(|p| if p.echo { String::new() } else { password.to_owned() });
                    let answers = answers.collect();
                    reply = self.connection.authenticate_keyboard_interactive_respond(answers).await.map_err(broken)?;
                }
            }
        }
        Ok(Outcome::Refused)
    }

    async fn by_agent(&mut self, user: &str, socket: &Path) -> Result<Outcome> {
        let unusable = |error: KeyError| {
            let message = format!("use the agent at {} (SSH_AUTH_SOCK): {error}", socket.display());
            Error::new(ErrorKind::Setup, message)
        };
        let mut agent = AgentClient::connect_uds(socket).await.map_err(unusable)?;
        // Servers hang up after a few keys.
        for identity in agent.request_identities().await.map_err(unusable)?.into_iter().take(MOST_DEMANDS) {
            let AgentIdentity::PublicKey { key, .. } = identity else { continue };
            let hash = if key.algorithm().is_rsa() { self.rsa_hash().await? } else { None };
            let result = self.connection.authenticate_publickey_with(user, key, hash, &mut agent).await;
            // One that does not sign does not speak against the next.
            let Ok(result) = result else { continue };
            let outcome = self.note(result);
            if outcome != Outcome::Refused {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Refused)
    }

    fn refused(&self, host: &str) -> Error {
        if self.connection.is_closed() {
            return Error::new(ErrorKind::Transient, "the server hung up while we said who we are");
        }
        let tried = self.tried.iter().skip(1).copied().collect::<Vec<_>>().join(", ");
        let user = &self.identity.user;
        let allowed: Vec<&str> = self.allowed.iter().map(<&str>::from).collect();
        let allowed = allowed.join(", ");
        let message = match tried.as_str() {
            "" => format!("{host} asks who user {user} is ({allowed}); set key-path or password to what it takes"),
            _ => {
                format!("{host} does not accept user {user} with {tried} (it takes {allowed}); correct user and these")
            }
        };
        Error::new(ErrorKind::Setup, format!("ssh: handshake failed: ssh: unable to authenticate: {message}"))
    }
}

/// Reads a private key, in OpenSSH's form or PEM.
fn read_key(path: &Path) -> Result<Arc<PrivateKey>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let kind = match error.kind() {
            // Not to be taken for an object that is absent.
            std::io::ErrorKind::NotFound => ErrorKind::Setup,
            _ => Error::io("", std::io::Error::from(error.kind())).kind(),
        };
        Error::with_source(kind, format!("cannot read sftp key path: {}", path.display()), error)
    })?;
    let unusable =
        |why: &str| Error::new(ErrorKind::Setup, format!("cannot parse sftp key path: {why} ({})", path.display()));
    match russh::keys::decode_secret_key(&text, None) {
        Ok(key) if key.is_encrypted() => Err(unusable(ENCRYPTED)),
        Ok(key) => Ok(Arc::new(key)),
        Err(KeyError::KeyIsEncrypted) => Err(unusable(ENCRYPTED)),
        // The library's words might quote what they could not read.
        Err(_) if text.contains("ENCRYPTED") => Err(unusable(ENCRYPTED)),
        Err(_) => Err(unusable("ssh: no key found")),
    }
}

fn broken(error: russh::Error) -> Error {
    Error::with_source(ErrorKind::Transient, "say who we are", error)
}

const ENCRYPTED: &str = "ssh: this private key is passphrase protected; make a copy without one (ssh-keygen -p) or \
                         load it into an agent";

/// Demands of one server, prompts of one dialogue, keys of one agent.
const MOST_DEMANDS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_key_files_are_named_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let message = |content: Option<&str>| {
            match content {
                Some(content) => std::fs::write(&path, content).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let error = read_key(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
            error.to_string()
        };
        assert!(message(Some("s3cret")).contains("cannot parse sftp key path: ssh: no key found"));
        assert!(!message(Some("s3cret")).contains("s3cret"));
        let pem = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-EDE3-CBC,00\n\nAAAA\n\
                   -----END RSA PRIVATE KEY-----\n";
        assert!(message(Some(pem)).contains("passphrase protected"));
        assert!(message(None).contains("cannot read sftp key path"));
    }
}
