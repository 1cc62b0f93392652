//! The timetable.
//!
//! A tick is a row, and whoever inserts it enqueues the job in the same transaction (`queue.fire`): single fire needs no
//! leader. Time is the database's; [`crate::cron`] says when an expression ticks.
//!
//! **What becomes of a tick** is decided once and stands in `queue.ticks`: it fired, it was skipped because an earlier run had
//! not ended ([`Overlap`]) or its entry was paused, or it was missed because nobody was there ([`Missed`]).
//!
//! **Which list is in force.** Every worker lists the entries of its build when it starts and each minute from then on. Of the
//! lists that somebody still lists, the one that came first to the database last is in force: during a deploy the new build's,
//! however often an old worker starts again; after a rollback the old one's, when nobody has listed the new one for
//! [`LISTED_FOR`]. What it does not have is retired, not deleted: it fires nothing, and comes back as it was, pause and override
//! included, when a list in force has it again within 30 days. A change of an entry's times counts from the change on.
//!
//! Operators add entries and override those of the build ([`crate::timetable`]); no list undoes that.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool};

use crate::cron::{self, Cron};
use crate::job::Job;

/// How long a list counts after it was listed last.
pub const LISTED_FOR: Duration = Duration::from_secs(300);

/// How often a worker should list its entries: well within [`LISTED_FOR`].
pub const LIST_EVERY: Duration = Duration::from_secs(60);

/// How many missed ticks [`Missed::All`] makes up for; older ones are only counted.
pub const MADE_UP_MAX: usize = 1000;

/// How many missed ticks are counted; there may be more.
const COUNTED_MAX: usize = 100_000;

/// The longest wait between a tick and its job, in seconds.
pub const JITTER_SECONDS_MAX: i32 = 3600;

/// What happens to ticks nobody was there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// They are forgotten.
    Skip,
    /// The last of them fires.
    Once,
    /// Each of them fires, the last [`MADE_UP_MAX`] at most.
    All,
}

impl Missed {
    /// Its names.
    pub const NAMES: [&str; 3] = ["skip", "once", "all"];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }
}

impl FromStr for Missed {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "skip" => Ok(Self::Skip),
            "once" => Ok(Self::Once),
            "all" => Ok(Self::All),
            _ => Err(Error::refused("missed", "must be one of skip, once, all")),
        }
    }
}

/// What a tick does while an earlier run of its entry has not ended. A live unique key of the kind stands above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// It fires all the same.
    Allow,
    /// It is skipped.
    Skip,
    /// It waits for its turn behind the run; while one waits already, it is skipped.
    QueueOne,
}

impl Overlap {
    /// Its names.
    pub const NAMES: [&str; 3] = ["allow", "skip", "queue_one"];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::QueueOne => "queue_one",
        }
    }
}

impl FromStr for Overlap {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "allow" => Ok(Self::Allow),
            "skip" => Ok(Self::Skip),
            "queue_one" => Ok(Self::QueueOne),
            _ => Err(Error::refused("overlap", "must be one of allow, skip, queue_one")),
        }
    }
}

/// Why something was not done to the timetable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value cannot be.
    #[error("{field}: {why}")]
    Refused {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such entry.
    #[error("the timetable has no entry {0}")]
    NotFound(String),
    /// There is one already.
    #[error("the timetable has an entry {0} already")]
    Exists(String),
    /// It is the build's.
    #[error("{0} is in the list of the build, which would bring it back; pause it instead")]
    Listed(String),
    /// There are too many.
    #[error("the timetable is full: it has {0} entries")]
    Full(i64),
    /// A run that was asked for would overlap.
    #[error("{0} was not run: {1}")]
    Overlaps(String, String),
    /// The database refused.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl Error {
    pub(crate) fn refused(field: &'static str, why: impl Into<String>) -> Self {
        Self::Refused { field, why: why.into() }
    }
}

