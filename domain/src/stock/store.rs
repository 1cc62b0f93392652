//! The SQL of levels, movements and reservations, and of the quantities on order lines, which are sums of reservations.
//!
//! Levels are locked by one ordered statement before any is written, so two transactions never wait for each other in
//! a circle. The checks on the table are the second net.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Error, GivenBack, Left, Level, Movement, QTY_MAX};
use crate::{
    Cause,
    ids::{CustomerId, OrderId, ProductId, ReservationId, WarehouseId},
    orders::allocation::{Free, Taken},
};

/// Locks every level of the products of these orders, in the order in which everybody does.
pub(crate) async fn lock_levels(conn: &mut PgConnection, orders: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "select from stock_levels l
         where l.product_id in (select o.product_id from order_lines o where o.order_id = any($1))
         order by l.product_id, l.warehouse_id
         for no key update of l",
        orders,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks every level of these products and returns what is free there, in the order of preference for this customer:
/// by the warehouses' priority, then by how near they are.
pub async fn lock_free(
    conn: &mut PgConnection,
    products: &[ProductId],
    customer: CustomerId,
) -> Result<Vec<Free>, sqlx::Error> {
    let products: Vec<Uuid> = products.iter().map(|id| id.0).collect();
    let mut places = sqlx::query!(
        r#"
        select l.product_id as "product_id: ProductId", l.warehouse_id as "warehouse_id: WarehouseId",
               l.on_hand - l.reserved as "free!", w.priority,
               -- Good enough to say which is nearer: degrees, with those of longitude shortened.
               coalesce((w.lat - c.lat) ^ 2 + ((w.lon - c.lon) * cos(radians(c.lat))) ^ 2, 0) as "distance!"
        from stock_levels l
        join warehouses w on w.id = l.warehouse_id
        join customers c on c.id = $2
        where l.product_id = any($1)
        order by l.product_id, l.warehouse_id
        for no key update of l
        "#,
        &products,
        customer.0,
    )
    .fetch_all(conn)
    .await?;
    places.sort_by(|one, other| {
        let by_distance = one.distance.total_cmp(&other.distance);
        one.priority
            .cmp(&other.priority)
            .then(by_distance)
            .then(one.warehouse_id.cmp(&other.warehouse_id))
    });
    Ok(places
        .into_iter()
        .map(|place| Free {
            product_id: place.product_id,
            warehouse_id: place.warehouse_id,
            qty: place.free,
        })
        .collect())
}

/// Holds what was allocated. The caller has the levels locked.
pub async fn take(conn: &mut PgConnection, taken: &[Taken], cause: &Cause) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = taken.iter().map(|_| ReservationId::new().0).collect();
    let lines: Vec<Uuid> = taken.iter().map(|one| one.line_id.0).collect();
    let products: Vec<Uuid> = taken.iter().map(|one| one.product_id.0).collect();
    let warehouses: Vec<Uuid> = taken.iter().map(|one| one.warehouse_id.0).collect();
    let quantities: Vec<i64> = taken.iter().map(|one| one.qty).collect();
    sqlx::query!(
        r#"
        with taken as materialized (
            select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[])
                as t (id, line_id, product_id, warehouse_id, qty)
        ), levels as (
            update stock_levels l
            set reserved = l.reserved + t.qty, version = l.version + 1, updated_at = clock_timestamp()
            from (select product_id, warehouse_id, sum(qty)::bigint as qty from taken group by 1, 2) t
            where l.product_id = t.product_id and l.warehouse_id = t.warehouse_id
        ), kept as (
            insert into reservations (id, order_line_id, product_id, warehouse_id, qty, state)
            select id, line_id, product_id, warehouse_id, qty, 'held' from taken
        ), moved as (
            insert into stock_movements (product_id, warehouse_id, kind, qty, d_on_hand, d_reserved, cause_key, actor, job_id, fence)
            select product_id, warehouse_id, 'reserved', qty, 0, qty, 'reserve:' || id, $6, $7, $8 from taken
        )
        update order_lines o
        set qty_reserved = o.qty_reserved + t.qty
        from (select line_id, sum(qty)::bigint as qty from taken group by 1) t
        where o.id = t.line_id
        "#,
        &ids,
        &lines,
        &products,
        &warehouses,
        &quantities,
        cause.actor,
        cause.job_id(),
        cause.fence(),
    )
    .execute(conn)
    .await
    .map(drop)
}

