//! An S3-speaking server on loopback that fails as object stores do: slowly, with 503s, or by not
//! being there for a while.

mod child;
mod faults;
mod server;

pub use child::S3Process;
pub use faults::{Counts, Faults};
pub use server::{Options, S3Server};

/// The key pair the server knows.
pub const ACCESS_KEY: &str = "quorate";
/// Its secret; of no value, the server is on loopback.
pub const SECRET_KEY: &str = "quorate-test-secret";
/// The bucket that is there from the start.
pub const BUCKET: &str = "quorate";
