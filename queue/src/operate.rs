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
