//! Why a job is not running, and what an order waits for.

use axum::extract;
use chrono::{DateTime, Utc};
use domain::ids::OrderId;
use jobs::why::OrderWhy as Order;
use queue::JobId;
use queue::why;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::State;
use crate::answer::Answer;
use crate::paging::Params;
use crate::path::Id;
use crate::problem::Problem;

/// Why a job is where it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Why {
    /// The job.
    job: i64,
    /// Its kind.
    kind: Option<String>,
    /// The line it waits in.
    queue: Option<String>,
    /// available, scheduled, retryable, running, completed, discarded, cancelled or dead.
    state: String,
    /// At least one, the decisive one first.
    causes: Vec<Cause>,
    /// When it starts, as far as that can be told; none for one that runs or has ended.
    predicted_start: Option<PredictedStart>,
}

/// One reason.
#[derive(Serialize, ToSchema)]
pub(crate) struct Cause {
    /// What sort of reason, the same for ever: queue_paused, retry, behind_in_group and others.
    code: &'static str,
    /// The reason in words.
    text: String,
    /// Who or what is in the way, the first few.
    holders: Vec<CauseHolder>,
    /// Since when it holds.
    since: Option<DateTime<Utc>>,
    /// When it ends by itself, if that is known.
    until: Option<DateTime<Utc>>,
    /// The command that ends it, if one does.
    remedy: Option<String>,
    /// Why the first holder, a job, is where it is; at most four such steps.
    #[schema(no_recursion)]
    caused_by: Option<Box<Why>>,
}

/// Somebody or something in the way.
#[derive(Serialize, ToSchema)]
pub(crate) struct CauseHolder {
    /// job, dead letter, worker, person, limit or campaign.
    what: &'static str,
    /// Its number, if it has one.
    id: Option<i64>,
    /// The name of a worker, person or limit; the kind of a job.
    name: String,
}

/// When a job starts.
#[derive(Serialize, ToSchema)]
pub(crate) struct PredictedStart {
    /// Not before; none while that depends on somebody.
    from: Option<DateTime<Utc>>,
    /// Probably not after.
    to: Option<DateTime<Utc>>,
    /// What this is based on, in words.
    basis: String,
}

/// Why an order is where it is.
#[derive(Serialize, ToSchema)]
pub(crate) struct OrderWhy {
    /// The order.
    order: Uuid,
    /// How far it is.
    status: String,
    /// The money.
    payment_status: String,
    /// The goods.
    fulfilment_status: String,
    /// Where it is, in words.
    text: String,
    /// Its jobs that have not ended and its dead letters, the oldest first; a hundred at most.
    jobs: Vec<Why>,
}

impl From<why::Why> for Why {
    fn from(why: why::Why) -> Why {
        Why {
            job: why.job.0,
            kind: why.kind,
            queue: why.queue,
            state: why.state,
            causes: why.causes.into_iter().map(Cause::from).collect(),
            predicted_start: why.predicted_start.map(|start| PredictedStart {
                from: start.from,
                to: start.to,
                basis: start.basis,
            }),
        }
    }
}

impl From<why::Cause> for Cause {
    fn from(cause: why::Cause) -> Cause {
        let holders = cause.holders.into_iter().map(|holder| CauseHolder {
            what: holder.what,
            id: holder.id,
            name: holder.name,
        });
        Cause {
            code: cause.code.as_str(),
            text: cause.text,
            holders: holders.collect(),
            since: cause.since,
            until: cause.until,
            remedy: cause.remedy.map(|remedy| remedy.to_string()),
            caused_by: cause.caused_by.map(|why| Box::new(Why::from(*why))),
        }
    }
}

impl From<Order> for OrderWhy {
    fn from(why: Order) -> OrderWhy {
        OrderWhy {
            order: why.order.0,
            status: why.status,
            payment_status: why.payment_status,
            fulfilment_status: why.fulfilment_status,
            text: why.text,
            jobs: why.jobs.into_iter().map(Why::from).collect(),
        }
    }
}

/// Why a job is not running, or what became of it: every cause with its holder and its remedy, and the predicted start.
#[utoipa::path(
    get, path = "/jobs/{id}/why", tag = "operations",
    params(("id" = i64, Path, description = "The job")),
    responses((status = 200, description = "The causes", body = Why)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn job(
    extract::State(state): extract::State<State>,
    Id(id): Id<i64>,
    params: Params,
) -> Result<Answer, Problem> {
    params.end()?;
    let why = why::why(&mut *state.pool.acquire().await?, JobId(id), &jobs::catalogue().kinds()).await?;
    match why.is_unknown() {
        true => Err(Problem::not_found("job")),
        false => Ok(Answer::ok(&Why::from(why))),
    }
}

/// What an order waits for: its state, and why each job of it that has not ended well is where it is.
#[utoipa::path(
    get, path = "/orders/{id}/why", tag = "orders",
    params(("id" = Uuid, Path, description = "The order")),
    responses((status = 200, description = "Its jobs and their causes", body = OrderWhy)),
    security(("api_key" = ["jobs:read"])),
)]
pub(crate) async fn order(
    extract::State(state): extract::State<State>,
    Id(id): Id<OrderId>,
    params: Params,
) -> Result<Answer, Problem> {
    params.end()?;
    let why = jobs::why::of_order(&mut *state.pool.acquire().await?, id).await?;
    let why = why.ok_or_else(|| Problem::not_found("order"))?;
    Ok(Answer::ok(&OrderWhy::from(why)))
}
