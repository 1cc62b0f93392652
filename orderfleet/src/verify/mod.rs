//! The invariants of `docs/invariants` checked from outside: read-only, in one snapshot, against records that the fleet
//! cannot rewrite where they are given (the gateway's ledger, the receiver's log).
//!
//! Each check is one function with one statement; the modules are the areas. The files are read whole before the
//! snapshot is taken: whatever the database says was done must then be in them, or be younger than they are, and
//! [`JUST_NOW`] forgives that.

mod jobs;
mod journals;
mod orders;
mod payments;
mod routes;
mod sellers;
mod stock;
mod webhooks;

use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use sqlx::{Acquire, PgConnection};

pub use journals::{Ledger, LedgerEntry, Received, ReceiverLog};

/// A running fleet always has something in flight. What began or came due this recently, in seconds, is not held
/// against it; a drained fleet has nothing so young.
const JUST_NOW: f64 = 10.0;

/// How many offending ids are printed; all are counted.
const IDS_MAX: usize = 20;

/// What became of one invariant.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Its id, as in the list of invariants.
    pub id: &'static str,
    /// What must be true.
    pub statement: &'static str,
    /// How it went.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// How a check went.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// No violation.
    Ok,
    /// It was not checked.
    Skipped {
        /// Why.
        why: &'static str,
    },
    /// It does not hold.
    Violated {
        /// How often.
        count: usize,
        /// What offends, the first few.
        ids: Vec<String>,
    },
}

impl Check {
    fn new(id: &'static str, statement: &'static str, offenders: Vec<String>) -> Check {
        let verdict = match offenders.len() {
            0 => Verdict::Ok,
            count => Verdict::Violated {
                count,
                ids: offenders.into_iter().take(IDS_MAX).collect(),
            },
        };
        Check { id, statement, verdict }
    }

    fn skipped(id: &'static str, statement: &'static str, why: &'static str) -> Check {
        Check {
            id,
            statement,
            verdict: Verdict::Skipped { why },
        }
    }

    /// Whether the invariant is known not to hold.
    pub fn is_violated(&self) -> bool {
        matches!(self.verdict, Verdict::Violated { .. })
    }

    /// The line that is printed.
    pub fn line(&self) -> String {
        match &self.verdict {
            Verdict::Ok => format!("ok {} {}", self.id, self.statement),
            Verdict::Skipped { why } => format!("skipped {}: {why}", self.id),
            Verdict::Violated { count, ids } => {
                let more = if *count > ids.len() { ", …" } else { "" };
                format!(
                    "FAIL {} {} ({count}): {}{more}",
                    self.id,
                    self.statement,
                    ids.join(", ")
                )
            }
        }
    }
}

/// The records from outside that are at hand.
#[derive(Debug, Default)]
pub struct Records {
    /// What the gateway says it did.
    pub ledger: Option<Ledger>,
    /// What the receiver says it got.
    pub receiver: Option<ReceiverLog>,
}

impl Records {
    /// Reads the files that are given.
    pub fn read(ledger: Option<&Path>, receiver: Option<&Path>) -> anyhow::Result<Records> {
        Ok(Records {
            ledger: ledger.map(Ledger::read).transpose()?,
            receiver: receiver.map(ReceiverLog::read).transpose()?,
        })
    }
}

/// Checks everything, in one snapshot, writing nothing.
pub async fn verify(conn: &mut PgConnection, records: &Records) -> anyhow::Result<Vec<Check>> {
    let mut snapshot = conn.begin().await.context("beginning a transaction")?;
    sqlx::query!("set transaction isolation level repeatable read, read only")
        .execute(&mut *snapshot)
        .await
        .context("making the transaction read-only")?;
    let mut checks = Vec::new();
    checks.extend(stock::check(&mut snapshot).await.context("checking stock")?);
    checks.extend(orders::check(&mut snapshot).await.context("checking orders")?);
    checks.extend(
        payments::check(&mut snapshot, records.ledger.as_ref())
            .await
            .context("checking payments")?,
    );
    checks.extend(
        sellers::check(&mut snapshot, records.ledger.as_ref())
            .await
            .context("checking sellers")?,
    );
    checks.extend(
        webhooks::check(&mut snapshot, records.receiver.as_ref())
            .await
            .context("checking webhooks")?,
    );
    checks.extend(jobs::check(&mut snapshot).await.context("checking jobs")?);
    checks.extend(routes::check(&mut snapshot).await.context("checking routes")?);
    snapshot.rollback().await.context("ending the snapshot")?;
    Ok(checks)
}
