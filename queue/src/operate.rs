//! What an operator does, each with a reason and a line in the audit.

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::job::JobId;
use crate::{finish, inspect};

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

/// Pauses a line of the timetable, or ends the pause; false when there is no such line.
pub async fn pause_schedule(
    conn: &mut PgConnection,
    name: &str,
    is_paused: bool,
    reason: &str,
    actor: &str,
) -> Result<bool, Error> {
    let mut tx = conn.begin().await?;
    let changed = sqlx::query!(
        "update queue.schedules set paused = $2 where name = $1",
        name,
        is_paused
    )
    .execute(&mut *tx)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(false);
    }
    let action = if is_paused { "pause" } else { "resume" };
    audit(
        &mut tx,
        actor,
        action,
        &format!("schedule {name}"),
        json!({ "reason": reason }),
    )
    .await?;
    tx.commit().await?;
    Ok(true)
}

/// Makes a dead letter a job again, with its id and keys and all its attempts; `edit` replaces the payload.
pub async fn redrive(
    conn: &mut PgConnection,
    id: JobId,
    actor: &str,
    reason: &str,
    edit: Option<Value>,
) -> Result<JobId, Error> {
    let mut tx = conn.begin().await?;
    let Some(letter) = sqlx::query!("select * from queue.dead_letters where id = $1 for update", id.0)
        .fetch_optional(&mut *tx)
        .await?
    else {
        return Err(Error::NotFound(id));
    };
    if let Some(key) = &letter.unique_key {
        reclaim_key(&mut tx, id, &letter.kind, key).await?;
    }
    let has_turn = match &letter.group_key {
        Some(group_key) => take_turn(&mut tx, id, group_key).await?,
        None => true,
    };
    let edited_fields = edit
        .as_ref()
        .map(|edit| changed_fields(&letter.args, edit))
        .unwrap_or_default();
    let args = edit.unwrap_or_else(|| letter.args.clone());
    sqlx::query!(
        r#"with revived as (
               delete from queue.dead_letters where id = $1 returning *
           )
           insert into queue.jobs (id, queue, kind, args_version, args, priority, fence, attempts_max, unique_key, group_key,
                                   failures, redrives, trace_context, created_at, waiting, turn)
           select id, queue, kind, args_version, $2, priority, fence, attempts_max, unique_key, group_key,
                  nullif(report -> 'attempts', '[]'),
                  coalesce(report -> 'redrives', '[]') || jsonb_build_array(jsonb_build_object(
                      'by', $3::text, 'at', clock_timestamp(), 'edited_fields', $4::jsonb, 'reason', $5::text)),
                  trace_context, created_at, 'redriven by ' || $3, $6
           from revived"#,
        id.0,
        args,
        actor,
        json!(edited_fields),
        reason,
        has_turn,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("select pg_notify('queue_jobs', $1)", letter.queue)
        .execute(&mut *tx)
        .await?;
    let detail = json!({ "reason": reason, "edited_fields": edited_fields, "kind": letter.kind, "before": letter.args, "after": args });
    audit(&mut tx, actor, "redrive", &format!("job {id}"), detail).await?;
    tx.commit().await?;
    Ok(id)
}

/// Gives up a dead letter or a waiting job for good.
pub async fn discard(conn: &mut PgConnection, id: JobId, actor: &str, reason: &str) -> Result<(), Error> {
    let mut tx = conn.begin().await?;
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

/// A live key was freed when the job died: another may have it by now. A kept one never left.
async fn reclaim_key(conn: &mut PgConnection, id: JobId, kind: &str, key: &str) -> Result<(), Error> {
    let owner = sqlx::query_scalar!(
        r#"with ours as (
               insert into queue.unique_keys (kind, key, job_id, scope) values ($1, $2, $3, 'live')
               on conflict do nothing returning job_id
           )
           select job_id as "job_id!" from ours
           union all
           select job_id from queue.unique_keys where kind = $1 and key = $2"#,
        kind,
        key,
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    match owner {
        Some(owner) if owner != id.0 => Err(Error::KeyTaken {
            id,
            other: JobId(owner),
        }),
        _ => Ok(()),
    }
}

/// A job that returns to its group is the next one there, or the one, if nobody else is.
async fn take_turn(conn: &mut PgConnection, id: JobId, group_key: &str) -> sqlx::Result<bool> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 7))", group_key)
        .execute(&mut *conn)
        .await?;
    let taken = sqlx::query!(
        "insert into queue.turns as t (group_key, holder) values ($1, $2)
         on conflict (group_key) do update set vacant = false where t.holder = excluded.holder",
        group_key,
        id.0,
    )
    .execute(conn)
    .await?;
    Ok(taken.rows_affected() == 1)
}

async fn audit(conn: &mut PgConnection, actor: &str, action: &str, subject: &str, detail: Value) -> sqlx::Result<()> {
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

/// The names of the fields that an edit adds, changes or takes away.
fn changed_fields(before: &Value, after: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let (before, after) = (
        before.as_object().unwrap_or(&empty),
        after.as_object().unwrap_or(&empty),
    );
    let mut names: Vec<String> = before
        .keys()
        .chain(after.keys())
        .filter(|name| before.get(*name) != after.get(*name))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
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
