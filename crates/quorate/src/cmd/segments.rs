//! `quorate segments`: what segments there are, and what one is made of.

use quorate_rpc::proto::milvus::common::SegmentState;
use quorate_rpc::proto::milvus::data::{FieldBinlog, SegmentLevel};
use quorate_rpc::proto::quorate::admin::{ListSegmentsRequest, Segment};
use quorate_rpc::{Client, Retry};
use serde::Serialize;

use super::{admin, collection_id};
use crate::answer::{Answer, Column, bytes, or_dash, pairs, table, time};
use crate::context::Context;
use crate::error::CliError;

/// Segments asked for at a time.
const PAGE: u32 = 5_000;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List segments
    List {
        /// Only those of this collection, by name or id
        #[arg(long)]
        collection: Option<String>,
        /// Only those in one of these states
        #[arg(long, value_enum, value_delimiter = ',')]
        state: Vec<State>,
        /// Dropped ones too
        #[arg(long)]
        dropped: bool,
        /// At most so many, the lowest ids first
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show one segment with its log files
    Show {
        /// Its id
        segment: i64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum State {
    Growing,
    Sealed,
    Flushing,
    Flushed,
    Dropped,
    Importing,
}

impl State {
    fn wire(self) -> SegmentState {
        match self {
            Self::Growing => SegmentState::Growing,
            Self::Sealed => SegmentState::Sealed,
            Self::Flushing => SegmentState::Flushing,
            Self::Flushed => SegmentState::Flushed,
            Self::Dropped => SegmentState::Dropped,
            Self::Importing => SegmentState::Importing,
        }
    }
}

#[derive(Debug, Serialize)]
struct SegmentView {
    id: i64,
    collection_id: i64,
    partition_id: i64,
    channel: String,
    state: String,
    level: String,
    rows: i64,
    max_rows: i64,
    size_bytes: u64,
    files: u32,
    seal_reason: String,
    last_expire_ts: u64,
    start_ts: u64,
    checkpoint_ts: u64,
    dropped_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<Vec<LogView>>,
}

#[derive(Debug, Serialize)]
struct LogView {
    kind: &'static str,
    field_id: i64,
    log_id: i64,
    rows: i64,
    size_bytes: i64,
    timestamp_from: u64,
    timestamp_to: u64,
    path: String,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<Answer, CliError> {
    let client = context.client()?;
    match command {
        Command::List {
            collection,
            state,
            dropped,
            limit,
        } => {
            let request = ListSegmentsRequest {
                collection_id: collection_id(&client, collection.as_deref()).await?,
                include_dropped: dropped || state.contains(&State::Dropped),
                states: state.iter().map(|state| state.wire().into()).collect(),
                ..Default::default()
            };
            list(&client, request, limit.unwrap_or(usize::MAX)).await
        }
        Command::Show { segment } => show(&client, segment).await,
    }
}

async fn list(
    client: &Client,
    mut request: ListSegmentsRequest,
    limit: usize,
) -> Result<Answer, CliError> {
    let mut segments: Vec<SegmentView> = Vec::new();
    while segments.len() < limit {
        let wanted = limit - segments.len();
        request.limit = u32::try_from(wanted).unwrap_or(PAGE).min(PAGE);
        let reply = client
            .call(Retry::Idempotent, |leader| {
                let request = request.clone();
                async move { admin(leader).list_segments(request).await }
            })
            .await?;
        segments.extend(reply.segments.into_iter().map(|s| view_of(s, false)));
        match segments.last() {
            // A page that does not get on would come for ever.
            Some(last) if reply.more && last.id > request.after_id => request.after_id = last.id,
            _ => break,
        }
    }
    let columns = [
        Column::Number("segment"),
        Column::Number("collection"),
        Column::Number("partition"),
        Column::Text("channel"),
        Column::Text("state"),
        Column::Text("level"),
        Column::Number("rows"),
        Column::Number("max rows"),
        Column::Number("size"),
        Column::Number("files"),
        Column::Text("sealed by"),
    ];
    let rows = segments.iter().map(|segment| {
        vec![
            segment.id.to_string(),
            segment.collection_id.to_string(),
            segment.partition_id.to_string(),
            segment.channel.clone(),
            segment.state.clone(),
            segment.level.clone(),
            segment.rows.to_string(),
            segment.max_rows.to_string(),
            bytes(segment.size_bytes),
            segment.files.to_string(),
            sealed_by(segment),
        ]
    });
    let text = table(&columns, rows);
    Answer::new(&segments, text)
}

async fn show(client: &Client, id: i64) -> Result<Answer, CliError> {
    let request = ListSegmentsRequest {
        segment_ids: vec![id],
        include_dropped: true,
        details: true,
        ..Default::default()
    };
    let reply = client
        .call(Retry::Idempotent, |leader| {
            let request = request.clone();
            async move { admin(leader).list_segments(request).await }
        })
        .await?;
    let Some(segment) = reply.segments.into_iter().next() else {
        return Err(
            CliError::failed(anyhow::anyhow!("there is no segment {id}"))
                .hint("quorate segments list shows what there is"),
        );
    };
    let view = view_of(segment, true);
    let text = text_of(&view);
    Answer::new(&view, text)
}

fn view_of(segment: Segment, details: bool) -> SegmentView {
    let info = segment.info.unwrap_or_default();
    let logs = details.then(|| {
        let mut logs = logs_of("insert", &info.binlogs);
        logs.extend(logs_of("stats", &info.statslogs));
        logs.extend(logs_of("delta", &info.deltalogs));
        logs
    });
    SegmentView {
        id: info.id,
        collection_id: info.collection_id,
        partition_id: info.partition_id,
        level: SegmentLevel::try_from(info.level)
            .map_or_else(|_| info.level.to_string(), |l| l.as_str_name().to_owned()),
        channel: info.insert_channel,
        state: segment.state,
        rows: info.num_of_rows,
        max_rows: info.max_row_num,
        size_bytes: segment.size_bytes,
        files: segment.files,
        seal_reason: segment.seal_reason,
        last_expire_ts: info.last_expire_time,
        start_ts: info.start_position.map_or(0, |position| position.timestamp),
        checkpoint_ts: info.dml_position.map_or(0, |position| position.timestamp),
        dropped_at: info.dropped_at,
        logs,
    }
}

fn logs_of(kind: &'static str, fields: &[FieldBinlog]) -> Vec<LogView> {
    fields
        .iter()
        .flat_map(|field| field.binlogs.iter().map(move |log| (field.field_id, log)))
        .map(|(field_id, log)| LogView {
            kind,
            field_id,
            log_id: log.log_id,
            rows: log.entries_num,
            size_bytes: log.log_size,
            timestamp_from: log.timestamp_from,
            timestamp_to: log.timestamp_to,
            path: log.log_path.clone(),
        })
        .collect()
}

fn sealed_by(view: &SegmentView) -> String {
    match view.seal_reason.as_str() {
        "" | "none" => "-".to_owned(),
        reason => reason.to_owned(),
    }
}

fn text_of(view: &SegmentView) -> String {
    let summary = pairs([
        ("segment", view.id.to_string()),
        ("collection", view.collection_id.to_string()),
        ("partition", view.partition_id.to_string()),
        ("channel", view.channel.clone()),
        ("state", view.state.clone()),
        ("level", view.level.clone()),
        (
            "rows",
            format!("{} of at most {}", view.rows, view.max_rows),
        ),
        ("size", bytes(view.size_bytes)),
        ("sealed by", sealed_by(view)),
        ("last grant expires", or_dash(time(view.last_expire_ts))),
        ("first row", or_dash(time(view.start_ts))),
        ("written up to", or_dash(time(view.checkpoint_ts))),
    ]);
    let columns = [
        Column::Text("log"),
        Column::Number("field"),
        Column::Number("log id"),
        Column::Number("rows"),
        Column::Number("size"),
        Column::Text("path"),
    ];
    let rows = view.logs.iter().flatten().map(|log| {
        vec![
            log.kind.to_owned(),
            log.field_id.to_string(),
            log.log_id.to_string(),
            log.rows.to_string(),
            bytes(u64::try_from(log.size_bytes).unwrap_or(0)),
            or_dash(&log.path),
        ]
    });
    format!("{summary}\n\n{}", table(&columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeCluster;

    fn list_all(limit: Option<usize>) -> Command {
        Command::List {
            collection: Some("docs".to_owned()),
            state: Vec::new(),
            dropped: false,
            limit,
        }
    }

    #[tokio::test]
    async fn all_pages_are_fetched() {
        let cluster = FakeCluster::start(1).await;
        cluster.segments(12_345);
        let answer = run(&cluster.context(), list_all(None)).await.unwrap();
        let segments = answer.json.as_array().unwrap();
        assert_eq!(segments.len(), 12_345);
        let ids: Vec<i64> = segments.iter().map(|s| s["id"].as_i64().unwrap()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }

    #[tokio::test]
    async fn a_limit_is_kept() {
        let cluster = FakeCluster::start(1).await;
        cluster.segments(6_000);
        let answer = run(&cluster.context(), list_all(Some(5_001)))
            .await
            .unwrap();
        assert_eq!(answer.json.as_array().unwrap().len(), 5_001);
    }

    #[tokio::test]
    async fn a_segment_is_shown_with_its_logs() {
        let cluster = FakeCluster::start(1).await;
        cluster.segments(3);
        let show = Command::Show { segment: 102 };
        let answer = run(&cluster.context(), show).await.unwrap();
        assert_eq!(answer.json["id"], 102);
        assert_eq!(answer.json["logs"][0]["path"], "insert_log/1/2/102/100/9");
        let missing = Command::Show { segment: 1 };
        let error = run(&cluster.context(), missing).await.unwrap_err();
        assert!(error.to_string().contains("there is no segment 1"));
    }
}
