//! Why a job is not running, or what became of it: every cause with its holder, when it ends, and the command that ends it.
//!
//! [`why`] reads what is known of the job and looks for each cause in turn; where several hold at once, the one that has to go
//! first comes first. What waits for another job tells that job's causes too ([`Cause::caused_by`]). Nothing here scans a
//! line: places are counted up to [`PLACE_MAX`].

mod causes;
mod remedy;
mod waiting;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

pub use causes::Code;
pub use remedy::Remedy;

use crate::catalogue::KindInfo;
use crate::inspect::{self, JobView};
use crate::job::JobId;
use crate::log;

/// Places in a line are counted up to this; then it is "more than".
pub const PLACE_MAX: i64 = 10_000;

/// How many jobs a chain of causes follows.
const CHAIN_MAX: usize = 5;

/// How many holders a cause names.
const HOLDERS_SHOWN: i64 = 5;

/// A worker that beats several times a second and has not for so long is silent.
const SILENT_SECS: i64 = 5;

/// Why a job is where it is.
#[derive(Clone, Debug, Serialize)]
pub struct Why {
    /// The job.
    pub job: JobId,
    /// Its kind; none of a job that is not known.
    pub kind: Option<String>,
    /// The line it waits in; none of a job that is not known.
    pub queue: Option<String>,
    /// As [`JobView::state`] says, or unknown.
    pub state: String,
    /// At least one, the decisive one first.
    pub causes: Vec<Cause>,
    /// When it starts, as far as that can be told; none for one that runs or has ended.
    pub predicted_start: Option<Prediction>,
}

/// One reason.
#[derive(Clone, Debug, Serialize)]
pub struct Cause {
    /// What sort of reason, the same for ever.
    pub code: Code,
    /// The reason in words.
    pub text: String,
    /// Who or what is in the way, the first few.
    pub holders: Vec<Holder>,
    /// Since when it holds.
    pub since: Option<DateTime<Utc>>,
    /// When it ends by itself, if that is known.
    pub until: Option<DateTime<Utc>>,
    /// What ends it, if anything does.
    pub remedy: Option<Remedy>,
    /// Why the first holder, a job, is where it is; the chain has a bound.
    pub caused_by: Option<Box<Why>>,
    #[serde(skip)]
    start: Prediction,
}

/// Somebody or something that is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// job, dead letter, worker, person, limit or campaign.
    pub what: &'static str,
    /// Its number, if it has one.
    pub id: Option<i64>,
    /// The name of a worker, person or limit; the kind of a job.
    pub name: String,
}

/// When a job starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// Not before; none while that depends on somebody.
    pub from: Option<DateTime<Utc>>,
    /// Probably not after.
    pub to: Option<DateTime<Utc>>,
    /// What this is based on, in words.
    pub basis: String,
}

impl Why {
    /// The causes in words, the first first.
    pub fn texts(&self) -> Vec<String> {
        self.causes.iter().map(|cause| cause.text.clone()).collect()
    }

    /// Whether there is no such job, or no longer.
    pub fn is_unknown(&self) -> bool {
        self.state == "unknown"
    }

    /// Whether the job has neither ended nor died.
    pub fn is_unfinished(&self) -> bool {
        ["available", "scheduled", "retryable", "running"].contains(&self.state.as_str())
    }

    /// The first remedy along the chain.
    pub fn remedy(&self) -> Option<&Remedy> {
        let decisive = self.causes.first()?;
        let of_holder = || decisive.caused_by.as_deref().and_then(Why::remedy);
        decisive.remedy.as_ref().or_else(of_holder)
    }
}

impl Cause {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            holders: Vec::new(),
            since: None,
            until: None,
            remedy: None,
            caused_by: None,
            start: Prediction::default(),
        }
    }

    fn held_by(mut self, holders: impl IntoIterator<Item = Holder>) -> Self {
        self.holders.extend(holders);
        self
    }

    fn since(mut self, since: impl Into<Option<DateTime<Utc>>>) -> Self {
        self.since = since.into();
        self
    }

    /// It ends by itself then, and the job may start.
    fn until(mut self, until: DateTime<Utc>, when: &str) -> Self {
        self.until = Some(until);
        self.start = Prediction {
            from: Some(until),
            to: None,
            basis: format!("at {}, when {when}", moment(until)),
        };
        self
    }

    fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = Some(remedy);
        self
    }

    /// The job starts when this has happened, whenever that is.
    fn start(mut self, basis: impl Into<String>) -> Self {
        self.start = Prediction {
            basis: basis.into(),
            ..Prediction::default()
        };
        self
    }
}

impl Holder {
    fn job(id: i64, kind: impl Into<String>) -> Self {
        Self::of("job", Some(id), kind)
    }

