//! Why a job that waits does not start.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Cause, Code, HOLDERS_SHOWN, Holder, PLACE_MAX, Prediction, Remedy, chain, moment, moving, span};
use crate::catalogue::KindInfo;
use crate::fan_in;
use crate::inspect::{self, JobView};
use crate::job::JobId;
use crate::limit::Limit;

/// What the row of a waiting job and its surroundings say.
struct Facts {
    now: DateTime<Utc>,
    run_at: DateTime<Utc>,
    turn: bool,
    parked: bool,
    limit_key: Option<String>,
    undoes: Option<String>,
    /// The owner of the group's turn, if that is another job.
    head: Option<i64>,
    completed_per_second: Option<f64>,
}

/// Every cause, the decisive one first.
pub(super) async fn causes(
    conn: &mut PgConnection,
    view: &JobView,
    kinds: &[KindInfo],
    depth: usize,
) -> sqlx::Result<Vec<Cause>> {
    let Some(facts) = facts(&mut *conn, view.id).await? else {
        return Ok(moving());
    };
    let mut causes = pauses(&mut *conn, view).await?;
    match members(&mut *conn, view.id, kinds, depth).await? {
        // Its time is the end of others: until then it is neither in line nor due.
        Some(waits) => causes.push(waits),
        None => {
            causes.extend(not_due(view, &facts));
            causes.extend(behind(&mut *conn, view, &facts, kinds, depth).await?);
            causes.extend(limits(&mut *conn, view, &facts).await?);
        }
    }
    let is_next = causes.is_empty();
    causes.extend(workers(&mut *conn, view, is_next).await?);
    if causes.is_empty() {
        causes.push(in_line(&mut *conn, view, &facts).await?);
    }
    causes.extend(history(view, &facts));
    causes.sort_by_key(|cause| (cause.code.weight(), std::cmp::Reverse(cause.until)));
    Ok(causes)
}