impl From<cron::Refused> for Error {
    fn from(refused: cron::Refused) -> Self {
        match refused {
            cron::Refused::Cron(..) => Self::refused("cron", refused.to_string()),
            cron::Refused::TimeZone(_) => Self::refused("time_zone", refused.to_string()),
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
    pub time_zone: String,
    /// What happens to ticks nobody was there for.
    pub missed: Missed,
    /// What a tick does while an earlier run has not ended.
    pub overlap: Overlap,
    /// A job starts up to so much after its tick, at random.
    pub jitter_seconds: i32,
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
    /// The group of the job, if its kind has one.
    pub group_key: Option<String>,
    /// Its place against others.
    pub priority: i16,
    /// How often it is tried.
    pub attempts_max: i32,
}

impl Entry {
    /// A line in UTC whose missed ticks collapse to one, and whose runs may overlap unless the kind has a live unique key.
    pub fn new<J: Job>(name: &str, cron: &str, job: &J) -> Self {
        Self {
            name: name.to_owned(),
            cron: cron.to_owned(),
            time_zone: "UTC".to_owned(),
            missed: Missed::Once,
            overlap: Overlap::Allow,
            jitter_seconds: 0,
            kind: J::KIND,
            queue: J::QUEUE,
            args: serde_json::to_value(job).expect("a payload of the timetable is plain data"),
            args_version: J::VERSION,
            // A kept key would let the first tick be the last one.
            unique_key: job
                .unique()
                .filter(|unique| unique.scope == "live")
                .map(|unique| unique.key),
            group_key: job.group(),
            priority: J::PRIORITY,
            attempts_max: J::RETRY.attempts_max,
        }
    }

    /// The same, in another zone.
    #[must_use]
    pub fn time_zone(mut self, zone: chrono_tz::Tz) -> Self {
        zone.name().clone_into(&mut self.time_zone);
        self
    }

    /// The same, with another policy for missed ticks.
    #[must_use]
    pub fn missed(mut self, missed: Missed) -> Self {
        self.missed = missed;
        self
    }

    /// The same, with another policy for runs that overlap.
    #[must_use]
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// The same, with jobs spread over so many seconds after a tick.
    #[must_use]
    pub fn jitter_seconds(mut self, seconds: i32) -> Self {
        self.jitter_seconds = seconds;
        self
    }

    /// Whether it can be in a timetable; an error says what is wrong.
    pub fn check(&self) -> Result<(), Error> {
        let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
        if !(1..=100).contains(&self.name.len()) || !self.name.chars().all(is_letter) {
            let why = "must have 1 to 100 of the characters a to z, 0 to 9, _, - and .";
            return Err(Error::refused("name", why));
        }
        Cron::parse(&self.cron, &self.time_zone)?;
        check_policies(self.overlap, self.jitter_seconds, self.unique_key.as_deref())
    }

    /// What makes two builds' lists differ.
    fn definition(&self) -> Value {
        json!([
            self.name,
            self.cron,
            self.time_zone,
            self.missed.as_str(),
            self.overlap.as_str(),
            self.jitter_seconds,
            self.kind,
            self.queue,
            self.args,
            self.args_version,
            self.unique_key,
            self.group_key,
            self.priority,
            self.attempts_max,
        ])
    }
}

pub(crate) fn check_policies(overlap: Overlap, jitter_seconds: i32, unique_key: Option<&str>) -> Result<(), Error> {
    if let (Overlap::QueueOne, Some(key)) = (overlap, unique_key) {
        let why = format!("queue_one cannot be: its kind lets only one job with the unique key {key} live");
        return Err(Error::refused("overlap", why));
    }
    if !(0..=JITTER_SECONDS_MAX).contains(&jitter_seconds) {
        let why = format!("must be between 0 and {JITTER_SECONDS_MAX}");
        return Err(Error::refused("jitter_seconds", why));
    }
    Ok(())
}

/// Lists the entries of this build, and writes the timetable if its list is the one in force; returns whether it is.
///
/// Every worker calls it before it looks for ticks, and each [`LIST_EVERY`] from then on.
pub async fn install(conn: &mut PgConnection, entries: &[Entry]) -> Result<bool, Error> {
    for entry in entries {
        entry.check()?;
    }
    let mut definitions: Vec<Value> = entries.iter().map(Entry::definition).collect();
    definitions.sort_by_key(|definition| definition[0].to_string());

    let mut tx = conn.begin().await?;
    sqlx::query!("select pg_advisory_xact_lock(hashtext('queue.install'))")
        .execute(&mut *tx)
        .await?;
    let is_in_force = list(&mut tx, &Value::from(definitions)).await?;
    if is_in_force {
        for entry in entries {
            write(&mut tx, entry).await?;
        }
        retire_others(&mut tx, entries).await?;
    }
    tx.commit().await?;
    Ok(is_in_force)
}

/// Notes that somebody carries this list; whether it is the one in force.
async fn list(conn: &mut PgConnection, definitions: &Value) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"with listed as (
               insert into queue.timetables as t (digest) values (md5($1::jsonb::text))
               on conflict (digest) do update
               set listed_at = clock_timestamp(),
                   first_listed_at = case when t.listed_at < clock_timestamp() - make_interval(secs => $2) then clock_timestamp()
                                          else t.first_listed_at end
               returning digest, first_listed_at
           )
           select not exists (
               select from queue.timetables other
               where other.digest <> listed.digest and other.first_listed_at > listed.first_listed_at
                 and other.listed_at >= clock_timestamp() - make_interval(secs => $2)
           ) as "is_in_force!"
           from listed"#,
        definitions,
        LISTED_FOR.as_secs_f64(),
    )
    .fetch_one(conn)
    .await
}

