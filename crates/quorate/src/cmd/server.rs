//! `quorate server`: runs one replica in this process.

use std::path::PathBuf;

use quorate_coord::{config, server};

use crate::answer::Answer;
use crate::error::CliError;
use crate::shutdown;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration file (YAML); variables and flags override it
    #[arg(long, env = "QUORATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of log, state and snapshots (quorate.dataDir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address for clients, gRPC and HTTP together (quorate.listen.client)
    #[arg(long, value_name = "HOST:PORT")]
    client_listen: Option<String>,
    /// Address for other replicas (quorate.listen.peer)
    #[arg(long, value_name = "HOST:PORT")]
    peer_listen: Option<String>,
    /// Address for health and metrics (quorate.listen.health)
    #[arg(long, value_name = "HOST:PORT")]
    health_listen: Option<String>,
    /// Any setting, as key=value; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// End when stdin does, as it does when the parent process is gone
    #[arg(long)]
    exit_with_parent: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write it as key=value".to_owned()),
    }
}

pub(crate) async fn run(args: Args) -> Result<Answer, CliError> {
    let flags = [
        ("quorate.dataDir", args.data_dir),
        ("quorate.listen.client", args.client_listen),
        ("quorate.listen.peer", args.peer_listen),
        ("quorate.listen.health", args.health_listen),
    ];
    let overrides: Vec<(String, String)> = flags
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .chain(args.set)
        .collect();
    let loaded = config::load(args.config.as_deref(), std::env::vars(), &overrides)
        .map_err(|error| CliError::usage(error.to_string()))?;
    for warning in loaded.warnings {
        tracing::warn!("{warning}");
    }
    let stop = shutdown::token(args.exit_with_parent)?;
    server::run(loaded.config, stop, |listening| {
        let [client, peer, health] = listening
            .addresses()
            .map(|address| address.map_or_else(String::new, |address| address.to_string()));
        tracing::info!(client, peer, health, "listening");
    })
    .await
    .map_err(CliError::failed)?;
    Ok(Answer::silent())
}