async fn facts(conn: &mut PgConnection, id: JobId) -> sqlx::Result<Option<Facts>> {
    sqlx::query_as!(
        Facts,
        r#"select clock_timestamp() as "now!", j.run_at, j.turn, coalesce(j.parked, false) as "parked!", j.limit_key,
                  case when not j.turn then (select t.holder from queue.turns t
                                             where t.group_key = j.group_key and t.holder <> j.id) end as head,
                  (select 'it undoes step ' || m.step || ' of saga ' || s.id || ' (' || s.name || ' ' || s.key
                          || ') because step ' || s.failed_step || ' did not complete'
                   from queue.saga_jobs m join queue.sagas s on s.id = m.saga_id
                   where m.job_id = j.id and m.undo) as undoes,
                  (select r.completed_per_second from queue.rates r
                   where r.queue = j.queue and r.at > clock_timestamp() - interval '2 minutes') as completed_per_second
           from queue.jobs j
           where j.id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

async fn pauses(conn: &mut PgConnection, view: &JobView) -> sqlx::Result<Vec<Cause>> {
    let rows = sqlx::query!(
        "select target, name, reason, actor, paused_at from queue.pauses
         where (target = 'queue' and name = $1) or (target = 'kind' and name = $2)
         order by target desc",
        view.queue,
        view.kind,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|pause| {
            // A job that finds the installation wrong pauses its kind in its own name.
            let job = pause.actor.strip_prefix("job ").and_then(|id| id.parse::<i64>().ok());
            let (code, remedy) = match (pause.target.as_str(), job) {
                ("queue", _) => (Code::QueuePaused, Remedy::ResumeQueue(pause.name.clone())),
                (_, None) => (Code::KindPaused, Remedy::ResumeKind(pause.name.clone())),
                (_, Some(_)) => (Code::KindPausedItself, Remedy::ResumeKind(pause.name.clone())),
            };
            let holder = match job {
                Some(job) => Holder::job(job, &view.kind),
                None => Holder::of("person", None, &pause.actor),
            };
            let (target, name) = (&pause.target, &pause.name);
            let text = match code {
                Code::KindPausedItself => {
                    format!(
                        "its kind {name} has paused itself over {}: {}",
                        pause.actor, pause.reason
                    )
                }
                _ => format!("the {target} {name} is paused: {} ({})", pause.reason, pause.actor),
            };
            Cause::new(code, text)
                .held_by([holder])
                .since(pause.paused_at)
                .remedy(remedy)
                .start(format!("not before somebody resumes the {target} {name}"))
        })
        .collect())
}

/// The jobs it waits for, and why the first of them has not ended.
async fn members(conn: &mut PgConnection, id: JobId, kinds: &[KindInfo], depth: usize) -> sqlx::Result<Option<Cause>> {
    let waiter = fan_in::waiter(&mut *conn, id).await?;
    let Some(waiter) = waiter.filter(|waiter| waiter.pending > 0) else {
        return Ok(None);
    };
    let ids: Vec<String> = waiter.waits_for.iter().map(i64::to_string).collect();
    let more = if waiter.pending as usize > ids.len() {
        ", …"
    } else {
        ""
    };
    let mut cause = Cause::new(
        Code::WaitsForJobs,
        format!(
            "it waits for {} of {} jobs: {}{more}",
            waiter.pending,
            waiter.members,
            ids.join(", ")
        ),
    )
    .held_by(waiter.waits_for.iter().map(|member| Holder::job(*member, "")))
    .start("when the last of the jobs it waits for has ended");
    if let Some(first) = waiter.waits_for.first() {
        cause.caused_by = chain(conn, JobId(*first), kinds, depth).await?;
        name_first(&mut cause);
    }
    Ok(Some(cause))
}

/// The first holder is the job that the chain is about.
fn name_first(cause: &mut Cause) {
    let kind = cause.caused_by.as_ref().and_then(|why| why.kind.clone());
    if let (Some(holder), Some(kind)) = (cause.holders.first_mut(), kind) {
        holder.name = kind;
    }
}

/// It is due later: what its waiting reason says, for that is written when it is put off.
fn not_due(view: &JobView, facts: &Facts) -> Option<Cause> {
    if facts.run_at <= facts.now {
        return None;
    }
    let waiting = view.waiting.as_deref().unwrap_or_default();
    let in_time = span((facts.run_at - facts.now).as_seconds_f64());
    let due = format!("due at {}, in {in_time}", moment(facts.run_at));
    let put_off = |code, text: String, when: &str| Cause::new(code, text).until(facts.run_at, when);
    let (tries, max) = (view.attempt, view.attempts_max.unwrap_or(view.attempt));
    let cause = if waiting == "it asked to come back later" {
        put_off(
            Code::Snoozed,
            format!("it asked to come back later: {due}"),
            "it asked to come back",
        )
    } else if waiting.starts_with("throttled: ") {
        put_off(
            Code::Throttled,
            format!("{waiting}; the other side wants to be left alone: {due}"),
            "the other side may be asked again",
        )
    } else if waiting.starts_with("its breaker is open: ") {
        put_off(
            Code::BreakerOpen,
            format!("{waiting}; {due}"),
            "its breaker lets it through",
        )
    } else if waiting.starts_with("trouble with the database") {
        put_off(
            Code::DatabaseTrouble,
            format!("{waiting}; no try was used: {due}"),
            "the trouble may be over",
        )
    } else if view.suspect {
        put_off(
            Code::CrashedAlone,
            format!("{waiting}: {due}"),
            "it may run alone again",
        )
    } else if tries > 0 {
        let last = view.failures.as_array().and_then(|failures| failures.last());
        let message = last.and_then(|last| last["message"].as_str()).unwrap_or(waiting);
        let code = last.and_then(|last| last["code"].as_str()).unwrap_or("failed");
        put_off(
            Code::Retry,
            format!("it waits for its retry after failure {tries} of {max} ({code}: {message}), {due}"),
            "its retry is due",
        )
    } else {
        put_off(Code::Scheduled, format!("it is scheduled: {due}"), "it is due")
    };
    Some(cause.remedy(Remedy::RunNow(view.id)))
}

/// An older job of its group has the turn, or a dead letter keeps it.
async fn behind(
    conn: &mut PgConnection,
    view: &JobView,
    facts: &Facts,
    kinds: &[KindInfo],
    depth: usize,
) -> sqlx::Result<Option<Cause>> {
    let (Some(head), Some(group)) = (facts.head.map(JobId), &view.group_key) else {
        return Ok(None);
    };
    if let Some(letter) = inspect::blocked_by(&mut *conn, group).await? {
        let mut cause = Cause::new(
            Code::GroupBlocked,
            format!("its group {group} is blocked by dead letter {letter}; redrive or discard that one"),
        )
        .held_by([Holder::of("dead letter", letter.0, "")])
        .remedy(Remedy::Redrive(letter))
        .start(format!("not before somebody redrives or discards dead letter {letter}"));
        cause.caused_by = chain(conn, letter, kinds, depth).await?;
        name_first(&mut cause);
        return Ok(Some(cause));
    }
    let between = sqlx::query_scalar!(
        r#"select count(*) as "count!" from (
               select from queue.jobs j
               where j.group_key = $1 and j.id < $2 and j.id <> $3
               order by j.id limit $4) j"#,
        group,
        view.id.0,
        head.0,
        PLACE_MAX + 1,
    )
    .fetch_one(&mut *conn)
    .await?;
    let others = match between {
        0 => String::new(),
        count => format!(", and {} others before it", up_to(count)),
    };
    let own = chain(conn, head, kinds, depth).await?;
    let state = match own.as_ref().map(|why| why.state.as_str()) {
        Some("running") => " and runs",
        Some("retryable") => " and waits for its retry",
        Some("scheduled") => " and is due later",
        _ => "",
    };
    let mut cause = Cause::new(
        Code::BehindInGroup,
        format!("job {head} of its group {group} comes first{state}{others}"),
    )
    .held_by([Holder::job(head.0, "")])
    .start(format!("when job {head} of its group has ended{others}"));
    cause.caused_by = own;
    name_first(&mut cause);
    Ok(Some(cause))
}

