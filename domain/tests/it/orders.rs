//! Orders on a real database: submitted, reserved, released, shipped, listed, and their history.

use std::time::Duration;

use domain::{
    Cause,
    ids::{CustomerId, OrderId, WarehouseId},
    money::Cents,
    orders::{
        Change, Error, FulfilmentStatus, NewLine, NewOrder, Order, PaymentStatus, Status,
        store::{self, Filter, Reservation},
    },
};
use sqlx::{Connection, PgConnection};
use testkit::{Database, a_customer, a_product, a_warehouse, an_order, build::some_stock};

const TTL: Duration = Duration::from_secs(900);

fn by() -> Cause {
    Cause::actor("test")
}

fn new_order(customer: uuid::Uuid, lines: &[(&str, i64)]) -> NewOrder {
    let lines = lines
        .iter()
        .map(|(sku, qty)| NewLine {
            sku: (*sku).to_owned(),
            qty: *qty,
        })
        .collect();
    NewOrder {
        customer_id: CustomerId(customer),
        reference: None,
        lines,
        confirm_with: None,
    }
}

async fn submitted(conn: &mut PgConnection, lines: &[(&str, i64)]) -> Order {
    let customer = a_customer(&mut *conn).await;
    store::submit(conn, &new_order(customer, lines), &by())
        .await
        .expect("an order")
        .0
}

async fn reserved(conn: &mut PgConnection, lines: &[(&str, i64)]) -> Order {
    let order = submitted(&mut *conn, lines).await;
    let (how, _) = store::reserve(&mut *conn, order.id, TTL, &by())
        .await
        .expect("a decision");
    assert_eq!(how, Reservation::Reserved);
    store::get(conn, order.id).await.expect("a query").expect("the order")
}

/// Takes an order through its payment by hand, as the payment jobs do.
async fn captured(conn: &mut PgConnection, lines: &[(&str, i64)]) -> Order {
    let mut order = reserved(&mut *conn, lines).await;
    let steps = [
        Change {
            payment_status: Some(PaymentStatus::Authorizing),
            cause: "confirm",
            ..Change::default()
        },
        Change {
            status: Some(Status::Confirmed),
            payment_status: Some(PaymentStatus::Authorized),
            confirmed_with_window: Some(Duration::from_secs(600)),
            cause: "authorize",
            event: Some("order.confirmed"),
            ..Change::default()
        },
        Change {
            payment_status: Some(PaymentStatus::Captured),
            cause: "capture",
            ..Change::default()
        },
    ];
    for step in steps {
        let _ = store::change(&mut *conn, &mut order, step, &by())
            .await
            .expect("a legal step");
    }
    store::commit_reservations(conn, order.id, &by())
        .await
        .expect("a commit");
    order
}

async fn level(conn: &mut PgConnection, sku: &str) -> (i64, i64) {
    sqlx::query_as(
        "select sum(on_hand)::bigint, sum(reserved)::bigint from stock_levels l join products p on p.id = l.product_id where sku = $1",
    )
    .bind(sku)
    .fetch_one(conn)
    .await
    .expect("a level")
}

#[tokio::test]
async fn an_order_keeps_the_prices_it_was_made_at() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    a_product(&mut conn, "TEA", 10).await;
    let order = submitted(&mut conn, &[("TEA", 3)]).await;
    assert_eq!(order.total, Cents(3 * 999));

    sqlx::query("update products set price_minor = 5")
        .execute(&mut conn)
        .await
        .expect("a new price");
    let detail = store::detail(&mut conn, order.id)
        .await
        .expect("a query")
        .expect("the order");
    assert_eq!(detail.order.total, Cents(2997));
    assert_eq!(detail.lines[0].unit_price, Cents(999));
    assert_eq!(detail.history.len(), 1);
    assert_eq!(detail.history[0].actor, "test");
}

#[tokio::test]
async fn a_deleted_customer_and_an_unknown_sku_are_both_named_and_nothing_is_written() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let customer = a_customer(&mut conn).await;
    sqlx::query("update customers set deleted_at = now()")
        .execute(&mut conn)
        .await
        .expect("a deletion");
    let mut order = new_order(customer, &[("NONE", 1)]);
    order.confirm_with = Some("4242424242424242".to_owned());
    let Err(Error::Invalid(problems)) = store::submit(&mut conn, &order, &by()).await else {
        panic!("it is invalid")
    };
    let codes: Vec<_> = problems
        .iter()
        .map(|problem| (problem.pointer.as_str(), problem.code))
        .collect();
    assert_eq!(
        codes,
        [
            ("/customer_id", "customer_inactive"),
            ("/confirm_with", "payment_method_invalid"),
            ("/lines/0/sku", "unknown_sku")
        ]
    );
    let count: i64 = sqlx::query_scalar("select count(*) from orders")
        .fetch_one(&mut conn)
        .await
        .expect("a count");
    assert_eq!(count, 0);
}

