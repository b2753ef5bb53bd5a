//! Hybrid timestamps: 46 bits of milliseconds since the Unix epoch, 18 bits logical, as in Milvus.
//!
//! All comparisons of expiry, positions and checkpoints are timestamp against timestamp, never a
//! local clock against a timestamp.

use std::fmt;

/// Bits of the logical part.
pub const LOGICAL_BITS: u32 = 18;

/// A hybrid timestamp. Ordered; 0 means "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ts(pub u64);

impl Ts {
    /// No timestamp.
    pub const ZERO: Ts = Ts(0);
    /// Later than every timestamp.
    pub const MAX: Ts = Ts(u64::MAX);

    /// The first timestamp of a millisecond since the Unix epoch.
    pub fn from_ms(ms: u64) -> Ts {
        Ts(ms << LOGICAL_BITS)
    }

    /// Milliseconds since the Unix epoch.
    pub fn ms(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// The logical part.
    pub fn logical(self) -> u64 {
        self.0 & ((1 << LOGICAL_BITS) - 1)
    }

    /// Later by `ms` milliseconds; the logical part is kept (Milvus: `expire_time`). Saturates.
    pub fn plus_ms(self, ms: u64) -> Ts {
        Ts(self.0.saturating_add(ms << LOGICAL_BITS))
    }

    /// Milliseconds from `earlier` to this; 0 when it is not earlier.
    pub fn ms_since(self, earlier: Ts) -> u64 {
        self.ms().saturating_sub(earlier.ms())
    }

    /// Whether there is no timestamp.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for Ts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ts({}+{})", self.ms(), self.logical())
    }
}

impl fmt::Display for Ts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
