//! The outside world of a fleet, for development and tests: a payment gateway that speaks Stripe's wire format, and a
//! receiver of our webhooks that verifies and records each one.
//!
//! Neither knows anything of Orderfleet, and they share no code with the client that pays or the sender that signs: a
//! mistake made on one side must not be repeated, and so hidden, on the other.
//!
//! In reading order: [`journal`], the append-only file that both write before they answer; [`listener`], connections
//! that can be cut on purpose; [`gateway`]; [`receiver`].

pub mod gateway;
pub mod journal;
mod listener;
pub mod receiver;
