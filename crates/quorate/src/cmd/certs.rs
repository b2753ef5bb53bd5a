//! `quorate certs`: certificates for replicas and clients.

use std::path::PathBuf;

use serde::Serialize;

use crate::answer::{Answer, Column, table};
use crate::certs::{Authority, Made};
use crate::error::CliError;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder for the files; one with an authority gets further certificates of it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Hosts of replicas: names or addresses as others reach them
    #[arg(long, value_delimiter = ',', value_name = "HOST,…")]
    hosts: Vec<String>,
    /// Further names or addresses every replica is reached at, for example 127.0.0.1
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    names: Vec<String>,
    /// Number of clients: client-1, client-2, …
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1000))]
    clients: u16,
    /// Names of clients, instead of or beside numbered ones
    #[arg(long = "client", value_name = "NAME")]
    named_clients: Vec<String>,
    /// Years the certificates are valid
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(i32).range(1..=25))]
    years: i32,
}

#[derive(Debug, Serialize)]
struct MadeView {
    name: String,
    role: &'static str,
    cert: String,
    key: String,
}

pub(crate) fn run(args: &Args) -> Result<Answer, CliError> {
    if args.hosts.is_empty() && args.clients == 0 && args.named_clients.is_empty() {
        return Err(CliError::usage(
            "say for whom: --hosts, --clients or --client",
        ));
    }
    let clients: Vec<String> = (1..=args.clients)
        .map(|number| format!("client-{number}"))
        .chain(args.named_clients.iter().cloned())
        .collect();
    let authority = Authority::open(&args.out, args.years)?;
    // Looked at before anything is made, so that a second run changes nothing.
    for name in args.hosts.iter().chain(&clients) {
        check_name(name)?;
        let paths = authority.paths(name);
        if paths.cert.exists() || paths.key.exists() {
            return Err(CliError::failed(anyhow::anyhow!(
                "there is a certificate of {name} already: {}",
                paths.cert.display()
            ))
            .hint("nothing is ever overwritten; move the files away or leave the name out"));
        }
    }
    let mut made = Vec::new();
    for host in &args.hosts {
        made.push(view(authority.replica(host, &args.names)?, "replica"));
    }
    for client in &clients {
        made.push(view(authority.client(client)?, "client"));
    }
    let columns = [
        Column::Text("name"),
        Column::Text("role"),
        Column::Text("certificate"),
        Column::Text("key"),
    ];
    let rows = made.iter().map(|made| {
        vec![
            made.name.clone(),
            made.role.to_owned(),
            made.cert.clone(),
            made.key.clone(),
        ]
    });
    let ca = authority.ca().display().to_string();
    let text = format!(
        "{}\n\nauthority  {ca}, which everybody needs; keep its key off the replicas",
        table(&columns, rows)
    );
    Answer::new(&serde_json::json!({ "ca": ca, "made": made }), text)
}

fn view(made: Made, role: &'static str) -> MadeView {
    MadeView {
        name: made.name,
        role,
        cert: made.cert.display().to_string(),
        key: made.key.display().to_string(),
    }
}

/// Names become file names.
fn check_name(name: &str) -> Result<(), CliError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if name.is_empty() || name.starts_with(['.', '-']) || !name.chars().all(good) {
        return Err(CliError::usage(format!(
            "{name:?} is no name of a host or client; leave ports out"
        )));
    }
    if matches!(name, "ca" | "ca-key") {
        return Err(CliError::usage("the name ca is the authority's"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(out: &std::path::Path, hosts: &[&str], clients: u16) -> Args {
        Args {
            out: out.to_owned(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            names: Vec::new(),
            clients,
            named_clients: Vec::new(),
            years: 5,
        }
    }

    #[test]
    fn hosts_are_added_later_and_never_twice() {
        let dir = tempfile::tempdir().unwrap();
        let first = run(&args(dir.path(), &["a.example", "10.0.0.1"], 1)).unwrap();
        assert_eq!(first.json["made"].as_array().unwrap().len(), 3);
        run(&args(dir.path(), &["b.example"], 0)).unwrap();
        let error = run(&args(dir.path(), &["c.example", "a.example"], 0)).unwrap_err();
        assert!(error.to_string().contains("a.example"), "{error}");
        assert!(!dir.path().join("c.example.pem").exists());
    }

    #[test]
    fn a_name_that_is_no_host_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for host in ["", "../x", "a/b", "ca", "-x", "a b"] {
            assert!(run(&args(dir.path(), &[host], 0)).is_err(), "{host}");
        }
        assert!(run(&args(dir.path(), &[], 0)).is_err());
    }
}
