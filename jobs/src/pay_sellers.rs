//! Starts the payout of every seller that is owed enough. Running it twice is safe because a seller has at most one payout
//! job at a time, and at most one payout under way.

use std::time::Duration;

use domain::{Services, ids::SellerId, sellers};
use queue::{Attempt, Job, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{PaySeller, follow_with};

/// Sellers that one job starts; another one goes on from there.
const BATCH: i64 = 500;

/// Starts the payouts that are due.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PaySellers {
    /// The seller that the last job came to.
    #[serde(default)]
    pub after: Option<SellerId>,
}

impl Job for PaySellers {
    type Services = Services;
    const KIND: &'static str = "pay_sellers";
    const QUEUE: &'static str = "payments";
    const RETRY: Retry = Retry::new(Duration::from_millis(500), Duration::from_secs(60), 50);

    fn unique(&self) -> Option<Unique> {
        let place = self.after.map_or_else(|| "start".to_owned(), |id| id.to_string());
        Some(Unique::live(format!("pay_sellers:{place}")))
    }

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        let due = sellers::store::due(&mut tx, self.after, BATCH).await?;
        let jobs: Vec<_> = due
            .iter()
            .map(|seller_id| PaySeller { seller_id: *seller_id })
            .collect();
        queue::enqueue_many(&mut tx, &jobs).await?;
        if let Some(last) = due.last().filter(|_| jobs.len() as i64 == BATCH) {
            follow_with(&mut tx, &PaySellers { after: Some(*last) }).await?;
        }
        tx.done_with(json!({ "sellers": jobs.len() })).await
    }
}
