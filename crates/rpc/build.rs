//! Generates messages, clients and servers from `proto/`, without protoc.

use std::path::{Path, PathBuf};

/// Everything but `quorate/log` and `quorate/raft`, which belong to the crates that store them.
const FILES: &[&str] = &[
    "milvus/common.proto",
    "milvus/schema.proto",
    "milvus/msg.proto",
    "milvus/milvus.proto",
    "milvus/index.proto",
    "milvus/data.proto",
    "quorate/row/v1/row.proto",
    "quorate/collection/v1/collection.proto",
    "quorate/oracle/v1/oracle.proto",
    "quorate/node/v1/node.proto",
    "quorate/meta/v1/meta.proto",
    "quorate/admin/v1/admin.proto",
    "quorate/peer/v1/peer.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    for file in FILES {
        println!("cargo:rerun-if-changed={}", root.join(file).display());
    }
    let mut compiler = protox::Compiler::new([&root])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(FILES)?;

    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    let mut files = compiler.file_descriptor_set();
    // Milvus names a value of an enum `_`, which is no name in Rust. On the wire are numbers only.
    let enums = files.file.iter_mut().flat_map(|file| &mut file.enum_type);
    for value in enums.flat_map(|kind| &mut kind.value) {
        if value.name() == "_" {
            value.name = Some("None".into());
        }
    }
    tonic_prost_build::configure()
        .include_file("protos.rs")
        .bytes(".quorate.peer")
        .compile_fds(files)?;
    Ok(())
}
