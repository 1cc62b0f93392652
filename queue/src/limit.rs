//! Limits: how many jobs of a key run at once, how many start a second, and whether what they depend on works at all.
//!
//! A job says which key it counts against ([`crate::Job::limit`]); an operator says what the key allows, while the fleet
//! runs. The name of a limit is a key (`endpoint/7`), the beginning of many keys (`endpoint`), or `queue/NAME` for a whole
//! queue. A claim admits jobs under the lock of the key's row, so limits are exact across the fleet. What it does not admit
//! is parked: it leaves the line and comes back when there is room.
//!
//! The rate is kept by GCRA (the leaky bucket as a meter, ITU-T I.371): one timestamp a key. A breaker opens after so many
//! failures in a row of class transient or unknown; while it is open no job of the key runs and none burns a try, then
//! single jobs probe until one succeeds. A throttled failure closes the key for as long as the other side said.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::metric;
use crate::operate::{self, Error};

/// Slower than this, and times overflow; faster, and nothing is limited.
pub const RATE_MIN: f64 = 0.0001;
/// Jobs a second.
pub const RATE_MAX: f64 = 100_000.0;
/// So many limits there can be; a limit holds for any number of keys.
pub const LIMITS_MAX: i64 = 1000;
/// So many parked jobs are counted, so that asking stays cheap.
const PARKED_COUNTED_MAX: i64 = 100_000;

/// What a key allows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Jobs that run at once; none for any number, 0 for none at all.
    pub concurrency: Option<i32>,
    /// Jobs that start a second, over the long run.
    pub rate: Option<f64>,
    /// Jobs that may start at once when none has for long; a tenth of a second's worth if not given.
    pub burst: Option<i32>,
    /// Failures in a row that open the breaker; none for no breaker.
    pub breaker_failures: Option<i32>,
    /// Seconds until an open breaker lets a probe through; 10 if not given.
    pub breaker_seconds: Option<f64>,
}

impl Limit {
    /// So many jobs at once.
    pub fn concurrency(jobs: i32) -> Self {
        Self {
            concurrency: Some(jobs),
            ..Self::default()
        }
    }

    /// So many jobs a second, with room for a burst.
    pub fn rate(per_second: f64, burst: i32) -> Self {
        Self {
            rate: Some(per_second),
            burst: Some(burst),
            ..Self::default()
        }
    }

    /// A breaker that opens after so many failures in a row, for so many seconds.
    pub fn breaker(failures: i32, seconds: f64) -> Self {
        Self {
            breaker_failures: Some(failures),
            breaker_seconds: Some(seconds),
            ..Self::default()
        }
    }

    /// What is wrong with it, if anything is.
    fn problem(&self) -> Option<&'static str> {
        let is_outside = |value: Option<f64>, most: f64| value.is_some_and(|value| !(value > 0.0 && value <= most));
        if self.concurrency.is_some_and(|jobs| jobs < 0) {
            Some("concurrency must not be negative")
        } else if self.rate.is_some_and(|rate| !(RATE_MIN..=RATE_MAX).contains(&rate)) {
            Some("rate must be from 0.0001 to 100000 a second")
        } else if self.burst.is_some_and(|burst| !(1..=100_000).contains(&burst)) {
            Some("burst must be from 1 to 100000")
        } else if self
            .breaker_failures
            .is_some_and(|failures| !(1..=10_000).contains(&failures))
        {
            Some("breaker_failures must be from 1 to 10000")
        } else if is_outside(self.breaker_seconds, 86_400.0) {
            Some("breaker_seconds must be above 0 and at most 86400")
        } else if self.concurrency.is_none() && self.rate.is_none() && self.breaker_failures.is_none() {
            Some("it limits nothing: give concurrency, rate or breaker_failures")
        } else {
            None
        }
    }
}

/// What is wrong with a name, if anything is.
fn problem_of_name(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.chars().count() > 300 {
        Some("the name of a limit has 1 to 300 characters")
    } else if name.contains(char::is_control) {
        Some("the name of a limit has no control characters in it")
    } else if name == "queue" || name.starts_with('/') || name.ends_with('/') {
        Some("the name of a limit is a key (endpoint/7), the beginning of keys (endpoint), or queue/NAME")
    } else {
        None
    }
}

