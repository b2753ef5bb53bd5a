//! Certificates of the replicas, made at the first start and kept in the cluster's folder.

use std::path::{Path, PathBuf};

use crate::certs::Authority;
use crate::error::CliError;

/// Years they are valid.
const YEARS: i32 = 10;

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("certs")
}

fn name(number: usize) -> String {
    format!("replica-{number}")
}

/// Makes those that are missing, which in a folder of an earlier start are none.
pub(super) fn make(data_dir: &Path, replicas: usize) -> Result<(), CliError> {
    let authority = Authority::open(&folder(data_dir), YEARS)?;
    for number in 1..=replicas {
        let name = name(number);
        if !authority.paths(&name).cert.exists() {
            authority.replica(&name, &["127.0.0.1".to_owned()])?;
        }
    }
    Ok(())
}

/// Arguments of `quorate server` that name the certificate of a replica.
pub(super) fn settings(data_dir: &Path, number: usize) -> Vec<String> {
    let folder = folder(data_dir);
    let name = name(number);
    [
        ("cert", format!("{name}.pem")),
        ("key", format!("{name}-key.pem")),
        ("ca", "ca.pem".to_owned()),
    ]
    .into_iter()
    .flat_map(|(key, file)| {
        let path = folder.join(file);
        [
            "--set".to_owned(),
            format!("quorate.peer.tls.{key}={}", path.display()),
        ]
    })
    .collect()
}
