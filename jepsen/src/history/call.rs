//! The operations there are.

/// An operation with its argument and, once answered, its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A register read.
    Read {
        /// The register.
        key: String,
        /// What it held.
        value: Option<String>,
    },
    /// A register written, whatever it held.
    Write {
        /// The register.
        key: String,
        /// Unique for the key.
        value: String,
    },
    /// A compare-and-set.
    Cas {
        /// The register.
        key: String,
        /// Expected.
        old: String,
        /// Unique for the key.
        new: String,
        /// Refused, because the register held this.
        seen: Option<Option<String>>,
    },
    /// Ids `first`, … `first + count - 1`.
    AllocId {
        /// How many.
        count: u32,
        /// The first of them.
        first: i64,
    },
    /// Timestamps `first`, … `first + count - 1`.
    AllocTs {
        /// How many.
        count: u32,
        /// The first of them.
        first: u64,
    },
    /// A segment to put rows into.
    Assign {
        /// The channel.
        channel: String,
        /// How many rows.
        rows: u32,
        /// The segment given, and how many rows it was given for.
        granted: Option<(i64, u32)>,
    },
    /// All segments there are, in one linearizable read.
    Snapshot {
        /// Their ids.
        segments: Vec<i64>,
    },
}

impl Call {
    /// The name it has in a history.
    pub fn name(&self) -> &'static str {
        match self {
            Call::Read { .. } => "read",
            Call::Write { .. } => "write",
            Call::Cas { .. } => "cas",
            Call::AllocId { .. } => "alloc-id",
            Call::AllocTs { .. } => "alloc-ts",
            Call::Assign { .. } => "assign",
            Call::Snapshot { .. } => "snapshot",
        }
    }

    /// The register it is about, if it is about one.
    pub fn register(&self) -> Option<&str> {
        match self {
            Call::Read { key, .. } | Call::Write { key, .. } | Call::Cas { key, .. } => Some(key),
            _ => None,
        }
    }
}
