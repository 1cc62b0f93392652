//! Stock: a level is the sum of its movements, whatever happens in whatever order.

use std::time::Duration;

use domain::{
    Cause,
    ids::{OrderId, ProductId, WarehouseId},
    orders::{self, Change, PaymentStatus, Status},
    stock::{Error, store},
};
use proptest::prelude::*;
use sqlx::PgConnection;
use testkit::{Database, a_customer, a_product, a_warehouse, an_order, build::some_stock};

fn by() -> Cause {
    Cause::actor("test")
}

#[tokio::test]
async fn a_delivery_is_counted_in_once_per_reference() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let product = ProductId(a_product(&mut conn, "TEA", 0).await);
    let warehouse = WarehouseId(a_warehouse(&mut conn, "NEW").await);
    for is_new in [true, false] {
        let received = store::receive(&mut conn, product, warehouse, 5, "DN-1", &by())
            .await
            .expect("a delivery");
        assert_eq!(received, is_new);
    }
    assert!(
        store::receive(&mut conn, product, warehouse, 2, "DN-2", &by())
            .await
            .expect("a delivery")
    );
    let levels = store::levels(&mut conn, &[product]).await.expect("levels");
    let new = levels
        .iter()
        .find(|level| level.warehouse_id == warehouse)
        .expect("a level");
    assert_eq!((new.on_hand, new.reserved, new.available()), (7, 0, 7));
    assert_eq!(
        store::movements(&mut conn, product, None, 10)
            .await
            .expect("movements")
            .len(),
        2
    );
}

#[tokio::test]
async fn a_level_is_initialised_once() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let product = ProductId(a_product(&mut conn, "TEA", 0).await);
    let warehouse = WarehouseId(a_warehouse(&mut conn, "NEW").await);
    store::initialise(&mut conn, product, warehouse, 9, &by())
        .await
        .expect("a level");
    let again = store::initialise(&mut conn, product, warehouse, 9, &by()).await;
    assert!(matches!(again, Err(Error::AlreadyStocked)));
    let unknown = store::initialise(&mut conn, ProductId::new(), warehouse, 9, &by()).await;
    assert!(matches!(unknown, Err(Error::UnknownProduct)), "{unknown:?}");
}

#[tokio::test]
async fn a_correction_happens_once_and_never_below_what_is_kept_for_orders() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let product = a_product(&mut conn, "TEA", 5).await;
    let warehouse = WarehouseId(a_warehouse(&mut conn, "MAIN").await);
    let customer = a_customer(&mut conn).await;
    let order = OrderId(an_order(&mut conn, customer, &[(product, 3)]).await);
    let _ = orders::store::reserve(&mut conn, order, Duration::from_secs(60), &by())
        .await
        .expect("a decision");

    let product = ProductId(product);
    for is_new in [true, false] {
        let adjusted = store::adjust(&mut conn, product, warehouse, -2, None, "count-1", "broken", &by()).await;
        assert_eq!(adjusted.expect("a correction"), is_new);
    }
    let below = store::adjust(&mut conn, product, warehouse, -1, None, "count-2", "lost", &by()).await;
    assert!(matches!(below, Err(Error::BelowReserved)), "{below:?}");
    let stale = store::adjust(&mut conn, product, warehouse, 1, Some(1), "count-3", "found", &by()).await;
    assert!(
        matches!(stale, Err(Error::VersionChanged { current }) if current > 1),
        "{stale:?}"
    );
}

#[derive(Debug, Clone)]
enum Step {
    Receive { product: usize, warehouse: usize, qty: i64 },
    Adjust { product: usize, warehouse: usize, by: i64 },
    Order { lines: Vec<i64> },
    Release { order: usize },
    Pay { order: usize },
    Ship { order: usize, warehouse: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..2usize, 0..2usize, 1..20i64).prop_map(|(product, warehouse, qty)| Step::Receive {
            product,
            warehouse,
            qty
        }),
        (0..2usize, 0..2usize, -5..5i64).prop_map(|(product, warehouse, by)| Step::Adjust { product, warehouse, by }),
        proptest::collection::vec(1..9i64, 1..3).prop_map(|lines| Step::Order { lines }),
        (0..8usize).prop_map(|order| Step::Release { order }),
        (0..8usize).prop_map(|order| Step::Pay { order }),
        (0..8usize, 0..2usize).prop_map(|(order, warehouse)| Step::Ship { order, warehouse }),
    ]
}

struct World {
    conn: PgConnection,
    products: Vec<uuid::Uuid>,
    warehouses: Vec<uuid::Uuid>,
    customer: uuid::Uuid,
    orders: Vec<OrderId>,
    references: usize,
}

impl World {
    async fn new(mut conn: PgConnection) -> World {
        let warehouses = vec![
            a_warehouse(&mut conn, "MAIN").await,
            a_warehouse(&mut conn, "FAR").await,
        ];
        let mut products = Vec::new();
        for _ in 0..2 {
            let sku = uuid::Uuid::now_v7().to_string();
            let product = a_product(&mut conn, &sku, 5).await;
            some_stock(&mut conn, product, warehouses[1], 5).await;
            products.push(product);
        }
        let customer = a_customer(&mut conn).await;
        World {
            conn,
            products,
            warehouses,
            customer,
            orders: Vec::new(),
            references: 0,
        }
    }