/// Sets a limit, or replaces it; what runs goes on. Without a breaker, one that is open is closed.
pub async fn set(conn: &mut PgConnection, name: &str, limit: &Limit, reason: &str, actor: &str) -> Result<(), Error> {
    if let Some(problem) = problem_of_name(name).or(limit.problem()) {
        return Err(Error::Invalid(problem.to_owned()));
    }
    let mut tx = conn.begin().await?;
    let others = sqlx::query_scalar!(
        r#"select count(*) as "others!" from queue.limits where name <> $1"#,
        name
    )
    .fetch_one(&mut *tx)
    .await?;
    if others >= LIMITS_MAX {
        let problem = format!("there are {LIMITS_MAX} limits already: set one for the beginning of the keys");
        return Err(Error::Invalid(problem));
    }
    sqlx::query!(
        "insert into queue.limits as l (name, concurrency, rate, burst, breaker_failures, breaker_seconds, actor)
         values ($1, $2, $3::float8, coalesce($4, greatest(1, ceil($3::float8 / 10))::int, 1), $5, coalesce($6::float8, 10), $7)
         on conflict (name) do update
         set concurrency = excluded.concurrency, rate = excluded.rate, burst = excluded.burst,
             breaker_failures = excluded.breaker_failures, breaker_seconds = excluded.breaker_seconds,
             actor = excluded.actor, changed_at = clock_timestamp()",
        name,
        limit.concurrency,
        limit.rate,
        limit.burst,
        limit.breaker_failures,
        limit.breaker_seconds,
        actor,
    )
    .execute(&mut *tx)
    .await?;
    reconsider(&mut tx, name).await?;
    let detail = json!({ "reason": reason, "limit": limit });
    operate::audit(&mut tx, actor, "set limit", &format!("limit {name}"), detail).await?;
    Ok(tx.commit().await?)
}

/// Sets the limits a build comes with. What an operator has set or removed stays as it is; what no operator has touched is
/// as the build says that started last.
pub async fn install(conn: &mut PgConnection, limits: &[(&str, Limit)]) -> Result<(), Error> {
    for (name, limit) in limits {
        if is_settled(conn, name, limit).await? {
            continue;
        }
        let mut tx = conn.begin().await?;
        // An operator or another worker may be about to set the same.
        sqlx::query!("lock table queue.limits in share row exclusive mode")
            .execute(&mut *tx)
            .await?;
        if !is_settled(&mut tx, name, limit).await? {
            set(&mut tx, name, limit, "a default of the build", BUILD).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Who sets the limits a build comes with.
const BUILD: &str = "build";

/// Whether a default is in force already, or an operator has decided otherwise.
async fn is_settled(conn: &mut PgConnection, name: &str, limit: &Limit) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from queue.audit where subject = 'limit ' || $1 and actor <> $2
                          and action in ('set limit', 'remove limit'))
               or coalesce((select a.detail -> 'limit' = $3 from queue.audit a
                            where a.subject = 'limit ' || $1 and a.action = 'set limit'
                            order by a.id desc limit 1), false) as "is_settled!""#,
        name,
        BUILD,
        json!(limit),
    )
    .fetch_one(conn)
    .await
}

/// Removes a limit; false when there is none. What was parked for it is let in.
pub async fn remove(conn: &mut PgConnection, name: &str, reason: &str, actor: &str) -> Result<bool, Error> {
    let mut tx = conn.begin().await?;
    let removed = sqlx::query!("delete from queue.limits where name = $1", name)
        .execute(&mut *tx)
        .await?;
    if removed.rows_affected() == 0 {
        return Ok(false);
    }
    reconsider(&mut tx, name).await?;
    let detail = json!({ "reason": reason });
    operate::audit(&mut tx, actor, "remove limit", &format!("limit {name}"), detail).await?;
    tx.commit().await?;
    Ok(true)
}