#[tokio::test]
async fn a_clients_reference_names_one_order() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    a_product(&mut conn, "TEA", 10).await;
    let customer = a_customer(&mut conn).await;
    let order = NewOrder {
        reference: Some("INV-1".to_owned()),
        ..new_order(customer, &[("TEA", 1)])
    };
    let _ = store::submit(&mut conn, &order, &by()).await.expect("the first");
    assert!(matches!(
        store::submit(&mut conn, &order, &by()).await,
        Err(Error::ReferenceTaken)
    ));
}

#[tokio::test]
async fn reserving_holds_every_line_and_doing_it_again_changes_nothing() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    a_product(&mut conn, "TEA", 10).await;
    a_product(&mut conn, "CUP", 4).await;
    let order = reserved(&mut conn, &[("TEA", 3), ("CUP", 4)]).await;
    assert_eq!(order.status, Status::Reserved);
    assert!(order.expires_at.is_some());
    assert_eq!(level(&mut conn, "TEA").await, (10, 3));
    assert_eq!(level(&mut conn, "CUP").await, (4, 4));

    let (again, _) = store::reserve(&mut conn, order.id, TTL, &by())
        .await
        .expect("a decision");
    assert_eq!(again, Reservation::NotPending(Status::Reserved));
    assert_eq!(level(&mut conn, "TEA").await, (10, 3));
}

#[tokio::test]
async fn a_short_line_rejects_the_whole_order_and_says_what_there_was() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    a_product(&mut conn, "TEA", 10).await;
    a_product(&mut conn, "CUP", 4).await;
    let order = submitted(&mut conn, &[("TEA", 3), ("CUP", 5)]).await;
    let (how, _) = store::reserve(&mut conn, order.id, TTL, &by())
        .await
        .expect("a decision");
    assert!(matches!(how, Reservation::Rejected(_)));
    let order = store::get(&mut conn, order.id)
        .await
        .expect("a query")
        .expect("the order");
    assert_eq!(order.status, Status::Rejected);
    let expected = serde_json::json!({
        "code": "insufficient_stock",
        "lines": [{"sku": "CUP", "wanted": 5, "available": 4}]
    });
    assert_eq!(order.reason, Some(expected));
    assert_eq!(level(&mut conn, "TEA").await, (10, 0));
}

#[tokio::test]
async fn stock_that_is_released_twice_comes_back_once() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    a_product(&mut conn, "TEA", 10).await;
    let mut order = reserved(&mut conn, &[("TEA", 3)]).await;
    assert_eq!(
        store::release(&mut conn, &mut order, "cancel", &by())
            .await
            .expect("a release"),
        1
    );
    assert_eq!(
        store::release(&mut conn, &mut order, "cancel", &by())
            .await
            .expect("a release"),
        0
    );
    assert_eq!(level(&mut conn, "TEA").await, (10, 0));

    // Even if the rows were tampered with, the movement refuses.
    sqlx::query("update reservations set state = 'held'")
        .execute(&mut conn)
        .await
        .expect("a tampering");
    sqlx::query("update order_lines set qty_reserved = 3, qty_cancelled = 0")
        .execute(&mut conn)
        .await
        .expect("a tampering");
    sqlx::query("update stock_levels set reserved = 3")
        .execute(&mut conn)
        .await
        .expect("a tampering");
    let refused = store::release(&mut conn, &mut order, "cancel", &by())
        .await
        .expect_err("it happens once");
    assert!(refused.to_string().contains("movements_happen_once"), "{refused}");
}

