//! What orders are carried through by: reserved, confirmed, cancelled, expired, shipped. No gateway is needed: its client
//! here finds nobody, and the payment's part is written by hand.

use std::{sync::Arc, time::Duration};

use domain::{
    Cause, Services,
    ids::{CustomerId, OrderId},
    orders::{self, Change, NewLine, NewOrder, Order, PaymentStatus, Status},
    payments::Gateway,
    routes,
    services::Settings,
    webhooks::Sender,
};
use jobs::{
    ExpireReservations, PruneFinishedJobs, PruneIdempotencyKeys, PruneUniqueKeys, ReleaseStock, ReserveStock, intake,
};
use queue::runner::Settled;
use queue::testing::{Ran, Worker, enqueued, run_until_idle};
use secrecy::SecretString;
use sqlx::{PgConnection, PgPool};
use testkit::{Database, a_customer, a_product};

fn by() -> Cause {
    Cause::actor("test")
}

fn services() -> Arc<Services> {
    let nobody = "http://127.0.0.1:9".parse().expect("it is a URL");
    Arc::new(Services {
        gateway: Gateway::new(nobody, SecretString::from("sk_test_nobody")).expect("a client"),
        sender: Sender::new(true).expect("a sender"),
        keyring: domain::keyring::Keyring::random(),
        settings: Settings::default(),
    })
}

async fn run(pool: &PgPool) -> Ran {
    run_until_idle(pool, &jobs::catalogue(), &services())
        .await
        .expect("a run")
}

async fn a_shop() -> (Database, CustomerId) {
    let database = Database::new().await;
    let mut conn = database.pool.acquire().await.expect("a connection");
    a_product(&mut conn, "TEA", 100).await;
    a_product(&mut conn, "CUP", 100).await;
    let customer = CustomerId(a_customer(&mut conn).await);
    drop(conn);
    (database, customer)
}

fn an_order_of(customer: CustomerId, qty: i64) -> NewOrder {
    let lines = [("TEA", qty), ("CUP", 1)];
    let lines = lines
        .into_iter()
        .map(|(sku, qty)| NewLine {
            sku: sku.to_owned(),
            qty,
        })
        .collect();
    NewOrder {
        customer_id: customer,
        reference: None,
        lines,
        confirm_with: None,
    }
}

async fn submit(pool: &PgPool, order: &NewOrder) -> OrderId {
    let mut tx = pool.begin().await.expect("a transaction");
    let order = intake::submit(&mut tx, order, &by()).await.expect("an order");
    tx.commit().await.expect("a commit");
    order.id
}

async fn confirm(pool: &PgPool, id: OrderId) -> Result<Order, intake::Error> {
    let mut tx = pool.begin().await.expect("a transaction");
    let order = intake::confirm(&mut tx, id, "pm_card_visa", &Settings::default(), &by()).await?;
    tx.commit().await.expect("a commit");
    Ok(order)
}

async fn cancel(pool: &PgPool, id: OrderId) -> Result<Order, intake::Error> {
    let mut tx = pool.begin().await.expect("a transaction");
    let order = intake::cancel(&mut tx, id, "changed my mind", &Settings::default(), &by()).await?;
    tx.commit().await.expect("a commit");
    Ok(order)
}

async fn order(pool: &PgPool, id: OrderId) -> Order {
    orders::store::get(&mut pool.acquire().await.expect("a connection"), id)
        .await
        .expect("a query")
        .expect("the order")
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.expect("a count")
}

const KEPT: &str = "select coalesce(sum(reserved), 0)::bigint from stock_levels";

/// Confirms a reserved order as `authorize_payment` does, without the gateway.
async fn authorized(conn: &mut PgConnection, id: OrderId, window: Duration) -> Order {
    let mut order = orders::store::lock(&mut *conn, id)
        .await
        .expect("a lock")
        .expect("the order");
    let authorizing = Change {
        payment_status: Some(PaymentStatus::Authorizing),
        cause: "confirm",
        ..Change::default()
    };
    let confirmed = Change {
        status: Some(Status::Confirmed),
        payment_status: Some(PaymentStatus::Authorized),
        confirmed_with_window: Some(window),
        cause: "authorize",
        ..Change::default()
    };
    for change in [authorizing, confirmed] {
        let _ = orders::store::change(&mut *conn, &mut order, change, &by())
            .await
            .expect("a legal step");
    }
    orders::store::commit_reservations(&mut *conn, id, &by())
        .await
        .expect("a commit");
    order
}

