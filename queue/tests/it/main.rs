//! What the engine promises, each promise on a real database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attempts;
mod cancels;
mod claims;
mod dead_letters;
mod enqueueing;
mod keys;
mod kinds;
mod logs;
mod plans;
mod rescues;
mod schedules;
mod traces;
