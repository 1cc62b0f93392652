//! Asks the gateway about the payment that one of its events names. Running it twice is safe because an event is never believed:
//! it only wakes `reconcile_payment`, which reads the gateway's state.

use domain::{
    Services,
    inbound::{self, GATEWAY},
    payments::{self, Payment, State},
};
use queue::{Attempt, Job, Outcome, Unique};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{ReconcilePayment, follow_with};

/// Asks the gateway about what one of its events is about.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessGatewayEvent {
    /// Its id at the gateway.
    pub event_id: String,
}

impl Job for ProcessGatewayEvent {
    type Services = Services;
    const KIND: &'static str = "process_gateway_event";
    const QUEUE: &'static str = "payments";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(format!("gateway_event:{}", self.event_id)))
    }

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        let Some(payload) = inbound::payload(&mut tx, GATEWAY, &self.event_id).await? else {
            return Ok(Outcome::Discard("the event is not kept any more".to_owned()));
        };
        let event: Value = serde_json::from_slice(&payload).unwrap_or_default();
        inbound::processed(&mut tx, GATEWAY, &self.event_id).await?;
        let object = &event["data"]["object"];
        let intent = match object["object"].as_str() {
            Some("payment_intent") => object["id"].as_str(),
            _ => object["payment_intent"].as_str(),
        };
        let Some(intent) = intent else {
            return tx.done_with(json!({ "skipped": "not about a payment" })).await;
        };
        let mark = payments::mark(&object["metadata"]);
        let Some(payment_id) = payments::audit::payment_of(&mut tx, intent, mark).await? else {
            // Money on it, if there is any, is found by the sweep of the gateway's ledger.
            return tx.done_with(json!({ "skipped": "no payment of ours" })).await;
        };
        let payment = payments::store::get(&mut tx, payment_id).await?;
        if payment.is_some_and(|payment| says_nothing_new(&payment, &event)) {
            return tx.done_with(json!({ "skipped": "known already" })).await;
        }
        follow_with(&mut tx, &ReconcilePayment { payment_id }).await?;
        tx.done_with(json!({ "asked_about": payment_id })).await
    }
}

/// Whether our record agrees already with what an event tells. Only a question is saved by that: nothing is written.
fn says_nothing_new(payment: &Payment, event: &Value) -> bool {
    let object = &event["data"]["object"];
    let amount = |field: &str| object[field].as_i64().unwrap_or(i64::MAX);
    match event["type"].as_str().unwrap_or_default() {
        "payment_intent.created" => payment.gateway_ref.is_some(),
        "payment_intent.amount_capturable_updated" | "charge.succeeded" => payment.authorized_at.is_some(),
        "payment_intent.payment_failed" | "charge.failed" => payment.state == State::Declined,
        "payment_intent.succeeded" => payment.captured.0 >= amount("amount_received"),
        "charge.captured" => payment.captured.0 >= amount("amount_captured"),
        "payment_intent.canceled" => payment.state == State::Voided,
        "charge.refunded" => payment.refunded.0 >= amount("amount_refunded"),
        _ => false,
    }
}
