//! Each invariant of stock, orders and jobs is seen when it is broken, and nothing is seen in a sound world.

use orderfleet::verify::{Ledger, Records, verify};
use sqlx::{AssertSqlSafe, PgConnection};
use testkit::{Database, a_customer, a_product, an_order};

/// One order of two pieces, confirmed and captured, its stock committed, its partner told: everything is at rest since
/// an hour.
pub(crate) const SOUND: &str = "
    update orders set status = 'confirmed', payment_status = 'captured', version = 6, created_at = now() - interval '2 hours',
        confirmed_at = now() - interval '90 minutes', cancel_until = now() - interval '80 minutes', updated_at = now() - interval '1 hour';
    insert into order_history (order_id, version, status, payment_status, fulfilment_status, cause, actor)
    select o.id, s.version, s.status, s.payment, 'none', 'test', 'test'
    from orders o, (values (2, 'reserved', 'none'), (3, 'reserved', 'authorizing'), (4, 'confirmed', 'authorized'),
                           (5, 'confirmed', 'capturing'), (6, 'confirmed', 'captured')) s (version, status, payment);
    update order_lines set qty_reserved = 2;
    insert into reservations (id, order_line_id, product_id, warehouse_id, qty, state)
    select gen_random_uuid(), l.id, s.product_id, s.warehouse_id, 2, 'committed' from order_lines l, stock_levels s;
    update stock_levels set reserved = 2;
    insert into stock_movements (product_id, warehouse_id, kind, qty, d_on_hand, d_reserved, cause_key, actor)
    select product_id, warehouse_id, 'reserved', 2, 0, 2, 'reserve:test', 'test' from stock_levels;
    insert into payments (id, order_id, gateway_ref, payment_method, currency, amount_minor, state, captured_minor, created_at, updated_at)
    select '00000000-0000-7000-8000-000000000001', id, 'pi_1', 'pm_card_visa', 'GBP', 1998, 'captured', 1998,
           now() - interval '1 hour', now() - interval '1 hour' from orders;
    insert into payment_attempts (id, payment_id, op, seq, idem_key, amount_minor, state, sends, created_at, answered_at)
    select gen_random_uuid(), p.id, s.op, 1, s.op || ':1', 1998, 'succeeded', 1, now() - interval '1 hour', now() - interval '1 hour'
    from payments p, (values ('create'), ('confirm'), ('capture')) s (op);
    insert into webhook_endpoints (id, url, event_types, secrets, created_at)
    values ('00000000-0000-7000-8000-000000000002', 'http://127.0.0.1:1/hooks/demo', '{*}', '{whsec_x}', now() - interval '3 hours');
    insert into events (event_id, type, order_id, payload, at)
    select ('00000000-0000-7000-8000-00000000000' || n)::uuid, 'order.confirmed', o.id, '{}', now() - interval '1 hour'
    from orders o, generate_series(3, 4) n;
    insert into webhook_deliveries (id, endpoint_id, event_id, ordering_key, seq, state, attempts, updated_at, delivered_at)
    select gen_random_uuid(), h.id, e.event_id, e.order_id::text, e.id, 'delivered', 1, now() - interval '1 hour', now() - interval '1 hour'
    from webhook_endpoints h, events e;
    insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, unique_key, failures, created_at)
    values (900, 'stock', 'reserve_stock', 1, '{}', 'completed', 2, 2, 'reserve:1', '[]', now());
    insert into queue.unique_keys (kind, key, job_id, scope) values ('reserve_stock', 'reserve:1', 900, 'kept');
";

/// A sound world of its own.
pub(crate) async fn a_sound_world() -> (Database, PgConnection) {
    let db = Database::new().await;
    let mut conn = db.connect().await;
    let customer = a_customer(&mut conn).await;
    let product = a_product(&mut conn, "LANTERN", 10).await;
    an_order(&mut conn, customer, &[(product, 2)]).await;
    plant(&mut conn, SOUND).await;
    (db, conn)
}

pub(crate) async fn plant(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(conn)
        .await
        .unwrap_or_else(|error| panic!("{error}: {sql}"));
}