#[tokio::test]
async fn a_rolled_back_order_leaves_no_job() {
    let (database, customer) = a_shop().await;
    let mut tx = database.pool.begin().await.expect("a transaction");
    intake::submit(&mut tx, &an_order_of(customer, 1), &by())
        .await
        .expect("an order");
    tx.rollback().await.expect("a rollback");
    assert_eq!(
        enqueued(&database.pool, "reserve_stock").await.expect("a look").len(),
        0
    );
    assert_eq!(count(&database.pool, "select count(*) from orders").await, 0);
}

#[tokio::test]
async fn a_submitted_order_is_reserved_and_a_second_job_for_it_is_the_first() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let id = submit(pool, &an_order_of(customer, 3)).await;
    assert_eq!(order(pool, id).await.status, Status::Pending);
    assert_eq!(run(pool).await.completed, 1);
    assert_eq!(order(pool, id).await.status, Status::Reserved);
    assert_eq!(count(pool, KEPT).await, 4);

    let mut conn = pool.acquire().await.expect("a connection");
    let again = queue::enqueue(&mut conn, &ReserveStock { order_id: id })
        .await
        .expect("an answer");
    assert!(!again.is_new);
    // Even a job that is not held back by its key finds nothing to do.
    sqlx::query("delete from queue.unique_keys")
        .execute(pool)
        .await
        .expect("a tampering");
    queue::enqueue(&mut conn, &ReserveStock { order_id: id })
        .await
        .expect("a second job");
    assert_eq!(run(pool).await.completed, 1);
    assert_eq!(count(pool, KEPT).await, 4);
    assert_eq!(order(pool, id).await.version, 2);
}

#[tokio::test]
async fn confirming_extends_the_reservation_and_a_second_confirm_asks_for_no_second_payment() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let id = submit(pool, &an_order_of(customer, 3)).await;
    assert!(matches!(confirm(pool, id).await, Err(intake::Error::NotReserved)));
    run(pool).await;
    let until = order(pool, id).await.expires_at.expect("a reservation ends");
    let confirmed = confirm(pool, id).await.expect("a confirm");
    assert_eq!(confirmed.payment_status, PaymentStatus::Authorizing);
    assert!(confirmed.expires_at.expect("it still ends") > until);
    let again = confirm(pool, id).await.expect("the same order");
    assert_eq!(again.version, confirmed.version);
    assert_eq!(count(pool, "select count(*) from payments").await, 1);
    assert_eq!(enqueued(pool, "authorize_payment").await.expect("a look").len(), 1);
}

#[tokio::test]
async fn an_order_that_brings_its_payment_method_confirms_itself() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let new = NewOrder {
        confirm_with: Some("pm_card_visa".to_owned()),
        ..an_order_of(customer, 3)
    };
    let id = submit(pool, &new).await;
    // Only the stock is looked after here.
    sqlx::query("insert into queue.pauses (target, name, reason, actor) values ('queue', 'payments', 'test', 'test')")
        .execute(pool)
        .await
        .expect("a pause");
    run(pool).await;
    let order = order(pool, id).await;
    assert_eq!(
        (order.status, order.payment_status),
        (Status::Reserved, PaymentStatus::Authorizing)
    );
}

