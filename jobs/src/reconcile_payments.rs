//! Sends every payment that has waited too long for an answer to reconciliation. Running it twice is safe because a payment
//! has at most one reconciliation at a time.

use domain::{Services, payments};
use queue::{Attempt, Job, Outcome, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::ReconcilePayment;

/// A sweep takes this many; the next one, a minute later, takes the rest.
const BATCH: i64 = 500;

/// Looks for payments that wait.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReconcilePayments {}

impl Job for ReconcilePayments {
    type Services = Services;
    const KIND: &'static str = "reconcile_payments";
    const QUEUE: &'static str = "maintenance";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live("sweep"))
    }

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        let overdue = payments::store::overdue(&mut tx, BATCH).await?;
        let jobs: Vec<_> = overdue
            .into_iter()
            .map(|payment_id| ReconcilePayment { payment_id })
            .collect();
        queue::enqueue_many(&mut tx, &jobs).await?;
        tx.done_with(json!({ "overdue": jobs.len() })).await
    }
}
