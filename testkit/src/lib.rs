//! What tests stand on.
//!
//! 1. [`Database`] is a fresh, migrated database of the test's own, dropped with it.
//! 2. [`build`] puts rows there that a test needs but is not about.
//! 3. [`fast_forward`] moves time by moving rows; [`eventually`] waits for a condition with a deadline. No test sleeps.
//! 4. [`server`] is where the databases live: a server named by a setting, or one shared private cluster.
//! 5. [`Line`] stands between a process and what it talks to, and freezes it or cuts it off at the step a test chooses.
//! 6. [`RoadServer`] says how far it is by road, in the formats of OSRM and Valhalla, and makes mistakes to order.
//!
//! The tests of this crate hold what must be true of the whole tree (`tests/it/tidy.rs`).

pub mod build;
mod clock;
mod database;
mod line;
pub mod road_server;
pub mod server;
mod wait;

pub use build::{a_customer, a_product, a_vehicle, a_warehouse, an_order};
pub use clock::fast_forward;
pub use database::{Database, Template};
pub use line::{Blow, Line};
pub use road_server::RoadServer;
pub use wait::{eventually, eventually_within};