#[tokio::test]
async fn a_reservation_that_ran_out_cannot_be_confirmed_and_its_stock_comes_back() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let id = submit(pool, &an_order_of(customer, 3)).await;
    run(pool).await;
    database.fast_forward(Duration::from_secs(3600)).await;
    assert!(matches!(confirm(pool, id).await, Err(intake::Error::Expired(_))));
    queue::enqueue(&mut pool.acquire().await.expect("a connection"), &ExpireReservations {})
        .await
        .expect("a job");
    run(pool).await;
    assert_eq!(order(pool, id).await.status, Status::Expired);
    assert_eq!(count(pool, KEPT).await, 0);
    let refused = confirm(pool, id).await;
    assert!(
        matches!(
            refused,
            Err(intake::Error::Conflict {
                status: Status::Expired
            })
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_order_that_cannot_be_expired_is_held_by_name_and_keeps_no_other_from_it() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let mut ids = Vec::new();
    for _ in 0..9 {
        ids.push(submit(pool, &an_order_of(customer, 1)).await);
    }
    run(pool).await;
    let stuck = ids[4];
    // Whatever it is that the database will not have of one row.
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "alter table orders add constraint never check (status <> 'expired' or id <> '{stuck}')"
    )))
    .execute(pool)
    .await
    .expect("a constraint");
    database.fast_forward(Duration::from_secs(86_400)).await;
    queue::enqueue(&mut pool.acquire().await.expect("a connection"), &ExpireReservations {})
        .await
        .expect("a job");
    run(pool).await;
    for id in &ids {
        let expected = if *id == stuck {
            Status::Reserved
        } else {
            Status::Expired
        };
        assert_eq!(order(pool, *id).await.status, expected);
    }
    for _ in 0..5 {
        database.fast_forward(Duration::from_secs(3600)).await;
        run(pool).await;
    }
    let held = order(pool, stuck).await;
    assert_eq!(held.status, Status::OnHold);
    assert_eq!(held.reason.expect("a reason")["code"], "expire_order_dead");
    let letters = count(
        pool,
        "select count(*) from queue.dead_letters where kind = 'expire_order'",
    )
    .await;
    assert_eq!(letters, 1);
    assert_eq!(count(pool, KEPT).await, 2, "its tea and its cup wait with it");
}

#[tokio::test]
async fn a_confirm_under_way_is_not_expired_and_a_confirmed_order_never_is() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let (open, confirmed) = (
        submit(pool, &an_order_of(customer, 1)).await,
        submit(pool, &an_order_of(customer, 1)).await,
    );
    run(pool).await;
    confirm(pool, confirmed).await.expect("a confirm");
    sqlx::query("delete from queue.jobs")
        .execute(pool)
        .await
        .expect("no authorization");
    // Past the first reservation, not past the extended one.
    database.fast_forward(Duration::from_secs(1800)).await;

    let mut tx = pool.begin().await.expect("a transaction");
    orders::store::lock(&mut tx, open).await.expect("a lock");
    queue::enqueue(&mut pool.acquire().await.expect("a connection"), &ExpireReservations {})
        .await
        .expect("a job");
    run(pool).await;
    assert_eq!(order(pool, open).await.status, Status::Reserved);
    drop(tx);
    queue::enqueue(&mut pool.acquire().await.expect("a connection"), &ExpireReservations {})
        .await
        .expect("a job");
    run(pool).await;
    assert_eq!(order(pool, open).await.status, Status::Expired);

    // However late it gets: the money is being asked for.
    database.fast_forward(Duration::from_secs(86_400)).await;
    queue::enqueue(&mut pool.acquire().await.expect("a connection"), &ExpireReservations {})
        .await
        .expect("a job");
    run(pool).await;
    assert_eq!(order(pool, confirmed).await.status, Status::Reserved);
}

#[tokio::test]
async fn a_pending_order_is_cancelled_at_once_and_its_job_then_has_nothing_to_do() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let id = submit(pool, &an_order_of(customer, 3)).await;
    assert_eq!(cancel(pool, id).await.expect("a cancel").status, Status::Cancelled);
    run(pool).await;
    assert_eq!(order(pool, id).await.status, Status::Cancelled);
    assert_eq!(count(pool, KEPT).await, 0);
}

