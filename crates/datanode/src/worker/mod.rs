//! Work on stored segments that the coordinator hands out. It reads and writes objects only; what
//! comes of it counts once the coordinator has taken the result.

pub(crate) mod compaction;
pub(crate) mod index;
