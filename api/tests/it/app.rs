//! The application under test: one per test, with a database of its own.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use domain::access::{self, Scope};
use domain::services::Settings;
use domain::{Services, payments, webhooks};
use http_body_util::BodyExt;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use testkit::Database;
use tower::ServiceExt;
use uuid::Uuid;

pub(crate) struct App {
    pub(crate) db: Database,
    pub(crate) router: Router,
    pub(crate) services: Arc<Services>,
    pub(crate) key: String,
}

/// An answer, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("JSON, not {:?}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// `status code pointer pointer…`: what a caller's program sees of a problem.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let body = self.json();
        assert_eq!(body["status"], self.status.as_u16());
        let mut line = format!("{} {}", self.status.as_u16(), body["code"].as_str().unwrap());
        for fault in body["errors"].as_array().into_iter().flatten() {
            line.push_str(&format!(
                " {}:{}",
                fault["pointer"].as_str().unwrap(),
                fault["code"].as_str().unwrap()
            ));
        }
        line
    }
}

impl App {
    pub(crate) async fn new() -> App {
        App::with("http://127.0.0.1:9/", Settings::default()).await
    }

    /// With that gateway and those settings.
    pub(crate) async fn with(gateway: &str, settings: Settings) -> App {
        let db = Database::new().await;
        let services = Arc::new(Services {
            gateway: payments::Gateway::new(gateway.parse().unwrap(), "sk_test_x".to_owned().into()).unwrap(),
            sender: webhooks::Sender::new(true).unwrap(),
            keyring: domain::keyring::Keyring::random(),
            settings,
        });
        let router = router(&db, &services, |_| {});
        let key = key(&db, "tester", &[Scope::Admin]).await;
        App {
            db,
            router,
            services,
            key,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    pub(crate) async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        self.send(Method::POST, path, headers, Some(body)).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-api-key", &self.key);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or(Body::empty(), |body| Body::from(body.to_string()));
        self.raw(request.body(body).unwrap()).await
    }

    pub(crate) async fn raw(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text,
        }
    }

    /// Runs every job that is due, by the real code.
    pub(crate) async fn work(&self) -> queue::testing::Ran {
        queue::testing::run_until_idle(&self.db.pool, &jobs::catalogue(), &self.services)
            .await
            .unwrap()
    }

    pub(crate) async fn customer(&self) -> Uuid {
        testkit::a_customer(&mut self.db.pool.acquire().await.unwrap()).await
    }

    pub(crate) async fn product(&self, sku: &str, on_hand: i64) -> Uuid {
        testkit::a_product(&mut self.db.pool.acquire().await.unwrap(), sku, on_hand).await
    }

    /// An order of one line, submitted, its stock reserved.
    pub(crate) async fn reserved(&self, sku: &str, qty: i64) -> Value {
        let customer = self.customer().await;
        let body = json!({"customer_id": customer, "lines": [{"sku": sku, "qty": qty}]});
        let order = self.post("/api/v1/orders", body).await;
        assert_eq!(order.status, StatusCode::ACCEPTED, "{order:?}");
        self.work().await;
        let order = self.get(order.header("location").unwrap()).await.json();
        assert_eq!(order["status"], "reserved", "{order}");
        order
    }

    /// How many rows there are that a refused request must not have written.
    pub(crate) async fn footprint(&self) -> Vec<i64> {
        let mut counts = Vec::new();
        for statement in [
            "select count(*) from orders",
            "select count(*) from order_lines",
            "select count(*) from events",
            "select count(*) from customers",
            "select count(*) from products",
            "select count(*) from warehouses",
            "select count(*) from vehicles",
            "select count(*) from payments",
            "select count(*) from stock_movements",
            "select count(*) from webhook_endpoints",
            "select count(*) from api_keys",
            "select count(*) from queue.jobs",
            "select count(*) from queue.pauses",
        ] {
            counts.push(sqlx::query_scalar(statement).fetch_one(&self.db.pool).await.unwrap());
        }
        counts
    }
}

pub(crate) fn router(db: &Database, services: &Arc<Services>, change: impl FnOnce(&mut api::Config)) -> Router {
    let mut config = api::Config::new(([127, 0, 0, 1], 0).into(), api::CursorKey::derived_from("test"));
    config.request_timeout = Duration::from_secs(30);
    change(&mut config);
    api::router(api::State::new(config, db.pool.clone(), Arc::clone(services)).unwrap())
}

pub(crate) async fn key(db: &Database, name: &str, scopes: &[Scope]) -> String {
    let mut conn = db.pool.acquire().await.unwrap();
    let (_, key) = access::store::create(&mut conn, name, scopes, None).await.unwrap();
    key.token.expose_secret().to_owned()
}
