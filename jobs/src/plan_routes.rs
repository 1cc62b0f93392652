//! Plans the routes of one warehouse's day. Running it twice is safe: a plan is published only if its shipments and
//! vehicles are still as they were read, as a whole new version, and not at all when nothing would change.
//!
//! Hundreds of orders a minute ask for the same day. They share one job: [`request`] cuts the database's time into
//! buckets of five seconds, one job each, due when its bucket is over. Nobody waits for a common row: who finds the
//! bucket's job there does nothing. An order that commits later than its bucket's job has read is found by
//! [`plan_due_routes`](crate::plan_due_routes) within a minute.
//!
//! Such a plan starts from the one before, is made in a fixed number of rounds, and leaves who has a van already where they
//! are unless a kilometre is saved for each that moves. In the evening the next day is planned once more at length
//! ([`request_thorough`]), and everybody may move.
//!
//! An attempt whose worker dies leaves the best routes of its last five seconds in `route_checkpoints`, and the next one
//! goes on from there: the job makes its rounds once. [`route_search`] has the rest of how a search is run.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDate};
use domain::Services;
use domain::ids::WarehouseId;
use domain::routes::plan::{self, Checkpoint, Published, RoutesById, Snapshot, WhenStale};
use domain::routes::recipe::{Found, Recipe};
use domain::routes::store::Day;
use domain::routes::{self, Haversine};
use queue::{Attempt, DeadLetter, Failure, Job, JobId, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::road_call;
use crate::route_search::{self, Amount, Task};

/// How long orders gather before their day is planned.
const BUCKET_SECONDS: i64 = 5;
/// How much longer, for transactions that are still open when the bucket ends.
const MARGIN_SECONDS: i64 = 1;
/// How many buckets ahead a request looks for one whose job has not run yet.
const BUCKETS_AHEAD_MAX: i64 = 12;
/// How often a plan is computed anew because its input changed, before it is published for what did not.
const RECOMPUTED_MAX: usize = 3;
/// The longest search of a plan that is made in rounds.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(10);
/// The longest search of all: the attempt has to publish as well, and perhaps to search again.
pub const SECONDS_MAX: u16 = 90;
/// Rounds of the search for each stop, and the most of all.
const ITERATIONS_PER_STOP: u64 = 200;
const ITERATIONS_MAX: u64 = 60_000;
/// How long a day waits for a thread to be free, or for somebody who loads just now.
const LATER: Duration = Duration::from_secs(5);

/// Plans the routes of one warehouse's day.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanRoutes {
    /// Where they start.
    pub warehouse_id: WarehouseId,
    /// The day.
    pub date: NaiveDate,
    /// The five seconds it gathers the requests of, counted from 1970.
    pub bucket: i64,
    /// How long to search, with everybody free to move; without it as many rounds as suit the number of stops. Counted as
    /// [`SECONDS_MAX`] at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u16>,
}

