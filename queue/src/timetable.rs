//! What an operator does to the timetable, each with a reason and a line in the audit.
//!
//! What a build lists is overridden, in a row of its own that no deploy touches and that [`reset`] takes away. What an operator
//! added is the operator's: it is changed as it stands, and removed.

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::cron::Cron;
use crate::job::JobId;
use crate::operate::audit;
use crate::schedule::{self, Entry, Error, Missed, Overlap};

/// More entries than this are no timetable: each is looked at every second, by every worker.
pub const ENTRIES_MAX: i64 = 1000;

/// What is to change of an entry; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// When, in the five fields of cron.
    pub cron: Option<String>,
    /// In which zone.
    pub time_zone: Option<String>,
    /// What happens to ticks nobody was there for.
    pub missed: Option<Missed>,
    /// What a tick does while an earlier run has not ended.
    pub overlap: Option<Overlap>,
    /// A job starts up to so much after its tick.
    pub jitter_seconds: Option<i32>,
    /// Whether it fires at all. What ticks during a pause is skipped, and noted when the pause ends.
    pub paused: Option<bool>,
}

impl Change {
    /// Only a pause, or its end.
    pub fn paused(paused: bool) -> Self {
        Self {
            paused: Some(paused),
            ..Self::default()
        }
    }

    fn is_of_definition(&self) -> bool {
        self.cron.is_some()
            || self.time_zone.is_some()
            || self.missed.is_some()
            || self.overlap.is_some()
            || self.jitter_seconds.is_some()
    }

    fn detail(&self) -> Value {
        let pairs = [
            ("cron", self.cron.clone().map(Value::from)),
            ("time_zone", self.time_zone.clone().map(Value::from)),
            ("missed", self.missed.map(|missed| missed.as_str().into())),
            ("overlap", self.overlap.map(|overlap| overlap.as_str().into())),
            ("jitter_seconds", self.jitter_seconds.map(Value::from)),
            ("paused", self.paused.map(Value::from)),
        ];
        let given = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect())
    }
}

/// Does all of it or nothing; a refusal lets go of its locks at once.
async fn whole<T>(
    conn: &mut PgConnection,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut tx = conn.begin().await?;
    match work(&mut tx).await {
        Ok(done) => {
            tx.commit().await?;
            Ok(done)
        }
        Err(error) => {
            tx.rollback().await?;
            Err(error)
        }
    }
}

/// Adds an entry; its first tick is the next one.
pub async fn add(conn: &mut PgConnection, entry: &Entry, actor: &str, reason: &str) -> Result<(), Error> {
    whole(conn, async |tx| {
    entry.check()?;
    let count = sqlx::query_scalar!(r#"select count(*) as "count!" from queue.schedules"#)
        .fetch_one(&mut *tx)
        .await?;
    if count >= ENTRIES_MAX {
        return Err(Error::Full(count));
    }
    // A retired entry gives its name up.
    let added = sqlx::query!(
        "with retired as (
             delete from queue.schedule_overrides o using queue.schedules s
             where s.name = $1 and s.retired_at is not null and o.name = s.name
         )
         insert into queue.schedules as s (name, kind, queue, args, args_version, unique_key, group_key, priority, attempts_max,
                                           cron, time_zone, missed, overlap, jitter_seconds, origin)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 'operator')
         on conflict (name) do update
         set kind = excluded.kind, queue = excluded.queue, args = excluded.args, args_version = excluded.args_version,
             unique_key = excluded.unique_key, group_key = excluded.group_key, priority = excluded.priority,
             attempts_max = excluded.attempts_max, cron = excluded.cron, time_zone = excluded.time_zone,
             missed = excluded.missed, overlap = excluded.overlap, jitter_seconds = excluded.jitter_seconds,
             origin = excluded.origin, settled_at = clock_timestamp(), retired_at = null, next_at = null,
             paused = false, pause_reason = null, paused_by = null, paused_at = null
         where s.retired_at is not null",
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
    .execute(&mut *tx)
    .await
    .map_err(too_large)?;
    if added.rows_affected() == 0 {
        return Err(Error::Exists(entry.name.clone()));
    }
    let detail = json!({
        "reason": reason, "kind": entry.kind, "args": entry.args, "cron": entry.cron, "time_zone": entry.time_zone,
        "missed": entry.missed.as_str(), "overlap": entry.overlap.as_str(), "jitter_seconds": entry.jitter_seconds,
    });
    audit(tx, actor, "add", &subject(&entry.name), detail).await?;
    Ok(())
    })
    .await
}

