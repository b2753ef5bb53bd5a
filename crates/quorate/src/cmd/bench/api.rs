//! Calls a second and their latency, with few and with many calls in flight.
//!
//! Closed loop: each call in flight is followed by the next as soon as it is answered, so the
//! latencies are those of a server that is as busy as it can be with so many callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use quorate_rpc::proto::milvus::common::KeyValuePair;
use quorate_rpc::proto::milvus::data::{
    AssignSegmentIdRequest, AssignSegmentIdResponse, GetSegmentInfoRequest, SegmentIdRequest,
};
use quorate_rpc::proto::milvus::schema::{CollectionSchema, DataType, FieldSchema};
use quorate_rpc::proto::quorate::collection::{Collection, CreateCollectionRequest};
use quorate_rpc::status::{check, checked};
use quorate_rpc::{Client, ClientError, ClientOptions, Retry};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::{collections_client, data_coord};
use crate::answer::{Answer, Column, table};
use crate::devcluster::{DevCluster, DevOptions};
use crate::error::{CliError, Exit};

/// Connections the calls are spread over, at most.
const CONNECTIONS: usize = 8;
/// Channels of the collection; allocation is serial within one.
const CHANNELS: u32 = 8;
/// Not measured, before each measurement.
const WARM_UP: Duration = Duration::from_millis(500);
/// Longest latency told apart, in microseconds.
const LATENCY_MAX_US: u64 = 60_000_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of replicas
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    replicas: u8,
    /// How long each measurement takes, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Calls in flight, one measurement for each number
    #[arg(
        long,
        default_values_t = [1, 64, 128],
        value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..=10_000)
    )]
    in_flight: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
enum Method {
    AssignSegmentId,
    GetSegmentInfo,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::AssignSegmentId => "AssignSegmentID",
            Self::GetSegmentInfo => "GetSegmentInfo",
        }
    }
}

#[derive(Debug, Serialize)]
struct Measured {
    method: &'static str,
    in_flight: u16,
    calls: u64,
    errors: u64,
    calls_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

#[derive(Debug, Serialize)]
struct Bench {
    replicas: u8,
    cpus: usize,
    seconds: u64,
    results: Vec<Measured>,
}

/// What the calls are about.
#[derive(Debug)]
struct Subject {
    collection_id: i64,
    partition_id: i64,
    channels: Vec<String>,
    segment_id: i64,
}

pub(crate) async fn run(args: Args) -> Result<Answer, CliError> {
    let folder = tempfile::tempdir()?;
    eprintln!("starting {} replicas …", args.replicas);
    let cluster = DevCluster::start(DevOptions {
        replicas: Some(usize::from(args.replicas)),
        data_nodes: Some(1),
        ..DevOptions::new(folder.path())
    })
    .await?;
    let measured = measure_all(&cluster, &args).await;
    cluster.stop().await;
    let results = measured?;
    let clean = results.iter().all(|result| result.errors == 0);
    let bench = Bench {
        replicas: args.replicas,
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        seconds: args.seconds,
        results,
    };
    let text = text_of(&bench);
    Ok(Answer::new(&bench, text)?.unless(clean, Exit::Failed))
}

async fn measure_all(cluster: &DevCluster, args: &Args) -> Result<Vec<Measured>, CliError> {
    let subject = Arc::new(prepare(&cluster.client()).await?);
    let clients: Vec<Client> = (0..CONNECTIONS)
        .map(|_| Client::new(cluster.endpoints(), ClientOptions::default()))
        .collect::<Result<_, _>>()?;
    let mut results = Vec::new();
    for method in [Method::AssignSegmentId, Method::GetSegmentInfo] {
        for &in_flight in &args.in_flight {
            eprintln!("{} with {in_flight} in flight …", method.name());
            let time = Duration::from_secs(args.seconds);
            results.push(measure(&clients, &subject, method, in_flight, time).await?);
        }
    }
    Ok(results)
}

async fn prepare(client: &Client) -> Result<Subject, CliError> {
    let collection = create_collection(client).await?;
    let mut subject = Subject {
        collection_id: collection.id,
        partition_id: collection
            .partitions
            .first()
            .map_or(0, |partition| partition.id),
        channels: collection.channels,
        segment_id: 0,
    };
    if subject.channels.is_empty() {
        return Err(CliError::failed(anyhow::anyhow!(
            "the collection got no channels"
        )));
    }
    let reply = assign(client, &subject, 0).await?;
    subject.segment_id = reply
        .seg_id_assignments
        .first()
        .map_or(0, |granted| granted.seg_id);
    Ok(subject)
}

async fn create_collection(client: &Client) -> Result<Collection, CliError> {
    let fields = vec![
        FieldSchema {
            name: "id".to_owned(),
            is_primary_key: true,
            data_type: DataType::Int64.into(),
            ..Default::default()
        },
        FieldSchema {
            name: "embedding".to_owned(),
            data_type: DataType::FloatVector.into(),
            type_params: vec![KeyValuePair {
                key: "dim".to_owned(),
                value: "128".to_owned(),
            }],
            ..Default::default()
        },
    ];
    let request = CreateCollectionRequest {
        name: "bench".to_owned(),
        schema: Some(CollectionSchema {
            name: "bench".to_owned(),
            fields,
            ..Default::default()
        }),
        shards: CHANNELS,
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { collections_client(leader).create_collection(request).await }
        })
        .await?;
    Ok(reply.collection.unwrap_or_default())
}