impl Job for PlanRoutes {
    type Services = Services;
    const KIND: &'static str = "plan_routes";
    const QUEUE: &'static str = "routes";
    const TIMEOUT: Duration = Duration::from_secs(120);
    const RETRY: Retry = Retry::new(Duration::from_secs(1), Duration::from_secs(60), 8);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::kept(key(self)))
    }

    fn group(&self) -> Option<String> {
        Some(group((self.warehouse_id, self.date)))
    }

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let day = (self.warehouse_id, self.date);
        let mut found_before = None;
        for round in 0..=RECOMPUTED_MAX {
            let Some((snapshot, checkpoint)) = self.read(attempt, services).await? else {
                return move_on(attempt, day).await;
            };
            if self.seconds.is_none() && snapshot.is_planned() {
                return attempt.begin().await?.done_with(json!({"published": false})).await;
            }
            let recipe = recipe(&snapshot, checkpoint.as_ref(), found_before.as_ref());
            let Some(found) = self.search(attempt, &snapshot, recipe, round).await? else {
                return Ok(Outcome::Snooze(LATER));
            };

            let when_stale = if round < RECOMPUTED_MAX {
                WhenStale::Refuse
            } else {
                WhenStale::PublishTheRest
            };
            let mut effects = attempt.begin().await?;
            match plan::publish(&mut effects, &snapshot, &found, when_stale, &crate::cause(attempt)).await {
                Ok(Published::Stale) => found_before = Some(snapshot.routes_found(&found)),
                Ok(Published::Unchanged) => return effects.done_with(json!({"published": false})).await,
                Ok(Published::Stored(summary)) => {
                    let mut days: Vec<Day> = summary.moved_to.map(|later| (day.0, later)).into_iter().collect();
                    if summary.left_over > 0 {
                        days.push(day);
                    }
                    request(&mut effects, &days).await?;
                    return effects
                        .done_with(json!({"published": true, "plan": summary, "recomputed": round}))
                        .await;
                }
                Err(unsound @ routes::Error::Unsound(_)) => {
                    return Err(Failure::permanent("unsound_plan", unsound.to_string()).into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Somebody loads just now, again and again.
        Ok(Outcome::Snooze(LATER))
    }

    async fn bury(&self, conn: &mut PgConnection, _letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        plan::give_up(conn, (self.warehouse_id, self.date)).await?;
        Ok(())
    }
}

impl PlanRoutes {
    /// The day as it is, and what an attempt before this one has kept of its search; none when the day is over.
    async fn read(
        &self,
        attempt: &Attempt,
        services: &Services,
    ) -> anyhow::Result<Option<(Arc<Snapshot>, Option<Checkpoint>)>> {
        let day = (self.warehouse_id, self.date);
        let source = Haversine::new(services.settings.road_factor, services.settings.speed_kmh);
        let mut reads = attempt.read().await?;
        let checkpoint = plan::checkpoint(&mut reads, day, &crate::cause(attempt)).await?;
        let snapshot = match plan::snapshot(&mut reads, day, source).await {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return Ok(None),
            Err(error @ (routes::Error::Malformed(_) | routes::Error::OutOfBounds { .. })) => {
                return Err(Failure::permanent("malformed_day", error.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        };
        drop(reads);
        let snapshot = road_call::measured(attempt, &services.settings, snapshot).await?;
        let snapshot = match self.seconds {
            Some(_) => snapshot.moving_freely(),
            None => snapshot,
        };
        Ok(Some((Arc::new(snapshot), checkpoint)))
    }

    /// Searches as much as was asked for; none when no thread is free for long. Its turn is over before anything is written:
    /// no search waits for the database.
    async fn search(
        &self,
        attempt: &Attempt,
        snapshot: &Arc<Snapshot>,
        recipe: Recipe,
        round: usize,
    ) -> anyhow::Result<Option<Found>> {
        let Some(turn) = route_search::turn().await? else {
            return Ok(None);
        };
        let rounds = (ITERATIONS_PER_STOP * snapshot.stops() as u64).min(ITERATIONS_MAX);
        let amount = match self.seconds {
            // What has changed meanwhile is worth no second search of that length.
            Some(seconds) if round == 0 => Amount::Time(Duration::from_secs(seconds.clamp(1, SECONDS_MAX).into())),
            _ => Amount::Rounds(rounds, SEARCH_TIME_MAX),
        };
        let task = Task {
            snapshot: Arc::clone(snapshot),
            recipe,
            amount,
        };
        turn.search(attempt, task).await.map(Some)
    }
}

/// How to search: on from where an attempt before this one had come to; or from what the last round found for a day that
/// has changed since; or from the plan that counts.
fn recipe(snapshot: &Snapshot, checkpoint: Option<&Checkpoint>, found_before: Option<&RoutesById>) -> Recipe {
    let from_the_start = Recipe {
        seed: snapshot.seed(),
        iterations: 0,
        before: 0,
        start: Vec::new(),
    };
    match (found_before, checkpoint) {
        (Some(routes), _) => Recipe {
            start: snapshot.routes_from(routes),
            ..from_the_start
        },
        (None, Some(checkpoint)) if checkpoint.is_for(snapshot) => Recipe {
            iterations: checkpoint.iterations_budget,
            before: checkpoint.iterations,
            start: snapshot.routes_from(&checkpoint.routes),
            ..from_the_start
        },
        (None, Some(checkpoint)) => Recipe {
            start: snapshot.routes_from(&checkpoint.routes),
            ..from_the_start
        },
        (None, None) => Recipe {
            start: snapshot.routes_before(),
            ..from_the_start
        },
    }
}

fn key(job: &PlanRoutes) -> String {
    let day = format!("plan:{}:{}", job.warehouse_id, job.date);
    match job.seconds {
        None => format!("{day}:{}", job.bucket),
        Some(seconds) => format!("{day}:{}:{seconds}s", job.bucket),
    }
}

/// What plans of one day have in common: one at a time.
pub(crate) fn group((warehouse, date): Day) -> String {
    format!("plan:{warehouse}:{date}")
}

/// A day that is over: what it never planned moves to one that has room.
async fn move_on(attempt: &Attempt, day: Day) -> anyhow::Result<Outcome> {
    let mut effects = attempt.begin().await?;
    let later = plan::move_on(&mut effects, day).await?;
    let days: Vec<Day> = later.map(|later| (day.0, later)).into_iter().collect();
    request(&mut effects, &days).await?;
    effects.done_with(json!({"published": false, "moved_to": later})).await
}

/// Asks for days to be planned, in the caller's transaction: soon, and once for all who ask within five seconds.
pub async fn request(conn: &mut PgConnection, days: &[Day]) -> Result<(), queue::Error> {
    let mut days = days.to_vec();
    // In one order everywhere, so that two who ask for the same days do not wait for each other in a circle.
    days.sort_unstable();
    days.dedup();
    for (warehouse_id, date) in days {
        let now = sqlx::query_scalar!(r#"select extract(epoch from clock_timestamp())::bigint as "now!""#)
            .fetch_one(&mut *conn)
            .await?;
        let first = now / BUCKET_SECONDS;
        for bucket in first..first + BUCKETS_AHEAD_MAX {
            let job = PlanRoutes {
                warehouse_id,
                date,
                bucket,
                seconds: None,
            };
            match place(conn, &job).await? {
                Place::Waits => break,
                // It ran early (a test moved time, or the clock was set back): what it read is too old for us.
                Place::HasRun => continue,
                Place::Free => {
                    let due = (bucket + 1) * BUCKET_SECONDS + MARGIN_SECONDS;
                    let run_at = DateTime::from_timestamp(due, 0).unwrap_or_default();
                    queue::enqueue_at(conn, &job, run_at).await?;
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The jobs that are to plan a day, or are at it, oldest first.
pub async fn live(conn: &mut PgConnection, (warehouse, date): Day) -> Result<Vec<JobId>, sqlx::Error> {
    let jobs = sqlx::query_scalar!(
        r#"select id as "id!" from queue.live_jobs
           where kind = $1 and args ->> 'warehouse_id' = $2 and args ->> 'date' = $3
           order by id"#,
        PlanRoutes::KIND,
        warehouse.to_string(),
        date.to_string(),
    )
    .fetch_all(conn)
    .await?;
    Ok(jobs.into_iter().map(JobId).collect())
}

/// Asks for a day to be planned anew at length, at once, in the caller's transaction. Asking twice within five seconds is
/// asking once.
pub async fn request_thorough(
    conn: &mut PgConnection,
    (warehouse_id, date): Day,
    seconds: u16,
) -> Result<(), queue::Error> {
    let now = sqlx::query_scalar!(r#"select extract(epoch from clock_timestamp())::bigint as "now!""#)
        .fetch_one(&mut *conn)
        .await?;
    let job = PlanRoutes {
        warehouse_id,
        date,
        bucket: now / BUCKET_SECONDS,
        seconds: Some(seconds),
    };
    queue::enqueue(conn, &job).await?;
    Ok(())
}

enum Place {
    Free,
    Waits,
    HasRun,
}

/// Whether a bucket has its job. A look without a lock: enqueuing at once would make all who ask wait for the first.
async fn place(conn: &mut PgConnection, job: &PlanRoutes) -> Result<Place, sqlx::Error> {
    let waits = sqlx::query_scalar!(
        r#"select exists (select from queue.jobs j where j.id = u.job_id) as "waits!"
           from queue.unique_keys u
           where u.kind = $1 and u.key = $2"#,
        PlanRoutes::KIND,
        key(job),
    )
    .fetch_optional(conn)
    .await?;
    Ok(match waits {
        None => Place::Free,
        Some(true) => Place::Waits,
        Some(false) => Place::HasRun,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_different_warehouses_are_planned_side_by_side() {
        let date = NaiveDate::from_ymd_opt(2026, 11, 23).expect("a day");
        let job = PlanRoutes {
            warehouse_id: WarehouseId::new(),
            date,
            bucket: 7,
            seconds: None,
        };
        let later = PlanRoutes {
            bucket: 8,
            ..job.clone()
        };
        let elsewhere = PlanRoutes {
            warehouse_id: WarehouseId::new(),
            ..job.clone()
        };
        assert_eq!(job.group(), later.group());
        assert_ne!(job.group(), elsewhere.group());
        assert_ne!(key(&job), key(&later));
        let thorough = PlanRoutes {
            seconds: Some(30),
            ..job.clone()
        };
        assert_eq!(job.group(), thorough.group());
        assert_ne!(key(&job), key(&thorough));
    }
}
