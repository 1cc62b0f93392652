//! Sends one event to one endpoint. Running it twice is safe for us, since a delivered delivery is not sent again, and for
//! the receiver, since every try carries the same `webhook-id` and the same bytes.
//!
//! At least once: whoever dies between the answer and its record leaves the delivery in flight, and the next attempt
//! sends it again.

use std::time::Duration;

use domain::{
    Services,
    events::Announced,
    ids::{DeliveryId, EndpointId},
    keyring,
    webhooks::{
        self, DeadHead, DeliveryState, Posted, RELIEF_MIN,
        egress::Post,
        store::{Begun, Failed},
    },
};
use queue::trace::FACTS;
use queue::{Attempt, DeadLetter, Failure, HttpFacts, Job, Outcome, Retry, Unique};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use tracing::{Instrument, Level};

use crate::{announce, cause, limits};

/// Sends one delivery.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliverWebhook {
    /// The delivery.
    pub delivery_id: DeliveryId,
    /// Where it goes; jobs of builds before this field do without, and count against no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_id: Option<EndpointId>,
    /// What it waits in line with: `hook:{endpoint}:{ordering_key}`.
    pub group: Option<String>,
}

/// A try takes at most the sender's total time-out and a little.
const TIMEOUT: Duration = Duration::from_secs(25);
const TRIES_MAX: i32 = webhooks::SCHEDULE.len() as i32;

impl Job for DeliverWebhook {
    type Services = Services;
    const KIND: &'static str = "deliver_webhook";
    const QUEUE: &'static str = "webhooks";
    const TIMEOUT: Duration = TIMEOUT;
    const RETRY: Retry = Retry::new(Duration::from_secs(5), Duration::from_secs(24 * 60 * 60), TRIES_MAX);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(self.delivery_id.to_string()))
    }

    fn group(&self) -> Option<String> {
        self.group.clone()
    }

    fn limit(&self) -> Option<String> {
        self.endpoint_id.map(limits::endpoint)
    }

    fn delay_after(&self, attempt: i32) -> Option<Duration> {
        Some(webhooks::wait_after(attempt, rand::rng().random()))
    }

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let (begun, n, secrets) = match self.begin(attempt, services).await? {
            Step::Ended(outcome) => return Ok(outcome),
            Step::Send(begun, n, secrets) => (begun, n, secrets),
        };
        let webhook_id = begun.event_id.to_string();
        let trace = attempt.trace.next();
        let span = tracing::debug_span!(
            "webhook",
            trace.id = %trace.trace_id(),
            span.id = trace.span_id(),
            span.parent_id = trace.parent_id(),
            delivery.id = %self.delivery_id,
            endpoint.id = %begun.endpoint_id,
        );
        let post = Post {
            url: &begun.url,
            webhook_id: &webhook_id,
            timestamp: begun.timestamp,
            secrets: &secrets,
            body: begun.body(),
            traceparent: Some(trace.to_string()),
        };
        let sending = async {
            let posted = services.sender.post(post).await;
            tell(&posted);
            posted
        };
        let posted = sending.instrument(span).await;
        let verdict = judge(&posted);
        let should_open = services
            .sender
            .count(begun.endpoint_id, matches!(verdict, Verdict::Delivered(_)));
        self.record(attempt, &begun, n, verdict, should_open).await
    }

    async fn dead_head(&self, conn: &mut PgConnection) -> anyhow::Result<queue::DeadHead> {
        Ok(match webhooks::store::dead_head(conn, self.delivery_id).await? {
            DeadHead::Skip => queue::DeadHead::Skip,
            DeadHead::Block => queue::DeadHead::Block,
        })
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        let announced = webhooks::store::bury(&mut *conn, self.delivery_id, &letter.code, letter.id.0).await?;
        announce(conn, announced).await?;
        Ok(())
    }
}

