//! Index files over the vectors of a segment.
