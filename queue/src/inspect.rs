//! What an operator sees: read-only, and everything serializes.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use crate::job::JobId;

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
    /// Whether it runs alone.
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
    /// exhausted, permanent, poison or deadline.
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
    /// The pause, if there is one.
    pub paused: Option<PauseView>,
    /// The kinds of this queue that are paused.
    pub paused_kinds: Vec<String>,
}

/// A line of the timetable at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// The kind it enqueues.
    pub kind: String,
    /// The queue it enqueues into.
    pub queue: String,
    /// When.
    pub cron: String,
    /// In which zone.
    pub time_zone: String,
    /// What happens to missed ticks.
    pub missed: String,
    /// Whether it is paused.
    pub paused: bool,
    /// The last tick that fired.
    pub last_tick_at: Option<DateTime<Utc>>,
    /// The job of that tick.
    pub last_job_id: Option<i64>,
    /// The next ticks.
    pub next: Vec<DateTime<Utc>>,
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

/// Every queue that has jobs, dead letters, a worker or a pause.
pub async fn queues(conn: &mut PgConnection) -> sqlx::Result<Vec<QueueView>> {
    let rows = sqlx::query!(
        r#"with live as (
               select queue as name,
                      count(*) filter (where run_at <= clock_timestamp()) as available,
                      count(*) filter (where run_at > clock_timestamp() and failures is null) as scheduled,
                      count(*) filter (where run_at > clock_timestamp() and failures is not null) as retryable,
                      extract(epoch from clock_timestamp() - min(run_at)
                          filter (where run_at <= clock_timestamp()))::float8 as oldest_due_seconds
               from queue.jobs group by queue
           ), held as (
               select c.queue as name,
                      sum(c.size - (select count(*) from queue.ended e where e.claim_id = c.id))::bigint as running
               from queue.claims c group by c.queue
           ), dead as (
               select queue as name, count(*) as dead from queue.dead_letters group by queue
           ), names as (
               select name from live union select name from held union select name from dead
               union select unnest(pools) from queue.workers
               union select name from queue.pauses where target = 'queue'
           )
           select n.name as "name!", coalesce(l.available, 0) as "available!", coalesce(l.scheduled, 0) as "scheduled!",
                  coalesce(l.retryable, 0) as "retryable!", coalesce(h.running, 0) as "running!",
                  coalesce(d.dead, 0) as "dead!", l.oldest_due_seconds,
                  p.reason as "reason?", p.actor as "actor?", p.paused_at as "paused_at?",
                  array(select k.name from queue.pauses k where k.target = 'kind' and exists (
                      select from queue.jobs j where j.kind = k.name and j.queue = n.name) order by k.name) as "paused_kinds!"
           from names n
           left join live l using (name)
           left join held h using (name)
           left join dead d using (name)
           left join queue.pauses p on p.target = 'queue' and p.name = n.name
           order by n.name"#
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

/// The same as gauges.
pub async fn publish_gauges(conn: &mut PgConnection) -> sqlx::Result<()> {
    for queue in queues(conn).await? {
        let states = [
            ("available", queue.available),
            ("scheduled", queue.scheduled),
            ("retryable", queue.retryable),
            ("running", queue.running),
            ("dead", queue.dead),
        ];
        for (state, count) in states {
            metrics::gauge!(crate::metric::DEPTH, "queue" => queue.name.clone(), "state" => state).set(count as f64);
        }
        let oldest = queue.oldest_due_seconds.unwrap_or(0.0);
        metrics::gauge!(crate::metric::OLDEST_DUE_SECONDS, "queue" => queue.name).set(oldest);
    }
    Ok(())
}

/// The timetable.
pub async fn schedules(conn: &mut PgConnection) -> sqlx::Result<Vec<ScheduleView>> {
    const NEXT_SHOWN: usize = 3;
    let rows = sqlx::query!(
        r#"select s.name, s.kind, s.queue, s.cron, s.time_zone, s.missed, s.paused, clock_timestamp() as "now!",
                  t.tick_at as "tick_at?", t.job_id as "job_id?"
           from queue.schedules s
           left join lateral (
               select tick_at, job_id from queue.ticks t where t.name = s.name order by tick_at desc limit 1
           ) t on true
           order by s.name"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| ScheduleView {
            next: crate::schedule::next(&row.cron, &row.time_zone, row.now, NEXT_SHOWN),
            name: row.name,
            kind: row.kind,
            queue: row.queue,
            cron: row.cron,
            time_zone: row.time_zone,
            missed: row.missed,
            paused: row.paused,
            last_tick_at: row.tick_at,
            last_job_id: row.job_id,
        })
        .collect())
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

