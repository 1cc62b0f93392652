//! S1–S4: stock is neither lost nor invented.

use sqlx::PgConnection;

use super::Check;

pub(super) async fn check(conn: &mut PgConnection) -> sqlx::Result<Vec<Check>> {
    Ok(vec![
        bounds(conn).await?,
        folds(conn).await?,
        reservations(conn).await?,
        conservation(conn).await?,
    ])
}

async fn bounds(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        select format('product %s in warehouse %s: on_hand %s, reserved %s', product_id, warehouse_id, on_hand, reserved) as "it!"
        from stock_levels
        where on_hand < 0 or reserved < 0 or reserved > on_hand
        "#
    )
    .fetch_all(conn)
    .await?;
    Ok(Check::new("S1", "every level has 0 <= reserved <= on_hand", offenders))
}

async fn folds(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        with folded as (
            select product_id, warehouse_id, sum(d_on_hand) as on_hand, sum(d_reserved) as reserved
            from stock_movements
            group by product_id, warehouse_id
        )
        select format('product %s in warehouse %s: level %s/%s, movements %s/%s', product_id, warehouse_id,
                      coalesce(l.on_hand, 0), coalesce(l.reserved, 0), coalesce(f.on_hand, 0), coalesce(f.reserved, 0)) as "it!"
        from stock_levels l
        full join folded f using (product_id, warehouse_id)
        where coalesce(l.on_hand, 0) <> coalesce(f.on_hand, 0)
           or coalesce(l.reserved, 0) <> coalesce(f.reserved, 0)
        "#
    )
    .fetch_all(conn)
    .await?;
    Ok(Check::new("S2", "every level is the sum of its movements", offenders))
}

async fn reservations(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        with live as (
            select product_id, warehouse_id, sum(qty) as qty
            from reservations
            where state in ('held', 'committed')
            group by product_id, warehouse_id
        )
        select format('product %s in warehouse %s: reserved %s, reservations %s', product_id, warehouse_id,
                      l.reserved, coalesce(live.qty, 0)) as "it!"
        from stock_levels l
        left join live using (product_id, warehouse_id)
        where l.reserved <> coalesce(live.qty, 0)
        "#
    )
    .fetch_all(conn)
    .await?;
    Ok(Check::new(
        "S3",
        "what is reserved is the sum of the live reservations",
        offenders,
    ))
}

async fn conservation(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        with moved as (
            select product_id,
                   coalesce(sum(qty) filter (where kind in ('received', 'returned', 'adjusted')), 0) as came,
                   coalesce(sum(qty) filter (where kind = 'shipped'), 0) as went
            from stock_movements
            group by product_id
        ), there as (
            select product_id, sum(on_hand) as on_hand
            from stock_levels
            group by product_id
        )
        select format('product %s: came %s, went %s, on hand %s', product_id,
                      coalesce(came, 0), coalesce(went, 0), coalesce(on_hand, 0)) as "it!"
        from moved
        full join there using (product_id)
        where coalesce(came, 0) <> coalesce(on_hand, 0) + coalesce(went, 0)
        "#
    )
    .fetch_all(conn)
    .await?;
    Ok(Check::new(
        "S4",
        "what came is on hand or was shipped, for every product",
        offenders,
    ))
}
