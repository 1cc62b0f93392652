//! Redrive campaigns: dead letters in bulk, tried on a few first, and stopped where the cause is not mended.

use axum::extract;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use queue::JobId;
use queue::campaign::{
    self, CampaignView, CauseCount, CauseView, Counts, FieldChange, KeyTaken, LetterChange, Plan, Preview, Selection,
    Skip, UnreadableLetter,
};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::State;
use crate::answer::Answer;
use crate::call::{Call, Keyed};
use crate::fields::{self, Fields, any_object, boolean, integer, number, small_integer, text, texts};
use crate::paging::{Page, Params};
use crate::path::Id;
use crate::problem::Problem;
use crate::view::view;

view! {
    /// How many letters are where.
    RedriveCounts of Counts {
        /// Not redriven yet.
        waiting: i64 as i64,
        /// Redriven, and not ended yet.
        in_flight: i64 as i64,
        /// Redriven and completed.
        completed: i64 as i64,
        /// Redriven and dead again.
        died: i64 as i64,
        /// Redriven, and discarded or cancelled then.
        given_up: i64 as i64,
        /// Left as they were.
        skipped: i64 as i64,
    }
}

view! {
    /// Letters that were skipped for one reason.
    RedriveSkip of Skip {
        /// The reason, numbers masked.
        because: String as String,
        /// How many.
        letters: i64 as i64,
        /// The first of them.
        sample: Vec<i64> as Vec<i64>,
    }
}

view! {
    /// How many letters of a campaign have one cause.
    RedriveCauseCount of CauseCount {
        /// The cause.
        cause: String as String,
        /// Of which kind of job.
        kind: String as String,
        /// The class of the failure.
        error_class: String as String,
        /// Its code.
        error_code: String as String,
        /// What its messages have in common.
        pattern: String as String,
        /// How many.
        letters: i64 as i64,
    }
}

view! {
    /// A field before and after; null where it is not there.
    RedriveFieldChange of FieldChange {
        /// Where, as `address.city`.
        path: String as String,
        /// Its value now.
        before: Option<Value> as Option<Value>,
        /// Its value then.
        after: Option<Value> as Option<Value>,
    }
}

view! {
    /// A letter whose unique key another has.
    RedriveKeyTaken of KeyTaken {
        /// The job that cannot return.
        id: JobId as i64,
        /// The key.
        key: String as String,
        /// Who has it: a job, or an older letter of the same campaign.
        by: JobId as i64,
    }
}

/// The letters of one cause in a campaign.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RedriveCause {
    /// The cause.
    cause: String,
    /// Of which kind of job.
    kind: String,
    /// The class of the failure.
    error_class: String,
    /// Its code.
    error_code: String,
    /// What its messages have in common.
    pattern: String,
    /// canary, released, halted or finished.
    state: String,
    /// What halted it.
    halted_because: Option<String>,
    /// Where its letters are.
    counts: RedriveCounts,
}

/// A campaign, and why it is where it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RedriveCampaign {
    /// Its number.
    id: i64,
    /// running, paused, halted, cancelled or finished.
    state: String,
    /// Why it is where it is, a line for each cause of that.
    why: Vec<String>,
    /// Who started it.
    actor: String,
    /// What for.
    reason: String,
    /// Which letters were selected.
    #[schema(value_type = Object)]
    selection: Value,
    /// The merge patch of their payloads.
    #[schema(value_type = Option<Object>)]
    patch: Option<Value>,
    /// How many letters of each cause are tried first.
    canary: i32,
    /// A larger share of dead ones halts a cause.
    failure_share: f64,
    /// Of how many jobs, the last that ended.
    failure_window: i32,
    /// How many letters are redriven a second, at most.
    per_second: f64,
    /// How many of its jobs there are at once, at most.
    in_flight_max: i32,
    /// All of its letters.
    counts: RedriveCounts,
    /// Its letters by cause.
    causes: Vec<RedriveCause>,
    /// Why letters were skipped; not in lists.
    skips: Vec<RedriveSkip>,
    /// When it was started.
    created_at: DateTime<Utc>,
    /// Since when nothing more comes of it.
    ended_at: Option<DateTime<Utc>>,
}

