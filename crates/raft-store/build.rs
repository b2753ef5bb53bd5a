//! Generates the crate's own protobuf package from `proto/quorate/raft/v1`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../../proto/quorate/raft");
    let files = protox::compile(["quorate/raft/v1/raft.proto"], ["../../proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(files)?;
    Ok(())
}
