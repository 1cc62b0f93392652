//! Ordered endpoints and what they do when the head of a line is dead.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::{
    events::{self, NewEvent},
    ids::{EndpointId, OrderId},
    webhooks::{
        self, DeadHead, DeliveryState, EndpointState, Ordering,
        store::{EndpointChange, NewEndpoint, NotResent, Range},
    },
};
use serde_json::{Value, json};

use crate::webhooks::{head, hears, hears_unless, says};
use crate::world::World;

/// Longer than any wait of the schedule.
const A_STEP: Duration = Duration::from_secs(30 * 60 * 60);

impl World {
    async fn line(&self, url: String, ordering: Ordering, dead_head: DeadHead) -> EndpointId {
        let new = NewEndpoint {
            url,
            event_types: vec!["order.noted".to_owned()],
            ordering,
            dead_head,
            ..NewEndpoint::default()
        };
        let mut conn = self.db.pool.acquire().await.unwrap();
        let keyring = &self.services.keyring;
        webhooks::store::create(&mut conn, keyring, new, true)
            .await
            .unwrap()
            .0
            .id
    }

    /// Writes an event of an order; the order's lock gives it its place.
    async fn note(&self, order: OrderId, word: &str) {
        let mut tx = self.db.pool.begin().await.unwrap();
        domain::orders::store::lock(&mut tx, order).await.unwrap().unwrap();
        let event = NewEvent {
            kind: "order.noted",
            order_id: Some(order),
            data: json!({ "word": word }),
        };
        let announced = events::record(&mut tx, event).await.unwrap();
        jobs::announce(&mut tx, announced).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// The endpoint fails until the first of three events is dead, which disables it; then it moves and is enabled.
    async fn a_blocked_line(&self) -> (EndpointId, Arc<Mutex<Vec<String>>>) {
        let (failing, _) = says(head("500 Oops", "")).await;
        let id = self
            .line(format!("http://{failing}/"), Ordering::Strict, DeadHead::Block)
            .await;
        for word in ["one", "two", "three"] {
            self.note(self.submit_unconfirmed().await, word).await;
        }
        self.run_on(11, A_STEP).await;
        let ends = self.deliveries().await;
        assert!(ends[0].starts_with("dead 10 "), "{ends:?}");
        assert_eq!(ends[1..], ["pending 0", "pending 0"], "they wait, and are not given up");

        let mut conn = self.db.pool.acquire().await.unwrap();
        let (working, heard) = hears().await;
        let change = EndpointChange {
            url: Some(format!("http://{working}/")),
            ..EndpointChange::default()
        };
        let moved = webhooks::store::patch(&mut conn, id, change, true).await.unwrap();
        assert_eq!(moved.state, EndpointState::Disabled);
        webhooks::store::enable(&mut conn, id).await.unwrap();
        drop(conn);
        self.run_on(1, A_STEP).await;
        assert!(heard.lock().unwrap().is_empty(), "nothing passes the dead head");
        (id, heard)
    }
}

/// What was heard: the words, and of each event its number and that of the one before it.
fn words(heard: &Mutex<Vec<String>>) -> Vec<(String, i64, Option<i64>)> {
    let read = |request: &String| {
        let (_, body) = request.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        let word = body["data"]["word"].as_str().unwrap().to_owned();
        (word, body["sequence"].as_i64().unwrap(), body["prev_seq"].as_i64())
    };
    heard.lock().unwrap().iter().map(read).collect()
}

#[tokio::test]
async fn a_blocked_line_goes_on_in_order_when_its_dead_head_is_sent_again() {
    let world = World::new().await;
    let (_, heard) = world.a_blocked_line().await;
    let first = world.first_delivery().await;
    let mut conn = world.db.pool.acquire().await.unwrap();
    let again = webhooks::store::resend(&mut conn, first).await.unwrap();
    jobs::send_again(&mut conn, vec![again], "test").await.unwrap();
    drop(conn);
    world.run().await;
    let words = words(&heard);
    let said: Vec<&str> = words.iter().map(|(word, ..)| word.as_str()).collect();
    assert_eq!(said, ["one", "two", "three"]);
    // Each names the one before it, so whoever has that one has missed nothing.
    assert_eq!(words[0].2, None);
    assert_eq!(words[1].2, Some(words[0].1));
    assert_eq!(words[2].2, Some(words[1].1));
    let left = "select count(*) from queue.dead_letters";
    assert_eq!(world.count(left).await, 0, "the job that died is the one that ran");
}

#[tokio::test]
async fn a_replay_begins_a_blocked_line_with_its_dead_head() {
    let world = World::new().await;
    let (id, heard) = world.a_blocked_line().await;
    let range = Range {
        since: chrono::DateTime::UNIX_EPOCH,
        until: None,
        states: vec![DeliveryState::Dead, DeliveryState::Discarded],
    };
    let mut conn = world.db.pool.acquire().await.unwrap();
    let again = webhooks::store::replay(&mut conn, id, &range, 100).await.unwrap();
    assert_eq!(again.len(), 1);
    jobs::send_again(&mut conn, again, "test").await.unwrap();
    drop(conn);
    world.run().await;
    let said: Vec<String> = words(&heard).into_iter().map(|(word, ..)| word).collect();
    assert_eq!(said, ["one", "two", "three"]);
}

#[tokio::test]
async fn a_blocked_line_goes_on_when_its_dead_head_is_discarded_and_the_receiver_sees_the_gap() {
    let world = World::new().await;
    let (_, heard) = world.a_blocked_line().await;
    let first = world.first_delivery().await;
    let mut conn = world.db.pool.acquire().await.unwrap();
    let job = webhooks::store::give_up(&mut conn, first, "by test").await.unwrap();
    jobs::discard_dead(&mut conn, job.unwrap(), "test", "given up")
        .await
        .unwrap();
    let again = webhooks::store::give_up(&mut conn, first, "by test").await;
    assert!(
        matches!(again, Err(NotResent::NotDead(DeliveryState::Discarded))),
        "{again:?}"
    );
    drop(conn);
    world.run().await;
    let words = words(&heard);
    let said: Vec<&str> = words.iter().map(|(word, ..)| word.as_str()).collect();
    assert_eq!(said, ["two", "three"]);
    assert!(words[0].2.is_some_and(|missed| missed < words[0].1), "{words:?}");
    assert_eq!(words[1].2, Some(words[0].1));
}

#[tokio::test]
async fn a_dead_head_is_skipped_by_its_order_alone_and_leaves_a_gap_to_see() {
    let world = World::new().await;
    let (addr, heard) = hears_unless(|request| request.contains("\"lost\"")).await;
    world
        .line(format!("http://{addr}/"), Ordering::PerKey, DeadHead::Skip)
        .await;
    let (unlucky, other) = (world.submit_unconfirmed().await, world.submit_unconfirmed().await);
    for word in ["first", "lost", "last"] {
        world.note(unlucky, word).await;
    }
    // What arrives meanwhile shows that the endpoint is well.
    for n in 0..11 {
        world.note(other, &n.to_string()).await;
        world.run_on(1, A_STEP).await;
    }
    let words = words(&heard);
    let numbers: Vec<&str> = words
        .iter()
        .map(|(word, ..)| word.as_str())
        .filter(|word| word.parse::<u8>().is_ok())
        .collect();
    assert_eq!(numbers.len(), 11, "the other order did not wait");
    let of = |name: &str| words.iter().find(|(word, ..)| word == name).unwrap();
    let (first, last) = (of("first"), of("last"));
    assert_eq!(first.2, None);
    let missed = last.2.unwrap();
    assert!(first.1 < missed && missed < last.1, "{words:?}");
    assert!(!words.iter().any(|(_, seq, _)| *seq == missed));
}

#[tokio::test]
async fn what_an_unordered_endpoint_is_sent_names_nothing_before_it() {
    let world = World::new().await;
    let (addr, heard) = hears().await;
    world
        .line(format!("http://{addr}/"), Ordering::None, DeadHead::Skip)
        .await;
    let order = world.submit_unconfirmed().await;
    for word in ["one", "two"] {
        world.note(order, word).await;
    }
    world.run().await;
    assert!(words(&heard).iter().all(|(_, _, before)| before.is_none()));
    let new = NewEndpoint {
        url: format!("http://{addr}/"),
        event_types: vec!["*".to_owned()],
        ordering: Ordering::None,
        dead_head: DeadHead::Block,
        ..NewEndpoint::default()
    };
    let mut conn = world.db.pool.acquire().await.unwrap();
    let refused = webhooks::store::create(&mut conn, &world.services.keyring, new, true).await;
    let refused = refused.map(drop).unwrap_err().to_string();
    assert!(refused.contains("there is no line to block"), "{refused}");
}
