//! Who we are to the server: one of five sorts of credentials.
//!
//! Files are read at every connection, so that renewed ones take effect at the
//! next. No error quotes anything of a credential.

use std::fmt;
use std::path::{Path, PathBuf};

use async_nats::{Auth, AuthError};
use nkeys::KeyPair;

use super::options::{NatsOptions, given};
use crate::Result;
use crate::http::echo::Secrets;
use crate::url::setup;

/// The credentials that are used, of all that are set.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    None,
    /// JWT and seed.
    Jwt(String, String),
    /// A file with both.
    File(PathBuf),
    /// A seed.
    Seed(String),
    /// A file with a seed.
    SeedFile(PathBuf),
    /// Name and password.
    User(String, String),
    Token(String),
}

impl Credentials {
    /// Takes the first complete sort: JWT with seed, file, nkey, user, token.
    ///
    /// # Errors
    /// [`Setup`](crate::ErrorKind::Setup) for seeds that are none.
    pub(super) fn choose(options: &NatsOptions) -> Result<Self> {
        let text = |text: &Option<String>| given(text.clone());
        let checked = |seed: String, key: &str| match KeyPair::from_seed(&seed) {
            Ok(_) => Ok(seed),
            Err(_) => Err(setup(format!("{key} of the nats replica is no nkey seed (SU…)"))),
        };
        Ok(match (text(&options.jwt), text(&options.seed)) {
            (Some(jwt), Some(seed)) => Self::Jwt(jwt, checked(seed, "seed")?),
            _ => match (text(&options.creds), text(&options.nkey)) {
                (Some(file), _) => Self::File(file.into()),
                // Public keys, files and seeds are told apart by their looks.
                (None, Some(nkey)) if nkey.starts_with("SU") && !nkey.contains(['/', '.']) => {
                    Self::Seed(checked(nkey, "nkey")?)
                }
                (None, Some(nkey)) => Self::SeedFile(nkey.into()),
                (None, None) => match (text(&options.username), text(&options.password), text(&options.token)) {
                    (Some(user), Some(password), _) => Self::User(user, password),
                    (_, _, Some(token)) => Self::Token(token),
                    _ => Self::None,
                },
            },
        })
    }

    /// What proves to the server who we are.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        let mut sign = |seed: &str| -> Result<String, AuthError> {
            let invalid = |_| AuthError::new("the seed is no nkey seed (SU…)");
            let key = KeyPair::from_seed(seed).map_err(invalid)?;
            auth.signature = Some(key.sign(nonce).map_err(invalid)?);
            Ok(key.public_key())
        };
        match self {
            Self::None => {}
            Self::Jwt(jwt, seed) => {
                sign(seed)?;
                auth.jwt = Some(jwt.clone());
            }
            Self::File(path) => {
                let text = read(path)?;
                let missing = || AuthError::new(format!("{} holds no JWT with its seed", path.display()));
                let seed = between(&text, "USER NKEY SEED").ok_or_else(missing)?;
                sign(seed)?;
                auth.jwt = Some(between(&text, "NATS USER JWT").ok_or_else(missing)?.to_owned());
            }
            Self::Seed(seed) => auth.nkey = Some(sign(seed)?),
            Self::SeedFile(path) => {
                let text = read(path)?;
                let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
                let missing = || AuthError::new(format!("{} holds no nkey seed (SU…)", path.display()));
                auth.nkey = Some(sign(seed.ok_or_else(missing)?)?);
            }
            Self::User(user, password) => {
                auth.username = Some(user.clone());
                auth.password = Some(password.clone());
            }
            Self::Token(token) => auth.token = Some(token.clone()),
        }
        Ok(auth)
    }

    /// Words of the server without what it was sent, which it might repeat.
    pub(super) fn hide(&self, text: &str) -> String {
        let sent = match self {
            Self::Jwt(jwt, _) => Some(jwt.clone()),
            // A file that is gone by now was not sent either.
            Self::File(path) => read(path).ok().and_then(|text| between(&text, "NATS USER JWT").map(str::to_owned)),
            Self::User(_, password) => Some(password.clone()),
            Self::Token(token) => Some(token.clone()),
            // Seeds sign, and stay here.
            Self::None | Self::Seed(_) | Self::SeedFile(_) => None,
        };
        Secrets::new(sent.as_deref()).hide_text(text)
    }

    /// The settings to look at when the server refuses them.
    pub(super) fn keys(&self) -> &'static str {
        match self {
            Self::None => "set creds, nkey, username and password, or token",
            Self::Jwt(..) => "correct jwt and seed",
            Self::File(_) => "correct the file that creds names",
            Self::Seed(_) | Self::SeedFile(_) => "correct nkey",
            Self::User(..) => "correct username and password",
            Self::Token(_) => "correct token",
        }
    }
}

