//! Trouble to order: what each fault does to the answer, to the key, and to the ledger.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ledger::GatewayProcess;
use crate::support::{Client, Sandbox, until};

const CONFIRM: &str = "POST /v1/payment_intents/{id}/confirm";

/// A gateway whose next confirm is struck, and an intent to confirm.
async fn struck(fault: Value) -> (Sandbox, String) {
    let sandbox = Sandbox::new().await;
    let id = sandbox.intent("pm_card_visa").await;
    let mut order = json!({ "route": CONFIRM, "count": 1 });
    order
        .as_object_mut()
        .unwrap()
        .extend(fault.as_object().unwrap().clone());
    sandbox.http.order("faults", order).await.ok();
    (sandbox, id)
}

#[tokio::test]
async fn a_lost_answer_was_executed_and_a_reset_was_not() {
    for (fault, executed) in [("answer_lost", 1), ("reset", 0)] {
        let (sandbox, id) = struck(json!({ "fault": fault })).await;
        sandbox.http.act_with_key("k", &id, "confirm").await.unwrap_err();
        assert_eq!(sandbox.count("confirm", "ok"), executed, "{fault}");
        let again = sandbox.http.act_with_key("k", &id, "confirm").await.unwrap();
        assert_eq!(again.ok()["status"], "requires_capture");
        assert_eq!(again.is_replayed(), executed == 1, "{fault}");
        assert_eq!(sandbox.count("confirm", "ok"), 1, "{fault}");
    }
}

#[tokio::test]
async fn a_stored_error_stays_under_its_key_whether_executed_or_not() {
    for (fault, executed) in [("error_stored_after", 1), ("error_stored", 0)] {
        let (sandbox, id) = struck(json!({ "fault": fault, "should_retry": true })).await;
        let first = sandbox.http.act_with_key("k", &id, "confirm").await.unwrap();
        assert_eq!(first.error(500)["type"], "api_error");
        assert_eq!(first.headers["stripe-should-retry"], "true");
        for _ in 0..2 {
            let again = sandbox.http.act_with_key("k", &id, "confirm").await.unwrap();
            assert_eq!((again.status, again.is_replayed()), (500, true));
        }
        assert_eq!(sandbox.count("confirm", "ok"), executed, "{fault}");
        let sandbox = sandbox.restarted().await;
        let after = sandbox.http.act_with_key("k", &id, "confirm").await.unwrap();
        assert_eq!(
            (after.status, after.text),
            (500, first.text),
            "{fault}, after a restart"
        );
        let intent = sandbox.http.get(&format!("/v1/payment_intents/{id}")).await.ok();
        let status = if executed == 1 {
            "requires_capture"
        } else {
            "requires_confirmation"
        };
        assert_eq!(intent["status"], status);
    }
}

#[tokio::test]
async fn what_is_refused_for_now_is_neither_executed_nor_kept() {
    for (fault, status, code) in [
        ("unavailable", 503, None),
        ("rate_limit", 429, Some("rate_limit")),
        ("lock_timeout", 429, Some("lock_timeout")),
        ("conflict", 409, Some("idempotency_key_in_use")),
    ] {
        let (sandbox, id) = struck(json!({ "fault": fault, "retry_after_s": 7 })).await;
        let first = sandbox.http.act_with_key("k", &id, "confirm").await.unwrap();
        assert_eq!(first.error(status)["code"].as_str(), code);
        assert_eq!(first.headers["retry-after"], "7");
        assert_eq!(sandbox.count("confirm", "ok"), 0, "{fault}");
        let again = sandbox.http.act_with_key("k", &id, "confirm").await.unwrap();
        again.ok();
        assert!(!again.is_replayed(), "{fault}");
    }
}

#[tokio::test]
async fn a_wrong_answer_is_no_json_and_its_repeat_is_right() {
    let (sandbox, id) = struck(json!({ "fault": "wrong_json" })).await;
    let first = sandbox.http.act_with_key("k", &id, "confirm").await.unwrap();
    assert_eq!(first.status, 200);
    serde_json::from_str::<Value>(&first.text).unwrap_err();
    let again = sandbox.http.act_with_key("k", &id, "confirm").await.unwrap();
    assert!(again.is_replayed());
    assert_eq!(again.ok()["status"], "requires_capture");
}

