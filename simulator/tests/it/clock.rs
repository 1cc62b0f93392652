//! Time that can be moved ahead: authorisations end, keys are forgotten, and a restart does not go back.

use serde_json::json;

use crate::support::Sandbox;

const WEEK_S: i64 = 7 * 24 * 60 * 60;

#[tokio::test]
async fn an_authorisation_ends_by_itself_after_seven_days() {
    let sandbox = Sandbox::new().await;
    let (kept, late) = (
        sandbox.authorised("pm_card_visa").await,
        sandbox.authorised("pm_card_visa").await,
    );
    sandbox
        .http
        .order("clock", json!({ "advance_s": WEEK_S - 60 }))
        .await
        .ok();
    sandbox.http.act(&kept, "capture").await.ok();
    sandbox.http.order("clock", json!({ "advance_s": 61 })).await.ok();

    let intent = sandbox.http.get(&format!("/v1/payment_intents/{late}")).await.ok();
    assert_eq!(
        (intent["status"].as_str(), intent["cancellation_reason"].as_str()),
        (Some("canceled"), Some("automatic"))
    );
    let (code, _) = sandbox.http.act(&late, "capture").await.refused();
    assert_eq!(code, "payment_intent_unexpected_state");
    assert_eq!((sandbox.count("expire", "ok"), sandbox.count("capture", "ok")), (1, 1));
    let told = sandbox.http.get("/v1/events?types[]=charge.expired").await.ok();
    assert_eq!(told["data"][0]["data"]["object"]["payment_intent"], late.as_str());
    assert_eq!(told["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day_and_not_before() {
    const DAY_S: i64 = 24 * 60 * 60;
    let sandbox = Sandbox::new().await;
    let form = [("amount", "1000"), ("currency", "gbp")];
    let create = async || {
        let made = sandbox.http.post_with_key("k", "/v1/payment_intents", &form).await;
        made.unwrap()
    };
    let first = create().await.ok();
    sandbox
        .http
        .order("clock", json!({ "advance_s": DAY_S - 60 }))
        .await
        .ok();
    assert!(create().await.is_replayed());
    sandbox.http.order("clock", json!({ "advance_s": 61 })).await.ok();
    let other = create().await;
    assert!(!other.is_replayed());
    assert_ne!(other.ok()["id"], first["id"]);
}

#[tokio::test]
async fn time_never_goes_back_not_even_by_a_restart() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.authorised("pm_card_visa").await;
    sandbox
        .http
        .order("clock", json!({ "advance_s": WEEK_S + 1 }))
        .await
        .ok();
    let before = sandbox.http.get("/_simulator/clock").await.ok()["unix"]
        .as_i64()
        .unwrap();
    let sandbox = sandbox.restarted().await;
    let after = sandbox.http.get("/_simulator/clock").await.ok()["unix"]
        .as_i64()
        .unwrap();
    // The last line is the end of the authorisation, written when the clock was moved.
    assert!(after >= before - 1, "{after} is before {before}");
    let intent = sandbox.http.get(&format!("/v1/payment_intents/{id}")).await.ok();
    assert_eq!(intent["status"], "canceled");
    for advance in [
        json!({ "advance_s": -1 }),
        json!({ "advance_s": i64::MAX }),
        json!({}),
        json!({ "at": 5 }),
    ] {
        sandbox.http.order("clock", advance).await.error(400);
    }
}