impl From<CauseView> for RedriveCause {
    fn from(cause: CauseView) -> RedriveCause {
        RedriveCause {
            cause: cause.cause,
            kind: cause.kind,
            error_class: cause.error_class,
            error_code: cause.error_code,
            pattern: cause.pattern,
            state: cause.state,
            halted_because: cause.halted_because,
            counts: cause.counts.into(),
        }
    }
}

impl From<CampaignView> for RedriveCampaign {
    fn from(campaign: CampaignView) -> RedriveCampaign {
        RedriveCampaign {
            id: campaign.id,
            state: campaign.state,
            why: campaign.why,
            actor: campaign.actor,
            reason: campaign.reason,
            selection: campaign.selection,
            patch: campaign.patch,
            canary: campaign.canary,
            failure_share: campaign.failure_share,
            failure_window: campaign.failure_window,
            per_second: campaign.per_second,
            in_flight_max: campaign.in_flight_max,
            counts: campaign.counts.into(),
            causes: campaign.causes.into_iter().map(Into::into).collect(),
            skips: campaign.skips.into_iter().map(Into::into).collect(),
            created_at: campaign.created_at,
            ended_at: campaign.ended_at,
        }
    }
}

/// What the patch does to one payload.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RedriveChange {
    /// The job.
    id: i64,
    /// Its fields that change.
    fields: Vec<RedriveFieldChange>,
}

impl From<LetterChange> for RedriveChange {
    fn from(change: LetterChange) -> RedriveChange {
        RedriveChange {
            id: change.id.0,
            fields: change.fields.into_iter().map(Into::into).collect(),
        }
    }
}

/// A letter whose payload cannot be read, after the patch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RedriveUnreadable {
    /// The job.
    id: i64,
    /// Its kind.
    kind: String,
    /// Where in the payload, as `lines[0].sku`; `.` is the whole.
    path: String,
    /// What is wrong there.
    error: String,
}

impl From<UnreadableLetter> for RedriveUnreadable {
    fn from(letter: UnreadableLetter) -> RedriveUnreadable {
        RedriveUnreadable {
            id: letter.id.0,
            kind: letter.kind,
            path: letter.why.path,
            error: letter.why.error,
        }
    }
}

/// What a campaign would do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RedrivePreview {
    /// How many letters are selected.
    letters: i64,
    /// How many of their payloads cannot be read, after the patch.
    unreadable: i64,
    /// The first of those.
    unreadable_sample: Vec<RedriveUnreadable>,
    /// How many payloads the patch changes.
    changed: i64,
    /// The first of those, field by field.
    changes: Vec<RedriveChange>,
    /// How many will be skipped because another job has their unique key.
    keys_taken: i64,
    /// The first of those.
    keys_taken_sample: Vec<RedriveKeyTaken>,
    /// How many groups they belong to.
    groups: i64,
    /// The first of those.
    groups_sample: Vec<String>,
    /// Their causes, the largest first.
    causes: Vec<RedriveCauseCount>,
    /// How long it takes at its pace, at least: canaries are waited for.
    seconds_min: f64,
}

impl From<Preview> for RedrivePreview {
    fn from(preview: Preview) -> RedrivePreview {
        RedrivePreview {
            letters: preview.letters,
            unreadable: preview.unreadable,
            unreadable_sample: preview.unreadable_sample.into_iter().map(Into::into).collect(),
            changed: preview.changed,
            changes: preview.changes.into_iter().map(Into::into).collect(),
            keys_taken: preview.keys_taken,
            keys_taken_sample: preview.keys_taken_sample.into_iter().map(Into::into).collect(),
            groups: preview.groups,
            groups_sample: preview.groups_sample,
            causes: preview.causes.into_iter().map(Into::into).collect(),
            seconds_min: preview.seconds_min,
        }
    }
}

