//! Cleaning up in steps. Each is a transaction of its own that asserts the fence, takes a bounded number of rows in one statement, and
//! stays done whatever becomes of the rest.

use std::time::{Duration, Instant};

use queue::Attempt;
use sqlx::PgConnection;

/// Rows in one step.
pub(crate) const ROWS_MAX: i64 = 2000;

/// After this long no further step begins: what is left is for the next run. Well within the timeout of a kind.
const WITHIN: Duration = Duration::from_secs(20);

/// Repeats a step until it finds nothing more; returns how many rows there were in all.
pub(crate) async fn in_steps(
    attempt: &Attempt,
    mut step: impl AsyncFnMut(&mut PgConnection) -> sqlx::Result<u64>,
) -> anyhow::Result<u64> {
    let started = Instant::now();
    let mut rows = 0;
    while started.elapsed() < WITHIN {
        let mut tx = attempt.begin().await?;
        let taken = step(&mut tx).await?;
        tx.commit().await?;
        if taken == 0 {
            break;
        }
        rows += taken;
    }
    Ok(rows)
}
