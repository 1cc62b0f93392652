//! The simulator over real HTTP.
#![expect(clippy::unwrap_used, reason = "a failed test shows the line")]

mod bad_input;
mod clock;
mod events;
mod faults;
mod idempotency;
mod ledger;
mod receiver;
mod states;
mod support;
mod transfers;
