//! Generated messages, clients and servers. Each module is one protobuf package.

#[allow(missing_docs, clippy::all, clippy::unwrap_used)]
#[rustfmt::skip]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
}

/// Packages of Milvus: names, numbers and types are those of its releases 2.3.5 and 2.5.
pub mod milvus {
    pub use super::generated::milvus::proto::{common, data, index, milvus, msg, schema};
}

/// Packages of our own, each in its version 1.
pub mod quorate {
    pub use super::generated::quorate::admin::v1 as admin;
    pub use super::generated::quorate::collection::v1 as collection;
    pub use super::generated::quorate::meta::v1 as meta;
    pub use super::generated::quorate::node::v1 as node;
    pub use super::generated::quorate::oracle::v1 as oracle;
    pub use super::generated::quorate::peer::v1 as peer;
    pub use super::generated::quorate::row::v1 as row;
}

/// All proto files with their comments, encoded as a `google.protobuf.FileDescriptorSet`: for
/// server reflection and for tools.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
