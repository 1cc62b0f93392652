//! What an operator does, each with a reason and a line in the audit.

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::fan_in;
use crate::finish;
use crate::job::JobId;

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
    /// Its unique key was taken by another job in the meantime.
    #[error("job {other} has taken the unique key of job {id}")]
    KeyTaken {
        /// The job that was to return.
        id: JobId,
        /// The one in its place.
        other: JobId,
    },
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
    let is_awaited = fan_in::count_again(&mut tx, id).await.map_err(|error| {
        let constraint = error.as_database_error().and_then(|refusal| refusal.constraint());
        match constraint {
            Some("sagas_do_not_turn_again") => Error::TurnedBack(id),
            _ => Error::Database(error),
        }
    })?;
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
                                   failures, redrives, trace_context, created_at, waiting, turn, awaited)
           select id, queue, kind, args_version, $2, priority, fence, attempts_max, unique_key, group_key,
                  nullif(report -> 'attempts', '[]'),
                  coalesce(report -> 'redrives', '[]') || jsonb_build_array(jsonb_build_object(
                      'by', $3::text, 'at', clock_timestamp(), 'edited_fields', $4::jsonb, 'reason', $5::text)),
                  trace_context, created_at, 'redriven by ' || $3, $6, nullif($7, false)
           from revived"#,
        id.0,
        args,
        actor,
        json!(edited_fields),
        reason,
        has_turn,
        is_awaited,
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
