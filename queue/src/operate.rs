//! What an operator does, each with a reason and a line in the audit.

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::job::JobId;
use crate::{fan_in, finish, inspect};

/// What is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A line of jobs.
    Queue,
    /// A kind of job.
    Kind,
}

impl Target {
    fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Kind => "kind",
        }
    }
}

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such job, or it is not in a state for this.
    #[error("job {0} is not there or not in a state for this")]
    NotFound(JobId),
    /// The job has ended already.
    #[error("job {id} has ended: it is {state}")]
    Ended {
        /// The job.
        id: JobId,
        /// How: completed, discarded, cancelled or dead.
        state: String,
    },
    /// Its unique key was taken by another job in the meantime.
    #[error("job {other} has taken the unique key of job {id}")]
    KeyTaken {
        /// The job that was to return.
        id: JobId,
        /// The one in its place.
        other: JobId,
    },
    /// What was asked for makes no sense, in words.
    #[error("{0}")]
    Invalid(String),
    /// It is a step of a saga, whose earlier steps are being undone or already are.
    #[error("job {0} is a step of a saga that has turned back: begin the saga anew under another key")]
    TurnedBack(JobId),
    /// The database refused.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Stops claims of a queue or a kind; what runs goes on.
pub async fn pause(
    conn: &mut PgConnection,
    target: Target,
    name: &str,
    reason: &str,
    actor: &str,
) -> Result<(), Error> {
    let mut tx = conn.begin().await?;
    sqlx::query!(
        "insert into queue.pauses (target, name, reason, actor) values ($1, $2, $3, $4)
         on conflict (target, name) do update set reason = excluded.reason, actor = excluded.actor",
        target.as_str(),
        name,
        reason,
        actor,
    )
    .execute(&mut *tx)
    .await?;
    audit(
        &mut tx,
        actor,
        "pause",
        &format!("{} {name}", target.as_str()),
        json!({ "reason": reason }),
    )
    .await?;
    Ok(tx.commit().await?)
}

/// Ends a pause; false when there was none.
pub async fn resume(
    conn: &mut PgConnection,
    target: Target,
    name: &str,
    reason: &str,
    actor: &str,
) -> Result<bool, Error> {
    let mut tx = conn.begin().await?;
    let ended = sqlx::query!(
        "delete from queue.pauses where target = $1 and name = $2",
        target.as_str(),
        name
    )
    .execute(&mut *tx)
    .await?;
    if ended.rows_affected() == 0 {
        return Ok(false);
    }
    audit(
        &mut tx,
        actor,
        "resume",
        &format!("{} {name}", target.as_str()),
        json!({ "reason": reason }),
    )
    .await?;
    tx.commit().await?;
    Ok(true)
}

/// Changes how many jobs a pool runs at once in each process, from 1 to 8192; none gives each back what it was started with.
/// The processes read it within seconds; of too many running jobs none is stopped, but none is started either.
pub async fn set_slots(
    conn: &mut PgConnection,
    pool: &str,
    slots: Option<i32>,
    reason: &str,
    actor: &str,
) -> Result<(), Error> {
    let mut tx = conn.begin().await?;
    let before = sqlx::query_scalar!("select slots from queue.pool_settings where pool = $1 for update", pool)
        .fetch_optional(&mut *tx)
        .await?;
    match slots {
        Some(slots) => {
            sqlx::query!(
                "insert into queue.pool_settings (pool, slots, actor, reason) values ($1, $2, $3, $4)
                 on conflict (pool) do update
                 set slots = excluded.slots, actor = excluded.actor, reason = excluded.reason, changed_at = clock_timestamp()",
                pool,
                slots,
                actor,
                reason,
            )
            .execute(&mut *tx)
            .await?
        }
        None => {
            sqlx::query!("delete from queue.pool_settings where pool = $1", pool)
                .execute(&mut *tx)
                .await?
        }
    };
    let detail = json!({ "reason": reason, "before": before, "after": slots });
    audit(&mut tx, actor, "slots", &format!("pool {pool}"), detail).await?;
    Ok(tx.commit().await?)
}

/// Makes a dead letter a job again, with its id and keys and all its attempts; `edit` replaces the payload.
///
/// Of its group it goes before everything younger that has not started.
pub async fn redrive(
    conn: &mut PgConnection,
    id: JobId,
    actor: &str,
    reason: &str,
    edit: Option<Value>,
) -> Result<JobId, Error> {
    let mut tx = conn.begin().await?;
    let Some(letter) = sqlx::query!("select kind, args from queue.dead_letters where id = $1", id.0)
        .fetch_optional(&mut *tx)
        .await?
    else {
        return Err(Error::NotFound(id));
    };
    let redriven = sqlx::query!(
        r#"select taken_by, edited_fields as "edited_fields!" from queue.redrive(array[$1::bigint], array[$2::jsonb], $3, $4)"#,
        id.0,
        edit,
        actor,
        reason,
    )
    .fetch_optional(&mut *tx)
    .await
    .map_err(|error| {
        let constraint = error.as_database_error().and_then(|refusal| refusal.constraint());
        match constraint {
            Some("sagas_do_not_turn_again") => Error::TurnedBack(id),
            _ => Error::Database(error),
        }
    })?;
    let Some(redriven) = redriven else {
        return Err(Error::NotFound(id));
    };
    if let Some(other) = redriven.taken_by {
        return Err(Error::KeyTaken {
            id,
            other: JobId(other),
        });
    }
    let after = edit.unwrap_or_else(|| letter.args.clone());
    let detail = json!({ "reason": reason, "edited_fields": redriven.edited_fields, "kind": letter.kind, "before": letter.args, "after": after });
    audit(&mut tx, actor, "redrive", &format!("job {id}"), detail).await?;
    tx.commit().await?;
    Ok(id)
}

