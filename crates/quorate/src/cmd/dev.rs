//! `quorate dev`: a whole cluster on this machine, as child processes.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::answer::{Answer, Column, Output, table};
use crate::devcluster::{DevCluster, DevOptions, Event};
use crate::error::CliError;
use crate::shutdown;

/// Time between two looks at the processes.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of replicas; 3 in a new folder, else as many as the folder has
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: Option<u8>,
    /// Number of data nodes; 2 in a new folder, else as many as the folder has
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=50))]
    data_nodes: Option<u8>,
    /// Folder for everything; started again with the same folder, nothing is lost
    #[arg(long, default_value = "data")]
    data_dir: PathBuf,
    /// First port; 13333 in a new folder. A replica takes three, 10 apart, a data node one from 100 on
    #[arg(long, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    base_port: Option<u16>,
    /// Configuration file for the replicas
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Another quorate binary to run the processes with, for example of another version
    #[arg(long, hide = true, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Start a process again when it ends
    #[arg(long)]
    restart: bool,
    /// End when stdin does, as it does when the parent process is gone
    #[arg(long)]
    exit_with_parent: bool,
}

#[derive(Debug, Serialize)]
struct MemberView {
    name: String,
    address: String,
    pid: u32,
    log: String,
}

pub(crate) async fn run(args: Args, output: Output) -> Result<Answer, CliError> {
    let stop = shutdown::token(args.exit_with_parent)?;
    let defaults = DevOptions::new(&args.data_dir);
    let options = DevOptions {
        replicas: args.replicas.map(usize::from),
        data_nodes: args.data_nodes.map(usize::from),
        base_port: args.base_port.or(Some(crate::devcluster::BASE_PORT)),
        base_port_is_firm: args.base_port.is_some(),
        binary: args.binary.unwrap_or(defaults.binary),
        config: args.config,
        restart: args.restart,
        ..defaults
    };
    eprintln!("starting a cluster in {} …", args.data_dir.display());
    let mut cluster = tokio::select! {
        cluster = DevCluster::start(options) => cluster?,
        // Dropping a cluster that is starting ends its processes.
        () = stop.cancelled() => {
            eprintln!("stopped before the cluster was up");
            return Ok(Answer::silent());
        }
    };
    announce(&cluster, output)?;
    while !stop.is_cancelled() {
        for event in cluster.watch().await {
            match event {
                Event::Ended { name, status } => eprintln!("{name} ended: {status}"),
                Event::Restarted { name, pid } => eprintln!("{name} runs again as process {pid}"),
                Event::Failed { name, error } => {
                    eprintln!("{name} cannot be started again: {error}");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
    eprintln!("stopping …");
    cluster.stop().await;
    eprintln!("stopped");
    Ok(Answer::silent())
}

fn announce(cluster: &DevCluster, output: Output) -> Result<(), CliError> {
    let members: Vec<MemberView> = cluster
        .members()
        .map(|process| MemberView {
            name: process.name().to_owned(),
            address: process.client_addr().to_owned(),
            pid: process.pid().unwrap_or(0),
            log: process.log_path().display().to_string(),
        })
        .collect();
    let columns = [
        Column::Text("process"),
        Column::Text("address"),
        Column::Number("pid"),
        Column::Text("log"),
    ];
    let rows = members.iter().map(|member| {
        vec![
            member.name.clone(),
            member.address.clone(),
            member.pid.to_string(),
            member.log.clone(),
        ]
    });
    let endpoints = cluster.endpoints().join(",");
    let text = format!(
        "{}\n\nthe cluster is up; Ctrl-C stops it\n\n\
         export QUORATE_ENDPOINTS={endpoints} QUORATE_OBJECT_STORE={}",
        table(&columns, rows),
        cluster.object_store(),
    );
    let value = serde_json::json!({
        "endpoints": cluster.endpoints(),
        "object_store": cluster.object_store(),
        "processes": members,
    });
    Answer::new(&value, text)?.print(output)?;
    Ok(())
}