#[tokio::test]
async fn a_line_is_split_over_warehouses_ships_from_each_and_the_last_closes_the_order() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let product = a_product(&mut conn, "TEA", 4).await;
    let far = a_warehouse(&mut conn, "FAR").await;
    some_stock(&mut conn, product, far, 3).await;
    let near = a_warehouse(&mut conn, "MAIN").await;
    let mut order = captured(&mut conn, &[("TEA", 6)]).await;

    let (left, _) = store::ship(&mut conn, &mut order, WarehouseId(near), &by())
        .await
        .expect("a shipment");
    assert_eq!(
        (left, order.status, order.fulfilment_status),
        (1, Status::Confirmed, FulfilmentStatus::Partial)
    );
    let (again, _) = store::ship(&mut conn, &mut order, WarehouseId(near), &by())
        .await
        .expect("a second try");
    assert_eq!(again, 0);
    let (left, _) = store::ship(&mut conn, &mut order, WarehouseId(far), &by())
        .await
        .expect("a shipment");
    assert_eq!(
        (left, order.status, order.fulfilment_status),
        (1, Status::Closed, FulfilmentStatus::Shipped)
    );
    assert_eq!(level(&mut conn, "TEA").await, (1, 0));

    let detail = store::detail(&mut conn, order.id)
        .await
        .expect("a query")
        .expect("the order");
    assert_eq!(detail.lines[0].qty_shipped, 6);
    assert_eq!(detail.lines[0].reservations.len(), 2);
    let versions: Vec<i32> = detail.history.iter().map(|step| step.version).collect();
    assert_eq!(versions, (1..=detail.order.version).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_order_on_hold_remembers_where_it_was_and_goes_back_there() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    a_product(&mut conn, "TEA", 4).await;
    let mut order = reserved(&mut conn, &[("TEA", 1)]).await;
    let detail = serde_json::json!({"job_id": 7});
    let _ = store::hold(&mut conn, &mut order, "reserve_stock_dead", detail, &by())
        .await
        .expect("a hold");
    let stored = store::get(&mut conn, order.id)
        .await
        .expect("a query")
        .expect("the order");
    assert_eq!(
        (stored.status, stored.held_from),
        (Status::OnHold, Some(Status::Reserved))
    );
    assert_eq!(
        stored.reason,
        Some(serde_json::json!({"job_id": 7, "code": "reserve_stock_dead"}))
    );

    let version = order.version;
    let _ = store::hold(&mut conn, &mut order, "other", serde_json::Value::Null, &by())
        .await
        .expect("no second hold");
    assert_eq!(order.version, version);
    let _ = store::resume(&mut conn, &mut order, &by()).await.expect("a resume");
    let stored = store::get(&mut conn, order.id)
        .await
        .expect("a query")
        .expect("the order");
    assert_eq!(
        (stored.status, stored.held_from, stored.reason),
        (Status::Reserved, None, None)
    );
    assert!(stored.expires_at.is_some());
}

#[tokio::test]
async fn an_illegal_step_and_a_stale_one_write_nothing() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    a_product(&mut conn, "TEA", 4).await;
    let mut order = submitted(&mut conn, &[("TEA", 1)]).await;
    let closing = Change {
        status: Some(Status::Closed),
        cause: "test",
        ..Change::default()
    };
    assert!(matches!(
        store::change(&mut conn, &mut order, closing, &by()).await,
        Err(Error::Illegal(_))
    ));

    let mut stale = order.clone();
    let cancelling = || Change {
        status: Some(Status::Cancelled),
        cause: "test",
        ..Change::default()
    };
    let _ = store::change(&mut conn, &mut order, cancelling(), &by())
        .await
        .expect("a legal step");
    assert!(matches!(
        store::change(&mut conn, &mut stale, cancelling(), &by()).await,
        Err(Error::NotFound)
    ));
    let history: i64 = sqlx::query_scalar("select count(*) from order_history")
        .fetch_one(&mut conn)
        .await
        .expect("a count");
    assert_eq!(history, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_200_buyers_of_one_unit_one_gets_it_and_nobody_waits_in_a_circle() {
    const BUYERS: usize = 200;
    const AT_ONCE: usize = 20;
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let product = a_product(&mut conn, "LAST", 1).await;
    let customer = a_customer(&mut conn).await;
    let mut orders = Vec::new();
    for _ in 0..BUYERS {
        orders.push(OrderId(an_order(&mut conn, customer, &[(product, 1)]).await));
    }

    let mut buyers = Vec::new();
    for share in orders.chunks(BUYERS / AT_ONCE) {
        let (mut conn, share) = (database.connect().await, share.to_vec());
        buyers.push(tokio::spawn(async move {
            let mut reserved = 0;
            for order in share {
                let mut tx = conn.begin().await.expect("a transaction");
                let (how, _) = store::reserve(&mut tx, order, TTL, &by())
                    .await
                    .expect("a decision, no deadlock");
                tx.commit().await.expect("a commit");
                reserved += usize::from(how == Reservation::Reserved);
            }
            reserved
        }));
    }
    let mut reserved = 0;
    for buyer in buyers {
        reserved += buyer.await.expect("no panic");
    }
    assert_eq!(reserved, 1);
    let filter = Filter {
        status: Some(Status::Rejected),
        ..Filter::default()
    };
    let rejected = store::list(&mut conn, &filter, None, 1_000).await.expect("a list");
    assert_eq!(rejected.len(), BUYERS - 1);
    assert_eq!(level(&mut conn, "LAST").await, (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_with_their_lines_in_opposite_order_never_deadlock() {
    const ROUNDS: usize = 40;
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let one = a_product(&mut conn, "ONE", 1_000).await;
    let other = a_product(&mut conn, "OTHER", 1_000).await;
    let customer = a_customer(&mut conn).await;

    let mut sides = Vec::new();
    for lines in [[(one, 1), (other, 1)], [(other, 1), (one, 1)]] {
        let mut conn = database.connect().await;
        sides.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let id = OrderId(an_order(&mut conn, customer, &lines).await);
                let mut tx = conn.begin().await.expect("a transaction");
                let _ = store::reserve(&mut tx, id, TTL, &by()).await.expect("no deadlock");
                tx.commit().await.expect("a commit");
                let mut tx = conn.begin().await.expect("a transaction");
                let mut order = store::lock(&mut tx, id).await.expect("a lock").expect("the order");
                store::release(&mut tx, &mut order, "test", &by())
                    .await
                    .expect("no deadlock");
                tx.commit().await.expect("a commit");
            }
        }));
    }
    for side in sides {
        side.await.expect("no panic");
    }
    assert_eq!(level(&mut conn, "ONE").await, (1_000, 0));
    assert_eq!(level(&mut conn, "OTHER").await, (1_000, 0));
}

