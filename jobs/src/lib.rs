//! All that the fleet does: one file per kind of job, named verb_noun.
//!
//! A job calls `domain` for what happens and enqueues what follows, in the same transaction. [`intake`] is where the
//! requests of the API and one job start the others; [`catalogue`] lists the kinds, [`timetable`] those that the clock
//! starts, [`limits`] what bounds them; [`why`] says why an order is where it is. `docs/adding-a-job.md` follows one of them from
//! the first line to production.

pub mod authorize_payment;
pub mod capture_payment;
pub mod deliver_webhook;
pub mod expire_order;
pub mod expire_reservations;
mod in_steps;
pub mod intake;
mod limits;
pub mod pay_seller;
pub mod pay_sellers;
mod payment_call;
mod payment_outcome;
pub mod plan_due_routes;
pub mod plan_routes;
pub mod process_gateway_event;
pub mod process_inbound;
pub mod prune_finished_jobs;
pub mod prune_idempotency_keys;
pub mod prune_road_matrices;
pub mod prune_unique_keys;
pub mod purge_webhooks;
pub mod reconcile_payment;
pub mod reconcile_payments;
pub mod refund_payment;
pub mod release_stock;
pub mod reserve_stock;
mod road_call;
mod route_search;
mod schedule;
pub mod ship_shipment;
pub mod sweep_ledger;
pub mod void_payment;
pub mod why;

pub use authorize_payment::AuthorizePayment;
pub use capture_payment::CapturePayment;
pub use deliver_webhook::DeliverWebhook;
pub use expire_order::ExpireOrder;
pub use expire_reservations::ExpireReservations;
pub use limits::{limit_endpoint, limits, unlimit_endpoint};
pub use pay_seller::PaySeller;
pub use pay_sellers::PaySellers;
pub use plan_due_routes::PlanDueRoutes;
pub use plan_routes::PlanRoutes;
pub use process_gateway_event::ProcessGatewayEvent;
pub use process_inbound::ProcessInbound;
pub use prune_finished_jobs::PruneFinishedJobs;
pub use prune_idempotency_keys::PruneIdempotencyKeys;
pub use prune_road_matrices::PruneRoadMatrices;
pub use prune_unique_keys::PruneUniqueKeys;
pub use purge_webhooks::PurgeWebhooks;
pub use reconcile_payment::ReconcilePayment;
pub use reconcile_payments::ReconcilePayments;
pub use refund_payment::RefundPayment;
pub use release_stock::ReleaseStock;
pub use reserve_stock::ReserveStock;
pub use schedule::timetable;
pub use ship_shipment::ShipShipment;
pub use sweep_ledger::SweepLedger;
pub use void_payment::VoidPayment;

use domain::{
    Cause, Services,
    events::{Announced, PendingDelivery},
    ids::{OrderId, PartnerId},
    orders, webhooks,
};
use queue::trace::{self, TraceContext};
use queue::{Attempt, Catalogue, DeadLetter, Enqueued, Job, JobId};
use serde_json::json;
use sqlx::PgConnection;

/// Every kind of job there is.
pub fn catalogue() -> Catalogue<Services> {
    Catalogue::new()
        .with::<AuthorizePayment>()
        .with::<CapturePayment>()
        .with::<DeliverWebhook>()
        .with_batch::<ExpireOrder>()
        .with::<ExpireReservations>()
        .with::<PaySeller>()
        .with::<PaySellers>()
        .with::<PlanDueRoutes>()
        .with::<PlanRoutes>()
        .with::<ProcessGatewayEvent>()
        .with::<ProcessInbound>()
        .with::<PruneFinishedJobs>()
        .with::<PruneIdempotencyKeys>()
        .with::<PruneRoadMatrices>()
        .with::<PruneUniqueKeys>()
        .with::<PurgeWebhooks>()
        .with::<ReconcilePayment>()
        .with::<ReconcilePayments>()
        .with::<RefundPayment>()
        .with::<ReleaseStock>()
        .with_batch::<ReserveStock>()
        .with::<ShipShipment>()
        .with::<SweepLedger>()
        .with::<VoidPayment>()
}

/// Who did it, when an attempt of a job did.
pub fn cause(attempt: &Attempt) -> Cause {
    Cause::job(attempt.kind, attempt.job_id.0, attempt.fence)
}

