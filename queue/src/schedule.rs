//! The timetable.
//!
//! A tick is a row, and whoever inserts it enqueues the job in the same transaction: single fire needs no leader. Time
//! is the database's. [`Missed`] says what becomes of ticks nobody was there for; whether a run may overlap the one
//! before is the kind's own decision, by its live unique key.

use chrono::{DateTime, Utc};
use croner::Cron;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use crate::enqueue::Error;
use crate::job::Job;

/// What happens to ticks nobody was there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// They are forgotten.
    Skip,
    /// The last of them fires.
    Once,
    /// Each of them fires.
    All,
}

impl Missed {
    fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }
}

/// One line of the timetable.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// When, in the five fields of cron.
    pub cron: String,
    /// The zone the cron expression is meant in.
    pub time_zone: chrono_tz::Tz,
    /// What happens to ticks nobody was there for.
    pub missed: Missed,
    /// The kind of the job.
    pub kind: &'static str,
    /// The queue of the job.
    pub queue: &'static str,
    /// The payload of the job.
    pub args: Value,
    /// The version of the payload.
    pub args_version: i16,
    /// The live key of the job, if its kind has one.
    pub unique_key: Option<String>,
    /// Its place against others.
    pub priority: i16,
    /// How often it is tried.
    pub attempts_max: i32,
}

impl Entry {
    /// A line in UTC whose missed ticks collapse to one.
    pub fn new<J: Job>(name: &str, cron: &str, job: &J) -> Self {
        Self {
            name: name.to_owned(),
            cron: cron.to_owned(),
            time_zone: chrono_tz::UTC,
            missed: Missed::Once,
            kind: J::KIND,
            queue: J::QUEUE,
            args: serde_json::to_value(job).expect("a payload of the timetable is plain data"),
            args_version: J::VERSION,
            // A kept key would let the first tick be the last one.
            unique_key: job
                .unique()
                .filter(|unique| unique.scope == "live")
                .map(|unique| unique.key),
            priority: J::PRIORITY,
            attempts_max: J::RETRY.attempts_max,
        }
    }

    /// The same, in another zone.
    #[must_use]
    pub fn time_zone(mut self, zone: chrono_tz::Tz) -> Self {
        self.time_zone = zone;
        self
    }

    /// The same, with another policy for missed ticks.
    #[must_use]
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }
}

/// Writes the timetable: new lines, changed lines; lines no longer listed are removed. Pauses stay.
pub async fn install(conn: &mut PgConnection, entries: &[Entry]) -> Result<(), Error> {
    for entry in entries {
        sqlx::query!(
            "insert into queue.schedules as s (name, kind, queue, args, args_version, unique_key, priority, attempts_max,
                                               cron, time_zone, missed)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             on conflict (name) do update
             set kind = excluded.kind, queue = excluded.queue, args = excluded.args, args_version = excluded.args_version,
                 unique_key = excluded.unique_key, priority = excluded.priority, attempts_max = excluded.attempts_max,
                 cron = excluded.cron, time_zone = excluded.time_zone, missed = excluded.missed
             where (s.kind, s.queue, s.args, s.args_version, s.unique_key, s.priority, s.attempts_max, s.cron, s.time_zone, s.missed)
                   is distinct from
                   (excluded.kind, excluded.queue, excluded.args, excluded.args_version, excluded.unique_key,
                    excluded.priority, excluded.attempts_max, excluded.cron, excluded.time_zone, excluded.missed)",
            entry.name,
            entry.kind,
            entry.queue,
            entry.args,
            entry.args_version,
            entry.unique_key,
            entry.priority,
            entry.attempts_max,
            entry.cron,
            entry.time_zone.name(),
            entry.missed.as_str(),
        )
        .execute(&mut *conn)
        .await?;
    }
    let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
    sqlx::query!("delete from queue.schedules where name <> all($1)", &names)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("delete from queue.ticks where tick_at < clock_timestamp() - interval '30 days'")
        .execute(conn)
        .await?;
    Ok(())
}

