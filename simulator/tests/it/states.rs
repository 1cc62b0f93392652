//! The state machine: every operation in every state, the amounts, and what can be looked up afterwards.

use crate::support::Sandbox;

const UNEXPECTED: &str = "payment_intent_unexpected_state";

#[tokio::test]
async fn an_intent_goes_from_created_to_captured_to_refunded() {
    let sandbox = Sandbox::new().await;
    let http = &sandbox.http;
    let form = [
        ("amount", "1000"),
        ("currency", "gbp"),
        ("capture_method", "manual"),
        ("payment_method", "pm_card_visa"),
        ("metadata[payment_id]", "p-1"),
        ("metadata[order_id]", "o-1"),
    ];
    let created = http.post("/v1/payment_intents", &form).await.ok();
    assert_eq!(created["status"], "requires_confirmation");
    assert_eq!(created["amount_capturable"], 0);
    assert_eq!(created["metadata"]["payment_id"], "p-1");
    let id = created["id"].as_str().unwrap();

    let confirmed = http.act(id, "confirm").await.ok();
    assert_eq!(confirmed["status"], "requires_capture");
    assert_eq!(confirmed["amount_capturable"], 1000);
    assert_eq!(confirmed["amount_received"], 0);

    let captured = http.act(id, "capture").await.ok();
    assert_eq!(captured["status"], "succeeded");
    assert_eq!(captured["amount_capturable"], 0);
    assert_eq!(captured["amount_received"], 1000);

    let part = http
        .post("/v1/refunds", &[("payment_intent", id), ("amount", "400")])
        .await
        .ok();
    assert_eq!(part["amount"], 400);
    let rest = http.post("/v1/refunds", &[("payment_intent", id)]).await.ok();
    assert_eq!(rest["amount"], 600);
    let (code, _) = http.post("/v1/refunds", &[("payment_intent", id)]).await.refused();
    assert_eq!(code, "charge_already_refunded");

    let intent = http
        .get(&format!("/v1/payment_intents/{id}?expand[]=latest_charge"))
        .await
        .ok();
    assert_eq!(intent["latest_charge"]["amount_refunded"], 1000);
    assert_eq!(intent["latest_charge"]["refunded"], true);
    let lines = sandbox.gateway.ledger().unwrap();
    let ops: Vec<_> = lines
        .iter()
        .map(|line| (line["op"].as_str().unwrap(), line["outcome"].as_str().unwrap()))
        .collect();
    let expected = [
        ("create", "ok"),
        ("confirm", "ok"),
        ("capture", "ok"),
        ("refund", "ok"),
        ("refund", "ok"),
        ("refund", "refused"),
    ];
    assert_eq!(ops, expected);
    assert!(
        lines
            .iter()
            .all(|line| line["metadata"]["order_id"] == "o-1" && line["intent"] == id)
    );
    assert_eq!(lines[2]["amount_received"], 1000);
    assert_eq!(lines[3]["refund"], part["id"]);
}

#[tokio::test]
async fn each_operation_is_refused_in_the_wrong_state() {
    let sandbox = Sandbox::new().await;
    let http = &sandbox.http;
    let new = sandbox.intent("pm_card_visa").await;
    assert_eq!(http.act(&new, "capture").await.refused().0, UNEXPECTED);

    let authorised = sandbox.authorised("pm_card_visa").await;
    assert_eq!(http.act(&authorised, "confirm").await.refused().0, UNEXPECTED);
    assert_eq!(
        http.post("/v1/refunds", &[("payment_intent", &authorised)])
            .await
            .refused()
            .0,
        UNEXPECTED
    );

    let captured = sandbox.authorised("pm_card_visa").await;
    http.act(&captured, "capture").await.ok();
    for act in ["confirm", "capture", "cancel"] {
        let reply = http.act(&captured, act).await;
        assert_eq!(reply.refused().0, UNEXPECTED, "{act}");
        assert_eq!(reply.error(400)["payment_intent"]["status"], "succeeded");
    }

    for method in ["created", "authorised"] {
        let id = match method {
            "created" => sandbox.intent("pm_card_visa").await,
            _ => sandbox.authorised("pm_card_visa").await,
        };
        let canceled = http.act(&id, "cancel").await.ok();
        assert_eq!(canceled["status"], "canceled");
        assert_eq!(canceled["amount_capturable"], 0);
        for act in ["confirm", "capture", "cancel"] {
            assert_eq!(
                http.act(&id, act).await.refused().0,
                UNEXPECTED,
                "{act} of an intent canceled when {method}"
            );
        }
        assert_eq!(
            http.post("/v1/refunds", &[("payment_intent", &id)]).await.refused().0,
            UNEXPECTED
        );
    }
}