/// Which dead letters to redrive, and how carefully. Something must be selected.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body; `plan` reads it")]
pub(crate) struct RedrivePlan {
    /// What was mended; for the audit. Not needed for a preview.
    reason: String,
    /// Of these causes, as `/dead-letters/causes` names them.
    causes: Option<Vec<String>>,
    /// Of this kind.
    kind: Option<String>,
    /// Of this queue.
    queue: Option<String>,
    /// Of this class.
    error_class: Option<String>,
    /// With this code.
    error_code: Option<String>,
    /// This one and younger ones.
    from_id: Option<i64>,
    /// This one and older ones.
    to_id: Option<i64>,
    /// A merge patch (RFC 7386) of the payloads.
    #[schema(value_type = Option<Object>)]
    patch: Option<Value>,
    /// Leaves out letters whose payload cannot be read, instead of refusing them all; false without.
    skip_unreadable: Option<bool>,
    /// How many letters of each cause are tried first, 1 to 1000; 10 without.
    canary: Option<i32>,
    /// A larger share of dead ones halts a cause, 0 to under 1; 0.1 without.
    failure_share: Option<f64>,
    /// After the canary: of how many jobs, the last that ended, 1 to 10000; 100 without.
    failure_window: Option<i32>,
    /// How many letters are redriven a second, at most, 0.01 to 10000; 100 without.
    per_second: Option<f64>,
    /// How many of its jobs there are at once, at most, 1 to 10000; 500 without.
    in_flight_max: Option<i32>,
}

fn plan(f: &mut Fields<'_>) -> Plan {
    const ID_MAX: i64 = i64::MAX;
    let usual = Plan::default();
    Plan {
        selection: Selection {
            causes: f.optional("causes", texts(1..=1000, 1..=100)).unwrap_or_default(),
            kind: f.optional("kind", text(1..=100)),
            queue: f.optional("queue", text(1..=100)),
            error_class: f.optional("error_class", text(1..=100)),
            error_code: f.optional("error_code", text(1..=2048)),
            from: f.optional("from_id", integer(1..=ID_MAX)).map(JobId),
            to: f.optional("to_id", integer(1..=ID_MAX)).map(JobId),
        },
        patch: f.optional("patch", any_object),
        skip_unreadable: f.optional("skip_unreadable", boolean).unwrap_or_default(),
        canary: f.optional("canary", small_integer(1..=1000)).unwrap_or(usual.canary),
        failure_share: f
            .optional("failure_share", number(0.0..=0.999))
            .unwrap_or(usual.failure_share),
        failure_window: f
            .optional("failure_window", small_integer(1..=10_000))
            .unwrap_or(usual.failure_window),
        per_second: f
            .optional("per_second", number(0.01..=10_000.0))
            .unwrap_or(usual.per_second),
        in_flight_max: f
            .optional("in_flight_max", small_integer(1..=10_000))
            .unwrap_or(usual.in_flight_max),
    }
}