/// Why a job is not running, one line per cause; empty when there is no such job.
pub async fn why(conn: &mut PgConnection, id: JobId) -> sqlx::Result<Vec<String>> {
    let Some(view) = job(&mut *conn, id).await? else {
        return Ok(Vec::new());
    };
    match view.state.as_str() {
        "running" => {
            let worker = view
                .worker_id
                .map_or_else(String::new, |worker| format!(" on worker {worker}"));
            let mut lines = vec![format!("it is running{worker}, attempt {}", view.attempt)];
            let wish = sqlx::query!("select actor, reason from queue.cancels where job_id = $1", id.0)
                .fetch_optional(conn)
                .await?;
            lines.extend(wish.map(|wish| format!("{} has asked it to stop: {}", wish.actor, wish.reason)));
            return Ok(lines);
        }
        "dead" => {
            let message = view.waiting.unwrap_or_default();
            return Ok(vec![format!(
                "it is dead: {message}; look at the dead letter, mend the cause, redrive it"
            )]);
        }
        "completed" | "discarded" | "cancelled" => return Ok(vec![format!("it has ended: {}", view.state)]),
        _ => {}
    }
    let mut causes: Vec<String> = view.waiting.clone().into_iter().collect();
    let facts = sqlx::query!(
        r#"select j.run_at > clock_timestamp() as "is_later!",
                  (select p.reason || ' (' || p.actor || ')' from queue.pauses p where p.target = 'queue' and p.name = j.queue) as queue_pause,
                  (select p.reason || ' (' || p.actor || ')' from queue.pauses p where p.target = 'kind' and p.name = j.kind) as kind_pause,
                  (select t.holder from queue.turns t where t.group_key = j.group_key and not j.turn) as group_head,
                  exists (select from queue.workers w where j.queue = any(w.pools) and not w.stopping) as "is_served!",
                  (select count(*) from queue.jobs e where e.queue = j.queue and not e.suspect and e.turn
                      and (e.rank, e.id) < (j.rank, j.id)) as "ahead!"
           from queue.jobs j where j.id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    let Some(facts) = facts else { return Ok(causes) };
    if let (true, Some(run_at)) = (facts.is_later, view.run_at) {
        causes.push(format!("it is not due before {}", run_at.to_rfc3339()));
    }
    if let Some(reason) = facts.queue_pause {
        causes.push(format!("the queue {} is paused: {reason}; resume it", view.queue));
    }
    if let Some(reason) = facts.kind_pause {
        causes.push(format!("the kind {} is paused: {reason}; resume it", view.kind));
    }
    if let Some(head) = facts.group_head {
        let group = view.group_key.unwrap_or_default();
        causes.push(format!("job {head} of its group {group} comes first"));
    }
    if view.suspect {
        causes.push("it is a suspect and waits for a worker to run it alone".to_owned());
    }
    if !facts.is_served {
        causes.push(format!("no worker serves the queue {}; start one", view.queue));
    }
    if !facts.is_later && facts.ahead > 0 {
        causes.push(format!("{} jobs are ahead of it", facts.ahead));
    }
    if causes.is_empty() {
        causes.push("it is due and will be claimed next".to_owned());
    }
    Ok(causes)
}
