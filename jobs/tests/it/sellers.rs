//! Sellers: what they are owed after each capture and refund, and how they are paid.

use std::time::Duration;

use domain::{
    Cause,
    ids::{PaymentId, SellerId},
    money::Cents,
    sellers::{self, Payout, PayoutState, SellerChange},
};
use jobs::{PaySeller, PaySellers, SweepLedger, intake};
use serde_json::{Value, json};

use crate::world::{WINDOW, World};

const SOON: Duration = Duration::from_secs(5);

impl World {
    async fn owed(&self, seller: SellerId) -> i64 {
        let mut conn = self.db.pool.acquire().await.unwrap();
        sellers::store::get(&mut conn, seller).await.unwrap().unwrap().balance.0
    }

    async fn payouts(&self, seller: SellerId) -> Vec<Payout> {
        let mut conn = self.db.pool.acquire().await.unwrap();
        sellers::store::payouts(&mut conn, Some(seller), None, 100)
            .await
            .unwrap()
    }

    /// An order that is paid; its payment and its amount.
    async fn sold(&self) -> (PaymentId, i64) {
        let order = self.submit("pm_card_visa").await;
        self.run().await;
        self.db.fast_forward(WINDOW).await;
        self.run().await;
        let payment = self.payment(order).await;
        assert_eq!(payment.captured, payment.amount);
        (payment.id, payment.amount.0)
    }

    async fn refund(&self, payment: PaymentId, amount: i64) {
        let mut tx = self.db.pool.begin().await.unwrap();
        intake::refund(&mut tx, payment, Cents(amount), "test", &Cause::actor("test"))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        self.run().await;
    }

    async fn change(&self, seller: SellerId, change: SellerChange) {
        let mut conn = self.db.pool.acquire().await.unwrap();
        sellers::store::update(&mut conn, seller, &change).await.unwrap();
    }

    /// The transfers that the gateway made: what and to whom.
    fn transfers(&self) -> Vec<(i64, String)> {
        let lines = self.gateway.ledger().unwrap();
        let transfers = lines.iter().filter(|line| line["op"] == "transfer");
        transfers
            .map(|line| {
                let destination = line["destination"].as_str().unwrap_or_default();
                (line["amount"].as_i64().unwrap_or_default(), destination.to_owned())
            })
            .collect()
    }

    async fn order_fault(&self, fault: Value) {
        let url = format!("{}/_simulator/faults", self.gateway.url());
        let ordered = reqwest::Client::new().post(url).json(&fault).send().await.unwrap();
        assert_eq!(ordered.status(), 200);
    }

    /// Every transaction of the ledger is even, and balances are what their entries say.
    async fn assert_even(&self) {
        let uneven = "select count(*) from (select from ledger_entries group by transaction_id, seller_id
                                            having sum(amount_minor) <> 0) e";
        assert_eq!(self.count(uneven).await, 0, "uneven transactions");
        let off = "select count(*) from sellers s where s.balance_minor <> coalesce(
                       (select sum(e.amount_minor) from ledger_entries e where e.seller_id = s.id and e.account = 'seller'), 0)";
        assert_eq!(self.count(off).await, 0, "balances that are not their entries");
    }
}

/// Ours of a sale, as the world's seller leaves it.
fn commission(of: i64) -> i64 {
    of / 10
}

#[tokio::test]
async fn a_capture_is_booked_with_our_commission_and_refunds_take_back_their_part() {
    let world = World::new().await;
    let seller = world.seller().await;
    let (payment, amount) = world.sold().await;
    assert_eq!(world.owed(seller).await, amount - commission(amount));
    let third = amount / 3;
    world.refund(payment, third).await;
    let kept = amount - third;
    let share = |of: i64| of * kept / amount;
    assert_eq!(world.owed(seller).await, share(amount) - share(commission(amount)));
    world.refund(payment, kept).await;
    assert_eq!(world.owed(seller).await, 0, "nothing is left of rounding");
    world.assert_even().await;
}

#[tokio::test]
async fn a_payout_pays_all_that_is_owed_once() {
    let world = World::new().await;
    let seller = world.seller().await;
    let (_, amount) = world.sold().await;
    let owed = amount - commission(amount);
    for _ in 0..2 {
        world.enqueue(&PaySellers::default()).await;
        world.run().await;
    }
    assert_eq!(world.transfers(), [(owed, "acct_tea".to_owned())]);
    let payouts = world.payouts(seller).await;
    assert_eq!(
        (payouts.len(), payouts[0].state, payouts[0].amount.0),
        (1, PayoutState::Paid, owed)
    );
    assert_eq!(world.owed(seller).await, 0);
    world.assert_even().await;
    // The books of the gateway have it too, and the sweep knows whose it is.
    world.enqueue(&SweepLedger::default()).await;
    world.run().await;
    assert_eq!(world.count("select count(*) from orphan_charges").await, 0);
}

