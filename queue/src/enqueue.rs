//! A job exists if and only if the transaction that made it necessary commits.
//!
//! Every function here takes the caller's connection; `queue.enqueue` offers the same to any language.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::job::{Job, JobId, Unique};
use crate::trace;

/// What became of a wish to enqueue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// The job, or the one that already had the unique key.
    pub id: JobId,
    /// Whether it is new.
    pub is_new: bool,
}

/// Why a job could not be enqueued.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The payload cannot be written as JSON.
    #[error("writing the payload of {kind}")]
    Payload {
        /// The kind of the job.
        kind: &'static str,
        /// What the serializer said.
        source: serde_json::Error,
    },
    /// A job of a group cannot wait for others, nor be part of a saga: its turn is given when it is enqueued.
    #[error("{kind} has a group and cannot wait for other jobs")]
    GroupWaits {
        /// The kind of the job.
        kind: &'static str,
    },
    /// A job cannot wait for so many others.
    #[error("a job waits for at most {} others, not {}", crate::fan_in::MEMBERS_MAX, .0)]
    TooManyMembers(usize),
    /// One of those to wait for was never enqueued.
    #[error("cannot wait: {0}")]
    NotAJob(String),
    /// A saga has at least one step, and not too many.
    #[error("a saga has from 1 to {} steps, not {}", crate::saga::STEPS_MAX, .0)]
    Steps(usize),
    /// Only a job with a live unique key can be debounced.
    #[error("a {kind} cannot be debounced: it has no unique key that is free when its job ends")]
    NotDebounced {
        /// The kind of the job.
        kind: &'static str,
    },
    /// The database refused.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Enqueues a job that is due at once.
pub async fn enqueue<J: Job>(conn: &mut PgConnection, job: &J) -> Result<Enqueued, Error> {
    insert(conn, job, None, None).await
}

/// Enqueues a job that is due at that time.
pub async fn enqueue_at<J: Job>(conn: &mut PgConnection, job: &J, run_at: DateTime<Utc>) -> Result<Enqueued, Error> {
    insert(conn, job, Some(run_at), None).await
}

/// Enqueues a job that is due after that time, by the database's clock.
pub async fn enqueue_after<J: Job>(conn: &mut PgConnection, job: &J, wait: Duration) -> Result<Enqueued, Error> {
    insert(conn, job, None, Some(wait.as_secs_f64())).await
}

/// Enqueues a job that is due after `wait`, by the database's clock, or, when one of its unique key waits already, gives
/// that one this payload and this wait, but makes it wait for no more than `wait_max` after it was enqueued. Not new means
/// replaced. Neither is more than 366 days.
///
/// A job that runs keeps its payload, and a new one is made beside it, so nothing is lost: give both a group where they
/// must not overlap. One that waits for its retry waits on. The key must be a live one.
pub async fn enqueue_debounced<J: Job>(
    conn: &mut PgConnection,
    job: &J,
    wait: Duration,
    wait_max: Duration,
) -> Result<Enqueued, Error> {
    let Some(unique) = job.unique().filter(|unique| unique.scope == "live") else {
        return Err(Error::NotDebounced { kind: J::KIND });
    };
    const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    let row = sqlx::query!(
        r#"select e.job_id as "id!", e.is_new as "is_new!"
           from queue.enqueue_debounced(
               make_interval(secs => $1), make_interval(secs => $2), $3, $4, $5, $6, $7, $8, $9,
               make_interval(secs => $10), $11, $12, $13
           ) e"#,
        wait.min(LONGEST).as_secs_f64(),
        wait_max.min(LONGEST).as_secs_f64(),
        J::QUEUE,
        J::KIND,
        payload(job)?,
        unique.key,
        job.group(),
        i32::from(J::PRIORITY),
        J::RETRY.attempts_max,
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
        i32::from(J::VERSION),
        trace::stored(),
        job.limit(),
    )
    .fetch_one(conn)
    .await?;
    Ok(enqueued::<J>(row.id, row.is_new))
}

