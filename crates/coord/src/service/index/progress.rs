//! How far an index is built.

use quorate_meta::model::{Level, Segment, SegmentState};
use quorate_meta::pb::{BuildState, IndexRow};
use quorate_meta::plan::recovery;
use quorate_meta::{CollectionId, State, Ts};
use quorate_rpc::proto::milvus::common::IndexState;

/// Rows and builds of an index.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub indexed_rows: i64,
    pub total_rows: i64,
    /// Why the first build that failed did.
    pub fail_reason: String,
    failed: bool,
    open: bool,
}

impl Progress {
    /// Over the segments readers use: parents in the place of children that are not ready.
    pub fn for_readers(state: &State, row: &IndexRow) -> Self {
        let collection = collection_of(row);
        let segments: Vec<&Segment> = recovery::view(state, collection, &[])
            .into_iter()
            .flat_map(|view| view.flushed)
            .filter_map(|id| state.segment(id))
            .collect();
        Self::over(state, row, segments.into_iter())
    }

    /// Over the flushed segments as they are.
    pub fn now(state: &State, row: &IndexRow) -> Self {
        let segments = state.segments_of(collection_of(row)).filter(|segment| {
            segment.level != Level::L0 && state.effective_state(segment) == SegmentState::Flushed
        });
        Self::over(state, row, segments)
    }

    fn over<'a>(
        state: &State,
        row: &IndexRow,
        segments: impl Iterator<Item = &'a Segment>,
    ) -> Self {
        let index_id = row.index.as_ref().map_or(0, |index| index.index_id);
        let mut progress = Self::default();
        for segment in segments {
            progress.total_rows += segment.rows;
            // What writers still filled when the index was created is not waited for, as in Milvus.
            let counts = segment.last_expire <= Ts(row.created_at);
            match state.build_of(segment.id, index_id) {
                Some(build) if build.state() == BuildState::Finished => {
                    progress.indexed_rows += segment.rows;
                }
                Some(build) if build.state() == BuildState::Failed => {
                    if !progress.failed {
                        progress.fail_reason.clone_from(&build.fail_reason);
                    }
                    progress.failed = true;
                }
                _ => progress.open |= counts,
            }
        }
        progress
    }

    /// The state of the whole: failed if any build is, under way if any is missing.
    pub fn state(&self) -> IndexState {
        if self.failed {
            IndexState::Failed
        } else if self.open {
            IndexState::InProgress
        } else {
            IndexState::Finished
        }
    }
}

fn collection_of(row: &IndexRow) -> CollectionId {
    CollectionId(row.index.as_ref().map_or(0, |index| index.collection_id))
}