    fn of(what: &'static str, id: impl Into<Option<i64>>, name: impl Into<String>) -> Self {
        Self {
            what,
            id: id.into(),
            name: name.into(),
        }
    }
}

/// Why a job is where it is, all causes; `kinds` are those of the build that asks, for their timeouts.
///
/// The whole answer is of one moment: that of a snapshot of its own, or what the caller's transaction sees if there is one.
pub async fn why(conn: &mut PgConnection, id: JobId, kinds: &[KindInfo]) -> sqlx::Result<Why> {
    if conn.is_in_transaction() {
        return explain(conn, id, kinds, 1).await;
    }
    let mut tx = snapshot(conn).await?;
    let why = explain(&mut tx, id, kinds, 1).await?;
    tx.commit().await?;
    Ok(why)
}

/// A transaction that writes nothing and in which everything is of one moment; the connection must not be in another one.
pub async fn snapshot(conn: &mut PgConnection) -> sqlx::Result<Transaction<'_, Postgres>> {
    conn.begin_with("begin isolation level repeatable read read only").await
}

async fn explain(conn: &mut PgConnection, id: JobId, kinds: &[KindInfo], depth: usize) -> sqlx::Result<Why> {
    let Some(view) = inspect::job(&mut *conn, id).await? else {
        return unknown(conn, id).await;
    };
    let causes = match view.state.as_str() {
        "running" => running(&mut *conn, &view, kinds).await?,
        "dead" => dead(&mut *conn, &view).await?,
        "completed" | "discarded" | "cancelled" => ended(&mut *conn, &view).await?,
        _ => waiting::causes(&mut *conn, &view, kinds, depth).await?,
    };
    let is_waiting = ["available", "scheduled", "retryable"].contains(&view.state.as_str());
    Ok(Why {
        job: id,
        kind: Some(view.kind),
        queue: Some(view.queue),
        state: view.state,
        predicted_start: causes.first().filter(|_| is_waiting).map(|cause| cause.start.clone()),
        causes,
    })
}

/// What is told of a job that has moved between two looks, which happens only in a caller's transaction that sees what others commit.
fn moving() -> Vec<Cause> {
    vec![Cause::new(
        Code::InLine,
        "it is going from hand to hand this moment; ask again",
    )]
}

/// The holder's own causes, if the chain is not too long.
async fn chain(
    conn: &mut PgConnection,
    holder: JobId,
    kinds: &[KindInfo],
    depth: usize,
) -> sqlx::Result<Option<Box<Why>>> {
    if depth >= CHAIN_MAX {
        return Ok(None);
    }
    let why = Box::pin(explain(conn, holder, kinds, depth + 1)).await?;
    Ok(Some(Box::new(why)))
}

async fn unknown(conn: &mut PgConnection, id: JobId) -> sqlx::Result<Why> {
    let last = sqlx::query_scalar!(
        r#"select case when is_called then last_value else 0 end as "last!" from queue.jobs_id_seq"#
    )
    .fetch_one(conn)
    .await?;
    let cause = match (1..=last).contains(&id.0) {
        false => Cause::new(
            Code::NeverEnqueued,
            format!("there has never been a job {id}: the last is {last}"),
        ),
        true => Cause::new(
            Code::Forgotten,
            format!(
                "there is no job {id} any more: it ended and was pruned, its kind is not remembered, or its transaction was rolled back"
            ),
        ),
    };
    Ok(Why {
        job: id,
        kind: None,
        queue: None,
        state: "unknown".to_owned(),
        causes: vec![cause],
        predicted_start: None,
    })
}

