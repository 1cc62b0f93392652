//! A private PostgreSQL keeps its promises, on the real thing.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod ends;
mod refusals;
mod runs;
mod support;
