//! The whole fleet, as it is started, asked and killed from outside.
//!
//! `fleet` runs the real executable; each other module is one thing the fleet promises.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod adapter;
mod chaos;
mod clients;
mod clocks;
mod days;
mod fleet;
mod forgotten;
mod planning;
mod redrive;
mod rescue;
mod up;
