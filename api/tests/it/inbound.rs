//! The gateway's webhooks at our door: believed by their signature alone, taken in once.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use crate::app::{Answer, App, router};

const SECRET: &str = "whsec_in_use";

async fn an_app() -> App {
    let mut app = App::new().await;
    let secrets = vec!["whsec_next".to_owned().into(), SECRET.to_owned().into()];
    app.router = router(&app.db, &app.services, |config| {
        config.gateway_webhook_secrets = secrets
    });
    app
}

async fn deliver(app: &App, header: &str, body: &[u8]) -> Answer {
    let request = Request::post("/webhooks/in/gateway")
        .header("stripe-signature", header)
        .body(Body::from(body.to_vec()));
    app.raw(request.unwrap()).await
}

/// Signs by the description of the header alone.
fn signed(secret: &str, at: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at}.").as_bytes());
    mac.update(body);
    let hex: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("t={at},v1={hex}")
}

async fn counts(app: &App) -> (i64, i64) {
    let sql = "select (select count(*) from inbound_events), (select count(*) from queue.jobs where kind = 'process_gateway_event')";
    sqlx::query_as(sql).fetch_one(&app.db.pool).await.unwrap()
}

#[tokio::test]
async fn a_signed_event_is_taken_in_once_however_often_it_comes() {
    let app = an_app().await;
    let now = chrono::Utc::now().timestamp();
    let body = json!({ "id": "evt_1", "type": "payment_intent.succeeded", "data": { "object": {} } }).to_string();
    for secret in [SECRET, "whsec_next", SECRET] {
        let answer = deliver(&app, &signed(secret, now, body.as_bytes()), body.as_bytes()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    assert_eq!(counts(&app).await, (1, 1));
    app.work().await;
    assert_eq!(counts(&app).await, (1, 0));
}

#[tokio::test]
async fn anything_else_is_refused_and_leaves_nothing() {
    let app = an_app().await;
    let now = chrono::Utc::now().timestamp();
    let good = json!({ "id": "evt_1", "type": "x" }).to_string().into_bytes();
    let cases: [(String, Vec<u8>, &str); 7] = [
        (String::new(), good.clone(), "401 bad_signature"),
        (signed("whsec_old", now, &good), good.clone(), "401 bad_signature"),
        (signed(SECRET, now - 400, &good), good.clone(), "401 bad_signature"),
        (signed(SECRET, now + 400, &good), good.clone(), "401 bad_signature"),
        (
            signed(SECRET, now, &good),
            [good.as_slice(), b" "].concat(),
            "401 bad_signature",
        ),
        (signed(SECRET, now, b"no json"), b"no json".to_vec(), "400 bad_event"),
        (signed(SECRET, now, b"{}"), b"{}".to_vec(), "400 bad_event"),
    ];
    for (header, body, problem) in cases {
        assert_eq!(deliver(&app, &header, &body).await.problem(), problem);
    }
    let large = vec![b' '; api::BODY_BYTES_MAX + 1];
    let answer = deliver(&app, &signed(SECRET, now, &large), &large).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(counts(&app).await, (0, 0));
    // Nobody is believed while no secret is known.
    let body = good.as_slice();
    assert_eq!(
        deliver(&App::new().await, &signed("", now, body), body).await.problem(),
        "401 bad_signature"
    );
}
