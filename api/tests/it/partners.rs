//! Partners, their keys, and what they send us.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use domain::webhooks::sign;
use serde_json::{Value, json};

use crate::app::{Answer, App};

struct Partner {
    id: String,
    name: String,
    secret: String,
    key: String,
}

impl App {
    async fn partner(&self, name: &str) -> Partner {
        let made = self
            .post("/api/v1/partners", json!({"name": name, "event_types": ["order.*"]}))
            .await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        let made = made.json();
        assert_eq!(made["inbound_path"], format!("/webhooks/in/{name}"));
        let id = made["id"].as_str().unwrap().to_owned();
        let key = self.post(&format!("/api/v1/partners/{id}/api-keys"), Value::Null).await;
        Partner {
            id,
            name: name.to_owned(),
            secret: made["inbound_secret"].as_str().unwrap().to_owned(),
            key: key.json()["key"].as_str().unwrap().to_owned(),
        }
    }

    /// A request with a partner's key instead of ours.
    async fn by(&self, partner: &Partner, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-api-key", &partner.key);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
        self.raw(request.body(body).unwrap()).await
    }

    /// The code that an endpoint's address was sent last.
    async fn code_of(&self, endpoint: &str) -> String {
        let id: uuid::Uuid = endpoint.rsplit('/').next().unwrap().parse().unwrap();
        let payload: String = sqlx::query_scalar(
            "select payload from events where endpoint_id = $1 and type = 'endpoint.challenge' order by id desc limit 1",
        )
        .bind(id)
        .fetch_one(&self.db.pool)
        .await
        .expect("a challenge");
        let payload: Value = serde_json::from_str(&payload).unwrap();
        payload["data"]["code"].as_str().unwrap().to_owned()
    }

    /// Confirms an endpoint as a partner that received the challenge.
    async fn confirm(&self, partner: &Partner, endpoint: &str) {
        let code = json!({"code": self.code_of(endpoint).await});
        let confirmed = self
            .by(partner, Method::POST, &format!("{endpoint}/confirm"), Some(code))
            .await;
        assert_eq!(
            (confirmed.status, &confirmed.json()["state"]),
            (StatusCode::OK, &json!("active")),
            "{confirmed:?}"
        );
    }

    /// What a partner sends: signed that many seconds ago, with that secret.
    async fn inbound(&self, partner: &str, secret: &str, id: &str, seconds_ago: i64, body: &str) -> Answer {
        let timestamp = chrono::Utc::now().timestamp() - seconds_ago;
        let signature = sign::signatures(&[secret.to_owned()], id, timestamp, body);
        self.arrives(partner, id, timestamp, &signature, body).await
    }

    async fn arrives(&self, partner: &str, id: &str, timestamp: i64, signature: &str, body: &str) -> Answer {
        let request = Request::post(format!("/webhooks/in/{partner}"))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature);
        self.raw(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// What became of what a partner sent: `id state reason duplicates`, oldest first.
    async fn inbound_of(&self, partner: &Partner) -> Vec<String> {
        let page = self
            .get(&format!("/api/v1/partners/{}/inbound", partner.id))
            .await
            .json();
        let line = |item: &Value| {
            let text = |name: &str| item[name].as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {}",
                text("event_id"),
                text("state"),
                text("reason"),
                item["duplicates"]
            )
        };
        let mut lines: Vec<String> = page["items"].as_array().unwrap().iter().map(line).collect();
        lines.reverse();
        lines
    }
}

const PING: &str = r#"{"type":"ping"}"#;

