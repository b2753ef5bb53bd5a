use super::*;

const C: &str = "c";

fn row(id: i64) -> (i64, RowPrint) {
    let print = RowPrint {
        key: id as u128,
        values: 1000 + id as u128,
        place: 0,
    };
    (id, print)
}

fn prints(ids: &[i64]) -> Vec<RowPrint> {
    ids.iter().map(|id| row(*id).1).collect()
}

/// A model with rows 1 and 2 stored, 1 by default, 2 in partition `p`.
fn stored() -> Model {
    let mut model = Model::default();
    model.add_collection(C);
    for (id, partition) in [(1, DEFAULT_PARTITION), (2, "p")] {
        let batch = model.order_ingest(C, partition, &[row(id)]);
        model.acknowledge_ingest(C, batch);
    }
    model
}

/// Looks now, so that everything before is before the look and nothing happens during it.
fn look(model: &mut Model, ids: &[i64]) -> Vec<String> {
    let span = (model.moment(), model.moment());
    model.judge(C, span, &prints(ids))
}

#[test]
fn what_is_acknowledged_must_be_there_once_and_as_it_was() {
    let mut model = stored();
    assert!(look(&mut model, &[1, 2]).is_empty());
    let missing = look(&mut model, &[1]);
    assert_eq!(missing, ["row 2 of batch 1 in p is missing"]);
    let twice = look(&mut model, &[1, 2, 2, 2]);
    assert_eq!(twice, ["row 2 of batch 1 in p is there twice"]);
    assert!(look(&mut model, &[1, 2, 3])[0].contains("never ingested"));

    let mut other = prints(&[1, 2]);
    other[0].values += 1;
    let span = (model.moment(), model.moment());
    assert!(model.judge(C, span, &other)[0].contains("other values"));
}

#[test]
fn what_is_in_doubt_may_be_there_or_not() {
    let mut model = stored();
    model.order_ingest(C, DEFAULT_PARTITION, &[row(3)]);
    model.order_delete(C, &vec![(1, 1)]);
    model.order_partition_drop(C, "p");
    for ids in [&[][..], &[1], &[2], &[3], &[1, 2, 3]] {
        assert!(look(&mut model, ids).is_empty(), "{ids:?}");
    }
}

#[test]
fn what_is_acknowledged_as_gone_must_be_gone() {
    let mut model = stored();
    let keys = vec![(1, 1)];
    model.order_delete(C, &keys);
    model.acknowledge_delete(C, &keys);
    assert!(look(&mut model, &[1, 2])[0].contains("its delete was acknowledged"));
    assert!(look(&mut model, &[2]).is_empty());
    model.order_partition_drop(C, "p");
    model.acknowledge_partition_drop(C, "p");
    assert!(look(&mut model, &[2])[0].contains("was dropped"));
    assert!(look(&mut model, &[]).is_empty());
    assert_eq!(model.alive(C), 0);
}

#[test]
fn what_happens_during_a_look_may_be_seen_or_not() {
    let mut model = stored();
    let from = model.moment();
    let batch = model.order_ingest(C, DEFAULT_PARTITION, &[row(3)]);
    model.acknowledge_ingest(C, batch);
    let keys = vec![(1, 1)];
    model.order_delete(C, &keys);
    model.acknowledge_delete(C, &keys);
    let to = model.moment();
    for ids in [&[1, 2][..], &[2, 3], &[1, 2, 3], &[2]] {
        assert!(
            model.judge(C, (from, to), &prints(ids)).is_empty(),
            "{ids:?}"
        );
    }
    assert!(look(&mut model, &[1, 2])[0].contains("its delete"));
    // A look that was over before an ingest began cannot have seen its rows.
    let span = (from, from);
    assert!(model.judge(C, span, &prints(&[1, 2, 3]))[0].contains("not begun"));
}

#[test]
fn a_collection_is_looked_at_once_its_first_rows_are_stored() {
    let mut model = Model::default();
    model.add_collection(C);
    let batch = model.order_ingest(C, DEFAULT_PARTITION, &[row(1)]);
    assert!(model.collections().is_empty());
    model.acknowledge_ingest(C, batch);
    assert_eq!(model.collections(), [C]);
}

#[test]
fn a_dropped_collection_is_not_looked_at_and_its_rows_are_gone() {
    let mut model = stored();
    let before = model.moment();
    model.order_collection_drop(C);
    assert_eq!(model.collections(), [C]);
    assert!(!model.may_be_dropped(C, before));
    let now = model.moment();
    assert!(model.may_be_dropped(C, now));
    model.acknowledge_collection_drop(C);
    assert!(model.collections().is_empty());
    assert!(look(&mut model, &[1])[0].contains("was dropped"));
}

#[test]
fn only_stored_rows_that_nobody_deletes_are_deletable() {
    let mut model = stored();
    model.order_ingest(C, DEFAULT_PARTITION, &[row(3)]);
    assert_eq!(model.deletable(C), [vec![(1, 1)], vec![(2, 2)]]);
    model.order_delete(C, &vec![(1, 1)]);
    model.order_partition_drop(C, "p");
    assert!(model.deletable(C).is_empty());
    assert!(model.partitions(C).is_empty());
}
