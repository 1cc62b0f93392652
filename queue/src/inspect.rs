//! What an operator sees: read-only, and everything serializes.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

pub use crate::health::{Health, health};
use crate::job::JobId;
pub use crate::saga::{saga, sagas};
use crate::{limit, metric};

/// Which jobs to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only in this state.
    pub state: Option<String>,
    /// Only with this unique key.
    pub unique_key: Option<String>,
    /// Only older than this one: the last of the page before.
    pub before: Option<JobId>,
    /// At most so many; 0 means 100.
    pub limit: i64,
}

/// A job wherever it is.
#[derive(Clone, Debug, Serialize)]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// The line it waits in.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// The version of its payload.
    pub args_version: i16,
    /// Its payload.
    pub args: Value,
    /// available, scheduled, retryable, running, completed, discarded, cancelled or dead.
    pub state: String,
    /// Its place against others.
    pub priority: i16,
    /// When it is due.
    pub run_at: Option<DateTime<Utc>>,
    /// How often it was claimed.
    pub fence: i64,
    /// Tries used.
    pub attempt: i32,
    /// Tries it has.
    pub attempts_max: Option<i32>,
    /// The key only it may have.
    pub unique_key: Option<String>,
    /// The group it takes its turn in.
    pub group_key: Option<String>,
    /// The worker that holds it, or completed it.
    pub worker_id: Option<i64>,
    /// Since when.
    pub claimed_at: Option<DateTime<Utc>>,
    /// Workers that died while they held it.
    pub crashes: i32,
    /// Whether it runs alone, because workers died over it.
    pub suspect: bool,
    /// Why it waits, or why it is dead.
    pub waiting: Option<String>,
    /// What went wrong so far.
    pub failures: Value,
    /// How far it has come.
    pub progress: Option<Value>,
    /// What it left behind.
    pub result: Option<Value>,
    /// The trace it belongs to.
    pub trace_context: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Which dead letters to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct DeadFilter {
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this class.
    pub error_class: Option<String>,
    /// Only with this code.
    pub error_code: Option<String>,
    /// Only older than this one.
    pub before: Option<JobId>,
    /// At most so many; 0 means 100.
    pub limit: i64,
}

/// Which causes of dead letters to list.
#[derive(Clone, Debug, Default)]
pub struct CauseFilter {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only smaller ones: letters and cause of the last of the page before.
    pub before: Option<(i64, String)>,
    /// At most so many; 0 means 100.
    pub limit: i64,
}

/// Dead letters of one cause: kind, class, code and message are the same, but for ids, numbers and quoted texts.
#[derive(Clone, Debug, Serialize)]
pub struct CauseView {
    /// Its name, the same wherever it is met.
    pub cause: String,
    /// The line that the youngest waited in.
    pub queue: String,
    /// The kind of the jobs.
    pub kind: String,
    /// The class of their last failure.
    pub error_class: String,
    /// Its code.
    pub error_code: String,
    /// What the messages have in common.
    pub pattern: String,
    /// The message of the youngest.
    pub message: String,
    /// How many there are.
    pub letters: i64,
    /// When the first died.
    pub first_at: DateTime<Utc>,
    /// When the last died.
    pub last_at: DateTime<Utc>,
    /// The youngest of them.
    pub sample: Vec<i64>,
}

/// A dead letter.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterView {
    /// The job.
    pub id: JobId,
    /// The line it waited in.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// The version of its payload.
    pub args_version: i16,
    /// Its payload, as it is redriven.
    pub args: Value,
    /// How often it was claimed.
    pub fence: i64,
    /// Tries used.
    pub attempt: i32,
    /// Tries it had.
    pub attempts_max: i32,
    /// The key only it may have.
    pub unique_key: Option<String>,
    /// The group it takes its turn in.
    pub group_key: Option<String>,
    /// exhausted, permanent, poison, deadline or cancelled_parent.
    pub reason: String,
    /// The class of the last failure.
    pub error_class: String,
    /// The code of the last failure.
    pub error_code: String,
    /// The last failure in words.
    pub message: String,
    /// The whole story.
    pub report: Value,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When it was given up.
    pub dead_at: DateTime<Utc>,
}

/// A pause and its reason.
#[derive(Clone, Debug, Serialize)]
pub struct PauseView {
    /// Why.
    pub reason: String,
    /// By whom.
    pub actor: String,
    /// Since when.
    pub paused_at: DateTime<Utc>,
}

