//! Pays a seller what it is owed, by one transfer at the gateway. Running it twice is safe because the payout is written down
//! and booked before it is sent, because each has one key that the gateway knows again, and because a seller's next payout
//! is only made when the fate of this one is known.
//!
//! What is in doubt keeps its key. Where sending that again can tell nothing new, the gateway is asked for the transfer that
//! carries the payout's mark; only a definitive no gives the amount back to the seller's account.

use std::time::Duration;

use domain::{
    Services,
    ids::SellerId,
    payments::{self, Class, Op, Reply, classify},
    sellers::{self, Payout},
};
use queue::{Attempt, DeadLetter, Failure, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::{limits, payment_call};

/// Pays a seller what it is owed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PaySeller {
    /// The seller.
    pub seller_id: SellerId,
}

impl Job for PaySeller {
    type Services = Services;
    const KIND: &'static str = "pay_seller";
    const QUEUE: &'static str = "payments";
    const RETRY: Retry = Retry::new(Duration::from_millis(500), Duration::from_secs(60), 200);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("pay:{}", self.seller_id)))
    }

    fn group(&self) -> Option<String> {
        Some(format!("seller:{}", self.seller_id))
    }

    fn limit(&self) -> Option<String> {
        Some(limits::GATEWAY.to_owned())
    }

    fn deadline_after() -> Option<Duration> {
        Some(Duration::from_secs(24 * 60 * 60))
    }

    fn delay_after(&self, attempt: i32) -> Option<Duration> {
        Some(payment_call::delay_after(attempt))
    }

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        if let Some(later) = payment_call::quiet(services) {
            return Ok(later);
        }
        let mut tx = attempt.begin().await?;
        let Some(payout) = sellers::store::open_payout(&mut tx, self.seller_id).await? else {
            return tx.done_with(json!({ "skipped": "nothing to pay" })).await;
        };
        let age = payments::store::clock(&mut tx).await? - payout.created_at;
        tx.commit().await?;
        if age.to_std().is_ok_and(|age| age >= services.settings.key_retention) {
            // The gateway may have forgotten the key: sent again, it could pay twice.
            return match look(attempt, services, &payout).await? {
                Some(id) => paid(attempt, &payout, &id).await,
                None => {
                    let message = "the key is too old to be sent again and no transfer carries this payout's mark";
                    Err(Failure::permanent("never_transferred", message).into())
                }
            };
        }
        let reply = send(attempt, services, &payout).await?;
        let is_stored = reply.code() == payments::STORED_FAILURE;
        let is_silent = i64::from(payout.sends) >= i64::from(services.settings.sends_max);
        match class_of(&reply, &payout) {
            Class::Ok => {
                let id = reply.transfer().map(|transfer| transfer.id).unwrap_or_default();
                paid(attempt, &payout, &id).await
            }
            Class::Unknown if is_stored || is_silent => match look(attempt, services, &payout).await? {
                Some(id) => paid(attempt, &payout, &id).await,
                // The gateway replays that failure for ever, and has made no transfer.
                None if is_stored => failed(attempt, &payout, &reply).await,
                None => Err(Failure::unknown(reply.code(), reply.message()).into()),
            },
            Class::KeyMisused => Err(Failure::permanent("idempotency_error", reply.message()).into()),
            Class::Refused | Class::Declined(_) | Class::Look | Class::Expired => {
                failed(attempt, &payout, &reply).await
            }
            Class::Transient | Class::Unknown | Class::KeyInUse | Class::Throttled(_) | Class::Config => {
                Err(payment_call::unanswered(&reply))
            }
        }
    }

    /// The payout stays under way and says why: its seller gets no other until a person has looked.
    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        sellers::store::note(conn, self.seller_id, &letter.code, &letter.message).await?;
        tracing::error!(seller.id = %self.seller_id, code = letter.code, "a payout needs a person");
        Ok(())
    }
}

/// The last thing before the wire is to look at the clock.
async fn send(attempt: &Attempt, services: &Services, payout: &Payout) -> anyhow::Result<Reply> {
    let left = payment_call::time_to_send(attempt)?;
    let reply = services.gateway.transfer(payout, left).await;
    let class = payment_call::name(&class_of(&reply, payout));
    metrics::counter!("gateway_calls_total", "op" => "transfer", "class" => class).increment(1);
    Ok(reply)
}

/// A transfer is a success only if it is this one; any other success has to be asked about.
fn class_of(reply: &Reply, payout: &Payout) -> Class {
    match reply.transfer() {
        Some(transfer) if transfer.belongs_to(payout) => Class::Ok,
        Some(_) => Class::Unknown,
        None => classify(Op::Create, reply),
    }
}

async fn look(attempt: &Attempt, services: &Services, payout: &Payout) -> anyhow::Result<Option<String>> {
    let found = services.gateway.transfer_of(payout, attempt.time_left()).await;
    found
        .map(|transfer| transfer.map(|transfer| transfer.id))
        .map_err(|reply| payment_call::unanswered(&reply))
}

async fn paid(attempt: &Attempt, payout: &Payout, gateway_ref: &str) -> anyhow::Result<Outcome> {
    let mut tx = attempt.begin().await?;
    sellers::store::paid(&mut tx, payout.id, gateway_ref).await?;
    tx.done_with(json!({ "payout": payout.id, "amount_minor": payout.amount }))
        .await
}

async fn failed(attempt: &Attempt, payout: &Payout, reply: &Reply) -> anyhow::Result<Outcome> {
    let (code, message) = (reply.code(), reply.message());
    tracing::error!(payout.id = %payout.id, code, "a payout is refused: its seller is owed the amount again");
    let mut tx = attempt.begin().await?;
    sellers::store::failed(&mut tx, payout.id, &code, &message).await?;
    tx.done_with(json!({ "payout": payout.id, "failed": code })).await
}
