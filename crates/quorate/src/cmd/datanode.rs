//! `quorate datanode`: runs the reference data node in this process.

use std::net::SocketAddr;
use std::time::Duration;

use quorate_datanode::{Config, DataNode};

use crate::answer::Answer;
use crate::context::Context;
use crate::error::CliError;
use crate::shutdown;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address to listen on
    #[arg(
        long,
        env = "QUORATE_DATANODE_LISTEN",
        default_value = "127.0.0.1:21124"
    )]
    listen: SocketAddr,
    /// host:port under which others reach this node; the address it listens on when not given
    #[arg(long, env = "QUORATE_DATANODE_ADVERTISE", default_value = "")]
    advertise: String,
    /// Where log files go: a path or a file:// URL
    #[arg(long, env = "QUORATE_OBJECT_STORE", default_value = "data/objects")]
    object_store: String,
    /// Rows held in memory at most, in MiB; beyond it writers are told to wait
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    buffer_mib: u64,
    /// A segment is written out when it has buffered so many MiB
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    segment_sync_mib: u64,
    /// A segment is written out when its oldest buffered row is so many milliseconds old
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    sync_interval_ms: u64,
    /// Milliseconds between two time ticks
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    tick_interval_ms: u64,
    /// How long stopping may take to write out what is buffered, in milliseconds
    #[arg(long, default_value_t = 10_000)]
    stop_timeout_ms: u64,
    /// End when stdin does, as it does when the parent process is gone
    #[arg(long)]
    exit_with_parent: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<Answer, CliError> {
    let stop = shutdown::token(args.exit_with_parent)?;
    let config = Config {
        listen: args.listen,
        advertise: args.advertise,
        coordinators: context.endpoints().to_vec(),
        coordinator_tls: context.tls()?,
        object_store: args.object_store,
        buffer_max_bytes: args.buffer_mib << 20,
        segment_sync_bytes: args.segment_sync_mib << 20,
        sync_interval: Duration::from_millis(args.sync_interval_ms),
        tick_interval: Duration::from_millis(args.tick_interval_ms),
        stop_timeout: Duration::from_millis(args.stop_timeout_ms),
        ..Config::default()
    };
    // Registering waits for the coordinator as long as it takes; a signal must end that too.
    let node = tokio::select! {
        node = DataNode::start(config) => node.map_err(CliError::failed)?,
        () = stop.cancelled() => return Ok(Answer::silent()),
    };
    tracing::info!(node = node.node_id(), address = %node.local_addr(), "data node is up");
    tokio::select! {
        () = node.wait() => {
            return Err(CliError::failed(anyhow::anyhow!("the data node ended by itself"))
                .hint("its log says why"));
        }
        () = stop.cancelled() => {}
    }
    node.stop().await;
    Ok(Answer::silent())
}
