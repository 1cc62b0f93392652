//! O1–O3 and C2: every order is where its history says, and no key made two.

use chrono::{DateTime, TimeDelta, Utc};
use domain::orders::{FulfilmentStatus, PaymentStatus, Status};
use futures::TryStreamExt;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Check, JUST_NOW};

pub(super) async fn check(conn: &mut PgConnection) -> anyhow::Result<Vec<Check>> {
    Ok(vec![
        lines(conn).await?,
        no_stock_left_behind(conn).await?,
        histories(conn).await?,
        keys(conn).await?,
    ])
}

async fn lines(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        with reserved as (
            select order_line_id,
                   sum(qty) filter (where state in ('held', 'committed')) as live,
                   sum(qty) filter (where state = 'shipped') as shipped
            from reservations
            group by order_line_id
        )
        select format('line %s of order %s: qty %s, reserved %s (reservations %s), shipped %s (reservations %s), backordered %s, cancelled %s',
                      l.line_no, l.order_id, l.qty, l.qty_reserved, coalesce(r.live, 0), l.qty_shipped,
                      coalesce(r.shipped, 0), l.qty_backordered, l.qty_cancelled) as "it!"
        from order_lines l
        left join reserved r on r.order_line_id = l.id
        where l.qty_reserved + l.qty_backordered + l.qty_shipped + l.qty_cancelled > l.qty
           or l.qty_reserved <> coalesce(r.live, 0)
           or l.qty_shipped <> coalesce(r.shipped, 0)
        "#
    )
    .fetch_all(conn)
    .await?;
    Ok(Check::new(
        "O1",
        "every line's parts fit its quantity and equal its reservations",
        offenders,
    ))
}

async fn no_stock_left_behind(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        select distinct format('order %s (%s)', o.id, o.status) as "it!"
        from orders o
        join order_lines l on l.order_id = o.id
        join reservations r on r.order_line_id = l.id
        where o.status in ('rejected', 'expired', 'cancelled')
          and r.state in ('held', 'committed')
        "#
    )
    .fetch_all(conn)
    .await?;
    Ok(Check::new(
        "O2",
        "no stock is held for a rejected, expired or cancelled order",
        offenders,
    ))
}

/// One row of an order's history, with the order as it stands.
struct Step {
    order_id: Uuid,
    version: i32,
    status: Status,
    payment_status: PaymentStatus,
    fulfilment_status: FulfilmentStatus,
}

struct Standing {
    id: Uuid,
    version: i32,
    status: Status,
    payment_status: PaymentStatus,
    fulfilment_status: FulfilmentStatus,
    expires_at: Option<DateTime<Utc>>,
    cancel_until: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
}

