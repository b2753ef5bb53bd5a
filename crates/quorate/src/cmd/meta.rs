//! `quorate meta`: annotations, each key a linearizable register.

use quorate_rpc::proto::quorate::meta::meta_client::MetaClient;
use quorate_rpc::proto::quorate::meta::{
    Annotation, CompareAndSetRequest, GetRequest, ListRequest, PutRequest,
    compare_and_set_request::Expected,
};
use quorate_rpc::{Client, MAX_DECODE_BYTES, Retry};
use serde::Serialize;

use crate::answer::{Answer, Column, table};
use crate::context::Context;
use crate::error::{CliError, Exit};

/// Keys asked for at a time.
const PAGE: u32 = 1_000;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write a value
    Put {
        /// Key, 1 to 512 bytes
        key: String,
        /// Value, at most 64 KiB
        value: String,
    },
    /// Read a value; exit code 1 when there is none
    Get {
        /// Key
        key: String,
    },
    /// Write a value only when the key is as expected; exit code 1 when it is not
    Cas {
        /// Key
        key: String,
        /// What the key must hold
        #[command(flatten)]
        expected: ExpectedArgs,
        /// What it shall hold then
        #[command(flatten)]
        wanted: WantedArgs,
    },
    /// List keys with their values
    List {
        /// Only keys that begin with this
        #[arg(default_value = "")]
        prefix: String,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ExpectedArgs {
    /// The revision it must have
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// The value it must have
    #[arg(long, value_name = "VALUE")]
    value: Option<String>,
    /// There must be no such key
    #[arg(long)]
    absent: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WantedArgs {
    /// The new value
    new: Option<String>,
    /// Delete the key
    #[arg(long)]
    delete: bool,
}

#[derive(Debug, Serialize)]
struct AnnotationView {
    key: String,
    /// The value, when it is text.
    value: Option<String>,
    /// The value in hex, when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    revision: u64,
}

#[derive(Debug, Serialize)]
struct Put {
    key: String,
    revision: u64,
}

#[derive(Debug, Serialize)]
struct Swap {
    swapped: bool,
    current: Option<AnnotationView>,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<Answer, CliError> {
    let client = context.client()?;
    match command {
        Command::Put { key, value } => put(&client, key, value).await,
        Command::Get { key } => get(&client, key).await,
        Command::Cas {
            key,
            expected,
            wanted,
        } => compare_and_set(&client, key, expected, wanted).await,
        Command::List { prefix } => list(&client, prefix).await,
    }
}

fn meta(leader: quorate_rpc::LeaderChannel) -> MetaClient<quorate_rpc::LeaderChannel> {
    MetaClient::new(leader).max_decoding_message_size(MAX_DECODE_BYTES)
}

/// Names this one request, so that repeating it has no second effect.
fn token() -> Vec<u8> {
    rand::random::<[u8; 16]>().to_vec()
}

async fn put(client: &Client, key: String, value: String) -> Result<Answer, CliError> {
    let request = PutRequest {
        key: key.clone(),
        value: value.into_bytes(),
        token: token(),
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { meta(leader).put(request).await }
        })
        .await?;
    let text = format!("revision {}", reply.revision);
    let put = Put {
        key,
        revision: reply.revision,
    };
    Answer::new(&put, text)
}

async fn get(client: &Client, key: String) -> Result<Answer, CliError> {
    let request = GetRequest { key: key.clone() };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { meta(leader).get(request).await }
        })
        .await?;
    match reply.annotation.map(view_of) {
        Some(view) => {
            let text = text_of(&view);
            Answer::new(&view, text)
        }
        None => {
            let answer = Answer::new(&(), format!("there is no key {key}"))?;
            Ok(answer.unless(false, Exit::Failed))
        }
    }
}