/// Turns an order's held reservations into committed ones. Levels do not change.
pub async fn commit(conn: &mut PgConnection, order: OrderId) -> Result<u64, sqlx::Error> {
    let committed = sqlx::query!(
        r#"
        update reservations r
        set state = 'committed', updated_at = clock_timestamp()
        from order_lines o
        where o.order_id = $1 and r.order_line_id = o.id and r.state = 'held'
        "#,
        order.0,
    )
    .execute(conn)
    .await?;
    Ok(committed.rows_affected())
}

/// Gives back what is still kept for these orders; what was given back or left before does not count. Returns how many
/// reservations there were. The caller has the orders locked.
pub async fn give_back(
    conn: &mut PgConnection,
    orders: &[OrderId],
    how: GivenBack,
    why: &str,
    cause: &Cause,
) -> Result<u64, sqlx::Error> {
    let orders: Vec<Uuid> = orders.iter().map(|id| id.0).collect();
    let locked = sqlx::query!(
        r#"
        select l.product_id
        from stock_levels l
        where (l.product_id, l.warehouse_id) in (
            select r.product_id, r.warehouse_id
            from order_lines o
            join reservations r on r.order_line_id = o.id and r.state in ('held', 'committed')
            where o.order_id = any($1)
        )
        order by l.product_id, l.warehouse_id
        for no key update
        "#,
        &orders,
    )
    .fetch_all(&mut *conn)
    .await?;
    if locked.is_empty() {
        return Ok(0);
    }
    let count = sqlx::query_scalar!(
        r#"
        with given_back as (
            update reservations r
            set state = $2, updated_at = clock_timestamp()
            from order_lines o
            where o.order_id = any($1) and r.order_line_id = o.id and r.state in ('held', 'committed')
            returning r.id, r.order_line_id, r.product_id, r.warehouse_id, r.qty
        ), moved as (
            insert into stock_movements (product_id, warehouse_id, kind, qty, d_on_hand, d_reserved, cause_key, reason, actor, job_id, fence)
            select product_id, warehouse_id, 'released', qty, 0, -qty, 'release:' || id, $3, $4, $5, $6 from given_back
        ), levels as (
            update stock_levels l
            set reserved = l.reserved - g.qty, version = l.version + 1, updated_at = clock_timestamp()
            from (select product_id, warehouse_id, sum(qty)::bigint as qty from given_back group by 1, 2) g
            where l.product_id = g.product_id and l.warehouse_id = g.warehouse_id
        ), lines as (
            update order_lines o
            set qty_reserved = o.qty_reserved - g.qty, qty_cancelled = o.qty_cancelled + g.qty
            from (select order_line_id, sum(qty)::bigint as qty from given_back group by 1) g
            where o.id = g.order_line_id
        )
        select count(*) as "count!" from given_back
        "#,
        &orders,
        how.as_str(),
        why,
        cause.actor,
        cause.job_id(),
        cause.fence(),
    )
    .fetch_one(conn)
    .await?;
    Ok(count.unsigned_abs())
}