/// A limit of the job's key or its queue, as full as it is now.
struct Room {
    key: String,
    name: String,
    concurrency: Option<i32>,
    rate: Option<f64>,
    burst: i32,
    breaker_failures: Option<i32>,
    breaker_seconds: f64,
    running: i64,
    failures: i32,
    open_until: Option<DateTime<Utc>>,
    is_open: bool,
    cause: Option<String>,
    next_at: Option<DateTime<Utc>>,
    parked_before: i64,
}

impl Room {
    fn limit(&self) -> Limit {
        Limit {
            concurrency: self.concurrency,
            rate: self.rate,
            burst: self.rate.map(|_| self.burst),
            breaker_failures: self.breaker_failures,
            breaker_seconds: self.breaker_failures.map(|_| self.breaker_seconds),
        }
    }
}

async fn limits(conn: &mut PgConnection, view: &JobView, facts: &Facts) -> sqlx::Result<Vec<Cause>> {
    let queue_key = format!("queue/{}", view.queue);
    let keys: Vec<String> = facts.limit_key.iter().cloned().chain([queue_key.clone()]).collect();
    let rooms = sqlx::query_as!(
        Room,
        r#"select k.key as "key!", l.name as "name!", l.concurrency, l.rate, l.burst as "burst!", l.breaker_failures,
                  l.breaker_seconds as "breaker_seconds!", coalesce(h.running, 0)::bigint as "running!",
                  coalesce(s.failures, 0) as "failures!", s.open_until,
                  coalesce(s.open_until > clock_timestamp(), false) as "is_open!", s.cause,
                  case when l.rate is not null
                       then s.arrival - (l.burst - 1) * make_interval(secs => 1 / l.rate) end as next_at,
                  queue.place_parked($2, k.key, $3) as "parked_before!"
           from unnest($1::text[]) k (key)
           cross join lateral queue.limit_of(k.key) l
           left join queue.limit_keys s on s.key = k.key
           left join lateral (select sum(o.jobs) as running from queue.limit_holds o where o.key = k.key) h on true
           where l.name is not null"#,
        &keys,
        view.id.0,
        PLACE_MAX + 1,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut causes = Vec::new();
    for room in rooms {
        let of = match room.key == queue_key {
            true => format!("the queue {}", view.queue),
            false => format!("its key {}", room.key),
        };
        let behind = match room.parked_before {
            0 => String::new(),
            count => format!("; {} jobs of it wait before this one", up_to(count)),
        };
        if let Some(open_until) = room.open_until {
            causes.push(breaker(&mut *conn, &room, open_until, &of, &behind).await?);
        } else if room.concurrency == Some(0) {
            let limit = Limit {
                concurrency: Some(1),
                ..room.limit()
            };
            causes.push(
                Cause::new(
                    Code::LimitIsZero,
                    format!("the limit {} lets no job of {of} run", room.name),
                )
                .held_by([Holder::of("limit", None, &room.name)])
                .remedy(Remedy::SetLimit(room.name.clone(), limit))
                .start(format!("not before somebody raises the limit {}", room.name)),
            );
        } else if let Some(concurrency) = room.concurrency.filter(|most| i64::from(*most) <= room.running) {
            let code = if room.key == queue_key {
                Code::QueueFull
            } else {
                Code::KeyFull
            };
            let limit = Limit {
                concurrency: Some(concurrency.saturating_mul(2)),
                ..room.limit()
            };
            let holders = holders_of(&mut *conn, &room.key).await?;
            causes.push(
                Cause::new(
                    code,
                    format!(
                        "{} jobs of {of} run, and no more may (limit {}){behind}",
                        room.running, room.name
                    ),
                )
                .since(holders.first().map(|(_, since)| *since))
                .held_by(holders.into_iter().map(|(holder, _)| holder))
                .remedy(Remedy::SetLimit(room.name.clone(), limit))
                .start(format!("when one of the running jobs of {of} has ended{behind}")),
            );
        }
        if let (Some(rate), Some(next_at)) = (room.rate, room.next_at.filter(|next_at| *next_at > facts.now)) {
            // Twice as many, and room for the next at once: what has started counts against the burst.
            let limit = Limit {
                rate: Some(rate * 2.0),
                burst: Some(room.burst.saturating_mul(2).saturating_add(1)),
                ..room.limit()
            };
            let mine = next_at + seconds(room.parked_before as f64 / rate);
            let mut cause = Cause::new(
                Code::Rate,
                format!(
                    "{of} starts {rate} jobs a second: the next may at {}{behind}",
                    moment(next_at)
                ),
            )
            .held_by([Holder::of("limit", None, &room.name)])
            .until(mine, "its rate lets it through")
            .remedy(Remedy::SetLimit(room.name.clone(), limit));
            if room.parked_before > PLACE_MAX {
                cause.start.basis = format!(
                    "not before {}: {} jobs before it at {rate}/s",
                    moment(mine),
                    up_to(room.parked_before)
                );
            }
            causes.push(cause);
        }
    }
    Ok(causes)
}

/// Open until a time; afterwards it lets single jobs through until one succeeds.
async fn breaker(
    conn: &mut PgConnection,
    room: &Room,
    open_until: DateTime<Utc>,
    of: &str,
    behind: &str,
) -> sqlx::Result<Cause> {
    let because = room.cause.as_deref().unwrap_or("no cause known");
    let cause = if room.is_open {
        Cause::new(
            Code::BreakerOpen,
            format!(
                "the breaker of {of} is open after {} failures: {because}; a probe may run at {}{behind}",
                room.failures,
                moment(open_until)
            ),
        )
        .held_by([Holder::of("limit", None, &room.name)])
        .until(open_until, "its breaker lets a probe through")
    } else {
        let probes = holders_of(conn, &room.key).await?;
        Cause::new(
            Code::BreakerOpen,
            format!("the breaker of {of} lets one job through at a time until one succeeds: {because}{behind}"),
        )
        .held_by(probes.into_iter().map(|(holder, _)| holder))
        .start("when a probe has succeeded, or as the next probe")
    };
    Ok(cause.remedy(Remedy::CloseBreaker(room.key.clone())))
}

/// Jobs that count against a key now, the oldest first.
async fn holders_of(conn: &mut PgConnection, key: &str) -> sqlx::Result<Vec<(Holder, DateTime<Utc>)>> {
    let rows = sqlx::query!(
        r#"select j.id as "id!", j.kind as "kind!", c.claimed_at
           from queue.limit_holds h
           join queue.claims c on c.id = h.claim_id
           cross join unnest(c.jobs) j
           where h.key = $1 and (j.limit_key = $1 or 'queue/' || j.queue = $1)
             and not exists (select from queue.ended e where e.claim_id = c.id and e.job_id = j.id)
           order by c.claimed_at, j.id
           limit $2"#,
        key,
        HOLDERS_SHOWN,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (Holder::job(row.id, row.kind), row.claimed_at))
        .collect())
}

