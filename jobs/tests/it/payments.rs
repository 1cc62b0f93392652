//! Money moves once, or not at all, and both sides agree on it.

use std::{sync::Arc, time::Duration};

use domain::{
    Cause,
    ids::OrderId,
    money::Cents,
    orders::Status,
    payments::{AttemptState, Op, State},
};
use jobs::intake;
use queue::testing::run_until_idle;

use crate::gateway_truth::answers_get_lost;
use crate::world::{WINDOW, World, client, start_gateway};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn an_order_is_authorized_then_captured_once() {
    let world = World::new().await;
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    assert_eq!(world.axes(order).await, "confirmed authorized none");
    assert_eq!(world.ledger(order), ["create ok", "confirm ok"]);

    world.db.fast_forward(WINDOW).await;
    world.run().await;
    assert_eq!(world.axes(order).await, "confirmed captured none");
    assert_eq!(world.ledger(order), ["create ok", "confirm ok", "capture ok"]);
    let payment = world.payment(order).await;
    assert_eq!((payment.state, payment.captured), (State::Captured, payment.amount));
    let told = "select count(*) from events where type in ('order.confirmed', 'payment.captured')";
    assert_eq!(world.count(told).await, 2);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_capture_waits_for_the_end_of_the_window() {
    let world = World::new().await;
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    // Due by its row, but not by the order: the job looks again, and uses no attempt.
    world
        .execute("update queue.jobs set run_at = clock_timestamp() where kind = 'capture_payment'")
        .await;
    let ran = world.run().await;
    assert_eq!((ran.postponed, ran.completed), (1, 0));
    assert_eq!(world.ledger(order), ["create ok", "confirm ok"]);
}

#[tokio::test]
async fn a_declined_card_rejects_the_order_and_frees_its_stock_together() {
    let world = World::new().await;
    let order = world.submit("pm_card_chargeDeclinedInsufficientFunds").await;
    world.run().await;
    assert_eq!(world.axes(order).await, "rejected declined none");
    assert_eq!(
        world.payment(order).await.decline_code.as_deref(),
        Some("insufficient_funds")
    );
    assert_eq!(world.count("select sum(reserved)::bigint from stock_levels").await, 0);
    world.run_on(3, WINDOW).await;
    assert_eq!(world.ledger(order), ["create ok", "confirm declined"]);
    world.assert_settled().await;
}

#[tokio::test]
async fn an_answer_lost_after_execution_charges_once() {
    let world = World::new().await;
    let order = world.submit("pm_card_answer_lost").await;
    world.run_on(12, SOON).await;
    assert_eq!(world.axes(order).await, "confirmed authorized none");
    assert_eq!(world.ledger(order), ["create ok", "confirm ok"]);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_capture_whose_answer_is_lost_is_captured_once() {
    let world = World::new().await;
    let order = world.submit("pm_card_capture_answer_lost").await;
    world.run().await;
    world.db.fast_forward(WINDOW).await;
    world.run_on(12, SOON).await;
    assert_eq!(world.axes(order).await, "confirmed captured none");
    assert_eq!(world.ledger(order), ["create ok", "confirm ok", "capture ok"]);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_failure_stored_under_a_key_is_cured_by_a_new_key_after_asking() {
    let world = World::new().await;
    let order = world.submit("pm_card_error_stored").await;
    world.run_on(20, SOON).await;
    assert_eq!(world.axes(order).await, "confirmed authorized none");
    let payment = world.payment(order).await;
    let confirms: Vec<_> = world
        .attempts(payment.id)
        .await
        .into_iter()
        .filter(|one| one.op == Op::Confirm)
        .collect();
    let states: Vec<_> = confirms.iter().map(|one| (one.seq, one.state)).collect();
    assert_eq!(states, [(1, AttemptState::Failed), (2, AttemptState::Succeeded)]);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_declined_capture_puts_the_order_on_hold_with_the_money_still_held() {
    let world = World::new().await;
    let order = world.submit("pm_card_capture_declined").await;
    world.run().await;
    world.db.fast_forward(WINDOW).await;
    world.run_on(2, SOON).await;
    assert_eq!(world.axes(order).await, "on_hold authorized none");
    assert_eq!(world.order(order).await.reason.unwrap()["code"], "capture_declined");
    assert_eq!(world.payment(order).await.state, State::Authorized);
}

#[tokio::test]
async fn a_cancel_inside_the_window_voids_and_moves_no_money() {
    let world = World::new().await;
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    world.cancel(order).await.unwrap();
    world.run().await;
    assert_eq!(world.axes(order).await, "cancelled voided none");
    assert_eq!(world.ledger(order), ["create ok", "confirm ok", "cancel ok"]);
    assert_eq!(world.count("select sum(reserved)::bigint from stock_levels").await, 0);
    assert_eq!(
        world
            .count("select count(*) from stock_movements where kind = 'released'")
            .await,
        1
    );

    // The capture that was scheduled comes due, and does nothing.
    world.run_on(2, WINDOW).await;
    assert_eq!(world.ledger(order), ["create ok", "confirm ok", "cancel ok"]);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_cancel_before_anything_was_sent_asks_the_gateway_nothing() {
    let world = World::new().await;
    let order = world.submit("pm_card_visa").await;
    world
        .execute("insert into queue.pauses (target, name, reason, actor) values ('queue', 'payments', 'test', 'test')")
        .await;
    world.run().await;
    world.cancel(order).await.unwrap();
    world.execute("delete from queue.pauses").await;
    world.run_on(2, SOON).await;
    assert_eq!(world.axes(order).await, "cancelled voided none");
    assert_eq!(world.ledger(order), Vec::<String>::new());
    world.assert_settled().await;
}

#[tokio::test]
async fn a_cancel_while_the_authorization_is_in_doubt_asks_first_and_leaves_nothing_held() {
    let world = World::new().await;
    answers_get_lost(&world, "confirm").await;
    let order = world.submit("pm_card_visa").await;
    // Executed, and nobody knows, however soon it is tried again.
    world.run().await;
    let payment = world.payment(order).await;
    assert!(
        world
            .attempts(payment.id)
            .await
            .iter()
            .any(|one| one.op == Op::Confirm && one.is_in_doubt())
    );
    world.cancel(order).await.unwrap();
    world.run_on(12, SOON).await;
    assert_eq!(world.axes(order).await, "cancelled voided none");
    assert_eq!(world.ledger(order), ["create ok", "confirm ok", "cancel ok"]);
    assert!(world.attempts(payment.id).await.iter().all(|one| !one.is_in_doubt()));
    world.assert_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cancel_and_capture_started_together_never_both_happen() {
    const TIMES: usize = 200;
    let world = Arc::new(World::new().await);
    let mut orders = Vec::new();
    for _ in 0..TIMES {
        orders.push(world.submit("pm_card_visa").await);
    }
    run_side_by_side(&world).await;
    for order in &orders {
        assert_eq!(world.axes(*order).await, "confirmed authorized none");
    }
    // The windows of all of them close within the next seconds, each at its own moment.
    world
        .execute(
            "with closing as (
                 update orders set cancel_until = clock_timestamp() + (0.5 + 3 * random()) * interval '1 second' returning id, cancel_until
             ),
             due as (select p.id as payment, c.cancel_until from closing c join payments p on p.order_id = c.id)
             update queue.jobs j set run_at = d.cancel_until from due d
             where j.kind = 'capture_payment' and j.args ->> 'payment_id' = d.payment::text",
        )
        .await;
    let cancels: Vec<_> = orders
        .iter()
        .zip(0..)
        .map(|(order, n)| {
            let (world, order) = (Arc::clone(&world), *order);
            // From well before the end of the window to a little after it.
            let offset = chrono::Duration::milliseconds(20 - (n % 8) * (n % 8) * 5);
            tokio::spawn(async move {
                let until = world.order(order).await.cancel_until.unwrap();
                // A test of a moment has to wait for the moment.
                let wait = until + offset - chrono::Utc::now();
                tokio::time::sleep(wait.to_std().unwrap_or_default()).await;
                world.cancel(order).await
            })
        })
        .collect();
    let captures = tokio::spawn({
        let world = Arc::clone(&world);
        async move {
            let until = tokio::time::Instant::now() + Duration::from_millis(4000);
            while tokio::time::Instant::now() < until {
                run_side_by_side(&world).await;
            }
        }
    });
    let mut accepted = Vec::new();
    for cancel in cancels {
        match cancel.await.unwrap() {
            Ok(order) => accepted.push(order.id),
            Err(intake::Error::WindowClosed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    captures.await.unwrap();
    world.run_on(10, SOON).await;

    let captured: Vec<OrderId> = orders
        .iter()
        .copied()
        .filter(|order| world.ledger(*order).contains(&"capture ok".to_owned()))
        .collect();
    for order in &orders {
        let (was_accepted, was_captured) = (accepted.contains(order), captured.contains(order));
        assert!(
            was_accepted != was_captured,
            "accepted {was_accepted}, captured {was_captured}: {:?}",
            world.ledger(*order)
        );
        let expected = if was_accepted {
            "cancelled voided none"
        } else {
            "confirmed captured none"
        };
        assert_eq!(world.axes(*order).await, expected);
    }
    assert!(
        !accepted.is_empty() && !captured.is_empty(),
        "{} cancelled, {} captured",
        accepted.len(),
        captured.len()
    );
    println!("{} cancelled, {} captured", accepted.len(), captured.len());
    world.assert_settled().await;
}

/// Four workers at once, until none finds anything due.
async fn run_side_by_side(world: &Arc<World>) {
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let world = Arc::clone(world);
            tokio::spawn(async move { run_until_idle(&world.db.pool, &jobs::catalogue(), &world.services).await })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_worker_that_dies_between_sending_and_recording_leaves_one_charge() {
    let world = World::new().await;
    let order = world.submit("pm_card_slow").await;
    die_while_confirming(&world, order).await;
    world.execute(BACK_IN_LINE).await;
    // The gateway is still busy with the request of the dead: the same key waits its turn, and is answered from the first.
    testkit::eventually("the order is confirmed", async || {
        world.run_on(1, SOON).await;
        (world.order(order).await.status == Status::Confirmed).then_some(())
    })
    .await;
    assert_eq!(world.ledger(order), ["create ok", "confirm ok"]);
    let payment = world.payment(order).await;
    let confirms: Vec<_> = world
        .attempts(payment.id)
        .await
        .into_iter()
        .filter(|one| one.op == Op::Confirm)
        .collect();
    assert_eq!(confirms.len(), 1);
    assert_eq!((confirms[0].seq, confirms[0].state), (1, AttemptState::Succeeded));
    world.assert_settled().await;
}

/// The claims of workers that are gone, taken back.
const BACK_IN_LINE: &str =
    "select queue.line_up(array_agg(s.job)) from queue.seize(array(select id from queue.claims), true) s";

/// Runs until the confirm has been executed at the gateway, then drops the worker where it stands.
async fn die_while_confirming(world: &World, order: OrderId) {
    let worker = world.run();
    tokio::pin!(worker);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !world.ledger(order).contains(&"confirm ok".to_owned()) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the confirm never reached the gateway"
        );
        // The worker only moves while it is polled here.
        let _still_running = tokio::time::timeout(Duration::from_millis(10), &mut worker).await;
    }
}

#[tokio::test]
async fn a_worker_that_lost_its_fence_writes_nothing() {
    let world = Arc::new(World::new().await);
    let order = world.submit("pm_card_slow").await;
    let worker = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.run().await }
    });
    testkit::eventually("the confirm is executed", async || {
        world.ledger(order).contains(&"confirm ok".to_owned()).then_some(())
    })
    .await;
    // Somebody else claims the job while the answer is on its way.
    world
        .execute("update queue.claims set worker_id = 0 where (jobs[1]).kind = 'authorize_payment'")
        .await;
    let before = world.payment(order).await;
    assert_eq!(worker.await.unwrap().lost, 1);
    let after = world.payment(order).await;
    assert_eq!((after.state, after.version), (State::Authorizing, before.version));
    assert_eq!(world.order(order).await.status, Status::Reserved);

    world.execute(BACK_IN_LINE).await;
    world.run_on(2, SOON).await;
    assert_eq!(world.axes(order).await, "confirmed authorized none");
    assert_eq!(world.ledger(order), ["create ok", "confirm ok"]);
}

#[tokio::test]
async fn refunds_never_exceed_the_capture() {
    let world = World::new().await;
    let order = world.submit("pm_card_visa").await;
    world.run().await;
    world.db.fast_forward(WINDOW).await;
    world.run().await;
    let payment = world.payment(order).await;
    let refund = async |amount: i64| {
        let mut tx = world.db.pool.begin().await.unwrap();
        let refunded = intake::refund(&mut tx, payment.id, Cents(amount), "test", &Cause::actor("test")).await;
        tx.commit().await.unwrap();
        refunded
    };
    let whole = payment.amount.0;
    refund(500).await.unwrap();
    // What is underway counts too.
    assert!(matches!(refund(whole).await, Err(intake::Error::TooMuch { left }) if left == Cents(whole - 500)));
    world.run().await;
    assert_eq!(world.axes(order).await, "confirmed captured none");
    assert_eq!(world.payment(order).await.refunded, Cents(500));
    refund(whole - 500).await.unwrap();
    world.run().await;
    assert_eq!(world.axes(order).await, "confirmed refunded none");
    assert!(matches!(refund(1).await, Err(intake::Error::TooMuch { .. })));
    assert_eq!(world.ledger(order)[3..], ["refund ok", "refund ok"]);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_gateway_that_is_away_costs_nothing_but_time() {
    let mut world = World::new().await;
    let port = world.gateway.addr.port();
    let away = start_gateway(0, world.dir.path().join("other.jsonl")).await;
    std::mem::replace(&mut world.gateway, away).stop().await.unwrap();
    let order = world.submit("pm_card_visa").await;
    world.run_on(4, SOON).await;
    assert_eq!(world.axes(order).await, "reserved authorizing none");
    let payment = world.payment(order).await;
    assert!(
        world.attempts(payment.id).await.iter().all(|one| !one.is_in_doubt()),
        "nothing was sent"
    );

    world.gateway = start_gateway(port, world.dir.path().join("ledger.jsonl")).await;
    world.run_on(4, Duration::from_secs(60)).await;
    assert_eq!(world.ledger(order)[..2], ["create ok", "confirm ok"]);
    world.assert_settled().await;
}

#[tokio::test]
async fn a_refused_key_pauses_the_kind_and_kills_no_job() {
    let mut world = World::new().await;
    let url = world.gateway.url().parse().unwrap();
    let refused = domain::payments::Gateway::new(url, "not_a_key".to_owned().into()).unwrap();
    Arc::get_mut(&mut world.services).unwrap().gateway = refused;
    let order = world.submit("pm_card_visa").await;
    world.run_on(2, SOON).await;
    assert_eq!(
        world
            .count("select count(*) from queue.pauses where name = 'authorize_payment'")
            .await,
        1
    );
    assert_eq!(world.count("select count(*) from queue.dead_letters").await, 0);

    let url = world.gateway.url();
    Arc::get_mut(&mut world.services).unwrap().gateway = client(&url);
    world.execute("delete from queue.pauses").await;
    world.run_on(2, SOON).await;
    assert_eq!(world.axes(order).await, "confirmed authorized none");
}
