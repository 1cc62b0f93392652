//! Steps that are undone in reverse when a later one fails.
//!
//! A saga is a list of jobs, each with the job that undoes it, if there is one; all of it is stored when the saga begins. The next
//! step is enqueued in the transaction that completes the one before. When a step dies, or is discarded or cancelled, the
//! compensations of the completed steps are enqueued, the latest first, each in the transaction that completes the one before. So
//! there is never a moment at which nobody knows what comes next, and nothing is enqueued twice.
//!
//! A saga ends *completed*, *compensated*, or with its *compensation failed*: a compensation is dead. Redriven, it goes on from there;
//! discarded, the others go on without it. The failed step itself is its own to clean up, by its `bury`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use crate::enqueue::{Error, Payload, payload};
use crate::job::{Job, JobId};

/// How many steps a saga may have.
pub const STEPS_MAX: usize = 100;

/// The steps of a saga, in order.
#[derive(Debug, Default)]
pub struct Steps {
    jobs: Vec<Stored>,
    count: usize,
    refusal: Option<Error>,
}

/// A job that is not enqueued yet.
#[derive(Debug)]
struct Stored {
    step: i32,
    is_undo: bool,
    queue: &'static str,
    kind: &'static str,
    version: i16,
    args: Payload,
    priority: i16,
    attempts_max: i32,
    deadline_secs: Option<f64>,
}

impl Steps {
    /// No step yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One step more; nothing undoes it.
    #[must_use]
    pub fn step<J: Job>(mut self, job: &J) -> Self {
        self.count += 1;
        self.store(job, false);
        self
    }

    /// One step more, and the job that undoes it.
    #[must_use]
    pub fn step_with_undo<J: Job, U: Job>(self, job: &J, undo: &U) -> Self {
        let mut steps = self.step(job);
        steps.store(undo, true);
        steps
    }

    fn store<J: Job>(&mut self, job: &J, is_undo: bool) {
        if job.group().is_some() {
            self.refusal.get_or_insert(Error::GroupWaits { kind: J::KIND });
            return;
        }
        match payload(job) {
            Ok(args) => self.jobs.push(Stored {
                step: i32::try_from(self.count).unwrap_or(i32::MAX),
                is_undo,
                queue: J::QUEUE,
                kind: J::KIND,
                version: J::VERSION,
                args,
                priority: J::PRIORITY,
                attempts_max: J::RETRY.attempts_max,
                deadline_secs: J::deadline_after().map(|deadline| deadline.as_secs_f64()),
            }),
            Err(error) => _ = self.refusal.get_or_insert(error),
        }
    }
}

/// What became of a wish to begin a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The saga, or the one that already has the name and key.
    pub id: i64,
    /// Whether it is new.
    pub is_new: bool,
}

/// Begins a saga in the caller's transaction: its first step is due at once. There is one for each name and key; another wish
/// returns it and writes nothing. From 1 to [`STEPS_MAX`] steps; kinds with a group are refused, and unique keys of steps do not
/// count: the key of the saga does.
pub async fn begin(conn: &mut PgConnection, name: &str, key: &str, steps: Steps) -> Result<Begun, Error> {
    if let Some(refusal) = steps.refusal {
        return Err(refusal);
    }
    if steps.count == 0 || steps.count > STEPS_MAX {
        return Err(Error::Steps(steps.count));
    }
    let begun = sqlx::query_scalar!(
        "insert into queue.sagas (name, key) values ($1, $2) on conflict do nothing returning id",
        name,
        key,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(id) = begun else {
        let id = sqlx::query_scalar!("select id from queue.sagas where name = $1 and key = $2", name, key)
            .fetch_one(conn)
            .await?;
        return Ok(Begun { id, is_new: false });
    };
    for job in &steps.jobs {
        sqlx::query!(
            "insert into queue.saga_jobs (saga_id, step, undo, queue, kind, args_version, args, priority, attempts_max,
                                          deadline_after)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, make_interval(secs => $10))",
            id,
            job.step,
            job.is_undo,
            job.queue,
            job.kind,
            job.version,
            &job.args as _,
            job.priority,
            job.attempts_max,
            job.deadline_secs,
        )
        .execute(&mut *conn)
        .await?;
    }
    sqlx::query!(
        "select queue.enqueue_saga_job(id) from queue.saga_jobs where saga_id = $1 and step = 1 and not undo",
        id
    )
    .fetch_one(conn)
    .await?;
    Ok(Begun { id, is_new: true })
}

