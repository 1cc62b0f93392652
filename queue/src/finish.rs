//! The ways out of an attempt. Each begins by taking the job out of its claim, which succeeds once and only for the worker
//! that has it: a late one changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use crate::claim::{self, Claimed, Known};
use crate::failure::Failure;
use crate::fan_in;
use crate::job::{DeadHead, DeadLetter, JobId, Outcome};

/// What a writer must hold.
#[derive(Clone, Debug)]
pub struct Held {
    /// The job.
    pub job_id: JobId,
    /// Which of its claims.
    pub fence: i64,
    /// The claim it is part of.
    pub claim_id: i64,
    /// The worker that claimed it.
    pub worker_id: i64,
    /// The group whose turn it has.
    pub group_key: Option<String>,
    /// The limits it counts against: its own key's and its queue's. Empty when neither has any.
    pub limit_keys: Vec<String>,
    /// Whether something waits for its end.
    pub is_awaited: bool,
    /// Whether its kind is remembered when it has ended.
    pub is_kept: bool,
}

/// Moves the job into the history and frees its live key; false when it is no longer held.
pub async fn complete(conn: &mut PgConnection, held: &Held, result: Option<Value>) -> sqlx::Result<bool> {
    end(conn, held, "completed", result).await
}

/// Ends the job for good without its work, for the reason given.
pub async fn discard(conn: &mut PgConnection, held: &Held, reason: &str) -> sqlx::Result<bool> {
    end(conn, held, "discarded", Some(json!({ "reason": reason }))).await
}

/// Ends the job as the outcome says; false when it is no longer held.
pub(crate) async fn end_as(conn: &mut PgConnection, held: &Held, outcome: &Outcome) -> sqlx::Result<bool> {
    match outcome {
        Outcome::Done => complete(conn, held, None).await,
        Outcome::DoneWith(result) => complete(conn, held, Some(result.clone())).await,
        Outcome::Snooze(wait) => postpone(conn, held, *wait, "it asked to come back later").await,
        Outcome::Discard(reason) => discard(conn, held, reason).await,
    }
}

/// Ends the job because somebody asked for it, for the reason they gave.
pub async fn cancel(conn: &mut PgConnection, held: &Held) -> sqlx::Result<bool> {
    let wish = sqlx::query!(
        "select actor, reason from queue.cancels where job_id = $1",
        held.job_id.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    let result = wish.map(|wish| json!({ "reason": wish.reason, "by": wish.actor }));
    if !end(conn, held, "cancelled", result).await? {
        return Ok(false);
    }
    sqlx::query!("delete from queue.cancels where job_id = $1", held.job_id.0)
        .execute(conn)
        .await?;
    Ok(true)
}

async fn end(conn: &mut PgConnection, held: &Held, state: &str, result: Option<Value>) -> sqlx::Result<bool> {
    let is_ended = sqlx::query_scalar!(
        r#"with taken as materialized (
               select t.claimed_at, (t.job).* from queue.take($1, $2, $3) t
           ), freed as (
               delete from queue.unique_keys u
               where u.job_id = (select id from taken where unique_key is not null) and u.scope = 'live'
           ), kept as (
               insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, unique_key,
                                                group_key, worker_id, result, failures, created_at, claimed_at)
               select id, queue, kind, args_version, args, $4, fence + 1, attempt + 1, unique_key,
                      group_key, $3, $5, failures, created_at, claimed_at
               from taken where $6
           )
           select exists (select from taken) as "ended!""#,
        held.claim_id,
        held.job_id.0,
        held.worker_id,
        state,
        result,
        held.is_kept,
    )
    .fetch_one(&mut *conn)
    .await?;
    if is_ended {
        follow(conn, &[held], state).await?;
    }
    Ok(is_ended)
}

impl Held {
    /// Whether anything follows from its end.
    pub(crate) fn is_followed(&self) -> bool {
        self.group_key.is_some() || !self.limit_keys.is_empty() || self.is_awaited
    }
}

/// What follows when jobs have ended so: the next of each group has its turn, limits have room again, and whoever waited for
/// them knows.
pub(crate) async fn follow(conn: &mut PgConnection, jobs: &[&Held], outcome: &str) -> sqlx::Result<()> {
    leave_groups(conn, jobs).await?;
    follow_outside_groups(conn, jobs, outcome).await
}

/// As [`follow`], but for the turns.
pub(crate) async fn follow_outside_groups(conn: &mut PgConnection, jobs: &[&Held], outcome: &str) -> sqlx::Result<()> {
    let_go(conn, jobs, true).await?;
    tell_waiters(conn, jobs, outcome).await
}

