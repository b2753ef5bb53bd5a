//! How plans are taken on, repeated, replaced and forgotten.

use quorate_rpc::proto::milvus::data::{CompactionPlanResult, CompactionTaskState};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{Compactions, RESULTS_MAX, Refusal};
use super::*;

struct Node {
    objects: Objects,
    compactions: Arc<Compactions>,
    tasks: TaskTracker,
    stop: CancellationToken,
    plan: CompactionPlan,
}

impl Node {
    /// A node that carries one plan out at a time and lets `queued` wait, and a plan for it.
    async fn with_queue(queued: usize) -> Node {
        let mut objects = Objects::new();
        let row = |row_id| Row {
            key: row_id,
            row_id,
            timestamp: 1,
        };
        let segment = Segment {
            id: 10,
            partition: PARTITION,
            groups: vec![(0..5).map(row).collect()],
            deltas: vec![vec![(3, 2)]],
            level_zero: false,
        };
        let written = objects.write(&segment, &schema()).await;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let store = objects.store.clone();
        Node {
            compactions: Compactions::new(store, 1, queued, tasks.clone(), stop.clone()),
            objects,
            tasks,
            stop,
            plan: plan(CompactionType::MixCompaction, vec![written]),
        }
    }

    fn plan(&self, plan_id: i64, first_log: i64) -> CompactionPlan {
        CompactionPlan {
            plan_id,
            pre_allocated_log_i_ds: id_range(first_log..first_log + 100),
            ..self.plan.clone()
        }
    }

    fn result(&self, plan_id: i64) -> CompactionPlanResult {
        let mut results = self.compactions.results(plan_id);
        assert_eq!(results.len(), 1);
        results.remove(0)
    }

    /// Waits until no plan runs or waits.
    async fn idle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}

#[tokio::test]
async fn a_plan_is_carried_out_once_however_often_it_is_sent() {
    let node = Node::with_queue(1).await;
    let plan = node.plan(7, 60_000);
    assert_eq!(node.compactions.results(7), []);
    node.compactions.start(&plan).unwrap();
    let result = node.result(7);
    assert_eq!(result.state(), CompactionTaskState::Executing);
    assert!(result.segments.is_empty());
    node.compactions.start(&plan).unwrap();
    node.idle().await;
    let done = node.result(7);
    assert_eq!(done.state(), CompactionTaskState::Completed);
    assert_eq!(
        (done.channel.as_str(), done.r#type()),
        (CHANNEL, CompactionType::MixCompaction)
    );
    assert_eq!(done.segments[0].num_of_rows, 4);

    let objects = node.objects.all().await;
    node.objects.remove(&objects[0]).await;
    node.compactions.start(&plan).unwrap();
    node.idle().await;
    assert_eq!(node.result(7), done);
    assert_eq!(node.objects.all().await, objects[1..]);
}

#[tokio::test]
async fn a_try_with_newer_ids_replaces_an_older_one_and_not_the_other_way_round() {
    let node = Node::with_queue(1).await;
    let held = node.compactions.running.acquire().await.unwrap();
    node.compactions.start(&node.plan(7, 60_000)).unwrap();
    node.compactions.start(&node.plan(7, 61_000)).unwrap();
    let late = node.compactions.start(&node.plan(7, 60_000)).unwrap_err();
    assert!(matches!(late, Refusal::Outdated { .. }), "{late}");
    drop(held);
    node.idle().await;
    let result = node.result(7);
    let ids: Vec<i64> = named(&result.segments[0]).map(|log| log.log_id).collect();
    assert!(ids.iter().all(|id| (61_000..61_100).contains(id)));
    let written = node.objects.all().await.len();
    // Also after it has ended.
    node.compactions.start(&node.plan(7, 62_000)).unwrap();
    node.idle().await;
    let again = node.result(7);
    assert_eq!(again.segments[0].num_of_rows, 4);
    assert_ne!(again, result);
    assert_eq!(node.objects.all().await.len(), written + ids.len());
}

#[tokio::test]
async fn more_plans_than_may_wait_are_refused_until_one_has_ended() {
    let node = Node::with_queue(1).await;
    let held = node.compactions.running.acquire().await.unwrap();
    node.compactions.start(&node.plan(1, 60_000)).unwrap();
    node.compactions.start(&node.plan(2, 61_000)).unwrap();
    let error = node.compactions.start(&node.plan(3, 62_000)).unwrap_err();
    assert!(
        error.to_string().starts_with("too many compactions"),
        "{error}"
    );
    // Known plans are still answered, and a dropped one makes room.
    node.compactions.start(&node.plan(2, 61_000)).unwrap();
    node.compactions.drop_plan(1);
    assert_eq!(node.compactions.results(1), []);
    node.compactions.start(&node.plan(3, 62_000)).unwrap();
    drop(held);
    node.idle().await;
    let states: Vec<_> = node.compactions.results(0);
    let states: Vec<_> = states.iter().map(|r| (r.plan_id, r.state())).collect();
    let done = CompactionTaskState::Completed;
    assert_eq!(states, [(2, done), (3, done)]);
    node.compactions.start(&node.plan(4, 63_000)).unwrap();
    node.compactions.drop_plan(99);
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_is_not_done_in_time_says_so() {
    let node = Node::with_queue(0).await;
    let _held = node.compactions.running.acquire().await.unwrap();
    node.compactions.start(&node.plan(7, 60_000)).unwrap();
    node.idle().await;
    let result = node.result(7);
    assert_eq!(result.state(), CompactionTaskState::Timeout);
    assert_eq!(result.fail_reason, "not done within 60 s");
}

#[tokio::test]
async fn a_failed_plan_names_the_object() {
    let node = Node::with_queue(0).await;
    let objects = node.objects.all().await;
    let missing = objects.iter().find(|path| path.contains("/101/")).unwrap();
    node.objects.remove(missing).await;
    node.compactions.start(&node.plan(7, 60_000)).unwrap();
    node.idle().await;
    let result = node.result(7);
    assert_eq!(result.state(), CompactionTaskState::Failed);
    assert!(result.segments.is_empty());
    assert!(
        result.fail_reason.contains(missing.as_str()),
        "{}",
        result.fail_reason
    );
}

#[tokio::test]
async fn stopping_ends_plans_and_takes_none() {
    let node = Node::with_queue(0).await;
    let held = node.compactions.running.acquire().await.unwrap();
    node.compactions.start(&node.plan(7, 60_000)).unwrap();
    let before = node.objects.all().await;
    node.stop.cancel();
    node.idle().await;
    drop(held);
    assert_eq!(node.objects.all().await, before);
    let error = node.compactions.start(&node.plan(8, 61_000)).unwrap_err();
    assert!(matches!(error, Refusal::Stopping));
}

#[tokio::test]
async fn results_are_kept_up_to_a_limit_oldest_forgotten_first() {
    let node = Node::with_queue(0).await;
    let mut first_log = 60_000;
    // Fails at once: the ids do not suffice.
    let count = RESULTS_MAX as i64 + 2;
    for plan_id in 1..=count {
        first_log += 10;
        let plan = CompactionPlan {
            pre_allocated_log_i_ds: id_range(first_log..first_log + 1),
            ..node.plan(plan_id, first_log)
        };
        node.compactions.start(&plan).unwrap();
        node.idle().await;
    }
    let kept: Vec<i64> = node
        .compactions
        .results(0)
        .iter()
        .map(|r| r.plan_id)
        .collect();
    assert!(kept.into_iter().eq(3..=count));
}