#[tokio::test]
async fn a_webhook_is_kept_once_and_processed_by_a_job() {
    let app = App::new().await;
    let partner = app.partner("acme").await;
    let kept = app.inbound("acme", &partner.secret, "e1", 0, PING).await;
    assert_eq!(
        (kept.status, kept.text.as_str()),
        (StatusCode::ACCEPTED, r#"{"status":"accepted"}"#)
    );
    // Again before and after its job, by name and by id: known, and nothing more.
    for address in ["acme", &partner.id] {
        let again = app.inbound(address, &partner.secret, "e1", 0, PING).await;
        assert_eq!(
            (again.status, again.text.as_str()),
            (StatusCode::OK, r#"{"status":"duplicate"}"#)
        );
        app.work().await;
    }
    let unknown = app
        .inbound("acme", &partner.secret, "e2", 0, r#"{"type":"invoice.paid","data":7}"#)
        .await;
    assert_eq!(unknown.status, StatusCode::ACCEPTED);
    app.work().await;
    assert_eq!(
        app.inbound_of(&partner).await,
        ["e1 processed - 2", "e2 ignored unknown_type 0"]
    );
    let jobs: i64 = sqlx::query_scalar("select count(*) from queue.finished_jobs where kind = 'process_inbound'")
        .fetch_one(&app.db.pool)
        .await
        .unwrap();
    assert_eq!(jobs, 2);
}

#[tokio::test]
async fn what_a_partner_did_not_sign_just_now_is_counted_and_not_kept() {
    let app = App::new().await;
    let partner = app.partner("acme").await;
    let other = app.partner("other").await;
    let now = chrono::Utc::now().timestamp();
    let good = sign::signatures(std::slice::from_ref(&partner.secret), "e1", now, PING);
    let refused = [
        app.arrives("acme", "e1", now, &good, r#"{"type":"pong"}"#).await,
        app.arrives("acme", "e2", now, &good, PING).await,
        app.arrives("acme", "e1", now + 1, &good, PING).await,
        app.arrives("acme", "e1", now, "", PING).await,
        app.arrives("acme", "e1", now, &good[..20], PING).await,
        app.inbound("acme", &other.secret, "e1", 0, PING).await,
        app.inbound("acme", &partner.secret, "e1", 310, PING).await,
        app.inbound("acme", &partner.secret, "e1", -310, PING).await,
        app.raw(Request::post("/webhooks/in/acme").body(Body::from(PING)).unwrap())
            .await,
        app.inbound("nobody", &partner.secret, "e1", 0, PING).await,
    ];
    for answer in &refused {
        assert_eq!(answer.problem(), "401 webhook_rejected");
        assert_eq!(
            answer.json()["detail"],
            refused[0].json()["detail"],
            "which it was does not show"
        );
    }
    let seen = app.get(&format!("/api/v1/partners/{}", partner.id)).await.json();
    assert_eq!(seen["rejected"], 9);
    let large = format!(r#"{{"type":"{}"}}"#, "x".repeat(256 * 1024));
    assert_eq!(
        app.inbound("acme", &partner.secret, "e1", 0, &large).await.problem(),
        "413 body_too_large"
    );
    for malformed in ["", "[]", "{}", r#"{"type":7}"#, r#"{"type":""}"#, "\u{0}"] {
        assert_eq!(
            app.inbound("acme", &partner.secret, "e1", 0, malformed).await.problem(),
            "400 webhook_malformed",
            "{malformed}"
        );
    }
    assert_eq!(app.inbound_of(&partner).await, Vec::<String>::new());
    assert_eq!(
        app.inbound("acme", &partner.secret, "e1", 290, PING).await.status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn replaced_inbound_secrets_are_accepted_as_long_as_was_said() {
    let app = App::new().await;
    let partner = app.partner("acme").await;
    let path = format!("/api/v1/partners/{}/rotate-secret", partner.id);
    let rotated = |answer: Answer| answer.json()["inbound_secret"].as_str().unwrap().to_owned();
    let second = rotated(app.post(&path, Value::Null).await);
    for (id, secret) in [("e1", &partner.secret), ("e2", &second)] {
        assert_eq!(
            app.inbound("acme", secret, id, 0, PING).await.status,
            StatusCode::ACCEPTED
        );
    }
    sqlx::query("update partners set old_secrets_until = clock_timestamp()")
        .execute(&app.db.pool)
        .await
        .unwrap();
    assert_eq!(
        app.inbound("acme", &partner.secret, "e3", 0, PING).await.status,
        StatusCode::UNAUTHORIZED
    );
    let third = rotated(app.post(&path, json!({"overlap_hours": 0})).await);
    assert_eq!(
        app.inbound("acme", &second, "e3", 0, PING).await.status,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        app.inbound("acme", &third, "e3", 0, PING).await.status,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        app.post(&path, json!({"overlap_hours": 169})).await.problem(),
        "422 validation_failed /overlap_hours:out_of_range"
    );
}

#[tokio::test]
async fn a_partner_cancels_its_own_order_by_webhook_and_no_other() {
    let app = App::new().await;
    let partner = app.partner("acme").await;
    app.product("TEA", 100).await;
    let customer = app.customer().await;
    let order = json!({"customer_id": customer, "lines": [{"sku": "TEA", "qty": 1}]});
    let own = app.by(&partner, Method::POST, "/api/v1/orders", Some(order)).await;
    assert_eq!(own.status, StatusCode::ACCEPTED, "{own:?}");
    let own = own.json()["id"].as_str().unwrap().to_owned();
    let ours = app.reserved("TEA", 1).await["id"].as_str().unwrap().to_owned();
    let nobodys = uuid::Uuid::now_v7().to_string();
    for (event, order) in [("e1", &own), ("e2", &ours), ("e3", &nobodys), ("e4", &own)] {
        let body = json!({"type": "order.cancel_requested", "data": {"order_id": order, "reason": "mistake"}});
        let kept = app.inbound("acme", &partner.secret, event, 0, &body.to_string()).await;
        assert_eq!(kept.status, StatusCode::ACCEPTED);
        app.work().await;
    }
    assert_eq!(
        app.inbound_of(&partner).await,
        [
            "e1 processed - 0",
            "e2 refused order_not_found 0",
            "e3 refused order_not_found 0",
            "e4 processed - 0"
        ]
    );
    assert_eq!(
        app.get(&format!("/api/v1/orders/{own}")).await.json()["status"],
        "cancelled"
    );
    assert_eq!(
        app.get(&format!("/api/v1/orders/{ours}")).await.json()["status"],
        "reserved"
    );
}

#[tokio::test]
async fn a_partners_key_sees_the_partners_own_endpoints_and_nothing_else() {
    let app = App::new().await;
    let (one, other) = (app.partner("one").await, app.partner("other").await);
    let endpoints = "/api/v1/webhook-endpoints";
    let new = |event: &str| json!({"url": "https://hooks.example.com/a", "event_types": [event], "signing": "ed25519"});
    let made = app.by(&one, Method::POST, endpoints, Some(new("order.created"))).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let made = made.json();
    assert_eq!((&made["partner_id"], &made["secret"]), (&json!(one.id), &Value::Null));
    assert!(made["public_keys"][0].as_str().unwrap().starts_with("whpk_"));
    let path = format!("{endpoints}/{}", made["id"].as_str().unwrap());
    app.confirm(&one, &path).await;

    // More than the partner may ask for, or for somebody else.
    assert_eq!(
        app.by(&one, Method::POST, endpoints, Some(new("payment.*")))
            .await
            .problem(),
        "422 validation_failed /event_types:invalid"
    );
    let mut foreign = new("order.*");
    foreign["partner_id"] = json!(other.id);
    assert_eq!(
        app.by(&one, Method::POST, endpoints, Some(foreign)).await.problem(),
        "422 validation_failed /partner_id:invalid"
    );

    let deliveries = format!("{path}/deliveries");
    let (rotate, fire, replay) = (
        format!("{path}/rotate-secret"),
        format!("{path}/test"),
        format!("{path}/replay"),
    );
    let since = json!({"since": "2020-01-01T00:00:00Z"});
    let fired = app.by(&one, Method::POST, &fire, None).await;
    assert_eq!(fired.status, StatusCode::ACCEPTED, "{fired:?}");
    let delivery = app.by(&one, Method::GET, &deliveries, None).await.json()["items"][0]["id"].clone();
    let delivery = format!("/api/v1/webhook-deliveries/{}", delivery.as_str().unwrap());
    assert_eq!(
        app.by(&one, Method::GET, &delivery, None).await.json()["event_type"],
        "endpoint.test"
    );
    let calls = [
        (Method::GET, &path, None),
        (Method::PATCH, &path, Some(json!({"description": "x"}))),
        (Method::GET, &deliveries, None),
        (Method::GET, &delivery, None),
        (Method::POST, &format!("{delivery}/resend"), None),
        (Method::POST, &rotate, None),
        (Method::POST, &fire, None),
        (Method::POST, &format!("{path}/confirm"), Some(json!({"code": "x"}))),
        (Method::POST, &replay, Some(since)),
        (Method::DELETE, &path, None),
    ];
    for (method, path, body) in calls {
        let answer = app.by(&other, method.clone(), path, body).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}: {answer:?}");
    }
    assert_eq!(
        app.by(&other, Method::GET, endpoints, None).await.json()["items"],
        json!([])
    );
    for path in [
        "/api/v1/orders",
        "/api/v1/partners",
        "/api/v1/payments",
        "/api/v1/api-keys",
        "/api/v1/jobs",
    ] {
        assert_eq!(
            app.by(&one, Method::GET, path, None).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    let scopes = json!({"scopes": ["webhooks:read", "admin"]});
    assert_eq!(
        app.post(&format!("/api/v1/partners/{}/api-keys", one.id), scopes)
            .await
            .problem(),
        "422 validation_failed /scopes/1:unknown_scope"
    );
}

#[tokio::test]
async fn a_paused_partner_is_left_alone_in_both_directions() {
    let app = App::new().await;
    let partner = app.partner("acme").await;
    let new = json!({"url": "https://hooks.example.com/a", "event_types": ["order.*"], "rate": 5});
    let made = app
        .by(&partner, Method::POST, "/api/v1/webhook-endpoints", Some(new))
        .await
        .json();
    let endpoint = format!("/api/v1/webhook-endpoints/{}", made["id"].as_str().unwrap());
    app.confirm(&partner, &endpoint).await;
    let path = format!("/api/v1/partners/{}", partner.id);
    let set = async |state: &str| {
        let changed = app.send(Method::PATCH, &path, &[], Some(json!({"state": state}))).await;
        assert_eq!(
            (changed.status, &changed.json()["state"]),
            (StatusCode::OK, &json!(state)),
            "{changed:?}"
        );
    };
    for _ in 0..2 {
        set("paused").await;
    }
    assert_eq!(
        app.by(&partner, Method::GET, &endpoint, None).await.problem(),
        "401 unauthenticated"
    );
    assert_eq!(
        app.inbound(&partner.name, &partner.secret, "e1", 0, PING)
            .await
            .problem(),
        "401 webhook_rejected"
    );
    let seen = app.get(&endpoint).await.json();
    assert_eq!(
        (&seen["state"], &seen["disabled_reason"]),
        (&json!("disabled"), &json!("partner_paused"))
    );
    assert_eq!(
        app.post(&format!("{endpoint}/test"), Value::Null).await.problem(),
        "409 endpoint_disabled"
    );
    set("active").await;
    assert_eq!(app.get(&endpoint).await.json()["state"], "active");
    assert_eq!(
        app.by(&partner, Method::GET, &endpoint, None).await.status,
        StatusCode::OK
    );
    assert_eq!(
        app.inbound(&partner.name, &partner.secret, "e1", 0, PING).await.status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn a_partner_with_bad_settings_is_refused_and_one_of_a_taken_name_too() {
    let app = App::new().await;
    app.partner("acme").await;
    let footprint = app.footprint().await;
    for (body, expected) in [
        (json!({}), "422 validation_failed /name:missing"),
        (json!({"name": "acme"}), "409 taken /name:taken"),
        (json!({"name": "Acme Ltd"}), "422 validation_failed /name:invalid"),
        (
            json!({"name": "x", "event_types": ["order"]}),
            "422 validation_failed /event_types:invalid",
        ),
        (
            json!({"name": "x", "endpoints_max": 101}),
            "422 validation_failed /endpoints_max:out_of_range",
        ),
        (
            json!({"name": "x", "rate": 0}),
            "422 validation_failed /rate:out_of_range",
        ),
    ] {
        assert_eq!(
            app.post("/api/v1/partners", body.clone()).await.problem(),
            expected,
            "{body}"
        );
    }
    assert_eq!(app.footprint().await, footprint);
}

#[tokio::test]
async fn a_partner_chooses_what_a_dead_head_does_and_gives_a_dead_delivery_up() {
    let app = App::new().await;
    let (partner, other) = (app.partner("acme").await, app.partner("other").await);
    let endpoint = |ordering: &str, dead_head: &str| json!({"url": "https://hooks.example.com/x", "event_types": ["order.*"], "ordering": ordering, "dead_head": dead_head});
    let endpoints = "/api/v1/webhook-endpoints";
    let refused = app
        .by(&partner, Method::POST, endpoints, Some(endpoint("none", "block")))
        .await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text.contains("/dead_head"), "{}", refused.text);
    let made = app
        .by(&partner, Method::POST, endpoints, Some(endpoint("strict", "block")))
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    assert_eq!(made.json()["dead_head"], "block");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    app.confirm(&partner, &format!("{endpoints}/{id}")).await;

    for _ in 0..2 {
        app.by(&partner, Method::POST, &format!("{endpoints}/{id}/test"), None)
            .await;
    }
    let page = app.get(&format!("{endpoints}/{id}/deliveries")).await.json();
    let (second, first, challenge) = (&page["items"][0], &page["items"][1], &page["items"][2]);
    assert_eq!(second["prev_seq"], first["seq"]);
    assert_eq!(first["prev_seq"], challenge["seq"]);
    assert_eq!(challenge["prev_seq"], Value::Null);
    let discard = format!("/api/v1/webhook-deliveries/{}/discard", first["id"].as_str().unwrap());
    let alive = app.by(&partner, Method::POST, &discard, None).await;
    assert_eq!(alive.status, StatusCode::CONFLICT);
    assert!(alive.text.contains("delivery_not_dead"), "{}", alive.text);
    sqlx::query("update webhook_deliveries set state = 'dead'")
        .execute(&app.db.pool)
        .await
        .unwrap();
    let foreign = app.by(&other, Method::POST, &discard, None).await;
    assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    let given_up = app.by(&partner, Method::POST, &discard, None).await;
    assert_eq!(given_up.status, StatusCode::OK, "{given_up:?}");
    assert_eq!(
        (&given_up.json()["state"], &given_up.json()["reason"]),
        (&"discarded".into(), &"by acme".into())
    );
}

#[tokio::test]
async fn a_partners_endpoint_is_confirmed_with_the_code_its_address_was_sent() {
    let app = App::new().await;
    let partner = app.partner("acme").await;
    let endpoints = "/api/v1/webhook-endpoints";
    let new = json!({"url": "https://hooks.example.com/a", "event_types": ["order.*"]});
    let made = app
        .by(&partner, Method::POST, endpoints, Some(new.clone()))
        .await
        .json();
    assert_eq!(made["state"], "unconfirmed");
    let path = format!("{endpoints}/{}", made["id"].as_str().unwrap());
    let confirm = format!("{path}/confirm");
    let code = app.code_of(&path).await;

    // Nothing that the partner sees over the API has the code in it.
    let deliveries = app.by(&partner, Method::GET, &format!("{path}/deliveries"), None).await;
    let challenge = deliveries.json()["items"][0].clone();
    assert_eq!(challenge["event_type"], "endpoint.challenge");
    let challenge = format!("/api/v1/webhook-deliveries/{}", challenge["id"].as_str().unwrap());
    let alone = app.by(&partner, Method::GET, &challenge, None).await;
    for answer in [&deliveries, &alone] {
        assert!(!answer.text.contains(&code), "{}", answer.text);
    }

    for (body, problem) in [
        (json!({"code": "wrong"}), "422 validation_failed /code:wrong_code"),
        (json!({"code": &code[1..]}), "422 validation_failed /code:wrong_code"),
        (json!({}), "422 validation_failed /code:missing"),
    ] {
        let refused = app.by(&partner, Method::POST, &confirm, Some(body)).await;
        assert_eq!(refused.problem(), problem);
    }
    let fired = app.by(&partner, Method::POST, &format!("{path}/test"), None).await;
    assert_eq!(fired.problem(), "409 endpoint_unconfirmed");
    // Neither enabling nor a way round by disabling confirms it.
    for state in ["active", "disabled", "active"] {
        let changed = app
            .by(&partner, Method::PATCH, &path, Some(json!({"state": state})))
            .await;
        assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
        let expected = if state == "active" { "unconfirmed" } else { state };
        assert_eq!(changed.json()["state"], expected);
    }
    app.confirm(&partner, &path).await;
    // Once more changes nothing, whatever the code.
    let again = app
        .by(&partner, Method::POST, &confirm, Some(json!({"code": "x"})))
        .await;
    assert_eq!(
        (again.status, &again.json()["state"]),
        (StatusCode::OK, &json!("active"))
    );

    // Another address is another's until it is confirmed too, with a new code.
    let moved = json!({"url": "https://hooks.example.com/b"});
    let moved = app.by(&partner, Method::PATCH, &path, Some(moved)).await;
    assert_eq!(moved.json()["state"], "unconfirmed", "{moved:?}");
    let stale = app
        .by(&partner, Method::POST, &confirm, Some(json!({"code": code})))
        .await;
    assert_eq!(stale.problem(), "422 validation_failed /code:wrong_code");
    app.confirm(&partner, &path).await;

    // One of us knows whose it is.
    let made = app
        .by(&partner, Method::POST, endpoints, Some(new.clone()))
        .await
        .json();
    let path = format!("{endpoints}/{}", made["id"].as_str().unwrap());
    let vouched = app
        .send(Method::PATCH, &path, &[], Some(json!({"state": "active"})))
        .await;
    assert_eq!(vouched.json()["state"], "active", "{vouched:?}");
    let mut ours = new;
    ours["partner_id"] = json!(partner.id);
    assert_eq!(app.post(endpoints, ours).await.json()["state"], "active");
}