/// Tells those who wait for these jobs how they ended.
async fn tell_waiters(conn: &mut PgConnection, jobs: &[&Held], outcome: &str) -> sqlx::Result<()> {
    let awaited: Vec<JobId> = jobs
        .iter()
        .filter(|held| held.is_awaited)
        .map(|held| held.job_id)
        .collect();
    match awaited.is_empty() {
        true => Ok(()),
        false => fan_in::tell(conn, &awaited, outcome).await,
    }
}

/// These jobs have left their groups.
pub(crate) async fn leave_groups(conn: &mut PgConnection, jobs: &[&Held]) -> sqlx::Result<()> {
    let (groups, holders) = groups_of(jobs);
    match groups.is_empty() {
        true => Ok(()),
        false => pass_turns(conn, &groups, &holders).await,
    }
}

/// As [`leave_groups`], but what the worker may run of the next ones is claimed for it at once, and returned.
pub(crate) async fn go_on_in_groups(
    conn: &mut PgConnection,
    jobs: &[&Held],
    known: &Known,
    worker_id: i64,
) -> sqlx::Result<Vec<Claimed>> {
    let (groups, holders) = groups_of(jobs);
    let mut turned = sqlx::query_scalar!(r#"select queue.give_turns($1, $2) as "turned!""#, &groups, &holders)
        .fetch_one(&mut *conn)
        .await?;
    if turned.is_empty() {
        return Ok(Vec::new());
    }
    let claimed = claim::claim_turned(conn, known, worker_id, &turned).await?;
    let taken: BTreeSet<i64> = claimed.iter().map(|job| job.id.0).collect();
    turned.retain(|id| !taken.contains(id));
    if !turned.is_empty() {
        sqlx::query!("update queue.jobs set turn = true where id = any($1)", &turned)
            .execute(conn)
            .await?;
    }
    Ok(claimed)
}

/// The groups of those that have one, and who holds the turn.
fn groups_of(jobs: &[&Held]) -> (Vec<String>, Vec<i64>) {
    jobs.iter()
        .filter_map(|held| Some((held.group_key.clone()?, held.job_id.0)))
        .unzip()
}

/// The holders have ended: the next of each group has its turn.
pub(crate) async fn pass_turns(conn: &mut PgConnection, groups: &[String], holders: &[i64]) -> sqlx::Result<()> {
    sqlx::query!("select queue.pass_turns($1, $2)", groups, holders)
        .execute(conn)
        .await?;
    Ok(())
}

/// These jobs run no more: their limits have room again. A success says that what they depend on works.
pub(crate) async fn let_go(conn: &mut PgConnection, jobs: &[&Held], is_success: bool) -> sqlx::Result<()> {
    let (claims, keys) = holds_of(jobs);
    if claims.is_empty() {
        return Ok(());
    }
    sqlx::query!("select queue.let_go($1, $2, $3)", &claims, &keys, is_success)
        .execute(conn)
        .await?;
    Ok(())
}

/// The claim and the key of each room that these jobs take.
pub(crate) fn holds_of(jobs: &[&Held]) -> (Vec<i64>, Vec<String>) {
    jobs.iter()
        .flat_map(|held| held.limit_keys.iter().map(|key| (held.claim_id, key.clone())))
        .unzip()
}

/// Whether the job was completed under this fence, as far as the history tells.
pub async fn is_completed(pool: &PgPool, held: &Held) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from queue.finished_jobs where id = $1 and fence = $2) as "completed!""#,
        held.job_id.0,
        held.fence
    )
    .fetch_one(pool)
    .await
}

/// Whether this worker has ended the job itself: it is not held any more, and nobody took anything from the worker.
pub(crate) async fn is_ended_by_us(pool: &PgPool, held: &Held) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from queue.workers where id = $3)
                  and not (exists (select from queue.claims where id = $1 and worker_id = $3)
                           and not exists (select from queue.ended where claim_id = $1 and job_id = $2)) as "ended!""#,
        held.claim_id,
        held.job_id.0,
        held.worker_id,
    )
    .fetch_one(pool)
    .await
}

/// Whether the job is still held.
pub async fn is_held(pool: &PgPool, held: &Held) -> sqlx::Result<bool> {
    holds(&mut *pool.acquire().await?, held).await
}

/// Whether the job is still held, and if so, until the transaction ends.
pub(crate) async fn holds(conn: &mut PgConnection, held: &Held) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select queue.hold($1, $2, $3) as "held!""#,
        held.claim_id,
        held.job_id.0,
        held.worker_id,
    )
    .fetch_one(conn)
    .await
}

