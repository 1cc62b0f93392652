//! R1–R5: the routes as stored can be driven. The recomputation is `domain::routes`' own checker, which trusts neither
//! the solver nor what was stored.

use domain::routes;
use sqlx::PgConnection;

use super::Check;

/// A shipment that nobody planned or gave a reason for was forgotten after this long, in seconds: its bucket and two
/// sweeps have passed.
const FORGOTTEN: f64 = 180.0;

const RULES: [(&str, &str); 5] = [
    (
        "R1",
        "each shipment is on at most one active route, each vehicle has one a day",
    ),
    ("R2", "no route carries more than its vehicle takes"),
    ("R3", "every window and shift is kept"),
    (
        "R4",
        "every planned shipment is a stop of one route, every stop a planned shipment, and none is forgotten",
    ),
    ("R5", "stored lengths are the recomputed ones"),
];

pub(super) async fn check(conn: &mut PgConnection) -> anyhow::Result<Vec<Check>> {
    let mut lines = routes::store::audit(&mut *conn).await?;
    lines.extend(forgotten(conn).await?);
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

/// Shipments that wait for a route though no job is to plan them and no reason says why not.
async fn forgotten(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"
        select 'R4 shipment ' || s.id || ' has no route and no reason' as "line!"
        from shipments s
        where s.state = 'unplanned' and s.unassigned is null
          and s.updated_at < queue.clock() - make_interval(secs => $1)
          and not exists (select from queue.live_jobs j
                          where j.kind = 'plan_routes' and j.args ->> 'warehouse_id' = s.warehouse_id::text)
        order by s.id
        "#,
        FORGOTTEN
    )
    .fetch_all(conn)
    .await
}