#[tokio::test]
async fn a_reserved_order_that_is_cancelled_twice_gives_its_stock_back_once() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let id = submit(pool, &an_order_of(customer, 3)).await;
    run(pool).await;
    for _ in 0..2 {
        assert_eq!(cancel(pool, id).await.expect("a cancel").status, Status::Cancelling);
    }
    run(pool).await;
    assert_eq!(cancel(pool, id).await.expect("a third").status, Status::Cancelled);
    let again = ReleaseStock {
        order_id: id,
        cause: "cancel".to_owned(),
    };
    queue::enqueue(&mut pool.acquire().await.expect("a connection"), &again)
        .await
        .expect("a job");
    run(pool).await;
    assert_eq!(count(pool, KEPT).await, 0);
    assert_eq!(
        count(pool, "select count(*) from stock_movements where kind = 'released'").await,
        2
    );
    let order = order(pool, id).await;
    assert!(order.cancel_accepted_at.is_some());
    assert_eq!(order.reason.expect("a reason")["reason"], "changed my mind");
}

#[tokio::test]
async fn a_confirmed_order_is_cancelled_before_its_deadline_and_not_after() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let (early, late) = (
        submit(pool, &an_order_of(customer, 1)).await,
        submit(pool, &an_order_of(customer, 1)).await,
    );
    run(pool).await;
    let mut conn = pool.acquire().await.expect("a connection");
    authorized(&mut conn, early, Duration::from_secs(600)).await;
    let closed = authorized(&mut conn, late, Duration::ZERO).await;
    assert_eq!(cancel(pool, early).await.expect("a cancel").status, Status::Cancelling);
    let refused = cancel(pool, late).await;
    let Err(intake::Error::WindowClosed { deadline }) = refused else {
        panic!("the window is closed: {refused:?}")
    };
    assert_eq!(Some(deadline), closed.cancel_until);
}

#[tokio::test]
async fn stock_stays_with_an_order_that_still_stands() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let id = submit(pool, &an_order_of(customer, 3)).await;
    run(pool).await;
    let release = ReleaseStock {
        order_id: id,
        cause: "cancel".to_owned(),
    };
    queue::enqueue(&mut pool.acquire().await.expect("a connection"), &release)
        .await
        .expect("a job");
    assert_eq!(run(pool).await.discarded, 1);
    assert_eq!(count(pool, KEPT).await, 4);
}

#[tokio::test]
async fn a_cancelling_order_is_not_cancelled_while_money_is_held() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let id = submit(pool, &an_order_of(customer, 3)).await;
    run(pool).await;
    let mut conn = pool.acquire().await.expect("a connection");
    authorized(&mut conn, id, Duration::from_secs(600)).await;
    cancel(pool, id).await.expect("a cancel");
    sqlx::query("delete from queue.jobs")
        .execute(pool)
        .await
        .expect("no void");
    queue::enqueue(
        &mut conn,
        &ReleaseStock {
            order_id: id,
            cause: "cancel".to_owned(),
        },
    )
    .await
    .expect("a job");
    run(pool).await;
    let order = order(pool, id).await;
    assert_eq!(
        (order.status, order.payment_status),
        (Status::Cancelling, PaymentStatus::Authorized)
    );
}

#[tokio::test]
async fn a_shipment_waits_for_the_money_then_leaves_and_closes_its_order() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let id = submit(pool, &an_order_of(customer, 3)).await;
    run(pool).await;
    let mut conn = pool.acquire().await.expect("a connection");
    let mut order_now = authorized(&mut conn, id, Duration::ZERO).await;
    routes::store::create_shipments(&mut conn, &order_now, &by())
        .await
        .expect("a shipment");
    sqlx::query("update shipments set state = 'dispatched'")
        .execute(&mut *conn)
        .await
        .expect("a van");
    let shipment = routes::store::shipments_of_order(&mut conn, id)
        .await
        .expect("shipments")[0]
        .id;
    intake::ship(&mut conn, shipment, &by()).await.expect("a job");
    assert_eq!(run(pool).await.postponed, 1);

    let captured = Change {
        payment_status: Some(PaymentStatus::Captured),
        cause: "capture",
        ..Change::default()
    };
    let _ = orders::store::change(&mut conn, &mut order_now, captured, &by())
        .await
        .expect("a capture");
    database.fast_forward(Duration::from_secs(60)).await;
    run(pool).await;
    let order = order(pool, id).await;
    assert_eq!(
        (order.status, order.fulfilment_status.as_str()),
        (Status::Closed, "shipped")
    );
    assert_eq!(count(pool, "select sum(on_hand)::bigint from stock_levels").await, 196);
    assert_eq!(count(pool, KEPT).await, 0);

    // A second job for it changes nothing.
    intake::ship(&mut conn, shipment, &by()).await.expect("a job");
    run(pool).await;
    assert_eq!(count(pool, "select sum(on_hand)::bigint from stock_levels").await, 196);
}

