//! One key, one execution, one answer: repeats, twins, other parameters, lost answers and stored errors.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{Sandbox, until};

#[tokio::test]
async fn a_repeat_is_answered_with_the_first_answer() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.authorised("pm_card_visa").await;
    let first = sandbox.http.act_with_key("capture:1", &id, "capture").await.unwrap();
    first.ok();
    assert!(!first.is_replayed());
    let again = sandbox.http.act_with_key("capture:1", &id, "capture").await.unwrap();
    assert!(again.is_replayed());
    assert_eq!(again.text, first.text);
    assert_ne!(again.headers["request-id"], first.headers["request-id"]);
    assert_eq!(sandbox.count("capture", "ok"), 1);
    assert_eq!(sandbox.gateway.ledger().unwrap().len(), 3, "a replay leaves no line");
}

#[tokio::test]
async fn refusals_of_executed_requests_are_replayed_too() {
    let sandbox = Sandbox::new().await;
    let declined = sandbox.intent("pm_card_chargeDeclined").await;
    let unexpected = sandbox.intent("pm_card_visa").await;
    for (key, id, act, status) in [("a", &declined, "confirm", 402), ("b", &unexpected, "capture", 400)] {
        let first = sandbox.http.act_with_key(key, id, act).await.unwrap();
        let again = sandbox.http.act_with_key(key, id, act).await.unwrap();
        assert_eq!((first.status, again.status), (status, status));
        assert_eq!(again.text, first.text);
        assert!(again.is_replayed());
    }
    // What failed before execution left the key unused.
    let form = [("amount", "-1"), ("currency", "gbp")];
    assert_eq!(
        sandbox
            .http
            .post_with_key("c", "/v1/payment_intents", &form)
            .await
            .unwrap()
            .status,
        400
    );
    let form = [("amount", "1"), ("currency", "gbp")];
    sandbox
        .http
        .post_with_key("c", "/v1/payment_intents", &form)
        .await
        .unwrap()
        .ok();
}

#[tokio::test]
async fn a_key_belongs_to_its_parameters_and_its_path() {
    let sandbox = Sandbox::new().await;
    let form = [("amount", "1000"), ("currency", "gbp")];
    let first = sandbox
        .http
        .post_with_key("k", "/v1/payment_intents", &form)
        .await
        .unwrap()
        .ok();
    let reordered = [("currency", "gbp"), ("amount", "1000")];
    let again = sandbox
        .http
        .post_with_key("k", "/v1/payment_intents", &reordered)
        .await
        .unwrap();
    assert_eq!(again.ok()["id"], first["id"]);
    let other = [("amount", "1001"), ("currency", "gbp")];
    let error = sandbox
        .http
        .post_with_key("k", "/v1/payment_intents", &other)
        .await
        .unwrap()
        .error(400);
    assert_eq!(error["type"], "idempotency_error");
    let id = first["id"].as_str().unwrap();
    let elsewhere = sandbox.http.act_with_key("k", id, "cancel").await.unwrap();
    assert_eq!(elsewhere.ok()["status"], "canceled");
}

#[tokio::test]
async fn a_twin_of_a_running_request_is_told_to_wait() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.intent("pm_card_slow").await;
    let (http, intent) = (sandbox.http.clone(), id.clone());
    let slow = tokio::spawn(async move { http.act_with_key("confirm:1", &intent, "confirm").await.unwrap() });
    // It is executed at once and seen by others; only its answer is late.
    until("the confirmation in the ledger", || sandbox.count("confirm", "ok") == 1).await;
    let twin = sandbox.http.act_with_key("confirm:1", &id, "confirm").await.unwrap();
    let error = twin.error(409);
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str()),
        (Some("idempotency_error"), Some("idempotency_key_in_use"))
    );
    let first = slow.await.unwrap();
    assert_eq!(first.ok()["status"], "requires_capture");
    let again = sandbox.http.act_with_key("confirm:1", &id, "confirm").await.unwrap();
    assert!(again.is_replayed());
    assert_eq!(again.text, first.text);
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_nothing() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.intent("pm_card_slow").await;
    let path = format!("/v1/payment_intents/{id}/confirm");
    let request = sandbox.http.request("POST", &path).header("idempotency-key", "k");
    let request = request.timeout(std::time::Duration::from_millis(500));
    assert!(sandbox.http.send(request).await.unwrap_err().is_timeout());
    let answer = loop {
        let again = sandbox.http.act_with_key("k", &id, "confirm").await.unwrap();
        if again.status != 409 {
            break again;
        }
    };
    assert!(answer.is_replayed());
    assert_eq!(answer.ok()["status"], "requires_capture");
    assert_eq!(sandbox.count("confirm", "ok"), 1);
}

