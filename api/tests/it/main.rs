//! The router in-process, over a real database, with the real jobs and a real gateway simulator.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod app;
mod bad_input;
mod door;
mod flows;
mod idempotency;
mod inbound;
mod limits;
mod lists;
mod partners;
mod redrives;
mod route_plans;
mod routes;
mod sagas;
mod schedules;
mod sellers;
mod snapshot;
mod why;
