//! A job exists if and only if the transaction that made it necessary commits.
//!
//! Every function here takes the caller's connection; `queue.enqueue` offers the same to any language.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use sqlx::types::Json;

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
    /// The payload is too long.
    #[error("the payload of {kind} has {bytes} bytes, and may have {PAYLOAD_BYTES_MAX}")]
    PayloadTooLong {
        /// The kind of the job.
        kind: &'static str,
        /// How long its JSON is.
        bytes: usize,
    },
    /// The key of its limit is too long.
    #[error("the limit key of {kind} has {characters} characters, and may have {KEY_CHARACTERS_MAX}")]
    LimitKeyTooLong {
        /// The kind of the job.
        kind: &'static str,
        /// How long its key is.
        characters: usize,
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

/// How long the JSON of a payload may be.
pub const PAYLOAD_BYTES_MAX: usize = 65_536;

/// How long a unique key, a group's or a limit's may be.
pub const KEY_CHARACTERS_MAX: usize = 300;

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
        payload(job)? as _,
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
        limits.push(limit_key(job)?);
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
        &args as &[Payload],
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
    args: &[Payload],
    limits: &[Option<String>],
) -> Result<Vec<Enqueued>, Error> {
    const { assert_bounded::<J>() };
    let start = sqlx::query!(
        r#"select array(select nextval('queue.jobs_id_seq') from generate_series(1, $2)) as "ids!",
                  d.run_at as "run_at!", queue.rank(d.run_at, $4) as "rank!",
                  d.run_at + make_interval(secs => $3) as deadline_at,
                  -- A hint, as in queue.enqueue.
                  case when not exists (
                      select from queue.jobs
                      where queue = $1 and turn and not suspect
                        and rank > (statement_timestamp() - interval '1 s') at time zone 'UTC'
                        and rank <= statement_timestamp() at time zone 'UTC'
                  ) then pg_notify('queue_jobs', $1)::text end as hint
           from (select clock_timestamp() as run_at) d"#,
        J::QUEUE,
        i32::try_from(args.len()).unwrap_or(i32::MAX),
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
        i32::from(J::PRIORITY),
    )
    .fetch_one(&mut *conn)
    .await?;
    let run_at = copied_time(start.run_at.naive_utc());
    let rank = copied_time(start.rank);
    let deadline_at = start.deadline_at.map(|at| copied_time(at.naive_utc()));
    let trace = trace::stored();
    let mut rows = CopiedRows::new(args.len());
    for ((id, Json(args)), limit) in start.ids.iter().zip(args).zip(limits) {
        rows.begin(COPIED.len());
        rows.field(&id.to_be_bytes());
        rows.field(J::QUEUE.as_bytes());
        rows.field(J::KIND.as_bytes());
        rows.jsonb(args.get());
        rows.field(&run_at);
        rows.field(&rank);
        rows.field(&J::PRIORITY.to_be_bytes());
        rows.field(&J::RETRY.attempts_max.to_be_bytes());
        rows.field(&J::VERSION.to_be_bytes());
        rows.nullable(deadline_at.as_ref().map(|at| &at[..]));
        rows.nullable(limit.as_deref().map(str::as_bytes));
        rows.nullable(trace.as_deref().map(str::as_bytes));
    }
    let copy = format!("copy queue.jobs ({}) from stdin (format binary)", COPIED.join(", "));
    let mut copy = conn.copy_in_raw(&copy).await?;
    copy.send(rows.end()).await?;
    copy.finish().await?;
    Ok(start.ids.into_iter().map(|id| enqueued::<J>(id, true)).collect())
}

/// The columns of a copied job, in the order of its fields.
const COPIED: [&str; 12] = [
    "id",
    "queue",
    "kind",
    "args",
    "run_at",
    "rank",
    "priority",
    "attempts_max",
    "args_version",
    "deadline_at",
    "limit_key",
    "trace_context",
];

