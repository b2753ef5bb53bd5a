//! Generates the log's messages from `proto/quorate/log`, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new("../../proto");
    println!(
        "cargo:rerun-if-changed={}",
        root.join("quorate/log").display()
    );
    let files = protox::compile(["quorate/log/v1/log.proto"], [&root])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    config.btree_map(["."]);
    config.compile_fds(files)?;
    Ok(())
}
