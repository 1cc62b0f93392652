//! A fresh database per test.

use std::time::Duration;

use sqlx::Connection as _;
use testkit::{Database, a_customer, a_product, a_vehicle, a_warehouse, an_order, eventually};

#[tokio::test]
async fn a_database_has_the_whole_schema_and_nothing_in_it() {
    let database = Database::new().await;
    let customers: i64 = sqlx::query_scalar("select count(*) from customers")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    let jobs: i64 = sqlx::query_scalar("select count(*) from queue.jobs")
        .fetch_one(&database.pool)
        .await
        .unwrap();
    assert_eq!((customers, jobs), (0, 0));
}

#[tokio::test]
async fn two_databases_share_nothing() {
    let (one, other) = tokio::join!(Database::new(), Database::new());
    a_customer(&mut one.connect().await).await;
    let seen: i64 = sqlx::query_scalar("select count(*) from customers")
        .fetch_one(&other.pool)
        .await
        .unwrap();
    assert_eq!(seen, 0);
    assert_ne!(one.url, other.url);
}

#[tokio::test]
async fn a_dropped_database_is_gone_even_with_clients_on_it() {
    let kept = Database::new().await;
    let gone = Database::new().await;
    let mut client = gone.connect().await;
    let name: String = sqlx::query_scalar("select current_database()")
        .fetch_one(&mut client)
        .await
        .unwrap();
    drop(gone);
    let found: i64 = sqlx::query_scalar("select count(*) from pg_database where datname = $1")
        .bind(name)
        .fetch_one(&kept.pool)
        .await
        .unwrap();
    assert_eq!(found, 0);
    assert!(client.ping().await.is_err());
}

#[tokio::test]
async fn builders_fit_the_constraints_and_the_books_balance() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let customer = a_customer(&mut conn).await;
    let product = a_product(&mut conn, "MUG", 7).await;
    let order = an_order(&mut conn, customer, &[(product, 2)]).await;
    let warehouse = a_warehouse(&mut conn, "MAIN").await;
    a_vehicle(&mut conn, warehouse, "van 1").await;

    let total: i64 = sqlx::query_scalar("select total_minor from orders where id = $1")
        .bind(order)
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(total, 2 * 999);
    let off: i64 = sqlx::query_scalar(
        r"select count(*) from stock_levels l
          where l.on_hand <> (select coalesce(sum(d_on_hand), 0) from stock_movements m
                              where m.product_id = l.product_id and m.warehouse_id = l.warehouse_id)",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(off, 0);
}

#[tokio::test]
async fn fast_forward_makes_due_what_was_due_later() {
    let database = Database::new().await;
    sqlx::query("select queue.enqueue('q', 'k', '{}', clock_timestamp() + interval '1 hour')")
        .execute(&database.pool)
        .await
        .unwrap();
    let due = "select count(*) from queue.jobs where run_at <= clock_timestamp()";
    assert_eq!(
        sqlx::query_scalar::<_, i64>(due)
            .fetch_one(&database.pool)
            .await
            .unwrap(),
        0
    );
    database.fast_forward(Duration::from_secs(3601)).await;
    assert_eq!(
        sqlx::query_scalar::<_, i64>(due)
            .fetch_one(&database.pool)
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn a_condition_is_waited_for() {
    let mut asked = 0;
    let answer = eventually("the third time", async || {
        asked += 1;
        (asked == 3).then_some(asked)
    })
    .await;
    assert_eq!(answer, 3);
}
