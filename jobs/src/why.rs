//! Why an order is where it is: its state, and why each job of it that has not ended well waits, runs or is dead.

use chrono::{DateTime, Utc};
use domain::ids::OrderId;
use domain::orders::{self, Order, Status};
use domain::payments;
use queue::JobId;
use queue::why::Why;
use serde::Serialize;
use sqlx::PgConnection;

/// At most so many jobs of an order are looked into, the oldest: dead ones, and those to come.
const JOBS_MAX: i64 = 100;

/// Why an order is where it is.
#[derive(Clone, Debug, Serialize)]
pub struct OrderWhy {
    /// The order.
    pub order: OrderId,
    /// How far it is.
    pub status: String,
    /// The money.
    pub payment_status: String,
    /// The goods.
    pub fulfilment_status: String,
    /// Where it is, in words.
    pub text: String,
    /// Its jobs that have not ended and its dead letters, the oldest first; a hundred at most.
    pub jobs: Vec<Why>,
}

/// Why an order is where it is, at one moment; none when there is no such order. The connection must not be in a transaction.
pub async fn of_order(conn: &mut PgConnection, id: OrderId) -> sqlx::Result<Option<OrderWhy>> {
    let mut tx = queue::why::snapshot(conn).await?;
    let Some(order) = orders::store::get(&mut tx, id).await? else {
        return Ok(None);
    };
    let kinds = crate::catalogue().kinds();
    let mut jobs = Vec::new();
    for job in jobs_of(&mut tx, id).await? {
        let why = queue::why::why(&mut tx, job, &kinds).await?;
        // A kept key leads to jobs that have ended, too.
        if why.is_unfinished() || why.state == "dead" {
            jobs.push(why);
        }
    }
    let now = payments::store::clock(&mut tx).await?;
    tx.commit().await?;
    Ok(Some(OrderWhy {
        order: id,
        status: order.status.to_string(),
        payment_status: order.payment_status.to_string(),
        fulfilment_status: order.fulfilment_status.to_string(),
        text: text(&order, &jobs, now),
        jobs,
    }))
}

/// The jobs about an order and what belongs to it, by their unique keys: every kind about one thing has one.
async fn jobs_of(conn: &mut PgConnection, id: OrderId) -> sqlx::Result<Vec<JobId>> {
    sqlx::query_scalar!(
        r#"with keys (kind, key) as (
               values ('reserve_stock', 'reserve:' || $1::uuid), ('release_stock', 'release:' || $1::uuid || ':cancel')
               union all
               select k.kind, k.prefix || p.id
               from payments p
               cross join (values ('authorize_payment', 'auth:'), ('capture_payment', 'cap:'),
                                  ('reconcile_payment', 'recon:'), ('void_payment', 'void:')) k (kind, prefix)
               where p.order_id = $1
               union all
               select 'refund_payment', 'refund:' || p.id || ':' || a.seq
               from payments p
               join payment_attempts a on a.payment_id = p.id
               where p.order_id = $1
               union all
               select 'ship_shipment', 'ship:' || s.id from shipments s where s.order_id = $1
               union all
               select 'deliver_webhook', d.id::text
               from events e
               join webhook_deliveries d on d.event_id = e.event_id
               where e.order_id = $1 and d.state <> 'delivered'
           )
           select o.job_id as "id!: JobId"
           from (
               select u.job_id from keys k join queue.unique_keys u on u.kind = k.kind and u.key = k.key
               union
               -- A live key is free again when its job has died.
               select l.id from keys k join queue.dead_letters l on l.kind = k.kind and l.unique_key = k.key
           ) o
           where exists (select from queue.live_jobs j where j.id = o.job_id)
              or exists (select from queue.dead_letters l where l.id = o.job_id)
           order by o.job_id
           limit $2"#,
        id.0,
        JOBS_MAX,
    )
    .fetch_all(conn)
    .await
}

/// What the order waits for, as far as its own row and its jobs say.
fn text(order: &Order, jobs: &[Why], now: DateTime<Utc>) -> String {
    let reason = order.reason.as_ref();
    let because = match reason.and_then(|reason| reason["code"].as_str()) {
        Some(code) => format!(": {code}"),
        None => String::new(),
    };
    let (dead, open): (Vec<_>, Vec<_>) = jobs.iter().partition(|why| why.state == "dead");
    let next = match open.len() {
        0 => "no job of it is to come: what comes next is started by a request or by the timetable".to_owned(),
        1 => "1 job of it has not ended".to_owned(),
        count => format!("{count} jobs of it have not ended"),
    };
    match order.status {
        Status::OnHold => {
            let stopped = reason.and_then(|reason| reason["job_id"].as_i64());
            let message = reason
                .and_then(|reason| reason["message"].as_str())
                .map(|said| format!(" ({said})"));
            match stopped {
                Some(job) if dead.iter().any(|why| why.job.0 == job) => {
                    format!(
                        "it is on hold{because}: dead letter {job} stopped it{}",
                        message.unwrap_or_default()
                    )
                }
                _ => format!("it is on hold{because}{}; {next}", message.unwrap_or_default()),
            }
        }
        Status::Reserved if open.is_empty() => match order.expires_at {
            Some(expires_at) => format!("it waits to be confirmed, until {}", minute(expires_at)),
            None => "it waits to be confirmed".to_owned(),
        },
        Status::Rejected | Status::Expired | Status::Cancelled | Status::Closed => {
            format!("it has ended: it is {}{because}", order.status)
        }
        Status::Confirmed => match order.cancel_until.filter(|until| *until > now) {
            Some(until) => format!("it is confirmed and can be cancelled until {}; {next}", minute(until)),
            None => format!("it is confirmed; {next}"),
        },
        _ => format!("it is {}; {next}", order.status),
    }
}

fn minute(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}