/// Who holds it and how far it has come; a worker that is lost, and a wish to stop, first.
async fn running(conn: &mut PgConnection, view: &JobView, kinds: &[KindInfo]) -> sqlx::Result<Vec<Cause>> {
    let id = view.id;
    let held = sqlx::query!(
        r#"select w.name as "name?", w.beat_at as "beat_at?", w.lease_until as "lease_until?", w.build as "build?",
                  coalesce(w.beat_at < clock_timestamp() - make_interval(secs => $3), false) as "is_silent!",
                  exists (select from queue.workers o
                          where o.id <> $2 and not o.stopping and o.lease_until > clock_timestamp()) as "has_others!",
                  c.actor as "actor?", c.reason as "reason?", c.at as "asked_at?",
                  extract(epoch from clock_timestamp() - $4::timestamptz)::float8 as "ran_secs"
           from (values (1)) v
           left join queue.workers w on w.id = $2
           left join queue.cancels c on c.job_id = $1"#,
        id.0,
        view.worker_id,
        SILENT_SECS as f64,
        view.claimed_at,
    )
    .fetch_one(&mut *conn)
    .await?;
    let worker = view.worker_id.unwrap_or_default();
    let name = held.name.clone().unwrap_or_else(|| "lost".to_owned());
    let holder = Holder::of("worker", worker, name.clone());
    let mut causes = Vec::new();
    if held.is_silent || held.name.is_none() {
        let cause = match (held.beat_at, held.lease_until) {
            (Some(beat_at), Some(lease_until)) => Cause::new(
                Code::WorkerSilent,
                format!(
                    "its worker {worker} ({name}) has been silent since {}; others take the job back by {}, when its lease ends, or at once if it was killed",
                    moment(beat_at),
                    moment(lease_until)
                ),
            )
            .since(beat_at)
            .until(lease_until, "the lease of its worker ends"),
            _ => Cause::new(
                Code::WorkerSilent,
                format!("its worker {worker} is lost; the next look of any worker takes the job back"),
            ),
        };
        let cause = cause.held_by([holder.clone()]);
        causes.push(match held.has_others {
            true => cause,
            // Nobody else is there to take it back.
            false => cause.remedy(Remedy::StartWorker(view.queue.clone())),
        });
    }
    let is_asked = held.actor.is_some();
    if let (Some(actor), Some(reason)) = (held.actor, held.reason) {
        causes.push(
            Cause::new(
                Code::CancelAsked,
                format!("{actor} has asked it to stop: {reason}; its worker drops it with the next heartbeat"),
            )
            .held_by([holder.clone()])
            .since(held.asked_at),
        );
    }
    let mut text = format!("it is running on worker {worker} ({name}), attempt {}", view.attempt);
    if let (Some(max), Some(secs)) = (view.attempts_max, held.ran_secs) {
        text += &format!(" of {max}, for {}", span(secs));
    }
    let mut cause = Cause::new(Code::Running, "").held_by([holder]).since(view.claimed_at);
    let timeout = kinds
        .iter()
        .find(|kind| kind.kind == view.kind)
        .map(|kind| kind.timeout);
    if let (Some(timeout), Some(claimed_at)) = (timeout, view.claimed_at) {
        let until = claimed_at + timeout;
        text += &format!(
            "; it is stopped at {}, after {}",
            moment(until),
            span(timeout.as_secs_f64())
        );
        cause.until = Some(until);
    }
    if let Some(progress) = &view.progress {
        text += &format!("; its progress: {progress}");
    }
    if let Some(last) = log::read(conn, id).await?.lines.last() {
        text += &format!("; it last said: {}", last.line);
    }
    cause.text = text;
    causes.push(match is_asked {
        true => cause,
        false => cause.remedy(Remedy::Cancel(id)),
    });
    Ok(causes)
}

