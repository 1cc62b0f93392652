//! The operator's verbs: jobs, dead letters, queues, the timetable. They speak to the database, so they also work while
//! the API does not.

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use queue::JobId;
use queue::inspect::{
    self, CauseFilter, CauseView, DeadFilter, DeadLetterView, JobFilter, JobView, ScheduleView, TickView,
};
use queue::log::{self, Log};
use queue::operate::{self, Cancelled, Target};
use queue::timetable::{self, Change};
use serde::Serialize;
use sqlx::PgConnection;

use crate::cli::{self, DeadAction, JobsAction, QueuesAction, ScheduleAction};
use crate::database;
use crate::table::{self, Table};
use crate::why;

/// `orderfleet jobs …`.
pub async fn jobs(args: cli::Jobs) -> anyhow::Result<()> {
    let mut conn = connect().await?;
    match args.action.unwrap_or(JobsAction::List(args.list)) {
        JobsAction::List(list) => list_jobs(&mut conn, list).await,
        JobsAction::Show { id, output } => {
            let job = inspect::job(&mut conn, JobId(id)).await.context("reading the job")?;
            let job =
                job.with_context(|| format!("there is no job {id}; finished ones are kept for some days only"))?;
            let log = log::read(&mut conn, JobId(id)).await.context("reading the job's log")?;
            table::print(output.json, &Whole { job, log }, show_job)
        }
        JobsAction::Cancel { ids, because } => {
            for id in ids {
                let cancelled = operate::cancel(&mut conn, JobId(id), &because.actor, &because.reason)
                    .await
                    .with_context(|| format!("cancelling job {id}"))?;
                table::say(&match cancelled {
                    Cancelled::Ended => format!("cancelled {id}\n"),
                    Cancelled::Asked => {
                        format!("asked {id} to stop; `orderfleet jobs show {id}` says whether it did\n")
                    }
                })?;
            }
            Ok(())
        }
        JobsAction::Why { id, output } => why::job(&mut conn, id, output.json).await,
        JobsAction::Run { ids, because } => {
            for id in ids {
                let was_later = operate::run_now(&mut conn, JobId(id), &because.actor, &because.reason)
                    .await
                    .with_context(|| format!("making job {id} due"))?;
                let words = if was_later { "is due now" } else { "was due already" };
                table::say(&format!("job {id} {words}\n"))?;
            }
            Ok(())
        }
    }
}

async fn list_jobs(conn: &mut PgConnection, list: cli::JobsList) -> anyhow::Result<()> {
    let filter = JobFilter {
        queue: list.queue,
        kind: list.kind,
        state: list.state,
        limit: list.limit,
        ..JobFilter::default()
    };
    let jobs = inspect::jobs(conn, &filter).await.context("listing jobs")?;
    table::print(list.output.json, &jobs, |jobs| {
        let mut table = Table::new(&["ID", "QUEUE", "KIND", "STATE", "TRY", "DUE", "KEY", "WHY"]);
        for job in jobs {
            table.row([
                job.id.to_string(),
                job.queue.clone(),
                job.kind.clone(),
                job.state.clone(),
                tries(job),
                job.run_at.map_or_else(String::new, moment),
                job.unique_key.clone().unwrap_or_default(),
                job.waiting.clone().unwrap_or_default(),
            ]);
        }
        table
    })
}

fn tries(job: &JobView) -> String {
    match job.attempts_max {
        Some(max) => format!("{}/{max}", job.attempt),
        None => job.attempt.to_string(),
    }
}

/// A job and what it has logged.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    job: JobView,
    log: Log,
}

