//! Connections: one way to open them, so that timeouts, keep-alive and limits are the same
//! everywhere.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Server};

use crate::tls::ClientTls;

/// Largest message we take in. Milvus's own limit for clients of its coordinators.
pub const MAX_DECODE_BYTES: usize = 512 << 20;
/// Largest message we send. Milvus's own limit.
pub const MAX_ENCODE_BYTES: usize = 256 << 20;
/// Bytes one call may have under way unread; large, for snapshots and batches of rows.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Settings of a connection. The defaults notice a dead peer within three seconds.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// How long opening the TCP connection may take.
    pub connect_timeout: Duration,
    /// Time between two HTTP/2 pings, also on an idle connection.
    pub keep_alive_interval: Duration,
    /// How long an answer to a ping may take before the connection counts as dead.
    pub keep_alive_timeout: Duration,
    /// TLS; none: the connection is not encrypted.
    pub tls: Option<ClientTls>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            keep_alive_interval: Duration::from_secs(1),
            keep_alive_timeout: Duration::from_secs(2),
            tls: None,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No address was given at all.
    #[error("no address given; name at least one replica as host:port")]
    NoAddress,
    /// The address is not `host:port`.
    #[error("{address:?} is no address: {reason}; write host:port, for example 127.0.0.1:13333")]
    Address {
        /// The address as given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// TLS settings that cannot be used for this address.
    #[error("cannot use TLS for {address}")]
    Tls {
        /// The address as given.
        address: String,
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
    /// One side does not let the other in.
    #[error("cannot talk to {address} over TLS: {reason}")]
    Refused {
        /// The address as given.
        address: String,
        /// Which side, and why.
        reason: String,
    },
    /// Nobody answered.
    #[error("cannot connect to {address}{}", crate::tls::explanation(source))]
    Connect {
        /// The address as given.
        address: String,
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Opens a connection and waits for it.
pub async fn connect(address: &str, options: &ChannelOptions) -> Result<Channel, ConnectError> {
    endpoint(address, options)?
        .connect()
        .await
        .map_err(|source| ConnectError::Connect {
            address: address.to_owned(),
            source,
        })
}

/// A connection that is opened by its first call, and again after it broke.
pub fn connect_lazy(address: &str, options: &ChannelOptions) -> Result<Channel, ConnectError> {
    Ok(endpoint(address, options)?.connect_lazy())
}

fn endpoint(address: &str, options: &ChannelOptions) -> Result<Endpoint, ConnectError> {
    check_address(address)?;
    let scheme = if options.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|_| {
        ConnectError::Address {
            address: address.to_owned(),
            reason: "it has characters that no host name has",
        }
    })?;
    if let Some(tls) = &options.tls {
        endpoint = endpoint
            .tls_config(tls.transport().clone())
            .map_err(|source| ConnectError::Tls {
                address: address.to_owned(),
                source,
            })?;
    }
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true))
}

/// A server with the settings that match those of the connections.
pub fn server(options: &ChannelOptions) -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(options.keep_alive_interval))
        .http2_keepalive_timeout(Some(options.keep_alive_timeout))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

/// Whether `address` has the form `host:port`, with a port that can be connected to.
pub fn check_address(address: &str) -> Result<(), ConnectError> {
    let fail = |reason| {
        Err(ConnectError::Address {
            address: address.to_owned(),
            reason,
        })
    };
    if address.contains("://") {
        return fail("it has a scheme");
    }
    if address
        .chars()
        .any(|c| c.is_whitespace() || c == '/' || c == '@')
    {
        return fail("it has characters that no host name has");
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return fail("it has no port");
    };
    if host.is_empty() {
        return fail("it has no host");
    }
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.contains(':') && !bracketed {
        return fail("an IPv6 host must be in brackets");
    }
    match port.parse::<u16>() {
        Ok(0) => fail("nobody listens on port 0"),
        Ok(_) => Ok(()),
        Err(_) => fail("its port is not a number below 65536"),
    }
}
