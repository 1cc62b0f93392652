//! Due jobs change hands: one statement, each claim with a higher fence.
//!
//! A claim is one row with all its jobs in it (see the migration): claiming deletes from the line and does not rewrite it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use sqlx::types::{Json, JsonRawValue};
use sqlx::{PgConnection, PgPool};

use crate::catalogue::Catalogue;
use crate::job::JobId;

/// A place in line, by time: who has the lowest is next.
pub type Rank = NaiveDateTime;

/// A job in a worker's hands, not yet decoded.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The job.
    pub id: JobId,
    /// The line it waited in.
    pub queue: Arc<str>,
    /// Its kind.
    pub kind: String,
    /// The version of its payload.
    pub args_version: i16,
    /// Its payload.
    pub args: Json<Box<JsonRawValue>>,
    /// How often it was claimed.
    pub fence: i64,
    /// The number of this try.
    pub attempt: i32,
    /// How many tries it has.
    pub attempts_max: i32,
    /// The key only it may have.
    pub unique_key: Option<String>,
    /// The group it has its turn in.
    pub group_key: Option<String>,
    /// The claim it is part of.
    pub claim_id: i64,
    /// The worker that claimed it.
    pub worker_id: i64,
    /// When.
    pub claimed_at: DateTime<Utc>,
    /// Whether its deadline has passed.
    pub is_late: bool,
    /// Workers that it took down alone.
    pub crashes_alone: i32,
    /// The trace it belongs to.
    pub trace_context: Option<String>,
    /// The limit it counts against.
    pub limit_key: Option<String>,
    /// Whether something waits for its end.
    pub is_awaited: bool,
    /// Whether its key or its queue has a limit, and must be told when it no longer runs.
    pub is_limited: bool,
    /// Its place in line.
    pub rank: Rank,
}

/// What a process may claim from one queue: kinds it knows, in versions it reads.
#[derive(Clone, Debug)]
pub struct Known {
    queue: Arc<str>,
    kinds: Vec<String>,
    versions: Vec<i16>,
    /// A kind of low priority stands behind its `run_at` in line; so far ahead must a claim look.
    ahead_secs: f64,
    /// A kind of high priority stands before its `run_at`: so far behind may something new appear.
    ahead_of_time: TimeDelta,
    /// Whether all its kinds take many jobs at once.
    is_batched: bool,
}

impl Known {
    /// What the catalogue knows of a queue.
    pub fn of<S: Send + Sync + 'static>(catalogue: &Catalogue<S>, queue: &str) -> Self {
        const STEP_OF_PRIORITY_SECS: i32 = 30;
        let kinds: Vec<_> = catalogue
            .kinds()
            .into_iter()
            .filter(|kind| kind.queue == queue)
            .collect();
        let priorities = || kinds.iter().map(|kind| i32::from(kind.priority));
        let lowest = priorities().min().unwrap_or(0).min(0);
        let highest = priorities().max().unwrap_or(0).max(0);
        Self {
            queue: queue.into(),
            kinds: kinds.iter().map(|kind| kind.kind.to_owned()).collect(),
            versions: kinds.iter().map(|kind| kind.version).collect(),
            ahead_secs: f64::from(-lowest * STEP_OF_PRIORITY_SECS),
            ahead_of_time: TimeDelta::seconds(i64::from(highest * STEP_OF_PRIORITY_SECS)),
            is_batched: kinds.iter().all(|kind| kind.batch_max > 1),
        }
    }

    /// The queue.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Whether there is any kind to claim.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }
}

/// How many jobs one claim takes at most: its row is read whole by whoever takes one of them.
pub const CLAIM_MAX: usize = 500;

/// Claims up to `limit` due jobs for a worker whose row still stands, at most [`CLAIM_MAX`].
pub async fn claim(pool: &PgPool, known: &Known, worker_id: i64, limit: usize) -> sqlx::Result<Vec<Claimed>> {
    let conn = &mut *pool.acquire().await?;
    take(conn, known, worker_id, &Wanted::due(limit.min(CLAIM_MAX)), || ()).await
}

/// Claims the suspect that has waited longest: it must be run with nothing beside it.
pub async fn claim_suspect(pool: &PgPool, known: &Known, worker_id: i64) -> sqlx::Result<Option<Claimed>> {
    let wanted = Wanted {
        suspects: true,
        ..Wanted::due(1)
    };
    let conn = &mut *pool.acquire().await?;
    Ok(take(conn, known, worker_id, &wanted, || ()).await?.pop())
}

/// Claims those of these jobs that the worker may run now: they were just given their turn, which their rows do not say yet.
/// What counts against a limit is left to the line.
pub(crate) async fn claim_turned(
    conn: &mut PgConnection,
    known: &Known,
    worker_id: i64,
    turned: &[i64],
) -> sqlx::Result<Vec<Claimed>> {
    let wanted = Wanted {
        turned: Some(turned),
        ..Wanted::due(turned.len())
    };
    take(conn, known, worker_id, &wanted, || ()).await
}

