//! Faults that are not a file system's: system calls that fail, and files that are damaged.

mod damage;
mod syscall;

pub use damage::{Damage, files};
pub use syscall::Syscalls;
