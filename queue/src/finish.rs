//! The ways out of an attempt. Every statement names the job, the fence and the worker, so a late one changes nothing:
//! a worker id on the row means that it is running (a check says so), and the primary key finds it.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use crate::failure::Failure;
use crate::job::{DeadLetter, JobId};

/// What a writer must hold.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The job.
    pub job_id: JobId,
    /// The fence of the claim.
    pub fence: i64,
    /// The worker that claimed it.
    pub worker_id: i64,
}

/// Moves the job into the history and frees its live key; false when it is no longer held.
pub async fn complete(conn: &mut PgConnection, held: Held, result: Option<Value>) -> sqlx::Result<bool> {
    end(conn, held, "completed", result).await
}

/// Completes many jobs of one worker that have nothing else to write; returns those that were still held.
pub async fn complete_many(pool: &PgPool, held: &[Held]) -> sqlx::Result<Vec<JobId>> {
    let ids: Vec<i64> = held.iter().map(|held| held.job_id.0).collect();
    let fences: Vec<i64> = held.iter().map(|held| held.fence).collect();
    let workers: Vec<i64> = held.iter().map(|held| held.worker_id).collect();
    sqlx::query_scalar!(
        r#"with done as (
               delete from queue.jobs j
               where j.id = any($1)
                 and j.fence = ($2::bigint[])[array_position($1, j.id)]
                 and j.worker_id = ($3::bigint[])[array_position($1, j.id)]
               returning *
           ), freed as (
               delete from queue.unique_keys u
               where u.job_id in (select id from done where unique_key is not null) and u.scope = 'live'
           )
           insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, unique_key,
                                            group_key, worker_id, failures, created_at, claimed_at)
           select id, queue, kind, args_version, args, 'completed', fence, attempt, unique_key,
                  group_key, worker_id, failures, created_at, claimed_at
           from done
           returning id as "id: JobId""#,
        &ids,
        &fences,
        &workers,
    )
    .fetch_all(pool)
    .await
}

/// Ends the job for good without its work, for the reason given.
pub async fn discard(conn: &mut PgConnection, held: Held, reason: &str) -> sqlx::Result<bool> {
    end(conn, held, "discarded", Some(json!({ "reason": reason }))).await
}

async fn end(conn: &mut PgConnection, held: Held, state: &str, result: Option<Value>) -> sqlx::Result<bool> {
    let moved = sqlx::query!(
        "with done as (
             delete from queue.jobs where id = $1 and fence = $2 and worker_id = $3 returning *
         ), freed as (
             delete from queue.unique_keys u
             where u.job_id = (select id from done where unique_key is not null) and u.scope = 'live'
         )
         insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, unique_key,
                                          group_key, worker_id, result, failures, created_at, claimed_at)
         select id, queue, kind, args_version, args, $4, fence, attempt, unique_key,
                group_key, worker_id, $5, failures, created_at, claimed_at
         from done",
        held.job_id.0,
        held.fence,
        held.worker_id,
        state,
        result,
    )
    .execute(conn)
    .await?;
    Ok(moved.rows_affected() == 1)
}

/// Whether the job was completed under this fence.
pub async fn is_completed(pool: &PgPool, held: Held) -> sqlx::Result<bool> {
    let found = sqlx::query_scalar!(
        "select id from queue.finished_jobs where id = $1 and fence = $2 limit 1",
        held.job_id.0,
        held.fence
    )
    .fetch_optional(pool)
    .await?;
    Ok(found.is_some())
}

/// Whether the job is still held.
pub async fn is_held(pool: &PgPool, held: Held) -> sqlx::Result<bool> {
    let found = sqlx::query_scalar!(
        "select id from queue.jobs where id = $1 and fence = $2 and worker_id = $3",
        held.job_id.0,
        held.fence,
        held.worker_id,
    )
    .fetch_optional(pool)
    .await?;
    Ok(found.is_some())
}

