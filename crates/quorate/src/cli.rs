//! The command line: what can be asked, and which module answers.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::answer::{Answer, Output};
use crate::cmd;
use crate::context::Context;
use crate::error::CliError;

/// Quorate: the coordinator of a vector database's data, replicated by Raft.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options every command takes.
#[derive(Debug, ClapArgs)]
pub(crate) struct Global {
    /// Client addresses of the replicas, one of which is enough
    #[arg(
        long,
        global = true,
        env = "QUORATE_ENDPOINTS",
        default_value = "127.0.0.1:13333",
        value_delimiter = ',',
        value_name = "HOST:PORT,…"
    )]
    pub(crate) endpoints: Vec<String>,
    /// How to print the answer
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// How long one call may take, in seconds, with all its attempts
    #[arg(
        long,
        global = true,
        env = "QUORATE_TIMEOUT",
        default_value_t = 10,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    pub(crate) timeout: u64,
    /// Authority of the replicas' certificates (PEM); with it, replicas are talked to over TLS
    #[arg(long, global = true, env = "QUORATE_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Certificate to show to replicas that want one (PEM)
    #[arg(long, global = true, env = "QUORATE_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, global = true, env = "QUORATE_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the replicas: who leads, in which term, how far each has applied
    Status,
    /// Form a new cluster out of replicas that wait for it
    Init(cmd::init::Args),
    /// List, add, promote and remove members of the cluster
    #[command(subcommand)]
    Member(cmd::member::Command),
    /// Hand leadership over
    #[command(subcommand)]
    Leader(cmd::member::LeaderCommand),
    /// Make certificates for replicas and clients
    Certs(cmd::certs::Args),
    /// Create, list, show and drop collections
    #[command(subcommand)]
    Collections(cmd::collections::Command),
    /// Create, list and drop partitions
    #[command(subcommand)]
    Partitions(cmd::partitions::Command),
    /// List and show segments
    #[command(subcommand)]
    Segments(cmd::segments::Command),
    /// List channels with their owners
    #[command(subcommand)]
    Channels(cmd::channels::Command),
    /// List data nodes
    #[command(subcommand)]
    Nodes(cmd::nodes::Command),
    /// Seal what is growing and have it written out
    Flush(cmd::flush::Args),
    /// Merge small segments and remove deleted rows
    Compact(cmd::compact::Args),
    /// List compactions
    #[command(subcommand)]
    Compactions(cmd::compactions::Command),
    /// Create, list and drop indexes
    #[command(subcommand)]
    Index(cmd::index::Command),
    /// Find nearest neighbours with the index files in the object store
    Search(cmd::search::Args),
    /// Collect garbage, see what it would do, or hold it back
    #[command(subcommand)]
    Gc(cmd::gc::Command),
    /// Compare the replicas with each other
    Check(cmd::check::Args),
    /// Read and write annotations, a linearizable register per key
    #[command(subcommand)]
    Meta(cmd::meta::Command),
    /// Put the rows of a Parquet file into a collection
    Ingest(cmd::ingest::Args),
    /// Read a collection back from its objects and compare it with a Parquet file
    Verify(cmd::verify::Args),
    /// Delete rows by primary key
    Delete(cmd::delete::Args),
    /// Run one replica
    Server(cmd::server::Args),
    /// Run a data node
    Datanode(cmd::datanode::Args),
    /// Run replicas and data nodes here, as child processes
    Dev(cmd::dev::Args),
    /// See a cluster lose its leader and a data node under load, and no row
    Demo(cmd::demo::Args),
    /// Use a cluster of its own at random while killing its processes, and compare what is stored
    /// with what should be
    Soak(cmd::soak::Args),
    /// Measure a cluster
    #[command(subcommand)]
    Bench(cmd::bench::Command),
}

impl Command {
    /// Whether the command shows by itself that it is still at it.
    pub(crate) fn tells_its_progress(&self) -> bool {
        matches!(
            self,
            Self::Ingest(_)
                | Self::Verify(_)
                | Self::Datanode(_)
                | Self::Server(_)
                | Self::Dev(_)
                | Self::Demo(_)
                | Self::Soak(_)
                | Self::Bench(_)
                | Self::Member(cmd::member::Command::Add(_))
                | Self::Flush(cmd::flush::Args { wait: true, .. })
                | Self::Compact(cmd::compact::Args { wait: true, .. })
                | Self::Index(cmd::index::Command::Create(cmd::index::CreateArgs {
                    wait: true,
                    ..
                }))
        )
    }

    /// Whether the command is a server, whose log is what people look at.
    fn serves(&self) -> bool {
        matches!(self, Self::Datanode(_) | Self::Server(_))
    }

    pub(crate) async fn run(self, context: &Context, output: Output) -> Result<Answer, CliError> {
        match self {
            Self::Status => cmd::status::run(context).await,
            Self::Init(args) => cmd::init::run(context, args).await,
            Self::Member(command) => cmd::member::run(context, command).await,
            Self::Leader(command) => cmd::member::run_leader(context, command).await,
            Self::Certs(args) => cmd::certs::run(&args),
            Self::Collections(command) => cmd::collections::run(context, command).await,
            Self::Partitions(command) => cmd::partitions::run(context, command).await,
            Self::Segments(command) => cmd::segments::run(context, command).await,
            Self::Channels(command) => cmd::channels::run(context, command).await,
            Self::Nodes(command) => cmd::nodes::run(context, command).await,
            Self::Flush(args) => cmd::flush::run(context, args).await,
            Self::Compact(args) => cmd::compact::run(context, args).await,
            Self::Compactions(command) => cmd::compactions::run(context, command).await,
            Self::Index(command) => cmd::index::run(context, command).await,
            Self::Search(args) => cmd::search::run(context, args, output).await,
            Self::Gc(command) => cmd::gc::run(context, command).await,
            Self::Check(args) => cmd::check::run(context, args).await,
            Self::Meta(command) => cmd::meta::run(context, command).await,
            Self::Ingest(args) => cmd::ingest::run(context, args).await,
            Self::Verify(args) => cmd::verify::run(context, args).await,
            Self::Delete(args) => cmd::delete::run(context, args).await,
            Self::Server(args) => cmd::server::run(args).await,
            Self::Datanode(args) => cmd::datanode::run(context, args).await,
            Self::Dev(args) => cmd::dev::run(args, output).await,
            Self::Demo(args) => cmd::demo::run(args).await,
            Self::Soak(args) => cmd::soak::run(args).await,
            Self::Bench(command) => cmd::bench::run(command).await,
        }
    }
}

/// Sends the log to stderr: of servers from INFO on, of other commands nothing, unless
/// `QUORATE_LOG` says otherwise (`debug`, or `info,quorate_datanode=debug`, …).
pub(crate) fn start_logging(args: &Args) -> Result<(), CliError> {
    let default = if args.command.serves() {
        "info,openraft=warn"
    } else {
        "off"
    };
    let directives = std::env::var("QUORATE_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(&directives).map_err(|error| {
        CliError::usage(format!(
            "QUORATE_LOG={directives:?} cannot be understood: {error}"
        ))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