/// A worker that serves the queue of the job.
struct Server {
    id: i64,
    name: String,
    build: String,
    stopping: bool,
    is_silent: bool,
    beat_at: DateTime<Utc>,
    knows_kind: bool,
    reads_version: bool,
    pool: Option<String>,
    slots: Option<i32>,
    running: i64,
}

impl Server {
    fn is_full(&self) -> bool {
        self.slots.is_some_and(|slots| self.running >= i64::from(slots))
    }

    fn holder(&self) -> Holder {
        Holder::of("worker", self.id, &self.name)
    }
}

/// Nobody is there to run it; or all who are there are busy, which matters only to a job that could start.
async fn workers(conn: &mut PgConnection, view: &JobView, is_next: bool) -> sqlx::Result<Option<Cause>> {
    let servers = sqlx::query_as!(
        Server,
        r#"select w.id, w.name, w.build, w.stopping, w.lease_until <= clock_timestamp() as "is_silent!", w.beat_at,
                  -- A worker of a build that does not tell what it knows is given the benefit of the doubt.
                  w.kinds is null or $2 = any(w.kinds) as "knows_kind!",
                  w.kinds is null or coalesce($3 <= w.versions[array_position(w.kinds, $2)], false) as "reads_version!",
                  p.name as pool, coalesce(s.slots, w.slots) as slots,
                  (select coalesce(sum(c.size - (select count(*) from queue.ended e where e.claim_id = c.id)), 0)
                   from queue.claims c
                   where c.worker_id = w.id
                     and c.queue in (select q.queue from unnest(w.pools, w.pool_names) q (queue, pool)
                                     where q.pool = p.name))::bigint as "running!"
           from queue.workers w
           cross join lateral (select w.pool_names[array_position(w.pools, $1)] as name) p
           left join queue.pool_settings s on s.pool = p.name
           where $1 = any(w.pools)
           order by w.id"#,
        view.queue,
        view.kind,
        view.args_version,
    )
    .fetch_all(&mut *conn)
    .await?;
    let start = || Remedy::StartWorker(view.queue.clone());
    let (live, gone): (Vec<_>, Vec<_>) = servers
        .into_iter()
        .partition(|server| !server.stopping && !server.is_silent);
    if live.is_empty() {
        let last: Vec<String> = gone
            .iter()
            .map(|server| match server.is_silent {
                true => format!("{} has been silent since {}", server.name, moment(server.beat_at)),
                false => format!("{} is stopping", server.name),
            })
            .collect();
        let also = if last.is_empty() {
            String::new()
        } else {
            format!(" ({})", last.join(", "))
        };
        let text = format!("no worker serves the queue {}{also}; start one", view.queue);
        return Ok(Some(
            Cause::new(Code::NoWorker, text)
                .held_by(gone.iter().map(Server::holder))
                .remedy(start())
                .start(format!(
                    "not before somebody starts a worker for the queue {}",
                    view.queue
                )),
        ));
    }
    let able: Vec<_> = live.iter().filter(|server| server.reads_version).collect();
    if able.is_empty() {
        let code = match live.iter().any(|server| server.knows_kind) {
            true => Code::VersionUnknown,
            false => Code::KindUnknown,
        };
        let mut builds: Vec<&str> = live.iter().map(|server| server.build.as_str()).collect();
        builds.sort_unstable();
        builds.dedup();
        let what = format!("{} version {}", view.kind, view.args_version);
        return Ok(Some(
            Cause::new(
                code,
                format!(
                    "no worker of the queue {} knows {what}; start one of a build that does (there: {})",
                    view.queue,
                    builds.join(", ")
                ),
            )
            .held_by(live.iter().take(HOLDERS_SHOWN as usize).map(Server::holder))
            .remedy(start())
            .start(format!(
                "not before somebody starts a worker of a build that knows {what}"
            )),
        ));
    }
    if view.suspect {
        return suspect(conn, view, &able).await.map(Some);
    }
    match is_next && able.iter().all(|server| server.is_full()) {
        true => busy(conn, view, &able).await.map(Some),
        false => Ok(None),
    }
}

