//! Connections to a server: accepted, through their handshake, and known by whom they are.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::server::{ServerTls, common_name, is_peer};
use super::{HANDSHAKE_TIMEOUT, PEER_NAME};

/// Handshakes under way; more callers wait in the system's own queue.
const HANDSHAKES_MAX: usize = 256;
/// Connections that are through and not yet taken up.
const READY_MAX: usize = 64;
/// Pause after accepting failed, as it does when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection; among the extensions of each of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Where it calls from.
    pub address: Option<SocketAddr>,
    /// Common name of its certificate; empty when it showed none, or one without a name.
    pub name: String,
    /// Whether its certificate is a replica's.
    pub is_peer: bool,
}

impl Caller {
    /// Why this caller is no peer, if it is none.
    pub fn refusal(&self) -> Option<String> {
        (!self.is_peer).then(|| {
            format!(
                "the certificate of {self} is not a replica's: it lacks the name {PEER_NAME}; \
                 replicas use certificates that `quorate certs --hosts` makes"
            )
        })
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            "" => f.write_str("somebody")?,
            name => write!(f, "{name:?}")?,
        }
        match self.address {
            Some(address) => write!(f, " at {address}"),
            None => Ok(()),
        }
    }
}

/// An accepted connection.
pub enum Connection {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        let (tcp, certificate) = match self {
            Self::Plain(tcp) => (tcp, None),
            Self::Tls(tls) => {
                let (tcp, session) = tls.get_ref();
                let chain = session.peer_certificates();
                (tcp, chain.and_then(<[_]>::first))
            }
        };
        Caller {
            address: tcp.peer_addr().ok(),
            name: certificate.and_then(common_name).unwrap_or_default(),
            is_peer: certificate.is_some_and(is_peer),
        }
    }
}

/// The connections to a listening socket, encrypted where `tls` is given. A handshake that fails
/// or takes too long is logged, with who it was and why, and holds up nobody else; `port` names
/// the socket there.
pub fn incoming(
    listener: TcpListener,
    tls: Option<ServerTls>,
    port: &'static str,
) -> impl Stream<Item = io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(READY_MAX);
    tokio::spawn(accept(listener, tls, port, ready));
    ReceiverStream::new(connections)
}

async fn accept(
    listener: TcpListener,
    tls: Option<ServerTls>,
    port: &'static str,
    ready: mpsc::Sender<io::Result<Connection>>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! {
            // The server has ended.
            () = ready.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, port, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Of no use but speed; the connection works without it.
        let _ = tcp.set_nodelay(true);
        let Some(tls) = tls.clone() else {
            if ready.send(Ok(Connection::Plain(tcp))).await.is_err() {
                return;
            }
            continue;
        };
        // Handshakes end by themselves, so a place comes free.
        let Ok(place) = handshakes.clone().acquire_owned().await else {
            return;
        };
        let ready = ready.clone();
        tokio::spawn(async move {
            let handshake = tls.acceptor.accept(tcp);
            let result = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
            drop(place);
            match result {
                Ok(Ok(stream)) => {
                    // The server may have ended meanwhile.
                    let _ = ready.send(Ok(Connection::Tls(Box::new(stream)))).await;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%address, port, "refused a caller: {}", reason(&error));
                }
                Err(_) => {
                    tracing::warn!(%address, port, "refused a caller: no TLS handshake within {HANDSHAKE_TIMEOUT:?}");
                }
            }
        });
    }
}

/// Why a handshake failed, for the log of the side that was called.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        format!("its certificate is signed by an authority this replica does not know ({text})")
    } else if text.contains("received fatal alert") {
        format!("it does not accept this replica's certificate ({text})")
    } else if text.contains("sent no certificates") {
        "it showed no certificate".to_owned()
    } else if text.contains("corrupt message") {
        "it does not speak TLS".to_owned()
    } else {
        text
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
