//! Webhooks: signed events for whoever asked to be told, sent only to addresses that are not our own.

pub mod egress;
pub mod sign;
pub mod store;

pub use egress::Sender;
