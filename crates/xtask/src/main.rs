//! Checks and exports for this workspace: which crate may depend on which, and the protocol's
//! descriptors.

mod layers;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use prost::Message;
use prost_types::FileDescriptorSet;

#[derive(Parser)]
#[command(about = "Tasks for the developers of Quorate")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fails when a crate depends on what it must not
    Layers,
    /// Writes all proto files, compiled, as a FileDescriptorSet
    Descriptors {
        /// File to write
        out: PathBuf,
    },
    /// Lists the full names of the methods of a protobuf package
    Methods {
        /// Package, for example milvus.proto.data
        package: String,
    },
}

fn main() -> Result<()> {
    match Args::parse().task {
        Task::Layers => check_layers(),
        Task::Descriptors { out } => std::fs::write(&out, quorate_rpc::FILE_DESCRIPTOR_SET)
            .with_context(|| format!("cannot write {}", out.display())),
        Task::Methods { package } => list_methods(&package),
    }
}

fn check_layers() -> Result<()> {
    let graph = layers::Graph::of_workspace()?;
    let violations = graph.violations();
    for violation in &violations {
        println!("{violation}");
    }
    if !violations.is_empty() {
        bail!("{} layer rules violated", violations.len());
    }
    println!("layers: {} crates keep the rules", graph.members().count());
    Ok(())
}

fn list_methods(package: &str) -> Result<()> {
    let files = FileDescriptorSet::decode(quorate_rpc::FILE_DESCRIPTOR_SET)?;
    let mut any = false;
    for file in files.file.iter().filter(|file| file.package() == package) {
        for service in &file.service {
            for method in &service.method {
                any = true;
                println!("{package}.{}.{}", service.name(), method.name());
            }
        }
    }
    if !any {
        bail!("no method in package {package}");
    }
    Ok(())
}