#[tokio::test]
async fn a_dead_job_leaves_its_order_on_hold_and_a_redrive_takes_it_on() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let id = submit(pool, &an_order_of(customer, 3)).await;
    sqlx::query("update orders set confirm_with = 'nonsense'")
        .execute(pool)
        .await
        .expect("a broken order");
    sqlx::query("update queue.jobs set attempts_max = 1")
        .execute(pool)
        .await
        .expect("one attempt");
    assert_eq!(run(pool).await.buried, 1);
    let held = order(pool, id).await;
    assert_eq!((held.status, held.held_from), (Status::OnHold, Some(Status::Pending)));
    assert_eq!(held.reason.expect("a reason")["code"], "reserve_stock_dead");
    assert_eq!(count(pool, KEPT).await, 0);

    sqlx::query("update orders set confirm_with = null")
        .execute(pool)
        .await
        .expect("a repair");
    let mut tx = pool.begin().await.expect("a transaction");
    let dead: i64 = sqlx::query_scalar("select id from queue.dead_letters")
        .fetch_one(&mut *tx)
        .await
        .expect("a letter");
    queue::operate::redrive(&mut tx, queue::JobId(dead), "test", "repaired", None)
        .await
        .expect("a redrive");
    tx.commit().await.expect("a commit");
    run(pool).await;
    assert_eq!(order(pool, id).await.status, Status::Reserved);
}

#[tokio::test]
async fn a_cancel_that_waits_for_stock_wakes_nobody_twice() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    let id = submit(pool, &an_order_of(customer, 3)).await;
    run(pool).await;
    cancel(pool, id).await.expect("a cancel");
    cancel(pool, id).await.expect("a second");
    assert_eq!(enqueued(pool, "release_stock").await.expect("a look").len(), 1);
}

#[tokio::test]
async fn pruning_keeps_what_is_still_needed_and_twice_is_as_good_as_once() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    submit(pool, &an_order_of(customer, 1)).await;
    run(pool).await;
    submit(pool, &an_order_of(customer, 1)).await;
    sqlx::query("insert into idempotency_keys (principal, key, fingerprint, expires_at) values ('shop', 'k', '', now() + interval '1 day')")
        .execute(pool)
        .await
        .expect("a key");
    sqlx::query("update queue.jobs set run_at = run_at + interval '100 days'")
        .execute(pool)
        .await
        .expect("one that waits");
    sqlx::query(
        "insert into queue.unique_keys (kind, key, job_id, scope, expires_at)
         select 'remind', days::text, 0, 'window', now() + make_interval(days => days) from unnest('{1, 100}'::int[]) days",
    )
    .execute(pool)
    .await
    .expect("two keys for a time");
    database.fast_forward(Duration::from_secs(40 * 86_400)).await;
    for _ in 0..2 {
        let mut conn = pool.acquire().await.expect("a connection");
        queue::enqueue(&mut conn, &PruneIdempotencyKeys {})
            .await
            .expect("a job");
        queue::enqueue(&mut conn, &PruneUniqueKeys {}).await.expect("a job");
        queue::enqueue(&mut conn, &PruneFinishedJobs {}).await.expect("a job");
        drop(conn);
        assert_eq!(run(pool).await.completed, 3);
    }
    assert_eq!(count(pool, "select count(*) from idempotency_keys").await, 0);
    // The key of the job that ended is free; that of the one that waits is not, nor one whose time is not over.
    assert_eq!(count(pool, "select count(*) from queue.unique_keys").await, 2);
    assert_eq!(
        count(
            pool,
            "select count(*) from queue.unique_keys where kind = 'remind' and key = '100'"
        )
        .await,
        1
    );
    assert_eq!(
        count(pool, "select count(*) from queue.jobs where kind = 'reserve_stock'").await,
        1
    );
}