/// One call; no assignment, or one that failed, counts as an error too.
async fn assign(
    client: &Client,
    subject: &Subject,
    turn: usize,
) -> Result<AssignSegmentIdResponse, ClientError> {
    let channel = &subject.channels[turn % subject.channels.len()];
    client
        .call(Retry::Idempotent, |leader| async move {
            let request = AssignSegmentIdRequest {
                node_id: 0,
                peer_role: "proxy".to_owned(),
                segment_id_requests: vec![SegmentIdRequest {
                    count: 1,
                    channel_name: channel.clone(),
                    collection_id: subject.collection_id,
                    partition_id: subject.partition_id,
                    ..Default::default()
                }],
            };
            let reply = checked(data_coord(leader).assign_segment_id(request).await?)?;
            let failed = match reply.get_ref().seg_id_assignments.as_slice() {
                [] => Some("no segment was assigned".to_owned()),
                granted => granted
                    .iter()
                    .filter_map(|granted| granted.status.as_ref())
                    .find_map(|status| check(status).err())
                    .map(|error| error.to_string()),
            };
            match failed {
                Some(reason) => Err(tonic::Status::failed_precondition(reason)),
                None => Ok(reply),
            }
        })
        .await
}

async fn get_info(client: &Client, subject: &Subject) -> Result<(), ClientError> {
    client
        .call(Retry::Idempotent, |leader| async move {
            let request = GetSegmentInfoRequest {
                segment_i_ds: vec![subject.segment_id],
                include_un_healthy: true,
                ..Default::default()
            };
            checked(data_coord(leader).get_segment_info(request).await?)
        })
        .await
        .map(|_| ())
}

async fn measure(
    clients: &[Client],
    subject: &Arc<Subject>,
    method: Method,
    in_flight: u16,
    time: Duration,
) -> Result<Measured, CliError> {
    let measuring = Arc::new(AtomicBool::new(false));
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for number in 0..usize::from(in_flight) {
        let client = clients[number % clients.len()].clone();
        let caller = Caller {
            client,
            subject: subject.clone(),
            method,
            number,
            measuring: measuring.clone(),
            stop: stop.clone(),
        };
        callers.spawn(caller.run());
    }
    tokio::time::sleep(WARM_UP).await;
    measuring.store(true, Ordering::Relaxed);
    let started = Instant::now();
    tokio::time::sleep(time).await;
    measuring.store(false, Ordering::Relaxed);
    let elapsed = started.elapsed();
    stop.store(true, Ordering::Relaxed);

    let mut latencies = histogram()?;
    let mut errors = 0;
    while let Some(caller) = callers.join_next().await {
        let (own, failed) = caller.map_err(CliError::failed)??;
        latencies.add(own).map_err(CliError::failed)?;
        errors += failed;
    }
    let ms = |us: u64| us as f64 / 1000.0;
    Ok(Measured {
        method: method.name(),
        in_flight,
        calls: latencies.len(),
        errors,
        calls_per_s: latencies.len() as f64 / elapsed.as_secs_f64(),
        p50_ms: ms(latencies.value_at_quantile(0.50)),
        p99_ms: ms(latencies.value_at_quantile(0.99)),
        max_ms: ms(latencies.max()),
    })
}

fn histogram() -> Result<Histogram<u64>, CliError> {
    Histogram::new_with_max(LATENCY_MAX_US, 3).map_err(CliError::failed)
}

/// One call in flight.
struct Caller {
    client: Client,
    subject: Arc<Subject>,
    method: Method,
    number: usize,
    measuring: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Caller {
    /// Calls until told to stop; latencies in microseconds, and how many calls failed.
    async fn run(self) -> Result<(Histogram<u64>, u64), CliError> {
        let mut latencies = histogram()?;
        let mut errors = 0;
        let mut turn = self.number;
        while !self.stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            let answer = match self.method {
                Method::AssignSegmentId => {
                    assign(&self.client, &self.subject, turn).await.map(|_| ())
                }
                Method::GetSegmentInfo => get_info(&self.client, &self.subject).await,
            };
            turn += 1;
            if !self.measuring.load(Ordering::Relaxed) {
                continue;
            }
            match answer {
                Ok(()) => {
                    let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                    latencies.saturating_record(us);
                }
                Err(error) => {
                    tracing::warn!(%error, "call failed");
                    errors += 1;
                }
            }
        }
        Ok((latencies, errors))
    }
}

fn text_of(bench: &Bench) -> String {
    let columns = [
        Column::Text("method"),
        Column::Number("in flight"),
        Column::Number("calls"),
        Column::Number("errors"),
        Column::Number("calls/s"),
        Column::Number("P50 ms"),
        Column::Number("P99 ms"),
        Column::Number("max ms"),
    ];
    let rows = bench.results.iter().map(|result| {
        vec![
            result.method.to_owned(),
            result.in_flight.to_string(),
            result.calls.to_string(),
            result.errors.to_string(),
            format!("{:.0}", result.calls_per_s),
            format!("{:.2}", result.p50_ms),
            format!("{:.2}", result.p99_ms),
            format!("{:.2}", result.max_ms),
        ]
    });
    format!(
        "{} replicas and the callers together on {} CPUs, {} s for each line\n\n{}",
        bench.replicas,
        bench.cpus,
        bench.seconds,
        table(&columns, rows)
    )
}