/// The same for several, in the caller's transaction and at once. Returns those that are jobs again: of the others there is no
/// dead letter any more, or another job has their key.
pub async fn redrive_each(
    conn: &mut PgConnection,
    ids: &[JobId],
    actor: &str,
    reason: &str,
) -> sqlx::Result<Vec<JobId>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let redriven = sqlx::query_scalar!(
        r#"with redriven as (
               select id, taken_by from queue.redrive($1, array_fill(null::jsonb, array[cardinality($1::bigint[])]), $2, $3)
           ), audited as (
               insert into queue.audit (actor, action, subject, detail)
               select $2, 'redrive', 'job ' || id, jsonb_build_object('reason', $3::text)
               from redriven where taken_by is null
           )
           select id as "id!" from redriven where taken_by is null"#,
        &ids,
        actor,
        reason,
    )
    .fetch_all(conn)
    .await?;
    Ok(redriven.into_iter().map(JobId).collect())
}

/// Gives up a dead letter or a waiting job for good.
pub async fn discard(conn: &mut PgConnection, id: JobId, actor: &str, reason: &str) -> Result<(), Error> {
    let mut tx = conn.begin().await?;
    fan_in::lock(&mut tx, id).await?;
    let result = json!({ "reason": reason, "by": actor });
    let ended = sqlx::query!(
        "with dead as (
             delete from queue.dead_letters where id = $1 returning *
         ), waiting as (
             delete from queue.jobs where id = $1 returning *
         ), freed as (
             delete from queue.unique_keys u using waiting w where u.job_id = w.id and u.scope = 'live'
         )
         insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, unique_key,
                                          group_key, result, failures, created_at)
         select id, queue, kind, args_version, args, 'discarded', fence, attempt, unique_key,
                group_key, $2::jsonb, coalesce(report -> 'attempts', '[]'), created_at
         from dead
         union all
         select id, queue, kind, args_version, args, 'discarded', fence, attempt, unique_key,
                group_key, $2, failures, created_at
         from waiting
         returning group_key",
        id.0,
        result,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(ended) = ended else {
        return Err(Error::NotFound(id));
    };
    if let Some(group_key) = ended.group_key {
        finish::pass_turns(&mut tx, &[group_key], &[id.0]).await?;
    }
    fan_in::tell(&mut tx, &[id], "discarded").await?;
    audit(
        &mut tx,
        actor,
        "discard",
        &format!("job {id}"),
        json!({ "reason": reason }),
    )
    .await?;
    Ok(tx.commit().await?)
}

/// What became of a wish to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The job waited, and has ended.
    Ended,
    /// The job runs: its worker learns of it within a second and drops the attempt, unless that ends before.
    Asked,
}

/// Ends a waiting job for good, and asks a running one to stop; a running one that completes or dies first has done so.
///
/// Nothing of the job's own runs: whoever cancels looks after what it was about.
pub async fn cancel(conn: &mut PgConnection, id: JobId, actor: &str, reason: &str) -> Result<Cancelled, Error> {
    // Between two looks a job may go from the line to a worker, or back.
    const LOOKS_MAX: usize = 5;
    let mut tx = conn.begin().await?;
    let mut found = None;
    for _ in 0..LOOKS_MAX {
        if end_waiting(&mut tx, id, actor, reason).await? {
            found = Some(Cancelled::Ended);
        } else if ask_to_stop(&mut tx, id, actor, reason).await? {
            found = Some(Cancelled::Asked);
        }
        if found.is_some() {
            break;
        }
    }
    let Some(found) = found else {
        let job = inspect::job(&mut tx, id).await?;
        return Err(job.map_or(Error::NotFound(id), |job| Error::Ended { id, state: job.state }));
    };
    let detail = json!({ "reason": reason, "was_running": found == Cancelled::Asked });
    audit(&mut tx, actor, "cancel", &format!("job {id}"), detail).await?;
    tx.commit().await?;
    Ok(found)
}

