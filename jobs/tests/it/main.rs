//! What the jobs promise, each on a database of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod catalogue;
mod egress;
mod gateway_truth;
mod limits;
mod lines;
mod orders;
mod payments;
mod roads;
mod routes;
mod secrets;
mod sellers;
mod standardwebhooks;
mod webhooks;
#[expect(dead_code, reason = "tests/steps needs more of it")]
mod world;