/// A line of jobs at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct QueueView {
    /// Its name.
    pub name: String,
    /// Due and waiting.
    pub available: i64,
    /// Due later, never tried.
    pub scheduled: i64,
    /// Due later, after a failure.
    pub retryable: i64,
    /// Held by a worker.
    pub running: i64,
    /// Given up.
    pub dead: i64,
    /// How long the longest-waiting due job has waited.
    pub oldest_due_seconds: Option<f64>,
    /// Jobs that came in, a second, in the last minute; none before the second measure.
    pub arrived_per_second: Option<f64>,
    /// Jobs that ended, a second, in the last minute; kinds that are not remembered do not count.
    pub completed_per_second: Option<f64>,
    /// How long what is due takes at that speed, at most a day.
    pub drain_seconds: Option<f64>,
    /// The pause, if there is one.
    pub paused: Option<PauseView>,
    /// The kinds of this queue that are paused.
    pub paused_kinds: Vec<String>,
}

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

/// A worker process at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerView {
    /// Its row.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The queues it serves.
    pub pools: Vec<String>,
    /// Its build.
    pub build: String,
    /// Its machine.
    pub host: String,
    /// Its process.
    pub pid: i32,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// Its last heartbeat.
    pub beat_at: DateTime<Utc>,
    /// Until when it is believed to live.
    pub lease_until: DateTime<Utc>,
    /// Whether it is on its way out.
    pub stopping: bool,
    /// How many jobs it holds.
    pub running: i64,
}

/// What stands between now and an empty fleet.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NotIdle {
    /// Due and waiting.
    pub due: i64,
    /// Held by a worker.
    pub running: i64,
    /// Waiting for a later time.
    pub later: i64,
    /// When the first of those is due.
    pub next_run_at: Option<DateTime<Utc>>,
}

const PAGE: i64 = 100;
const PAGE_MAX: i64 = 1000;

fn page(limit: i64) -> i64 {
    if limit <= 0 { PAGE } else { limit.min(PAGE_MAX) }
}

/// The jobs that match, newest first.
pub async fn jobs(conn: &mut PgConnection, filter: &JobFilter) -> sqlx::Result<Vec<JobView>> {
    sqlx::query_as!(
        JobView,
        r#"select id as "id!: JobId", queue as "queue!", kind as "kind!", args_version as "args_version!", args as "args!",
                  state as "state!", priority as "priority!: i16", run_at, fence as "fence!", attempt as "attempt!", attempts_max,
                  unique_key, group_key, worker_id, claimed_at, crashes as "crashes!", suspect as "suspect!", waiting,
                  failures as "failures!", progress, result, trace_context, created_at as "created_at!", ended_at
           from queue.all_jobs
           where ($1::text is null or queue = $1)
             and ($2::text is null or kind = $2)
             and ($3::text is null or state = $3)
             and ($4::text is null or unique_key = $4)
             and ($5::bigint is null or id < $5)
           order by id desc
           limit $6"#,
        filter.queue,
        filter.kind,
        filter.state,
        filter.unique_key,
        filter.before.map(|before| before.0),
        page(filter.limit),
    )
    .fetch_all(conn)
    .await
}

