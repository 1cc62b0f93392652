//! What Orderfleet is about, without jobs and without HTTP.
//!
//! A tour, in reading order:
//!
//! 1. [`ids`], [`money`] and [`cause`] are the words everything else is written in: typed ids, exact amounts,
//!    and who did a thing.
//! 2. [`customers`] and [`catalogue`] are what orders refer to: who buys, what is sold, and the warehouses it lies in.
//! 3. [`stock`] counts what lies where. Every change is a movement; a level is the sum of its movements.
//! 4. [`orders`] is the heart: three axes of state, one version, one function that changes them.
//! 5. [`payments`], [`webhooks`] and [`routes`] are what an order sets going outside; [`sellers`] are paid of it; [`events`] is
//!    what it tells.
//! 6. [`inbound`] is what others tell us. [`idempotency`] and [`access`] guard the door; [`keyring`] seals
//!    secrets; [`services`] is the outside world in one struct.
//!
//! Each area is `mod.rs` (types and rules, pure) and `store.rs` (its SQL). Each table has one module that writes it.
//! Stores take `&mut PgConnection`: whoever opens a transaction commits it. Locks are always taken in this order: the
//! row of the order, then stock levels by (product, warehouse), then the payment, then sellers by id, then strict webhook
//! endpoints by id.

pub mod access;
pub mod catalogue;
pub mod cause;
pub mod customers;
pub mod events;
pub mod idempotency;
pub mod ids;
pub mod inbound;
pub mod keyring;
pub mod money;
pub mod orders;
pub mod partners;
pub mod payments;
pub mod routes;
pub mod schema;
pub mod sellers;
pub mod services;
pub mod stock;
pub mod tls;
pub mod webhooks;

pub use cause::Cause;
pub use services::Services;
