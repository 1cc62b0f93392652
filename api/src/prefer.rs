//! `Prefer: wait=N`: the answer waits for the outcome, by reading the order's row. No worker is asked, nothing is called.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use domain::ids::OrderId;
use domain::orders::{self, Order};
use tokio::time::{Instant, sleep_until};

use crate::State;
use crate::answer::Answer;
use crate::problem::Problem;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const WAIT_MAX: Duration = Duration::from_secs(10);
const POLL_FIRST: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_millis(250);

/// How long the caller prefers to wait; more than ten seconds are ten.
pub(crate) fn wait(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .find_map(|preference| {
            let (name, value) = preference.split_once('=')?;
            let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
            name.trim()
                .eq_ignore_ascii_case("wait")
                .then(|| Duration::from_secs(seconds).min(WAIT_MAX))
        })
}

/// Says in the answer that the preference was honoured.
pub(crate) fn applied(answer: Answer, wait: Option<Duration>) -> Answer {
    match wait {
        Some(wait) => answer.header(PREFERENCE_APPLIED, &format!("wait={}", wait.as_secs())),
        None => answer,
    }
}

/// The order as soon as it is settled, or `None` when the time runs out first.
pub(crate) async fn until(
    state: &State,
    id: OrderId,
    wait: Duration,
    is_settled: impl Fn(&Order) -> bool,
) -> Result<Option<Order>, Problem> {
    let deadline = Instant::now() + wait;
    let mut pause = POLL_FIRST;
    loop {
        // The connection goes back between two looks: those who wait take none away from those who work.
        let order = orders::store::get(&mut *state.pool.acquire().await?, id).await?;
        if let Some(order) = order.filter(&is_settled) {
            return Ok(Some(order));
        }
        let now = Instant::now();
        if now >= deadline {
            return Ok(None);
        }
        sleep_until((now + pause).min(deadline)).await;
        pause = (pause * 2).min(POLL_MAX);
    }
}
