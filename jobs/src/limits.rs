//! What bounds the jobs that call others. Operators change these limits while the fleet runs (`orderfleet limits`), and no
//! deploy undoes that.
//!
//! The gateway has a breaker: when it is down, a job finds that out twenty times and not once for each order. What is
//! behind it only waits; every kind that calls the gateway has a deadline. The gateway's client is quiet on its own as
//! well (`Gateway::quiet_left`): at once, but for its process only and for jobs that already run.
//!
//! An endpoint has a bound on jobs at once, so that a slow one does not hold all the slots, and no breaker: `webhooks::breaker`
//! knows better when to leave an endpoint alone (the share of tries that failed, longer each time), and says so on the
//! endpoint. An endpoint, or its partner, may have a bound and a rate of its own: then the limit of its key stands for that of all.

use domain::{ids::EndpointId, webhooks::Endpoint};
use queue::{limit::Limit, operate};
use sqlx::PgConnection;

/// What every job that calls the payment gateway counts against.
pub(crate) const GATEWAY: &str = "gateway";

const ENDPOINT: &str = "endpoint";

/// What the deliveries of one endpoint count against.
pub(crate) fn endpoint(id: EndpointId) -> String {
    format!("{ENDPOINT}/{id}")
}

/// How many deliveries of one endpoint run at once, where nobody said otherwise.
const ENDPOINT_CONCURRENCY: i32 = 8;

/// Lets an endpoint's own limits hold from now on; without any, those of all endpoints.
pub async fn limit_endpoint(conn: &mut PgConnection, of: &Endpoint, actor: &str) -> Result<(), operate::Error> {
    if of.concurrency.is_none() && of.rate.is_none() {
        return unlimit_endpoint(conn, of.id, actor).await;
    }
    let limit = Limit {
        concurrency: Some(of.concurrency.unwrap_or(ENDPOINT_CONCURRENCY)),
        rate: of.rate,
        ..Limit::default()
    };
    queue::limit::set(conn, &endpoint(of.id), &limit, "the endpoint asks for it", actor).await
}

/// The same for an endpoint that has none, or is deleted.
pub async fn unlimit_endpoint(conn: &mut PgConnection, id: EndpointId, actor: &str) -> Result<(), operate::Error> {
    queue::limit::remove(conn, &endpoint(id), "the endpoint asks for none", actor)
        .await
        .map(drop)
}

/// The limits of the build, in alphabetical order.
pub fn limits() -> Vec<(&'static str, Limit)> {
    vec![
        (ENDPOINT, Limit::concurrency(ENDPOINT_CONCURRENCY)),
        (GATEWAY, Limit::breaker(20, 5.0)),
    ]
}