/// Claims from one queue again and again.
///
/// The head of a line is full of rows that were deleted and cannot be vacuumed while anybody holds an old snapshot. A line
/// that has become slow to read from its beginning is mostly read from where it was last found empty, and now and then,
/// for a small share of the time, from its beginning: something may have been put back there. What is known to have been put
/// back, by [`Line::look_back`], is found by the next claim.
///
/// A claim beside another steps over every row that the other has locked. So the next begins when the server has found the jobs
/// of the one before, and while they are still being read. Where jobs are done in batches the process has a core to spare, and
/// two claims at once are faster all the same.
#[derive(Debug)]
pub struct Line {
    known: Known,
    place: Mutex<Place>,
    turns: Option<tokio::sync::Mutex<()>>,
}

/// Where a line is read from.
#[derive(Debug, Default)]
struct Place {
    /// Everything due before was claimed, when it was last looked at.
    emptied_to: Option<Rank>,
    /// The last claim that read from the beginning: when, and how long it took.
    whole: Option<(Instant, Duration)>,
    /// Something due since then may have appeared.
    back_to: Option<Rank>,
}

/// A line that takes no longer than this is read from its beginning every time.
const WHOLE_IS_CHEAP: Duration = Duration::from_millis(5);

/// Between two readings from the beginning lies at least this,
const WHOLE_EVERY: Duration = Duration::from_millis(250);

/// and so many times what one takes.
const WHOLE_SHARE: u32 = 50;

/// A transaction that took longer than this from its insert to its commit is found by reading from the beginning.
const COMMIT_WITHIN: TimeDelta = TimeDelta::seconds(2);

impl Line {
    /// The line of a queue, read from its beginning.
    pub fn new(known: Known) -> Self {
        Self {
            place: Mutex::default(),
            turns: (!known.is_batched).then(tokio::sync::Mutex::default),
            known,
        }
    }

    /// What may be claimed from it.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Says that a job of this rank has ended for which others may have waited: the next of its group, or of its limit's key. They
    /// have their place in line from the beginning, and it is no earlier than that of the one that went before them.
    pub fn look_back(&self, rank: Rank) {
        let mut place = self.place();
        place.back_to = Some(place.back_to.map_or(rank, |other| other.min(rank)));
    }

    /// Claims up to `limit` due jobs for a worker whose row still stands, at most [`CLAIM_MAX`].
    pub async fn claim(&self, pool: &PgPool, worker_id: i64, limit: usize) -> sqlx::Result<Vec<Claimed>> {
        let limit = limit.min(CLAIM_MAX);
        let turn = match &self.turns {
            Some(turns) => Some(turns.lock().await),
            None => None,
        };
        let started = Instant::now();
        let since = self.place().since();
        let mut took = Duration::ZERO;
        let found = || {
            took = started.elapsed();
            drop(turn);
        };
        let wanted = Wanted {
            since,
            ..Wanted::due(limit)
        };
        let claimed = async {
            let conn = &mut *pool.acquire().await?;
            take(conn, &self.known, worker_id, &wanted, found).await
        };
        let claimed = match claimed.await {
            Ok(claimed) => claimed,
            Err(error) => {
                // What it was to look back to is looked for from the beginning.
                self.place().whole = None;
                return Err(error);
            }
        };
        metrics::histogram!(crate::metric::CLAIM_SECONDS, "queue" => self.known.queue.to_string())
            .record(took.as_secs_f64());
        let reached = match claimed.len() < limit {
            true => claimed.first().map(|job| job.claimed_at.naive_utc()),
            false => claimed.iter().map(|job| job.rank).max(),
        };
        let mut place = self.place();
        if since.is_none() {
            place.whole = Some((started, took));
        }
        if let Some(reached) = reached {
            place.emptied_to = Some(reached - COMMIT_WITHIN - self.known.ahead_of_time);
        }
        Ok(claimed)
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Where the next claim begins to read; none for the beginning.
    fn since(&mut self) -> Option<Rank> {
        let back_to = self.back_to.take();
        let is_whole_due = self
            .whole
            .is_none_or(|(at, took)| took <= WHOLE_IS_CHEAP || at.elapsed() >= WHOLE_EVERY.max(took * WHOLE_SHARE));
        let emptied_to = self.emptied_to.filter(|_| !is_whole_due)?;
        Some(back_to.map_or(emptied_to, |back_to| emptied_to.min(back_to)))
    }
}

/// Which jobs a claim takes.
struct Wanted<'a> {
    limit: usize,
    /// Suspects only, instead of none.
    suspects: bool,
    /// From this place in line on.
    since: Option<Rank>,
    /// These, wherever they are.
    turned: Option<&'a [i64]>,
}

impl Wanted<'_> {
    /// So many from the beginning of the line.
    fn due(limit: usize) -> Self {
        Self {
            limit,
            suspects: false,
            since: None,
            turned: None,
        }
    }
}

/// The claim that says: limits have opened, or all that was taken is parked now. Look again.
const AGAIN: i64 = -1;

/// How often a claim looks, at most.
const LOOKS_MAX: usize = 20;

