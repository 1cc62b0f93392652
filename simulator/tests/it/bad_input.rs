//! Everything that can be wrong with a request: a clear error naming the parameter, and nothing written.

use crate::support::Sandbox;

/// Where a form is sent, the form, and the code and parameter of the refusal.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);

#[tokio::test]
async fn wrong_parameters_are_named_and_nothing_is_written() {
    let sandbox = Sandbox::new().await;
    let long = "x".repeat(501);
    let long_key = format!("metadata[{}]", "k".repeat(41));
    let create = "/v1/payment_intents";
    let cases: &[Case] = &[
        (create, &[], "parameter_missing", "amount"),
        (create, &[("amount", "1")], "parameter_missing", "currency"),
        (
            create,
            &[("amount", ""), ("currency", "gbp")],
            "parameter_invalid_integer",
            "amount",
        ),
        (
            create,
            &[("amount", "1.5"), ("currency", "gbp")],
            "parameter_invalid_integer",
            "amount",
        ),
        (
            create,
            &[("amount", "ten"), ("currency", "gbp")],
            "parameter_invalid_integer",
            "amount",
        ),
        (
            create,
            &[("amount", "0"), ("currency", "gbp")],
            "parameter_invalid_integer",
            "amount",
        ),
        (
            create,
            &[("amount", "-5"), ("currency", "gbp")],
            "parameter_invalid_integer",
            "amount",
        ),
        (
            create,
            &[("amount", "100000000"), ("currency", "gbp")],
            "amount_too_large",
            "amount",
        ),
        (
            create,
            &[("amount", "99999999999999999999"), ("currency", "gbp")],
            "amount_too_large",
            "amount",
        ),
        (
            create,
            &[("amount", "1"), ("amount", "2"), ("currency", "gbp")],
            "",
            "amount",
        ),
        (create, &[("amount", "1"), ("currency", "GBP")], "", "currency"),
        (create, &[("amount", "1"), ("currency", "pounds")], "", "currency"),
        (
            create,
            &[("amount", "1"), ("currency", "gbp"), ("capture_method", "later")],
            "",
            "capture_method",
        ),
        (
            create,
            &[("amount", "1"), ("currency", "gbp"), ("confirm", "yes")],
            "",
            "confirm",
        ),
        (
            create,
            &[("amount", "1"), ("currency", "gbp"), ("confirm", "true")],
            "payment_intent_unexpected_state",
            "payment_method",
        ),
        (
            create,
            &[("amount", "1"), ("currency", "gbp"), ("payment_method", "pm_none")],
            "resource_missing",
            "payment_method",
        ),
        (
            create,
            &[("amount", "1"), ("currency", "gbp"), ("colour", "red")],
            "parameter_unknown",
            "colour",
        ),
        (
            create,
            &[("amount", "1"), ("currency", "gbp"), ("metadata", "x")],
            "parameter_unknown",
            "metadata",
        ),
        (
            create,
            &[("amount", "1"), ("currency", "gbp"), ("metadata[a]", &long)],
            "",
            "metadata[a]",
        ),
        (
            create,
            &[("amount", "1"), ("currency", "gbp"), (&long_key, "v")],
            "",
            &long_key,
        ),
        (
            create,
            &[("amount", "1"), ("currency", "gbp"), ("expand[]", "customer.pets")],
            "",
            "expand[]",
        ),
        ("/v1/refunds", &[], "parameter_missing", "payment_intent"),
        (
            "/v1/refunds",
            &[("payment_intent", "pi_x"), ("charge", "ch_x")],
            "",
            "charge",
        ),
        (
            "/v1/refunds",
            &[("payment_intent", "pi_none")],
            "resource_missing",
            "payment_intent",
        ),
        ("/v1/refunds", &[("charge", "ch_none")], "resource_missing", "charge"),
        (
            "/v1/refunds",
            &[("payment_intent", "pi_x"), ("reason", "bored")],
            "",
            "reason",
        ),
    ];
    for (path, form, code, param) in cases {
        let refused = sandbox.http.post(path, form).await.refused();
        assert_eq!(refused, ((*code).to_owned(), (*param).to_owned()), "{path} {form:?}");
    }
    assert!(sandbox.gateway.ledger().unwrap().is_empty());

    let id = sandbox.authorised("pm_card_visa").await;
    let acts: &[Case] = &[
        (
            "capture",
            &[("amount_to_capture", "0")],
            "parameter_invalid_integer",
            "amount_to_capture",
        ),
        (
            "capture",
            &[("amount_to_capture", "x")],
            "parameter_invalid_integer",
            "amount_to_capture",
        ),
        ("capture", &[("final_capture", "false")], "", "final_capture"),
        ("capture", &[("amount", "5")], "parameter_unknown", "amount"),
        (
            "cancel",
            &[("cancellation_reason", "because")],
            "",
            "cancellation_reason",
        ),
        (
            "confirm",
            &[("payment_method", "card_1")],
            "resource_missing",
            "payment_method",
        ),
    ];
    for (act, form, code, param) in acts {
        let refused = sandbox
            .http
            .post(&format!("/v1/payment_intents/{id}/{act}"), form)
            .await
            .refused();
        assert_eq!(refused, ((*code).to_owned(), (*param).to_owned()), "{act} {form:?}");
    }
    for (path, param) in [
        ("/v1/payment_intents?limit=0", "limit"),
        ("/v1/payment_intents?limit=101", "limit"),
        ("/v1/payment_intents?starting_after=pi_none", "starting_after"),
        ("/v1/payment_intents?starting_after=a&ending_before=b", "ending_before"),
        ("/v1/payment_intents/search", "query"),
        ("/v1/payment_intents/search?query=amount", "query"),
        ("/v1/payment_intents/search?query=status:'x'&page=7", "page"),
        ("/v1/refunds?colour=red", "colour"),
    ] {
        assert_eq!(sandbox.http.get(path).await.refused().1, param, "{path}");
    }
    assert_eq!(
        sandbox.gateway.ledger().unwrap().len(),
        2,
        "creation and confirmation, nothing since"
    );
}