/// A failed attempt: remembered, and tried again after the wait, but not after the deadline, where the job is buried.
pub async fn retry(
    conn: &mut PgConnection,
    held: &Held,
    wait: Duration,
    waiting: &str,
    failure: &Value,
) -> sqlx::Result<bool> {
    const FAILURES_KEPT: i32 = 50;
    let lined_up = sqlx::query_scalar!(
        r#"select queue.line_up(array_agg(jsonb_populate_record(t.job, jsonb_build_object(
                      'fence', (t.job).fence + 1,
                      'attempt', (t.job).attempt + 1,
                      'run_at', least(clock_timestamp() + make_interval(secs => $4), (t.job).deadline_at),
                      'suspect', false,
                      'waiting', $5::text,
                      -- The first failure says how it began, the last ones how it goes on.
                      'failures', case when jsonb_array_length((t.job).failures) >= $7 then (t.job).failures - 1
                                       else coalesce((t.job).failures, '[]') end
                                  || jsonb_set($6, '{finished}', to_jsonb(clock_timestamp()))
                  )))) as "count!"
           from queue.take($1, $2, $3) t"#,
        held.claim_id,
        held.job_id.0,
        held.worker_id,
        wait.as_secs_f64(),
        waiting,
        failure,
        FAILURES_KEPT,
    )
    .fetch_one(&mut *conn)
    .await?;
    back_in_line(conn, held, lined_up).await
}

/// Later, and the try is given back: snoozed, throttled, the kind paused, or trouble with the database.
pub async fn postpone(conn: &mut PgConnection, held: &Held, wait: Duration, waiting: &str) -> sqlx::Result<bool> {
    let lined_up = sqlx::query_scalar!(
        r#"select queue.line_up(array_agg(jsonb_populate_record(t.job, jsonb_build_object(
                      'fence', (t.job).fence + 1,
                      'run_at', clock_timestamp() + make_interval(secs => $4),
                      'suspect', false,
                      'waiting', $5::text
                  )))) as "count!"
           from queue.take($1, $2, $3) t"#,
        held.claim_id,
        held.job_id.0,
        held.worker_id,
        wait.as_secs_f64(),
        waiting,
    )
    .fetch_one(&mut *conn)
    .await?;
    back_in_line(conn, held, lined_up).await
}

/// Untouched, and back to its place in line with its try: the worker stops.
pub async fn hand_back(conn: &mut PgConnection, held: &Held) -> sqlx::Result<bool> {
    let lined_up = sqlx::query_scalar!(
        r#"select queue.put_back(array_agg(jsonb_populate_record(t.job, jsonb_build_object(
                      'fence', (t.job).fence + 1,
                      'waiting', 'its worker stopped and handed it back'
                  )))) as "count!"
           from queue.take($1, $2, $3) t"#,
        held.claim_id,
        held.job_id.0,
        held.worker_id,
    )
    .fetch_one(&mut *conn)
    .await?;
    back_in_line(conn, held, lined_up).await
}

/// Whether the job is back in line; if so, it runs no more.
async fn back_in_line(conn: &mut PgConnection, held: &Held, lined_up: i64) -> sqlx::Result<bool> {
    let is_back = lined_up == 1;
    if is_back {
        let_go(conn, &[held], false).await?;
    }
    Ok(is_back)
}

/// All that a stopping worker still holds.
pub async fn hand_back_all(pool: &PgPool, worker_id: i64) -> sqlx::Result<u64> {
    let claims = sqlx::query_scalar!("select id from queue.claims where worker_id = $1", worker_id)
        .fetch_all(pool)
        .await?;
    hand_back_claims(pool, &claims, "its worker stopped and handed it back").await
}

/// Claims on a queue that the worker has by the table but not in its hands: the answer to them was lost.
pub async fn hand_back_strays(pool: &PgPool, worker_id: i64, queue: &str, in_hand: &[i64]) -> sqlx::Result<u64> {
    let claims = sqlx::query_scalar!(
        "select id from queue.claims where worker_id = $1 and queue = $2 and id <> all($3)",
        worker_id,
        queue,
        in_hand,
    )
    .fetch_all(pool)
    .await?;
    hand_back_claims(pool, &claims, "the answer to its claim was lost").await
}

async fn hand_back_claims(pool: &PgPool, claims: &[i64], waiting: &str) -> sqlx::Result<u64> {
    if claims.is_empty() {
        return Ok(0);
    }
    let lined_up = sqlx::query_scalar!(
        r#"select queue.put_back(array_agg(jsonb_populate_record(s.job, jsonb_build_object(
                      'fence', (s.job).fence + 1,
                      'waiting', $2::text
                  )))) as "count!"
           from queue.seize($1, true) s"#,
        claims,
        waiting,
    )
    .fetch_one(pool)
    .await?;
    Ok(lined_up.unsigned_abs())
}

/// For whoever writes to the job's limits before its room is given back: locked in the one order in which everybody locks them.
pub(crate) async fn hold_limits(conn: &mut PgConnection, held: &Held) -> sqlx::Result<()> {
    sqlx::query!("select queue.hold_limits($1, $2)", held.claim_id, &held.limit_keys)
        .execute(conn)
        .await?;
    Ok(())
}

