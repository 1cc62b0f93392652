//! The timetable in force, and what became of its ticks.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::PauseView;

/// A line of the timetable at a glance, as it is in force.
#[derive(Clone, Debug, Serialize)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// Who listed it: build or operator.
    pub origin: String,
    /// The kind it enqueues.
    pub kind: String,
    /// The queue it enqueues into.
    pub queue: String,
    /// The payload it enqueues.
    pub args: Value,
    /// When.
    pub cron: String,
    /// In which zone.
    pub time_zone: String,
    /// What happens to missed ticks: skip, once or all.
    pub missed: String,
    /// What a tick does while an earlier run has not ended: allow, skip or queue_one.
    pub overlap: String,
    /// A job starts up to so much after its tick.
    pub jitter_seconds: i32,
    /// What an operator changed of it, if anything.
    pub overridden: Option<OverrideView>,
    /// The pause, if there is one.
    pub paused: Option<PauseView>,
    /// The last tick that was decided.
    pub last_tick_at: Option<DateTime<Utc>>,
    /// What became of it: fired, skipped or missed.
    pub last_outcome: Option<String>,
    /// Why.
    pub last_reason: Option<String>,
    /// The job it made.
    pub last_job_id: Option<i64>,
    /// The next ticks; none during a pause.
    pub next: Vec<DateTime<Utc>>,
}

/// What an operator changed of an entry that a build lists.
#[derive(Clone, Debug, Serialize)]
pub struct OverrideView {
    /// The fields that are changed.
    pub fields: Vec<String>,
    /// What the build says in their place.
    pub listed: Value,
    /// Why.
    pub reason: String,
    /// By whom.
    pub actor: String,
    /// Since when.
    pub changed_at: DateTime<Utc>,
}

/// The timetable in force.
pub async fn schedules(conn: &mut PgConnection) -> sqlx::Result<Vec<ScheduleView>> {
    schedules_named(conn, None).await
}

/// One entry of the timetable.
pub async fn schedule(conn: &mut PgConnection, name: &str) -> sqlx::Result<Option<ScheduleView>> {
    Ok(schedules_named(conn, Some(name)).await?.pop())
}

async fn schedules_named(conn: &mut PgConnection, name: Option<&str>) -> sqlx::Result<Vec<ScheduleView>> {
    const NEXT_SHOWN: usize = 3;
    let rows = sqlx::query!(
        r#"select s.name as "name!", s.origin as "origin!", s.kind as "kind!", s.queue as "queue!", s.args as "args!",
                  s.cron as "cron!", s.time_zone as "time_zone!", s.missed as "missed!", s.overlap as "overlap!",
                  s.jitter_seconds as "jitter_seconds!", s.paused as "paused!", s.pause_reason, s.paused_by, s.paused_at,
                  greatest(clock_timestamp(), s.settled_at) as "now!",
                  t.tick_at as "tick_at?", t.outcome as "outcome?", t.reason as "tick_reason?", t.job_id as "job_id?",
                  o.reason as "reason?", o.actor as "actor?", o.changed_at as "changed_at?", o.listed as "listed?"
           from queue.timetable s
           left join lateral (
               select o.reason, o.actor, o.changed_at, jsonb_strip_nulls(jsonb_build_object(
                   'cron', case when o.cron is not null then l.cron end,
                   'time_zone', case when o.time_zone is not null then l.time_zone end,
                   'missed', case when o.missed is not null then l.missed end,
                   'overlap', case when o.overlap is not null then l.overlap end,
                   'jitter_seconds', case when o.jitter_seconds is not null then l.jitter_seconds end)) as listed
               from queue.schedule_overrides o join queue.schedules l on l.name = o.name
               where o.name = s.name
           ) o on true
           left join lateral (
               select tick_at, outcome, reason, job_id from queue.ticks t where t.name = s.name order by tick_at desc limit 1
           ) t on true
           where s.name = coalesce($1, s.name)
           order by s.name"#,
        name,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| ScheduleView {
            next: match row.paused {
                true => Vec::new(),
                false => crate::schedule::next(&row.cron, &row.time_zone, row.now, NEXT_SHOWN),
            },
            name: row.name,
            origin: row.origin,
            kind: row.kind,
            queue: row.queue,
            args: row.args,
            cron: row.cron,
            time_zone: row.time_zone,
            missed: row.missed,
            overlap: row.overlap,
            jitter_seconds: row.jitter_seconds,
            overridden: match (row.listed, row.reason, row.actor, row.changed_at) {
                (Some(listed), Some(reason), Some(actor), Some(changed_at)) => Some(OverrideView {
                    fields: listed
                        .as_object()
                        .into_iter()
                        .flat_map(|listed| listed.keys().cloned())
                        .collect(),
                    listed,
                    reason,
                    actor,
                    changed_at,
                }),
                _ => None,
            },
            paused: row.paused.then(|| PauseView {
                reason: row.pause_reason.unwrap_or_default(),
                actor: row.paused_by.unwrap_or_default(),
                paused_at: row.paused_at.unwrap_or(row.now),
            }),
            last_tick_at: row.tick_at,
            last_outcome: row.outcome,
            last_reason: row.tick_reason,
            last_job_id: row.job_id,
        })
        .collect())
}

/// What became of a tick.
#[derive(Clone, Debug, Serialize)]
pub struct TickView {
    /// The tick; the last of them, when there are several.
    pub tick_at: DateTime<Utc>,
    /// fired, skipped or missed.
    pub outcome: String,
    /// Why, or at whose wish.
    pub reason: Option<String>,
    /// How many ticks this is about.
    pub ticks: i32,
    /// The job it made.
    pub job_id: Option<i64>,
    /// When it was decided.
    pub decided_at: DateTime<Utc>,
}

/// What became of the ticks of an entry before a time, the latest first.
pub async fn ticks(
    conn: &mut PgConnection,
    name: &str,
    before: Option<DateTime<Utc>>,
    limit: i64,
) -> sqlx::Result<Vec<TickView>> {
    sqlx::query_as!(
        TickView,
        r#"select tick_at, outcome, reason, ticks, job_id, fired_at as decided_at
           from queue.ticks
           where name = $1 and ($2::timestamptz is null or tick_at < $2)
           order by tick_at desc limit $3"#,
        name,
        before,
        limit,
    )
    .fetch_all(conn)
    .await
}