/// Closes the breaker of a key by hand; false when it was not open.
pub async fn close_breaker(conn: &mut PgConnection, key: &str, reason: &str, actor: &str) -> Result<bool, Error> {
    let mut tx = conn.begin().await?;
    let closed = sqlx::query!(
        "update queue.limit_keys
         set open_until = null, failures = 0, cause = null, opens_at = least(opens_at, clock_timestamp())
         where key = $1 and open_until is not null",
        key,
    )
    .execute(&mut *tx)
    .await?;
    if closed.rows_affected() == 0 {
        return Ok(false);
    }
    let detail = json!({ "reason": reason });
    operate::audit(&mut tx, actor, "close breaker", &format!("limit {key}"), detail).await?;
    tx.commit().await?;
    Ok(true)
}

/// What is parked is looked at again, under the limits as they are now; breakers that are no more are not open.
async fn reconsider(conn: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "with concerned as materialized (
             select key, (queue.limit_of(key)).breaker_failures is not null as has_breaker
             from queue.limit_keys
             where key = $1 or split_part(key, '/', 1) = $1
             order by key for update
         )
         update queue.limit_keys k
         set opens_at = case when opens_at is not null then clock_timestamp() end,
             open_until = case when has_breaker then open_until end,
             failures = case when has_breaker then failures else 0 end,
             cause = case when has_breaker then cause end
         from concerned c
         where c.key = k.key",
        name
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Makes true what a crash in an unforeseen place could leave untrue: room that nobody uses, parked jobs nobody looks for.
pub async fn mend(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "with leaked as (
             delete from queue.limit_holds h
             using (
                 select o.claim_id, o.key from queue.limit_holds o
                 where not exists (select from queue.claims c where c.id = o.claim_id)
                 for update skip locked
             ) o
             where h.claim_id = o.claim_id and h.key = o.key
         ), idle as (
             delete from queue.limit_keys k
             where k.key = any(array(
                 select o.key from queue.limit_keys o
                 where o.opens_at is null and o.open_until is null and o.failures = 0
                   and coalesce(o.arrival, '-infinity') < clock_timestamp() - interval '1 hour'
                   and not exists (select from queue.limit_holds h where h.key = o.key)
                   and not exists (select from queue.jobs j where j.parked and j.limit_key = o.key)
                 for update skip locked
             ))
         )
         update queue.limit_keys k set opens_at = clock_timestamp()
         where k.key = any(array(
             select o.key from queue.limit_keys o
             where o.opens_at is null and exists (select from queue.jobs j where j.parked and j.limit_key = o.key)
             for update skip locked
         ))"
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A limit, and how much of it is used by all its keys.
#[derive(Clone, Debug, Serialize)]
pub struct LimitView {
    /// Its name.
    pub name: String,
    /// Jobs that may run at once, for each key.
    pub concurrency: Option<i32>,
    /// Jobs that may start a second, for each key.
    pub rate: Option<f64>,
    /// Jobs that may start at once.
    pub burst: i32,
    /// Failures in a row that open the breaker.
    pub breaker_failures: Option<i32>,
    /// Seconds until an open breaker lets a probe through.
    pub breaker_seconds: f64,
    /// Who set it.
    pub actor: String,
    /// When.
    pub changed_at: DateTime<Utc>,
    /// Keys whose breaker is open, or lets single jobs through.
    pub open_breakers: i64,
    /// Jobs that are parked for its keys; of all limits together 100,000 are counted.
    pub parked: i64,
    /// Its keys that are in use or closed, at most a hundred: those with parked jobs first.
    pub keys: Vec<KeyView>,
}

/// One key of a limit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyView {
    /// The key.
    pub key: String,
    /// Jobs that run.
    pub running: i64,
    /// Whether jobs are parked for it.
    pub is_parking: bool,
    /// When those are looked at again.
    pub opens_at: Option<DateTime<Utc>>,
    /// Failures in a row.
    pub failures: i32,
    /// Until when the breaker is open; past: it lets single jobs through.
    pub open_until: Option<DateTime<Utc>>,
    /// What opened it.
    pub cause: Option<String>,
}

/// The limits in force, by name.
pub async fn list(conn: &mut PgConnection) -> sqlx::Result<Vec<LimitView>> {
    named(conn, None).await
}