/// The ids of the violated invariants.
pub(crate) async fn violated(conn: &mut PgConnection, records: &Records) -> Vec<&'static str> {
    let checks = verify(conn, records).await.unwrap();
    checks
        .iter()
        .filter(|check| check.is_violated())
        .map(|check| check.id)
        .collect()
}

/// Plants each violation in a world of its own, and expects exactly those invariants to be named.
async fn each_is_seen(violations: &[(&[&str], &str)]) {
    for (expected, sql) in violations {
        let (_db, mut conn) = a_sound_world().await;
        plant(&mut conn, sql).await;
        assert_eq!(violated(&mut conn, &Records::default()).await, *expected, "after {sql}");
    }
}

#[tokio::test]
async fn a_sound_world_violates_nothing_and_says_what_it_skipped() {
    let (_db, mut conn) = a_sound_world().await;
    let checks = verify(&mut conn, &Records::default()).await.unwrap();
    let lines: Vec<String> = checks.iter().map(|check| check.line()).collect();
    assert!(checks.iter().all(|check| !check.is_violated()), "{lines:#?}");
    assert!(lines.contains(&"skipped P1: no ledger given".to_owned()), "{lines:#?}");
    let ids: Vec<&str> = checks.iter().map(|check| check.id).collect();
    assert_eq!(
        ids,
        [
            "S1", "S2", "S3", "S4", "O1", "O2", "O3", "C2", "P1", "P2", "P3", "P4", "P5", "P6", "L1", "L2", "L3", "W1",
            "W2", "W3", "J1", "J2", "J3", "R1", "R2", "R3", "R4", "R5"
        ]
    );
}

#[tokio::test]
async fn lost_and_invented_stock_is_seen() {
    each_is_seen(&[
        (
            &["S1", "S2"],
            "alter table stock_levels drop constraint stock_never_oversold; update stock_levels set on_hand = 1;
             update stock_movements set qty = 1 where kind = 'received'",
        ),
        (
            &["S2"],
            "update stock_movements set d_on_hand = d_on_hand + 1 where kind = 'received'",
        ),
        (
            &["S3"],
            "update stock_levels set reserved = 3;
             update stock_movements set d_reserved = 3 where kind = 'reserved'",
        ),
        (
            &["S4"],
            "update stock_movements set qty = qty + 1 where kind = 'received'",
        ),
    ])
    .await;
}

