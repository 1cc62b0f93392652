//! P1, P2, P4 and P5: our book against the gateway's ledger.

use orderfleet::verify::{Ledger, LedgerEntry, Records};

use crate::verify::{a_sound_world, plant, violated};

fn entry(n: u64, op: &str, intent: &str, key: &str, amount: i64) -> LedgerEntry {
    serde_json::from_value(serde_json::json!({
        "n": n, "key": key, "op": op, "intent": intent, "amount": amount, "outcome": "ok",
        "intent_status": "succeeded", "params_sha256": format!("{op}{amount}"), "metadata": {},
    }))
    .unwrap()
}

/// What the gateway did for the one order of a sound world.
fn sound() -> Vec<LedgerEntry> {
    vec![
        entry(1, "create", "pi_1", "create:1", 1998),
        entry(2, "confirm", "pi_1", "confirm:1", 1998),
        entry(3, "capture", "pi_1", "capture:1", 1998),
    ]
}

fn records(entries: Vec<LedgerEntry>) -> Records {
    Records {
        ledger: Some(Ledger { entries }),
        receiver: None,
    }
}

#[tokio::test]
async fn a_ledger_that_agrees_violates_nothing() {
    let (_db, mut conn) = a_sound_world().await;
    assert_eq!(violated(&mut conn, &records(sound())).await, [""; 0]);
}

#[tokio::test]
async fn a_second_capture_is_seen() {
    let (_db, mut conn) = a_sound_world().await;
    let mut entries = sound();
    entries.push(entry(4, "capture", "pi_1", "capture:2", 1998));
    assert_eq!(violated(&mut conn, &records(entries)).await, ["P1", "P2", "P5"]);
}

#[tokio::test]
async fn a_second_live_authorisation_of_one_order_is_seen() {
    let (_db, mut conn) = a_sound_world().await;
    plant(
        &mut conn,
        "drop index payments_one_live_per_order;
         insert into payments (id, order_id, gateway_ref, payment_method, currency, amount_minor, state, updated_at)
         select gen_random_uuid(), id, 'pi_2', 'pm_card_visa', 'GBP', 1998, 'authorized', now() - interval '1 hour' from orders;
         insert into payment_attempts (id, payment_id, op, seq, idem_key, amount_minor, state)
         select gen_random_uuid(), id, 'confirm', 1, 'confirm:2', 1998, 'succeeded' from payments where gateway_ref = 'pi_2'",
    )
    .await;
    let mut entries = sound();
    entries.push(entry(4, "confirm", "pi_2", "confirm:2", 1998));
    assert_eq!(violated(&mut conn, &records(entries)).await, ["P1"]);
}

#[tokio::test]
async fn a_capture_above_what_was_authorised_is_seen() {
    let (_db, mut conn) = a_sound_world().await;
    let mut entries = sound();
    entries[1].amount = 1000;
    assert!(violated(&mut conn, &records(entries)).await.contains(&"P1"));
}

#[tokio::test]
async fn amounts_that_differ_are_seen() {
    let (_db, mut conn) = a_sound_world().await;
    plant(&mut conn, "update payments set captured_minor = 1997").await;
    assert_eq!(violated(&mut conn, &records(sound())).await, ["P2"]);
}

#[tokio::test]
async fn money_kept_or_held_for_a_cancelled_order_is_seen() {
    let cancelled = "update orders set status = 'cancelled', payment_status = 'voided', version = 6;
        update reservations set state = 'released'; update order_lines set qty_reserved = 0; update stock_levels set reserved = 0;
        insert into stock_movements (product_id, warehouse_id, kind, qty, d_on_hand, d_reserved, cause_key, actor)
        select product_id, warehouse_id, 'released', 2, 0, -2, 'release:test', 'test' from stock_levels;
        delete from order_history where version > 4;
        insert into order_history (order_id, version, status, payment_status, fulfilment_status, cause, actor)
        select o.id, s.version, s.status, s.payment, 'none', 'test', 'test'
        from orders o, (values (5, 'cancelling', 'voiding'), (6, 'cancelled', 'voided')) s (version, status, payment);";
    let (_db, mut conn) = a_sound_world().await;
    plant(&mut conn, cancelled).await;
    assert_eq!(
        violated(&mut conn, &Records::default()).await,
        ["P4"],
        "captured and not refunded, by our own book"
    );

    let (_db, mut conn) = a_sound_world().await;
    plant(&mut conn, cancelled).await;
    plant(
        &mut conn,
        "update payments set state = 'voided', captured_minor = 0; delete from payment_attempts where op = 'capture'",
    )
    .await;
    let held = sound().into_iter().take(2).collect();
    assert_eq!(
        violated(&mut conn, &records(held)).await,
        ["P4"],
        "the gateway still holds the money"
    );

    plant(
        &mut conn,
        "insert into payment_attempts (id, payment_id, op, seq, idem_key, amount_minor, state)
         select gen_random_uuid(), id, 'void', 1, 'void:1', 1998, 'succeeded' from payments",
    )
    .await;
    let mut given_back: Vec<LedgerEntry> = sound().into_iter().take(2).collect();
    given_back.push(entry(3, "cancel", "pi_1", "void:1", 1998));
    assert_eq!(
        violated(&mut conn, &records(given_back)).await,
        [""; 0],
        "cancelled at the gateway, all is well"
    );
}

#[tokio::test]
async fn keys_that_are_not_ours_or_not_the_same_are_seen() {
    let changes: [fn(&mut Vec<LedgerEntry>); 5] = [
        |entries| entries.push(entry(4, "create", "pi_9", "somebody", 5)),
        |entries| entries[0].key = None,
        |entries| {
            entries.push(LedgerEntry {
                params_sha256: "other".to_owned(),
                ..entries[0].clone()
            })
        },
        |entries| entries[0].amount = 7,
        |entries| drop(entries.remove(0)),
    ];
    for change in changes {
        let (_db, mut conn) = a_sound_world().await;
        let mut entries = sound();
        change(&mut entries);
        assert_eq!(
            violated(&mut conn, &records(entries.clone())).await,
            ["P5"],
            "{entries:#?}"
        );
    }
}

#[tokio::test]
async fn an_authorisation_that_ran_out_was_asked_for_by_nobody_and_violates_nothing() {
    let (_db, mut conn) = a_sound_world().await;
    let mut entries = sound();
    let mut expired = entry(4, "expire", "pi_1", "", 1998);
    expired.key = None;
    entries.push(expired);
    assert_eq!(violated(&mut conn, &records(entries)).await, [""; 0]);
}
