//! A job exists if and only if the transaction that made it necessary commits.
//!
//! Every function here takes the caller's connection; `queue.enqueue` offers the same to any language.

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
               make_interval(secs => $10), $11, $12
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
    )
    .fetch_one(conn)
    .await?;
    Ok(enqueued::<J>(row.id, row.is_new))
}

/// Enqueues many jobs of one kind in one statement; the answers are in the order of the jobs.
///
/// Group keys are locked in their own order, so that two bulk loads cannot wait for each other.
pub async fn enqueue_many<J: Job>(conn: &mut PgConnection, jobs: &[J]) -> Result<Vec<Enqueued>, Error> {
    let mut args = Vec::with_capacity(jobs.len());
    let mut keys = Vec::with_capacity(jobs.len());
    let mut scopes = Vec::with_capacity(jobs.len());
    let mut windows = Vec::with_capacity(jobs.len());
    let mut groups = Vec::with_capacity(jobs.len());
    for job in jobs {
        args.push(payload(job)?);
        let unique = job.unique();
        windows.push(unique.as_ref().and_then(window_secs));
        scopes.push(unique.as_ref().map_or("kept", |unique| unique.scope).to_owned());
        keys.push(unique.map(|unique| unique.key));
        groups.push(job.group());
    }
    let is_plain = keys.iter().all(Option::is_none) && groups.iter().all(Option::is_none);
    if is_plain {
        return insert_plain::<J>(conn, &args).await;
    }
    if windows.iter().any(Option::is_some) {
        return insert_within::<J>(conn, &args, &keys, &scopes, &windows, &groups).await;
    }
    let rows = sqlx::query!(
        r#"select n.place as "place!", e.job_id as "id!", e.is_new as "is_new!"
           from (
               select * from unnest($1::jsonb[], $2::text[], $3::text[], $4::text[])
                    with ordinality as u(args, key, scope, group_key, place)
               order by group_key nulls first, place
           ) n
           cross join lateral queue.enqueue(
               $5, $6, n.args, null, n.key, n.scope, n.group_key, $7, $8,
               clock_timestamp() + make_interval(secs => $9), $10, $11
           ) e"#,
        &args,
        &keys as &[Option<String>],
        &scopes,
        &groups as &[Option<String>],
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

/// The same where some keys are taken for a time.
async fn insert_within<J: Job>(
    conn: &mut PgConnection,
    args: &[serde_json::Value],
    keys: &[Option<String>],
    scopes: &[String],
    windows: &[Option<f64>],
    groups: &[Option<String>],
) -> Result<Vec<Enqueued>, Error> {
    let rows = sqlx::query!(
        r#"select n.place as "place!", e.job_id as "id!", e.is_new as "is_new!"
           from (
               select * from unnest($1::jsonb[], $2::text[], $3::text[], $4::float8[], $5::text[])
                    with ordinality as u(args, key, scope, secs, group_key, place)
               order by group_key nulls first, place
           ) n
           cross join lateral queue.enqueue_within(
               make_interval(secs => n.secs), $6, $7, n.args, null, n.key, n.scope, n.group_key, $8, $9,
               clock_timestamp() + make_interval(secs => $10), $11, $12
           ) e"#,
        args,
        keys as &[Option<String>],
        scopes,
        windows as &[Option<f64>],
        groups as &[Option<String>],
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

/// Jobs that nobody else's can collide with need none of what `queue.enqueue` looks up for each.
async fn insert_plain<J: Job>(conn: &mut PgConnection, args: &[serde_json::Value]) -> Result<Vec<Enqueued>, Error> {
    sqlx::query!(
        "select pg_notify('queue_jobs', $1) where not exists (
             select from queue.jobs
             where queue = $1 and turn and not suspect and rank <= (select clock_timestamp() at time zone 'UTC')
         )",
        J::QUEUE,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let ids = sqlx::query_scalar!(
        r#"insert into queue.jobs (queue, kind, args, priority, attempts_max, deadline_at, args_version,
                                   trace_context)
           select $1, $2, n.args, $4, $5, clock_timestamp() + make_interval(secs => $6), $7, $8
           from unnest($3::jsonb[]) with ordinality as n (args, place)
           order by n.place
           returning id as "id: JobId""#,
        J::QUEUE,
        J::KIND,
        args,
        J::PRIORITY,
        J::RETRY.attempts_max,
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
        J::VERSION,
        trace::stored(),
    )
    .fetch_all(conn)
    .await?;
    metrics::counter!(crate::metric::ENQUEUED, "kind" => J::KIND).increment(ids.len() as u64);
    Ok(ids.into_iter().map(|id| Enqueued { id, is_new: true }).collect())
}

async fn insert<J: Job>(
    conn: &mut PgConnection,
    job: &J,
    run_at: Option<DateTime<Utc>>,
    wait_secs: Option<f64>,
) -> Result<Enqueued, Error> {
    let args = payload(job)?;
    let unique = job.unique();
    if let Some(within_secs) = unique.as_ref().and_then(window_secs) {
        let row = sqlx::query!(
            r#"select e.job_id as "id!", e.is_new as "is_new!"
               from queue.enqueue_within(
                   make_interval(secs => $1), $2, $3, $4, coalesce($5, clock_timestamp() + make_interval(secs => $6)), $7, $8,
                   $9, $10, $11,
                   greatest($5, clock_timestamp() + make_interval(secs => coalesce($6, 0))) + make_interval(secs => $12),
                   $13, $14
               ) e"#,
            within_secs,
            J::QUEUE,
            J::KIND,
            args,
            run_at,
            wait_secs,
            unique.as_ref().map(|unique| unique.key.as_str()),
            unique.as_ref().map(|unique| unique.scope),
            job.group(),
            i32::from(J::PRIORITY),
            J::RETRY.attempts_max,
            J::deadline_after().map(|deadline| deadline.as_secs_f64()),
            i32::from(J::VERSION),
            trace::stored(),
        )
        .fetch_one(conn)
        .await?;
        return Ok(enqueued::<J>(row.id, row.is_new));
    }
    let row = sqlx::query!(
        r#"select e.job_id as "id!", e.is_new as "is_new!"
           from queue.enqueue(
               $1, $2, $3, coalesce($4, clock_timestamp() + make_interval(secs => $5)), $6, $7, $8, $9, $10,
               greatest($4, clock_timestamp() + make_interval(secs => coalesce($5, 0))) + make_interval(secs => $11), $12, $13
           ) e"#,
        J::QUEUE,
        J::KIND,
        args,
        run_at,
        wait_secs,
        unique.as_ref().map(|unique| unique.key.as_str()),
        unique.as_ref().map_or("kept", |unique| unique.scope),
        job.group(),
        i32::from(J::PRIORITY),
        J::RETRY.attempts_max,
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
        i32::from(J::VERSION),
        trace::stored(),
    )
    .fetch_one(conn)
    .await?;
    Ok(enqueued::<J>(row.id, row.is_new))
}

fn payload<J: Job>(job: &J) -> Result<serde_json::Value, Error> {
    serde_json::to_value(job).map_err(|source| Error::Payload { kind: J::KIND, source })
}
