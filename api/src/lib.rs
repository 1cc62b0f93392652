//! The HTTP process: a thin intake, and windows onto everything else.
//!
//! A tour, in reading order:
//!
//! 1. [`mod@router`] is the table of contents: every endpoint there is, in one list.
//! 2. `call`: an unsafe request taken apart once and carried out at most once (request idempotency).
//! 3. `fields` and `paging` read bodies and queries and find everything that is wrong with them.
//! 4. `problem` turns every error into problem+json; `auth` enforces the scopes the OpenAPI document names.
//! 5. `orders` and its neighbours: one file per area, named like the domain's. They call [`jobs::intake`], the stores
//!    and [`queue::operate`] inside one transaction, and no remote service ever.
//! 6. `site` is the first page, `openapi` the document, `health` and `telemetry` are for machines.

mod answer;
mod api_keys;
mod auth;
mod call;
mod config;
mod customers;
mod dead_letters;
mod deliveries;
mod fields;
mod health;
mod inbound;
mod inventory;
mod layers;
mod limits;
mod open_api;
mod orders;
mod paging;
mod partners;
mod path;
mod payments;
mod prefer;
mod problem;
mod products;
mod queues;
mod redrives;
mod route_plans;
mod router;
mod routes;
mod sagas;
mod schedules;
mod sellers;
mod serve;
mod shipments;
mod site;
mod telemetry;
mod vehicles;
mod view;
mod warehouses;
mod webhooks;
mod why;
mod work;

use std::sync::Arc;

use domain::Services;
use sqlx::PgPool;
use tokio::sync::Semaphore;

pub use config::{Config, CursorKey, pool};
pub use open_api::document;
pub use router::router;
pub use serve::{serve, serve_on};

/// The largest body that is read.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// What every handler can reach.
#[derive(Clone, Debug)]
pub struct State {
    /// The database.
    pub pool: PgPool,
    /// The outside world; of it, requests read the settings and check webhook addresses.
    pub services: Arc<Services>,
    /// How this process is set up.
    pub config: Arc<Config>,
    scopes: Arc<auth::Scopes>,
    places: Arc<Semaphore>,
}

impl State {
    /// The state of one process.
    pub fn new(config: Config, pool: PgPool, services: Arc<Services>) -> anyhow::Result<State> {
        telemetry::install();
        Ok(State {
            pool,
            services,
            scopes: Arc::new(auth::Scopes::of(open_api::document())?),
            places: Arc::new(Semaphore::new(config.requests_max)),
            config: Arc::new(config),
        })
    }
}
