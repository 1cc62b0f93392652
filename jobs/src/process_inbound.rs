//! Does what a partner's webhook asks for. Running it twice is safe because the webhook's row is locked and says when it is
//! done, and because nothing is taken from the webhook but what to look at: how things are is read again.

use domain::{
    Cause, Services,
    ids::{OrderId, PartnerId},
    orders,
    partners::inbound::{self, Asked, End},
};
use queue::{Attempt, DeadLetter, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use std::time::Duration;

use crate::intake;

/// Does what a partner's webhook asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessInbound {
    /// Who sent it.
    pub partner_id: PartnerId,
    /// Its id at the partner's.
    pub event_id: String,
}

impl Job for ProcessInbound {
    type Services = Services;
    const KIND: &'static str = "process_inbound";
    const QUEUE: &'static str = "stock";
    const RETRY: Retry = Retry::new(Duration::from_millis(200), Duration::from_secs(60), 12);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("inbound:{}:{}", self.partner_id, self.event_id)))
    }

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        let Some(webhook) = inbound::lock(&mut tx, self.partner_id, &self.event_id).await? else {
            return tx.done_with(json!({ "was": "processed before" })).await;
        };
        let (end, reason) = match inbound::read(&webhook.kind, &webhook.raw) {
            Asked::Ping => (End::Processed, None),
            Asked::Unknown => (End::Ignored, Some("unknown_type".to_owned())),
            Asked::Malformed => (End::Refused, Some("malformed".to_owned())),
            Asked::CancelOrder(order, why) => cancel(&mut tx, order, &why, &webhook.partner, services).await?,
        };
        inbound::finish(&mut tx, self.partner_id, &self.event_id, end, reason.as_deref()).await?;
        tx.done_with(json!({ "end": end.as_str(), "reason": reason })).await
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        inbound::finish(conn, self.partner_id, &self.event_id, End::Dead, Some(&letter.code)).await?;
        Ok(())
    }
}

/// By the rules of a request: only an order of the partner's own, and only while it can be cancelled.
async fn cancel(
    conn: &mut PgConnection,
    id: OrderId,
    why: &str,
    partner: &str,
    services: &Services,
) -> anyhow::Result<(End, Option<String>)> {
    let refused = |reason: &str| Ok((End::Refused, Some(reason.to_owned())));
    let order = orders::store::get(&mut *conn, id).await?;
    if order.is_none_or(|order| order.created_by != partner) {
        return refused("order_not_found");
    }
    let cause = Cause::actor(partner.to_owned());
    match intake::cancel(conn, id, why, &services.settings, &cause).await {
        Ok(_) => Ok((End::Processed, None)),
        Err(intake::Error::NotFound) => refused("order_not_found"),
        Err(intake::Error::WindowClosed { .. }) => refused("cancel_window_closed"),
        Err(intake::Error::Conflict { .. }) => refused("order_not_cancellable"),
        Err(error) => Err(error.into()),
    }
}
