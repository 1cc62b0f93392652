//! Sellers, payouts and orphan charges over HTTP.

use axum::http::{Method, StatusCode};
use domain::services::Settings;
use serde_json::{Value, json};
use simulator::gateway;

use crate::app::App;

fn a_seller(name: &str) -> Value {
    json!({"name": name, "destination": "acct_tea", "currency": "GBP", "commission_bp": 1000})
}

#[tokio::test]
async fn a_seller_is_made_changed_credited_and_paid() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.jsonl");
    let gateway = gateway::start(gateway::Config {
        port: 0,
        ledger,
        seed: 0,
    })
    .await
    .unwrap();
    let settings = Settings {
        cancel_window: std::time::Duration::ZERO,
        ..Settings::default()
    };
    let app = App::with(&gateway.url(), settings).await;
    let made = app.post("/api/v1/sellers", a_seller("Tea Garden")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let path = made.header("location").unwrap().to_owned();
    let id = made.json()["id"].clone();

    let product = app.product("TEA", 10).await;
    let body = Some(json!({ "seller_id": id }));
    let said = app
        .send(Method::PUT, &format!("/api/v1/products/{product}/seller"), &[], body)
        .await;
    assert_eq!(said.status, StatusCode::NO_CONTENT, "{said:?}");
    let order = json!({"customer_id": app.customer().await, "lines": [{"sku": "TEA", "qty": 2}], "payment_method": "pm_card_visa"});
    let order = app
        .post_with(
            "/api/v1/orchestrations/create-and-confirm",
            &[("idempotency-key", "k")],
            order,
        )
        .await;
    assert_eq!(order.status, StatusCode::ACCEPTED, "{order:?}");
    app.work().await;
    let total = app.get("/api/v1/payments").await.json()["items"][0]["captured_minor"]
        .as_i64()
        .unwrap();
    let owed = total - total / 10;
    assert_eq!(app.get(&path).await.json()["balance_minor"], owed);

    let version = app.get(&path).await.header("etag").unwrap().to_owned();
    let patch = Some(json!({ "payout_min_minor": owed, "destination": "acct_new" }));
    let changed = app
        .send(Method::PATCH, &path, &[("if-match", &version)], patch.clone())
        .await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    let stale = app.send(Method::PATCH, &path, &[("if-match", &version)], patch).await;
    assert_eq!(stale.problem(), "412 version_mismatch");

    let paying = app.post(&format!("{path}/payouts"), json!({})).await;
    assert_eq!(paying.status, StatusCode::ACCEPTED, "{paying:?}");
    app.work().await;
    let payouts = app
        .get(&format!("/api/v1/payouts?seller_id={}", id.as_str().unwrap()))
        .await
        .json();
    let payout = &payouts["items"][0];
    assert_eq!(
        (&payout["state"], &payout["amount_minor"]),
        (&json!("paid"), &json!(owed))
    );
    assert_eq!(payout["destination"], "acct_new");

    let mut sums = 0;
    let mut accounts = Vec::new();
    let mut page = format!("{path}/entries?limit=2");
    loop {
        let entries = app.get(&page).await.json();
        for entry in entries["items"].as_array().unwrap() {
            sums += entry["amount_minor"].as_i64().unwrap();
            accounts.push(entry["account"].as_str().unwrap().to_owned());
        }
        match entries["next_cursor"].as_str() {
            Some(cursor) => page = format!("{path}/entries?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(sums, 0);
    assert_eq!(accounts, ["payouts", "seller", "seller", "commission", "sales"]);
}

#[tokio::test]
async fn bad_sellers_are_refused_and_nothing_is_written() {
    let app = App::new().await;
    let made = app.post("/api/v1/sellers", a_seller("Tea Garden")).await.json();
    let path = format!("/api/v1/sellers/{}", made["id"].as_str().unwrap());
    let with = |field: &str, value: Value| {
        let mut body = a_seller("Other");
        body[field] = value;
        body
    };
    for (body, problem) in [
        (a_seller("Tea Garden"), "409 name_taken /name:name_taken"),
        (
            with("destination", json!("GB33BUKB20201555555555")),
            "422 validation_failed /destination:invalid",
        ),
        (
            with("commission_bp", json!(10_001)),
            "422 validation_failed /commission_bp:out_of_range",
        ),
        (
            with("payout_min_minor", json!(0)),
            "422 validation_failed /payout_min_minor:out_of_range",
        ),
        (with("nmae", json!("x")), "422 validation_failed /nmae:unknown_field"),
    ] {
        assert_eq!(
            app.post("/api/v1/sellers", body.clone()).await.problem(),
            problem,
            "{body}"
        );
    }
    assert_eq!(
        app.get("/api/v1/sellers").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let product = app.product("TEA", 1).await;
    let of = |id: Value| {
        let path = format!("/api/v1/products/{product}/seller");
        let app = &app;
        async move {
            app.send(Method::PUT, &path, &[], Some(json!({ "seller_id": id })))
                .await
        }
    };
    let nobody = json!("00000000-0000-7000-8000-000000000001");
    assert_eq!(of(nobody.clone()).await.problem(), "404 not_found");
    let euros = app.post("/api/v1/sellers", with("currency", json!("EUR"))).await.json();
    assert_eq!(of(euros["id"].clone()).await.problem(), "409 other_currency");
    assert_eq!(of(made["id"].clone()).await.status, StatusCode::NO_CONTENT);
    assert_eq!(of(Value::Null).await.status, StatusCode::NO_CONTENT);
    let missing = format!("/api/v1/sellers/{}/payouts", nobody.as_str().unwrap());
    assert_eq!(app.post(&missing, json!({})).await.problem(), "404 not_found");
    assert_eq!(
        app.get(&format!("{path}/entries?limit=0")).await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn orphan_charges_say_why_and_what_to_do_until_somebody_resolves_them() {
    let app = App::new().await;
    let conn = &mut app.db.connect().await;
    sqlx::raw_sql(
        "insert into orphan_charges (movement, intent, amount_minor, currency, moved_at, seen_at)
         select 'txn_' || n, case when n = 1 then 'pi_x' end, case when n = 3 then -500 else 500 end, 'gbp', now(), now() + n * interval '1 s'
         from generate_series(1, 3) n",
    )
    .execute(conn)
    .await
    .unwrap();
    let mut seen = Vec::new();
    let mut page = "/api/v1/orphan-charges?limit=2".to_owned();
    loop {
        let orphans = app.get(&page).await.json();
        for orphan in orphans["items"].as_array().unwrap() {
            let (why, remedy) = (orphan["why"].as_str().unwrap(), orphan["remedy"].as_str().unwrap());
            assert!(remedy.contains(orphan["movement"].as_str().unwrap()), "{orphan}");
            seen.push(format!("{}: {why}", orphan["movement"].as_str().unwrap()));
        }
        match orphans["next_cursor"].as_str() {
            Some(cursor) => page = format!("/api/v1/orphan-charges?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 3);
    assert!(seen[0].starts_with("txn_3: money went out"), "{seen:?}");
    assert!(seen[1].starts_with("txn_2: money came in without"), "{seen:?}");
    assert!(seen[2].starts_with("txn_1: pi_x took money"), "{seen:?}");

    let resolve = async |movement: &str, text: &str| {
        let path = format!("/api/v1/orphan-charges/{movement}/resolve");
        app.post(&path, json!({ "resolution": text })).await
    };
    assert_eq!(resolve("txn_9", "x").await.problem(), "404 not_found");
    assert_eq!(
        resolve("txn_1", "").await.problem(),
        "422 validation_failed /resolution:too_short"
    );
    let resolved = resolve("txn_1", "refunded by Ann").await.json();
    assert_eq!(
        (&resolved["resolved_by"], &resolved["resolution"]),
        (&json!("tester"), &json!("refunded by Ann"))
    );
    let again = resolve("txn_1", "something else").await.json();
    assert_eq!(again["resolution"], "refunded by Ann");
    let count = async |query: &str| {
        let orphans = app.get(&format!("/api/v1/orphan-charges{query}")).await.json();
        orphans["items"].as_array().unwrap().len()
    };
    assert_eq!((count("").await, count("?state=all").await), (2, 3));
    assert_eq!(
        app.get("/api/v1/orphan-charges?state=closed").await.status,
        StatusCode::BAD_REQUEST
    );
}
