//! What every command has at hand: whom to ask, and for how long.

use std::time::Duration;

use quorate_rpc::{ChannelOptions, Client, ClientOptions, ClientTls, TlsFiles};

use crate::cli::Global;
use crate::error::CliError;

/// The cluster a command talks to.
#[derive(Clone, Debug)]
pub struct Context {
    endpoints: Vec<String>,
    timeout: Duration,
    tls: TlsFiles,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            tls: TlsFiles {
                cert: global.tls_cert.clone(),
                key: global.tls_key.clone(),
                ca: global.tls_ca.clone(),
            },
            ..Self::to(
                global.endpoints.clone(),
                Duration::from_secs(global.timeout),
            )
        }
    }

    /// A context for a cluster at these client addresses.
    pub fn to(endpoints: Vec<String>, timeout: Duration) -> Self {
        Self {
            endpoints,
            timeout,
            tls: TlsFiles::default(),
        }
    }

    /// Client addresses as given.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// How long one call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The same, with at least so much time for a call.
    pub(crate) fn at_least(&self, timeout: Duration) -> Self {
        Self {
            timeout: self.timeout.max(timeout),
            ..self.clone()
        }
    }

    /// TLS towards the replicas; none when no file is given.
    pub fn tls(&self) -> Result<Option<ClientTls>, CliError> {
        if self.tls.is_empty() {
            return Ok(None);
        }
        let tls = ClientTls::from_files(&self.tls).map_err(|error| {
            CliError::failed(error)
                .hint("look at --tls-ca, --tls-cert and --tls-key and the variables of their names")
        })?;
        Ok(Some(tls))
    }

    /// A client of the cluster.
    pub fn client(&self) -> Result<Client, CliError> {
        self.client_with(ClientOptions::default().attempt_timeout)
    }

    /// A client for calls that take long: one attempt may take all the time there is.
    pub fn patient_client(&self) -> Result<Client, CliError> {
        self.client_with(self.timeout)
    }

    fn client_with(&self, attempt_timeout: Duration) -> Result<Client, CliError> {
        let options = ClientOptions {
            deadline: self.timeout,
            attempt_timeout,
            channel: ChannelOptions {
                tls: self.tls()?,
                ..ChannelOptions::default()
            },
            ..ClientOptions::default()
        };
        Ok(Client::new(self.endpoints.clone(), options)?)
    }
}