/// What it died of, and whether somebody is about to redrive it.
async fn dead(conn: &mut PgConnection, view: &JobView) -> sqlx::Result<Vec<Cause>> {
    let id = view.id;
    let Some(letter) = inspect::dead_letter(&mut *conn, id).await? else {
        return Ok(moving());
    };
    let mut causes: Vec<Cause> = campaign_of(&mut *conn, id).await?.into_iter().collect();
    let is_in_campaign = !causes.is_empty();
    let turned_back = sqlx::query!(
        "select s.id, s.name, s.key, s.state from queue.saga_jobs m join queue.sagas s on s.id = m.saga_id
         where m.job_id = $1 and not m.undo",
        id.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    let death = Cause::new(
        Code::Dead,
        format!(
            "it is dead ({}) after {} of {} tries: {} {}: {}",
            letter.reason, letter.attempt, letter.attempts_max, letter.error_class, letter.error_code, letter.message
        ),
    )
    .since(letter.dead_at);
    causes.push(match is_in_campaign || turned_back.is_some() {
        true => death,
        false => death.remedy(Remedy::Redrive(id)),
    });
    if let Some(saga) = turned_back {
        causes.push(Cause::new(
            Code::SagaTurnedBack,
            format!(
                "it is a step of saga {} ({} {}), which has turned back and is {}: it cannot be redriven; begin the saga anew under another key (`orderfleet sagas show {}`)",
                saga.id, saga.name, saga.key, saga.state, saga.id
            ),
        ));
    }
    if let Some(group) = &view.group_key
        && inspect::blocked_by(conn, group).await? == Some(id)
    {
        causes.push(Cause::new(
            Code::BlocksGroup,
            format!("it keeps the turn of its group {group}, which waits until it is redriven or discarded"),
        ));
    }
    Ok(causes)
}

/// The campaign that has the letter and has not redriven it yet.
async fn campaign_of(conn: &mut PgConnection, id: JobId) -> sqlx::Result<Option<Cause>> {
    let Some(row) = sqlx::query!(
        r#"select c.id, c.state, c.actor, c.reason, c.state_actor, c.state_reason, c.created_at, k.cause,
                  k.state as cause_state, k.halted_because, k.in_flight, k.waiting,
                  (select o.job_id from queue.campaign_letters o
                   where o.campaign_id = c.id and o.cause = k.cause and o.state = 'redriven'
                   order by o.job_id limit 1) as canary
           from queue.campaigns c
           join queue.campaign_letters l on l.campaign_id = c.id and l.job_id = $1 and l.state = 'waiting'
           join queue.campaign_causes k on k.campaign_id = c.id and k.cause = l.cause
           where c.state in ('running', 'paused', 'halted')
           order by c.id desc
           limit 1"#,
        id.0
    )
    .fetch_optional(conn)
    .await?
    else {
        return Ok(None);
    };
    let campaign = row.id;
    let holder = Holder::of("campaign", campaign, row.reason);
    let cause = if let Some(because) = row.halted_because {
        Cause::new(
            Code::CampaignHalted,
            format!(
                "redrive {campaign} halted its cause {}: {because}; {} letters are left",
                row.cause, row.waiting
            ),
        )
        .remedy(Remedy::ResumeCampaign(campaign))
    } else if row.state == "paused" {
        let (by, reason) = (
            row.state_actor.unwrap_or_default(),
            row.state_reason.unwrap_or_default(),
        );
        Cause::new(
            Code::CampaignPaused,
            format!("redrive {campaign} has it and is paused by {by}: {reason}"),
        )
        .held_by([Holder::of("person", None, by)])
        .remedy(Remedy::ResumeCampaign(campaign))
    } else {
        let text = match row.cause_state.as_str() {
            "canary" => format!(
                "redrive {campaign} redrives it when the canary of its cause {} has ended well: {} in flight, {} letters behind",
                row.cause, row.in_flight, row.waiting
            ),
            _ => format!(
                "redrive {campaign} is about to redrive it: {} letters wait",
                row.waiting
            ),
        };
        let canary = row.canary.map(|job| Holder::of("job", job, "canary"));
        Cause::new(Code::CampaignRunning, text).held_by(canary)
    };
    Ok(Some(cause.held_by([holder]).since(row.created_at)))
}

/// How it ended, and at whose wish.
async fn ended(conn: &mut PgConnection, view: &JobView) -> sqlx::Result<Vec<Cause>> {
    let text_of = |name: &str| view.result.as_ref()?.get(name)?.as_str();
    let (by, reason) = (text_of("by"), text_of("reason").unwrap_or("no reason given"));
    let at = view
        .ended_at
        .map_or_else(String::new, |at| format!(" at {}", moment(at)));
    let worker = view
        .worker_id
        .map(|worker| format!(" on worker {worker}"))
        .unwrap_or_default();
    let tries = match view.attempt {
        1 => "1 try".to_owned(),
        tries => format!("{tries} tries"),
    };
    let (code, text) = match (view.state.as_str(), by) {
        ("completed", _) => (Code::Completed, format!("it completed{at}{worker}, after {tries}")),
        ("cancelled", by) => {
            let by = by.unwrap_or("somebody");
            (Code::Cancelled, format!("{by} cancelled it{at}: {reason}"))
        }
        (_, Some(by)) => (Code::Discarded, format!("{by} discarded it{at}: {reason}")),
        (_, None) => (Code::Discarded, format!("it discarded itself{at}{worker}: {reason}")),
    };
    let mut causes = vec![
        Cause::new(code, text)
            .held_by(by.map(|by| Holder::of("person", None, by)))
            .since(view.ended_at),
    ];
    if code == Code::Discarded {
        let saga = sqlx::query!(
            "select s.id, s.name, s.key, s.state from queue.saga_jobs m join queue.sagas s on s.id = m.saga_id
             where m.job_id = $1 and not m.undo",
            view.id.0
        )
        .fetch_optional(conn)
        .await?;
        causes.extend(saga.map(|saga| {
            Cause::new(
                Code::SagaTurnedBack,
                format!(
                    "so saga {} ({} {}) has turned back and is {} (`orderfleet sagas show {}`)",
                    saga.id, saga.name, saga.key, saga.state, saga.id
                ),
            )
        }));
    }
    Ok(causes)
}

/// A moment for people, to the second.
fn moment(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A time for people: 0.4 s, 12 s, 3 min, 5 h, 2 days.
fn span(seconds: f64) -> String {
    match seconds.max(0.0) {
        s if s < 1.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_for_people() {
        let spans = [0.04, 12.4, 119.0, 180.0, 7200.0, 200_000.0].map(span);
        assert_eq!(spans, ["0.0 s", "12 s", "119 s", "3 min", "2 h", "2 days"]);
    }
}