/// Tells the span of a try what came of it.
fn tell(posted: &Posted) {
    let (status, failure) = match posted {
        Posted::Answered { status, .. } => (Some(*status), (*status >= 300).then(|| status.to_string())),
        Posted::TimedOut => (None, Some("timeout".to_owned())),
        Posted::Failed(class) => (None, Some((*class).to_owned())),
        Posted::Blocked => (None, Some("unreachable".to_owned())),
        Posted::BadUrl(_) => (None, Some("invalid_url".to_owned())),
    };
    tracing::event!(target: FACTS, Level::TRACE, http.response.status_code = status, error.kind = failure);
}

enum Step {
    Ended(Outcome),
    /// The delivery, the number of the try, and what signs it.
    Send(Begun, i32, Vec<String>),
}

/// What a try came to.
#[derive(Debug)]
enum Verdict {
    Delivered(u16),
    Retry(Failed, Option<Duration>),
    /// Never again, for this reason.
    GiveUp(Failed, &'static str),
    /// Never again, and nothing else for this endpoint either.
    Gone(Failed),
}

/// The receiver's answer, judged: pure.
fn judge(posted: &Posted) -> Verdict {
    let failed = |status, class, message: String| Failed { status, class, message };
    match posted {
        Posted::Answered { status: 410, .. } => Verdict::Gone(failed(Some(410), "gone", "answered 410".to_owned())),
        Posted::Answered { status, .. } if (200..300).contains(status) => Verdict::Delivered(*status),
        Posted::Answered {
            status, abort: true, ..
        } => {
            let message = format!("answered {status} and asked not to be sent this again");
            Verdict::GiveUp(failed(Some(*status), "aborted", message), "aborted_by_receiver")
        }
        Posted::Answered {
            status, retry_after, ..
        } => {
            let class = match status {
                300..=399 => "redirect",
                429 => "throttled",
                400..=499 => "client_error",
                _ => "server_error",
            };
            let relief = (*status == 429).then_some(RELIEF_MIN);
            Verdict::Retry(
                failed(Some(*status), class, format!("answered {status}")),
                relief.max(*retry_after),
            )
        }
        Posted::TimedOut => Verdict::Retry(
            failed(None, "timeout", "no answer in time".to_owned()),
            Some(RELIEF_MIN),
        ),
        Posted::Failed(class) => Verdict::Retry(failed(None, class, "no answer".to_owned()), None),
        // The same words as for a host that does not answer: what is blocked is not the receiver's to find out.
        Posted::Blocked => Verdict::GiveUp(failed(None, "unreachable", "no answer".to_owned()), "blocked_address"),
        Posted::BadUrl(error) => Verdict::GiveUp(failed(None, "invalid_url", error.to_string()), "invalid_url"),
    }
}

/// A key that this process lacks is its settings' fault, and stops the kind; a secret that was changed is that endpoint's.
fn unsigned(error: keyring::Error) -> Failure {
    match &error {
        keyring::Error::UnknownKey { .. } => Failure::config("unknown_master_key", error.to_string()),
        keyring::Error::Broken(_) => Failure::permanent("broken_secret", error.to_string()),
    }
}

impl DeliverWebhook {
    /// T1: in flight, with the row of this try.
    async fn begin(&self, attempt: &Attempt, services: &Services) -> anyhow::Result<Step> {
        let mut tx = attempt.begin().await?;
        let Some(begun) = webhooks::store::begin(&mut tx, self.delivery_id, &cause(attempt)).await? else {
            tx.commit().await?;
            return Ok(Step::Ended(Outcome::Discard("no such delivery".to_owned())));
        };
        if let Some(n) = begun.n {
            // What cannot be signed is not begun.
            let secrets = begun.open_secrets(&services.keyring).map_err(unsigned)?;
            tx.commit().await?;
            return Ok(Step::Send(begun, n, secrets));
        }
        match (begun.state, &begun.refused) {
            (DeliveryState::Delivered | DeliveryState::Discarded, _) => tx.done().await.map(Step::Ended),
            (_, Some(reason)) => {
                webhooks::store::discard(&mut tx, self.delivery_id, reason).await?;
                tx.done_with(json!({ "discarded": reason })).await.map(Step::Ended)
            }
            // The breaker is open, or somebody else is the probe: later, and not an attempt.
            (_, None) => {
                tx.commit().await?;
                let wait = Duration::from_secs_f64(begun.open_seconds.max(1.0));
                Ok(Step::Ended(Outcome::Snooze(
                    wait.mul_f64(1.0 + 0.2 * rand::rng().random::<f64>()),
                )))
            }
        }
    }