/// Moves a waiting job into the history as cancelled; false when it does not wait.
async fn end_waiting(conn: &mut PgConnection, id: JobId, actor: &str, reason: &str) -> sqlx::Result<bool> {
    fan_in::lock(conn, id).await?;
    let ended = sqlx::query!(
        "with waiting as (
             delete from queue.jobs where id = $1 returning *
         ), freed as (
             delete from queue.unique_keys u using waiting w where u.job_id = w.id and u.scope = 'live'
         ), settled as (
             delete from queue.cancels c using waiting w where c.job_id = w.id
         )
         insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, unique_key,
                                          group_key, result, failures, created_at)
         select id, queue, kind, args_version, args, 'cancelled', fence, attempt, unique_key,
                group_key, $2, failures, created_at
         from waiting
         returning group_key",
        id.0,
        json!({ "reason": reason, "by": actor }),
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(ended) = ended else { return Ok(false) };
    if let Some(group_key) = ended.group_key {
        finish::pass_turns(conn, &[group_key], &[id.0]).await?;
    }
    fan_in::tell(conn, &[id], "cancelled").await?;
    Ok(true)
}

/// Makes a waiting job due now, whatever it was put off for; false when it is due already. Limits, pauses and the turns of its
/// group still hold.
pub async fn run_now(conn: &mut PgConnection, id: JobId, actor: &str, reason: &str) -> Result<bool, Error> {
    let mut tx = conn.begin().await?;
    let found = sqlx::query!(
        r#"select queue, run_at, run_at > clock_timestamp() as "is_later!",
                  exists (select from queue.waiters w where w.job_id = j.id and w.pending > 0) as "is_waiter!"
           from queue.jobs j where id = $1
           for update"#,
        id.0
    )
    .fetch_optional(&mut *tx)
    .await?;
    let refusal = match &found {
        None => match inspect::job(&mut tx, id).await? {
            Some(job) if job.ended_at.is_some() => Some(Error::Ended { id, state: job.state }),
            _ => Some(Error::NotFound(id)),
        },
        Some(job) if job.is_waiter => Some(Error::Invalid(format!("job {id} waits for other jobs, not for a time"))),
        Some(_) => None,
    };
    let Some(job) = found.filter(|job| refusal.is_none() && job.is_later) else {
        // Lets the claims at it at once, and not only when the connection is used next.
        tx.rollback().await?;
        return refusal.map_or(Ok(false), Err);
    };
    sqlx::query!("update queue.jobs set run_at = clock_timestamp() where id = $1", id.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("select pg_notify('queue_jobs', $1)", job.queue)
        .execute(&mut *tx)
        .await?;
    let detail = json!({ "reason": reason, "was_due": job.run_at });
    audit(&mut tx, actor, "run now", &format!("job {id}"), detail).await?;
    tx.commit().await?;
    Ok(true)
}

/// Leaves a wish for the worker of a running job; false when it does not run.
async fn ask_to_stop(conn: &mut PgConnection, id: JobId, actor: &str, reason: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"with running as (
               select id from queue.running_jobs where id = $1
           ), asked as (
               insert into queue.cancels (job_id, actor, reason) select id, $2, $3 from running on conflict do nothing
           )
           select exists (select from running) as "runs!""#,
        id.0,
        actor,
        reason,
    )
    .fetch_one(conn)
    .await
}

/// Ends the jobs that were asked to stop and went back in line instead, and forgets the wishes for jobs that have ended.
pub async fn settle_cancels(pool: &sqlx::PgPool) -> sqlx::Result<()> {
    const AT_ONCE: i64 = 100;
    let wishes = sqlx::query!(
        "select job_id, actor, reason from queue.cancels order by at limit $1",
        AT_ONCE
    )
    .fetch_all(pool)
    .await?;
    if wishes.is_empty() {
        return Ok(());
    }
    for wish in wishes {
        let mut tx = pool.begin().await?;
        end_waiting(&mut tx, JobId(wish.job_id), &wish.actor, &wish.reason).await?;
        tx.commit().await?;
    }
    sqlx::query!(
        "delete from queue.cancels c
         where not exists (select from queue.jobs j where j.id = c.job_id)
           and not exists (select from queue.running_jobs r where r.id = c.job_id)"
    )
    .execute(pool)
    .await?;
    Ok(())
}

pub(crate) async fn audit(
    conn: &mut PgConnection,
    actor: &str,
    action: &str,
    subject: &str,
    detail: Value,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into queue.audit (actor, action, subject, detail) values ($1, $2, $3, $4)",
        actor,
        action,
        subject,
        detail,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes the partitions of the days ahead; returns how many are new.
pub async fn ensure_partitions(pool: &sqlx::PgPool) -> sqlx::Result<i32> {
    sqlx::query_scalar!(r#"select queue.ensure_partitions() as "made!""#)
        .fetch_one(pool)
        .await
}

/// Passes on the turns of groups whose last job ended while somebody was enqueueing; there are hardly ever any.
pub async fn fill_vacant_turns(pool: &sqlx::PgPool) -> sqlx::Result<()> {
    sqlx::query!(
        "select queue.pass_turns(array(select group_key from queue.turns where vacant order by group_key limit 1000))
         where exists (select from queue.turns where vacant)"
    )
    .execute(pool)
    .await?;
    Ok(())
}