#[tokio::test]
async fn automatic_capture_takes_the_money_at_once() {
    let sandbox = Sandbox::new().await;
    let form = [
        ("amount", "250"),
        ("currency", "eur"),
        ("payment_method", "pm_card_mastercard"),
        ("confirm", "true"),
    ];
    let intent = sandbox.http.post("/v1/payment_intents", &form).await.ok();
    assert_eq!(intent["status"], "succeeded");
    assert_eq!(intent["amount_received"], 250);
    assert_eq!(sandbox.count("create", "ok"), 1);
    assert_eq!(sandbox.count("confirm", "ok"), 1);
}

#[tokio::test]
async fn a_partial_capture_releases_the_rest() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.authorised("pm_card_visa").await;
    let path = format!("/v1/payment_intents/{id}/capture");
    let (code, param) = sandbox
        .http
        .post(&path, &[("amount_to_capture", "1001")])
        .await
        .refused();
    assert_eq!(
        (code.as_str(), param.as_str()),
        ("amount_too_large", "amount_to_capture")
    );
    let captured = sandbox.http.post(&path, &[("amount_to_capture", "300")]).await.ok();
    assert_eq!(
        (
            captured["amount_received"].as_i64(),
            captured["amount_capturable"].as_i64()
        ),
        (Some(300), Some(0))
    );
    let (_, param) = sandbox
        .http
        .post("/v1/refunds", &[("payment_intent", &id), ("amount", "301")])
        .await
        .refused();
    assert_eq!(param, "amount");
}

#[tokio::test]
async fn a_declined_card_can_be_replaced_by_another_one() {
    let sandbox = Sandbox::new().await;
    for (method, code, decline_code) in [
        ("pm_card_chargeDeclined", "card_declined", Some("generic_decline")),
        (
            "pm_card_chargeDeclinedInsufficientFunds",
            "card_declined",
            Some("insufficient_funds"),
        ),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", None),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", None),
    ] {
        let id = sandbox.intent(method).await;
        let error = sandbox.http.act(&id, "confirm").await.error(402);
        assert_eq!(error["type"], "card_error");
        assert_eq!(error["code"], code);
        assert_eq!(error["decline_code"].as_str(), decline_code);
        assert_eq!(error["payment_intent"]["status"], "requires_payment_method");
        assert_eq!(error["payment_intent"]["last_payment_error"]["code"], code);
        assert_eq!(
            sandbox.http.act(&id, "confirm").await.refused().0,
            UNEXPECTED,
            "it has no method any more"
        );
        let path = format!("/v1/payment_intents/{id}/confirm");
        let confirmed = sandbox
            .http
            .post(&path, &[("payment_method", "pm_card_visa")])
            .await
            .ok();
        assert_eq!(confirmed["status"], "requires_capture");
    }
    assert_eq!(sandbox.count("confirm", "declined"), 4);
    let charges = sandbox.http.get("/v1/charges?limit=100").await.ok();
    let failed = charges["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|charge| charge["status"] == "failed")
        .count();
    assert_eq!((failed, charges["data"].as_array().unwrap().len()), (4, 8));
}

#[tokio::test]
async fn a_capture_can_be_declined_and_then_given_up() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.authorised("pm_card_capture_declined").await;
    assert_eq!(
        sandbox.http.act(&id, "capture").await.error(402)["decline_code"],
        "generic_decline"
    );
    assert_eq!(sandbox.http.act(&id, "cancel").await.ok()["status"], "canceled");
    assert_eq!(sandbox.count("capture", "declined"), 1);
}