#[tokio::test]
async fn whatever_the_gateway_answers_a_payout_is_paid_once() {
    for fault in [
        json!({ "fault": "answer_lost", "count": 7 }),
        json!({ "fault": "reset", "count": 2 }),
        json!({ "fault": "unavailable", "count": 2 }),
        json!({ "fault": "conflict", "count": 2 }),
        json!({ "fault": "lock_timeout", "count": 1 }),
        json!({ "fault": "wrong_json", "count": 2 }),
        json!({ "fault": "error_stored", "count": 1 }),
        json!({ "fault": "error_stored_after", "count": 1 }),
    ] {
        let world = World::new().await;
        let seller = world.seller().await;
        let (_, amount) = world.sold().await;
        let mut order = json!({ "route": "POST /v1/transfers" });
        order
            .as_object_mut()
            .unwrap()
            .extend(fault.as_object().unwrap().clone());
        world.order_fault(order).await;
        // The client of this process keeps quiet for a real second when it is told to.
        testkit::eventually(&format!("the seller is paid after {fault}"), async || {
            world.enqueue(&PaySellers::default()).await;
            world.run_on(2, SOON).await;
            (world.payouts(seller).await.first()?.state == PayoutState::Paid).then_some(())
        })
        .await;
        assert_eq!(
            world.transfers(),
            [(amount - commission(amount), "acct_tea".to_owned())],
            "{fault}"
        );
        assert_eq!(world.owed(seller).await, 0, "{fault}");
        world.assert_even().await;
    }
}

#[tokio::test]
async fn a_refused_payout_gives_the_amount_back_and_the_next_one_has_a_key_of_its_own() {
    let world = World::new().await;
    let seller = world.seller().await;
    let (_, amount) = world.sold().await;
    let owed = amount - commission(amount);
    let to = |account: &str| SellerChange {
        destination: Some(account.to_owned()),
        ..SellerChange::default()
    };
    world.change(seller, to("acct_closed")).await;
    world.enqueue(&PaySeller { seller_id: seller }).await;
    world.run().await;
    let refused = world.payouts(seller).await.remove(0);
    assert_eq!(
        (refused.state, refused.error_code.as_deref()),
        (PayoutState::Failed, Some("account_closed"))
    );
    assert_eq!(world.owed(seller).await, owed);
    world.change(seller, to("acct_new")).await;
    world.enqueue(&PaySeller { seller_id: seller }).await;
    world.run().await;
    let payouts = world.payouts(seller).await;
    assert_eq!(payouts.len(), 2);
    assert_ne!(payouts[0].idem_key, payouts[1].idem_key);
    assert_eq!(world.transfers(), [(owed, "acct_new".to_owned())]);
    world.assert_even().await;
}

#[tokio::test]
async fn a_refund_after_the_payout_leaves_a_debt_and_no_payout_until_it_is_earned_again() {
    let world = World::new().await;
    let seller = world.seller().await;
    let (payment, amount) = world.sold().await;
    let owed = amount - commission(amount);
    world.enqueue(&PaySeller { seller_id: seller }).await;
    world.run().await;
    world.refund(payment, amount).await;
    assert_eq!(world.owed(seller).await, -owed);
    world.enqueue(&PaySellers::default()).await;
    world.enqueue(&PaySeller { seller_id: seller }).await;
    world.run().await;
    assert_eq!(world.payouts(seller).await.len(), 1);
    // The first sale pays the debt, the second one is theirs.
    world.sold().await;
    assert_eq!(world.owed(seller).await, 0);
    world.sold().await;
    world.enqueue(&PaySellers::default()).await;
    world.run().await;
    assert_eq!(world.transfers().len(), 2);
    world.assert_even().await;
}

#[tokio::test]
async fn a_paused_seller_and_one_below_its_least_amount_are_not_paid() {
    let world = World::new().await;
    let seller = world.seller().await;
    let (_, amount) = world.sold().await;
    let unpaid = async |change: SellerChange| {
        world.change(seller, change).await;
        world.enqueue(&PaySellers::default()).await;
        world.enqueue(&PaySeller { seller_id: seller }).await;
        world.run().await;
        assert_eq!(world.transfers(), []);
    };
    unpaid(SellerChange {
        payouts_paused: Some(true),
        ..SellerChange::default()
    })
    .await;
    unpaid(SellerChange {
        payouts_paused: Some(false),
        payout_min: Some(Cents(amount)),
        ..SellerChange::default()
    })
    .await;
}

#[tokio::test]
async fn the_database_refuses_what_is_not_even_what_is_changed_and_what_is_not_owed() {
    let world = World::new().await;
    let seller = world.seller().await;
    world.sold().await;
    for (refused, by) in [
        (
            "with t as (insert into ledger_transactions (cause) values ('x') returning id)
             insert into ledger_entries (transaction_id, account, seller_id, amount_minor)
             select t.id, 'seller', s.id, 5 from t, sellers s",
            "ledger_transactions_sum_to_zero",
        ),
        ("update ledger_entries set amount_minor = 1", "only ever added to"),
        ("delete from ledger_transactions", "only ever added to"),
        (
            "insert into payouts (id, seller_id, seq, idem_key, amount_minor, currency, destination)
             select gen_random_uuid(), id, 1, 'k', balance_minor + 1, currency, destination from sellers",
            "is not owed that much",
        ),
    ] {
        let error = sqlx::query(refused)
            .execute(&world.db.pool)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(by) || error.contains("do not sum to zero"),
            "{refused}: {error}"
        );
    }
    assert!(world.owed(seller).await > 0);
    world.assert_even().await;
}