#[tokio::test]
async fn an_order_of_a_thousand_lines_is_reserved_and_released() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let skus: Vec<String> = (0..1_000).map(|n| format!("SKU-{n}")).collect();
    let mut tx = conn.begin().await.expect("a transaction");
    for sku in &skus {
        a_product(&mut tx, sku, 5).await;
    }
    let lines: Vec<(&str, i64)> = skus.iter().map(|sku| (sku.as_str(), 2)).collect();
    let mut order = reserved(&mut tx, &lines).await;
    assert_eq!(
        store::release(&mut tx, &mut order, "test", &by())
            .await
            .expect("a release"),
        1_000
    );

    let too_many: Vec<(&str, i64)> = skus.iter().map(|sku| (sku.as_str(), 6)).collect();
    let order = submitted(&mut tx, &too_many).await;
    let (how, _) = store::reserve(&mut tx, order.id, TTL, &by())
        .await
        .expect("a thousand shortages fit");
    assert!(matches!(how, Reservation::Rejected(short) if short.len() == 1_000));
    tx.commit().await.expect("a commit");
}

#[tokio::test]
async fn pages_of_orders_neither_skip_nor_repeat_while_orders_come_in() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    a_product(&mut conn, "TEA", 4).await;
    let mut expected = Vec::new();
    for _ in 0..7 {
        expected.push(submitted(&mut conn, &[("TEA", 1)]).await.id);
    }
    expected.reverse();
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = store::list(&mut conn, &Filter::default(), before, 3)
            .await
            .expect("a page");
        let Some(last) = page.last() else { break };
        before = Some((last.created_at, last.id));
        seen.extend(page.iter().map(|order| order.id));
        submitted(&mut conn, &[("TEA", 1)]).await;
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_list_keeps_to_its_filters() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    a_product(&mut conn, "TEA", 4).await;
    let one = submitted(&mut conn, &[("TEA", 1)]).await;
    let other = submitted(&mut conn, &[("TEA", 1)]).await;
    let ids = async |conn: &mut PgConnection, filter: Filter| -> Vec<OrderId> {
        store::list(conn, &filter, None, 10)
            .await
            .expect("a page")
            .iter()
            .map(|order| order.id)
            .collect()
    };
    let of_customer = Filter {
        customer_id: Some(one.customer_id),
        ..Filter::default()
    };
    assert_eq!(ids(&mut conn, of_customer).await, [one.id]);
    // `from` is inclusive, `to` is not.
    let from = Filter {
        from: Some(other.created_at),
        ..Filter::default()
    };
    assert_eq!(ids(&mut conn, from).await, [other.id]);
    let to = Filter {
        to: Some(other.created_at),
        ..Filter::default()
    };
    assert_eq!(ids(&mut conn, to).await, [one.id]);
    let none = Filter {
        status: Some(Status::Closed),
        ..Filter::default()
    };
    assert_eq!(ids(&mut conn, none).await, []);
}