fn show_job(Whole { job, log }: &Whole) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    line("id", job.id.to_string());
    line("queue", job.queue.clone());
    line("kind", format!("{} (version {})", job.kind, job.args_version));
    line("state", job.state.clone());
    line("arguments", job.args.to_string());
    line("tries", tries(job));
    line("claims", job.fence.to_string());
    for (name, value) in [
        ("due", job.run_at),
        ("claimed", job.claimed_at),
        ("ended", job.ended_at),
    ] {
        if let Some(value) = value {
            line(name, moment(value));
        }
    }
    line("enqueued", moment(job.created_at));
    for (name, value) in [
        ("unique key", &job.unique_key),
        ("group", &job.group_key),
        ("why", &job.waiting),
    ] {
        if let Some(value) = value {
            line(name, value.clone());
        }
    }
    if let Some(worker) = job.worker_id {
        line("worker", worker.to_string());
    }
    for (name, value) in [("progress", &job.progress), ("result", &job.result)] {
        if let Some(value) = value {
            line(name, value.to_string());
        }
    }
    for failure in job.failures.as_array().into_iter().flatten() {
        line("failure", failure.to_string());
    }
    if log.dropped > 0 {
        line("log", format!("({} earlier lines are gone)", log.dropped));
    }
    for said in &log.lines {
        line(
            "log",
            format!("{} try {}: {}", moment(said.at), said.attempt, said.line),
        );
    }
    table
}

/// `orderfleet dead …`.
pub async fn dead(args: cli::Dead) -> anyhow::Result<()> {
    let mut conn = connect().await?;
    match args.action.unwrap_or(DeadAction::List(args.list)) {
        DeadAction::List(list) => {
            let filter = DeadFilter {
                kind: list.kind,
                limit: list.limit,
                ..DeadFilter::default()
            };
            let letters = inspect::dead_letters(&mut conn, &filter)
                .await
                .context("listing dead letters")?;
            table::print(list.output.json, &letters, dead_table)
        }
        DeadAction::Causes(list) => {
            let filter = CauseFilter {
                kind: list.kind,
                limit: list.limit,
                ..CauseFilter::default()
            };
            let causes = inspect::causes(&mut conn, &filter)
                .await
                .context("counting dead letters by cause")?;
            table::print(list.output.json, &causes, causes_table)
        }
        DeadAction::Show { id, output } => {
            let letter = inspect::dead_letter(&mut conn, JobId(id))
                .await
                .context("reading the dead letter")?;
            let letter = letter
                .with_context(|| format!("there is no dead letter {id}: `orderfleet jobs show {id}` may know it"))?;
            table::print(output.json, &letter, show_letter)
        }
        DeadAction::Redrive { ids, because, edit } => redrive(&mut conn, &ids, &because, edit.as_deref()).await,
        DeadAction::Discard { ids, because } => {
            for id in ids {
                operate::discard(&mut conn, JobId(id), &because.actor, &because.reason)
                    .await
                    .with_context(|| format!("discarding dead letter {id}"))?;
                table::say(&format!("discarded {id}\n"))?;
            }
            Ok(())
        }
    }
}

async fn redrive(
    conn: &mut PgConnection,
    ids: &[i64],
    because: &cli::Because,
    edit: Option<&str>,
) -> anyhow::Result<()> {
    let edit: Option<serde_json::Value> = edit
        .map(serde_json::from_str)
        .transpose()
        .context("--edit is not JSON")?;
    match (&edit, ids) {
        (Some(edit), _) if !edit.is_object() => bail!("--edit must be a JSON object: the new arguments of the job"),
        (Some(_), [_, _, ..]) => bail!("--edit goes with one job, not with several"),
        _ => {}
    }
    for &id in ids {
        let job = operate::redrive(conn, JobId(id), &because.actor, &because.reason, edit.clone())
            .await
            .with_context(|| format!("redriving dead letter {id}"))?;
        table::say(&format!("redriven {job}\n"))?;
    }
    Ok(())
}

fn dead_table(letters: &Vec<DeadLetterView>) -> Table {
    let mut table = Table::new(&[
        "ID",
        "KIND",
        "REASON",
        "CLASS",
        "CODE",
        "TRIES",
        "DEAD SINCE",
        "MESSAGE",
    ]);
    for letter in letters {
        table.row([
            letter.id.to_string(),
            letter.kind.clone(),
            letter.reason.clone(),
            letter.error_class.clone(),
            letter.error_code.clone(),
            format!("{}/{}", letter.attempt, letter.attempts_max),
            moment(letter.dead_at),
            letter.message.chars().take(100).collect(),
        ]);
    }
    table
}

