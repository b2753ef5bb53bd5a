//! Whether a server lets us in, asked before anything is sent to it.
//!
//! With TLS 1.3 a client has finished its handshake before the server has looked at its certificate.
//! What it sends then is lost when the server refuses, and whether it learns why is a matter of luck.
//! A connection of its own, on which the server speaks first, tells for sure.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::server::{certificates, private_key, provider};
use super::{ClientTls, TlsError, explain};

/// What an HTTP/2 client begins with: the preface and empty settings. The server answers with its
/// own settings.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// The settings of such a connection, from the same files as those of the others.
pub(super) fn config(
    authorities: &[&std::path::Path],
    own: Option<(&std::path::Path, &std::path::Path)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let unusable = |path: &std::path::Path| {
        let path = path.to_owned();
        move |error: tokio_rustls::rustls::Error| TlsError::Unusable {
            path,
            problem: error.to_string(),
        }
    };
    let mut roots = RootCertStore::empty();
    for path in authorities {
        for authority in certificates(path)? {
            roots.add(authority).map_err(unusable(path))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Unusable {
            path: authorities
                .first()
                .map_or_else(Default::default, |path| path.to_path_buf()),
            problem: error.to_string(),
        })?
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(unusable(cert))?,
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

impl ClientTls {
    /// Whether the server at `address` and this side let each other in.
    ///
    /// # Errors
    /// Which side refuses, and why; nothing when that cannot be told, because nobody answers.
    pub(crate) async fn refusal(
        &self,
        address: &str,
        timeout: Duration,
    ) -> Result<(), Option<String>> {
        let (host, _) = address.rsplit_once(':').ok_or(None)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| None)?;
        let greet = async {
            let tcp = TcpStream::connect(address).await?;
            let connector = TlsConnector::from(self.probe.clone());
            let mut stream = connector.connect(name, tcp).await?;
            stream.write_all(GREETING).await?;
            stream.flush().await?;
            stream.read_u8().await?;
            // It is let in; nothing more is wanted.
            let _ = stream.shutdown().await;
            Ok::<(), std::io::Error>(())
        };
        match tokio::time::timeout(timeout, greet).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => Err(None),
        }
    }
}