/// Changes an entry. New times count from now on; what a build lists is overridden.
pub async fn change(
    conn: &mut PgConnection,
    name: &str,
    change: &Change,
    actor: &str,
    reason: &str,
) -> Result<(), Error> {
    whole(conn, async |tx| {
        let was = lock(tx, name).await?;
        if !change.is_of_definition() && change.paused.is_none() {
            let why = "nothing is to change: give cron, time_zone, missed, overlap, jitter_seconds or paused";
            return Err(Error::refused("cron", why));
        }
        if change.is_of_definition() {
            check(&was, change)?;
            write(tx, &was, change, actor, reason).await?;
        }
        match change.paused {
            Some(true) => pause(tx, name, actor, reason).await?,
            Some(false) if was.paused => resume(tx, name).await?,
            _ => {}
        }
        let before = json!({
            "cron": was.cron, "time_zone": was.time_zone, "missed": was.missed, "overlap": was.overlap,
            "jitter_seconds": was.jitter_seconds, "paused": was.paused,
        });
        let action = match (change.is_of_definition(), change.paused) {
            (false, Some(true)) => "pause",
            (false, Some(false)) => "resume",
            _ => "change",
        };
        let detail = json!({ "reason": reason, "before": before, "change": change.detail() });
        audit(tx, actor, action, &subject(name), detail).await?;
        Ok(())
    })
    .await
}

/// Takes an override away: the entry is again as its build lists it. False when there was none.
pub async fn reset(conn: &mut PgConnection, name: &str, actor: &str, reason: &str) -> Result<bool, Error> {
    whole(conn, async |tx| {
        let was = lock(tx, name).await?;
        let removed = sqlx::query!("delete from queue.schedule_overrides where name = $1", name)
            .execute(&mut *tx)
            .await?;
        if removed.rows_affected() == 0 {
            return Ok(false);
        }
        count_from_now(tx, name).await?;
        let before = json!({
            "cron": was.cron, "time_zone": was.time_zone, "missed": was.missed, "overlap": was.overlap,
            "jitter_seconds": was.jitter_seconds,
        });
        let detail = json!({ "reason": reason, "before": before });
        audit(tx, actor, "reset", &subject(name), detail).await?;
        Ok(true)
    })
    .await
}

/// Takes an added entry off the timetable; the jobs it made go on.
pub async fn remove(conn: &mut PgConnection, name: &str, actor: &str, reason: &str) -> Result<(), Error> {
    whole(conn, async |tx| {
    let was = lock(tx, name).await?;
    if was.origin == "build" {
        return Err(Error::Listed(name.to_owned()));
    }
    sqlx::query!("delete from queue.schedules where name = $1", name)
        .execute(&mut *tx)
        .await?;
    let detail =
        json!({ "reason": reason, "kind": was.kind, "args": was.args, "cron": was.cron, "time_zone": was.time_zone });
    audit(tx, actor, "remove", &subject(name), detail).await?;
    Ok(())
    })
    .await
}

/// Runs an entry now, paused or not, as a tick of its own; refused when its policy lets it not overlap.
pub async fn run_now(conn: &mut PgConnection, name: &str, actor: &str, reason: &str) -> Result<JobId, Error> {
    whole(conn, async |tx| {
        lock(tx, name).await?;
        let why = format!("run by {actor}: {reason}");
        let fired = sqlx::query!(
            "select outcome, job_id, reason from queue.fire($1, clock_timestamp(), $2)",
            name,
            why,
        )
        .fetch_one(&mut *tx)
        .await?;
        let Some(job) = fired.job_id else {
            return Err(Error::Overlaps(name.to_owned(), fired.reason.unwrap_or_default()));
        };
        let detail = json!({ "reason": reason, "job_id": job });
        audit(tx, actor, "run", &subject(name), detail).await?;
        Ok(JobId(job))
    })
    .await
}

/// An entry as it is in force.
struct InForce {
    name: String,
    kind: String,
    args: Value,
    unique_key: Option<String>,
    origin: String,
    cron: String,
    time_zone: String,
    missed: String,
    overlap: String,
    jitter_seconds: i32,
    paused: bool,
}

/// Locks an entry against ticks and other operators, and reads it.
async fn lock(conn: &mut PgConnection, name: &str) -> Result<InForce, Error> {
    let there = sqlx::query!(
        "select name from queue.schedules where name = $1 and retired_at is null for update",
        name
    )
    .fetch_optional(&mut *conn)
    .await?;
    if there.is_none() {
        return Err(Error::NotFound(name.to_owned()));
    }
    let found = sqlx::query_as!(
        InForce,
        r#"select name as "name!", kind as "kind!", args as "args!", unique_key, origin as "origin!", cron as "cron!",
                  time_zone as "time_zone!", missed as "missed!", overlap as "overlap!",
                  jitter_seconds as "jitter_seconds!", paused as "paused!"
           from queue.timetable where name = $1"#,
        name,
    )
    .fetch_one(conn)
    .await?;
    Ok(found)
}

