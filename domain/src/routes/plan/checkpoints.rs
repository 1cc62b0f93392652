//! What a search has come to is kept for the attempt after it.

use serde_json::json;
use sqlx::PgConnection;

use super::{RoutesById, Snapshot};
use crate::cause::Cause;
use crate::routes::{solver::Routes, store::Day};

/// The best a search under way has come to, for the attempt after this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The rounds made, of all.
    pub iterations: u64,
    /// How many the whole search is to make.
    pub iterations_budget: u64,
    /// What the best routes cost.
    pub cost: i64,
    /// The best routes.
    pub routes: RoutesById,
    /// What they are for.
    input_hash: Vec<u8>,
}

impl Checkpoint {
    /// Of the search for a snapshot.
    pub fn of(snapshot: &Snapshot, iterations: u64, iterations_budget: u64, cost: i64, routes: &Routes) -> Checkpoint {
        Checkpoint {
            iterations,
            iterations_budget,
            cost,
            routes: snapshot.routes_by_id(routes),
            input_hash: snapshot.input_hash.to_vec(),
        }
    }

    /// Whether it is of a search for just this.
    pub fn is_for(&self, snapshot: &Snapshot) -> bool {
        self.input_hash == snapshot.input_hash
    }
}

/// Keeps a checkpoint of a job's search. The transaction is the caller's: a fenced one.
pub async fn keep_checkpoint(
    conn: &mut PgConnection,
    (warehouse, date): Day,
    checkpoint: &Checkpoint,
    cause: &Cause,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"insert into route_checkpoints (warehouse_id, date, job_id, fence, input_hash, iterations, iterations_budget, cost, routes)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
           on conflict (warehouse_id, date) do update
           set job_id = excluded.job_id, fence = excluded.fence, input_hash = excluded.input_hash,
               iterations = excluded.iterations, iterations_budget = excluded.iterations_budget, cost = excluded.cost,
               routes = excluded.routes, at = excluded.at"#,
        warehouse.0,
        date,
        cause.job_id().unwrap_or(0),
        cause.fence().unwrap_or(0),
        &checkpoint.input_hash,
        checkpoint.iterations as i64,
        checkpoint.iterations_budget as i64,
        checkpoint.cost,
        json!(checkpoint.routes),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What an earlier attempt of this job has kept.
pub async fn checkpoint(
    conn: &mut PgConnection,
    (warehouse, date): Day,
    cause: &Cause,
) -> Result<Option<Checkpoint>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select input_hash, iterations, iterations_budget, cost, routes from route_checkpoints
           where warehouse_id = $1 and date = $2 and job_id = $3"#,
        warehouse.0,
        date,
        cause.job_id(),
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(Checkpoint {
            iterations: row.iterations as u64,
            iterations_budget: row.iterations_budget as u64,
            cost: row.cost,
            routes: serde_json::from_value(row.routes).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            input_hash: row.input_hash,
        })
    })
    .transpose()
}

/// The search is over, or given up.
pub(super) async fn forget_checkpoint(conn: &mut PgConnection, (warehouse, date): Day) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from route_checkpoints where warehouse_id = $1 and date = $2",
        warehouse.0,
        date,
    )
    .execute(conn)
    .await?;
    Ok(())
}
