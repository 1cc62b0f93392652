//! L1–L3: the sellers' ledger against itself, the payments and the gateway.

use orderfleet::verify::{Ledger, LedgerEntry, Records};
use sqlx::PgConnection;
use testkit::Database;

use crate::verify::{a_sound_world, plant, violated};

/// The one order of a sound world is of a seller's goods; all that it was owed is paid out.
async fn a_world_with_a_seller() -> (Database, PgConnection) {
    let (db, mut conn) = a_sound_world().await;
    plant(
        &mut conn,
        "insert into sellers (id, name, destination, currency, commission_bp)
         values ('00000000-0000-7000-8000-000000000009', 'Garden', 'acct_g', 'GBP', 1000);
         update products set seller_id = '00000000-0000-7000-8000-000000000009';
         update payments set captured_minor = 0;
         update payments set captured_minor = 1998, updated_at = now() - interval '1 hour';
         insert into payouts (id, seller_id, seq, idem_key, amount_minor, currency, destination, created_at)
         select '00000000-0000-7000-8000-00000000000a', id, 1, 'payout:1', balance_minor, currency, destination, now() - interval '1 hour'
         from sellers;
         update payouts set state = 'paid', gateway_ref = 'tr_1', settled_at = now() - interval '1 hour'",
    )
    .await;
    (db, conn)
}

/// What the gateway did for the order and the payout of that world.
fn sound() -> Vec<LedgerEntry> {
    let payments = ["create", "confirm", "capture"].into_iter().zip(1..).map(|(op, n)| {
        serde_json::json!({
            "n": n, "key": format!("{op}:1"), "op": op, "intent": "pi_1", "amount": 1998, "outcome": "ok",
            "intent_status": "succeeded", "params_sha256": op, "metadata": {},
        })
    });
    let transfer = serde_json::json!({
        "n": 4, "key": "payout:1", "op": "transfer", "transfer": "tr_1", "destination": "acct_g", "amount": 1799,
        "outcome": "ok", "params_sha256": "transfer", "metadata": {},
    });
    let lines = payments.chain([transfer]);
    lines.map(|line| serde_json::from_value(line).unwrap()).collect()
}

fn records(entries: Vec<LedgerEntry>) -> Records {
    Records {
        ledger: Some(Ledger { entries }),
        receiver: None,
    }
}

#[tokio::test]
async fn a_sellers_ledger_that_agrees_violates_nothing() {
    let (_db, mut conn) = a_world_with_a_seller().await;
    assert_eq!(violated(&mut conn, &records(sound())).await, [""; 0]);
}

#[tokio::test]
async fn entries_and_balances_that_are_off_are_seen() {
    for (expected, sql) in [
        (
            &["L1"][..],
            "alter table ledger_entries disable trigger user;
             update ledger_entries set amount_minor = amount_minor + 1 where account = 'payouts'",
        ),
        (&["L1"], "update sellers set balance_minor = 5"),
        (
            &["L1", "L2"],
            "alter table ledger_entries disable trigger user; delete from ledger_entries where account = 'sales'",
        ),
        (
            &["L2"],
            "update sales set commission_kept_minor = commission_kept_minor - 1",
        ),
        (
            &["P2", "L2"],
            "alter table payments disable trigger payments_book_sales; update payments set refunded_minor = 500",
        ),
    ] {
        let (_db, mut conn) = a_world_with_a_seller().await;
        // What changed this moment may not have reached the gateway's books yet.
        plant(
            &mut conn,
            &format!("{sql}; update payments set updated_at = now() - interval '1 hour'"),
        )
        .await;
        assert_eq!(violated(&mut conn, &records(sound())).await, expected, "after {sql}");
    }
}

#[tokio::test]
async fn transfers_that_are_not_our_payouts_are_seen() {
    for change in [
        |entries: &mut Vec<LedgerEntry>| drop(entries.pop()),
        |entries: &mut Vec<LedgerEntry>| entries[3].amount += 1,
        |entries: &mut Vec<LedgerEntry>| entries[3].destination = Some("acct_other".to_owned()),
        |entries: &mut Vec<LedgerEntry>| entries[3].transfer = Some("tr_2".to_owned()),
        |entries: &mut Vec<LedgerEntry>| entries.push(entries[3].clone()),
        |entries: &mut Vec<LedgerEntry>| {
            let mut stray = entries[3].clone();
            stray.key = Some("stray".to_owned());
            entries.push(stray);
        },
    ] {
        let (_db, mut conn) = a_world_with_a_seller().await;
        let mut entries = sound();
        change(&mut entries);
        assert_eq!(
            violated(&mut conn, &records(entries.clone())).await,
            ["L3"],
            "{entries:?}"
        );
    }
}