/// A failed attempt: remembered, and tried again after the wait, but not after the deadline, where the job is buried.
pub async fn retry(
    conn: &mut PgConnection,
    held: Held,
    wait: Duration,
    waiting: &str,
    failure: &Value,
) -> sqlx::Result<bool> {
    const FAILURES_KEPT: i32 = 50;
    let written = sqlx::query!(
        "update queue.jobs
         set state = 'available', worker_id = null, claimed_at = null, suspect = false, waiting = $5,
             run_at = least(clock_timestamp() + make_interval(secs => $4), deadline_at),
             -- The first failure says how it began, the last ones how it goes on.
             failures = case when jsonb_array_length(failures) >= $7 then failures - 1 else failures end
                        || jsonb_set($6, '{finished}', to_jsonb(clock_timestamp()))
         where id = $1 and fence = $2 and worker_id = $3",
        held.job_id.0,
        held.fence,
        held.worker_id,
        wait.as_secs_f64(),
        waiting,
        failure,
        FAILURES_KEPT,
    )
    .execute(conn)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// Later, and the try is given back: snoozed, throttled, the kind paused, or trouble with the database.
pub async fn postpone(conn: &mut PgConnection, held: Held, wait: Duration, waiting: &str) -> sqlx::Result<bool> {
    let written = sqlx::query!(
        "update queue.jobs
         set state = 'available', worker_id = null, claimed_at = null, suspect = false, attempt = attempt - 1,
             run_at = clock_timestamp() + make_interval(secs => $4), waiting = $5
         where id = $1 and fence = $2 and worker_id = $3",
        held.job_id.0,
        held.fence,
        held.worker_id,
        wait.as_secs_f64(),
        waiting,
    )
    .execute(conn)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// Untouched, and back to its place in line with its try: the worker stops.
pub async fn hand_back(pool: &PgPool, held: Held) -> sqlx::Result<bool> {
    let written = sqlx::query!(
        "update queue.jobs
         set state = 'available', worker_id = null, claimed_at = null, attempt = attempt - 1,
             waiting = 'its worker stopped and handed it back'
         where id = $1 and fence = $2 and worker_id = $3",
        held.job_id.0,
        held.fence,
        held.worker_id,
    )
    .execute(pool)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// All that a stopping worker still holds.
pub async fn hand_back_all(pool: &PgPool, worker_id: i64) -> sqlx::Result<u64> {
    let written = sqlx::query!(
        "update queue.jobs
         set state = 'available', worker_id = null, claimed_at = null, attempt = attempt - 1,
             waiting = 'its worker stopped and handed it back'
         where worker_id = $1 and state = 'running'",
        worker_id,
    )
    .execute(pool)
    .await?;
    Ok(written.rows_affected())
}

/// Jobs of a queue that the worker holds by the table but not in its hands: the answer to their claim was lost.
pub async fn hand_back_strays(pool: &PgPool, worker_id: i64, queue: &str, in_hand: &[i64]) -> sqlx::Result<u64> {
    let written = sqlx::query!(
        "update queue.jobs
         set state = 'available', worker_id = null, claimed_at = null, attempt = attempt - 1,
             waiting = 'the answer to its claim was lost'
         where worker_id = $1 and state = 'running' and queue = $2 and id <> all($3)",
        worker_id,
        queue,
        in_hand,
    )
    .execute(pool)
    .await?;
    Ok(written.rows_affected())
}

/// Pauses a kind because of what one of its jobs met; an earlier pause stays as it is.
pub async fn pause_kind(conn: &mut PgConnection, kind: &str, reason: &str, held: Held) -> sqlx::Result<()> {
    let actor = format!("job {}", held.job_id);
    let paused = sqlx::query!(
        "insert into queue.pauses (target, name, reason, actor) values ('kind', $1, $2, $3) on conflict do nothing",
        kind,
        reason,
        actor,
    )
    .execute(&mut *conn)
    .await?;
    if paused.rows_affected() == 1 {
        sqlx::query!(
            "insert into queue.audit (actor, action, subject, detail) values ($1, 'pause', $2, $3)",
            actor,
            format!("kind {kind}"),
            json!({ "reason": reason }),
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// What the report of a dead letter is made from.
pub(crate) struct Corpse {
    pub(crate) args: Value,
    args_version: i16,
    unique_key: Option<String>,
    group_key: Option<String>,
    failures: Value,
    redrives: Value,
    trace_context: Option<String>,
    last_id: i64,
    now: chrono::DateTime<chrono::Utc>,
}

/// Locks the job for its burial; none when it is no longer held.
pub(crate) async fn lock(conn: &mut PgConnection, held: Held) -> sqlx::Result<Option<Corpse>> {
    sqlx::query_as!(
        Corpse,
        r#"select args, args_version, unique_key, group_key, failures, redrives, trace_context,
                  (select last_value from queue.jobs_id_seq) as "last_id!", clock_timestamp() as "now!"
           from queue.jobs where id = $1 and fence = $2 and worker_id = $3 for update"#,
        held.job_id.0,
        held.fence,
        held.worker_id,
    )
    .fetch_optional(conn)
    .await
}

/// Moves the job to the dead letters with the report that explains it; its hook has run in the same transaction.
pub(crate) async fn bury(
    conn: &mut PgConnection,
    held: Held,
    letter: &DeadLetter,
    corpse: &Corpse,
    last_failure: Option<Value>,
) -> sqlx::Result<bool> {
    let compensation = sqlx::query_scalar!(
        "select id from queue.jobs where id > $1 and xmin = pg_current_xact_id()::xid order by id limit 100",
        corpse.last_id,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut attempts = corpse.failures.clone();
    if let (Some(list), Some(mut last)) = (attempts.as_array_mut(), last_failure) {
        last["finished"] = json!(corpse.now);
        list.push(last);
    }
    let report = json!({
        "kind": letter.kind,
        "args_version": corpse.args_version,
        "args": redacted(&corpse.args),
        "unique_key": corpse.unique_key,
        "group_key": corpse.group_key,
        "refs": refs(&corpse.args),
        "reason": letter.reason,
        "error_class": letter.class.as_str(),
        "error_code": letter.code,
        "message": letter.message,
        "first_failed_at": attempts.get(0).map_or(json!(corpse.now), |first| first["finished"].clone()),
        "attempts": attempts,
        "dead_at": corpse.now,
        "compensation": {
            "state": if compensation.is_empty() { "none" } else { "enqueued" },
            "job_ids": compensation,
        },
        "trace_id": corpse.trace_context,
        "redrives": corpse.redrives,
    });
    let moved = sqlx::query!(
        "with dead as (
             delete from queue.jobs where id = $1 and fence = $2 and worker_id = $3 returning *
         ), freed as (
             delete from queue.unique_keys u
             where u.job_id = (select id from dead where unique_key is not null) and u.scope = 'live'
         )
         insert into queue.dead_letters (id, queue, kind, args_version, args, priority, fence, attempt, attempts_max,
                                         unique_key, group_key, reason, error_class, error_code, message, report,
                                         trace_context, created_at)
         select id, queue, kind, args_version, args, priority, fence, attempt, attempts_max,
                unique_key, group_key, $4, $5, $6, $7, $8, trace_context, created_at
         from dead",
        held.job_id.0,
        held.fence,
        held.worker_id,
        letter.reason,
        letter.class.as_str(),
        letter.code,
        letter.message,
        report,
    )
    .execute(conn)
    .await?;
    Ok(moved.rows_affected() == 1)
}

/// One failed attempt as the failures of a job and the report remember it.
pub(crate) fn failure_record(claimed: &crate::claim::Claimed, build: &str, failure: &Failure) -> Value {
    json!({
        "n": claimed.attempt,
        "worker": claimed.worker_id,
        "build": build,
        "fence": claimed.fence,
        "started": claimed.claimed_at,
        "finished": null,
        "class": failure.class.as_str(),
        "code": failure.code,
        "message": failure.message,
        "http": failure.http,
    })
}

/// What the payload points at: its ids, under the names of the things.
fn refs(args: &Value) -> Value {
    let Some(fields) = args.as_object() else {
        return json!({});
    };
    fields
        .iter()
        .filter_map(|(name, value)| Some((name.strip_suffix("_id")?.to_owned(), value.clone())))
        .collect()
}

/// A payload without what must not be read: payloads hold ids, so this is a second net.
fn redacted(args: &Value) -> Value {
    const SECRET: [&str; 4] = ["secret", "password", "token", "authorization"];
    match args {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let is_secret = SECRET.iter().any(|word| name.to_ascii_lowercase().contains(word));
                (
                    name.clone(),
                    if is_secret {
                        json!("[redacted]")
                    } else {
                        redacted(value)
                    },
                )
            })
            .collect(),
        Value::Array(items) => items.iter().map(redacted).collect(),
        other => other.clone(),
    }
}
