//! Compaction over the wire, of what the data node itself has written.

use std::time::Duration;

use quorate_rpc::proto::milvus::data::{
    CompactionPlan, CompactionPlanResult, CompactionSegmentBinlogs, CompactionStateRequest,
    CompactionTaskState, CompactionType, DropCompactionPlanRequest, IdRange, SegmentLevel,
};
use quorate_rpc::status::{self, Code};

use crate::fixture::{CHANNEL, COLLECTION, Fixture, PARTITION, columns, operation, quiet};
use quorate_rpc::proto::milvus::data::ChannelWatchState;

async fn results(f: &Fixture, plan_id: i64) -> Vec<CompactionPlanResult> {
    let request = CompactionStateRequest {
        plan_id,
        ..Default::default()
    };
    let answer = f.node().get_compaction_state(request).await.unwrap();
    status::check(answer.get_ref().status.as_ref().unwrap()).unwrap();
    answer.into_inner().results
}

/// Asks until the plan has ended, as the coordinator does.
async fn ended(f: &Fixture, plan_id: i64) -> CompactionPlanResult {
    let asking = async {
        loop {
            let result = results(f, plan_id).await.remove(0);
            if result.state() != CompactionTaskState::Executing {
                return result;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asking)
        .await
        .expect("the plan never ended")
}

#[tokio::test]
async fn segments_are_merged_and_the_result_is_kept_until_it_is_dropped() {
    let mut f = Fixture::watching(quiet()).await;
    f.insert(7, 0..30).await.unwrap();
    f.sync().await.unwrap();
    f.insert(7, 30..40).await.unwrap();
    f.insert(8, 40..60).await.unwrap();
    f.sync().await.unwrap();
    let saves = f.coordinator.with(|seen| seen.saves.clone());
    let segment = |id: i64| {
        let of = || saves.iter().filter(move |save| save.segment_id == id);
        CompactionSegmentBinlogs {
            segment_id: id,
            collection_id: COLLECTION,
            partition_id: PARTITION,
            insert_channel: CHANNEL.into(),
            level: SegmentLevel::L1.into(),
            field_binlogs: of().flat_map(|s| s.field2_binlog_paths.clone()).collect(),
            field2_statslog_paths: of().flat_map(|s| s.field2_statslog_paths.clone()).collect(),
            ..Default::default()
        }
    };
    let plan = CompactionPlan {
        plan_id: 5,
        segment_binlogs: vec![segment(7), segment(8)],
        timeout_in_seconds: 60,
        r#type: CompactionType::MergeCompaction.into(),
        channel: CHANNEL.into(),
        schema: operation(ChannelWatchState::ToWatch, 1, 1).schema,
        pre_allocated_segment_i_ds: Some(IdRange {
            begin: 900,
            end: 901,
        }),
        pre_allocated_log_i_ds: Some(IdRange {
            begin: 901,
            end: 920,
        }),
        ..Default::default()
    };
    assert_eq!(results(&f, 5).await, []);
    let answer = f.node().compaction_v2(plan.clone()).await.unwrap();
    status::check(answer.get_ref()).unwrap();
    let result = ended(&f, 5).await;
    assert_eq!(result.state(), CompactionTaskState::Completed, "{result:?}");
    let output = &result.segments[0];
    assert_eq!((output.segment_id, output.num_of_rows), (900, 60));
    let path = &output.insert_logs[0].binlogs[0].log_path;
    assert_eq!(
        *path,
        format!("insert_log/{COLLECTION}/{PARTITION}/900/100/901")
    );
    for (field, column) in output.insert_logs.iter().zip(columns(0..60)) {
        assert_eq!(f.read(field).await, column);
    }

    let dropped = f
        .node()
        .drop_compaction_plan(DropCompactionPlanRequest { plan_id: 5 })
        .await
        .unwrap();
    status::check(dropped.get_ref()).unwrap();
    assert_eq!(results(&f, 0).await, []);

    let mut odd = plan;
    odd.pre_allocated_log_i_ds = None;
    let answer = f.node().compaction_v2(odd).await.unwrap();
    let error = status::check(answer.get_ref()).unwrap_err();
    assert!(error.is(Code::ParameterInvalid), "{error}");
    f.node.take().unwrap().stop().await;
}
