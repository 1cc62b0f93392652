//! A job that is due when others have ended (fan-in).
//!
//! The *waiter* is enqueued with the set of its *members*, and stands out of line until the last of them has ended, however it
//! ended. A member has a mark, so whoever ends it tells its waiters in the same transaction, and jobs that nobody waits for
//! pay nothing. What could not be marked, because it was already in a worker's hands, is found by [`sweep`]. A dead letter is
//! an end; when it is redriven, its job counts again for waiters that still wait for others, and for nobody else.
//!
//! Members are older than their waiter, so nothing can wait in a circle. A waiter may itself be a member.

use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::enqueue::{Enqueued, Error, payload};
use crate::job::{Job, JobId};

/// How many jobs one job may wait for.
pub const MEMBERS_MAX: usize = 10_000;

/// What becomes of a waiter when a member was discarded or cancelled, or died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It runs all the same; [`members`] tells it how each one ended.
    Run,
    /// It is buried for `cancelled_parent`, by its own `bury`, once the last member has ended. Whoever redrives it means it to run.
    Bury,
}

impl OnFailure {
    fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Bury => "bury",
        }
    }
}

/// Enqueues a job that is due when all of `members` have ended: at once when there are none.
///
/// Members are committed, or enqueued in this transaction; at most [`MEMBERS_MAX`]. A kind with a group is refused, and a unique
/// key that is taken returns the job that has it, which waits for what it waited for.
pub async fn enqueue_after_all<J: Job>(
    conn: &mut PgConnection,
    job: &J,
    members: &[JobId],
    on_failure: OnFailure,
) -> Result<Enqueued, Error> {
    if job.group().is_some() {
        return Err(Error::GroupWaits { kind: J::KIND });
    }
    if members.len() > MEMBERS_MAX {
        return Err(Error::TooManyMembers(members.len()));
    }
    let args = payload(job)?;
    let unique = job.unique();
    let members: Vec<i64> = members.iter().map(|member| member.0).collect();
    let row = sqlx::query!(
        r#"select e.job_id as "id!", e.is_new as "is_new!"
           from queue.enqueue_after_all($1, $2, $3, $4, $5, $6, $7, $8, $9, make_interval(secs => $10), $11) e"#,
        &members,
        J::QUEUE,
        J::KIND,
        args as _,
        on_failure.as_str(),
        unique.as_ref().map(|unique| unique.key.as_str()),
        unique.as_ref().map_or("kept", |unique| unique.scope),
        i32::from(J::PRIORITY),
        J::RETRY.attempts_max,
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
        i32::from(J::VERSION),
    )
    .fetch_one(conn)
    .await
    .map_err(|error| match error.as_database_error() {
        Some(refusal) if refusal.constraint() == Some("members_are_jobs") => {
            Error::NotAJob(refusal.message().to_owned())
        }
        _ => Error::Database(error),
    })?;
    if row.is_new {
        metrics::counter!(crate::metric::ENQUEUED, "kind" => J::KIND).increment(1);
    }
    Ok(Enqueued {
        id: JobId(row.id),
        is_new: row.is_new,
    })
}

/// A job that a waiter waits for, or waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// The job.
    pub id: JobId,
    /// completed, discarded, cancelled, dead, or forgotten when nothing is left to tell; none while it has not ended.
    pub outcome: Option<String>,
    /// What it left behind, as long as the history has it.
    pub result: Option<Value>,
}

/// The members of a waiter in the order of their ids, `limit` of them after the one given; empty for a job that waited for none,
/// and when the waiter has ended.
pub async fn members(
    conn: &mut PgConnection,
    waiter: JobId,
    after: Option<JobId>,
    limit: i64,
) -> sqlx::Result<Vec<Member>> {
    sqlx::query_as!(
        Member,
        r#"select m.member_id as "id: JobId", m.outcome,
                  (select f.result from queue.finished_jobs f where f.id = m.member_id limit 1) as result
           from queue.waiter_members m
           where m.waiter_id = $1 and m.member_id > $2
           order by m.member_id
           limit $3"#,
        waiter.0,
        after.map_or(0, |after| after.0),
        limit.clamp(0, MEMBERS_MAX as i64),
    )
    .fetch_all(conn)
    .await
}

/// A waiter at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiter {
    /// run or bury: what becomes of it when a member did not complete.
    pub on_failure: String,
    /// How many members it has.
    pub members: i64,
    /// How many of them have not ended.
    pub pending: i32,
    /// How many died, were discarded or were cancelled.
    pub failed: i32,
    /// The first ten of those it still waits for.
    pub waits_for: Vec<i64>,
}

/// What a job waits or waited for; none for a job that waited for none, and when it has ended.
pub async fn waiter(conn: &mut PgConnection, job: JobId) -> sqlx::Result<Option<Waiter>> {
    sqlx::query_as!(
        Waiter,
        r#"select w.on_failure, w.pending, w.failed,
                  (select count(*) from queue.waiter_members m where m.waiter_id = w.job_id) as "members!",
                  array(select m.member_id from queue.waiter_members m
                        where m.waiter_id = w.job_id and m.outcome is null
                        order by m.member_id limit 10) as "waits_for!"
           from queue.waiters w
           where w.job_id = $1"#,
        job.0,
    )
    .fetch_optional(conn)
    .await
}

/// Looks after members that could not be marked; `is_thorough` looks at every one, in case a worker of a build that knows no
/// waiters has ended some. Returns how many had ended.
pub async fn sweep(pool: &PgPool, is_thorough: bool) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select queue.sweep_waiters($1) as "ended!""#, is_thorough)
        .fetch_one(pool)
        .await
}

/// Why a waiter whose members have ended must not run: in words, none when it may.
pub(crate) async fn refusal(pool: &PgPool, job: JobId) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"select w.failed || ' of the jobs it waited for did not complete, the first of them ' || (
                      select m.member_id || ' (' || m.outcome || ')' from queue.waiter_members m
                      where m.waiter_id = w.job_id and m.outcome in ('discarded', 'cancelled', 'dead')
                      order by m.member_id limit 1) as "why!"
           from queue.waiters w
           where w.job_id = $1 and w.on_failure = 'bury' and w.failed > 0"#,
        job.0,
    )
    .fetch_optional(pool)
    .await
}

/// Which of these jobs must not run.
pub(crate) async fn refused(pool: &PgPool, jobs: &[JobId]) -> sqlx::Result<Vec<JobId>> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    sqlx::query_scalar!(
        r#"select job_id as "id: JobId" from queue.waiters where job_id = any($1) and on_failure = 'bury' and failed > 0"#,
        &ids,
    )
    .fetch_all(pool)
    .await
}

/// These jobs end so, in this transaction: tells their waiters.
pub(crate) async fn tell(conn: &mut PgConnection, jobs: &[JobId], outcome: &str) -> sqlx::Result<()> {
    let ids: Vec<i64> = jobs.iter().map(|job| job.0).collect();
    let outcomes = vec![outcome.to_owned(); ids.len()];
    sqlx::query!("select queue.tell_waiters($1, $2)", &ids, &outcomes)
        .execute(conn)
        .await?;
    Ok(())
}

/// Locks a waiter before its job, as whoever releases it does.
pub(crate) async fn lock(conn: &mut PgConnection, job: JobId) -> sqlx::Result<()> {
    sqlx::query!("select from queue.waiters where job_id = $1 for update", job.0)
        .execute(conn)
        .await?;
    Ok(())
}
