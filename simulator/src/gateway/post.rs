//! The post: each event is signed and sent to every endpoint that wants it, again and again until it is taken.
//!
//! What waits is in memory only: an event whose delivery a stop interrupts never comes, as happens with every gateway,
//! and `GET /v1/events` still has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::book;
use super::events::Event;
use super::faults::{Asked, Kind, WEBHOOKS};
use super::form;
use super::http::Gateway;

/// Deliveries on their way at one time.
const SENDING_MAX: usize = 32;
/// Deliveries that wait; the oldest ones stay, what is above is given up.
const WAITING_MAX: usize = 200_000;
const TRIES_MAX: u32 = 16;
const RETRY_MAX: Duration = Duration::from_secs(60 * 60);
const TIMEOUT: Duration = Duration::from_secs(10);

/// What became of the post so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    waiting: usize,
    sending: usize,
    taken: u64,
    refused: u64,
    given_up: u64,
}

impl Tally {
    pub(super) fn render(self) -> Value {
        json!({
            "waiting": self.waiting,
            "sending": self.sending,
            "taken": self.taken,
            "refused": self.refused,
            "given_up": self.given_up,
        })
    }
}

/// One event for one endpoint.
#[derive(Debug, Clone)]
struct Delivery {
    event: Event,
    endpoint: String,
    tries: u32,
}

/// Sends until `stop`. A first retry comes after [`Gateway::retry`], each further one after twice as long.
pub(super) async fn run(
    gateway: Arc<Gateway>,
    mut inbox: UnboundedReceiver<Event>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // There may be a provider already: either does.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder()
        .user_agent("Stripe/1.0 (+https://stripe.com/docs/webhooks)")
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?;
    let mut waiting: BTreeMap<(Instant, u64), Delivery> = BTreeMap::new();
    let mut sending: JoinSet<(Delivery, bool)> = JoinSet::new();
    let mut n = 0_u64;
    loop {
        let mut tally = gateway.tally();
        (tally.waiting, tally.sending) = (waiting.len() + inbox.len(), sending.len());
        gateway.set_tally(tally);
        let due = waiting.keys().next().map(|(at, _)| *at);
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            Some(sent) = sending.join_next() => {
                let Ok((mut delivery, is_taken)) = sent else { continue };
                let mut tally = gateway.tally();
                delivery.tries += 1;
                if is_taken {
                    tally.taken += 1;
                    gateway.taken(&delivery.event);
                } else if delivery.tries >= TRIES_MAX {
                    tally.refused += 1;
                    tally.given_up += 1;
                    tracing::warn!(event = %delivery.event.id, "no endpoint took the event; it is given up");
                } else {
                    tally.refused += 1;
                    n += 1;
                    let pause = gateway.retry().saturating_mul(2_u32.saturating_pow(delivery.tries - 1)).min(RETRY_MAX);
                    waiting.insert((Instant::now() + pause, n), delivery);
                }
                gateway.set_tally(tally);
            }
            Some(event) = inbox.recv() => {
                let room = WAITING_MAX.saturating_sub(waiting.len());
                for (delay, delivery) in addressed(&gateway, &event).into_iter().take(room) {
                    n += 1;
                    waiting.insert((Instant::now() + delay, n), delivery);
                }
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)),
                if due.is_some() && sending.len() < SENDING_MAX =>
            {
                if let Some((_, delivery)) = waiting.pop_first() {
                    sending.spawn(send(Arc::clone(&gateway), client.clone(), delivery));
                }
            }
        }
    }
}

/// The deliveries of one event, each with how late it is to be.
fn addressed(gateway: &Gateway, event: &Event) -> Vec<(Duration, Delivery)> {
    let mut found = Vec::new();
    for endpoint in gateway.endpoints_for(event) {
        let delivery = Delivery {
            event: event.clone(),
            endpoint,
            tries: 0,
        };
        let mut delay = Duration::ZERO;
        let mut copies = 1;
        let asked = Asked {
            route: WEBHOOKS,
            kind: event.kind,
            named: None,
            amount: Some(event.amount),
        };
        for strike in gateway.strike(asked) {
            match strike.order.fault {
                Kind::Late => delay += strike.delay(),
                Kind::Reorder => delay += strike.some_delay(),
                Kind::Duplicate => copies = 2,
                Kind::Lost => copies = 0,
                _ => {}
            }
        }
        found.extend(std::iter::repeat_n((delay, delivery), copies));
    }
    found
}

/// One try; true when the endpoint took it, or is gone.
async fn send(gateway: Arc<Gateway>, client: reqwest::Client, delivery: Delivery) -> (Delivery, bool) {
    let Some((url, secret)) = gateway.address(&delivery.endpoint) else {
        return (delivery, true);
    };
    let Ok(body) = letter(&gateway, &delivery.event).await else {
        return (delivery, false);
    };
    // The receiver compares with its own clock, which nobody moves ahead.
    let signature = sign(&secret, Utc::now().timestamp(), &body);
    let request = client
        .post(url)
        .header("content-type", "application/json; charset=utf-8")
        .header("stripe-signature", signature)
        .body(body);
    let is_taken = request.send().await.is_ok_and(|answer| answer.status().is_success());
    (delivery, is_taken)
}

/// The bytes of an event. Nobody may learn what a crash could still undo.
async fn letter(gateway: &Gateway, event: &Event) -> anyhow::Result<String> {
    let (durable, lines) = gateway.ledger();
    durable.wait().await?;
    Ok(book::read_event(&lines, event)?.to_string())
}

/// `t=…,v1=…`: the HMAC-SHA256 of `{t}.{body}` by the endpoint's secret.
fn sign(secret: &str, at: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(format!("{at}.{body}").as_bytes());
    format!("t={at},v1={}", form::hex(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_openssl_makes() {
        // printf '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_test
        assert_eq!(
            sign("whsec_test", 1_700_000_000, r#"{"id":"evt_1"}"#),
            "t=1700000000,v1=c89214b5b5da833daed6f0b8c5bb6bd58cea9022bd80ccc78230f3942d632925"
        );
    }
}