/// What runs on some workers, the longest first.
async fn running_on(conn: &mut PgConnection, workers: &[&Server]) -> sqlx::Result<Vec<(Holder, String)>> {
    let ids: Vec<i64> = workers.iter().map(|worker| worker.id).collect();
    let rows = sqlx::query!(
        r#"select j.id as "id!", j.kind as "kind!", c.worker_id,
                  extract(epoch from clock_timestamp() - c.claimed_at)::float8 as "secs!"
           from queue.claims c
           cross join unnest(c.jobs) j
           where c.worker_id = any($1)
             and not exists (select from queue.ended e where e.claim_id = c.id and e.job_id = j.id)
           order by c.claimed_at, j.id
           limit $2"#,
        &ids,
        HOLDERS_SHOWN,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let text = format!(
                "job {} ({}) on worker {} for {}",
                row.id,
                row.kind,
                row.worker_id,
                span(row.secs)
            );
            (Holder::job(row.id, row.kind), text)
        })
        .collect())
}

/// It runs with nothing beside it, so a worker has to be empty first.
async fn suspect(conn: &mut PgConnection, view: &JobView, able: &[&Server]) -> sqlx::Result<Cause> {
    let running = running_on(conn, able).await?;
    let said = view.waiting.as_deref().unwrap_or("workers died over it");
    let (holders, texts): (Vec<_>, Vec<_>) = running.into_iter().unzip();
    let (waits_for, basis) = match texts.is_empty() {
        true => ("an empty worker is there".to_owned(), "at once: a worker is empty"),
        false => (
            format!("the worker has to end {} first", texts.join(", ")),
            "when a worker has ended what it runs",
        ),
    };
    let mut cause = Cause::new(
        Code::Suspect,
        format!("it is a suspect and waits for a worker to run it alone ({said}); {waits_for}"),
    )
    .start(basis);
    if !holders.is_empty() {
        cause = cause.held_by(holders).remedy(Remedy::StartWorker(view.queue.clone()));
    }
    Ok(cause)
}

