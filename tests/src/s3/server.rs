//! The server: s3s on a folder, behind a layer that injects faults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::faults::{Counts, Fate, Faults, Injector};
use super::{ACCESS_KEY, BUCKET, SECRET_KEY};

/// How long a port that was given up may take to be had again.
const REBIND_PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two tries to get it.
const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// How to start the server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where buckets lie; made when missing.
    pub folder: PathBuf,
    /// Port on 127.0.0.1; 0 takes any free one.
    pub port: u16,
    /// Seed of the faults' random numbers.
    pub seed: u64,
    /// Faults from the start.
    pub faults: Faults,
}

/// A running server. Dropping it ends it.
pub struct S3Server {
    address: SocketAddr,
    injector: Arc<Injector>,
    gone: mpsc::Sender<Instant>,
    _end_on_drop: DropGuard,
}

impl S3Server {
    /// Starts the server, with one empty bucket.
    ///
    /// # Errors
    /// The folder or the port can't be had.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        std::fs::create_dir_all(options.folder.join(BUCKET))?;
        let files = s3s_fs::FileSystem::new(&options.folder)
            .map_err(|error| anyhow::anyhow!("{}: {error:?}", options.folder.display()))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        let address = listener.local_addr()?;
        let injector = Arc::new(Injector::new(options.faults, options.seed));
        let (gone, absences) = mpsc::channel(1);
        let end = CancellationToken::new();
        let serving = serve(listener, builder.build(), injector.clone(), absences);
        let ended = end.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = serving => {}
            }
        });
        Ok(Self {
            address,
            injector,
            gone,
            _end_on_drop: end.drop_guard(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the faults of the requests to come.
    pub fn set_faults(&self, faults: Faults) {
        self.injector.set(faults);
    }

    /// Cuts all connections and refuses new ones for a time. Being gone already, it only returns
    /// when both times are over.
    pub async fn go(&self, time: Duration) {
        // The receiver lives as long as the server does.
        let _ = self.gone.send(Instant::now() + time).await;
    }

    /// What was served so far.
    pub fn counts(&self) -> Counts {
        self.injector.counts()
    }
}

async fn serve(
    mut listener: TcpListener,
    service: S3Service,
    injector: Arc<Injector>,
    mut absences: mpsc::Receiver<Instant>,
) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    loop {
        let connections = CancellationToken::new();
        let back = loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        let cut = connections.clone();
                        let (service, injector) = (service.clone(), injector.clone());
                        tokio::spawn(async move {
                            let answer = service_fn(|request| {
                                answer(service.clone(), injector.clone(), request)
                            });
                            let builder = Builder::new(TokioExecutor::new());
                            let served = builder.serve_connection(TokioIo::new(stream), answer);
                            tokio::select! {
                                () = cut.cancelled() => {}
                                // How a connection ends is the client's affair.
                                _ = served => {}
                            }
                        });
                    }
                }
                absence = absences.recv() => match absence {
                    Some(back) => break back,
                    None => return,
                }
            }
        };
        drop(listener);
        connections.cancel();
        tokio::time::sleep_until(back).await;
        listener = match rebind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%address, %error, "the port was taken meanwhile");
                return;
            }
        };
    }
}

async fn rebind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let deadline = Instant::now() + REBIND_PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(REBIND_PAUSE).await,
            bound => return bound,
        }
    }
}

async fn answer(
    service: S3Service,
    injector: Arc<Injector>,
    request: Request<Incoming>,
) -> Result<Response<Body>, HttpError> {
    let (delay, fate) = injector.draw();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if fate != Fate::Refused {
        let response = service.call(request.map(Body::from)).await?;
        if fate == Fate::Served {
            return Ok(response);
        }
    }
    let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code>\
                <Message>Please reduce your request rate.</Message></Error>";
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    Ok(response)
}