/// One line as the table has it.
struct Line {
    name: String,
    cron: String,
    time_zone: String,
    missed: String,
    settled_at: DateTime<Utc>,
    now: DateTime<Utc>,
}

/// Fires what is due; returns how many jobs were enqueued.
pub async fn tick(pool: &PgPool) -> Result<u64, Error> {
    let lines = sqlx::query_as!(
        Line,
        r#"select name, cron, time_zone, missed, settled_at, clock_timestamp() as "now!"
           from queue.schedules where not paused order by name"#
    )
    .fetch_all(pool)
    .await?;
    let mut fired = 0;
    for line in lines {
        for tick_at in due(&line) {
            fired += fire(pool, &line.name, tick_at).await?;
        }
    }
    Ok(fired)
}

/// The ticks of a line that are to fire now, oldest first.
fn due(line: &Line) -> Vec<DateTime<Utc>> {
    /// A tick this young was not missed.
    const FRESH: chrono::TimeDelta = chrono::TimeDelta::seconds(60);
    const TICKS_AT_ONCE: usize = 1000;
    let Some((cron, zone)) = parse(&line.cron, &line.time_zone) else {
        tracing::error!(
            name = line.name,
            cron = line.cron,
            "the timetable has a line that cannot be read"
        );
        return Vec::new();
    };
    if line.missed == "all" {
        return cron
            .iter_after(line.settled_at.with_timezone(&zone))
            .map(|at| at.to_utc())
            .take_while(|at| *at <= line.now)
            .take(TICKS_AT_ONCE)
            .collect();
    }
    let last = cron
        .find_previous_occurrence(&line.now.with_timezone(&zone), true)
        .ok()
        .map(|at| at.to_utc());
    last.filter(|at| *at > line.settled_at)
        .filter(|at| line.missed == "once" || line.now - *at <= FRESH)
        .into_iter()
        .collect()
}

/// Fires one tick unless somebody else does; returns how many jobs that made.
async fn fire(pool: &PgPool, name: &str, tick_at: DateTime<Utc>) -> Result<u64, Error> {
    let mut tx = pool.begin().await?;
    // A twin waits here for the first to commit, and then finds nothing to insert.
    let is_ours = sqlx::query!(
        "insert into queue.ticks (name, tick_at)
         select s.name, $2 from queue.schedules s where s.name = $1 and s.settled_at < $2 and not s.paused
         on conflict do nothing",
        name,
        tick_at,
    )
    .execute(&mut *tx)
    .await?
    .rows_affected()
        == 1;
    let mut fired = 0;
    if is_ours {
        let job = sqlx::query!(
            r#"select e.job_id as "id!", e.is_new as "is_new!"
               from queue.schedules s
               cross join lateral queue.enqueue(s.queue, s.kind, s.args, null, s.unique_key, 'live', null, s.priority::int,
                                                s.attempts_max, null, s.args_version::int) e
               where s.name = $1"#,
            name,
        )
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query!(
            "update queue.ticks set job_id = $3 where name = $1 and tick_at = $2",
            name,
            tick_at,
            job.id
        )
        .execute(&mut *tx)
        .await?;
        fired = u64::from(job.is_new);
    }
    sqlx::query!(
        "update queue.schedules set settled_at = $2 where name = $1 and settled_at < $2",
        name,
        tick_at
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    if is_ours {
        metrics::counter!(crate::metric::TICKS_FIRED, "name" => name.to_owned()).increment(1);
    }
    Ok(fired)
}

/// The next ticks after a time, for people.
pub(crate) fn next(cron: &str, time_zone: &str, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
    let Some((cron, zone)) = parse(cron, time_zone) else {
        return Vec::new();
    };
    cron.iter_after(after.with_timezone(&zone))
        .take(count)
        .map(|at| at.to_utc())
        .collect()
}

fn parse(cron: &str, time_zone: &str) -> Option<(Cron, chrono_tz::Tz)> {
    Some((cron.parse().ok()?, time_zone.parse().ok()?))
}