fn causes_table(causes: &Vec<CauseView>) -> Table {
    let mut table = Table::new(&[
        "CAUSE", "LETTERS", "KIND", "CLASS", "CODE", "FIRST", "LAST", "MESSAGE", "SUCH AS",
    ]);
    for cause in causes {
        table.row([
            cause.cause.clone(),
            cause.letters.to_string(),
            cause.kind.clone(),
            cause.error_class.clone(),
            cause.error_code.clone(),
            moment(cause.first_at),
            moment(cause.last_at),
            cause.pattern.chars().take(100).collect(),
            cause.sample.iter().map(i64::to_string).collect::<Vec<_>>().join(" "),
        ]);
    }
    table
}

fn show_letter(letter: &DeadLetterView) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    line("id", letter.id.to_string());
    line(
        "kind",
        format!("{} (version {}) in {}", letter.kind, letter.args_version, letter.queue),
    );
    line("dead since", moment(letter.dead_at));
    line("reason", letter.reason.clone());
    line(
        "last failure",
        format!("{} {}: {}", letter.error_class, letter.error_code, letter.message),
    );
    line("arguments", letter.args.to_string());
    line("tries", format!("{}/{}", letter.attempt, letter.attempts_max));
    for (name, value) in letter.report.as_object().into_iter().flatten() {
        match value.as_array() {
            Some(items) if !items.is_empty() => {
                for item in items {
                    line(name, item.to_string());
                }
            }
            _ => line(name, value.to_string()),
        }
    }
    table
}

/// `orderfleet queues …`.
pub async fn queues(args: cli::Queues) -> anyhow::Result<()> {
    let mut conn = connect().await?;
    match args.action.unwrap_or(QueuesAction::List { output: args.output }) {
        QueuesAction::List { output } => {
            let queues = inspect::queues(&mut conn).await.context("listing queues")?;
            table::print(output.json, &queues, |queues| {
                let mut table = Table::new(&[
                    "QUEUE",
                    "DUE",
                    "RUNNING",
                    "RETRYING",
                    "SCHEDULED",
                    "DEAD",
                    "OLDEST DUE",
                    "IN/s",
                    "OUT/s",
                    "TO DRAIN",
                    "PAUSED",
                ]);
                for queue in queues {
                    let paused = queue
                        .paused
                        .as_ref()
                        .map(|pause| format!("by {}: {}", pause.actor, pause.reason));
                    let kinds = queue.paused_kinds.iter().map(|kind| format!("kind {kind}"));
                    table.row([
                        queue.name.clone(),
                        queue.available.to_string(),
                        queue.running.to_string(),
                        queue.retryable.to_string(),
                        queue.scheduled.to_string(),
                        queue.dead.to_string(),
                        queue
                            .oldest_due_seconds
                            .map_or_else(String::new, |seconds| format!("{seconds:.1} s")),
                        per_second(queue.arrived_per_second),
                        per_second(queue.completed_per_second),
                        drain(queue.drain_seconds),
                        paused.into_iter().chain(kinds).collect::<Vec<_>>().join(", "),
                    ]);
                }
                table
            })
        }
        QueuesAction::Pause { target, because } => {
            let (kind, word) = meant(&target)?;
            operate::pause(&mut conn, kind, &target.name, &because.reason, &because.actor)
                .await
                .context("pausing")?;
            table::say(&format!("paused {word} {}\n", target.name))
        }
        QueuesAction::Slots { pool, slots, because } => {
            operate::set_slots(&mut conn, &pool, slots, &because.reason, &because.actor)
                .await
                .with_context(|| format!("changing the slots of pool {pool}"))?;
            let is_queue = jobs::catalogue().kinds().iter().any(|kind| kind.queue == pool);
            if !is_queue {
                table::say(&format!(
                    "no queue is called {pool}: this is for a pool of several queues with that name\n"
                ))?;
            }
            table::say(&match slots {
                Some(slots) => format!("pool {pool}: {slots} slots in each process\n"),
                None => format!("pool {pool}: as many slots as each process was started with\n"),
            })
        }
        QueuesAction::Resume { target, because } => {
            let (kind, word) = meant(&target)?;
            let was_paused = operate::resume(&mut conn, kind, &target.name, &because.reason, &because.actor)
                .await
                .context("resuming")?;
            let words = if was_paused { "resumed" } else { "was not paused:" };
            table::say(&format!("{words} {word} {}\n", target.name))
        }
    }
}

fn per_second(speed: Option<f64>) -> String {
    speed.map_or_else(String::new, |speed| format!("{speed:.1}"))
}

