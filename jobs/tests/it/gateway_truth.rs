//! What the gateway says by itself: its events, its books, and what is asked of it because of them.

use std::time::Duration;

use domain::{
    inbound::{self, GATEWAY},
    orders::Status,
    payments::State,
};
use jobs::{ProcessGatewayEvent, SweepLedger};
use serde_json::{Value, json};

use crate::world::{WINDOW, World};

const SOON: Duration = Duration::from_secs(5);

impl World {
    /// A request to the gateway by somebody else who has our key.
    async fn stranger(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let request = reqwest::Client::new()
            .post(format!("{}{path}", self.gateway.url()))
            .bearer_auth("sk_test_stranger")
            .form(form);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    /// Takes one of the gateway's events in, as the API does; true when it is new.
    async fn take_in(&self, event: &Value) -> bool {
        let (id, kind) = (event["id"].as_str().unwrap(), event["type"].as_str().unwrap());
        let mut tx = self.db.pool.begin().await.unwrap();
        let payload = event.to_string();
        let is_new = inbound::take_in(&mut tx, GATEWAY, id, kind, payload.as_bytes())
            .await
            .unwrap();
        if is_new {
            let job = ProcessGatewayEvent {
                event_id: id.to_owned(),
            };
            queue::enqueue(&mut tx, &job).await.unwrap();
        }
        tx.commit().await.unwrap();
        is_new
    }

    /// All that has happened at the gateway, newest first.
    async fn events(&self) -> Vec<Value> {
        let url = format!("{}/v1/events?limit=100", self.gateway.url());
        let answer = reqwest::Client::new()
            .get(url)
            .bearer_auth("sk_test_x")
            .send()
            .await
            .unwrap();
        let listed: Value = answer.json().await.unwrap();
        listed["data"].as_array().unwrap().clone()
    }

    async fn reconciliations(&self) -> i64 {
        let sql = "select count(*) from queue.finished_jobs where kind = 'reconcile_payment'";
        self.count(sql).await
    }
}

#[tokio::test]
async fn events_that_come_twice_and_backwards_change_nothing() {
    let world = World::new().await;
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    world.db.fast_forward(WINDOW).await;
    world.run().await;
    let before = world.payment(order).await;
    let events = world.events().await;
    assert_eq!(events.len(), 5);
    for event in events.iter().chain(&events) {
        world.take_in(event).await;
    }
    world.run_on(2, SOON).await;
    assert_eq!(world.payment(order).await.version, before.version);
    assert_eq!(
        world
            .count("select count(*) from inbound_events where processed_at is not null")
            .await,
        5
    );
    assert_eq!(
        world.reconciliations().await,
        0,
        "nothing new was told, so nothing is asked"
    );
    world.assert_settled().await;
}

#[tokio::test]
async fn an_event_before_our_own_answer_makes_us_ask_and_the_order_goes_on() {
    let world = World::new().await;
    // Executed, and every answer lost, a quick retry's too: the event is the first that we hear of it.
    answers_get_lost(&world, "confirm").await;
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    assert_eq!(world.payment(order).await.state, State::Authorizing);
    for event in world.events().await {
        assert!(world.take_in(&event).await);
        assert!(!world.take_in(&event).await, "the same event is new only once");
    }
    world.run().await;
    assert_eq!(world.axes(order).await, "confirmed authorized none");
    assert!(world.reconciliations().await >= 1);
    world.run_on(4, SOON).await;
    assert_eq!(world.ledger(order), ["create ok", "confirm ok"]);
    world.assert_settled().await;
}

#[tokio::test]
async fn an_event_about_nothing_of_ours_is_kept_and_left() {
    let world = World::new().await;
    let stranger = json!({
        "id": "evt_x", "type": "payment_intent.succeeded",
        "data": { "object": { "object": "payment_intent", "id": "pi_x", "metadata": { "payment_id": "not a uuid" } } },
    });
    world.take_in(&stranger).await;
    world
        .take_in(&json!({ "id": "evt_y", "type": "account.updated", "data": {} }))
        .await;
    assert_eq!(world.run().await.completed, 2);
    assert_eq!(world.reconciliations().await, 0);
}

#[tokio::test]
async fn the_sweep_finds_money_that_is_nobodys_once_and_what_we_did_not_hear_of() {
    let world = World::new().await;
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    // Somebody else takes a payment that we don't know, and captures ours before we do.
    let form = [
        ("amount", "4200"),
        ("currency", "gbp"),
        ("confirm", "true"),
        ("payment_method", "pm_card_visa"),
    ];
    let orphan = world.stranger("/v1/payment_intents", &form).await;
    let ours = world.payment(order).await.gateway_ref.unwrap();
    world
        .stranger(&format!("/v1/payment_intents/{ours}/capture"), &[])
        .await;

    for _ in 0..2 {
        world.enqueue(&SweepLedger::default()).await;
        world.run().await;
    }
    let row: (String, i64) = sqlx::query_as("select intent, amount_minor from orphan_charges")
        .fetch_one(&world.db.pool)
        .await
        .unwrap();
    assert_eq!(row, (orphan["id"].as_str().unwrap().to_owned(), 4200));
    let payment = world.payment(order).await;
    assert_eq!((payment.state, payment.captured), (State::Captured, payment.amount));
    assert_eq!(
        world.reconciliations().await,
        1,
        "the second sweep finds nothing that differs"
    );
}

#[tokio::test]
async fn the_sweep_goes_on_in_another_job_after_many_pages() {
    let world = World::new().await;
    let form = [
        ("amount", "1"),
        ("currency", "gbp"),
        ("confirm", "true"),
        ("payment_method", "pm_card_visa"),
    ];
    for _ in 0..2_101 {
        world.stranger("/v1/payment_intents", &form).await;
    }
    world.enqueue(&SweepLedger::default()).await;
    world.run().await;
    assert_eq!(world.count("select count(*) from orphan_charges").await, 2_101);
    let sweeps = "select count(*) from queue.finished_jobs where kind = 'sweep_ledger'";
    assert_eq!(world.count(sweeps).await, 2);
}

/// A week passes at the gateway, and it tells.
async fn a_week_passes(world: &World) {
    let url = format!("{}/_simulator/clock", world.gateway.url());
    let week = json!({ "advance_s": 7 * 24 * 60 * 60 + 1 });
    reqwest::Client::new().post(url).json(&week).send().await.unwrap();
    for event in world.events().await {
        world.take_in(&event).await;
    }
    world.run().await;
}

/// The states of an order's payments, oldest first.
async fn payment_states(world: &World) -> Vec<String> {
    sqlx::query_scalar("select state from payments order by created_at")
        .fetch_all(&world.db.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_hold_that_runs_out_is_asked_for_once_more_and_captured_once() {
    let world = World::new().await;
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    a_week_passes(&world).await;
    assert_eq!(world.axes(order).await, "confirmed authorized none");
    assert_eq!(payment_states(&world).await, ["voided", "authorized"]);
    world.db.fast_forward(WINDOW).await;
    world.run().await;
    assert_eq!(world.axes(order).await, "confirmed captured none");
    assert_eq!(payment_states(&world).await, ["voided", "captured"]);
    assert_eq!(
        world.ledger(order),
        [
            "create ok",
            "confirm ok",
            "expire ok",
            "create ok",
            "confirm ok",
            "capture ok"
        ]
    );
    world.assert_settled().await;
}

#[tokio::test]
async fn a_second_hold_that_runs_out_leaves_the_order_on_hold_and_says_so() {
    let world = World::new().await;
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    a_week_passes(&world).await;
    a_week_passes(&world).await;
    assert_eq!(world.order(order).await.reason.unwrap()["code"], "authorization_ended");
    assert_eq!(payment_states(&world).await, ["voided", "voided"]);
    let asked = world.ledger(order).iter().filter(|line| *line == "confirm ok").count();
    assert_eq!(asked, 2);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_second_hold_that_the_bank_declines_leaves_the_goods_promised_and_a_person_to_decide() {
    let world = World::new().await;
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    // The card is blocked in the week in which the money was held.
    world
        .execute("update payments set payment_method = 'pm_card_chargeDeclined'")
        .await;
    a_week_passes(&world).await;
    assert_eq!(world.axes(order).await, "on_hold declined none");
    let reason = world.order(order).await.reason.unwrap();
    assert_eq!(reason["code"], "reauthorization_declined");
    assert_eq!(payment_states(&world).await, ["voided", "declined"]);
    assert_eq!(
        world.ledger(order),
        ["create ok", "confirm ok", "expire ok", "create ok", "confirm declined"]
    );
    let held = "select sum(qty)::bigint from reservations where state in ('held', 'committed')";
    assert!(world.count(held).await > 0, "nobody else gets the goods meanwhile");
    world.assert_settled().await;

    world.cancel(order).await.unwrap();
    world.run().await;
    assert_eq!(world.order(order).await.status, Status::Cancelled);
    assert_eq!(
        world
            .count("select count(*) from reservations where state in ('held', 'committed')")
            .await,
        0
    );
    world.assert_settled().await;
}

#[tokio::test]
async fn a_hold_that_the_bank_let_go_is_cancelled_before_it_is_asked_for_again() {
    for fault in [
        json!(null),
        json!("answer_lost"),
        json!("reset"),
        json!("error_stored_after"),
    ] {
        let world = World::new().await;
        if fault.is_string() {
            let route = "POST /v1/payment_intents/{id}/cancel";
            order_fault(&world, json!({ "route": route, "fault": fault, "count": 1 })).await;
        }
        // Each capture by this card is told that the authorization is over, and its intent stays open.
        let order = world.submit("pm_card_capture_expired").await;
        world.run().await;
        world.db.fast_forward(WINDOW).await;
        world.run_on(12, SOON).await;
        let ledger = world.ledger(order);
        let of = |op: &str| ledger.iter().position(|line| line == op);
        let (cancelled, again) = (of("cancel ok"), ledger.iter().rposition(|line| line == "create ok"));
        assert!(cancelled.is_some() && cancelled < again, "{fault}: {ledger:?}");
        let created = ledger.iter().filter(|line| *line == "create ok").count();
        assert_eq!(created, 2, "{fault}: {ledger:?}");
        assert_eq!(of("capture ok"), None, "{fault}");
        // The second one is over as well, and there is no third.
        let reason = world.order(order).await.reason.unwrap();
        assert_eq!(reason["code"], "authorization_ended", "{fault}");
        assert_eq!(payment_states(&world).await, ["voided", "voided"], "{fault}");
        world.assert_settled().await;
    }
}

/// Lets the n-th and all further requests of a route go wrong.
/// Executes what is asked for at that path of an intent, and never answers.
pub(crate) async fn answers_get_lost(world: &World, path: &str) {
    let route = format!("POST /v1/payment_intents/{{id}}/{path}");
    order_fault(world, json!({ "route": route, "fault": "answer_lost" })).await;
}

async fn order_fault(world: &World, fault: Value) {
    let url = format!("{}/_simulator/faults", world.gateway.url());
    let ordered = reqwest::Client::new().post(url).json(&fault).send().await.unwrap();
    assert_eq!(ordered.status(), 200);
}

#[tokio::test]
async fn a_failure_stored_although_it_was_executed_is_found_out_and_never_done_twice() {
    for (route, last) in [("confirm", "confirm ok"), ("capture", "capture ok")] {
        let world = World::new().await;
        let route = format!("POST /v1/payment_intents/{{id}}/{route}");
        order_fault(
            &world,
            json!({ "route": route, "fault": "error_stored_after", "count": 1 }),
        )
        .await;
        let order = world.submit("pm_card_visa").await;
        world.run_on(6, SOON).await;
        world.db.fast_forward(WINDOW).await;
        world.run_on(12, SOON).await;
        assert_eq!(world.axes(order).await, "confirmed captured none", "{route}");
        assert_eq!(
            world.ledger(order),
            ["create ok", "confirm ok", "capture ok"],
            "{route}, {last}"
        );
        world.assert_settled().await;
    }
}

#[tokio::test]
async fn every_row_of_the_table_ends_with_one_charge() {
    for fault in [
        json!({ "fault": "answer_lost", "count": 2 }),
        json!({ "fault": "reset", "count": 2 }),
        json!({ "fault": "unavailable", "count": 3, "should_retry": true }),
        json!({ "fault": "conflict", "count": 2 }),
        json!({ "fault": "rate_limit", "count": 1, "retry_after_s": 1 }),
        json!({ "fault": "lock_timeout", "count": 1 }),
        json!({ "fault": "error_stored", "count": 1 }),
        json!({ "fault": "wrong_json", "count": 2 }),
    ] {
        let world = World::new().await;
        let mut order = json!({ "route": "POST *" });
        order
            .as_object_mut()
            .unwrap()
            .extend(fault.as_object().unwrap().clone());
        order_fault(&world, order).await;
        let order = world.submit("pm_card_visa").await;
        // The client of this process keeps quiet for a real second when it is told to.
        testkit::eventually(&format!("the order is confirmed after {fault}"), async || {
            world.run_on(1, SOON).await;
            (world.axes(order).await == "confirmed authorized none").then_some(())
        })
        .await;
        world.db.fast_forward(WINDOW).await;
        testkit::eventually(&format!("the payment is captured after {fault}"), async || {
            world.run_on(1, SOON).await;
            (world.axes(order).await == "confirmed captured none").then_some(())
        })
        .await;
        assert_eq!(
            world.ledger(order),
            ["create ok", "confirm ok", "capture ok"],
            "{fault}"
        );
        world.assert_settled().await;
    }
}
