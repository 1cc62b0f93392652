//! Every endpoint there is.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;
use crate::{
    State, api_keys, auth, customers, dead_letters, deliveries, health, inbound, inventory, layers, limits, open_api,
    orders, partners, payments, products, queues, redrives, route_plans, routes as vans, sagas, schedules, sellers,
    shipments, site, telemetry, vehicles, warehouses, webhooks, why, work,
};

/// The endpoints of the API; the scope each needs is in its `security`.
pub(crate) fn endpoints() -> OpenApiRouter<State> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(orders::submit, orders::list))
        .routes(routes!(orders::get))
        .routes(routes!(orders::confirm))
        .routes(routes!(orders::cancel))
        .routes(routes!(orders::create_and_confirm))
        .routes(routes!(customers::create, customers::list))
        .routes(routes!(customers::get, customers::update, customers::delete))
        .routes(routes!(products::create, products::list))
        .routes(routes!(products::get, products::update, products::retire))
        .routes(routes!(warehouses::create, warehouses::list))
        .routes(routes!(warehouses::update))
        .routes(routes!(inventory::initialise))
        .routes(routes!(inventory::get))
        .routes(routes!(inventory::adjust))
        .routes(routes!(inventory::receive))
        .routes(routes!(payments::list))
        .routes(routes!(payments::get))
        .routes(routes!(payments::timeline))
        .routes(routes!(payments::refund))
        .routes(routes!(payments::void))
        .routes(routes!(payments::orphans))
        .routes(routes!(payments::resolve_orphan))
        .routes(routes!(sellers::create, sellers::list))
        .routes(routes!(sellers::get, sellers::update))
        .routes(routes!(sellers::set_product))
        .routes(routes!(sellers::entries))
        .routes(routes!(sellers::pay))
        .routes(routes!(sellers::payouts))
        .routes(routes!(webhooks::create, webhooks::list))
        .routes(routes!(webhooks::get, webhooks::update, webhooks::delete))
        .routes(routes!(webhooks::rotate_secret))
        .routes(routes!(webhooks::confirm))
        .routes(routes!(deliveries::deliveries))
        .routes(routes!(deliveries::replay))
        .routes(routes!(webhooks::test))
        .routes(routes!(deliveries::delivery))
        .routes(routes!(deliveries::resend))
        .routes(routes!(deliveries::discard))
        .routes(routes!(partners::create, partners::list))
        .routes(routes!(partners::get, partners::update))
        .routes(routes!(partners::rotate_secret))
        .routes(routes!(partners::create_key))
        .routes(routes!(partners::inbound))
        .routes(routes!(vans::list))
        .routes(routes!(vans::get))
        .routes(routes!(vans::geojson))
        .routes(routes!(vans::dispatch))
        .routes(routes!(route_plans::ask, route_plans::list))
        .routes(routes!(route_plans::get))
        .routes(routes!(route_plans::as_geojson))
        .routes(routes!(route_plans::as_polylines))
        .routes(routes!(route_plans::as_map))
        .routes(routes!(route_plans::as_gantt))
        .routes(routes!(route_plans::as_page))
        .routes(routes!(route_plans::as_text))
        .routes(routes!(vans::lock))
        .routes(routes!(shipments::get, shipments::change))
        .routes(routes!(vehicles::create, vehicles::list))
        .routes(routes!(vehicles::get, vehicles::update, vehicles::retire))
        .routes(routes!(work::list))
        .routes(routes!(work::get))
        .routes(routes!(work::cancel))
        .routes(routes!(why::job))
        .routes(routes!(why::order))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::causes))
        .routes(routes!(dead_letters::get))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(dead_letters::discard))
        .routes(routes!(redrives::start, redrives::list))
        .routes(routes!(redrives::preview))
        .routes(routes!(redrives::get))
        .routes(routes!(redrives::pause))
        .routes(routes!(redrives::resume))
        .routes(routes!(redrives::cancel))
        .routes(routes!(sagas::list))
        .routes(routes!(sagas::get))
        .routes(routes!(queues::list))
        .routes(routes!(queues::health))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(queues::pause_kind))
        .routes(routes!(queues::resume_kind))
        .routes(routes!(limits::list, limits::set, limits::remove))
        .routes(routes!(limits::close_breaker))
        .routes(routes!(schedules::list, schedules::add))
        .routes(routes!(schedules::get, schedules::change, schedules::remove))
        .routes(routes!(schedules::reset))
        .routes(routes!(schedules::run))
        .routes(routes!(schedules::ticks))
        .routes(routes!(queues::pools))
        .routes(routes!(queues::set_slots))
        .routes(routes!(api_keys::create, api_keys::list))
        .routes(routes!(api_keys::revoke));
    OpenApiRouter::new().nest("/api/v1", v1)
}

/// Everything the process answers.
pub fn router(state: State) -> Router {
    let (endpoints, _) = endpoints().split_for_parts();
    let guarded = endpoints.layer(from_fn_with_state(state.clone(), auth::guard));
    let open = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/health", get(health::ready))
        .route("/metrics", get(telemetry::scrape))
        .merge(site::pages())
        .merge(open_api::pages())
        .method_not_allowed_fallback(method_not_allowed);
    let signed = inbound::endpoints().route("/webhooks/in/{partner}", post(partners::receive));
    let router = layers::bounded(guarded.merge(signed), &state)
        .merge(open)
        .fallback(not_found)
        .with_state(state);
    layers::observed(router)
}

async fn not_found() -> Problem {
    Problem::not_found("path; /docs lists all there are")
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path does not answer that method; see the Allow header",
    )
}