/// Lets an order's committed reservations leave one warehouse. The caller has the order locked.
pub async fn ship(
    conn: &mut PgConnection,
    order: OrderId,
    warehouse: WarehouseId,
    cause: &Cause,
) -> Result<Left, sqlx::Error> {
    sqlx::query!(
        r#"
        select l.product_id
        from stock_levels l
        where l.warehouse_id = $2 and l.product_id in (
            select r.product_id
            from order_lines o
            join reservations r on r.order_line_id = o.id and r.warehouse_id = $2 and r.state = 'committed'
            where o.order_id = $1
        )
        order by l.product_id, l.warehouse_id
        for no key update
        "#,
        order.0,
        warehouse.0,
    )
    .fetch_all(&mut *conn)
    .await?;
    let left = sqlx::query!(
        r#"
        with shipped as (
            update reservations r
            set state = 'shipped', updated_at = clock_timestamp()
            from order_lines o
            where o.order_id = $1 and r.order_line_id = o.id and r.warehouse_id = $2 and r.state = 'committed'
            returning r.id, r.order_line_id, r.product_id, r.warehouse_id, r.qty
        ), moved as (
            insert into stock_movements (product_id, warehouse_id, kind, qty, d_on_hand, d_reserved, cause_key, actor, job_id, fence)
            select product_id, warehouse_id, 'shipped', qty, -qty, -qty, 'ship:' || id, $3, $4, $5 from shipped
        ), levels as (
            update stock_levels l
            set on_hand = l.on_hand - s.qty, reserved = l.reserved - s.qty, version = l.version + 1, updated_at = clock_timestamp()
            from (select product_id, warehouse_id, sum(qty)::bigint as qty from shipped group by 1, 2) s
            where l.product_id = s.product_id and l.warehouse_id = s.warehouse_id
        ), lines as (
            update order_lines o
            set qty_reserved = o.qty_reserved - s.qty, qty_shipped = o.qty_shipped + s.qty
            from (select order_line_id, sum(qty)::bigint as qty from shipped group by 1) s
            where o.id = s.order_line_id
        )
        select (select count(*) from shipped) as "shipped!",
               (select count(*) from order_lines o
                join reservations r on r.order_line_id = o.id and r.state in ('held', 'committed') and r.warehouse_id <> $2
                where o.order_id = $1) as "elsewhere!"
        "#,
        order.0,
        warehouse.0,
        cause.actor,
        cause.job_id(),
        cause.fence(),
    )
    .fetch_one(conn)
    .await?;
    Ok(Left {
        shipped: left.shipped.unsigned_abs(),
        elsewhere: left.elsewhere.unsigned_abs(),
    })
}

/// Counts a delivery in, once per reference; returns whether it was new.
pub async fn receive(
    conn: &mut PgConnection,
    product: ProductId,
    warehouse: WarehouseId,
    qty: i64,
    reference: &str,
    cause: &Cause,
) -> Result<bool, Error> {
    if !(1..=QTY_MAX).contains(&qty) {
        return Err(Error::Quantity);
    }
    let received = sqlx::query_scalar!(
        r#"
        with moved as (
            insert into stock_movements (product_id, warehouse_id, kind, qty, d_on_hand, d_reserved, cause_key, actor, job_id, fence)
            values ($1, $2, 'received', $3, $3, 0, 'receive:' || $4, $5, $6, $7)
            on conflict (cause_key) do nothing
            returning product_id, warehouse_id, qty
        )
        insert into stock_levels as l (product_id, warehouse_id, on_hand)
        select product_id, warehouse_id, qty from moved
        on conflict (product_id, warehouse_id) do update
        set on_hand = l.on_hand + excluded.on_hand, version = l.version + 1, updated_at = clock_timestamp()
        returning on_hand
        "#,
        product.0,
        warehouse.0,
        qty,
        reference,
        cause.actor,
        cause.job_id(),
        cause.fence(),
    )
    .fetch_optional(conn)
    .await
    .map_err(on_constraint)?;
    Ok(received.is_some())
}

/// Gives a product its first level in a warehouse, by a movement unless it starts with nothing.
pub async fn initialise(
    conn: &mut PgConnection,
    product: ProductId,
    warehouse: WarehouseId,
    qty: i64,
    cause: &Cause,
) -> Result<(), Error> {
    if !(0..=QTY_MAX).contains(&qty) {
        return Err(Error::Quantity);
    }
    let made = sqlx::query!(
        r#"
        with level as (
            insert into stock_levels (product_id, warehouse_id, on_hand) values ($1, $2, $3)
            on conflict do nothing
            returning product_id, warehouse_id, on_hand
        ), moved as (
            insert into stock_movements (product_id, warehouse_id, kind, qty, d_on_hand, d_reserved, cause_key, actor, job_id, fence)
            select product_id, warehouse_id, 'received', on_hand, on_hand, 0, 'initial:' || $1::uuid || ':' || $2::uuid, $4, $5, $6
            from level
            where on_hand > 0
        )
        select from level
        "#,
        product.0,
        warehouse.0,
        qty,
        cause.actor,
        cause.job_id(),
        cause.fence(),
    )
    .execute(conn)
    .await
    .map_err(on_constraint)?;
    if made.rows_affected() == 0 {
        Err(Error::AlreadyStocked)
    } else {
        Ok(())
    }
}