/// One limit.
pub async fn get(conn: &mut PgConnection, name: &str) -> sqlx::Result<Option<LimitView>> {
    Ok(named(conn, Some(name)).await?.pop())
}

async fn named(conn: &mut PgConnection, name: Option<&str>) -> sqlx::Result<Vec<LimitView>> {
    let used = usage(&mut *conn).await?;
    let rows = sqlx::query!(
        r#"select l.name, l.concurrency, l.rate, l.burst, l.breaker_failures, l.breaker_seconds, l.actor, l.changed_at,
                  coalesce((select jsonb_agg(to_jsonb(k)) from (
                      select k.key, coalesce(h.running, 0) as running, k.opens_at is not null as is_parking, k.opens_at,
                             k.failures, k.open_until, k.cause
                      from queue.limit_keys k
                      cross join lateral (
                          select sum(o.jobs)::bigint as running from queue.limit_holds o where o.key = k.key
                      ) h
                      where (k.key = l.name or split_part(k.key, '/', 1) = l.name)
                        and (queue.limit_of(k.key)).name = l.name
                      order by k.opens_at is null, k.open_until is null, k.key
                      limit 100
                  ) k), '[]') as "keys!"
           from queue.limits l
           where l.name = coalesce($1, l.name)
           order by l.name"#,
        name,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let used = used.iter().find(|used| used.name == row.name);
            LimitView {
                open_breakers: used.map_or(0, |used| used.open_breakers),
                parked: used.map_or(0, |used| used.parked),
                name: row.name,
                concurrency: row.concurrency,
                rate: row.rate,
                burst: row.burst,
                breaker_failures: row.breaker_failures,
                breaker_seconds: row.breaker_seconds,
                actor: row.actor,
                changed_at: row.changed_at,
                keys: serde_json::from_value(row.keys).unwrap_or_default(),
            }
        })
        .collect())
}

/// What a limit holds back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The limit.
    pub name: String,
    /// Keys whose breaker is open, or lets single jobs through.
    pub open_breakers: i64,
    /// Jobs that are parked for its keys; of all limits together 100,000 are counted.
    pub parked: i64,
}

/// What each limit holds back, by name.
pub async fn usage(conn: &mut PgConnection) -> sqlx::Result<Vec<Usage>> {
    sqlx::query_as!(
        Usage,
        r#"with parked as (
               select (queue.limit_of(k.limit_key)).name, sum(k.jobs)::bigint as jobs
               from (
                   select p.limit_key, count(*) as jobs
                   from (select j.limit_key from queue.jobs j where j.parked limit $1) p
                   group by p.limit_key
               ) k
               group by 1
           ), opened as (
               select (queue.limit_of(k.key)).name, count(*) as keys
               from queue.limit_keys k
               where k.open_until is not null
               group by 1
           )
           select l.name, coalesce(o.keys, 0) as "open_breakers!", coalesce(p.jobs, 0) as "parked!"
           from queue.limits l
           left join opened o on o.name = l.name
           left join parked p on p.name = l.name
           order by l.name"#,
        PARKED_COUNTED_MAX,
    )
    .fetch_all(conn)
    .await
}

/// Publishes what each limit holds back. One that is gone holds back nothing.
pub(crate) async fn publish_gauges(conn: &mut PgConnection) -> sqlx::Result<()> {
    static PUBLISHED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let used = usage(conn).await?;
    let mut published = PUBLISHED.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = published
        .iter()
        .filter(|name| used.iter().all(|used| used.name != **name));
    for name in gone {
        gauge(name, 0, 0);
    }
    *published = used.iter().map(|used| used.name.clone()).collect();
    for used in used {
        gauge(&used.name, used.open_breakers, used.parked);
    }
    Ok(())
}

fn gauge(name: &str, open_breakers: i64, parked: i64) {
    metrics::gauge!(metric::BREAKERS_OPEN, "limit" => name.to_owned()).set(open_breakers as f64);
    metrics::gauge!(metric::JOBS_PARKED, "limit" => name.to_owned()).set(parked as f64);
}