#[tokio::test]
async fn a_delay_holds_the_key_before_and_after_the_execution() {
    for (fault, executed_meanwhile) in [("delay_before", 0), ("delay_after", 1)] {
        let (sandbox, id) = struck(json!({ "fault": fault, "delay_ms": 1500 })).await;
        let (http, intent, since) = (sandbox.http.clone(), id.clone(), Instant::now());
        let slow = tokio::spawn(async move { http.act_with_key("k", &intent, "confirm").await.unwrap() });
        // The twin is only told to wait once the first one has come.
        let twin = loop {
            let faults = sandbox.http.get("/_simulator/faults").await.ok();
            if faults["data"][0]["fired"] == 1 {
                break sandbox.http.act_with_key("k", &id, "confirm").await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(twin.error(409)["code"], "idempotency_key_in_use", "{fault}");
        until("the first one in the ledger", || {
            sandbox.count("confirm", "ok") >= executed_meanwhile
        })
        .await;
        assert_eq!(sandbox.count("confirm", "ok"), executed_meanwhile, "{fault}");
        assert_eq!(slow.await.unwrap().ok()["status"], "requires_capture");
        assert!(since.elapsed() >= Duration::from_millis(1500));
        assert_eq!(sandbox.count("confirm", "ok"), 1);
    }
}

#[tokio::test]
async fn a_rule_for_an_amount_lets_others_by() {
    let sandbox = Sandbox::new().await;
    let order = json!({ "route": "POST /v1/payment_intents", "fault": "unavailable", "amount": 4242 });
    sandbox.http.order("faults", order).await.ok();
    let create = async |amount| {
        let form = [("amount", amount), ("currency", "gbp")];
        sandbox.http.post("/v1/payment_intents", &form).await.status
    };
    assert_eq!((create("4241").await, create("4242").await), (200, 503));
    let faults = sandbox.http.get("/_simulator/faults").await.ok();
    assert_eq!(
        (faults["data"][0]["seen"].as_u64(), faults["data"][0]["fired"].as_u64()),
        (Some(1), Some(1))
    );
}

#[tokio::test]
async fn an_amount_makes_the_trouble_of_its_method() {
    let sandbox = Sandbox::new().await;
    let form = [
        ("amount", "99990002"),
        ("currency", "gbp"),
        ("payment_method", "pm_card_visa"),
    ];
    let made = sandbox.http.post("/v1/payment_intents", &form).await.ok();
    let error = sandbox
        .http
        .act(made["id"].as_str().unwrap(), "confirm")
        .await
        .error(402);
    assert_eq!(error["decline_code"], "insufficient_funds");
    let expired = sandbox.authorised("pm_card_capture_expired").await;
    let (code, _) = sandbox.http.act(&expired, "capture").await.refused();
    assert_eq!(code, "capture_charge_authorization_expired");
}

#[tokio::test]
async fn rules_are_listed_and_taken_away_and_a_bad_one_is_refused_with_what_there_is() {
    let sandbox = Sandbox::new().await;
    let rule = sandbox
        .http
        .order("faults", json!({ "route": "*", "fault": "reset" }))
        .await
        .ok();
    let one = format!("/_simulator/faults/{}", rule["id"]);
    let delete = async |path: &str| sandbox.http.send(sandbox.http.bare("DELETE", path)).await.unwrap();
    sandbox.http.request("GET", "/v1/charges").send().await.unwrap_err();
    assert_eq!(delete(&one).await.ok()["data"], json!([]));
    delete(&one).await.error(404);
    assert_eq!(sandbox.http.get("/v1/charges").await.status, 200);
    let error = sandbox
        .http
        .order("faults", json!({ "route": "POST /v1/x", "fault": "reset" }))
        .await
        .error(400);
    assert!(error["message"].as_str().unwrap().contains("POST /v1/refunds"));
    let error = sandbox
        .http
        .order("faults", json!({ "route": "*", "fault": "explode" }))
        .await
        .error(400);
    assert!(error["message"].as_str().unwrap().contains("answer_lost"));
    sandbox.http.order("nothing", json!({})).await.error(404);
}

/// The test starts itself as a process that is only a gateway, so that there is something to crash.
#[tokio::test]
async fn the_nth_request_takes_the_process_down_after_it_is_in_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.jsonl");
    let process = GatewayProcess::start(&ledger);
    let http = Client::new(process.url.clone());
    let order = json!({ "route": "POST /v1/payment_intents", "fault": "crash", "skip": 2, "count": 1 });
    http.order("faults", order).await.ok();
    let form = [("amount", "1000"), ("currency", "gbp")];
    for n in 0..2 {
        let key = format!("k{n}");
        http.post_with_key(&key, "/v1/payment_intents", &form)
            .await
            .unwrap()
            .ok();
    }
    http.post_with_key("k2", "/v1/payment_intents", &form)
        .await
        .unwrap_err();
    process.has_died();

    let gateway = crate::support::open(&ledger).await.unwrap();
    let http = Client::new(gateway.url());
    let again = http.post_with_key("k2", "/v1/payment_intents", &form).await.unwrap();
    assert!(again.is_replayed());
    until("three intents", || gateway.ledger().unwrap().len() == 3).await;
}
