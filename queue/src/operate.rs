//! What an operator does, each with a reason and a line in the audit.

use serde_json::Value;
use sqlx::PgConnection;

use crate::job::JobId;

/// What is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A line of jobs.
    Queue,
    /// A kind of job.
    Kind,
}

/// Why an operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such job, or it is not in a state for this.
    #[error("job {0} is not there or not in a state for this")]
    NotFound(JobId),
    /// Its unique key was taken by another job in the meantime.
    #[error("job {other} has taken the unique key of job {id}")]
    KeyTaken {
        /// The job that was to return.
        id: JobId,
        /// The one in its place.
        other: JobId,
    },
    /// The database refused.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Stops claims of a queue or a kind; what runs goes on.
pub async fn pause(_conn: &mut PgConnection, _target: Target, _name: &str, _reason: &str, _actor: &str) -> Result<(), Error> {
    todo!()
}

/// Ends a pause; false when there was none.
pub async fn resume(_conn: &mut PgConnection, _target: Target, _name: &str, _reason: &str, _actor: &str) -> Result<bool, Error> {
    todo!()
}

/// Makes a dead letter a job again, with its id and keys and all its attempts; `edit` replaces the payload.
pub async fn redrive(_conn: &mut PgConnection, _id: JobId, _actor: &str, _reason: &str, _edit: Option<Value>) -> Result<JobId, Error> {
    todo!()
}

/// Gives up a dead letter or a waiting job for good.
pub async fn discard(_conn: &mut PgConnection, _id: JobId, _actor: &str, _reason: &str) -> Result<(), Error> {
    todo!()
}