/// Walks both tables in step, in the order of their ids, so that memory does not grow with the orders.
async fn histories(conn: &mut PgConnection) -> anyhow::Result<Check> {
    let now = sqlx::query_scalar!(r#"select queue.clock() as "now!""#)
        .fetch_one(&mut *conn)
        .await?;
    let standings = sqlx::query_as!(
        Standing,
        r#"
        select id, version, status as "status: Status", payment_status as "payment_status: PaymentStatus",
               fulfilment_status as "fulfilment_status: FulfilmentStatus", expires_at, cancel_until, updated_at
        from orders
        order by id
        "#
    )
    .fetch_all(&mut *conn)
    .await?;

    let mut offenders = Vec::new();
    let mut steps = sqlx::query_as!(
        Step,
        r#"
        select order_id, version, status as "status: Status", payment_status as "payment_status: PaymentStatus",
               fulfilment_status as "fulfilment_status: FulfilmentStatus"
        from order_history
        order by order_id, version
        "#
    )
    .fetch(conn);
    let mut next = steps.try_next().await?;
    for order in &standings {
        let mut history = Vec::new();
        while let Some(step) = next.take_if(|step| step.order_id == order.id) {
            history.push(step);
            next = steps.try_next().await?;
        }
        let wrong = wrong_history(order, &history).or_else(|| not_at_rest(order, now));
        offenders.extend(wrong.map(|why| format!("order {}: {why}", order.id)));
    }
    Ok(Check::new(
        "O3",
        "every history is a path of the state diagram, ends where its order is, and the order is at rest",
        offenders,
    ))
}

/// Why this is not a path that leads to the order as it stands.
fn wrong_history(order: &Standing, history: &[Step]) -> Option<String> {
    let Some((first, last)) = history.first().zip(history.last()) else {
        return Some("has no history".to_owned());
    };
    if usize::try_from(order.version).ok() != Some(history.len()) {
        return Some(format!(
            "version {} with {} rows of history",
            order.version,
            history.len()
        ));
    }
    if (first.status, first.payment_status, first.fulfilment_status)
        != (Status::Pending, PaymentStatus::None, FulfilmentStatus::None)
    {
        return Some(format!(
            "begins as {}/{}/{}",
            first.status, first.payment_status, first.fulfilment_status
        ));
    }
    let mut held_from = None;
    for (from, to) in history.iter().zip(&history[1..]) {
        if to.version != from.version + 1 {
            return Some(format!("version {} follows {}", to.version, from.version));
        }
        if from.status != Status::OnHold {
            held_from = Some(from.status);
        }
        let stays = (
            from.status == to.status,
            from.payment_status == to.payment_status,
            from.fulfilment_status == to.fulfilment_status,
        );
        if !stays.0 && !from.status.next(held_from).contains(&to.status) {
            return Some(format!(
                "went from {} to {} at version {}",
                from.status, to.status, to.version
            ));
        }
        if !stays.1 && !from.payment_status.next().contains(&to.payment_status) {
            return Some(format!(
                "payment went from {} to {} at version {}",
                from.payment_status, to.payment_status, to.version
            ));
        }
        if !stays.2 && !from.fulfilment_status.next().contains(&to.fulfilment_status) {
            return Some(format!(
                "fulfilment went from {} to {} at version {}",
                from.fulfilment_status, to.fulfilment_status, to.version
            ));
        }
    }
    if (last.status, last.payment_status, last.fulfilment_status)
        != (order.status, order.payment_status, order.fulfilment_status)
    {
        return Some(format!(
            "is {}/{}/{} but its history ends {}/{}/{}",
            order.status,
            order.payment_status,
            order.fulfilment_status,
            last.status,
            last.payment_status,
            last.fulfilment_status
        ));
    }
    None
}

/// Why an order is neither finished nor waiting for something that has not come yet.
fn not_at_rest(order: &Standing, now: DateTime<Utc>) -> Option<String> {
    let just_now = TimeDelta::milliseconds((JUST_NOW * 1000.0) as i64);
    if order.status.is_terminal() || order.status == Status::OnHold || order.updated_at > now - just_now {
        return None;
    }
    let is_over = |end: Option<DateTime<Utc>>| end.is_none_or(|end| end < now - just_now);
    match (order.status, order.payment_status) {
        // The sweep of expired reservations runs once a minute.
        (Status::Reserved, PaymentStatus::None)
            if !is_over(order.expires_at.map(|end| end + TimeDelta::seconds(90))) =>
        {
            None
        }
        (Status::Reserved, PaymentStatus::None) => Some("reserved beyond its time".to_owned()),
        (Status::Confirmed, PaymentStatus::Captured | PaymentStatus::Refunding | PaymentStatus::Refunded) => None,
        (Status::Confirmed, PaymentStatus::Authorized) if !is_over(order.cancel_until) => None,
        (Status::Confirmed, PaymentStatus::Authorized) => Some("its capture is overdue".to_owned()),
        (status, payment) => Some(format!("is still {status} with its payment {payment}")),
    }
}

async fn keys(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        select format('order %s has the keys %s', order_id, string_agg(principal || '/' || key, ' and ')) as "it!"
        from idempotency_keys
        where order_id is not null and status between 200 and 299
        group by order_id
        having count(*) > 1
        union all
        select format('key %s/%s names order %s, which is not there', k.principal, k.key, k.order_id)
        from idempotency_keys k
        where k.order_id is not null and not exists (select from orders o where o.id = k.order_id)
        "#
    )
    .fetch_all(conn)
    .await?;
    Ok(Check::new("C2", "one key made one order", offenders))
}