async fn write(conn: &mut PgConnection, entry: &Entry) -> sqlx::Result<()> {
    let written = sqlx::query!(
        r#"insert into queue.schedules as s (name, kind, queue, args, args_version, unique_key, group_key, priority, attempts_max,
                                             cron, time_zone, missed, overlap, jitter_seconds)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
           on conflict (name) do update
           set kind = excluded.kind, queue = excluded.queue, args = excluded.args, args_version = excluded.args_version,
               unique_key = excluded.unique_key, group_key = excluded.group_key, priority = excluded.priority,
               attempts_max = excluded.attempts_max, cron = excluded.cron, time_zone = excluded.time_zone,
               missed = excluded.missed, overlap = excluded.overlap, jitter_seconds = excluded.jitter_seconds,
               settled_at = case when (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone) and s.retired_at is null
                                 then s.settled_at else clock_timestamp() end,
               retired_at = null, next_at = null
           where s.origin = 'build'
             and (s.retired_at is not null
                  or (s.kind, s.queue, s.args, s.args_version, s.unique_key, s.group_key, s.priority, s.attempts_max,
                      s.cron, s.time_zone, s.missed, s.overlap, s.jitter_seconds)
                     is distinct from
                     (excluded.kind, excluded.queue, excluded.args, excluded.args_version, excluded.unique_key,
                      excluded.group_key, excluded.priority, excluded.attempts_max, excluded.cron, excluded.time_zone,
                      excluded.missed, excluded.overlap, excluded.jitter_seconds))"#,
        entry.name,
        entry.kind,
        entry.queue,
        entry.args,
        entry.args_version,
        entry.unique_key,
        entry.group_key,
        entry.priority,
        entry.attempts_max,
        entry.cron,
        entry.time_zone,
        entry.missed.as_str(),
        entry.overlap.as_str(),
        entry.jitter_seconds,
    )
    .execute(conn)
    .await?;
    if written.rows_affected() == 1 {
        tracing::info!(
            name = entry.name,
            cron = entry.cron,
            "the timetable has a new or changed entry"
        );
    }
    Ok(())
}

async fn retire_others(conn: &mut PgConnection, entries: &[Entry]) -> sqlx::Result<()> {
    let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
    let retired = sqlx::query_scalar!(
        "update queue.schedules set retired_at = clock_timestamp()
         where origin = 'build' and retired_at is null and name <> all($1)
         returning name",
        &names
    )
    .fetch_all(conn)
    .await?;
    for name in retired {
        tracing::info!(name, "the timetable has lost an entry");
    }
    Ok(())
}

