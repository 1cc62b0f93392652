//! W1–W3: our deliveries against the receiver's log.

use orderfleet::verify::{Received, ReceiverLog, Records};

use crate::verify::{a_sound_world, plant, violated};

fn request(n: u64, event: u32) -> Received {
    Received {
        n,
        path: "/hooks/demo".to_owned(),
        webhook_id: Some(format!("00000000-0000-7000-8000-{event:012}")),
        verified: true,
        status: 204,
    }
}

fn records(requests: Vec<Received>) -> Records {
    Records {
        ledger: None,
        receiver: Some(ReceiverLog { requests }),
    }
}

#[tokio::test]
async fn a_log_that_agrees_violates_nothing() {
    let (_db, mut conn) = a_sound_world().await;
    // Delivered at least once: a repeat is no harm.
    let log = vec![request(1, 3), request(2, 4), request(3, 3)];
    assert_eq!(violated(&mut conn, &records(log)).await, [""; 0]);
}

#[tokio::test]
async fn a_missing_or_unsettled_delivery_is_seen() {
    let (_db, mut conn) = a_sound_world().await;
    plant(
        &mut conn,
        "delete from webhook_deliveries where event_id = '00000000-0000-7000-8000-000000000004'",
    )
    .await;
    assert_eq!(violated(&mut conn, &Records::default()).await, ["W1"]);

    let (_db, mut conn) = a_sound_world().await;
    plant(
        &mut conn,
        "update webhook_deliveries set state = 'in_flight' where seq = (select max(seq) from webhook_deliveries)",
    )
    .await;
    assert_eq!(violated(&mut conn, &Records::default()).await, ["W1"]);
}

#[tokio::test]
async fn delivered_without_being_accepted_is_seen() {
    let (_db, mut conn) = a_sound_world().await;
    let refused = Received {
        status: 401,
        verified: false,
        ..request(2, 4)
    };
    assert_eq!(
        violated(&mut conn, &records(vec![request(1, 3), refused])).await,
        ["W2"]
    );
}

#[tokio::test]
async fn accepted_without_being_delivered_is_seen() {
    let (_db, mut conn) = a_sound_world().await;
    plant(
        &mut conn,
        "update webhook_deliveries set state = 'dead' where seq = (select max(seq) from webhook_deliveries)",
    )
    .await;
    assert_eq!(
        violated(&mut conn, &records(vec![request(1, 3), request(2, 4)])).await,
        ["W2"]
    );
    // Unless the sender died between the answer and writing it down.
    plant(
        &mut conn,
        "insert into webhook_attempts (delivery_id, n) select id, 1 from webhook_deliveries where state = 'dead'",
    )
    .await;
    assert_eq!(
        violated(&mut conn, &records(vec![request(1, 3), request(2, 4)])).await,
        [""; 0]
    );
}

#[tokio::test]
async fn deliveries_out_of_their_order_are_seen() {
    let (_db, mut conn) = a_sound_world().await;
    assert_eq!(
        violated(&mut conn, &records(vec![request(1, 4), request(2, 3)])).await,
        ["W3"]
    );

    let (_db, mut conn) = a_sound_world().await;
    plant(
        &mut conn,
        "update webhook_deliveries set state = 'pending' where seq = (select min(seq) from webhook_deliveries)",
    )
    .await;
    assert_eq!(violated(&mut conn, &Records::default()).await, ["W1", "W3"]);
}
