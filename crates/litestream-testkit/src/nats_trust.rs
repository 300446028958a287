//! The chain of trust of a NATS server in operator mode: an operator, two accounts
//! and a user, each a JWT signed with a fresh key.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the user proves itself with.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) jwt: String,
    pub(crate) seed: String,
}

/// Writes `trust.conf` for the server and `user.creds` for the user.
pub(crate) fn write(dir: &Path) -> Result<User> {
    let (operator, account, system, user) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_user());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let mut storage = limits.clone();
    for key in ["mem_storage", "disk_storage", "streams", "consumer"] {
        set(&mut storage, key, json!(-1))?;
    }
    let account_claims =
        |limits: Value| json!({"type": "account", "limits": limits, "default_permissions": {"pub": {}, "sub": {}}});
    let of_operator = json!({"type": "operator", "system_account": system.public_key()});
    let of_user = json!({"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
    let trust = format!(
        "operator: {}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload: {{ {account}: {}, {system}: {} }}\n",
        token(&operator, &operator, "operator", of_operator)?,
        token(&operator, &account, "account", account_claims(storage))?,
        token(&operator, &system, "SYS", account_claims(limits))?,
        system = system.public_key(),
        account = account.public_key(),
    );
    std::fs::write(dir.join("trust.conf"), trust)?;
    let user = User { jwt: token(&account, &user, "replica", of_user)?, seed: user.seed()? };
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.jwt, user.seed
    );
    std::fs::write(dir.join("user.creds"), creds)?;
    Ok(user)
}

/// A JWT about `subject`, signed by `issuer`.
fn token(issuer: &KeyPair, subject: &KeyPair, name: &str, mut nats: Value) -> Result<String> {
    set(&mut nats, "version", json!(2))?;
    let mut claims =
        json!({"iat": ISSUED_AT, "iss": issuer.public_key(), "name": name, "sub": subject.public_key(), "nats": nats});
    let id: String = Sha256::digest(claims.to_string()).iter().map(|byte| format!("{byte:02X}")).collect();
    set(&mut claims, "jti", json!(id))?;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let text = format!("{header}.{}", encode(claims.to_string().as_bytes()));
    let signature = issuer.sign(text.as_bytes())?;
    Ok(format!("{text}.{}", encode(&signature)))
}

fn set(object: &mut Value, key: &str, value: Value) -> Result<()> {
    object.as_object_mut().context("claims are an object")?.insert(key.to_owned(), value);
    Ok(())
}

/// Some second of 2023: nothing expires.
const ISSUED_AT: u64 = 1_700_000_000;
