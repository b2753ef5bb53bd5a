//! Which methods there are, and which of them a replica answers itself whoever leads.

use std::collections::HashSet;
use std::sync::LazyLock;

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::proto::FILE_DESCRIPTOR_SET;

/// Methods a replica answers about itself, beside those of [`LOCAL_SERVICES`].
const LOCAL_METHODS: &[&str] = &[
    "/milvus.proto.data.DataCoord/GetComponentStates",
    "/quorate.admin.v1.Admin/Status",
    "/quorate.admin.v1.Admin/Init",
    "/quorate.admin.v1.Admin/GetCheck",
];

/// Services each replica serves for itself, and those that are not the coordinator's.
const LOCAL_SERVICES: &[&str] = &[
    "quorate.peer.v1.Peer",
    "quorate.node.v1.Rows",
    "milvus.proto.data.DataNode",
    "milvus.proto.index.IndexNode",
];

/// Paths (`/package.Service/Method`) only the leader answers.
static LEADER_PATHS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)
        .expect("the descriptor set was encoded when this crate was built");
    let mut paths = HashSet::new();
    for file in files.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            if LOCAL_SERVICES.contains(&name.as_str()) {
                continue;
            }
            for method in &service.method {
                paths.insert(format!("/{name}/{}", method.name()));
            }
        }
    }
    for path in LOCAL_METHODS {
        paths.remove(*path);
    }
    paths
});

/// Whether only the leader answers calls of this path. Health, reflection and what nobody knows
/// are answered where they arrive.
pub(crate) fn needs_leader(path: &str) -> bool {
    LEADER_PATHS.contains(path)
}

/// Service and method of a path.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.rsplit_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_answers_for_the_cluster_and_each_replica_for_itself() {
        for path in [
            "/milvus.proto.data.DataCoord/AssignSegmentID",
            "/milvus.proto.data.DataCoord/GetSegmentInfo",
            "/quorate.admin.v1.Admin/MarkCheck",
            "/quorate.admin.v1.Admin/ListSegments",
            "/quorate.meta.v1.Meta/Get",
            "/quorate.node.v1.Nodes/Heartbeat",
            "/quorate.oracle.v1.Oracle/AllocId",
            "/quorate.collection.v1.Collections/CreateCollection",
        ] {
            assert!(needs_leader(path), "{path}");
        }
        for path in [
            "/milvus.proto.data.DataCoord/GetComponentStates",
            "/milvus.proto.data.DataCoord/NoSuch",
            "/quorate.admin.v1.Admin/Status",
            "/quorate.admin.v1.Admin/GetCheck",
            "/quorate.peer.v1.Peer/Call",
            "/grpc.health.v1.Health/Check",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(!needs_leader(path), "{path}");
        }
    }

    #[test]
    fn every_local_method_is_one_there_is() {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("built with the crate");
        let services: Vec<(String, Vec<String>)> = files
            .file
            .iter()
            .flat_map(|file| file.service.iter().map(move |service| (file, service)))
            .map(|(file, service)| {
                let methods = service.method.iter().map(|m| m.name().to_owned());
                (
                    format!("{}.{}", file.package(), service.name()),
                    methods.collect(),
                )
            })
            .collect();
        for path in LOCAL_METHODS {
            let (service, method) = split(path).expect("a path");
            assert!(
                services
                    .iter()
                    .any(|(name, methods)| name == service && methods.iter().any(|m| m == method)),
                "{path}"
            );
        }
        for service in LOCAL_SERVICES {
            assert!(
                services.iter().any(|(name, _)| name == service),
                "{service}"
            );
        }
    }
}