/// Whether the entry could be in a timetable after the change.
fn check(was: &InForce, change: &Change) -> Result<(), Error> {
    let cron = change.cron.as_deref().unwrap_or(&was.cron);
    Cron::parse(cron, change.time_zone.as_deref().unwrap_or(&was.time_zone))?;
    let overlap = match change.overlap {
        Some(overlap) => overlap,
        None => was.overlap.parse()?,
    };
    let jitter_seconds = change.jitter_seconds.unwrap_or(was.jitter_seconds);
    schedule::check_policies(overlap, jitter_seconds, was.unique_key.as_deref())
}

async fn write(
    conn: &mut PgConnection,
    was: &InForce,
    change: &Change,
    actor: &str,
    reason: &str,
) -> Result<(), Error> {
    let (missed, overlap) = (change.missed.map(Missed::as_str), change.overlap.map(Overlap::as_str));
    match was.origin.as_str() {
        "operator" => {
            sqlx::query!(
                "update queue.schedules
                 set cron = coalesce($2, cron), time_zone = coalesce($3, time_zone), missed = coalesce($4, missed),
                     overlap = coalesce($5, overlap), jitter_seconds = coalesce($6, jitter_seconds)
                 where name = $1",
                was.name,
                change.cron,
                change.time_zone,
                missed,
                overlap,
                change.jitter_seconds,
            )
            .execute(&mut *conn)
            .await?;
        }
        _ => {
            sqlx::query!(
                "insert into queue.schedule_overrides as o (name, cron, time_zone, missed, overlap, jitter_seconds, reason, actor)
                 values ($1, $2, $3, $4, $5, $6, $7, $8)
                 on conflict (name) do update
                 set cron = coalesce(excluded.cron, o.cron), time_zone = coalesce(excluded.time_zone, o.time_zone),
                     missed = coalesce(excluded.missed, o.missed), overlap = coalesce(excluded.overlap, o.overlap),
                     jitter_seconds = coalesce(excluded.jitter_seconds, o.jitter_seconds),
                     reason = excluded.reason, actor = excluded.actor, changed_at = clock_timestamp()",
                was.name,
                change.cron,
                change.time_zone,
                missed,
                overlap,
                change.jitter_seconds,
                reason,
                actor,
            )
            .execute(&mut *conn)
            .await?;
        }
    }
    if change.cron.is_some() || change.time_zone.is_some() {
        count_from_now(conn, &was.name).await?;
    }
    Ok(())
}

/// The ticks of other times before this moment were never due.
async fn count_from_now(conn: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update queue.schedules set settled_at = clock_timestamp(), next_at = null where name = $1",
        name
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn pause(conn: &mut PgConnection, name: &str, actor: &str, reason: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update queue.schedules
         set paused = true, pause_reason = $2, paused_by = $3, paused_at = coalesce(paused_at, clock_timestamp())
         where name = $1",
        name,
        reason,
        actor,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends a pause, and notes the ticks it kept from firing.
async fn resume(conn: &mut PgConnection, name: &str) -> Result<(), Error> {
    let was = sqlx::query!(
        r#"select cron as "cron!", time_zone as "time_zone!", settled_at as "settled_at!", clock_timestamp() as "now!",
                  pause_reason, paused_by
           from queue.timetable where name = $1"#,
        name
    )
    .fetch_one(&mut *conn)
    .await?;
    let cron = Cron::parse(&was.cron, &was.time_zone)?;
    if let Some((last, count)) = schedule::between(&cron, was.settled_at, was.now) {
        let by = was.paused_by.as_deref().unwrap_or("an operator");
        let reason = format!("paused by {by}: {}", was.pause_reason.as_deref().unwrap_or_default());
        schedule::note(&mut *conn, name, last, "skipped", &reason, count).await?;
    }
    sqlx::query!(
        "update queue.schedules
         set paused = false, pause_reason = null, paused_by = null, paused_at = null,
             settled_at = greatest(settled_at, $2), next_at = null
         where name = $1",
        name,
        was.now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn too_large(error: sqlx::Error) -> Error {
    let constraint = error.as_database_error().and_then(|error| error.constraint());
    match constraint {
        Some("schedule_args_are_small") => Error::refused("args", "must have at most 65536 bytes"),
        _ => error.into(),
    }
}

fn subject(name: &str) -> String {
    format!("schedule {name}")
}
