//! What every command has at hand: whom to ask, and for how long.

use std::time::Duration;

use quorate_rpc::{Client, ClientOptions};

use crate::cli::Global;
use crate::error::CliError;

/// The cluster a command talks to.
#[derive(Clone, Debug)]
pub struct Context {
    endpoints: Vec<String>,
    timeout: Duration,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Self {
        Self::to(
            global.endpoints.clone(),
            Duration::from_secs(global.timeout),
        )
    }

    /// A context for a cluster at these client addresses.
    pub fn to(endpoints: Vec<String>, timeout: Duration) -> Self {
        Self { endpoints, timeout }
    }

    /// Client addresses as given.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// How long one call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A client of the cluster.
    pub fn client(&self) -> Result<Client, CliError> {
        let options = ClientOptions {
            deadline: self.timeout,
            ..ClientOptions::default()
        };
        Ok(Client::new(self.endpoints.clone(), options)?)
    }
}
