//! What bounds the calls to others, with the limits every worker installs.

use std::{sync::Arc, time::Duration};

use domain::ids::EndpointId;
use jobs::{DeliverWebhook, catalogue};
use queue::{Job, limit, runner::Settled, testing::Worker};
use serde_json::json;
use uuid::Uuid;

use crate::world::{World, client, start_gateway};

#[tokio::test]
async fn a_gateway_that_is_down_opens_its_breaker_and_costs_no_order() {
    let mut world = World::new().await;
    let port = world.gateway.addr.port();
    let away = start_gateway(0, world.dir.path().join("other.jsonl")).await;
    std::mem::replace(&mut world.gateway, away).stop().await.unwrap();
    let mut orders = Vec::new();
    for _ in 0..30 {
        orders.push(world.submit("pm_card_visa").await);
    }
    // Each attempt in a process of its own, as it were: the client of one would be quiet by itself after a few.
    let (kinds, mut postponed) = (catalogue(), 0);
    world.run().await;
    for _ in 0..10 {
        world.db.fast_forward(Duration::from_secs(60)).await;
        let url = format!("http://127.0.0.1:{port}");
        Arc::get_mut(&mut world.services).unwrap().gateway = client(&url);
        let worker = Worker::register(&world.db.pool, &kinds, &world.services).await.unwrap();
        for job in worker.claim("payments", 3).await.unwrap() {
            postponed += i32::from(worker.run(job).await == Settled::Postponed);
        }
        worker.leave().await.unwrap();
    }
    let mut conn = world.db.pool.acquire().await.unwrap();
    let gateway = limit::get(&mut conn, "gateway").await.unwrap().unwrap();
    assert_eq!(gateway.open_breakers, 1, "{gateway:?}");
    assert!(postponed > 0);
    drop(conn);
    assert_eq!(world.count("select count(*) from queue.dead_letters").await, 0);

    world.gateway = start_gateway(port, world.dir.path().join("ledger.jsonl")).await;
    Arc::get_mut(&mut world.services).unwrap().gateway = client(&world.gateway.url());
    world.run_on(6, Duration::from_secs(60)).await;
    for order in orders {
        assert_eq!(world.axes(order).await, "confirmed authorized none");
    }
    let mut conn = world.db.pool.acquire().await.unwrap();
    let gateway = limit::get(&mut conn, "gateway").await.unwrap().unwrap();
    assert_eq!((gateway.open_breakers, gateway.parked), (0, 0));
}

#[test]
fn deliveries_count_against_their_endpoint_and_those_of_older_builds_are_read() {
    let endpoint = EndpointId(Uuid::from_u128(7));
    let old = json!({ "delivery_id": Uuid::from_u128(1), "group": "hook:endpoint:order" });
    let old: DeliverWebhook = serde_json::from_value(old).unwrap();
    assert_eq!((old.endpoint_id, old.limit()), (None, None));
    let new = DeliverWebhook {
        endpoint_id: Some(endpoint),
        ..old
    };
    assert_eq!(new.limit(), Some(format!("endpoint/{endpoint}")));
}

#[tokio::test]
async fn every_limit_of_the_build_bounds_a_kind() {
    let world = World::new().await;
    let mut conn = world.db.pool.acquire().await.unwrap();
    let installed: Vec<String> = limit::list(&mut conn)
        .await
        .unwrap()
        .into_iter()
        .map(|limit| limit.name)
        .collect();
    assert_eq!(installed, ["endpoint", "gateway"]);
    world.submit("pm_card_visa").await;
    world.run().await;
    let key: Option<String> = sqlx::query_scalar("select limit_key from queue.jobs where kind = 'capture_payment'")
        .fetch_one(&world.db.pool)
        .await
        .unwrap();
    assert_eq!(key.as_deref(), Some("gateway"));
}