/// A job of this key failed in a way that says something of what it depends on; returns for how long nothing of the key runs
/// now, if its breaker is open.
pub(crate) async fn limit_failed(
    conn: &mut PgConnection,
    limit_key: &str,
    cause: &str,
    retry_after: Option<Duration>,
) -> sqlx::Result<Option<Duration>> {
    let seconds = sqlx::query_scalar!(
        r#"select extract(epoch from queue.limit_failed($1, $2, make_interval(secs => $3)) - clock_timestamp())::float8"#,
        limit_key,
        cause,
        retry_after.map(|wait| wait.as_secs_f64()),
    )
    .fetch_one(conn)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0))))
}

/// Pauses a kind because of what one of its jobs met; an earlier pause stays as it is.
pub async fn pause_kind(conn: &mut PgConnection, kind: &str, reason: &str, held: &Held) -> sqlx::Result<()> {
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
    queue: String,
    args_version: i16,
    priority: i16,
    attempt: i32,
    attempts_max: i32,
    unique_key: Option<String>,
    failures: Option<Value>,
    redrives: Option<Value>,
    trace_context: Option<String>,
    limit_key: Option<String>,
    created_at: chrono::DateTime<chrono::Utc>,
    last_id: i64,
    now: chrono::DateTime<chrono::Utc>,
}

/// Takes the job for its burial; none when it is no longer held.
pub(crate) async fn take(conn: &mut PgConnection, held: &Held) -> sqlx::Result<Option<Corpse>> {
    sqlx::query_as!(
        Corpse,
        r#"select (t.job).args as "args!", (t.job).queue as "queue!", (t.job).args_version as "args_version!",
                  (t.job).priority as "priority!", (t.job).attempt + 1 as "attempt!", (t.job).attempts_max as "attempts_max!",
                  (t.job).unique_key, (t.job).failures, (t.job).redrives, (t.job).trace_context, (t.job).limit_key,
                  (t.job).created_at as "created_at!",
                  (select last_value from queue.jobs_id_seq) as "last_id!", clock_timestamp() as "now!"
           from queue.take($1, $2, $3) t"#,
        held.claim_id,
        held.job_id.0,
        held.worker_id,
    )
    .fetch_optional(conn)
    .await
}

/// Moves the job to the dead letters with the report that explains it; its hook has run in the same transaction. Its group
/// goes on, unless the kind wants it to wait.
pub(crate) async fn bury(
    conn: &mut PgConnection,
    held: &Held,
    letter: &DeadLetter,
    corpse: &Corpse,
    last_failure: Option<Value>,
    dead_head: DeadHead,
) -> sqlx::Result<()> {
    let compensation = sqlx::query_scalar!(
        "select id from queue.jobs where id > $1 and xmin = pg_current_xact_id()::xid order by id limit 100",
        corpse.last_id,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut attempts = corpse.failures.clone().unwrap_or_else(|| json!([]));
    if let (Some(list), Some(mut last)) = (attempts.as_array_mut(), last_failure) {
        last["finished"] = json!(corpse.now);
        list.push(last);
    }
    let report = json!({
        "kind": letter.kind,
        "args_version": corpse.args_version,
        "args": redacted(&corpse.args),
        "unique_key": corpse.unique_key,
        "group_key": held.group_key,
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
        "redrives": corpse.redrives.clone().unwrap_or_else(|| json!([])),
    });
    sqlx::query!(
        "with freed as (
             delete from queue.unique_keys where job_id = $1 and scope = 'live'
         )
         insert into queue.dead_letters (id, queue, kind, args_version, args, priority, fence, attempt, attempts_max,
                                         unique_key, group_key, reason, error_class, error_code, message, report,
                                         trace_context, created_at, limit_key)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
        held.job_id.0,
        corpse.queue,
        letter.kind,
        corpse.args_version,
        corpse.args,
        corpse.priority,
        held.fence,
        corpse.attempt,
        corpse.attempts_max,
        corpse.unique_key,
        held.group_key,
        letter.reason,
        letter.class.as_str(),
        letter.code,
        letter.message,
        report,
        corpse.trace_context,
        corpse.created_at,
        corpse.limit_key,
    )
    .execute(&mut *conn)
    .await?;
    if dead_head == DeadHead::Skip {
        leave_groups(conn, &[held]).await?;
    }
    let_go(conn, &[held], false).await?;
    tell_waiters(conn, &[held], "dead").await
}

/// One failed attempt as the failures of a job and the report remember it.
pub(crate) fn failure_record(claimed: &Claimed, build: &str, failure: &Failure) -> Value {
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
