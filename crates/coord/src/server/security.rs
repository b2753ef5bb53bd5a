//! TLS of this replica's ports and of its calls, read from the configured files at start.

use std::path::Path;

use quorate_rpc::channel::ChannelOptions;
use quorate_rpc::{ClientTls, ServerTls};

use super::ServerError;
use crate::config::Config;

/// What the ports and the connections of this replica are secured with.
pub(crate) struct Security {
    /// The peers' port; none: without TLS.
    pub(super) peer_port: Option<ServerTls>,
    /// The clients' port; none: without TLS.
    pub(super) client_port: Option<ServerTls>,
    /// Connections to the peers' port of other replicas.
    pub(super) peers: ChannelOptions,
    /// Connections to the leader's clients' port, over which calls are forwarded.
    pub(super) forward: ChannelOptions,
}

impl Security {
    /// # Errors
    /// TLS between replicas is neither set up nor switched off, or a file can't be used.
    pub(super) fn load(config: &Config) -> Result<Self, ServerError> {
        let peer = &config.peer_tls;
        let client = &config.client_tls;
        let in_section = |section: &'static str| {
            move |error: quorate_rpc::tls::TlsError| {
                let cause = std::error::Error::source(&error)
                    .map_or_else(String::new, |cause| format!(": {cause}"));
                ServerError::Security(format!("{section}: {error}{cause}"))
            }
        };
        let (peer_port, peer_calls) = if config.peer_insecure {
            tracing::warn!(
                "replicas talk to each other without TLS (quorate.peer.insecure): whoever reaches \
                 the peers' port can act as one"
            );
            (None, None)
        } else if peer.cert.is_none() || peer.ca.is_none() {
            return Err(ServerError::Security(
                "replicas talk TLS to each other, and quorate.peer.tls.cert, quorate.peer.tls.key \
                 and quorate.peer.tls.ca are not all set; `quorate certs` makes the files. Where \
                 nobody else can reach the network, quorate.peer.insecure: true does without"
                    .to_owned(),
            ));
        } else {
            let section = "quorate.peer.tls";
            (
                Some(ServerTls::for_peers(peer).map_err(in_section(section))?),
                Some(ClientTls::for_peers(peer).map_err(in_section(section))?),
            )
        };
        let section = "quorate.client.tls";
        let (client_port, forward) = if client.cert.is_none() {
            (None, None)
        } else {
            let authorities: Vec<&Path> = [&client.ca, &peer.ca]
                .into_iter()
                .filter_map(|path| path.as_deref())
                .collect();
            if authorities.is_empty() {
                return Err(ServerError::Security(format!(
                    "{section} is set, but neither {section}.ca nor quorate.peer.tls.ca: replicas \
                     forward calls to the leader's clients' port and need an authority to believe it"
                )));
            }
            (
                Some(ServerTls::for_clients(client).map_err(in_section(section))?),
                Some(ClientTls::new(&authorities, client).map_err(in_section(section))?),
            )
        };
        let options = |tls| ChannelOptions {
            tls,
            ..ChannelOptions::default()
        };
        Ok(Self {
            peer_port,
            client_port,
            peers: options(peer_calls),
            forward: options(forward),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_rpc::TlsFiles;

    use super::*;

    fn refusal(config: &Config) -> String {
        match Security::load(config) {
            Ok(_) => panic!("it was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn without_certificates_a_replica_says_what_to_do() {
        let mut config = Config::default();
        let text = refusal(&config);
        assert!(
            text.contains("quorate certs") && text.contains("quorate.peer.insecure"),
            "{text}"
        );
        config.peer_insecure = true;
        assert!(Security::load(&config).unwrap().peer_port.is_none());
    }

    #[test]
    fn a_missing_file_is_named_with_its_section() {
        let file = |name: &str| Some(Path::new("/nowhere").join(name));
        let config = Config {
            peer_tls: TlsFiles {
                cert: file("cert.pem"),
                key: file("key.pem"),
                ca: file("ca.pem"),
            },
            ..Config::default()
        };
        let text = refusal(&config);
        assert!(
            text.contains("quorate.peer.tls") && text.contains("/nowhere/cert.pem"),
            "{text}"
        );
    }
}