/// Corrects what lies there by so many, once per reference, if the level still has the version given.
/// Returns whether it was new.
#[expect(
    clippy::too_many_arguments,
    reason = "a correction needs all of them, and each has its own type or meaning"
)]
pub async fn adjust(
    conn: &mut PgConnection,
    product: ProductId,
    warehouse: WarehouseId,
    by: i64,
    version: Option<i32>,
    reference: &str,
    reason: &str,
    cause: &Cause,
) -> Result<bool, Error> {
    if by == 0 || by.unsigned_abs() > QTY_MAX.unsigned_abs() {
        return Err(Error::Quantity);
    }
    let current = sqlx::query_scalar!(
        "select version from stock_levels where product_id = $1 and warehouse_id = $2 for no key update",
        product.0,
        warehouse.0,
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(Error::NoLevel)?;
    let key = format!("adjust:{reference}");
    let is_known = sqlx::query_scalar!(
        r#"select exists (select from stock_movements where cause_key = $1) as "is_known!""#,
        key,
    )
    .fetch_one(&mut *conn)
    .await?;
    if is_known {
        return Ok(false);
    }
    if version.is_some_and(|version| version != current) {
        return Err(Error::VersionChanged { current });
    }
    sqlx::query!(
        r#"
        with level as (
            update stock_levels
            set on_hand = on_hand + $3, version = version + 1, updated_at = clock_timestamp()
            where product_id = $1 and warehouse_id = $2
        )
        insert into stock_movements (product_id, warehouse_id, kind, qty, d_on_hand, d_reserved, cause_key, reason, actor, job_id, fence)
        values ($1, $2, 'adjusted', $3, $3, 0, $4, $5, $6, $7, $8)
        "#,
        product.0,
        warehouse.0,
        by,
        key,
        reason,
        cause.actor,
        cause.job_id(),
        cause.fence(),
    )
    .execute(conn)
    .await
    .map_err(on_constraint)?;
    Ok(true)
}

fn on_constraint(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(|refused| refused.constraint()) {
        Some("stock_never_negative" | "stock_never_oversold") => Error::BelowReserved,
        Some("stock_levels_product_id_fkey") => Error::UnknownProduct,
        Some("stock_levels_warehouse_id_fkey") => Error::UnknownWarehouse,
        _ => Error::Database(error),
    }
}

/// What lies where of these products.
pub async fn levels(conn: &mut PgConnection, products: &[ProductId]) -> Result<Vec<Level>, sqlx::Error> {
    let products: Vec<Uuid> = products.iter().map(|id| id.0).collect();
    sqlx::query_as!(
        Level,
        r#"
        select l.product_id as "product_id: _", l.warehouse_id as "warehouse_id: _", w.code as warehouse, l.on_hand, l.reserved,
               l.version, l.updated_at
        from stock_levels l
        join warehouses w on w.id = l.warehouse_id
        where l.product_id = any($1)
        order by l.product_id, w.priority, w.code
        "#,
        &products,
    )
    .fetch_all(conn)
    .await
}

/// A page of a product's movements, newest first, before the one given.
pub async fn movements(
    conn: &mut PgConnection,
    product: ProductId,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Movement>, sqlx::Error> {
    sqlx::query_as!(
        Movement,
        r#"
        select id, product_id as "product_id: _", warehouse_id as "warehouse_id: _", kind, qty, d_on_hand, d_reserved, cause_key,
               reason, actor, at
        from stock_movements
        where product_id = $1 and ($2::bigint is null or id < $2)
        order by id desc
        limit $3
        "#,
        product.0,
        before,
        limit,
    )
    .fetch_all(conn)
    .await
}