async fn compare_and_set(
    client: &Client,
    key: String,
    expected: ExpectedArgs,
    wanted: WantedArgs,
) -> Result<Answer, CliError> {
    let expected = match expected.value {
        Some(value) => Expected::Value(value.into_bytes()),
        // A key that does not exist has revision 0.
        None => Expected::Revision(expected.revision.unwrap_or(0)),
    };
    let request = CompareAndSetRequest {
        key,
        expected: Some(expected),
        new_value: wanted.new.map(String::into_bytes),
        token: token(),
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { meta(leader).compare_and_set(request).await }
        })
        .await?;
    let current = reply.current.map(view_of);
    let now = match &current {
        Some(view) => format!("{:?} at revision {}", text_of(view), view.revision),
        None => "absent".to_owned(),
    };
    let verb = if reply.swapped {
        "swapped"
    } else {
        "NOT swapped"
    };
    let swap = Swap {
        swapped: reply.swapped,
        current,
    };
    let answer = Answer::new(&swap, format!("{verb}; {} is now {now}", request.key))?;
    Ok(answer.unless(reply.swapped, Exit::Failed))
}

async fn list(client: &Client, prefix: String) -> Result<Answer, CliError> {
    let mut request = ListRequest {
        prefix,
        limit: PAGE,
        after: String::new(),
    };
    let mut all: Vec<AnnotationView> = Vec::new();
    loop {
        let reply = client
            .call(Retry::Idempotent, |leader| {
                let request = request.clone();
                async move { meta(leader).list(request).await }
            })
            .await?;
        all.extend(reply.annotations.into_iter().map(view_of));
        match all.last() {
            Some(last) if reply.more && last.key > request.after => {
                request.after = last.key.clone();
            }
            _ => break,
        }
    }
    let columns = [
        Column::Text("key"),
        Column::Number("revision"),
        Column::Text("value"),
    ];
    let rows = all
        .iter()
        .map(|view| vec![view.key.clone(), view.revision.to_string(), text_of(view)]);
    let text = table(&columns, rows);
    Answer::new(&all, text)
}

fn view_of(annotation: Annotation) -> AnnotationView {
    let (value, value_hex) = match String::from_utf8(annotation.value) {
        Ok(text) => (Some(text), None),
        Err(error) => {
            let hex = error.as_bytes().iter().map(|byte| format!("{byte:02x}"));
            (None, Some(hex.collect()))
        }
    };
    AnnotationView {
        key: annotation.key,
        value,
        value_hex,
        revision: annotation.revision,
    }
}

fn text_of(view: &AnnotationView) -> String {
    match (&view.value, &view.value_hex) {
        (Some(text), _) => text.clone(),
        (None, hex) => format!("0x{}", hex.as_deref().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    fn get_key(key: &str) -> Command {
        Command::Get {
            key: key.to_owned(),
        }
    }

    fn cas(revision: Option<u64>, new: Option<&str>) -> Command {
        Command::Cas {
            key: "k".to_owned(),
            expected: ExpectedArgs {
                revision,
                value: None,
                absent: revision.is_none(),
            },
            wanted: WantedArgs {
                new: new.map(str::to_owned),
                delete: new.is_none(),
            },
        }
    }

    #[tokio::test]
    async fn a_value_is_written_read_and_swapped() {
        let cluster = FakeCluster::start(1).await;
        let context = cluster.context();
        let absent = run(&context, get_key("k")).await.unwrap();
        assert_eq!(absent.exit, Some(Exit::Failed));

        let created = run(&context, cas(None, Some("1"))).await.unwrap();
        assert_eq!(created.exit, None);
        let refused = run(&context, cas(None, Some("2"))).await.unwrap();
        assert_eq!(refused.exit, Some(Exit::Failed));
        assert_eq!(refused.json["current"]["value"], "1");

        let put = Command::Put {
            key: "k".to_owned(),
            value: "3".to_owned(),
        };
        let revision = run(&context, put).await.unwrap().json["revision"].as_u64();
        let got = run(&context, get_key("k")).await.unwrap();
        assert_eq!(
            (got.text.as_str(), got.json["revision"].as_u64()),
            ("3", revision)
        );

        let listed = run(
            &context,
            Command::List {
                prefix: String::new(),
            },
        )
        .await
        .unwrap();
        assert_eq!(listed.json.as_array().unwrap().len(), 1);
        let deleted = run(&context, cas(revision, None)).await.unwrap();
        assert_eq!(deleted.exit, None);
        assert!(deleted.json["current"].is_null());
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_in_hex() {
        let view = view_of(Annotation {
            key: "k".to_owned(),
            value: vec![0xff, 0x00],
            revision: 1,
        });
        assert_eq!(text_of(&view), "0xff00");
        assert_eq!(view.value, None);
    }
}
