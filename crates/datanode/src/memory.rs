//! The budget for rows held in memory, shared by all channels.
//!
//! What is reserved is given back when the reservation is dropped, whatever the reason: a chunk of
//! rows carries its reservation with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Memory {
    used_bytes: AtomicU64,
    max_bytes: u64,
}

impl Memory {
    pub fn new(max_bytes: u64) -> Arc<Memory> {
        Arc::new(Memory {
            used_bytes: AtomicU64::new(0),
            max_bytes,
        })
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// None when the budget would be exceeded.
    pub fn reserve(self: &Arc<Memory>, bytes: u64) -> Option<Reservation> {
        self.used_bytes
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.max_bytes)
            })
            .ok()?;
        Some(Reservation {
            memory: Arc::clone(self),
            bytes,
        })
    }
}

/// Part of the budget.
#[derive(Debug)]
pub(crate) struct Reservation {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Reservation {
    /// Takes up to `bytes` of this reservation off into one of its own.
    pub fn split(&mut self, bytes: u64) -> Reservation {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Reservation {
            memory: Arc::clone(&self.memory),
            bytes,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.memory
            .used_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Memory;

    #[test]
    fn what_is_reserved_is_given_back_once_however_it_is_split() {
        let memory = Memory::new(100);
        let mut all = memory.reserve(80).unwrap();
        assert!(memory.reserve(21).is_none());
        let part = all.split(30);
        assert_eq!((all.bytes(), part.bytes()), (50, 30));
        drop(all);
        assert_eq!(memory.used_bytes(), 30);
        drop(part);
        assert_eq!(memory.used_bytes(), 0);
        assert!(memory.reserve(u64::MAX).is_none());
    }
}
