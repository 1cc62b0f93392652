//! A payment gateway that speaks Stripe's wire format: form-encoded in, JSON out.
//!
//! What it promises beyond Stripe's own test mode: one line in its own ledger for each executed operation, on the disk
//! before the answer leaves; and the two answers no other simulator gives, the one that is lost after the operation was
//! executed and the 500 that stays under its key.
//!
//! | endpoint | |
//! |---|---|
//! | `POST /v1/payment_intents` | create, with `confirm=true` also authorise |
//! | `GET /v1/payment_intents`, `/search`, `/{id}` | list, find by metadata or status, one |
//! | `POST /v1/payment_intents/{id}/confirm`, `/capture`, `/cancel` | authorise, take, give back |
//! | `POST /v1/refunds`, `GET /v1/refunds`, `/{id}` | refund, list, one |
//! | `POST /v1/transfers`, `GET /v1/transfers`, `/{id}` | pay out to an account, list by account or group, one |
//! | `GET /v1/charges`, `/{id}` | list, one |
//! | `GET /v1/balance_transactions`, `/{id}` | every movement of money, by time, type or source |
//! | `GET /v1/events`, `/{id}` | what happened, by time or type |
//! | `POST`, `GET /v1/webhook_endpoints`; `GET`, `POST`, `DELETE /{id}` | where events are sent |
//! | `GET /livez` | 200, without a key |
//! | `/_simulator/faults`, `/clock`, `/post` | trouble to order, time to pass, how the deliveries are doing |
//!
//! Lists take `limit`, `starting_after`, `ending_before` and `created[…]`; `expand[]` shows objects whole. The payment
//! methods that make trouble are in [`TEST_METHODS`], the trouble to order in [`ORDERED_FAULTS`].
//!
//! Idempotency keys are scoped to key and path and kept for 24 hours, also over a restart. Kept are the answers of
//! operations that were executed, whatever came of them, and stored errors; not kept are refusals before execution:
//! wrong parameters, an unknown id, a key in use. An authorisation ends by itself after seven days. The clock can be
//! moved ahead, which both of these obey. Different from Stripe on purpose: there is no smallest amount, a search sees
//! everything at once, a payment method keeps its name instead of being copied, nothing costs a fee, and a transfer is made
//! whatever the balance, to any account but `acct_closed`.
//!
//! In reading order: `requests` (endpoints and parameters), `intents` (the rules), `transfers`, `book` (memory and journals)
//! with `looking` (questions), `http` (keys, headers, faults), `post` (webhooks) and `admin`; `form`, `error`, `methods`,
//! `faults`, `events`, `endpoints` and `balance` below them.

mod admin;
mod balance;
mod book;
mod endpoints;
mod error;
mod events;
mod faults;
mod form;
mod http;
mod intents;
mod looking;
mod methods;
mod post;
mod requests;
mod transfers;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use anyhow::Context;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::journal;
use crate::listener::Cuttable;

pub use faults::ORDERED_FAULTS;
pub use methods::TEST_METHODS;

/// How the gateway runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port on 127.0.0.1; 0 is any free one.
    pub port: u16,
    /// The ledger's file; it is created when it isn't there.
    pub ledger: PathBuf,
    /// Makes the ids of a new ledger and the luck of the faults repeatable; 0 makes ids random.
    pub seed: u64,
}

/// A webhook endpoint that is there from the start, besides those that are registered over the wire.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Where it is.
    pub url: String,
    /// What signs for it, `whsec_…`.
    pub secret: String,
}

impl Hook {
    /// What it is told: what became of a payment.
    pub const EVENTS: [&str; 4] = [
        "payment_intent.succeeded",
        "payment_intent.canceled",
        "payment_intent.payment_failed",
        "charge.refunded",
    ];
}

/// Runs the gateway until `shutdown`, or until its ledger can't be written any more.
pub async fn run(config: Config, hook: Option<Hook>, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let running = start_with(config, hook).await?;
    tracing::info!(addr = %running.addr, "the gateway simulator is listening");
    let stop = running.stop.clone();
    let mut ended = pin!(running.ended());
    tokio::select! {
        result = &mut ended => result,
        () = shutdown => {
            stop.cancel();
            ended.await
        }
    }
}

/// Starts the gateway in the background.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    start_with(config, None).await
}

/// The same with a webhook endpoint.
pub async fn start_with(config: Config, hook: Option<Hook>) -> anyhow::Result<Running> {
    let listener = Cuttable::bind(config.port).await?;
    let addr = listener.addr()?;
    let path = config.ledger.clone();
    let (outbox, inbox) = tokio::sync::mpsc::unbounded_channel();
    let (mut book, torn) = tokio::task::spawn_blocking(move || book::Book::open(&path, config.seed, outbox))
        .await
        .context("opening the ledger")??;
    for line in &torn {
        let bytes = line.len();
        tracing::warn!(bytes, "a torn last line was cut off the ledger; nobody was told of it");
    }
    if let Some(hook) = &hook {
        book.hook(hook)
            .map_err(|error| anyhow::anyhow!("the webhook endpoint: {}", error.body()))?;
    }
    let stop = CancellationToken::new();
    let gateway = Arc::new(http::Gateway::new(book, faults::Rules::new(config.seed)));
    let post = post::run(Arc::clone(&gateway), inbox, stop.clone());
    let served = http::serve(listener, gateway, stop.clone());
    let task = tokio::spawn(async move { tokio::try_join!(served, post).map(drop) });
    Ok(Running {
        addr,
        ledger: config.ledger,
        torn,
        stop,
        task: Some(task),
    })
}

/// A gateway running in the background; dropping it stops it.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its ledger's file.
    pub ledger: PathBuf,
    /// Torn last lines that were cut off at the start.
    pub torn: Vec<String>,
    stop: CancellationToken,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Running {
    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The ledger's lines up to now.
    pub fn ledger(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        journal::read(&self.ledger)
    }

    /// Answers what is running, closes the ledger and returns.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.ended().await
    }

    async fn ended(mut self) -> anyhow::Result<()> {
        match self.task.take() {
            Some(task) => task.await.context("the gateway's task")?,
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