#[tokio::test]
async fn a_lost_answer_is_found_again_under_its_key() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.intent("pm_card_answer_lost").await;
    let lost = sandbox.http.act_with_key("confirm:1", &id, "confirm").await;
    assert!(lost.is_err(), "the connection is dropped without a byte: {lost:?}");
    assert_eq!(sandbox.count("confirm", "ok"), 1);
    let again = sandbox.http.act_with_key("confirm:1", &id, "confirm").await.unwrap();
    assert!(again.is_replayed());
    assert_eq!(again.ok()["status"], "requires_capture");

    let id = sandbox.authorised("pm_card_capture_answer_lost").await;
    assert!(sandbox.http.act_with_key("capture:1", &id, "capture").await.is_err());
    let seen = sandbox.http.get(&format!("/v1/payment_intents/{id}")).await.ok();
    assert_eq!(seen["status"], "succeeded");
    assert_eq!(
        sandbox
            .http
            .act_with_key("capture:1", &id, "capture")
            .await
            .unwrap()
            .ok()["amount_received"],
        1000
    );
    assert_eq!(sandbox.count("capture", "ok"), 1);
}

#[tokio::test]
async fn a_stored_error_stays_under_its_key_and_nothing_was_executed() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.intent("pm_card_error_stored").await;
    let first = sandbox.http.act_with_key("confirm:1", &id, "confirm").await.unwrap();
    assert_eq!(first.error(500)["type"], "api_error");
    let sandbox = sandbox.restarted().await;
    for _ in 0..3 {
        let again = sandbox.http.act_with_key("confirm:1", &id, "confirm").await.unwrap();
        assert!(again.is_replayed());
        assert_eq!((again.status, &again.text), (500, &first.text));
    }
    let seen = sandbox.http.get(&format!("/v1/payment_intents/{id}")).await.ok();
    assert_eq!(seen["status"], "requires_confirmation");
    assert_eq!(sandbox.gateway.ledger().unwrap().len(), 1, "only the creation");
    let confirmed = sandbox.http.act_with_key("confirm:2", &id, "confirm").await.unwrap();
    assert_eq!(confirmed.ok()["status"], "requires_capture");
}

#[tokio::test]
async fn answers_are_replayed_after_a_restart() {
    let sandbox = Sandbox::new().await;
    let form = [
        ("amount", "1000"),
        ("currency", "gbp"),
        ("capture_method", "manual"),
        ("payment_method", "pm_card_visa"),
    ];
    let path = "/v1/payment_intents";
    let created = sandbox.http.post_with_key("create:1", path, &form).await.unwrap();
    let id = created.ok()["id"].as_str().unwrap().to_owned();
    let captured_early = sandbox.http.act_with_key("capture:1", &id, "capture").await.unwrap();
    let confirmed = sandbox.http.act_with_key("confirm:1", &id, "confirm").await.unwrap();
    let lines = sandbox.gateway.ledger().unwrap().len();

    let sandbox = sandbox.restarted().await;
    let http = &sandbox.http;
    let again = http.post_with_key("create:1", path, &form).await.unwrap();
    assert_eq!((again.is_replayed(), &again.text), (true, &created.text));
    let again = http.act_with_key("capture:1", &id, "capture").await.unwrap();
    assert_eq!((again.status, &again.text), (400, &captured_early.text));
    let again = http.act_with_key("confirm:1", &id, "confirm").await.unwrap();
    assert_eq!((again.is_replayed(), &again.text), (true, &confirmed.text));
    let other = [("amount", "2"), ("currency", "gbp")];
    assert_eq!(
        http.post_with_key("create:1", path, &other).await.unwrap().error(400)["type"],
        "idempotency_error"
    );
    assert_eq!(sandbox.gateway.ledger().unwrap().len(), lines);
}

#[tokio::test]
async fn a_thousand_captures_at_once_take_the_money_once() {
    const CAPTURES: usize = 1_000;
    // Both ends of a connection are in this process, and many a user may have no more than 1,024 files open.
    const CONNECTIONS: usize = 200;
    let sandbox = Sandbox::new().await;
    let id = sandbox.authorised("pm_card_visa").await;
    let mut tasks = JoinSet::new();
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    for n in 0..CAPTURES {
        let (http, id, connections) = (sandbox.http.clone(), id.clone(), Arc::clone(&connections));
        // Half of them share one key, the others have each their own.
        let key = if n % 2 == 0 {
            "shared".to_owned()
        } else {
            format!("own:{n}")
        };
        tasks.spawn(async move {
            let _connection = connections.acquire().await.unwrap();
            let reply = http.act_with_key(&key, &id, "capture").await.unwrap();
            (reply.status, reply.is_replayed())
        });
    }
    let mut answers: HashMap<(u16, bool), usize> = HashMap::new();
    while let Some(answer) = tasks.join_next().await {
        *answers.entry(answer.unwrap()).or_default() += 1;
    }
    assert_eq!(answers.values().sum::<usize>(), CAPTURES);
    assert_eq!(answers.get(&(200, false)), Some(&1), "{answers:?}");
    assert!(
        answers.keys().all(|(status, _)| matches!(status, 200 | 400 | 409)),
        "{answers:?}"
    );
    assert_eq!(sandbox.count("capture", "ok"), 1);
    let seen = sandbox.http.get(&format!("/v1/payment_intents/{id}")).await.ok();
    assert_eq!(seen["amount_received"], 1000);
}