#[tokio::test]
async fn card_numbers_are_refused_and_never_repeated() {
    let sandbox = Sandbox::new().await;
    let number = "4242424242424242";
    for (name, value) in [
        ("payment_method", number),
        ("payment_method", "4242 4242 4242 4242"),
        ("payment_method_data[card][number]", number),
        ("payment_method_data[type]", "card"),
        ("source[number]", number),
        ("card[number]", number),
        ("number", number),
    ] {
        let form = [("amount", "1"), ("currency", "gbp"), (name, value)];
        let reply = sandbox.http.post("/v1/payment_intents", &form).await;
        assert!(
            reply.error(400)["message"].as_str().unwrap().contains("pm_card_visa"),
            "{}",
            reply.text
        );
        assert!(!reply.text.contains("4242"), "{}", reply.text);
    }
    assert!(sandbox.gateway.ledger().unwrap().is_empty());
}

#[tokio::test]
async fn unknown_objects_and_addresses_are_404() {
    let sandbox = Sandbox::new().await;
    for (method, path) in [
        ("GET", "/v1/payment_intents/pi_none"),
        ("POST", "/v1/payment_intents/pi_none/confirm"),
        ("POST", "/v1/payment_intents/pi_none/capture"),
        ("POST", "/v1/payment_intents/pi_none/cancel"),
        ("GET", "/v1/refunds/re_none"),
        ("GET", "/v1/charges/ch_none"),
    ] {
        let reply = sandbox.http.send(sandbox.http.request(method, path)).await.unwrap();
        assert_eq!(reply.error(404)["code"], "resource_missing", "{path}");
    }
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1/nothing"),
        ("DELETE", "/v1/payment_intents"),
        ("PUT", "/v1/refunds"),
    ] {
        let reply = sandbox.http.send(sandbox.http.request(method, path)).await.unwrap();
        assert_eq!(reply.error(404)["type"], "invalid_request_error", "{method} {path}");
    }
}

#[tokio::test]
async fn only_test_keys_are_let_in() {
    let sandbox = Sandbox::new().await;
    let path = "/v1/payment_intents";
    let request = || sandbox.http.bare("GET", path);
    for request in [
        request(),
        request().bearer_auth("sk_live_1"),
        request().bearer_auth("sk_test_"),
        request().header("authorization", "Bearer"),
        request().header("authorization", "Basic !!!"),
        request().header("authorization", "Digest sk_test_1"),
        request().basic_auth("pk_test_1", None::<&str>),
    ] {
        let reply = sandbox.http.send(request).await.unwrap();
        assert_eq!(reply.error(401)["type"], "invalid_request_error");
        assert!(reply.headers.contains_key("www-authenticate") && reply.headers.contains_key("request-id"));
    }
    sandbox
        .http
        .send(request().bearer_auth("sk_test_1"))
        .await
        .unwrap()
        .ok();
    sandbox
        .http
        .send(request().basic_auth("sk_test_1", Some("")))
        .await
        .unwrap()
        .ok();
    assert_eq!(
        sandbox
            .http
            .send(sandbox.http.bare("GET", "/livez"))
            .await
            .unwrap()
            .status,
        200
    );
}

#[tokio::test]
async fn bodies_that_are_no_forms_are_refused() {
    let sandbox = Sandbox::new().await;
    let post = || sandbox.http.request("POST", "/v1/payment_intents");
    let form = "application/x-www-form-urlencoded";
    let many = "a=1&".repeat(201);
    let metadata: String = (0..51).map(|n| format!("&metadata[k{n}]=v")).collect();
    for (request, status) in [
        (
            post().header("content-type", "application/json").body("{\"amount\":1}"),
            400,
        ),
        (post().body("amount=1&currency=gbp"), 400),
        (post().header("content-type", form).body("amount=%ff&currency=gbp"), 400),
        (
            post().header("content-type", form).body("amount=1%00&currency=gbp"),
            400,
        ),
        (post().header("content-type", form).body("=1"), 400),
        (post().header("content-type", form).body(many), 400),
        (
            post()
                .header("content-type", form)
                .body(format!("amount=1&currency=gbp{metadata}")),
            400,
        ),
        (post().header("content-type", form).body("x".repeat(64 * 1024 + 1)), 413),
        (post().header("idempotency-key", "k".repeat(256)), 400),
        (post().header("idempotency-key", ""), 400),
        (
            sandbox
                .http
                .request("POST", "/v1/payment_intents?amount=1&currency=gbp"),
            400,
        ),
    ] {
        let reply = sandbox.http.send(request).await.unwrap();
        assert!(!reply.error(status)["message"].as_str().unwrap().is_empty());
    }
    assert!(sandbox.gateway.ledger().unwrap().is_empty());
}
