//! Reads what moved money on the gateway's books and looks for what ours don't have: a payment that differs is asked about,
//! and a movement that is nobody's is an alarm, `orphan_charge`. Running it twice is safe because each movement is written down
//! once, and because a payment has at most one reconciliation at a time.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    Services,
    payments::{self, audit},
};
use queue::{Attempt, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{ReconcilePayment, follow_with, limits, payment_call};

/// How far back it looks: two days, so that a day without a sweep is made good by the next one.
const BACK: TimeDelta = TimeDelta::days(2);
/// Pages that one job reads; another one goes on from there.
const PAGES_MAX: usize = 20;

/// Compares the gateway's books with ours.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SweepLedger {
    /// From when on; two days ago without it.
    #[serde(default)]
    pub since: Option<DateTime<Utc>>,
    /// The movement that the last job came to.
    #[serde(default)]
    pub after: Option<String>,
}

impl Job for SweepLedger {
    type Services = Services;
    const KIND: &'static str = "sweep_ledger";
    const QUEUE: &'static str = "maintenance";
    const RETRY: Retry = Retry::new(Duration::from_millis(500), Duration::from_secs(60), 50);

    fn unique(&self) -> Option<Unique> {
        let place = self.after.as_deref().unwrap_or("start");
        Some(Unique::live(format!("sweep_ledger:{place}")))
    }

    fn limit(&self) -> Option<String> {
        Some(limits::GATEWAY.to_owned())
    }

    fn delay_after(&self, attempt: i32) -> Option<Duration> {
        Some(payment_call::delay_after(attempt))
    }

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        if let Some(later) = payment_call::quiet(services) {
            return Ok(later);
        }
        let mut tx = attempt.begin().await?;
        let since = match self.since {
            Some(since) => since,
            None => payments::store::clock(&mut tx).await? - BACK,
        };
        tx.commit().await?;
        let (mut after, mut orphans, mut doubtful) = (self.after, 0, 0);
        for _ in 0..PAGES_MAX {
            let asked = services.gateway.movements(since, after.as_deref(), attempt.time_left());
            let (movements, has_more) = asked.await.map_err(|reply| payment_call::unanswered(&reply))?;
            let mut tx = attempt.begin().await?;
            let found = audit::compare(&mut tx, &movements).await?;
            for orphan in &found.orphans {
                let (movement, amount) = (&orphan.id, orphan.amount.0);
                tracing::error!(%movement, intent = ?orphan.intent, amount, "orphan_charge: money moved for no payment of ours");
                metrics::counter!("orphan_charges_total").increment(1);
            }
            orphans += found.orphans.len();
            doubtful += found.doubtful.len();
            for payment_id in found.doubtful {
                follow_with(&mut tx, &ReconcilePayment { payment_id }).await?;
            }
            let Some(last) = movements.last().filter(|_| has_more) else {
                return tx.done_with(json!({ "orphans": orphans, "doubtful": doubtful })).await;
            };
            after = Some(last.id.clone());
            tx.commit().await?;
        }
        let mut tx = attempt.begin().await?;
        let rest = SweepLedger {
            since: Some(since),
            after,
        };
        follow_with(&mut tx, &rest).await?;
        tx.done_with(json!({ "orphans": orphans, "doubtful": doubtful, "goes_on": true }))
            .await
    }
}