/// Enqueues many jobs of one kind; the answers are in the order of the jobs.
///
/// Group keys are locked in their own order, so that two bulk loads cannot wait for each other.
pub async fn enqueue_many<J: Job>(conn: &mut PgConnection, jobs: &[J]) -> Result<Vec<Enqueued>, Error> {
    let mut args = Vec::with_capacity(jobs.len());
    let mut keys = Vec::with_capacity(jobs.len());
    let mut scopes = Vec::with_capacity(jobs.len());
    let mut windows = Vec::with_capacity(jobs.len());
    let mut groups = Vec::with_capacity(jobs.len());
    let mut limits = Vec::with_capacity(jobs.len());
    for job in jobs {
        args.push(payload(job)?);
        let unique = job.unique();
        windows.push(unique.as_ref().and_then(window_secs));
        scopes.push(unique.as_ref().map_or("kept", |unique| unique.scope).to_owned());
        keys.push(unique.map(|unique| unique.key));
        groups.push(job.group());
        limits.push(job.limit());
    }
    let is_plain = keys.iter().all(Option::is_none) && groups.iter().all(Option::is_none);
    if is_plain && !jobs.is_empty() {
        return copy_plain::<J>(conn, &args, &limits).await;
    }
    let rows = sqlx::query!(
        r#"select n.place as "place!", e.job_id as "id!", e.is_new as "is_new!"
           from (
               select * from unnest($1::jsonb[], $2::text[], $3::text[], $4::float8[], $5::text[], $6::text[])
                    with ordinality as u(args, key, scope, secs, group_key, limit_key, place)
               order by group_key nulls first, place
           ) n
           cross join lateral queue.enqueue_within(
               make_interval(secs => n.secs), $7, $8, n.args, null, n.key, n.scope, n.group_key, $9, $10,
               clock_timestamp() + make_interval(secs => $11), $12, $13, n.limit_key
           ) e"#,
        &args,
        &keys as &[Option<String>],
        &scopes,
        &windows as &[Option<f64>],
        &groups as &[Option<String>],
        &limits as &[Option<String>],
        J::QUEUE,
        J::KIND,
        i32::from(J::PRIORITY),
        J::RETRY.attempts_max,
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
        i32::from(J::VERSION),
        trace::stored(),
    )
    .fetch_all(conn)
    .await?;
    Ok(in_order::<J>(
        rows.into_iter().map(|row| (row.place, row.id, row.is_new)),
    ))
}

fn in_order<J: Job>(rows: impl Iterator<Item = (i64, i64, bool)>) -> Vec<Enqueued> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|(place, ..)| *place);
    rows.into_iter()
        .map(|(_, id, is_new)| enqueued::<J>(id, is_new))
        .collect()
}

/// Counts what is new.
fn enqueued<J: Job>(id: i64, is_new: bool) -> Enqueued {
    if is_new {
        metrics::counter!(crate::metric::ENQUEUED, "kind" => J::KIND).increment(1);
    }
    Enqueued { id: JobId(id), is_new }
}

fn window_secs(unique: &Unique) -> Option<f64> {
    unique.window.map(|window| window.as_secs_f64())
}

/// Jobs that nobody else's can collide with need nothing looked up for each: they are copied in.
async fn copy_plain<J: Job>(
    conn: &mut PgConnection,
    args: &[serde_json::Value],
    limits: &[Option<String>],
) -> Result<Vec<Enqueued>, Error> {
    let start = sqlx::query!(
        r#"select array(select nextval('queue.jobs_id_seq') from generate_series(1, $2)) as "ids!",
                  (clock_timestamp() + make_interval(secs => $3))::text as deadline_at,
                  -- A hint, as in queue.enqueue.
                  case when not exists (
                      select from queue.jobs
                      where queue = $1 and turn and not suspect
                        and rank > (statement_timestamp() - interval '1 s') at time zone 'UTC'
                        and rank <= statement_timestamp() at time zone 'UTC'
                  ) then pg_notify('queue_jobs', $1)::text end as hint"#,
        J::QUEUE,
        i32::try_from(args.len()).unwrap_or(i32::MAX),
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
    )
    .fetch_one(&mut *conn)
    .await?;
    let deadline_at = start.deadline_at.as_deref().unwrap_or(COPY_NULL);
    let trace = trace::stored();
    let trace = trace.as_deref().map_or(Cow::Borrowed(COPY_NULL), copy_text);
    let mut rows = Vec::with_capacity(args.len() * 150);
    for ((id, args), limit) in start.ids.iter().zip(args).zip(limits) {
        let args = args.to_string();
        let args = copy_text(&args);
        let limit = limit.as_deref().map(copy_text);
        writeln!(
            rows,
            "{id}\t{}\t{}\t{args}\t{}\t{}\t{deadline_at}\t{}\t{}\t{trace}",
            copy_text(J::QUEUE),
            copy_text(J::KIND),
            J::PRIORITY,
            J::RETRY.attempts_max,
            J::VERSION,
            limit.as_deref().unwrap_or(COPY_NULL),
        )
        .map_err(sqlx::Error::from)?;
    }
    let mut copy = conn
        .copy_in_raw(
            "copy queue.jobs (id, queue, kind, args, priority, attempts_max, deadline_at, args_version, limit_key, trace_context) from stdin",
        )
        .await?;
    copy.send(rows).await?;
    copy.finish().await?;
    Ok(start.ids.into_iter().map(|id| enqueued::<J>(id, true)).collect())
}

