//! What bounds the jobs that call others. Operators change these limits while the fleet runs (`orderfleet limits`), and no
//! deploy undoes that.
//!
//! The gateway has a breaker: when it is down, a job finds that out twenty times and not once for each order. What is
//! behind it only waits; every kind that calls the gateway has a deadline. The gateway's client is quiet on its own as
//! well (`Gateway::quiet_left`): at once, but for its process only and for jobs that already run.
//!
//! An endpoint has a bound on jobs at once, so that a slow one does not hold all the slots, and no breaker: `webhooks::breaker`
//! knows better when to leave an endpoint alone (the share of tries that failed, longer each time), and says so on the
//! endpoint.

use domain::ids::EndpointId;
use queue::limit::Limit;

/// What every job that calls the payment gateway counts against.
pub(crate) const GATEWAY: &str = "gateway";

const ENDPOINT: &str = "endpoint";

/// What the deliveries of one endpoint count against.
pub(crate) fn endpoint(id: EndpointId) -> String {
    format!("{ENDPOINT}/{id}")
}

/// The limits of the build, in alphabetical order.
pub fn limits() -> Vec<(&'static str, Limit)> {
    vec![(ENDPOINT, Limit::concurrency(8)), (GATEWAY, Limit::breaker(20, 5.0))]
}