/// Every slot is taken.
async fn busy(conn: &mut PgConnection, view: &JobView, able: &[&Server]) -> sqlx::Result<Cause> {
    let slots: i64 = able.iter().filter_map(|server| server.slots).map(i64::from).sum();
    let (holders, texts): (Vec<_>, Vec<_>) = running_on(conn, able).await?.into_iter().unzip();
    let mut cause = Cause::new(
        Code::SlotsBusy,
        format!(
            "all {slots} slots of the {} workers that serve the queue {} are taken: {}",
            able.len(),
            view.queue,
            texts.join(", ")
        ),
    )
    .held_by(holders)
    .start("when one of the jobs in the slots has ended, and its turn has come");
    if let Some((pool, slots)) = able
        .iter()
        .find_map(|server| Some((server.pool.clone()?, server.slots?)))
    {
        cause = cause.remedy(Remedy::SetSlots(pool, slots.saturating_mul(2).min(8192)));
    }
    Ok(cause)
}

/// Nothing is in its way but those before it.
async fn in_line(conn: &mut PgConnection, view: &JobView, facts: &Facts) -> sqlx::Result<Cause> {
    if facts.parked {
        let text = "its limit has room again: it is let in with the next claim";
        return Ok(Cause::new(Code::InLine, text).start("at once: its limit has room"));
    }
    if !facts.turn {
        let text = "its turn is being passed on to it";
        return Ok(Cause::new(Code::InLine, text).start("at once: the turn of its group is free"));
    }
    let before = sqlx::query_scalar!(
        r#"select queue.place_in_line($1, $2) as "count!""#,
        view.id.0,
        PLACE_MAX + 1,
    )
    .fetch_one(conn)
    .await?;
    if before == 0 {
        let mut cause =
            Cause::new(Code::InLine, "it is due and will be claimed next").start("at once: it is the next in line");
        cause.start.from = Some(facts.now);
        return Ok(cause);
    }
    let count = up_to(before);
    let mut cause = Cause::new(Code::InLine, format!("it is due; {count} jobs are ahead of it"));
    cause.start = match facts.completed_per_second.filter(|rate| *rate > 0.0) {
        None => Prediction {
            basis: format!("when the {count} jobs before it have started; how fast they do is not known yet"),
            ..Prediction::default()
        },
        Some(rate) => {
            let wait = before as f64 / rate;
            let word = if before > PLACE_MAX { "in more than" } else { "in about" };
            Prediction {
                from: Some(facts.now + seconds(wait / 2.0)),
                to: (before <= PLACE_MAX).then(|| facts.now + seconds(wait * 2.0)),
                basis: format!("{word} {}: {count} jobs before it at {rate:.1}/s", span(wait)),
            }
        }
    };
    Ok(cause)
}

