//! Signed statements about ourselves: JSON Web Tokens with RS256.
//!
//! RFC 7515, RFC 7518 §3.3.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::Result;
use crate::url::setup;

/// An RSA key that signs.
pub(crate) struct SigningKey(RsaKeyPair);

impl SigningKey {
    /// Reads the first private key of a PEM text, in either usual form.
    ///
    /// # Errors
    /// Says which file (`place`), and no more about the key.
    pub(crate) fn from_pem(place: &str, pem: &str) -> Result<Self> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| setup(format!("{place} holds no private key in PEM form")))?;
        let pair = match &key {
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(setup(format!("the private key of {place} is not an RSA key"))),
        };
        pair.map(Self).map_err(|e| setup(format!("the private key of {place} is unusable: {e}")))
    }

    /// `header.claims.signature`
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> Result<String> {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
            .map_err(|_| setup("cannot sign with the private key"))?;
        Ok(format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The SHA-1 of a PEM text's first certificate, by which Entra ID finds it.
#[cfg(feature = "abs")]
pub(crate) fn thumbprint(place: &str, pem: &str) -> Result<String> {
    let certificate = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| setup(format!("{place} holds no certificate in PEM form")))?;
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &certificate);
    Ok(BASE64_URL_SAFE_NO_PAD.encode(digest))
}

#[cfg(test)]
mod tests {
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    #[test]
    fn signature_verifies_with_the_public_key() {
        for pem in [PKCS8, PKCS1] {
            let key = SigningKey::from_pem("test", pem).unwrap();
            let jwt = key.sign(&serde_json::json!({"alg": "RS256"}), &serde_json::json!({"iss": "me"})).unwrap();
            let (text, signature) = jwt.rsplit_once('.').unwrap();
            assert_eq!(text, "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJtZSJ9");
            let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.0.public().as_ref());
            public.verify(text.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        }
    }

    #[test]
    fn what_is_no_key_is_named_and_not_shown() {
        let error = SigningKey::from_pem("the file", "hunter2").err().unwrap().to_string();
        assert_eq!(error, "the file holds no private key in PEM form");
    }

    /// Both forms of one key that was made for this test.
    const PKCS8: &str = include_str!("testdata/pkcs8.pem");
    const PKCS1: &str = include_str!("testdata/pkcs1.pem");
}