fn drain(seconds: Option<f64>) -> String {
    /// What the queue says when nothing ends.
    const A_DAY: f64 = 86_400.0;
    match seconds {
        None => String::new(),
        Some(seconds) if seconds >= A_DAY => "a day or more".to_owned(),
        Some(seconds) => format!("{seconds:.0} s"),
    }
}

/// A misspelt name would pause nothing, silently.
fn meant(target: &cli::PauseTarget) -> anyhow::Result<(Target, &'static str)> {
    let kinds = jobs::catalogue().kinds();
    let (what, word, mut known): (_, _, Vec<&str>) = match target.kind {
        true => (Target::Kind, "kind", kinds.iter().map(|kind| kind.kind).collect()),
        false => (Target::Queue, "queue", kinds.iter().map(|kind| kind.queue).collect()),
    };
    known.sort_unstable();
    known.dedup();
    match known.contains(&target.name.as_str()) {
        true => Ok((what, word)),
        false => bail!("there is no {word} {}; there are {}", target.name, known.join(", ")),
    }
}

/// `orderfleet schedule …`.
pub async fn schedule(args: cli::Schedule) -> anyhow::Result<()> {
    let mut conn = connect().await?;
    let conn = &mut conn;
    match args.action.unwrap_or(ScheduleAction::List { output: args.output }) {
        ScheduleAction::List { output } => {
            let schedules = inspect::schedules(conn).await.context("listing the timetable")?;
            table::print(output.json, &schedules, |schedules| list_schedules(schedules))
        }
        ScheduleAction::Show { name, output } => {
            let found = inspect::schedule(conn, &name).await.context("reading the timetable")?;
            let found =
                found.with_context(|| format!("the timetable has no entry {name}; see `orderfleet schedule`"))?;
            table::print(output.json, &found, show_schedule)
        }
        ScheduleAction::Ticks { name, limit, output } => {
            let ticks = inspect::ticks(conn, &name, None, limit)
                .await
                .context("listing ticks")?;
            table::print(output.json, &ticks, |ticks| list_ticks(ticks))
        }
        ScheduleAction::Add {
            name,
            kind,
            args,
            cron,
            policies,
            because,
        } => {
            let args = serde_json::from_str(&args).context("--args is not JSON")?;
            let mut entry = jobs::catalogue().entry(&name, &cron, &kind, &args)?;
            let change = change(None, &policies)?;
            entry.time_zone = change.time_zone.unwrap_or(entry.time_zone);
            entry.missed = change.missed.unwrap_or(entry.missed);
            entry.overlap = change.overlap.unwrap_or(entry.overlap);
            entry.jitter_seconds = change.jitter_seconds.unwrap_or(entry.jitter_seconds);
            timetable::add(conn, &entry, &because.actor, &because.reason).await?;
            say_next(conn, "added", &name).await
        }
        ScheduleAction::Change {
            name,
            cron,
            policies,
            because,
        } => {
            let change = change(cron, &policies)?;
            timetable::change(conn, &name, &change, &because.actor, &because.reason).await?;
            say_next(conn, "changed", &name).await
        }
        ScheduleAction::Pause { name, because } => {
            timetable::change(conn, &name, &Change::paused(true), &because.actor, &because.reason).await?;
            table::say(&format!("paused {name}\n"))
        }
        ScheduleAction::Resume { name, because } => {
            timetable::change(conn, &name, &Change::paused(false), &because.actor, &because.reason).await?;
            say_next(conn, "resumed", &name).await
        }
        ScheduleAction::Reset { name, because } => {
            match timetable::reset(conn, &name, &because.actor, &because.reason).await? {
                true => say_next(conn, "reset", &name).await,
                false => table::say(&format!("{name} was not overridden\n")),
            }
        }
        ScheduleAction::Remove { name, because } => {
            timetable::remove(conn, &name, &because.actor, &because.reason).await?;
            table::say(&format!("removed {name}\n"))
        }
        ScheduleAction::Run { name, because } => {
            let job = timetable::run_now(conn, &name, &because.actor, &because.reason).await?;
            table::say(&format!(
                "enqueued job {job}; `orderfleet jobs show {job}` follows it\n"
            ))
        }
    }
}