/// Says what a campaign would do: how many letters, which payloads cannot be read, what the patch changes.
#[utoipa::path(
    post, path = "/redrives/preview", tag = "operations",
    request_body = RedrivePlan,
    responses((status = 200, description = "What would happen; nothing has", body = RedrivePreview)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn preview(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    let plan = fields::read(&call.body, |f| {
        f.optional("reason", text(1..=500));
        plan(f)
    })?;
    let conn = &mut *state.pool.acquire().await?;
    let preview = campaign::preview(conn, &jobs::catalogue(), &plan).await?;
    Ok(Answer::ok(&RedrivePreview::from(preview)))
}

/// Starts a campaign: its letters are frozen, and the workers carry it on.
#[utoipa::path(
    post, path = "/redrives", tag = "operations",
    request_body = RedrivePlan,
    responses((status = 202, description = "It has started", body = RedriveCampaign)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn start(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    call.once(&state, Keyed::OPTIONAL, async |conn| {
        let (reason, plan) = fields::read(&call.body, |f| (f.required("reason", text(1..=500)), plan(f)))?;
        let id = campaign::start(conn, &jobs::catalogue(), &plan, &call.principal.name, &reason).await?;
        Ok(Answer::accepted(
            &format!("/api/v1/redrives/{id}"),
            &see(conn, id).await?,
        ))
    })
    .await
}

/// Lists campaigns, newest first.
#[utoipa::path(
    get, path = "/redrives", tag = "operations",
    params(
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("limit" = Option<i64>, Query, description = "1 to 100; 20 without"),
    ),
    responses((status = 200, description = "A page of campaigns", body = Page<RedriveCampaign>)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn list(extract::State(state): extract::State<State>, params: Params) -> Result<Answer, Problem> {
    let window = params.window::<i64>()?;
    let conn = &mut *state.pool.acquire().await?;
    let campaigns = campaign::campaigns(conn, window.after, window.fetch()).await?;
    Ok(Answer::ok(&window.page(
        campaigns,
        |campaign| campaign.id,
        RedriveCampaign::from,
    )))
}

/// One campaign: how far it is, why it is there, what it skipped.
#[utoipa::path(
    get, path = "/redrives/{id}", tag = "operations",
    params(("id" = i64, Path, description = "The campaign")),
    responses((status = 200, description = "The campaign", body = RedriveCampaign)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn get(extract::State(state): extract::State<State>, Id(id): Id<i64>) -> Result<Answer, Problem> {
    Ok(Answer::ok(&see(&mut *state.pool.acquire().await?, id).await?))
}

/// Stops redriving; what is in flight goes on.
#[utoipa::path(
    post, path = "/redrives/{id}/pause", tag = "operations",
    params(("id" = i64, Path, description = "The campaign")),
    request_body = crate::queues::Reason,
    responses((status = 200, description = "Paused", body = RedriveCampaign)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn pause(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    change(&state, &call, async |conn, id, reason| {
        campaign::pause(conn, id, &call.principal.name, &reason).await
    })
    .await
}

/// Goes on after a pause; halted causes begin again, each with a new canary.
#[utoipa::path(
    post, path = "/redrives/{id}/resume", tag = "operations",
    params(("id" = i64, Path, description = "The campaign")),
    request_body = crate::queues::Reason,
    responses((status = 200, description = "Running again", body = RedriveCampaign)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn resume(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    change(&state, &call, async |conn, id, reason| {
        campaign::resume(conn, id, &call.principal.name, &reason).await
    })
    .await
}

/// Ends it for good; what it has not redriven stays dead.
#[utoipa::path(
    post, path = "/redrives/{id}/cancel", tag = "operations",
    params(("id" = i64, Path, description = "The campaign")),
    request_body = crate::queues::Reason,
    responses((status = 200, description = "Cancelled", body = RedriveCampaign)),
    security(("api_key" = ["jobs:operate"])),
)]
pub(crate) async fn cancel(extract::State(state): extract::State<State>, call: Call) -> Result<Answer, Problem> {
    change(&state, &call, async |conn, id, reason| {
        campaign::cancel(conn, id, &call.principal.name, &reason).await
    })
    .await
}

async fn change(
    state: &State,
    call: &Call,
    change: impl AsyncFnOnce(&mut PgConnection, i64, String) -> Result<(), campaign::Error>,
) -> Result<Answer, Problem> {
    let id = call.path("id", "campaign")?;
    call.once(state, Keyed::OPTIONAL, async |conn| {
        let reason = fields::read(&call.body, |f| f.required("reason", text(1..=500)))?;
        change(conn, id, reason).await?;
        Ok(Answer::ok(&see(conn, id).await?))
    })
    .await
}

async fn see(conn: &mut PgConnection, id: i64) -> Result<RedriveCampaign, Problem> {
    let campaign = campaign::campaign(conn, id).await?;
    campaign
        .map(RedriveCampaign::from)
        .ok_or_else(|| Problem::not_found("campaign"))
}

impl From<campaign::Error> for Problem {
    fn from(error: campaign::Error) -> Problem {
        let detail = error.to_string();
        match error {
            campaign::Error::Database(error) => error.into(),
            campaign::Error::NotFound(_) => Problem::not_found("campaign"),
            campaign::Error::Invalid(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_plan", detail),
            campaign::Error::Empty => Problem::conflict("nothing_selected", detail),
            campaign::Error::WrongState { state, .. } => {
                Problem::conflict("wrong_campaign_state", detail).with("state", state)
            }
            campaign::Error::Unreadable { count, first } => Problem::conflict("payloads_unreadable", detail)
                .with("count", count)
                .with("unreadable", json!(first)),
        }
    }
}
