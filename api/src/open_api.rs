//! The OpenAPI document, made from the same list that is served, plus what is true of every operation.

use std::sync::LazyLock;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};
use utoipa::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::answer::Answer;
use crate::problem::ProblemDocument;
use crate::{State, router};

/// Where the document is served.
const PATH: &str = "/api/v1/openapi.json";
/// The viewer brings its styles along as attributes and `data:` images; scripts come from here only.
const VIEWER_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                             img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; \
                             form-action 'none'; frame-ancestors 'none'";

const DESCRIPTION: &str = "\
Takes orders in and carries each one through: stock, payment, webhooks, routes.

Every error is a problem document (RFC 9457) with a stable `code` and a pointer for each bad field. Unsafe requests may \
carry an `Idempotency-Key`, a few must: the same key with the same request answers the same bytes again, with \
`Idempotent-Replayed: true`. Lists are newest first and paged by `cursor`. Where `Prefer: wait=N` is honoured the \
answer waits up to ten seconds for the outcome.";

#[derive(OpenApi)]
#[openapi(
    info(title = "Orderfleet", version = "1", license(name = "MIT OR Apache-2.0")),
    components(schemas(ProblemDocument)),
    tags(
        (name = "orders", description = "Orders, from submission to shipment"),
        (name = "customers", description = "Who buys"),
        (name = "catalogue", description = "What is sold, and where it lies"),
        (name = "inventory", description = "How much there is"),
        (name = "payments", description = "Money"),
        (name = "sellers", description = "Whose goods are sold, and how they are paid"),
        (name = "webhooks", description = "Who is told"),
        (name = "partners", description = "Whom we exchange webhooks with"),
        (name = "routes", description = "Vans and their days"),
        (name = "operations", description = "Jobs, dead letters, queues, the timetable"),
        (name = "access", description = "Keys to the API"),
    ),
)]
struct Base;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let (_, routes) = router::endpoints().split_for_parts();
    let mut document = Base::openapi();
    document.merge(routes);
    let mut document = serde_json::to_value(document).expect("the document is plain data");
    complete(&mut document);
    document
});

/// The whole document.
pub fn document() -> &'static Value {
    &DOCUMENT
}

/// Adds what is true of every operation, once, instead of repeating it at each.
fn complete(document: &mut Value) {
    document["info"]["description"] = json!(DESCRIPTION);
    document["components"]["securitySchemes"] = json!({
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer", "description": "The same key"},
    });
    let problem = json!({
        "description": "Anything else: what is wrong, and where",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    });
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            operation["responses"]["default"] = problem.clone();
            let scopes = operation["security"][0]["api_key"].clone();
            if let Some(ways) = operation["security"].as_array_mut() {
                ways.push(json!({"bearer": scopes}));
            }
            if method != "get" {
                let needs_key = NEEDS_KEY.contains(&path.as_str());
                add_parameter(
                    operation,
                    json!({
                        "name": "Idempotency-Key", "in": "header", "required": needs_key,
                        "description": "1 to 255 characters; the same key is the same request",
                        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                    }),
                );
            }
            if WAITS.contains(&path.as_str()) && method == "post" {
                add_parameter(
                    operation,
                    json!({
                        "name": "Prefer", "in": "header", "required": false,
                        "description": "wait=N: wait up to N seconds (at most 10) for the outcome",
                        "schema": {"type": "string"},
                    }),
                );
            }
            if matches!(method.as_str(), "patch" | "delete") {
                add_parameter(
                    operation,
                    json!({
                        "name": "If-Match", "in": "header", "required": false,
                        "description": "The `ETag` that was read; 412 when it is another by now",
                        "schema": {"type": "string"},
                    }),
                );
            }
        }
    }
}

/// Where nothing happens without an idempotency key.
const NEEDS_KEY: [&str; 3] = [
    "/api/v1/orders/{id}/confirm",
    "/api/v1/orchestrations/create-and-confirm",
    "/api/v1/payments/{id}/refunds",
];

/// Where `Prefer: wait=N` is honoured.
const WAITS: [&str; 4] = [
    "/api/v1/orders",
    "/api/v1/orders/{id}/confirm",
    "/api/v1/orders/{id}/cancel",
    "/api/v1/orchestrations/create-and-confirm",
];

fn add_parameter(operation: &mut Value, parameter: Value) {
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.push(parameter),
        None => operation["parameters"] = json!([parameter]),
    }
}

/// The document, and a viewer that needs nothing from elsewhere.
pub(crate) fn pages() -> Router<State> {
    let viewer: Router<State> = SwaggerUi::new("/docs").config(Config::from(PATH)).into();
    Router::new()
        .route(PATH, get(|| async { Answer::ok(document()) }))
        .merge(viewer.layer(map_response(viewer_policy)))
}

async fn viewer_policy(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(VIEWER_POLICY));
    response
}
