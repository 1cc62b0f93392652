//! Who gets in, to every operation there is; and what everybody may see.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use domain::access::Scope;
use serde_json::Value;

use crate::app::{Answer, App, key};

/// Every operation of the document: method, path with something in its holes, and the scope it names.
fn operations() -> Vec<(Method, String, Scope)> {
    let mut all = Vec::new();
    for (path, operations) in api::document()["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let scope: Scope = operation["security"][0]["api_key"][0]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            let hole = if ["jobs", "dead-letters", "redrives"]
                .iter()
                .any(|numbered| path.contains(numbered))
            {
                "1"
            } else {
                "0199aaaa-0000-7000-8000-000000000000"
            };
            let path = path
                .split('/')
                .map(|part| if part.starts_with('{') { hole } else { part });
            all.push((
                method.to_uppercase().parse().unwrap(),
                path.collect::<Vec<_>>().join("/"),
                scope,
            ));
        }
    }
    assert!(all.len() > 50, "the document lists the operations");
    all
}

async fn ask(app: &App, method: &Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.raw(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn no_operation_answers_without_a_good_key() {
    let app = App::new().await;
    let revoked = key(&app.db, "revoked", &[Scope::Admin]).await;
    let expired = key(&app.db, "expired", &[Scope::Admin]).await;
    sqlx::query("update api_keys set revoked_at = now() where name = 'revoked'")
        .execute(&app.db.pool)
        .await
        .unwrap();
    sqlx::query("update api_keys set expires_at = now() where name = 'expired'")
        .execute(&app.db.pool)
        .await
        .unwrap();
    let truncated = &app.key[..app.key.len() - 1];
    let extended = format!("{}a", app.key);
    let elsewhere = app.key.replace("of_live_", "of_test_");
    let bearer = format!("Bearer {revoked}");
    let before = app.footprint().await;
    for (method, path, _) in operations() {
        let none = ask(&app, &method, &path, &[]).await;
        assert_eq!(none.problem(), "401 unauthenticated", "{method} {path}");
        assert!(none.header("www-authenticate").is_some());
        for wrong in [
            &revoked, &expired, truncated, &extended, &elsewhere, "", "of_live_", "🔑",
        ] {
            let answer = ask(&app, &method, &path, &[("x-api-key", wrong)]).await;
            assert_eq!(answer.problem(), "401 unauthenticated", "{method} {path} {wrong}");
        }
        let answer = ask(&app, &method, &path, &[("authorization", &bearer)]).await;
        assert_eq!(answer.problem(), "401 unauthenticated", "{method} {path}");
    }
    assert_eq!(app.footprint().await, before);
}

#[tokio::test]
async fn every_operation_wants_its_own_scope_and_is_content_with_it() {
    let app = App::new().await;
    for scope in Scope::ALL.iter().filter(|scope| **scope != Scope::Admin) {
        let all_but = Scope::ALL
            .iter()
            .copied()
            .filter(|other| other != scope && *other != Scope::Admin);
        let without = key(&app.db, "without", &all_but.collect::<Vec<_>>()).await;
        let only = key(&app.db, "only", &[*scope]).await;
        for (method, path, wanted) in operations().iter().filter(|(_, _, wanted)| wanted == scope) {
            let answer = ask(&app, method, path, &[("x-api-key", &without)]).await;
            assert_eq!(
                answer.problem(),
                "403 scope_missing",
                "{method} {path} without {wanted}"
            );
            let answer = ask(&app, method, path, &[("authorization", &format!("Bearer {only}"))]).await;
            let is_in = answer.status != StatusCode::UNAUTHORIZED && answer.status != StatusCode::FORBIDDEN;
            assert!(
                is_in && !answer.status.is_server_error(),
                "{method} {path} with {wanted}: {answer:?}"
            );
        }
    }
    let everything_else: Vec<_> = Scope::ALL
        .iter()
        .copied()
        .filter(|scope| *scope != Scope::Admin)
        .collect();
    let everything_else = key(&app.db, "staff", &everything_else).await;
    for (method, path, _) in operations().iter().filter(|(_, _, wanted)| *wanted == Scope::Admin) {
        let answer = ask(&app, method, path, &[("x-api-key", &everything_else)]).await;
        assert_eq!(answer.problem(), "403 scope_missing", "{method} {path}");
    }
}

#[tokio::test]
async fn a_key_is_made_shown_once_and_revoked_at_once() {
    let app = App::new().await;
    let made = app
        .post(
            "/api/v1/api-keys",
            serde_json::json!({"name": "shop", "scopes": ["orders:read"]}),
        )
        .await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let key = made.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(
        ask(&app, &Method::GET, "/api/v1/orders", &[("x-api-key", &key)])
            .await
            .status,
        StatusCode::OK
    );
    let listed = app.get("/api/v1/api-keys").await;
    assert!(!listed.text.contains(&key) && listed.text.contains(made.json()["key_id"].as_str().unwrap()));

    let gone = app
        .send(Method::DELETE, made.header("location").unwrap(), &[], None)
        .await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    let answer = ask(&app, &Method::GET, "/api/v1/orders", &[("x-api-key", &key)]).await;
    assert_eq!(answer.problem(), "401 unauthenticated");

    let keyed = [("idempotency-key", "k")];
    let refused = app
        .post_with(
            "/api/v1/api-keys",
            &keyed,
            serde_json::json!({"name": "x", "scopes": ["admin"]}),
        )
        .await;
    assert_eq!(
        refused.problem(),
        "400 idempotency_key_invalid /idempotency-key:invalid"
    );
}

#[tokio::test]
async fn probes_metrics_documents_and_the_first_page_need_no_key_and_nothing_from_elsewhere() {
    let app = App::new().await;
    for path in [
        "/livez",
        "/readyz",
        "/health",
        "/metrics",
        "/api/v1/openapi.json",
        "/",
        "/site/page.js",
        "/site/style.css",
        "/docs/",
    ] {
        let answer = ask(&app, &Method::GET, path, &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(
            answer
                .header("content-security-policy")
                .unwrap()
                .starts_with("default-src 'none'"),
            "{path}"
        );
        assert!(answer.header("x-request-id").is_some(), "{path}");
    }
    let page = ask(&app, &Method::GET, "/", &[]).await;
    assert!(
        !page.text.contains("http://") && !page.text.contains("https://"),
        "the page loads nothing from elsewhere"
    );
    assert!(!page.header("content-security-policy").unwrap().contains("unsafe"));
    app.get("/api/v1/orders").await;
    let metrics = ask(&app, &Method::GET, "/metrics", &[]).await.text;
    assert!(metrics.contains("route=\"/api/v1/orders\""), "{metrics}");
    assert!(metrics.contains("queue_oldest_due_seconds"), "{metrics}");
    assert!(metrics.contains("queue_horizon_seconds"), "{metrics}");
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let app = App::new().await;
    sqlx::query("delete from _sqlx_migrations")
        .execute(&app.db.pool)
        .await
        .unwrap();
    let answer = app.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.text.contains("orderfleet migrate"), "{}", answer.text);

    app.db.pool.close().await;
    let answer = app.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let checks: Value = answer.json();
    assert_eq!(checks["checks"][0]["ok"], false);
    let answer = app.get("/api/v1/orders").await;
    assert_eq!(answer.problem(), "503 database_unavailable");
    assert!(answer.header("retry-after").is_some());
}
