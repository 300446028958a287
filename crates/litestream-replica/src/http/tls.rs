//! Whom to trust: the system's certificates, built-in ones where the system has
//! none, a file of the user's, or anybody when told so.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::{Error, ErrorKind, Result};

pub(super) fn client_config(ca_file: Option<&Path>, skip_verify: bool) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::with_source(ErrorKind::Setup, "set up tls", e))?;
    if skip_verify {
        let anybody = Arc::new(Anybody { provider });
        return Ok(builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth());
    }
    let mut roots = system_roots();
    if let Some(path) = ca_file {
        add_file(&mut roots, path)?;
    }
    if roots.is_empty() {
        roots = built_in_roots();
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The system's certificates, which may be none.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // Single broken files in a system's store are common and not our business.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// What this program brings along for systems without certificates.
pub(crate) fn built_in_roots() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// Adds every certificate of a PEM file.
///
/// # Errors
/// [`Setup`](ErrorKind::Setup) when it cannot be read or holds none.
pub(crate) fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<()> {
    let broken = |cause: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Setup, format!("cannot read certificates from {}: {cause}", path.display()))
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| broken(&e))?;
    let mut count = 0;
    for certificate in certificates {
        roots.add(certificate.map_err(|e| broken(&e))?).map_err(|e| broken(&e))?;
        count += 1;
    }
    if count == 0 {
        return Err(broken(&"the file contains none"));
    }
    Ok(())
}

/// Accepts every certificate; the connection is encrypted, but to whom is
/// unknown. Only for `skip-verify`.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