#[tokio::test]
async fn orders_that_are_not_where_they_should_be_are_seen() {
    each_is_seen(&[
        (&["O1"], "update order_lines set qty_reserved = 1"),
        (
            &["O2"],
            "update orders set status = 'cancelled', payment_status = 'refunded', version = 9;
             update payments set state = 'refunded', refunded_minor = captured_minor;
             insert into order_history (order_id, version, status, payment_status, fulfilment_status, cause, actor)
             select o.id, s.version, s.status, s.payment, 'none', 'test', 'test'
             from orders o, (values (7, 'cancelling', 'captured'), (8, 'cancelling', 'refunding'), (9, 'cancelled', 'refunded'))
                  s (version, status, payment)",
        ),
        // A step that the diagram has not.
        (&["O3"], "update order_history set status = 'reserved' where version = 5"),
        // A row of history too few.
        (&["O3"], "delete from order_history where version = 6"),
        // An order that its history does not lead to.
        (&["O3"], "update orders set payment_status = 'refunding'"),
        // A capture that nobody made.
        (
            &["O3"],
            "update orders set payment_status = 'authorized', version = 4; delete from order_history where version > 4",
        ),
        // An order that hangs.
        (
            &["O3"],
            "update orders set status = 'reserved', payment_status = 'authorizing', version = 3;
             delete from order_history where version > 3",
        ),
        (
            &["C2"],
            "insert into idempotency_keys (principal, key, fingerprint, status, order_id, expires_at)
             select 'shop', 'key ' || n, '', 201, o.id, now() + interval '1 day' from orders o, generate_series(1, 2) n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_order_waiting_for_something_that_has_not_come_yet_is_at_rest() {
    let (_db, mut conn) = a_sound_world().await;
    plant(
        &mut conn,
        "update orders set payment_status = 'authorized', version = 4, cancel_until = now() + interval '1 minute';
         delete from order_history where version > 4",
    )
    .await;
    assert_eq!(violated(&mut conn, &Records::default()).await, [""; 0]);
    plant(
        &mut conn,
        "update orders set status = 'reserved', payment_status = 'none', version = 2, confirmed_at = null, cancel_until = null,
             expires_at = now() + interval '1 minute';
         delete from order_history where version > 2",
    )
    .await;
    assert_eq!(violated(&mut conn, &Records::default()).await, [""; 0]);
}

#[tokio::test]
async fn jobs_that_are_left_over_doubled_or_unexplained_are_seen() {
    each_is_seen(&[
        (
            &["J1"],
            "select queue.enqueue('stock', 'reserve_stock', '{}', now() - interval '1 minute')",
        ),
        (
            &["J1"],
            "insert into queue.jobs (queue, kind, args, run_at, rank, failures)
             select 'stock', 'reserve_stock', '{}', t, queue.rank(t, 0), '[{}]' from (select now() + interval '1 hour' as t) d",
        ),
        (
            &["J1"],
            "with lost as (insert into queue.jobs (queue, kind, args, rank) values ('stock', 'x', '{}', queue.rank(now(), 0)) returning jobs)
             insert into queue.claims (worker_id, queue, size, jobs) select 99, 'stock', 1, array_agg(lost.jobs) from lost",
        ),
        (
            &["J2"],
            "insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, unique_key, failures, created_at)
             values (901, 'stock', 'reserve_stock', 1, '{}', 'completed', 1, 1, 'reserve:1', '[]', now())",
        ),
        (&["J2"], "update stock_movements set job_id = 900, fence = 1 where kind = 'reserved'"),
        (&["J2"], "update payment_attempts set job_id = 900, fence = 3"),
        (
            &["J3"],
            "insert into queue.dead_letters (id, queue, kind, args_version, args, priority, fence, attempt, attempts_max, reason,
                                             error_class, error_code, message, report, created_at)
             values (902, 'stock', 'x', 1, '{}', 0, 1, 1, 1, 'permanent', '', 'x', 'x', '{}', now())",
        ),
        (
            &["J3"],
            "insert into queue.dead_letters (id, queue, kind, args_version, args, priority, fence, attempt, attempts_max, reason,
                                             error_class, error_code, message, report, created_at)
             select 902, 'stock', 'ship_order', 1, jsonb_build_object('order_id', id), 0, 1, 1, 1, 'permanent', 'permanent', 'x', 'x',
                    '{\"attempts\": []}', now() from orders",
        ),
    ])
    .await;
}

#[tokio::test]
async fn money_that_hangs_or_was_never_asked_for_is_seen() {
    each_is_seen(&[
        (&["P3"], "update payments set state = 'unknown'"),
        (
            &["P6"],
            "update orders set payment_status = 'authorized', fulfilment_status = 'shipped', version = 5,
                 cancel_until = now() + interval '1 minute';
             update payments set state = 'authorized', captured_minor = 0;
             delete from order_history where version > 4;
             insert into order_history (order_id, version, status, payment_status, fulfilment_status, cause, actor)
             select id, 5, 'confirmed', 'authorized', 'shipped', 'test', 'test' from orders",
        ),
    ])
    .await;
}

#[tokio::test]
async fn many_offenders_are_counted_and_the_first_are_named() {
    let (_db, mut conn) = a_sound_world().await;
    plant(
        &mut conn,
        "select queue.enqueue('stock', 'x', '{}', now() - interval '1 minute') from generate_series(1, 50)",
    )
    .await;
    let checks = verify(&mut conn, &Records::default()).await.unwrap();
    let line = checks.iter().find(|check| check.id == "J1").unwrap().line();
    assert!(
        line.starts_with("FAIL J1 ") && line.contains("(50): job ") && line.ends_with(", …"),
        "{line}"
    );
}

#[tokio::test]
async fn verifying_changes_nothing_and_reads_only() {
    let (_db, mut conn) = a_sound_world().await;
    let records = Records {
        ledger: Some(Ledger::default()),
        receiver: None,
    };
    verify(&mut conn, &records).await.unwrap();
    let writable: bool = sqlx::query_scalar("select current_setting('transaction_read_only') = 'off'")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert!(writable, "the connection is as it was");
}
