//! Redrives in bulk that guard themselves.
//!
//! A campaign is a set of dead letters, frozen when it starts, with a patch that every payload of it has been checked
//! against. Each cause in it has a canary of its own: its first letters are redriven, and when all of these jobs have ended
//! either the rest follows at the campaign's pace, or the cause halts because too many of them died again. The share of dead
//! ones is watched to the end. Any death counts, of whatever cause: a job that dies of something new is not mended either.
//!
//! All of it is in PostgreSQL, and nobody runs a campaign: whatever worker looks first does one round, under the lock of the
//! campaign's row, in one transaction with the redrives of that round ([`advance`]). A round that is killed has not happened.
//! Of a group, letters are redriven in the order of their ids; what waits for a canary holds up what is behind it in its group.

mod plan;
mod runner;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Postgres, Transaction};

pub use plan::{
    CauseCount, FieldChange, KeyTaken, LetterChange, Plan, Preview, Selection, UnreadableLetter, preview, start,
};
pub use runner::advance;

use crate::job::JobId;
use crate::operate::audit;

/// Why a campaign was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan makes no sense as it is.
    #[error("{0}")]
    Invalid(String),
    /// No dead letter is selected.
    #[error("no dead letter matches")]
    Empty,
    /// Payloads of the selection cannot be read by this build.
    #[error("{count} of the payloads could not be read, the first that of job {}: at {}: {}", .first[0].id, .first[0].why.path, .first[0].why.error)]
    Unreadable {
        /// How many.
        count: i64,
        /// The first of them, at least one.
        first: Vec<UnreadableLetter>,
    },
    /// There is no such campaign.
    #[error("there is no campaign {0}")]
    NotFound(i64),
    /// It is in no state for this.
    #[error("campaign {id} is {state}: {hint}")]
    WrongState {
        /// The campaign.
        id: i64,
        /// Its state.
        state: String,
        /// What is possible.
        hint: &'static str,
    },
    /// The database refused.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// How many letters are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Not redriven yet.
    pub waiting: i64,
    /// Redriven, and not ended yet.
    pub in_flight: i64,
    /// Redriven and completed.
    pub completed: i64,
    /// Redriven and dead again.
    pub died: i64,
    /// Redriven, and discarded or cancelled then.
    pub given_up: i64,
    /// Left as they were.
    pub skipped: i64,
}

/// A campaign, and why it is where it is.
#[derive(Clone, Debug, Serialize)]
pub struct CampaignView {
    /// Its number.
    pub id: i64,
    /// running, paused, halted, cancelled or finished.
    pub state: String,
    /// Why it is where it is, a line for each cause of that.
    pub why: Vec<String>,
    /// Who started it.
    pub actor: String,
    /// What for.
    pub reason: String,
    /// Which letters were selected.
    pub selection: Value,
    /// The merge patch of their payloads.
    pub patch: Option<Value>,
    /// How many letters of each cause are tried first.
    pub canary: i32,
    /// The share of dead ones that is borne, from 0 to 1.
    pub failure_share: f64,
    /// Of how many jobs, the last that ended.
    pub failure_window: i32,
    /// How many letters are redriven a second, at most.
    pub per_second: f64,
    /// How many of its jobs there are at once, at most.
    pub in_flight_max: i32,
    /// All of its letters.
    pub counts: Counts,
    /// Its letters by cause.
    pub causes: Vec<CauseView>,
    /// Why letters were skipped; only of a campaign that is asked for by its number.
    pub skips: Vec<Skip>,
    /// When it was started.
    pub created_at: DateTime<Utc>,
    /// Since when nothing more comes of it.
    pub ended_at: Option<DateTime<Utc>>,
}

/// The letters of one cause in a campaign.
#[derive(Clone, Debug, Serialize)]
pub struct CauseView {
    /// The cause.
    pub cause: String,
    /// Of which kind of job.
    pub kind: String,
    /// The class of the failure.
    pub error_class: String,
    /// Its code.
    pub error_code: String,
    /// What its messages have in common.
    pub pattern: String,
    /// canary, released, halted or finished.
    pub state: String,
    /// What halted it.
    pub halted_because: Option<String>,
    /// Where its letters are.
    pub counts: Counts,
}

/// Letters that were skipped for one reason.
#[derive(Clone, Debug, Serialize)]
pub struct Skip {
    /// The reason, numbers masked.
    pub because: String,
    /// How many.
    pub letters: i64,
    /// The first of them.
    pub sample: Vec<i64>,
}

/// The campaigns, newest first, older than `before`; at most `limit`.
pub async fn campaigns(conn: &mut PgConnection, before: Option<i64>, limit: i64) -> sqlx::Result<Vec<CampaignView>> {
    const LIMIT_MAX: i64 = 1000;
    let ids = sqlx::query_scalar!(
        "select id from queue.campaigns where $1::bigint is null or id < $1 order by id desc limit $2",
        before,
        limit.clamp(1, LIMIT_MAX),
    )
    .fetch_all(&mut *conn)
    .await?;
    read(conn, &ids).await
}

