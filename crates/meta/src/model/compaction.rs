//! A compaction task's life: pending → executing → completed or failed, and back to pending when
//! its node is gone.

use crate::pb::{CompactionKind, CompactionRow, CompactionState, IdRange};

/// Whether the task still holds its segments.
pub fn is_live(row: &CompactionRow) -> bool {
    matches!(
        row.state(),
        CompactionState::Pending | CompactionState::Executing
    )
}

/// Whether `id` is one of a range, which may be absent.
pub fn in_range(range: Option<&IdRange>, id: i64) -> bool {
    range.is_some_and(|range| (range.begin..range.end).contains(&id))
}

/// The name users see.
pub fn kind_name(kind: CompactionKind) -> &'static str {
    match kind {
        CompactionKind::Unspecified => "Unspecified",
        CompactionKind::Merge => "Merge",
        CompactionKind::Mix => "Mix",
        CompactionKind::Level0 => "Level0",
    }
}

/// The name users see.
pub fn state_name(state: CompactionState) -> &'static str {
    match state {
        CompactionState::Unspecified => "Unspecified",
        CompactionState::Pending => "Pending",
        CompactionState::Executing => "Executing",
        CompactionState::Completed => "Completed",
        CompactionState::Failed => "Failed",
    }
}
