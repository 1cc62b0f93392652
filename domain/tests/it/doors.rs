//! What guards the door: request idempotency and API keys.

use std::time::Duration;

use domain::{
    access::{self, Scope},
    idempotency::{Begun, store},
};
use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::Connection;
use testkit::{Database, eventually};

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_key_is_fresh_once_then_replays_the_same_bytes_and_refuses_another_request() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let mut tx = conn.begin().await.expect("a transaction");
    assert_eq!(
        store::begin(&mut tx, "shop", "k1", b"one", DAY).await.expect("a claim"),
        Begun::Fresh
    );
    let headers = json!({"location": "/orders/1"});
    store::finish(&mut tx, "shop", "k1", 202, &headers, r#"{"id": 1}"#, None)
        .await
        .expect("an answer");
    tx.commit().await.expect("a commit");

    let replay = store::begin(&mut conn, "shop", "k1", b"one", DAY)
        .await
        .expect("a replay");
    assert_eq!(
        replay,
        Begun::Replay {
            status: 202,
            headers,
            body: r#"{"id": 1}"#.to_owned()
        }
    );
    assert_eq!(
        store::begin(&mut conn, "shop", "k1", b"two", DAY)
            .await
            .expect("a refusal"),
        Begun::Mismatch
    );
    assert_eq!(
        store::begin(&mut conn, "other", "k1", b"two", DAY)
            .await
            .expect("a claim"),
        Begun::Fresh
    );
}

#[tokio::test]
async fn a_key_whose_request_was_rolled_back_is_fresh_again() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    let mut tx = conn.begin().await.expect("a transaction");
    assert_eq!(
        store::begin(&mut tx, "shop", "k1", b"one", DAY).await.expect("a claim"),
        Begun::Fresh
    );
    tx.rollback().await.expect("a rollback");
    assert_eq!(
        store::begin(&mut conn, "shop", "k1", b"one", DAY)
            .await
            .expect("a claim"),
        Begun::Fresh
    );
}

#[tokio::test]
async fn a_twin_waits_for_the_first_and_gets_its_answer() {
    let database = Database::new().await;
    let mut first = database.connect().await;
    let mut tx = first.begin().await.expect("a transaction");
    assert_eq!(
        store::begin(&mut tx, "shop", "k1", b"one", DAY).await.expect("a claim"),
        Begun::Fresh
    );

    let mut conn = database.connect().await;
    let twin = tokio::spawn(async move { store::begin(&mut conn, "shop", "k1", b"one", DAY).await });
    waits(&database).await;
    store::finish(&mut tx, "shop", "k1", 201, &json!({}), "{}", None)
        .await
        .expect("an answer");
    tx.commit().await.expect("a commit");
    let begun = twin.await.expect("no panic").expect("a replay");
    assert!(matches!(begun, Begun::Replay { status: 201, .. }), "{begun:?}");
}

#[tokio::test]
async fn a_twin_that_waited_two_seconds_is_told_to_come_back() {
    let database = Database::new().await;
    let mut first = database.connect().await;
    let mut tx = first.begin().await.expect("a transaction");
    assert_eq!(
        store::begin(&mut tx, "shop", "k1", b"one", DAY).await.expect("a claim"),
        Begun::Fresh
    );
    let mut twin = database.connect().await;
    assert_eq!(
        store::begin(&mut twin, "shop", "k1", b"one", DAY)
            .await
            .expect("an answer"),
        Begun::InProgress
    );
    // The limit was for that statement only.
    let after: String = sqlx::query_scalar("show lock_timeout")
        .fetch_one(&mut *tx)
        .await
        .expect("a setting");
    assert_eq!(after, "0");
}

async fn waits(database: &Database) {
    let pool = database.pool.clone();
    eventually("the twin waits for the first", async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(&pool)
        .await
        .expect("a look at the sessions");
        (waiting > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_past_its_time_is_as_good_as_new_and_is_pruned() {
    let database = Database::new().await;
    let mut conn = database.connect().await;
    for key in ["k1", "k2"] {
        store::begin(&mut conn, "shop", key, b"one", DAY)
            .await
            .expect("a claim");
        store::finish(&mut conn, "shop", key, 200, &json!({}), "{}", None)
            .await
            .expect("an answer");
    }
    database.fast_forward(2 * DAY).await;
    assert_eq!(
        store::begin(&mut conn, "shop", "k1", b"two", DAY)
            .await
            .expect("a claim"),
        Begun::Fresh
    );
    assert_eq!(store::prune(&mut conn, 100).await.expect("a pruning"), 1);
    assert_eq!(store::prune(&mut conn, 100).await.expect("a pruning"), 0);
}

#[tokio::test]
async fn a_key_opens_until_it_is_revoked_and_a_wrong_one_never_does() {
    let database = Database::new().await;
    let conn = &mut database.connect().await;
    let (id, key) = access::store::create(conn, "shop", &[Scope::OrdersWrite], None)
        .await
        .expect("a key");
    let token = key.token.expose_secret().to_owned();

    for header in [token.clone(), format!("Bearer {token}")] {
        let principal = access::store::verify(conn, &header)
            .await
            .expect("a query")
            .expect("it is the key");
        assert_eq!(
            (principal.name.as_str(), principal.key_id.as_str()),
            ("shop", key.key_id.as_str())
        );
        assert!(principal.may(Scope::OrdersWrite) && !principal.may(Scope::OrdersRead));
    }
    for wrong in [
        format!("{token}0"),
        token.replace(&key.key_id, "0000000000000000"),
        "nonsense".to_owned(),
    ] {
        assert_eq!(
            access::store::verify(conn, &wrong).await.expect("a query"),
            None,
            "{wrong}"
        );
    }
    assert!(
        access::store::list(conn).await.expect("a list")[0]
            .last_used_at
            .is_some()
    );
    assert!(access::store::revoke(conn, id).await.expect("an end"));
    assert!(!access::store::revoke(conn, id).await.expect("no second end"));
    assert_eq!(access::store::verify(conn, &token).await.expect("a query"), None);
}