/// Which sagas to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct SagaFilter {
    /// Only of this name.
    pub name: Option<String>,
    /// Only about this.
    pub key: Option<String>,
    /// Only in this state.
    pub state: Option<String>,
    /// Only older than this one: the last of the page before.
    pub before: Option<i64>,
    /// At most so many; 0 means 100.
    pub limit: i64,
}

/// A saga in a list.
#[derive(Clone, Debug, Serialize)]
pub struct SagaLine {
    /// Its number.
    pub id: i64,
    /// What sort it is.
    pub name: String,
    /// What it is about.
    pub key: String,
    /// running, compensating, completed, compensated or compensation_failed.
    pub state: String,
    /// How many steps it has.
    pub steps: i32,
    /// How many of them have completed, undone since or not.
    pub steps_completed: i32,
    /// The step that did not complete.
    pub failed_step: Option<i32>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// The states a saga can be in.
pub const STATES: [&str; 5] = [
    "running",
    "compensating",
    "completed",
    "compensated",
    "compensation_failed",
];

/// Sagas, newest first; those that ended more than thirty days ago are forgotten.
pub async fn sagas(conn: &mut PgConnection, filter: &SagaFilter) -> sqlx::Result<Vec<SagaLine>> {
    sqlx::query_as!(
        SagaLine,
        r#"select s.id, s.name, s.key, s.state, j.steps as "steps!", j.steps_completed as "steps_completed!", s.failed_step,
                  s.created_at, s.ended_at
           from queue.sagas s
           cross join lateral (
               select count(*)::int as steps, (count(*) filter (where outcome = 'completed'))::int as steps_completed
               from queue.saga_jobs
               where saga_id = s.id and not undo
           ) j
           where ($1::text is null or s.name = $1)
             and ($2::text is null or s.key = $2)
             and ($3::text is null or s.state = $3)
             and ($4::bigint is null or s.id < $4)
           order by s.id desc
           limit $5"#,
        filter.name,
        filter.key,
        filter.state,
        filter.before,
        if filter.limit == 0 { 100 } else { filter.limit },
    )
    .fetch_all(conn)
    .await
}

/// A saga with its jobs.
#[derive(Clone, Debug, Serialize)]
pub struct Saga {
    /// Its number.
    pub id: i64,
    /// What sort it is.
    pub name: String,
    /// What it is about.
    pub key: String,
    /// running, compensating, completed, compensated or compensation_failed.
    pub state: String,
    /// The step that did not complete.
    pub failed_step: Option<i32>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Its jobs, steps first.
    pub jobs: Vec<SagaJob>,
}

/// A job of a saga.
#[derive(Clone, Debug, Serialize)]
pub struct SagaJob {
    /// The number of the step, from 1.
    pub step: i32,
    /// Whether it undoes the step.
    pub undo: bool,
    /// Its kind.
    pub kind: String,
    /// The job, once it is enqueued.
    pub job_id: Option<JobId>,
    /// How it ended, once it has.
    pub outcome: Option<String>,
}

/// One saga with its jobs; none when there is no such saga, or it ended more than thirty days ago.
pub async fn saga(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<Saga>> {
    let Some(row) = sqlx::query!("select * from queue.sagas where id = $1", id)
        .fetch_optional(&mut *conn)
        .await?
    else {
        return Ok(None);
    };
    let jobs = sqlx::query_as!(
        SagaJob,
        r#"select step, undo, kind, job_id as "job_id: JobId", outcome
           from queue.saga_jobs where saga_id = $1 order by undo, step"#,
        id,
    )
    .fetch_all(conn)
    .await?;
    Ok(Some(Saga {
        id,
        name: row.name,
        key: row.key,
        state: row.state,
        failed_step: row.failed_step,
        created_at: row.created_at,
        ended_at: row.ended_at,
        jobs,
    }))
}

/// Forgets sagas that ended more than thirty days ago, at most a thousand; returns how many. One whose compensation failed is kept
/// for somebody to look at.
pub async fn prune(conn: &mut PgConnection) -> sqlx::Result<u64> {
    let pruned = sqlx::query!(
        "delete from queue.sagas
         where id = any(array(
             select id from queue.sagas
             where ended_at < clock_timestamp() - interval '30 days' and state <> 'compensation_failed'
             order by ended_at limit 1000))"
    )
    .execute(conn)
    .await?;
    Ok(pruned.rows_affected())
}