/// Calls `found` when the server has done its work, and before the jobs are read.
///
/// What limits had parked is let in by a transaction of its own: a claim that held their keys, and then waited for those of the jobs
/// it takes, could wait for another that does the same.
async fn take(
    conn: &mut PgConnection,
    known: &Known,
    worker_id: i64,
    wanted: &Wanted<'_>,
    found: impl FnOnce(),
) -> sqlx::Result<Vec<Claimed>> {
    let mut found = Some(found);
    let mut since = wanted.since;
    for look in 0..LOOKS_MAX {
        let wanted = Wanted { since, ..*wanted };
        if let Some(claimed) = take_once(conn, known, worker_id, &wanted, look == 0, &mut found).await? {
            return Ok(claimed);
        }
        let lowest = sqlx::query_scalar!("select nullif(queue.let_in(), 'infinity')")
            .fetch_one(&mut *conn)
            .await?;
        since = since.map(|since| lowest.map_or(since, |lowest| since.min(lowest)));
    }
    Ok(Vec::new())
}

/// One look; none when another is worth while. The first one also sees whether limits have opened.
async fn take_once(
    conn: &mut PgConnection,
    known: &Known,
    worker_id: i64,
    wanted: &Wanted<'_>,
    is_first: bool,
    found: &mut Option<impl FnOnce()>,
) -> sqlx::Result<Option<Vec<Claimed>>> {
    let mut rows = sqlx::query!(
        r#"select c.id as "id!: JobId", c.kind as "kind!", c.args_version as "args_version!",
                  c.args as "args!: Json<Box<JsonRawValue>>", c.fence as "fence!", c.attempt as "attempt!",
                  c.attempts_max as "attempts_max!", c.unique_key, c.group_key, c.claim_id as "claim_id!",
                  c.claimed_at as "claimed_at!", coalesce(c.deadline_at < clock_timestamp(), false) as "is_late!",
                  c.crashes_alone as "crashes_alone!", c.trace_context,
                  c.limit_key, c.awaited as "is_awaited!", c.limited as "is_limited!", c.rank as "rank!"
           from queue.claim($1, $2, $3, $4, $5, make_interval(secs => $6), $7, coalesce($8::timestamp, '-infinity'),
                            $9::bigint[], $10) c"#,
        &*known.queue,
        &known.kinds,
        &known.versions,
        worker_id,
        wanted.limit as i64,
        known.ahead_secs,
        wanted.suspects,
        wanted.since,
        wanted.turned,
        is_first,
    )
    .fetch(&mut *conn);
    let mut next = rows.try_next().await;
    if matches!(&next, Ok(Some(row)) if row.claim_id == AGAIN) {
        return Ok(None);
    }
    if let Some(found) = found.take() {
        found();
    }
    let mut claimed = Vec::with_capacity(wanted.limit);
    while let Some(row) = next? {
        claimed.push(Claimed {
            id: row.id,
            queue: Arc::clone(&known.queue),
            kind: row.kind,
            args_version: row.args_version,
            args: row.args,
            fence: row.fence,
            attempt: row.attempt,
            attempts_max: row.attempts_max,
            unique_key: row.unique_key,
            group_key: row.group_key,
            claim_id: row.claim_id,
            worker_id,
            claimed_at: row.claimed_at,
            is_late: row.is_late,
            crashes_alone: row.crashes_alone,
            trace_context: row.trace_context,
            limit_key: row.limit_key,
            is_awaited: row.is_awaited,
            is_limited: row.is_limited,
            rank: row.rank,
        });
        next = rows.try_next().await;
    }
    claimed.sort_by_key(|job| job.id);
    metrics::counter!(crate::metric::CLAIMED, "queue" => known.queue.to_string()).increment(claimed.len() as u64);
    Ok(Some(claimed))
}

/// Whether a suspect of one of these queues is due.
pub async fn is_suspect_due(pool: &PgPool, queues: &[String]) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select from queue.jobs
               where queue = any($1) and suspect and turn and run_at <= (select clock_timestamp())
           ) as "due!""#,
        queues,
    )
    .fetch_one(pool)
    .await
}

/// How long until the next job of a queue is due, at most `longest`.
pub async fn next_due(pool: &PgPool, known: &Known, longest: Duration) -> sqlx::Result<Duration> {
    let seconds = sqlx::query_scalar!(
        r#"select extract(epoch from least(
                      (select c.run_at from queue.jobs c
                       where c.queue = $1 and not c.suspect and c.turn
                         and c.rank > (select clock_timestamp() at time zone 'UTC' + make_interval(secs => $2))
                       order by c.rank, c.id limit 1),
                      -- Or until a limit has room again.
                      (select min(k.opens_at) from queue.limit_keys k where k.opens_at is not null)
                  ) - clock_timestamp())::float8"#,
        &known.queue,
        known.ahead_secs,
    )
    .fetch_one(pool)
    .await?;
    Ok(seconds.map_or(longest, |seconds| {
        Duration::from_secs_f64(seconds.max(0.0)).min(longest)
    }))
}
