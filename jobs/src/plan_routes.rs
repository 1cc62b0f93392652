//! Plans the routes of one warehouse's day. Running it twice is safe: a plan is published only if its shipments and
//! vehicles are still as they were read, as a whole new version, and not at all when nothing would change.
//!
//! Hundreds of orders a minute ask for the same day. They share one job: [`request`] cuts the database's time into
//! buckets of five seconds, one job each, due when its bucket is over. Nobody waits for a common row: who finds the
//! bucket's job there does nothing. An order that commits later than its bucket's job has read is found by
//! [`plan_due_routes`](crate::plan_due_routes) within a minute.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate};
use domain::Services;
use domain::ids::WarehouseId;
use domain::routes::plan::{self, Published, Snapshot, WhenStale};
use domain::routes::problem::Solution;
use domain::routes::solver::{self, Budget, Control, Progress};
use domain::routes::store::Day;
use domain::routes::{self, Haversine};
use queue::{Attempt, DeadLetter, Failure, Job, JobId, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;
use tokio::sync::Semaphore;

use crate::road_call;

/// How long orders gather before their day is planned.
const BUCKET_SECONDS: i64 = 5;
/// How much longer, for transactions that are still open when the bucket ends.
const MARGIN_SECONDS: i64 = 1;
/// How many buckets ahead a request looks for one whose job has not run yet.
const BUCKETS_AHEAD_MAX: i64 = 12;
/// How often a plan is computed anew because its input changed, before it is published for what did not.
const RECOMPUTED_MAX: usize = 3;
/// Searches at one time in one process: planning is the only work here that keeps a core busy.
const SEARCHES_MAX: usize = 1;
/// The longest search, whatever its budget.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(10);
/// Rounds of the search for each stop, and the most of all.
const ITERATIONS_PER_STOP: u64 = 200;
const ITERATIONS_MAX: u64 = 60_000;

static SEARCHES: Semaphore = Semaphore::const_new(SEARCHES_MAX);

/// Plans the routes of one warehouse's day.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanRoutes {
    /// Where they start.
    pub warehouse_id: WarehouseId,
    /// The day.
    pub date: NaiveDate,
    /// The five seconds it gathers the requests of, counted from 1970.
    pub bucket: i64,
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
        let source = Haversine::new(services.settings.road_factor, services.settings.speed_kmh);
        for round in 0..=RECOMPUTED_MAX {
            let mut reads = attempt.read().await?;
            let snapshot = plan::snapshot(&mut reads, day, source).await?;
            drop(reads);
            let Some(snapshot) = snapshot else {
                return move_on(attempt, day).await;
            };
            let snapshot = Arc::new(road_call::measured(attempt, &services.settings, snapshot).await?);
            let solution = search(attempt, Arc::clone(&snapshot)).await?;

            let when_stale = if round < RECOMPUTED_MAX {
                WhenStale::Refuse
            } else {
                WhenStale::PublishTheRest
            };
            let mut effects = attempt.begin().await?;
            match plan::publish(&mut effects, &snapshot, &solution, when_stale, &crate::cause(attempt)).await {
                Ok(Published::Stale) => continue,
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
        unreachable!("the last round publishes what it can")
    }

    async fn bury(&self, conn: &mut PgConnection, _letter: &DeadLetter, _services: &Services) -> anyhow::Result<()> {
        plan::give_up(conn, (self.warehouse_id, self.date)).await?;
        Ok(())
    }
}

fn key(job: &PlanRoutes) -> String {
    format!("plan:{}:{}:{}", job.warehouse_id, job.date, job.bucket)
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

/// Searches on a thread of its own, so that heartbeats and other jobs go on; ends early when the attempt does.
async fn search(attempt: &Attempt, snapshot: Arc<Snapshot>) -> anyhow::Result<Solution> {
    let _permit = SEARCHES.acquire().await?;
    let budget = Budget {
        iterations: (ITERATIONS_PER_STOP * snapshot.stops() as u64).min(ITERATIONS_MAX),
        seed: snapshot.seed(),
    };
    // A fifth of the time left is for storing what was found.
    let time = (attempt.time_left() / 5 * 4).min(SEARCH_TIME_MAX);
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let until = Until {
        deadline: Instant::now() + time,
        is_stopped: Arc::clone(&stop.0),
    };
    let mut searching = tokio::task::spawn_blocking(move || solver::solve(&snapshot.problem, &budget, &until));
    let found = tokio::select! {
        found = &mut searching => found,
        () = attempt.cancelled() => {
            stop.0.store(true, Ordering::Relaxed);
            searching.await
        }
    };
    Ok(found?)
}

/// An attempt that is dropped leaves no thread searching.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Until {
    deadline: Instant,
    is_stopped: Arc<AtomicBool>,
}

impl Control for Until {
    fn tick(&self, _: &Progress) -> ControlFlow<()> {
        if self.is_stopped.load(Ordering::Relaxed) || Instant::now() >= self.deadline {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
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
    }
}