/// Forgets the ticks and the retired entries of more than 30 days ago.
pub async fn prune(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query!("delete from queue.ticks where tick_at < clock_timestamp() - interval '30 days'")
        .execute(pool)
        .await?;
    sqlx::query!("delete from queue.schedules where retired_at < clock_timestamp() - interval '30 days'")
        .execute(pool)
        .await?;
    sqlx::query!("delete from queue.timetables where listed_at < clock_timestamp() - interval '30 days'")
        .execute(pool)
        .await?;
    Ok(())
}

/// Fires what is due; returns how many jobs were enqueued. With nothing due it is one look at a small table.
pub async fn tick(pool: &PgPool) -> Result<u64, Error> {
    let names = sqlx::query_scalar!(
        "select name from queue.schedules
         where not paused and retired_at is null and (next_at is null or next_at <= (select clock_timestamp()))
         order by name"
    )
    .fetch_all(pool)
    .await?;
    let mut fired = 0;
    for name in names {
        match settle(pool, &name).await {
            Ok(jobs) => fired += jobs,
            // What is wrong with one entry must not stop the others, nor come again every second.
            Err(sqlx::Error::Database(error)) if is_ours(error.code().as_deref()) => {
                tracing::error!(name, "an entry of the timetable cannot fire: {error}");
                postpone(&mut *pool.acquire().await?, &name).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(fired)
}

/// Whether a database error is about what was written: wrong data, or a rule of ours.
fn is_ours(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

async fn postpone(conn: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update queue.schedules set next_at = clock_timestamp() + interval '1 min' where name = $1",
        name
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Decides the due ticks of an entry unless somebody else is doing so; returns how many jobs that made.
async fn settle(pool: &PgPool, name: &str) -> sqlx::Result<u64> {
    let mut tx = pool.begin().await?;
    let due = sqlx::query!(
        r#"select coalesce(o.cron, s.cron) as "cron!", coalesce(o.time_zone, s.time_zone) as "time_zone!",
                  coalesce(o.missed, s.missed) as "missed!", s.settled_at, clock_timestamp() as "now!"
           from queue.schedules s
           left join queue.schedule_overrides o on o.name = s.name
           where s.name = $1 and not s.paused and s.retired_at is null
             and (s.next_at is null or s.next_at <= clock_timestamp())
           for update of s skip locked"#,
        name,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(due) = due else { return Ok(0) };
    let (cron, missed) = match (Cron::parse(&due.cron, &due.time_zone), due.missed.parse()) {
        (Ok(cron), Ok(missed)) => (cron, missed),
        (cron, _) => {
            tracing::error!(name, refused = ?cron.err(), "the timetable has an entry that cannot be read");
            postpone(&mut tx, name).await?;
            tx.commit().await?;
            return Ok(0);
        }
    };
    let ticks = cron.until(due.now).take_while(|tick| *tick > due.settled_at);
    let plan = Plan::new(missed, due.now, ticks);
    if let Some((last, count)) = plan.missed {
        let reason = format!("nobody was there; the policy is {}", missed.as_str());
        note(&mut tx, name, last, "missed", &reason, count).await?;
    }
    let decided = sqlx::query_scalar!(
        r#"select f.outcome
           from unnest($2::timestamptz[]) with ordinality as t (tick_at, place)
           cross join lateral queue.fire($1, t.tick_at) f
           order by t.place"#,
        name,
        &plan.fire,
    )
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query!(
        "update queue.schedules set settled_at = greatest(settled_at, $2), next_at = $3 where name = $1",
        name,
        due.now,
        cron.after(due.now.max(due.settled_at)).next(),
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;

    let count = |outcome: &str| decided.iter().filter(|found| found.as_deref() == Some(outcome)).count() as u64;
    let (fired, skipped) = (count("fired"), count("skipped"));
    metrics::counter!(crate::metric::TICKS_FIRED, "name" => name.to_owned()).increment(fired);
    metrics::counter!(crate::metric::TICKS_SKIPPED, "name" => name.to_owned()).increment(skipped);
    let missed = plan.missed.map_or(0, |(_, count)| count);
    metrics::counter!(crate::metric::TICKS_MISSED, "name" => name.to_owned()).increment(missed as u64);
    Ok(fired)
}

/// Writes down what became of some ticks that did not fire.
pub(crate) async fn note(
    conn: &mut PgConnection,
    name: &str,
    last: DateTime<Utc>,
    outcome: &str,
    reason: &str,
    count: usize,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into queue.ticks (name, tick_at, outcome, reason, ticks) values ($1, $2, $3, $4, $5) on conflict do nothing",
        name,
        last,
        outcome,
        reason,
        i32::try_from(count).unwrap_or(i32::MAX),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What is to become of the ticks that are due.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Those that fire, the earliest first.
    fire: Vec<DateTime<Utc>>,
    /// The last of those that do not, and how many there are.
    missed: Option<(DateTime<Utc>, usize)>,
}

impl Plan {
    /// `ticks` are the due ones, the latest first.
    fn new(missed: Missed, now: DateTime<Utc>, ticks: impl Iterator<Item = DateTime<Utc>>) -> Self {
        /// A tick this young was not missed.
        const FRESH: chrono::TimeDelta = chrono::TimeDelta::seconds(60);
        let mut ticks = ticks.take(COUNTED_MAX).peekable();
        let mut fire: Vec<_> = match missed {
            Missed::Skip => ticks.next_if(|tick| now - *tick <= FRESH).into_iter().collect(),
            Missed::Once => ticks.next().into_iter().collect(),
            Missed::All => ticks.by_ref().take(MADE_UP_MAX).collect(),
        };
        fire.reverse();
        let last = ticks.peek().copied();
        Self {
            fire,
            missed: last.map(|last| (last, ticks.count())),
        }
    }
}

/// How many ticks there are in between, and the last of them; counted to a bound.
pub(crate) fn between(cron: &Cron, after: DateTime<Utc>, until: DateTime<Utc>) -> Option<(DateTime<Utc>, usize)> {
    let mut ticks = cron
        .until(until)
        .take_while(|tick| *tick > after)
        .take(COUNTED_MAX)
        .peekable();
    let last = ticks.peek().copied()?;
    Some((last, ticks.count()))
}

/// The next ticks after a time, for people.
pub(crate) fn next(cron: &str, time_zone: &str, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
    let Ok(cron) = Cron::parse(cron, time_zone) else {
        return Vec::new();
    };
    cron.after(after).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(minute)
    }

    #[test]
    fn missed_ticks_are_planned_within_bounds() {
        let due = |count: i64| (1..=count).rev().map(at);
        let now = |count: i64| at(count) + chrono::TimeDelta::seconds(30);
        let plan = |missed, count| Plan::new(missed, now(count), due(count));
        let is = |fire: Vec<DateTime<Utc>>, missed| Plan { fire, missed };

        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            assert_eq!(plan(missed, 0), is(vec![], None), "{missed:?}");
            assert_eq!(
                plan(missed, 1),
                is(vec![at(1)], None),
                "{missed:?}: what is fresh was not missed"
            );
        }
        assert_eq!(plan(Missed::Once, 5), is(vec![at(5)], Some((at(4), 4))));
        assert_eq!(plan(Missed::Skip, 5), is(vec![at(5)], Some((at(4), 4))));
        let late = Plan::new(Missed::Skip, at(7), due(5));
        assert_eq!(late, is(vec![], Some((at(5), 5))));

        let all = plan(Missed::All, 1700);
        assert_eq!((all.fire.len(), all.fire[0], all.fire[999]), (1000, at(701), at(1700)));
        assert_eq!(all.missed, Some((at(700), 700)));

        let years = plan(Missed::Once, 5_000_000);
        assert_eq!(years.missed.map(|(_, count)| count), Some(COUNTED_MAX - 1));
    }
}