/// A time as COPY reads it in its binary format: microseconds since the year 2000, with a time zone or without.
fn copied_time(at: NaiveDateTime) -> [u8; 8] {
    const Y2K_SECS: i64 = 946_684_800;
    (at.and_utc().timestamp_micros() - Y2K_SECS * 1_000_000).to_be_bytes()
}

/// Rows as COPY reads them in its binary format (PostgreSQL's manual, under COPY, "Binary Format").
struct CopiedRows(Vec<u8>);

impl CopiedRows {
    fn new(rows: usize) -> Self {
        let mut bytes = Vec::with_capacity(rows * 200);
        bytes.extend(b"PGCOPY\n\xff\r\n\0");
        // Neither flags nor an extension of the header.
        bytes.extend([0; 8]);
        Self(bytes)
    }

    fn begin(&mut self, fields: usize) {
        self.0.extend((fields as i16).to_be_bytes());
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.extend((bytes.len() as i32).to_be_bytes());
        self.0.extend(bytes);
    }

    fn nullable(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.field(bytes),
            None => self.0.extend((-1_i32).to_be_bytes()),
        }
    }

    fn jsonb(&mut self, json: &str) {
        const VERSION: u8 = 1;
        self.0.extend((json.len() as i32 + 1).to_be_bytes());
        self.0.push(VERSION);
        self.0.extend(json.as_bytes());
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend((-1_i16).to_be_bytes());
        self.0
    }
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
            args as _,
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
        args as _,
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
    args: Payload,
    run_at: Option<DateTime<Utc>>,
    wait_secs: Option<f64>,
) -> Result<Enqueued, Error> {
    const { assert_bounded::<J>() };
    let row = sqlx::query!(
        r#"insert into queue.jobs as n (queue, kind, args, run_at, rank, priority, attempts_max, deadline_at, args_version,
                                       limit_key, trace_context)
           select $1, $2, $3, d.run_at, queue.rank(d.run_at, $6::smallint), $6, $7,
                  greatest(d.run_at, clock_timestamp()) + make_interval(secs => $8), $9, $10, $11
           from (select coalesce($4, clock_timestamp() + make_interval(secs => coalesce($5::float8, 0))) as run_at) d
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
        args as _,
        run_at,
        wait_secs,
        J::PRIORITY,
        J::RETRY.attempts_max,
        J::deadline_after().map(|deadline| deadline.as_secs_f64()),
        J::VERSION,
        limit_key(job)?,
        trace::stored(),
    )
    .fetch_one(conn)
    .await?;
    Ok(enqueued::<J>(row.id, true))
}

/// What `queue.is_bounded` asks of a kind; of what only a job knows, [`payload`] and [`limit_key`] ask the rest.
const fn assert_bounded<J: Job>() {
    assert!(!J::QUEUE.is_empty() && J::QUEUE.len() <= 100);
    assert!(!J::KIND.is_empty() && J::KIND.len() <= 100);
    assert!(J::VERSION > 0);
    assert!(J::RETRY.attempts_max >= 1 && J::RETRY.attempts_max <= 1000);
    assert!(J::PRIORITY >= -10 && J::PRIORITY <= 10);
}

/// The JSON of a job.
pub(crate) type Payload = Json<Box<RawValue>>;

pub(crate) fn payload<J: Job>(job: &J) -> Result<Payload, Error> {
    let json = serde_json::value::to_raw_value(job).map_err(|source| Error::Payload { kind: J::KIND, source })?;
    match json.get().len() {
        ..=PAYLOAD_BYTES_MAX => Ok(Json(json)),
        bytes => Err(Error::PayloadTooLong { kind: J::KIND, bytes }),
    }
}

fn limit_key<J: Job>(job: &J) -> Result<Option<String>, Error> {
    let key = job.limit();
    match key.as_ref().map_or(0, |key| key.chars().count()) {
        ..=KEY_CHARACTERS_MAX => Ok(key),
        characters => Err(Error::LimitKeyTooLong {
            kind: J::KIND,
            characters,
        }),
    }
}
