//! What this crate promises to tests, and what must be true of the whole tree.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod database;
mod tidy;
