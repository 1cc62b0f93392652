//! R1–R5: the routes as stored can be driven. The recomputation is `domain::routes`' own checker, which trusts neither
//! the solver nor what was stored.

use domain::routes;
use sqlx::PgConnection;

use super::Check;

const RULES: [(&str, &str); 5] = [
    (
        "R1",
        "each shipment is on at most one active route, each vehicle has one a day",
    ),
    ("R2", "no route carries more than its vehicle takes"),
    ("R3", "every window and shift is kept"),
    (
        "R4",
        "every planned shipment is a stop of one route, and every stop a planned shipment",
    ),
    ("R5", "stored lengths are the recomputed ones"),
];

pub(super) async fn check(conn: &mut PgConnection) -> anyhow::Result<Vec<Check>> {
    let mut lines = routes::store::audit(conn).await?;
    let mut checks = Vec::new();
    for (id, statement) in RULES {
        let (concerned, others) = lines
            .into_iter()
            .partition(|line| line.split([' ', ':']).any(|word| word == id));
        lines = others;
        checks.push(Check::new(id, statement, concerned));
    }
    // A line that names no rule must not be lost.
    if !lines.is_empty() {
        checks.push(Check::new("R", "the routes as stored are sound", lines));
    }
    Ok(checks)
}
