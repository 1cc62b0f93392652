//! Asks for a plan of every day that has shipments waiting for one and no job to make it: what a bucket missed, what
//! became possible again, and days that are over. In the evening it asks for a thorough plan of all that leaves tomorrow.
//! Running it twice is safe: it only asks, and asking twice is asking once; a thorough plan that is no better than the one
//! there is changes nothing. It comes to rest: every plan places a shipment, moves it to a later day or settles it as
//! impossible.

use std::collections::HashSet;

use domain::Services;
use domain::routes::{plan, store::Day};
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};

use crate::plan_routes;

/// The most days asked for at once; the next minute asks for the rest.
const DAYS_MAX: i64 = 200;

/// How long each day is searched for in the evening. All of them wait for the same few threads.
const EVENING_SECONDS: u16 = 30;

/// Asks for a plan of every day that waits for one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PlanDueRoutes {
    /// Instead: for a thorough plan of tomorrow (UTC), for every warehouse that has something to plan then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub evening: bool,
}

impl Job for PlanDueRoutes {
    type Services = Services;
    const KIND: &'static str = "plan_due_routes";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, _services: &Services) -> anyhow::Result<Outcome> {
        let mut effects = attempt.begin().await?;
        if self.evening {
            for day in plan::days_tomorrow(&mut effects, DAYS_MAX).await? {
                plan_routes::request_thorough(&mut effects, day, EVENING_SECONDS).await?;
            }
            return effects.done().await;
        }
        let due = plan::days_due(&mut effects, DAYS_MAX).await?;
        let groups: Vec<String> = due.iter().map(|day| plan_routes::group(*day)).collect();
        let live: HashSet<String> = sqlx::query_scalar!(
            r#"select group_key from queue.turns where group_key = any($1)"#,
            &groups,
        )
        .fetch_all(&mut *effects)
        .await?
        .into_iter()
        .collect();
        let missed: Vec<Day> = due
            .into_iter()
            .filter(|day| !live.contains(&plan_routes::group(*day)))
            .collect();
        plan_routes::request(&mut effects, &missed).await?;
        effects.done().await
    }
}