/// One campaign, with why letters of it were skipped.
pub async fn campaign(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<CampaignView>> {
    const REASONS_SHOWN: i64 = 50;
    let Some(mut view) = read(&mut *conn, &[id]).await?.pop() else {
        return Ok(None);
    };
    view.skips = sqlx::query_as!(
        Skip,
        r#"select queue.message_pattern(skipped_because) as "because!", count(*) as "letters!",
                  (array_agg(job_id order by job_id))[1:5] as "sample!"
           from queue.campaign_letters
           where campaign_id = $1 and state = 'skipped'
           group by 1
           order by 2 desc, 1
           limit $2"#,
        id,
        REASONS_SHOWN,
    )
    .fetch_all(conn)
    .await?;
    Ok(Some(view))
}

async fn read(conn: &mut PgConnection, ids: &[i64]) -> sqlx::Result<Vec<CampaignView>> {
    let rows = sqlx::query!("select * from queue.campaigns where id = any($1) order by id desc", ids)
        .fetch_all(&mut *conn)
        .await?;
    let mut causes = sqlx::query!(
        "select * from queue.campaign_causes where campaign_id = any($1) order by campaign_id, cause",
        ids
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut views = Vec::with_capacity(rows.len());
    for row in rows {
        let (own, rest) = causes.into_iter().partition(|cause| cause.campaign_id == row.id);
        causes = rest;
        let own: Vec<_> = own;
        let causes: Vec<CauseView> = own
            .into_iter()
            .map(|cause| CauseView {
                cause: cause.cause,
                kind: cause.kind,
                error_class: cause.error_class,
                error_code: cause.error_code,
                pattern: cause.pattern,
                state: cause.state,
                halted_because: cause.halted_because,
                counts: Counts {
                    waiting: i64::from(cause.waiting),
                    in_flight: i64::from(cause.in_flight),
                    completed: i64::from(cause.completed),
                    died: i64::from(cause.died),
                    given_up: i64::from(cause.given_up),
                    skipped: i64::from(cause.skipped),
                },
            })
            .collect();
        let mut view = CampaignView {
            id: row.id,
            state: row.state,
            why: Vec::new(),
            actor: row.actor,
            reason: row.reason,
            selection: row.selection,
            patch: row.patch,
            canary: row.canary,
            failure_share: row.failure_share,
            failure_window: row.failure_window,
            per_second: row.per_second,
            in_flight_max: row.in_flight_max,
            counts: total(&causes),
            causes,
            skips: Vec::new(),
            created_at: row.created_at,
            ended_at: row.ended_at,
        };
        view.why = why(
            &mut *conn,
            &view,
            row.state_actor.as_deref(),
            row.state_reason.as_deref(),
        )
        .await?;
        views.push(view);
    }
    Ok(views)
}

fn total(causes: &[CauseView]) -> Counts {
    causes.iter().fold(Counts::default(), |sum, cause| Counts {
        waiting: sum.waiting + cause.counts.waiting,
        in_flight: sum.in_flight + cause.counts.in_flight,
        completed: sum.completed + cause.counts.completed,
        died: sum.died + cause.counts.died,
        given_up: sum.given_up + cause.counts.given_up,
        skipped: sum.skipped + cause.counts.skipped,
    })
}

/// Why a campaign is where it is.
async fn why(
    conn: &mut PgConnection,
    view: &CampaignView,
    actor: Option<&str>,
    reason: Option<&str>,
) -> sqlx::Result<Vec<String>> {
    let mut lines = Vec::new();
    if let (Some(actor), Some(reason), true) = (actor, reason, view.state != "running") {
        lines.push(format!("{} by {actor}: {reason}", view.state));
    }
    for cause in &view.causes {
        let (name, counts) = (&cause.cause, &cause.counts);
        if let Some(because) = &cause.halted_because {
            lines.push(format!(
                "cause {name} halted: {because}; {} of its letters were left as they are",
                counts.waiting
            ));
            continue;
        }
        if view.state != "running" {
            continue;
        }
        match cause.state.as_str() {
            "canary" if counts.in_flight > 0 => lines.push(format!(
                "cause {name}: its canary waits for {} {}, {} letters behind it",
                counts.in_flight,
                jobs(counts.in_flight),
                counts.waiting
            )),
            "canary" => lines.push(format!("cause {name}: its canary is about to be redriven")),
            "released" if counts.waiting > 0 => lines.push(format!(
                "cause {name}: {} letters to be redriven, at most {} a second, with at most {} jobs in flight",
                counts.waiting, view.per_second, view.in_flight_max
            )),
            _ => {}
        }
    }
    if view.counts.in_flight > 0 {
        lines.push(format!(
            "{} {} in flight{}",
            view.counts.in_flight,
            jobs(view.counts.in_flight),
            what_holds_it_up(conn, view.id).await?
        ));
    }
    if view.state == "finished" {
        lines.push("every letter that was to be redriven has ended".to_owned());
    }
    Ok(lines)
}

fn jobs(count: i64) -> &'static str {
    if count == 1 { "job" } else { "jobs" }
}

/// What the oldest job of a campaign waits for, if it waits.
async fn what_holds_it_up(conn: &mut PgConnection, id: i64) -> sqlx::Result<String> {
    let oldest = sqlx::query_scalar!(
        r#"select job_id as "id: JobId" from queue.campaign_letters
           where campaign_id = $1 and state = 'redriven' order by job_id limit 1"#,
        id
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(oldest) = oldest else {
        return Ok(String::new());
    };
    let why = crate::why::why(conn, oldest, &[]).await?;
    Ok(format!("; the oldest, job {oldest}: {}", why.texts().join("; ")))
}

/// Stops redriving; what is in flight goes on.
pub async fn pause(conn: &mut PgConnection, id: i64, actor: &str, reason: &str) -> Result<(), Error> {
    let mut tx = conn.begin().await?;
    let state = lock(&mut tx, id).await?;
    if state != "running" {
        return refuse(tx, id, state, "only a running one can be paused").await;
    }
    turn_to(&mut tx, id, "paused", actor, reason).await?;
    note(&mut tx, id, "pause", actor, reason).await?;
    Ok(tx.commit().await?)
}

/// Goes on after a pause; causes that were halted begin again, each with a new canary of the letters that are left.
pub async fn resume(conn: &mut PgConnection, id: i64, actor: &str, reason: &str) -> Result<(), Error> {
    let mut tx = conn.begin().await?;
    let state = lock(&mut tx, id).await?;
    if !["running", "paused", "halted"].contains(&state.as_str()) {
        return refuse(tx, id, state, "it is over; start another").await;
    }
    let begun = sqlx::query!(
        "update queue.campaign_causes c
         set state = 'canary', halted_because = null, begun_at = clock_timestamp(), canary_left = p.canary
         from queue.campaigns p
         where p.id = c.campaign_id and c.campaign_id = $1 and c.state = 'halted' and c.waiting > 0",
        id
    )
    .execute(&mut *tx)
    .await?;
    if begun.rows_affected() == 0 && state != "paused" {
        let hint = match state.as_str() {
            "running" => "nothing of it is halted",
            _ => "no letter of it is left; start another for those that died again",
        };
        return refuse(tx, id, state, hint).await;
    }
    turn_to(&mut tx, id, "running", actor, reason).await?;
    note(&mut tx, id, "resume", actor, reason).await?;
    Ok(tx.commit().await?)
}

/// Ends it for good; what it has not redriven stays a dead letter, and what is in flight goes on.
pub async fn cancel(conn: &mut PgConnection, id: i64, actor: &str, reason: &str) -> Result<(), Error> {
    let mut tx = conn.begin().await?;
    let state = lock(&mut tx, id).await?;
    if !["running", "paused", "halted"].contains(&state.as_str()) {
        return refuse(tx, id, state, "it is over already").await;
    }
    turn_to(&mut tx, id, "cancelled", actor, reason).await?;
    note(&mut tx, id, "cancel", actor, reason).await?;
    Ok(tx.commit().await?)
}

/// Deletes campaigns that ended more than that many days ago; returns how many.
pub async fn prune(conn: &mut PgConnection, keep_days: i32) -> sqlx::Result<u64> {
    let pruned = sqlx::query!(
        "delete from queue.campaigns where ended_at < clock_timestamp() - make_interval(days => $1)",
        keep_days
    )
    .execute(conn)
    .await?;
    Ok(pruned.rows_affected())
}

/// Lets the runners in again at once, and not only when the connection is used next.
async fn refuse(tx: Transaction<'_, Postgres>, id: i64, state: String, hint: &'static str) -> Result<(), Error> {
    tx.rollback().await?;
    Err(Error::WrongState { id, state, hint })
}

/// Keeps the runners away, and returns its state.
async fn lock(conn: &mut PgConnection, id: i64) -> Result<String, Error> {
    sqlx::query_scalar!("select state from queue.campaigns where id = $1 for update", id)
        .fetch_optional(conn)
        .await?
        .ok_or(Error::NotFound(id))
}

async fn turn_to(conn: &mut PgConnection, id: i64, state: &str, actor: &str, reason: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update queue.campaigns
         set state = $2, state_actor = $3, state_reason = $4, ended_at = null, moved_at = clock_timestamp(),
             look_at = clock_timestamp()
         where id = $1",
        id,
        state,
        actor,
        reason,
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn note(conn: &mut PgConnection, id: i64, action: &str, actor: &str, reason: &str) -> sqlx::Result<()> {
    audit(
        conn,
        actor,
        action,
        &format!("campaign {id}"),
        json!({ "reason": reason }),
    )
    .await
}
