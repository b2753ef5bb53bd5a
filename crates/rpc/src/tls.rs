//! TLS between replicas and from clients to replicas: what a party shows, whom it believes, and how
//! a refusal is told in words.
//!
//! A replica's certificate carries the name [`PEER_NAME`] beside those of its host. Replicas accept
//! one another by it, so that a client's certificate of the same authority cannot act as a peer.
//! Its key is read once, at start.

mod incoming;
mod probe;
mod server;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::ClientConfig;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

pub use incoming::{Caller, Connection, incoming};
pub use server::ServerTls;

/// The DNS name in the certificates of replicas, and in no others.
pub const PEER_NAME: &str = "peer.quorate";
/// How long the handshake of a connection may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// PEM files of one party.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Its certificate, with those between it and the authority.
    pub cert: Option<PathBuf>,
    /// The certificate's private key.
    pub key: Option<PathBuf>,
    /// Certificates of the authorities it believes.
    pub ca: Option<PathBuf>,
}

impl TlsFiles {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Certificate and key, which are given together or not at all.
    ///
    /// # Errors
    /// One is given without the other.
    pub fn pair(&self) -> Result<Option<(&Path, &Path)>, TlsError> {
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(TlsError::Incomplete("a certificate without its key")),
            (None, Some(_)) => Err(TlsError::Incomplete("a key without its certificate")),
        }
    }
}

/// TLS settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Something that belongs together is not all there.
    #[error("TLS settings are incomplete: {0}")]
    Incomplete(&'static str),
    /// A file can't be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {wanted} in PEM form")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// Certificate, key or authority do not fit together or are damaged.
    #[error("the certificate in {path} cannot be used: {problem}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The certificate is not a replica's.
    #[error(
        "{0} is not a replica's certificate: it lacks the name {PEER_NAME}; `quorate certs --hosts` makes such certificates"
    )]
    NotAPeer(PathBuf),
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The calling side's settings. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    config: ClientTlsConfig,
    probe: Arc<ClientConfig>,
}

impl std::fmt::Debug for ClientTls {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Believes servers whose certificate is signed by one of `authorities` (PEM files) and carries
    /// the name that was connected to; shows the certificate of `own`, if it has one.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn new(authorities: &[&Path], own: &TlsFiles) -> Result<Self, TlsError> {
        let mut config = ClientTlsConfig::new().timeout(HANDSHAKE_TIMEOUT);
        if authorities.is_empty() {
            return Err(TlsError::Incomplete("no authority to believe (ca)"));
        }
        for path in authorities {
            config = config.ca_certificate(Certificate::from_pem(read(path)?));
        }
        // Also checks the files: the transport passes over what it cannot read.
        let probe = probe::config(authorities, own.pair()?)?;
        if let Some((cert, key)) = own.pair()? {
            config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(Self { config, probe })
    }

    /// From a client's files: the authority, and a certificate where the servers want one.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn from_files(files: &TlsFiles) -> Result<Self, TlsError> {
        let authority = files.ca.as_deref().into_iter().collect::<Vec<_>>();
        Self::new(&authority, files)
    }

    /// For connections to other replicas: these carry [`PEER_NAME`], at whatever address.
    ///
    /// # Errors
    /// A file is missing or damaged.
    pub fn for_peers(files: &TlsFiles) -> Result<Self, TlsError> {
        let own = Self::from_files(files)?;
        Ok(Self {
            config: own.config.domain_name(PEER_NAME),
            ..own
        })
    }

    pub(crate) fn transport(&self) -> &ClientTlsConfig {
        &self.config
    }
}

/// What a failed handshake means, for the side that called; none when the error is not of TLS.
///
/// The errors come wrapped several times, by layers that keep their text and not their type.
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(meaning) = meaning(&error.to_string()) {
            return Some(meaning);
        }
        // An I/O error passes over what it wraps.
        if let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            && let Some(meaning) = meaning(&inner.to_string())
        {
            return Some(meaning);
        }
        cause = error.source();
    }
    None
}

/// [`explain`] for how a call ended. Only what happened on this side counts: the other side's answer
/// may well speak of certificates.
pub fn explain_status(status: &tonic::Status) -> Option<String> {
    explain(status.source()?)
}

/// `explain` as the end of a message; empty when there is nothing to say.
pub(crate) fn explanation(error: &(dyn Error + 'static)) -> String {
    explain(error).map_or_else(String::new, |meaning| format!(" ({meaning})"))
}

fn meaning(text: &str) -> Option<String> {
    let word_after = |marker: &str| {
        let rest = &text[text.find(marker)? + marker.len()..];
        rest.split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .map(str::to_owned)
    };
    if let Some(alert) = word_after("received fatal alert: ") {
        return Some(match alert.as_str() {
            "CertificateRequired" => {
                "it wants to see a certificate, and none was shown; give certificate and key".into()
            }
            "UnknownCA" | "UnknownCa" | "DecryptError" => {
                "it refused our certificate: signed by an authority it does not know".into()
            }
            "CertificateExpired" => "it refused our certificate: it has expired".into(),
            other => format!("it refused our certificate ({other})"),
        });
    }
    if let Some(problem) = word_after("invalid peer certificate: ") {
        let lower = text.to_ascii_lowercase();
        return Some(
            if problem == "UnknownIssuer" || lower.contains("badsignature") {
                "its certificate is signed by an authority we do not know".into()
            } else if lower.contains("not valid for name") || problem == "NotValidForName" {
                "its certificate is for other names than the one connected to".into()
            } else if lower.contains("expired") {
                "its certificate has expired".into()
            } else {
                format!("its certificate is not good ({problem})")
            },
        );
    }
    text.contains("received corrupt message")
        .then(|| "it does not speak TLS".into())
}