/// How it came back into the line, where that is worth knowing.
fn history(view: &JobView, facts: &Facts) -> Vec<Cause> {
    let waiting = view.waiting.as_deref().unwrap_or_default();
    let mut causes: Vec<Cause> = facts
        .undoes
        .iter()
        .map(|text| Cause::new(Code::UndoesStep, text))
        .collect();
    let is_back = [
        "its worker stopped and handed it back",
        "the answer to its claim was lost",
    ]
    .contains(&waiting);
    if is_back {
        causes.push(Cause::new(
            Code::HandedBack,
            format!("{waiting}, with its try and its place in line"),
        ));
    } else if waiting == "its worker died" {
        causes.push(Cause::new(
            Code::Rescued,
            "its worker died, and it is back with its try and its place in line; if another dies over it, it runs alone",
        ));
    } else if waiting.starts_with("redriven by ") {
        causes.push(Cause::new(Code::Redriven, format!("it was a dead letter, {waiting}")));
    } else if waiting.ends_with("did not complete") {
        causes.push(Cause::new(Code::Released, waiting));
    }
    causes
}

fn up_to(count: i64) -> String {
    match count > PLACE_MAX {
        true => format!("more than {PLACE_MAX}"),
        false => count.to_string(),
    }
}

/// At most a hundred years, which no rate outlives.
fn seconds(seconds: f64) -> chrono::TimeDelta {
    chrono::TimeDelta::milliseconds((seconds.clamp(0.0, 3.2e9) * 1000.0) as i64)
}
