//! Events and who is told of them.

use domain::{
    events::{self, Announced, NewEvent},
    ids::OrderId,
};
use serde_json::{Value, json};
use sqlx::PgConnection;
use testkit::{Database, a_customer, an_order};

async fn an_endpoint(conn: &mut PgConnection, types: &[&str], ordering: &str, state: &str) -> uuid::Uuid {
    let id = uuid::Uuid::now_v7();
    sqlx::query(
        "insert into webhook_endpoints (id, url, event_types, ordering, secrets, state)
         values ($1, 'https://example.test/hook', $2, $3, '{whsec_dGVzdA==}', $4)",
    )
    .bind(id)
    .bind(types)
    .bind(ordering)
    .bind(state)
    .execute(conn)
    .await
    .expect("an endpoint");
    id
}

async fn record(conn: &mut PgConnection, kind: &str, order: Option<OrderId>) -> Announced {
    let event = NewEvent {
        kind,
        order_id: order,
        data: json!({"price": 5, "text": "a \"quoted\" ü"}),
    };
    events::record(conn, event).await.expect("an event")
}

#[tokio::test]
async fn an_event_goes_to_every_endpoint_that_wants_it_and_to_no_other() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let customer = a_customer(&mut conn).await;
    let order = an_order(&mut conn, customer, &[]).await;
    let all = an_endpoint(&mut conn, &["*"], "per_key", "active").await;
    let orders = an_endpoint(&mut conn, &["order.*"], "none", "active").await;
    let strict = an_endpoint(&mut conn, &["order.created"], "strict", "disabled").await;
    an_endpoint(&mut conn, &["payment.*", "order.closed"], "none", "active").await;
    let long_off = an_endpoint(&mut conn, &["*"], "none", "disabled").await;
    sqlx::query("update webhook_endpoints set updated_at = now() - interval '8 days' where id = $1")
        .bind(long_off)
        .execute(&mut conn)
        .await
        .expect("an old endpoint");

    let announced = record(&mut conn, "order.created", Some(OrderId(order))).await;
    let mut groups: Vec<_> = announced.0.into_iter().map(|delivery| delivery.group).collect();
    groups.sort();
    assert_eq!(
        groups,
        [
            None,
            Some(format!("hook:{all}:{order}")),
            Some(format!("hook:{strict}:"))
        ]
    );

    let unordered: i64 =
        sqlx::query_scalar("select count(*) from webhook_deliveries where endpoint_id = $1 and ordering_key is null")
            .bind(orders)
            .fetch_one(&mut conn)
            .await
            .expect("a count");
    assert_eq!(unordered, 1);
}

#[tokio::test]
async fn the_payload_is_frozen_with_its_number_and_says_what_happened() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let customer = a_customer(&mut conn).await;
    let order = an_order(&mut conn, customer, &[]).await;
    let _ = record(&mut conn, "order.created", Some(OrderId(order))).await;
    let _ = record(&mut conn, "catalogue.changed", None).await;
    let stored: Vec<(i64, String)> = sqlx::query_as("select id, payload from events order by id")
        .fetch_all(&mut conn)
        .await
        .expect("events");
    let payload: Value = serde_json::from_str(&stored[0].1).expect("it is JSON");
    assert_eq!(payload["type"], "order.created");
    assert_eq!(payload["sequence"], stored[0].0);
    assert_eq!(
        payload["data"],
        json!({"price": 5, "text": "a \"quoted\" ü", "order_id": order})
    );
    assert!(chrono::DateTime::parse_from_rfc3339(payload["timestamp"].as_str().expect("a text")).is_ok());
    let payload: Value = serde_json::from_str(&stored[1].1).expect("it is JSON");
    assert_eq!(payload["data"], json!({"price": 5, "text": "a \"quoted\" ü"}));
}

/// The pages of PostgreSQL that one event of an order touches, most of them the catalogue's and the indexes'.
async fn pages_of_an_event(conn: &mut PgConnection, order: uuid::Uuid) -> i64 {
    let plan: Value = sqlx::query_scalar(
        "explain (analyze, buffers, format json)
         select * from record_event(gen_random_uuid(), 'order.changed', $1, '{}')",
    )
    .bind(order)
    .fetch_one(conn)
    .await
    .expect("a plan");
    plan[0]["Plan"]["Shared Hit Blocks"].as_i64().expect("a count")
        + plan[0]["Plan"]["Shared Read Blocks"].as_i64().expect("a count")
}

#[tokio::test]
async fn an_event_costs_the_same_whatever_its_endpoints_have_received_before() {
    let database = Database::new().await;
    for ordering in ["per_key", "strict", "none"] {
        // A connection of its own, so that every plan is made with what the planner knows now.
        let mut conn = database.connect().await;
        let customer = a_customer(&mut conn).await;
        let order = an_order(&mut conn, customer, &[]).await;
        sqlx::raw_sql("delete from webhook_deliveries; delete from webhook_endpoints")
            .execute(&mut conn)
            .await
            .expect("no endpoint is left");
        an_endpoint(&mut conn, &["*"], ordering, "active").await;
        for _ in 0..3 {
            pages_of_an_event(&mut conn, order).await;
        }
        let before = pages_of_an_event(&mut conn, order).await;
        // Of other orders, which need not be there.
        sqlx::raw_sql(
            "set session_replication_role = replica;
             select count(*)
             from (select gen_random_uuid() as id from generate_series(1, 2000)) other, generate_series(1, 2),
                  record_event(gen_random_uuid(), 'order.changed', other.id, '{}');
             set session_replication_role = origin",
        )
        .execute(&mut conn)
        .await
        .expect("4,000 events of 2,000 orders");
        let after = pages_of_an_event(&mut conn, order).await;
        assert!(
            after <= before + 100,
            "{ordering}: {before} pages, and {after} after 4,000 deliveries"
        );

        let mut conn = database.connect().await;
        sqlx::raw_sql("analyze")
            .execute(&mut conn)
            .await
            .expect("the planner knows");
        pages_of_an_event(&mut conn, order).await;
        let known = pages_of_an_event(&mut conn, order).await;
        assert!(
            known <= before + 100,
            "{ordering}: {before} pages, and {known} once the planner knows of them"
        );
    }
}