#[tokio::test]
async fn cleaning_up_goes_on_in_steps_until_nothing_is_left() {
    let database = Database::new().await;
    let pool = &database.pool;
    sqlx::query(
        "insert into idempotency_keys (principal, key, fingerprint, expires_at)
         select 'shop', n::text, '', now() - interval '1 day' from generate_series(1, 4500) n",
    )
    .execute(pool)
    .await
    .expect("more keys than one step takes");
    let job = queue::enqueue(
        &mut pool.acquire().await.expect("a connection"),
        &PruneIdempotencyKeys {},
    )
    .await
    .expect("a job");
    assert_eq!(run(pool).await.completed, 1);
    let view = queue::inspect::job(&mut pool.acquire().await.expect("a connection"), job.id)
        .await
        .expect("a look")
        .expect("the job");
    assert_eq!(view.result, Some(serde_json::json!({ "pruned": 4500 })));
}

#[tokio::test]
async fn the_history_is_kept_for_as_many_days_as_the_setting_says() {
    let database = Database::new().await;
    let pool = &database.pool;
    sqlx::raw_sql(
        "do $$ declare
             day date;
         begin
             foreach day in array (select array_agg((clock_timestamp() at time zone 'UTC')::date - age) from unnest('{20, 90, 92}'::int[]) age) loop
                 execute format('create table queue.finished_jobs_%s partition of queue.finished_jobs for values from (%L) to (%L)',
                                to_char(day, 'YYYYMMDD'), day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC');
             end loop;
         end $$",
    )
    .execute(pool)
    .await
    .expect("three old days");
    let days = "select count(*) from pg_class where relname ~ '^finished_jobs_[0-9]{8}$'
                    and to_date(right(relname, 8), 'YYYYMMDD') < (clock_timestamp() at time zone 'UTC')::date - 10";
    for (history_days, left) in [(91, 2), (30, 1)] {
        let mut services = Arc::into_inner(services()).expect("nobody else has it");
        services.settings.history_days = history_days;
        queue::enqueue(&mut pool.acquire().await.expect("a connection"), &PruneFinishedJobs {})
            .await
            .expect("a job");
        let ran = run_until_idle(pool, &jobs::catalogue(), &Arc::new(services))
            .await
            .expect("a run");
        assert_eq!(ran.completed, 1);
        assert_eq!(count(pool, days).await, left);
    }
}

#[tokio::test]
async fn orders_reserved_together_never_get_more_than_there_is() {
    let (database, customer) = a_shop().await;
    let pool = &database.pool;
    // A hundred units of tea: thirty orders of ten, and only ten of them can have theirs.
    for _ in 0..30 {
        submit(pool, &an_order_of(customer, 10)).await;
    }
    // One order vanishes: it must not hold up the others.
    sqlx::query("update queue.jobs set args = jsonb_set(args, '{order_id}', to_jsonb(gen_random_uuid())) where id = 3")
        .execute(pool)
        .await
        .expect("an update");
    let (catalogue, services) = (jobs::catalogue(), services());
    let one = Worker::register(pool, &catalogue, &services).await.expect("a worker");
    let two = Worker::register(pool, &catalogue, &services).await.expect("a worker");
    let first = one.claim("stock", 16).await.expect("a claim");
    let second = two.claim("stock", 16).await.expect("a claim");
    assert_eq!((first.len(), second.len()), (16, 14));
    let (first, second) = tokio::join!(one.run_batch(first), two.run_batch(second));
    let ends = [first, second].concat();
    assert_eq!(ends.iter().filter(|end| **end == Settled::Completed).count(), 29);
    assert_eq!(ends.iter().filter(|end| **end == Settled::Retried).count(), 1);
    one.leave().await.expect("a good end");
    two.leave().await.expect("a good end");

    let reserved = "select count(*) from orders where status = 'reserved'";
    let rejected = "select count(*) from orders where status = 'rejected'";
    assert_eq!((count(pool, reserved).await, count(pool, rejected).await), (10, 19));
    assert_eq!(count(pool, KEPT).await, 110);
    let batches = "select count(distinct xmin::text) from orders where status in ('reserved', 'rejected')";
    assert_eq!(count(pool, batches).await, 2, "one transaction a batch");
}