    /// Refusals by the rules are part of the game; errors of the database are not.
    async fn take(&mut self, step: &Step) {
        self.references += 1;
        let reference = format!("{}-{}", self.products[0], self.references);
        match step {
            Step::Receive {
                product,
                warehouse,
                qty,
            } => {
                let (product, warehouse) = (
                    ProductId(self.products[*product]),
                    WarehouseId(self.warehouses[*warehouse]),
                );
                store::receive(&mut self.conn, product, warehouse, *qty, &reference, &by())
                    .await
                    .expect("a delivery");
            }
            Step::Adjust {
                product,
                warehouse,
                by: how_many,
            } => {
                let (product, warehouse) = (
                    ProductId(self.products[*product]),
                    WarehouseId(self.warehouses[*warehouse]),
                );
                let adjusted = store::adjust(
                    &mut self.conn,
                    product,
                    warehouse,
                    *how_many,
                    None,
                    &reference,
                    "count",
                    &by(),
                )
                .await;
                assert!(!matches!(adjusted, Err(Error::Database(_))), "{adjusted:?}");
            }
            Step::Order { lines } => {
                let lines: Vec<_> = lines
                    .iter()
                    .zip(&self.products)
                    .map(|(qty, product)| (*product, *qty))
                    .collect();
                let order = OrderId(an_order(&mut self.conn, self.customer, &lines).await);
                let _ = orders::store::reserve(&mut self.conn, order, Duration::from_secs(60), &by())
                    .await
                    .expect("a decision");
                self.orders.push(order);
            }
            Step::Release { order } => {
                let Some(mut order) = self.order(*order).await else {
                    return;
                };
                if !matches!(order.status, Status::Closed | Status::Confirmed) {
                    orders::store::release(&mut self.conn, &mut order, "test", &by())
                        .await
                        .expect("a release");
                }
            }
            Step::Pay { order } => {
                let Some(mut order) = self.order(*order).await else {
                    return;
                };
                if order.status != Status::Reserved || order.payment_status != PaymentStatus::None {
                    return;
                }
                for (payment, status) in [
                    (PaymentStatus::Authorizing, None),
                    (PaymentStatus::Authorized, Some(Status::Confirmed)),
                    (PaymentStatus::Captured, None),
                ] {
                    let window = status.map(|_| Duration::ZERO);
                    let change = Change {
                        status,
                        payment_status: Some(payment),
                        confirmed_with_window: window,
                        cause: "test",
                        ..Change::default()
                    };
                    let _ = orders::store::change(&mut self.conn, &mut order, change, &by())
                        .await
                        .expect("a legal step");
                }
                orders::store::commit_reservations(&mut self.conn, order.id, &by())
                    .await
                    .expect("a commit");
            }
            Step::Ship { order, warehouse } => {
                let Some(mut order) = self.order(*order).await else {
                    return;
                };
                if order.payment_status == PaymentStatus::Captured && order.status == Status::Confirmed {
                    let warehouse = WarehouseId(self.warehouses[*warehouse]);
                    let _ = orders::store::ship(&mut self.conn, &mut order, warehouse, &by())
                        .await
                        .expect("a shipment");
                }
            }
        }
    }

    async fn order(&mut self, n: usize) -> Option<orders::Order> {
        let id = *self.orders.get(n)?;
        orders::store::get(&mut self.conn, id).await.expect("a query")
    }

    /// S2, S3, S4 and O1 of the invariants: how many rows break them.
    async fn violations(&mut self) -> (i64, i64, i64, i64) {
        sqlx::query_as(
            r"
            select
                (select count(*) from stock_levels l
                 full join (select product_id, warehouse_id, sum(d_on_hand) as h, sum(d_reserved) as r
                            from stock_movements group by 1, 2) m using (product_id, warehouse_id)
                 where coalesce(l.on_hand, 0) <> coalesce(m.h, 0) or coalesce(l.reserved, 0) <> coalesce(m.r, 0)),
                (select count(*) from (
                    select from stock_levels l
                    left join reservations r on r.product_id = l.product_id and r.warehouse_id = l.warehouse_id
                                            and r.state in ('held', 'committed')
                    group by l.product_id, l.warehouse_id, l.reserved
                    having l.reserved <> coalesce(sum(r.qty), 0)) x),
                (select count(*) from (
                    select product_id, coalesce(sum(qty) filter (where kind in ('received', 'returned', 'adjusted')), 0) as i,
                           coalesce(sum(qty) filter (where kind = 'shipped'), 0) as o
                    from stock_movements group by 1) m
                 join (select product_id, sum(on_hand) as oh from stock_levels group by 1) l using (product_id)
                 where m.i <> l.oh + m.o),
                (select count(*) from (
                    select from order_lines ol left join reservations r on r.order_line_id = ol.id
                    group by ol.id, ol.qty_reserved, ol.qty_shipped, ol.qty_cancelled
                    having ol.qty_reserved <> coalesce(sum(r.qty) filter (where r.state in ('held', 'committed')), 0)
                        or ol.qty_shipped <> coalesce(sum(r.qty) filter (where r.state = 'shipped'), 0)
                        or ol.qty_cancelled <> coalesce(sum(r.qty) filter (where r.state in ('released', 'expired')), 0)) x)
            ",
        )
        .fetch_one(&mut self.conn)
        .await
        .expect("a check")
    }
}

#[test]
fn levels_are_the_sum_of_their_movements_whatever_happens() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let database = runtime.block_on(Database::new());
    let config = ProptestConfig {
        cases: 24,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in proptest::collection::vec(step(), 1..25))| {
        let violations = runtime.block_on(async {
            let mut world = World::new(database.connect().await).await;
            for step in &steps {
                world.take(step).await;
            }
            world.violations().await
        });
        prop_assert_eq!(violations, (0, 0, 0, 0));
    });
}