/// One job wherever it is.
pub async fn job(conn: &mut PgConnection, id: JobId) -> sqlx::Result<Option<JobView>> {
    sqlx::query_as!(
        JobView,
        r#"select id as "id!: JobId", queue as "queue!", kind as "kind!", args_version as "args_version!", args as "args!",
                  state as "state!", priority as "priority!: i16", run_at, fence as "fence!", attempt as "attempt!", attempts_max,
                  unique_key, group_key, worker_id, claimed_at, crashes as "crashes!", suspect as "suspect!", waiting,
                  failures as "failures!", progress, result, trace_context, created_at as "created_at!", ended_at
           from queue.all_jobs
           where id = $1
           limit 1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// The jobs of a kind that have not ended, oldest first.
pub(crate) async fn live(conn: &mut PgConnection, kind: &str) -> sqlx::Result<Vec<JobView>> {
    sqlx::query_as!(
        JobView,
        r#"select id as "id!: JobId", queue as "queue!", kind as "kind!", args_version as "args_version!", args as "args!",
                  state as "state!", priority as "priority!: i16", run_at, fence as "fence!", attempt as "attempt!", attempts_max,
                  unique_key, group_key, worker_id, claimed_at, crashes as "crashes!", suspect as "suspect!", waiting,
                  failures as "failures!", progress, result, trace_context, created_at as "created_at!", ended_at
           from queue.all_jobs
           where kind = $1 and ended_at is null
           order by id"#,
        kind,
    )
    .fetch_all(conn)
    .await
}

/// The dead letters that match, newest first.
pub async fn dead_letters(conn: &mut PgConnection, filter: &DeadFilter) -> sqlx::Result<Vec<DeadLetterView>> {
    sqlx::query_as!(
        DeadLetterView,
        r#"select id as "id: JobId", queue, kind, args_version, args, fence, attempt, attempts_max, unique_key, group_key,
                  reason, error_class, error_code, message, report, created_at, dead_at
           from queue.dead_letters
           where ($1::text is null or queue = $1)
             and ($2::text is null or kind = $2)
             and ($3::text is null or error_class = $3)
             and ($4::text is null or error_code = $4)
             and ($5::bigint is null or id < $5)
           order by id desc
           limit $6"#,
        filter.queue,
        filter.kind,
        filter.error_class,
        filter.error_code,
        filter.before.map(|before| before.0),
        page(filter.limit),
    )
    .fetch_all(conn)
    .await
}

/// One dead letter.
pub async fn dead_letter(conn: &mut PgConnection, id: JobId) -> sqlx::Result<Option<DeadLetterView>> {
    sqlx::query_as!(
        DeadLetterView,
        r#"select id as "id: JobId", queue, kind, args_version, args, fence, attempt, attempts_max, unique_key, group_key,
                  reason, error_class, error_code, message, report, created_at, dead_at
           from queue.dead_letters
           where id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// The causes of dead letters, the largest first.
pub async fn causes(conn: &mut PgConnection, filter: &CauseFilter) -> sqlx::Result<Vec<CauseView>> {
    sqlx::query_as!(
        CauseView,
        r#"with causes as (
               select cause, count(*) as letters, min(dead_at) as first_at, max(dead_at) as last_at, max(id) as youngest
               from queue.dead_letters
               group by cause
           )
           select c.cause as "cause!", l.queue, l.kind, l.error_class, l.error_code, l.pattern as "pattern!", l.message,
                  c.letters as "letters!", c.first_at as "first_at!", c.last_at as "last_at!",
                  array(select s.id from queue.dead_letters s where s.cause = c.cause order by s.id desc limit 5) as "sample!"
           from causes c
           join queue.dead_letters l on l.id = c.youngest
           where ($1::text is null or l.kind = $1)
             and ($2::bigint is null or (c.letters, c.cause) < ($2, $3))
           order by c.letters desc, c.cause desc
           limit $4"#,
        filter.kind,
        filter.before.as_ref().map(|(letters, _)| *letters),
        filter.before.as_ref().map(|(_, cause)| cause.as_str()),
        page(filter.limit),
    )
    .fetch_all(conn)
    .await
}

/// The dead letter that keeps a group's turn, if one does: nothing of the group runs until it is redriven or discarded.
pub async fn blocked_by(conn: &mut PgConnection, group_key: &str) -> sqlx::Result<Option<JobId>> {
    sqlx::query_scalar!(
        r#"select l.id as "id: JobId" from queue.turns t join queue.dead_letters l on l.id = t.holder where t.group_key = $1"#,
        group_key,
    )
    .fetch_optional(conn)
    .await
}

/// Every queue that has jobs, dead letters, a worker or a pause, counted now; its speed is that of the last measure.
pub async fn queues(conn: &mut PgConnection) -> sqlx::Result<Vec<QueueView>> {
    let rows = sqlx::query!(
        r#"select n.queue as "name!", n.available as "available!", n.scheduled as "scheduled!", n.retryable as "retryable!",
                  n.running as "running!", n.dead as "dead!", n.oldest_due_seconds,
                  v.arrived_per_second, v.completed_per_second, v.drain_seconds,
                  p.reason as "reason?", p.actor as "actor?", p.paused_at as "paused_at?",
                  array(select k.name from queue.pauses k where k.target = 'kind' and exists (
                      select from queue.jobs j where j.kind = k.name and j.queue = n.queue) order by k.name) as "paused_kinds!"
           from queue.count_jobs() n
           left join queue.rates v using (queue)
           left join queue.pauses p on p.target = 'queue' and p.name = n.queue
           order by n.queue"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| QueueView {
            name: row.name,
            available: row.available,
            scheduled: row.scheduled,
            retryable: row.retryable,
            running: row.running,
            dead: row.dead,
            oldest_due_seconds: row.oldest_due_seconds,
            arrived_per_second: row.arrived_per_second,
            completed_per_second: row.completed_per_second,
            drain_seconds: row.drain_seconds,
            paused: match (row.reason, row.actor, row.paused_at) {
                (Some(reason), Some(actor), Some(paused_at)) => Some(PauseView {
                    reason,
                    actor,
                    paused_at,
                }),
                _ => None,
            },
            paused_kinds: row.paused_kinds,
        })
        .collect())
}

/// A queue as it was last measured: one process at a time counts for the whole fleet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// Its name.
    pub name: String,
    /// Due and waiting.
    pub available: i64,
    /// Due later, never tried.
    pub scheduled: i64,
    /// Due later, after a failure.
    pub retryable: i64,
    /// Held by a worker.
    pub running: i64,
    /// Given up.
    pub dead: i64,
    /// How long the longest-waiting due job has waited.
    pub oldest_due_seconds: Option<f64>,
    /// Jobs that came in, a second, in the last minute.
    pub arrived_per_second: Option<f64>,
    /// Jobs that ended, a second, in the last minute.
    pub completed_per_second: Option<f64>,
    /// How long what is due takes at that speed, at most a day.
    pub drain_seconds: Option<f64>,
    /// Whether it is paused now.
    pub is_paused: bool,
}

