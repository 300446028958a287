//! Whether a server is the one that was meant.
//!
//! With `host-key` set, only that key is accepted, and only its kind is asked
//! for: a server with several keys would otherwise show another one. Without it
//! every key is accepted, as upstream does; the log then names the key and the
//! line that would pin it, and a key that changes later is said louder.
//!
//! Spec: backends §7.

use std::sync::{Mutex, PoisonError};

use russh::keys::ssh_key::{Algorithm, HashAlg, PublicKey};

use crate::url::setup;
use crate::{Error, ErrorKind, Result};

/// What is known of a server's key.
pub(super) struct HostKeys {
    pinned: Option<PublicKey>,
    /// The key that was accepted last without a check.
    seen: Mutex<Option<PublicKey>>,
}

impl HostKeys {
    /// From the setting, where there is one.
    ///
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) when no key can be read from it.
    pub(super) fn new(setting: Option<&str>) -> Result<Self> {
        Ok(Self { pinned: setting.map(parse).transpose()?, seen: Mutex::default() })
    }

    /// The kinds of keys to ask the server for; `None` asks for any.
    pub(super) fn algorithms(&self) -> Option<Vec<Algorithm>> {
        let algorithm = self.pinned.as_ref()?.algorithm();
        Some(match algorithm {
            Algorithm::Rsa { .. } => {
                [Some(HashAlg::Sha512), Some(HashAlg::Sha256), None].map(|hash| Algorithm::Rsa { hash }).into()
            }
            other => vec![other],
        })
    }

    /// Checks the key that `host` shows.
    ///
    /// # Errors
    /// [`Setup`](ErrorKind::Setup) when it is not the pinned one.
    pub(super) fn check(&self, host: &str, shown: &PublicKey) -> Result<()> {
        let fingerprint = shown.fingerprint(HashAlg::Sha256);
        let Some(pinned) = &self.pinned else {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let before = seen.replace(shown.clone());
            let line = line(shown);
            match before {
                Some(before) if before.key_data() == shown.key_data() => {}
                Some(_) => tracing::warn!(
                    host, %fingerprint, set = format!("host-key: {line}"),
                    "sftp host key not verified, and it has changed: another server may be answering"
                ),
                None => tracing::warn!(
                    host, %fingerprint, set = format!("host-key: {line}"),
                    "sftp host key not verified"
                ),
            }
            return Ok(());
        };
        if pinned.key_data() == shown.key_data() {
            return Ok(());
        }
        let expected = pinned.fingerprint(HashAlg::Sha256);
        let message = format!(
            "ssh: handshake failed: ssh: host key mismatch: {host} shows {fingerprint}, host-key is {expected}; if the \
             server's key was changed on purpose, correct host-key, else somebody stands in between"
        );
        Err(Error::new(ErrorKind::Setup, message))
    }

    /// For a server that has no key of the pinned kind.
    pub(super) fn no_such_key(&self, host: &str, theirs: &[String]) -> Error {
        let kind = self.pinned.as_ref().map(|key| key.algorithm().to_string()).unwrap_or_default();
        let message = format!(
            "ssh: handshake failed: {host} has no host key of type {kind}, only {}; correct host-key",
            theirs.join(", ")
        );
        Error::new(ErrorKind::Setup, message)
    }
}

/// Reads a line of `authorized_keys`, or of what `ssh-keyscan` prints.
fn parse(text: &str) -> Result<PublicKey> {
    let words: Vec<&str> = text.split_whitespace().collect();
    words
        .windows(2)
        .find_map(|pair| PublicKey::from_openssh(&pair.join(" ")).ok())
        .ok_or_else(|| setup("cannot parse sftp host key: ssh: no key found"))
}

/// The key as `host-key` takes it.
fn line(key: &PublicKey) -> String {
    PublicKey::new(key.key_data().clone(), "").to_openssh().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn keys_are_read_in_every_form_that_tools_print() {
        for text in [KEY.to_owned(), format!("{KEY} me@host"), format!("[h]:2222 {KEY}"), format!("  {KEY}\n")] {
            let keys = HostKeys::new(Some(&text)).unwrap();
            assert_eq!(line(keys.pinned.as_ref().unwrap()), KEY, "{text}");
            assert_eq!(keys.algorithms(), Some(vec![Algorithm::Ed25519]));
        }
        for text in ["", "nonsense", "ssh-ed25519", "ssh-ed25519 AAAA", "SHA256:abc"] {
            let error = HostKeys::new(Some(text)).err().unwrap();
            assert_eq!(error.to_string(), "cannot parse sftp host key: ssh: no key found", "{text}");
        }
    }

    #[test]
    fn only_the_pinned_key_is_accepted() {
        let keys = HostKeys::new(Some(KEY)).unwrap();
        keys.check("h:22", &parse(KEY).unwrap()).unwrap();
        let error = keys.check("h:22", &parse(OTHER).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup);
        assert!(error.to_string().starts_with("ssh: handshake failed: ssh: host key mismatch: h:22 shows SHA256:"));
        let open = HostKeys::new(None).unwrap();
        open.check("h:22", &parse(KEY).unwrap()).unwrap();
        open.check("h:22", &parse(OTHER).unwrap()).unwrap();
        assert_eq!(open.algorithms(), None);
    }

    #[test]
    fn no_line_crashes_and_what_is_read_is_one_key() {
        let words = ["ssh-ed25519 ", "ssh-rsa ", "AAAA", "ecdsa-sha2-nistp256 ", " ", "\n", "//////////", "="];
        litestream_fuzz::Target::new("host key", [KEY, OTHER]).words(&words).run(|input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            let bound = litestream_fuzz::Bound { base: 64 << 10, per_byte: 200 };
            if let Ok(key) = litestream_fuzz::bounded(input.len(), bound, || parse(text)) {
                assert_eq!(line(&parse(&line(&key)).unwrap()), line(&key));
            }
        });
    }
}
