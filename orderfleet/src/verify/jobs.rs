//! J1–J3: nothing is left over, nothing was completed twice, and what died says why.

use sqlx::PgConnection;

use super::{Check, JUST_NOW};

pub(super) async fn check(conn: &mut PgConnection) -> sqlx::Result<Vec<Check>> {
    Ok(vec![
        left_over(conn).await?,
        doubled(conn).await?,
        unexplained(conn).await?,
    ])
}

/// Scheduled for later and never tried is not left over: a capture in its window, the next try of nothing.
async fn left_over(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        select format('job %s %s is %s%s', j.id, j.kind,
                      case when j.state = 'running' then 'running since ' || j.claimed_at
                           when j.run_at > queue.clock() then 'to be retried at ' || j.run_at
                           else 'due since ' || j.run_at end,
                      coalesce(': ' || j.waiting, '')) as "it!"
        from queue.live_jobs j
        where (j.state = 'running' and j.claimed_at < queue.clock() - make_interval(secs => $1))
           or (j.state = 'available' and j.run_at < queue.clock() - make_interval(secs => $1))
           or (j.state <> 'running' and jsonb_array_length(j.failures) > 0)
        union all
        select format('job %s %s is held by worker %s, which is not there', j.id, j.kind, j.worker_id)
        from queue.running_jobs j
        where not exists (select from queue.workers w where w.id = j.worker_id)
        "#,
        JUST_NOW
    )
    .fetch_all(conn)
    .await?;
    Ok(Check::new("J1", "no job is due, running or to be retried", offenders))
}

/// A key of scope 'kept' completes once, ever. What a job wrote carries the fence of an attempt that was really made,
/// and where all effects are in one transaction, of the attempt that completed it.
async fn doubled(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let mut offenders = sqlx::query_scalar!(
        r#"
        select format('%s %s was completed %s times', f.kind, f.unique_key, count(*)) as "it!"
        from queue.finished_jobs f
        join queue.unique_keys u on u.kind = f.kind and u.key = f.unique_key and u.scope = 'kept'
        where f.state = 'completed'
        group by f.kind, f.unique_key
        having count(*) > 1
        union all
        select format('job %s %s was completed %s times', f.id, f.kind, count(*))
        from queue.finished_jobs f
        group by f.id, f.kind
        having count(*) > 1
        union all
        select format('job %s %s is finished and still there', j.id, j.kind)
        from queue.live_jobs j
        where exists (select from queue.finished_jobs f where f.id = j.id)
        "#
    )
    .fetch_all(&mut *conn)
    .await?;
    let stale = sqlx::query_scalar!(
        r#"
        with effects as (
            select job_id, fence, 'movement ' || cause_key as what from stock_movements where job_id is not null
            union all
            select job_id, fence, 'history of order ' || order_id || ' at ' || version from order_history where job_id is not null
            union all
            select job_id, fence, 'plan ' || id from route_plans where job_id is not null
            union all
            select job_id, fence, 'payment attempt ' || idem_key from payment_attempts where job_id is not null
            union all
            select job_id, fence, 'webhook attempt ' || n || ' of delivery ' || delivery_id from webhook_attempts where job_id is not null
        )
        select format('%s carries fence %s of job %s %s, which completed under %s', e.what, e.fence, f.id, f.kind, f.fence) as "it!"
        from effects e
        join queue.finished_jobs f on f.id = e.job_id
        where e.fence > f.fence
           or (e.fence <> f.fence and f.kind in ('reserve_stock', 'release_stock', 'ship_shipment'))
        "#
    )
    .fetch_all(conn)
    .await?;
    offenders.extend(stale);
    Ok(Check::new(
        "J2",
        "every unique job completed at most once, and no effect is a stale worker's",
        offenders,
    ))
}

/// Whatever a dead job worked on is in a state with a name: on hold, dead, or settled since.
async fn unexplained(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let mut offenders = sqlx::query_scalar!(
        r#"
        select format('job %s %s has no %s', l.id, l.kind, concat_ws(' and no ',
                      case when l.reason = '' then 'reason' end,
                      case when l.error_class = '' then 'class' end,
                      case when l.error_code = '' then 'code' end,
                      case when jsonb_typeof(l.report -> 'attempts') is distinct from 'array' then 'attempts in its report' end)) as "it!"
        from queue.dead_letters l
        where l.reason = '' or l.error_class = '' or l.error_code = ''
           or jsonb_typeof(l.report -> 'attempts') is distinct from 'array'
        "#
    )
    .fetch_all(&mut *conn)
    .await?;
    let unnamed = sqlx::query_scalar!(
        r#"
        with about as (
            select l.id, l.kind,
                   coalesce((l.args ->> 'order_id')::uuid, p.order_id, s.order_id) as order_id,
                   (l.args ->> 'delivery_id')::uuid as delivery_id
            from queue.dead_letters l
            left join payments p on p.id = (l.args ->> 'payment_id')::uuid
            left join shipments s on s.id = (l.args ->> 'shipment_id')::uuid
        )
        select format('job %s %s is dead, and order %s is %s', a.id, a.kind, o.id, o.status) as "it!"
        from about a
        join orders o on o.id = a.order_id
        where a.delivery_id is null
          and o.status not in ('on_hold', 'closed', 'rejected', 'expired', 'cancelled')
        union all
        select format('job %s %s is dead, and delivery %s is %s', a.id, a.kind, d.id, d.state)
        from about a
        join webhook_deliveries d on d.id = a.delivery_id
        where d.state not in ('dead', 'discarded', 'delivered')
        "#
    )
    .fetch_all(conn)
    .await?;
    offenders.extend(unnamed);
    Ok(Check::new(
        "J3",
        "every dead letter says why, and what it was about is in a named state",
        offenders,
    ))
}