impl Measure {
    /// The counts by state, as the gauge of the depth has them.
    pub fn depths(&self) -> [(&'static str, i64); 5] {
        [
            ("available", self.available),
            ("scheduled", self.scheduled),
            ("retryable", self.retryable),
            ("running", self.running),
            ("dead", self.dead),
        ]
    }
}

/// The last measure of every queue; measures first when that is due and nobody else does. Counting takes at most a fiftieth of the
/// fleet's time, however long the line is.
pub async fn measured(conn: &mut PgConnection) -> sqlx::Result<Vec<Measure>> {
    sqlx::query!("select queue.measure()").fetch_one(&mut *conn).await?;
    sqlx::query_as!(
        Measure,
        r#"select queue as "name!", available as "available!", scheduled as "scheduled!", retryable as "retryable!",
                  running as "running!", dead as "dead!", oldest_due_seconds, arrived_per_second, completed_per_second,
                  drain_seconds,
                  exists (select from queue.pauses p where p.target = 'queue' and p.name = queue) as "is_paused!"
           from queue.rates
           order by queue"#
    )
    .fetch_all(conn)
    .await
}

/// The same as gauges, with the tables and their horizon.
pub async fn publish_gauges(conn: &mut PgConnection) -> sqlx::Result<()> {
    for queue in measured(&mut *conn).await? {
        for (state, count) in queue.depths() {
            metrics::gauge!(metric::DEPTH, "queue" => queue.name.clone(), "state" => state).set(count as f64);
        }
        let oldest = queue.oldest_due_seconds.unwrap_or(0.0);
        metrics::gauge!(metric::OLDEST_DUE_SECONDS, "queue" => queue.name.clone()).set(oldest);
        let speeds = [
            (metric::ARRIVED_PER_SECOND, queue.arrived_per_second),
            (metric::COMPLETED_PER_SECOND, queue.completed_per_second),
            (metric::DRAIN_SECONDS, queue.drain_seconds),
        ];
        for (name, value) in speeds {
            if let Some(value) = value {
                metrics::gauge!(name, "queue" => queue.name.clone()).set(value);
            }
        }
    }
    limit::publish_gauges(&mut *conn).await?;
    let health = health(conn).await?;
    metrics::gauge!(metric::HORIZON_SECONDS).set(health.horizon_seconds());
    for table in health.tables {
        metrics::gauge!(metric::TABLE_DEAD_ROWS, "table" => table.name.clone()).set(table.dead_rows as f64);
        metrics::gauge!(metric::TABLE_BYTES, "table" => table.name).set(table.bytes as f64);
    }
    Ok(())
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

/// What was set for a pool since its processes were started.
#[derive(Clone, Debug, Serialize)]
pub struct PoolSettingsView {
    /// The pool.
    pub pool: String,
    /// How many jobs it runs at once in each process.
    pub slots: i32,
    /// Who set it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// When.
    pub changed_at: DateTime<Utc>,
}

/// The pools whose slots were changed.
pub async fn pool_settings(conn: &mut PgConnection) -> sqlx::Result<Vec<PoolSettingsView>> {
    sqlx::query_as!(
        PoolSettingsView,
        "select pool, slots, actor, reason, changed_at from queue.pool_settings order by pool"
    )
    .fetch_all(conn)
    .await
}

/// The worker processes.
pub async fn workers(conn: &mut PgConnection) -> sqlx::Result<Vec<WorkerView>> {
    sqlx::query_as!(
        WorkerView,
        r#"select w.id, w.name, w.pools, w.build, w.host, w.pid, w.started_at, w.beat_at, w.lease_until, w.stopping,
                  (select coalesce(sum(c.size - (select count(*) from queue.ended e where e.claim_id = c.id)), 0)
                   from queue.claims c where c.worker_id = w.id)::bigint as "running!"
           from queue.workers w
           order by w.id"#
    )
    .fetch_all(conn)
    .await
}

/// What is due, running or to come.
pub async fn not_idle(conn: &mut PgConnection) -> sqlx::Result<NotIdle> {
    sqlx::query_as!(
        NotIdle,
        r#"select count(*) filter (where run_at <= clock_timestamp()) as "due!",
                  (select count(*) from queue.running_jobs) as "running!",
                  count(*) filter (where run_at > clock_timestamp()) as "later!",
                  min(run_at) filter (where run_at > clock_timestamp()) as next_run_at
           from queue.jobs"#
    )
    .fetch_one(conn)
    .await
}
