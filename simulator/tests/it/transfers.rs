//! Transfers: made once under a key, listed, found again after a restart, on the balance.

use serde_json::json;

use crate::support::Sandbox;

const FORM: [(&str, &str); 5] = [
    ("amount", "900"),
    ("currency", "gbp"),
    ("destination", "acct_tea"),
    ("transfer_group", "payout:1"),
    ("metadata[payout_id]", "1"),
];

#[tokio::test]
async fn a_transfer_is_made_once_under_its_key_and_is_there_after_a_restart() {
    let sandbox = Sandbox::new().await;
    let made = sandbox
        .http
        .post_with_key("k", "/v1/transfers", &FORM)
        .await
        .unwrap()
        .ok();
    assert_eq!(
        (&made["object"], &made["amount"], &made["destination"]),
        (&json!("transfer"), &json!(900), &json!("acct_tea"))
    );
    let sandbox = sandbox.restarted().await;
    let again = sandbox.http.post_with_key("k", "/v1/transfers", &FORM).await.unwrap();
    assert!(again.is_replayed());
    assert_eq!(again.ok()["id"], made["id"]);
    assert_eq!(sandbox.count("transfer", "ok"), 1);

    let id = made["id"].as_str().unwrap();
    assert_eq!(sandbox.http.get(&format!("/v1/transfers/{id}")).await.ok(), made);
    for (query, expected) in [
        ("?transfer_group=payout:1", 1),
        ("?destination=acct_tea", 1),
        ("?transfer_group=other", 0),
    ] {
        let listed = sandbox.http.get(&format!("/v1/transfers{query}")).await.ok();
        assert_eq!(listed["data"].as_array().unwrap().len(), expected, "{query}");
    }
    let moved = sandbox
        .http
        .get("/v1/balance_transactions?type=transfer&expand[]=data.source")
        .await
        .ok();
    let moved = &moved["data"][0];
    assert_eq!((&moved["amount"], &moved["source"]["id"]), (&json!(-900), &made["id"]));
}

#[tokio::test]
async fn a_transfer_that_cannot_be_made_is_refused_and_its_key_stays_unused() {
    let sandbox = Sandbox::new().await;
    for (field, value, code) in [
        ("destination", "acct_closed", "account_closed"),
        ("destination", "ba_1", "resource_missing"),
        ("amount", "0", "parameter_invalid_integer"),
    ] {
        let mut form = FORM;
        for pair in form.iter_mut().filter(|(name, _)| *name == field) {
            pair.1 = value;
        }
        let refused = sandbox.http.post_with_key("k", "/v1/transfers", &form).await.unwrap();
        let error = refused.error(400);
        assert_eq!(error["code"], code, "{field}={value}: {error}");
    }
    assert_eq!(sandbox.count("transfer", "ok"), 0);
    sandbox
        .http
        .post_with_key("k", "/v1/transfers", &FORM)
        .await
        .unwrap()
        .ok();
}