    /// T2: what it came to, together with the end of the job if it ended.
    async fn record(
        &self,
        attempt: &Attempt,
        begun: &Begun,
        n: i32,
        verdict: Verdict,
        should_open: bool,
    ) -> anyhow::Result<Outcome> {
        let (id, endpoint) = (self.delivery_id, begun.endpoint_id);
        let mut tx = attempt.begin().await?;
        match verdict {
            Verdict::Delivered(status) => {
                let announced = webhooks::store::record_success(&mut tx, id, n, begun, status).await?;
                announce(&mut tx, announced).await?;
                tx.done().await
            }
            Verdict::Gone(failed) => {
                // Its locks come first: a notice about the endpoint goes to others.
                let announced = match webhooks::store::disable(&mut tx, endpoint, "gone").await {
                    Ok((_, announced)) => announced,
                    Err(webhooks::store::Error::NotFound) => Announced::default(),
                    Err(error) => return Err(error.into()),
                };
                webhooks::store::record_failure(&mut tx, id, n, endpoint, &failed, Some("gone")).await?;
                announce(&mut tx, announced).await?;
                tx.done_with(json!({ "discarded": "gone" })).await
            }
            Verdict::GiveUp(failed, reason) => {
                webhooks::store::record_failure(&mut tx, id, n, endpoint, &failed, Some(reason)).await?;
                tx.done_with(json!({ "discarded": reason })).await
            }
            Verdict::Retry(failed, after) => {
                webhooks::store::record_failure(&mut tx, id, n, endpoint, &failed, None).await?;
                let is_probe = begun.opened_times > 0;
                if (should_open || is_probe)
                    && let Some(left) = webhooks::store::open_breaker(&mut tx, endpoint, begun.opened_times).await?
                {
                    tracing::warn!(endpoint.id = %endpoint, seconds = left.as_secs(), "the endpoint is left alone");
                }
                tx.commit().await?;
                let http = HttpFacts {
                    status: failed.status,
                    request_id: None,
                    body_excerpt: None,
                };
                let mut failure = Failure::transient(failed.class, failed.message).with_http(http);
                failure.retry_after = after;
                Err(failure.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> Posted {
        Posted::Answered {
            status,
            retry_after: None,
            abort: false,
        }
    }

    #[test]
    fn only_2xx_is_a_delivery() {
        for status in 100..600 {
            let is_good = matches!(judge(&answered(status)), Verdict::Delivered(_));
            assert_eq!(is_good, (200..300).contains(&status), "{status}");
        }
    }

    #[test]
    fn overwhelmed_receivers_get_a_minute_at_least() {
        let wait = |posted| match judge(&posted) {
            Verdict::Retry(_, after) => after,
            other => panic!("{other:?}"),
        };
        let after = |status, seconds| Posted::Answered {
            status,
            retry_after: Some(Duration::from_secs(seconds)),
            abort: false,
        };
        assert_eq!(wait(answered(429)), Some(RELIEF_MIN));
        assert_eq!(wait(after(429, 5)), Some(RELIEF_MIN));
        assert_eq!(wait(after(429, 300)), Some(Duration::from_secs(300)));
        assert_eq!(wait(after(503, 7)), Some(Duration::from_secs(7)));
        assert_eq!(wait(Posted::TimedOut), Some(RELIEF_MIN));
        assert_eq!(wait(answered(500)), None);
    }

    #[test]
    fn some_answers_end_it() {
        let abort = Posted::Answered {
            status: 400,
            retry_after: None,
            abort: true,
        };
        assert!(matches!(judge(&abort), Verdict::GiveUp(_, "aborted_by_receiver")));
        assert!(matches!(judge(&answered(410)), Verdict::Gone(_)));
        assert!(matches!(judge(&Posted::Blocked), Verdict::GiveUp(_, "blocked_address")));
        assert!(matches!(judge(&Posted::Failed("tls")), Verdict::Retry(..)));
    }
}
