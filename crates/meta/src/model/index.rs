//! Indexes and their builds: one build for every (segment, index).

use crate::pb::{BuildRow, BuildState, CreateIndex, IndexRow};

/// Index types of scalar fields (Milvus). Readers can do without them, so a segment need not wait
/// for them; everything else counts as a vector index.
const SCALAR_TYPES: [&str; 8] = [
    "STL_SORT",
    "TRIE",
    "MARISA-TRIE",
    "INVERTED",
    "BITMAP",
    "HYBRID",
    "NGRAM",
    "RTREE",
];

/// Whether the index is live: not tombstoned itself.
pub fn is_live(row: &IndexRow) -> bool {
    row.dropped_at == 0
}

/// Whether an index is of a vector field, by its type.
pub fn is_vector(index: &CreateIndex) -> bool {
    let kind = index
        .index_params
        .iter()
        .find(|pair| pair.key == "index_type")
        .map(|pair| pair.value.to_ascii_uppercase());
    !kind.is_some_and(|kind| SCALAR_TYPES.contains(&kind.as_str()))
}

/// Whether there is still work to do for a build.
pub fn is_open(row: &BuildRow) -> bool {
    matches!(row.state(), BuildState::Init | BuildState::InProgress)
}

/// The name users see.
pub fn build_state_name(state: BuildState) -> &'static str {
    match state {
        BuildState::Unspecified => "Unspecified",
        BuildState::Init => "Init",
        BuildState::InProgress => "InProgress",
        BuildState::Finished => "Finished",
        BuildState::Failed => "Failed",
    }
}
