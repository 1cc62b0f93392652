//! A job exists if and only if the transaction that made it necessary commits.
//!
//! Every function here takes the caller's connection; `queue.enqueue` offers the same to any language.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::job::{Job, JobId};

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

/// Enqueues many jobs of one kind; the answers are in the order of the jobs.
///
/// Group keys are locked in their own order, so that two bulk loads cannot wait for each other.
pub async fn enqueue_many<J: Job>(conn: &mut PgConnection, jobs: &[J]) -> Result<Vec<Enqueued>, Error> {
    let mut args = Vec::with_capacity(jobs.len());
    let mut keys = Vec::with_capacity(jobs.len());
    let mut scopes = Vec::with_capacity(jobs.len());
    let mut groups = Vec::with_capacity(jobs.len());
    let mut limits = Vec::with_capacity(jobs.len());
    for job in jobs {
        args.push(payload(job)?);
        let unique = job.unique();
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
               select * from unnest($1::jsonb[], $2::text[], $3::text[], $4::text[], $11::text[])
                    with ordinality as u(args, key, scope, group_key, limit_key, place)
               order by group_key nulls first, place
           ) n
           cross join lateral queue.enqueue(
               $5, $6, n.args, null, n.key, n.scope, n.group_key, $7, $8,
               clock_timestamp() + make_interval(secs => $9), $10, null, n.limit_key
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
        &limits as &[Option<String>],
    )
    .fetch_all(conn)
    .await?;

    let mut answers: Vec<_> = rows
        .into_iter()
        .map(|row| {
            (
                row.place,
                Enqueued {
                    id: JobId(row.id),
                    is_new: row.is_new,
                },
            )
        })
        .collect();
    answers.sort_by_key(|(place, _)| *place);
    metrics::counter!(crate::metric::ENQUEUED, "kind" => J::KIND).increment(answers.len() as u64);
    Ok(answers.into_iter().map(|(_, enqueued)| enqueued).collect())
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
                        and rank > (select (clock_timestamp() - interval '1 s') at time zone 'UTC')
                        and rank <= (select clock_timestamp() at time zone 'UTC')
                  ) then pg_notify('queue_jobs', $1)::text end as hint"#,
        J::QUEUE,
        i32::try_from(args.len()).unwrap_or(i32::MAX),
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
    )
    .fetch_one(&mut *conn)
    .await?;
    let deadline_at = start.deadline_at.as_deref().unwrap_or(COPY_NULL);
    let mut rows = Vec::with_capacity(args.len() * 100);
    for ((id, args), limit) in start.ids.iter().zip(args).zip(limits) {
        let args = args.to_string();
        let args = copy_text(&args);
        let limit = limit.as_deref().map(copy_text);
        writeln!(
            rows,
            "{id}\t{}\t{}\t{args}\t{}\t{}\t{deadline_at}\t{}\t{}",
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
            "copy queue.jobs (id, queue, kind, args, priority, attempts_max, deadline_at, args_version, limit_key) from stdin",
        )
        .await?;
    copy.send(rows).await?;
    copy.finish().await?;
    metrics::counter!(crate::metric::ENQUEUED, "kind" => J::KIND).increment(args.len() as u64);
    Ok(start
        .ids
        .into_iter()
        .map(|id| Enqueued {
            id: JobId(id),
            is_new: true,
        })
        .collect())
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
    let row = sqlx::query!(
        r#"select e.job_id as "id!", e.is_new as "is_new!"
           from queue.enqueue(
               $1, $2, $3, coalesce($4, clock_timestamp() + make_interval(secs => $5)), $6, $7, $8, $9, $10,
               greatest($4, clock_timestamp() + make_interval(secs => coalesce($5::float8, 0))) + make_interval(secs => $11), $12, null, $13
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
        job.limit(),
    )
    .fetch_one(conn)
    .await?;
    if row.is_new {
        metrics::counter!(crate::metric::ENQUEUED, "kind" => J::KIND).increment(1);
    }
    Ok(Enqueued {
        id: JobId(row.id),
        is_new: row.is_new,
    })
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
        r#"insert into queue.jobs as n (queue, kind, args, run_at, priority, attempts_max, deadline_at, args_version, limit_key)
           values ($1, $2, $3, coalesce($4, clock_timestamp() + make_interval(secs => coalesce($5::float8, 0))), $6, $7,
                   greatest($4, clock_timestamp() + make_interval(secs => coalesce($5::float8, 0))) + make_interval(secs => $8), $9, $10)
           returning id as "id: JobId",
                     -- A hint, as in queue.enqueue; this statement does not see its own row.
                     case when run_at <= clock_timestamp() and not exists (
                         select from queue.jobs
                         where queue = $1 and turn and not suspect
                           and rank > (select (clock_timestamp() - interval '1 s') at time zone 'UTC')
                           and rank <= (select clock_timestamp() at time zone 'UTC')
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
    )
    .fetch_one(conn)
    .await?;
    metrics::counter!(crate::metric::ENQUEUED, "kind" => J::KIND).increment(1);
    Ok(Enqueued {
        id: row.id,
        is_new: true,
    })
}

pub(crate) fn payload<J: Job>(job: &J) -> Result<serde_json::Value, Error> {
    serde_json::to_value(job).map_err(|source| Error::Payload { kind: J::KIND, source })
}