#[tokio::test]
async fn lists_are_newest_first_and_page_without_gaps() {
    let sandbox = Sandbox::new().await;
    let mut created = Vec::new();
    for _ in 0..5 {
        created.insert(0, sandbox.intent("pm_card_visa").await);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/payment_intents?limit=2".to_owned();
    loop {
        let page = sandbox.http.get(&path).await.ok();
        seen.extend(
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|intent| intent["id"].as_str().unwrap().to_owned()),
        );
        if page["has_more"] == false {
            break;
        }
        path = format!("/v1/payment_intents?limit=2&starting_after={}", seen.last().unwrap());
    }
    assert_eq!(seen, created);
    let before = sandbox
        .http
        .get(&format!("/v1/payment_intents?limit=2&ending_before={}", created[3]))
        .await
        .ok();
    assert_eq!(before["data"][0]["id"], created[1].as_str());
    assert_eq!(before["data"][1]["id"], created[2].as_str());
    assert_eq!(before["has_more"], true);
}

#[tokio::test]
async fn an_intent_is_found_by_its_metadata() {
    let sandbox = Sandbox::new().await;
    for payment in ["a", "b"] {
        let form = [
            ("amount", "1000"),
            ("currency", "gbp"),
            ("metadata[payment_id]", payment),
        ];
        sandbox.http.post("/v1/payment_intents", &form).await.ok();
    }
    let search = |query: &'static str| {
        let request = sandbox
            .http
            .request("GET", &format!("/v1/payment_intents/search?{query}"));
        async { sandbox.http.send(request).await.unwrap() }
    };
    let found = search("query=metadata%5B%27payment_id%27%5D%3A%27b%27").await.ok();
    assert_eq!(found["object"], "search_result");
    assert_eq!(found["data"].as_array().unwrap().len(), 1);
    assert_eq!(found["data"][0]["metadata"]["payment_id"], "b");
    assert_eq!(
        search("query=metadata%5B%27payment_id%27%5D%3A%27c%27").await.ok()["data"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    let page = search("query=status:%27requires_payment_method%27&limit=1").await.ok();
    assert_eq!(page["has_more"], true);
    assert_eq!(page["data"][0]["metadata"]["payment_id"], "b");
    let next = search("query=status:%27requires_payment_method%27&limit=1&page=page_1")
        .await
        .ok();
    assert_eq!(next["data"][0]["metadata"]["payment_id"], "a");
}

#[tokio::test]
async fn refunds_and_charges_are_found_by_intent() {
    let sandbox = Sandbox::new().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = sandbox.authorised("pm_card_visa").await;
        sandbox.http.act(&id, "capture").await.ok();
        sandbox
            .http
            .post("/v1/refunds", &[("payment_intent", &id), ("amount", "10")])
            .await
            .ok();
        ids.push(id);
    }
    let refunds = sandbox
        .http
        .get(&format!("/v1/refunds?payment_intent={}", ids[0]))
        .await
        .ok();
    assert_eq!(refunds["data"].as_array().unwrap().len(), 1);
    let refund = &refunds["data"][0];
    assert_eq!(refund["payment_intent"], ids[0].as_str());
    let one = sandbox
        .http
        .get(&format!("/v1/refunds/{}", refund["id"].as_str().unwrap()))
        .await
        .ok();
    assert_eq!(&one, refund);
    let charges = sandbox
        .http
        .get(&format!("/v1/charges?payment_intent={}", ids[0]))
        .await
        .ok();
    assert_eq!(charges["data"].as_array().unwrap().len(), 1);
    assert_eq!(charges["data"][0]["id"], refund["charge"]);
    let by_charge = [("charge", refund["charge"].as_str().unwrap()), ("amount", "5")];
    assert_eq!(
        sandbox.http.post("/v1/refunds", &by_charge).await.ok()["payment_intent"],
        ids[0].as_str()
    );
}
