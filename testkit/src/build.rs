//! Rows a test needs but is not about, with sensible values everywhere.
//!
//! Plain SQL, on purpose: these are what the stores are tested on, so they do not come from the stores. Ids come back
//! bare; wrap them (`CustomerId(a_customer(conn).await)`).

use sqlx::PgConnection;
use uuid::Uuid;

/// Oxford Street: customers live around it, and the warehouse is near enough for any van's shift.
const LONDON: (f64, f64) = (51.5154, -0.1410);

/// The warehouse a product lies in unless the test says another.
const MAIN: &str = "MAIN";

/// An active customer with an address.
pub async fn a_customer(conn: &mut PgConnection) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query("insert into customers (id, name, email, address, lat, lon) values ($1, 'Ada Buyer', $2, '1 Oxford Street', $3, $4)")
        .bind(id)
        .bind(format!("{}@example.test", id.simple()))
        .bind(LONDON.0)
        .bind(LONDON.1)
        .execute(conn)
        .await
        .expect("a customer");
    id
}

/// The warehouse of that code, made when it is not there yet.
pub async fn a_warehouse(conn: &mut PgConnection, code: &str) -> Uuid {
    sqlx::query_scalar(
        r"insert into warehouses (id, code, name, lat, lon) values ($1, $2, 'Warehouse ' || $2, $3, $4)
          on conflict (code) do update set name = excluded.name
          returning id",
    )
    .bind(Uuid::now_v7())
    .bind(code)
    .bind(LONDON.0 + 0.02)
    .bind(LONDON.1 - 0.02)
    .fetch_one(conn)
    .await
    .expect("a warehouse")
}

/// A product at 9.99 GBP with that many units in the main warehouse.
pub async fn a_product(conn: &mut PgConnection, sku: &str, on_hand: i64) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into products (id, sku, name, price_minor, currency) values ($1, $2, 'Product ' || $2, 999, 'GBP')",
    )
    .bind(id)
    .bind(sku)
    .execute(&mut *conn)
    .await
    .expect("a product");
    let warehouse = a_warehouse(conn, MAIN).await;
    some_stock(conn, id, warehouse, on_hand).await;
    id
}

/// Stock of a product in a warehouse, with the movement that brought it there.
pub async fn some_stock(conn: &mut PgConnection, product: Uuid, warehouse: Uuid, qty: i64) {
    sqlx::query(
        r"insert into stock_levels (product_id, warehouse_id, on_hand) values ($1, $2, $3)
          on conflict (product_id, warehouse_id) do update set on_hand = stock_levels.on_hand + excluded.on_hand",
    )
    .bind(product)
    .bind(warehouse)
    .bind(qty)
    .execute(&mut *conn)
    .await
    .expect("a stock level");
    if qty == 0 {
        return;
    }
    sqlx::query(
        r"insert into stock_movements (product_id, warehouse_id, kind, qty, d_on_hand, d_reserved, cause_key, actor)
          values ($1, $2, 'received', $3, $3, 0, $4, 'testkit')",
    )
    .bind(product)
    .bind(warehouse)
    .bind(qty)
    .bind(format!("receive:{}", Uuid::now_v7()))
    .execute(conn)
    .await
    .expect("a stock movement");
}

/// A pending order, as if just submitted: its lines, its first row of history, no job.
pub async fn an_order(conn: &mut PgConnection, customer: Uuid, lines: &[(Uuid, i64)]) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        r"insert into orders (id, customer_id, status, version, currency, total_minor, created_by)
          values ($1, $2, 'pending', 1, 'GBP', 0, 'testkit')",
    )
    .bind(id)
    .bind(customer)
    .execute(&mut *conn)
    .await
    .expect("an order");
    for ((product, qty), line_no) in lines.iter().zip(1..) {
        sqlx::query(
            r"insert into order_lines (id, order_id, line_no, product_id, sku, qty, unit_price_minor)
              select $1, $2, $3, p.id, p.sku, $5, p.price_minor from products p where p.id = $4",
        )
        .bind(Uuid::now_v7())
        .bind(id)
        .bind(line_no)
        .bind(product)
        .bind(qty)
        .execute(&mut *conn)
        .await
        .expect("an order line");
    }
    sqlx::query(
        r"update orders set total_minor =
              (select coalesce(sum(qty * unit_price_minor), 0)::bigint from order_lines where order_id = $1)
          where id = $1",
    )
    .bind(id)
    .execute(&mut *conn)
    .await
    .expect("the order's total");
    sqlx::query(
        r"insert into order_history (order_id, version, status, payment_status, fulfilment_status, cause, actor)
          values ($1, 1, 'pending', 'none', 'none', 'submit', 'testkit')",
    )
    .bind(id)
    .execute(conn)
    .await
    .expect("the order's history");
    id
}

/// A van of a warehouse: 1.5 tonnes, 8 cubic metres, eight to six.
pub async fn a_vehicle(conn: &mut PgConnection, warehouse: Uuid, name: &str) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        r"insert into vehicles (id, warehouse_id, name, capacity_grams, capacity_cm3, shift_start, shift_end)
          values ($1, $2, $3, 1500000, 8000000, 28800, 64800)",
    )
    .bind(id)
    .bind(warehouse)
    .bind(name)
    .execute(conn)
    .await
    .expect("a vehicle");
    id
}