/// Enqueues the job of each delivery. Call it once per transaction, last: it takes the locks of the deliveries' groups,
/// in the order of their keys.
pub async fn announce(conn: &mut PgConnection, announced: Announced) -> Result<(), queue::Error> {
    let mut pending = announced.0;
    if pending.is_empty() {
        return Ok(());
    }
    pending.sort_by(|one, other| one.group.cmp(&other.group));
    let jobs: Vec<DeliverWebhook> = pending.into_iter().map(delivery).collect();
    queue::enqueue_many(conn, &jobs).await.map(drop)
}

/// Sends deliveries again, in the transaction that made them pending: those that died by the jobs that died of them, which
/// keep their places, the others by new ones at the end of their lines.
pub async fn send_again(
    conn: &mut PgConnection,
    again: Vec<webhooks::store::Again>,
    actor: &str,
) -> Result<(), queue::Error> {
    let dead: Vec<JobId> = again.iter().filter_map(|one| one.dead_job_id.map(JobId)).collect();
    let redriven = queue::operate::redrive_each(&mut *conn, &dead, actor, "the delivery is sent again").await?;
    let is_redriven = |one: &webhooks::store::Again| one.dead_job_id.is_some_and(|id| redriven.contains(&JobId(id)));
    let others = again.into_iter().filter(|one| !is_redriven(one)).map(|one| one.pending);
    announce(conn, Announced(others.collect())).await
}

/// Discards the job that died of a delivery which is given up, if it still is a dead letter: a line that it blocks goes on.
pub async fn discard_dead(
    conn: &mut PgConnection,
    job_id: i64,
    actor: &str,
    reason: &str,
) -> Result<(), queue::operate::Error> {
    match queue::operate::discard(conn, JobId(job_id), actor, reason).await {
        // Somebody discarded it already.
        Ok(()) | Err(queue::operate::Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Enqueues the job of a partner's webhook, in the transaction that keeps it.
pub async fn take_inbound(conn: &mut PgConnection, partner: PartnerId, event_id: String) -> Result<(), queue::Error> {
    let job = ProcessInbound {
        partner_id: partner,
        event_id,
    };
    queue::enqueue(conn, &job).await.map(drop)
}

/// The same for what was announced in several traces: each delivery goes on in its own, and the order of the locks is one.
pub(crate) async fn announce_each(
    conn: &mut PgConnection,
    announced: Vec<(TraceContext, Announced)>,
) -> Result<(), queue::Error> {
    let mut pending: Vec<_> = announced
        .into_iter()
        .flat_map(|(trace, announced)| announced.0.into_iter().map(move |pending| (trace, pending)))
        .collect();
    pending.sort_by(|(_, one), (_, other)| one.group.cmp(&other.group));
    let mut pending = pending.into_iter().peekable();
    while let Some((trace, first)) = pending.next() {
        let mut jobs = vec![delivery(first)];
        while let Some((_, next)) = pending.next_if(|(other, _)| *other == trace) {
            jobs.push(delivery(next));
        }
        trace::scope(trace, queue::enqueue_many(&mut *conn, &jobs)).await?;
    }
    Ok(())
}

fn delivery(pending: PendingDelivery) -> DeliverWebhook {
    DeliverWebhook {
        delivery_id: pending.id,
        endpoint_id: Some(pending.endpoint),
        group: pending.group,
    }
}

/// Enqueues what follows.
pub(crate) async fn follow_with<J: Job>(conn: &mut PgConnection, job: &J) -> Result<Enqueued, queue::Error> {
    queue::enqueue(conn, job).await
}

/// What a job about an order does when it is given up: the order waits for a person and says why.
pub(crate) async fn hold_for(
    conn: &mut PgConnection,
    order: OrderId,
    letter: &DeadLetter,
    cause: &Cause,
) -> anyhow::Result<()> {
    let Some(mut order) = orders::store::lock(&mut *conn, order).await? else {
        return Ok(());
    };
    let detail = json!({ "job_id": letter.id, "error_code": letter.code, "message": letter.message });
    let code = format!("{}_dead", letter.kind);
    let announced = orders::store::hold(&mut *conn, &mut order, &code, detail, cause).await?;
    announce(conn, announced).await?;
    Ok(())
}
