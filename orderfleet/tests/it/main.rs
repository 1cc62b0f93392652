//! The executable's promises: its words, its refusals, and the checks of `verify`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod check_deploy;
mod command_line;
mod drain;
mod limits;
mod operator;
mod plans;
mod schedule;
mod spans;
mod stopping;
mod verify;
mod verify_payments;
mod verify_routes;
mod verify_sellers;
mod verify_webhooks;
mod webhooks;
mod why;
