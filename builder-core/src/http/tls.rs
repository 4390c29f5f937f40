//! Whom we trust: the roots inside the binary, those of the host, and those given for one host.
//!
//! Roots are read when the first certificate is checked, not before: most builds of a second speak to few servers.

use super::{HttpError, Secret, error::Cause};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// Bundles of certificates where distributions keep them; the first that is there is read when the caller names none.
const USUAL_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where the host keeps its certificates. A place that cannot be read adds nothing: the roots inside the binary remain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaPaths {
    /// One file of many certificates.
    pub file: Option<PathBuf>,
    /// A directory of files.
    pub directory: Option<PathBuf>,
}

/// How the servers of one host are recognised, and how we show ourselves to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// Whether certificates are checked.
    pub verification: Verification,
    /// Certificates (PEM, several possible) that are trusted beside the usual ones.
    pub extra_roots_pem: Vec<u8>,
    /// What we show if the server asks who we are.
    pub client_certificate: Option<ClientCertificate>,
}

/// Whether a server's certificate is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verification {
    /// It must lead to a trusted root and name the host.
    #[default]
    Required,
    /// Any will do: the user said so for this host.
    Skipped,
}

/// A certificate of our own with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate and those that lead to its root, PEM.
    pub chain_pem: Vec<u8>,
    /// The private key, PEM.
    pub key_pem: Secret,
}

/// The TLS settings for `host` (for messages).
pub(super) fn config(host: &str, trust: &Trust, ca_paths: &CaPaths) -> Result<ClientConfig, HttpError> {
    let refused = |source: String| HttpError::Certificate { host: host.to_owned(), source: Cause(source) };
    let certificates = |pem: &[u8]| {
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| refused(error.to_string()))
    };
    let extra_roots = certificates(&trust.extra_roots_pem)?;
    if extra_roots.is_empty() && !trust.extra_roots_pem.is_empty() {
        return Err(refused("there is no PEM certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier {
        provider: provider.clone(),
        verification: trust.verification,
        ca_paths: ca_paths.clone(),
        extra_roots,
        roots: OnceLock::new(),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Setup { source: Cause(error.to_string()) })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some(own) = &trust.client_certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(&own.chain_pem)?;
    let key = PrivateKeyDer::from_pem_slice(own.key_pem.reveal()).map_err(|_| refused("the key is no PEM key".to_owned()))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| refused(error.to_string()))
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    verification: Verification,
    ca_paths: CaPaths,
    extra_roots: Vec<CertificateDer<'static>>,
    roots: OnceLock<Option<Arc<WebPkiServerVerifier>>>,
}

impl Verifier {
    fn load(&self) -> Option<Arc<WebPkiServerVerifier>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        roots.add_parsable_certificates(host_roots(&self.ca_paths));
        roots.add_parsable_certificates(self.extra_roots.iter().cloned());
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build().ok()
    }
}

fn host_roots(paths: &CaPaths) -> Vec<CertificateDer<'static>> {
    let usual = || USUAL_BUNDLES.iter().map(Path::new).find(|path| path.is_file());
    let file = match (&paths.file, &paths.directory) {
        (None, None) => usual(),
        (file, _) => file.as_deref(),
    };
    rustls_native_certs::load_certs_from_paths(file, paths.directory.as_deref()).certs
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.verification == Verification::Skipped {
            return Ok(ServerCertVerified::assertion());
        }
        let roots = self.roots.get_or_init(|| self.load()).as_ref();
        let verified = roots.ok_or_else(|| rustls::Error::General("no trusted certificates".to_owned()))?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        // A private registry often shows a certificate that is its own root, and the user gives just that as trusted.
        // WebPKI refuses a root as a server certificate; to be the very certificate that the user named is proof enough.
        match verified {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.extra_roots.iter().any(|root| root == end_entity) =>
            {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_refused_by_name() {
        for pem in ["nonsense", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"] {
            let trust = Trust { extra_roots_pem: pem.into(), ..Trust::default() };
            let error = config("example.com", &trust, &CaPaths::default()).unwrap_err();
            assert!(matches!(&error, HttpError::Certificate { host, .. } if host == "example.com"), "{error:?}");
        }
    }
}