fn change(cron: Option<String>, policies: &cli::Policies) -> anyhow::Result<Change> {
    Ok(Change {
        cron,
        time_zone: policies.time_zone.clone(),
        missed: policies.missed.as_deref().map(str::parse).transpose()?,
        overlap: policies.overlap.as_deref().map(str::parse).transpose()?,
        jitter_seconds: policies.jitter_seconds,
        paused: None,
    })
}

/// Says what was done to an entry, and when it ticks next.
async fn say_next(conn: &mut PgConnection, done: &str, name: &str) -> anyhow::Result<()> {
    let found = inspect::schedule(conn, name).await.context("reading the timetable")?;
    let next = found.and_then(|found| found.next.first().copied());
    let next = next.map_or_else(
        || "it is paused".to_owned(),
        |next| format!("it ticks next at {}", moment(next)),
    );
    table::say(&format!("{done} {name}; {next}\n"))
}

fn list_schedules(schedules: &[ScheduleView]) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "KIND",
        "CRON",
        "ZONE",
        "MISSED",
        "OVERLAP",
        "LAST TICK",
        "WAS",
        "NEXT",
        "CHANGED BY",
        "PAUSED",
    ]);
    for schedule in schedules {
        let changed_by = match (&schedule.overridden, schedule.origin.as_str()) {
            (Some(overridden), _) => overridden.actor.clone(),
            (None, "operator") => "added".to_owned(),
            _ => String::new(),
        };
        let paused = schedule.paused.as_ref();
        table.row([
            schedule.name.clone(),
            schedule.kind.clone(),
            schedule.cron.clone(),
            schedule.time_zone.clone(),
            schedule.missed.clone(),
            schedule.overlap.clone(),
            schedule.last_tick_at.map_or_else(String::new, moment),
            schedule.last_outcome.clone().unwrap_or_default(),
            schedule.next.first().copied().map_or_else(String::new, moment),
            changed_by,
            paused.map_or_else(String::new, |pause| format!("by {}: {}", pause.actor, pause.reason)),
        ]);
    }
    table
}

fn show_schedule(schedule: &ScheduleView) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    line("name", schedule.name.clone());
    line("listed by", schedule.origin.clone());
    line("kind", format!("{} in queue {}", schedule.kind, schedule.queue));
    line("arguments", schedule.args.to_string());
    line("cron", format!("{} in {}", schedule.cron, schedule.time_zone));
    line("missed", schedule.missed.clone());
    line("overlap", schedule.overlap.clone());
    line("jitter", format!("{} s", schedule.jitter_seconds));
    if let Some(overridden) = &schedule.overridden {
        let who = format!(
            "by {} at {}: {}",
            overridden.actor,
            moment(overridden.changed_at),
            overridden.reason
        );
        line("overridden", who);
        line("in the build", overridden.listed.to_string());
    }
    if let Some(pause) = &schedule.paused {
        line(
            "paused",
            format!("by {} at {}: {}", pause.actor, moment(pause.paused_at), pause.reason),
        );
    }
    if let Some(at) = schedule.last_tick_at {
        let outcome = schedule.last_outcome.as_deref().unwrap_or_default();
        let job = schedule
            .last_job_id
            .map_or_else(String::new, |job| format!(" job {job}"));
        let reason = schedule
            .last_reason
            .as_ref()
            .map_or_else(String::new, |reason| format!(": {reason}"));
        line("last tick", format!("{} {outcome}{job}{reason}", moment(at)));
    }
    for next in &schedule.next {
        line("next tick", moment(*next));
    }
    table
}

fn list_ticks(ticks: &[TickView]) -> Table {
    let mut table = Table::new(&["TICK", "OUTCOME", "TICKS", "JOB", "DECIDED", "WHY"]);
    for tick in ticks {
        table.row([
            moment(tick.tick_at),
            tick.outcome.clone(),
            tick.ticks.to_string(),
            tick.job_id.map_or_else(String::new, |job| job.to_string()),
            moment(tick.decided_at),
            tick.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}

pub(crate) async fn connect() -> anyhow::Result<PgConnection> {
    let mut conn = database::connect("orderfleet operator").await?;
    crate::migrate::refuse_pending(&mut conn).await?;
    Ok(conn)
}

pub(crate) fn moment(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}