impl fmt::Debug for Credentials {
    /// The sort alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keys())
    }
}

fn read(path: &Path) -> Result<String, AuthError> {
    std::fs::read_to_string(path).map_err(|error| AuthError::new(format!("cannot read {}: {error}", path.display())))
}

/// The line between `-----BEGIN <what>-----` and its end.
fn between<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("BEGIN {what}"))?;
    rest.lines().skip(1).map(str::trim).find(|line| !line.is_empty()).filter(|line| !line.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nkey() -> KeyPair {
        KeyPair::new_user()
    }

    #[test]
    fn first_complete_sort_counts() {
        let seed = nkey().seed().unwrap();
        let text = |text: &str| Some(text.to_owned());
        let mut options = NatsOptions { token: text("t"), ..NatsOptions::default() };
        let chosen = |options: &NatsOptions| Credentials::choose(options).unwrap();
        assert_eq!(chosen(&options), Credentials::Token("t".into()));
        options.username = text("u");
        assert_eq!(chosen(&options), Credentials::Token("t".into()), "half a user is none");
        options.password = text("p");
        assert_eq!(chosen(&options), Credentials::User("u".into(), "p".into()));
        options.nkey = text("/keys/user.nk");
        assert_eq!(chosen(&options), Credentials::SeedFile("/keys/user.nk".into()));
        options.nkey = Some(seed.clone());
        assert_eq!(chosen(&options), Credentials::Seed(seed.clone()));
        options.creds = text("user.creds");
        assert_eq!(chosen(&options), Credentials::File("user.creds".into()));
        options.jwt = text("j");
        assert_eq!(chosen(&options), Credentials::File("user.creds".into()), "half a JWT is none");
        options.seed = Some(seed.clone());
        assert_eq!(chosen(&options), Credentials::Jwt("j".into(), seed));
    }

    #[test]
    fn files_are_read_and_their_faults_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("user.creds");
        let credentials = Credentials::File(path.clone());
        let refused = |credentials: &Credentials| credentials.answer(b"nonce").err().unwrap().to_string();
        assert!(refused(&credentials).contains("cannot read"));

        let key = nkey();
        let seed = key.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\r\nthe.j.wt\r\n------END NATS USER JWT------\r\n\r\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"
        );
        std::fs::write(&path, &text).unwrap();
        let auth = credentials.answer(b"nonce").unwrap();
        assert_eq!(auth.jwt.as_deref(), Some("the.j.wt"));
        key.verify(b"nonce", &auth.signature.unwrap()).unwrap();

        std::fs::write(&path, text.replace(&seed, "")).unwrap();
        assert!(refused(&credentials).contains("holds no JWT with its seed"));
        std::fs::write(&path, text.replace(&seed, "SUwrong")).unwrap();
        let text = refused(&credentials);
        assert!(text.contains("no nkey seed") && !text.contains("SUwrong"), "{text}");

        std::fs::write(&path, format!("# comment\n{seed}\n")).unwrap();
        let auth = Credentials::SeedFile(path).answer(b"nonce").unwrap();
        assert_eq!(auth.nkey, Some(key.public_key()));
        key.verify(b"nonce", &auth.signature.unwrap()).unwrap();
    }

    #[test]
    fn broken_seeds_are_refused_without_quoting_them() {
        let options = NatsOptions { nkey: Some("SUBROKEN".into()), ..NatsOptions::default() };
        let error = Credentials::choose(&options).err().unwrap().to_string();
        assert!(error.contains("nkey") && !error.contains("SUBROKEN"), "{error}");
    }
}
