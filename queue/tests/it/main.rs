//! What the engine promises, each promise on a real database.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attempts;
mod backlog;
mod batches;
mod campaigns;
mod cancels;
mod claims;
mod dead_heads;
mod dead_letters;
mod enqueueing;
mod fan_in;
mod handlers;
mod health;
mod keys;
mod kinds;
mod limits;
mod logs;
mod plans;
mod rescues;
mod sagas;
mod schedules;
mod traces;
mod turns;
mod why;