/// What COPY reads as null.
const COPY_NULL: &str = "\\N";

/// A text as COPY reads it.
fn copy_text(text: &str) -> Cow<'_, str> {
    if !text.contains(['\\', '\t', '\n', '\r']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

async fn insert<J: Job>(
    conn: &mut PgConnection,
    job: &J,
    run_at: Option<DateTime<Utc>>,
    wait_secs: Option<f64>,
) -> Result<Enqueued, Error> {
    let args = payload(job)?;
    let unique = job.unique();
    let group = job.group();
    if unique.is_none() && group.is_none() {
        return insert_one_plain(conn, job, args, run_at, wait_secs).await;
    }
    if let Some(within_secs) = unique.as_ref().and_then(window_secs) {
        let row = sqlx::query!(
            r#"select e.job_id as "id!", e.is_new as "is_new!"
               from queue.enqueue_within(
                   make_interval(secs => $1), $2, $3, $4, coalesce($5, clock_timestamp() + make_interval(secs => $6)), $7, $8,
                   $9, $10, $11,
                   greatest($5, clock_timestamp() + make_interval(secs => coalesce($6, 0))) + make_interval(secs => $12),
                   $13, $14, $15
               ) e"#,
            within_secs,
            J::QUEUE,
            J::KIND,
            args,
            run_at,
            wait_secs,
            unique.as_ref().map(|unique| unique.key.as_str()),
            unique.as_ref().map(|unique| unique.scope),
            group,
            i32::from(J::PRIORITY),
            J::RETRY.attempts_max,
            J::deadline_after().map(|deadline| deadline.as_secs_f64()),
            i32::from(J::VERSION),
            trace::stored(),
            job.limit(),
        )
        .fetch_one(conn)
        .await?;
        return Ok(enqueued::<J>(row.id, row.is_new));
    }
    let row = sqlx::query!(
        r#"select e.job_id as "id!", e.is_new as "is_new!"
           from queue.enqueue(
               $1, $2, $3, coalesce($4, clock_timestamp() + make_interval(secs => $5)), $6, $7, $8, $9, $10,
               greatest($4, clock_timestamp() + make_interval(secs => coalesce($5::float8, 0))) + make_interval(secs => $11), $12, $13, $14
           ) e"#,
        J::QUEUE,
        J::KIND,
        args,
        run_at,
        wait_secs,
        unique.as_ref().map(|unique| unique.key.as_str()),
        unique.as_ref().map_or("kept", |unique| unique.scope),
        group,
        i32::from(J::PRIORITY),
        J::RETRY.attempts_max,
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
        i32::from(J::VERSION),
        trace::stored(),
        job.limit(),
    )
    .fetch_one(conn)
    .await?;
    Ok(enqueued::<J>(row.id, row.is_new))
}

/// A job that nobody else's can collide with is one insert.
async fn insert_one_plain<J: Job>(
    conn: &mut PgConnection,
    job: &J,
    args: serde_json::Value,
    run_at: Option<DateTime<Utc>>,
    wait_secs: Option<f64>,
) -> Result<Enqueued, Error> {
    let row = sqlx::query!(
        r#"insert into queue.jobs as n (queue, kind, args, run_at, priority, attempts_max, deadline_at, args_version, limit_key,
                                       trace_context)
           values ($1, $2, $3, coalesce($4, clock_timestamp() + make_interval(secs => coalesce($5::float8, 0))), $6, $7,
                   greatest($4, clock_timestamp() + make_interval(secs => coalesce($5::float8, 0))) + make_interval(secs => $8), $9, $10, $11)
           returning id,
                     -- A hint, as in queue.enqueue; this statement does not see its own row.
                     case when run_at <= clock_timestamp() and not exists (
                         select from queue.jobs
                         where queue = $1 and turn and not suspect
                           and rank > (statement_timestamp() - interval '1 s') at time zone 'UTC'
                           and rank <= statement_timestamp() at time zone 'UTC'
                     ) then pg_notify('queue_jobs', $1)::text end as hint"#,
        J::QUEUE,
        J::KIND,
        args,
        run_at,
        wait_secs,
        J::PRIORITY,
        J::RETRY.attempts_max,
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
        J::VERSION,
        job.limit(),
        trace::stored(),
    )
    .fetch_one(conn)
    .await?;
    Ok(enqueued::<J>(row.id, true))
}

pub(crate) fn payload<J: Job>(job: &J) -> Result<serde_json::Value, Error> {
    serde_json::to_value(job).map_err(|source| Error::Payload { kind: J::KIND, source })
}
