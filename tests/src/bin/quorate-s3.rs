//! An S3-speaking server on loopback that fails on demand, for tests of what uses object stores.
//!
//! It prints its endpoint, keys and seed, then reads commands from stdin, one a line, and answers
//! each with a line: `faults delay-ms=200 errors-permille=300` (what is not named is off),
//! `gone MS` (refuses connections for so long), `counts`. It ends with its stdin.

use std::path::PathBuf;

use anyhow::{Context, bail};
use quorate_tests::s3::{ACCESS_KEY, BUCKET, Faults, Options, S3Server, SECRET_KEY};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};

const USAGE: &str =
    "usage: quorate-s3 --folder DIR [--port N] [--seed N] [--delay-ms N] [--errors-permille N]";

fn options(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options {
        folder: PathBuf::new(),
        port: 0,
        seed: u64::from(std::process::id()),
        faults: Faults::default(),
    };
    while let Some(name) = args.next() {
        let value = args
            .next()
            .with_context(|| format!("{name} needs a value\n{USAGE}"))?;
        let number = || {
            value
                .parse::<u64>()
                .with_context(|| format!("{name} needs a number\n{USAGE}"))
        };
        match name.as_str() {
            "--folder" => options.folder = value.into(),
            "--port" => options.port = number()?.try_into()?,
            "--seed" => options.seed = number()?,
            "--delay-ms" => options.faults.delay = Duration::from_millis(number()?),
            "--errors-permille" => {
                options.faults.errors_permille = number()?.min(1000).try_into()?
            }
            _ => bail!("{name} is not known\n{USAGE}"),
        }
    }
    if options.folder.as_os_str().is_empty() {
        bail!("{USAGE}");
    }
    Ok(options)
}

async fn obey(server: &S3Server, line: &str) -> Result<String, String> {
    let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
    match command {
        "faults" => {
            let faults: Faults = rest.parse()?;
            server.set_faults(faults);
            Ok(faults.to_string())
        }
        "gone" => {
            let ms: u64 = rest
                .trim()
                .parse()
                .map_err(|_| format!("{rest:?} is not a number of milliseconds"))?;
            server.go(Duration::from_millis(ms)).await;
            Ok(format!("gone for {ms} ms"))
        }
        "counts" => {
            let counts = server.counts();
            Ok(format!(
                "requests={} errors={}",
                counts.requests, counts.errors
            ))
        }
        _ => Err(format!("{command:?} is none of faults, gone, counts")),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = options(std::env::args().skip(1))?;
    let server = S3Server::start(&options).await?;
    println!(
        "endpoint=http://{} bucket={BUCKET} access_key={ACCESS_KEY} secret_key={SECRET_KEY} seed={}",
        server.address(),
        options.seed
    );
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match obey(&server, line.trim()).await {
            Ok(answer) => println!("ok {answer}"),
            Err(problem) => println!("error {problem}"),
        }
    }
    Ok(())
}
