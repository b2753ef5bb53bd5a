//! The called side: what a server shows, and which callers it lets in.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::{PEER_NAME, TlsError, TlsFiles, read};

/// HTTP/2, and HTTP/1.1 beside it where both are spoken.
const ALPN_H2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The called side's settings. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    pub(super) acceptor: TlsAcceptor,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

impl ServerTls {
    /// For the port of replicas: every caller shows a certificate of the authority. That it is a
    /// replica's is checked call by call, so that a caller that is refused is told why.
    ///
    /// # Errors
    /// A file is missing or damaged, or the certificate is not a replica's.
    pub fn for_peers(files: &TlsFiles) -> Result<Self, TlsError> {
        let Some((cert, _)) = files.pair()? else {
            return Err(TlsError::Incomplete("no certificate"));
        };
        if files.ca.is_none() {
            return Err(TlsError::Incomplete("no authority (ca)"));
        }
        if !certificates(cert)?.first().is_some_and(is_peer) {
            return Err(TlsError::NotAPeer(cert.to_owned()));
        }
        Self::new(files, &[ALPN_H2])
    }

    /// For the port of clients: with an authority, callers must show a certificate of it.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn for_clients(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::new(files, &[ALPN_H2, ALPN_HTTP1])
    }

    fn new(files: &TlsFiles, protocols: &[&[u8]]) -> Result<Self, TlsError> {
        let Some((cert, key)) = files.pair()? else {
            return Err(TlsError::Incomplete("no certificate"));
        };
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |problem: String| TlsError::Unusable { path, problem }
        };
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(cert)(error.to_string()))?;
        let builder = match &files.ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(ca)? {
                    roots
                        .add(authority)
                        .map_err(|error| unusable(ca)(error.to_string()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| unusable(ca)(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(certificates(cert)?, private_key(key)?)
            .map_err(|error| unusable(cert)(error.to_string()))?;
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }
}

/// One provider, named on purpose: with several compiled in, rustls has no default.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The certificates in a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = || TlsError::Content {
        path: path.to_owned(),
        wanted: "certificate",
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| content())?;
    if found.is_empty() {
        return Err(content());
    }
    Ok(found)
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| TlsError::Content {
        path: path.to_owned(),
        wanted: "private key",
    })
}

/// Whether the certificate carries the name of replicas.
pub(super) fn is_peer(certificate: &CertificateDer<'_>) -> bool {
    let (Ok(parsed), Ok(name)) = (
        ParsedCertificate::try_from(certificate),
        ServerName::try_from(PEER_NAME),
    ) else {
        return false;
    };
    verify_server_name(&parsed, &name).is_ok()
}

/// The common name of a certificate's subject; for messages only, never for a decision.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    // Attribute type 2.5.4.3; the issuer's comes first, the subject's second.
    const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
    let bytes: &[u8] = certificate;
    let (at, _) = bytes
        .windows(COMMON_NAME.len())
        .enumerate()
        .filter(|(_, window)| *window == COMMON_NAME)
        .nth(1)?;
    let value = bytes.get(at + COMMON_NAME.len()..)?;
    // A string of less than 128 bytes: tag, length, text.
    let (_, length, text) = (value.first()?, usize::from(*value.get(1)?), value.get(2..)?);
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    (length < 128 && text.chars().all(|c| !c.is_control())).then(|| text.to_owned())
}
