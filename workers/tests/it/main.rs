//! The worker process in one piece: real pools, a real heartbeat, a real database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod faults;
mod fleet;
mod kinds;
mod pooled;
mod serving;
