//! Expires orders that nobody confirmed in time.

use domain::Services;
use queue::{Attempt, Job, Outcome};
use serde::{Deserialize, Serialize};

/// Expires orders that nobody confirmed in time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExpireReservations {
}

impl Job for ExpireReservations {
    type Services = Services;
    const KIND: &'static str = "expire_reservations";
    const QUEUE: &'static str = "maintenance";

    async fn run(self, attempt: &Attempt, services: &Services) -> anyhow::Result<Outcome> {
        let _ = (attempt, services);
        todo!()
    }
}
