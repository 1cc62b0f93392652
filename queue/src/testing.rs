//! The real claim and finish code in a test's own process.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::attempt::{self, Runner, Settled};
use crate::catalogue::Catalogue;
use crate::claim::{self, Known};
use crate::complete::Completer;
use crate::inspect::{self, JobView};
use crate::lease::{self, Identity};

/// What `run_until_idle` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Attempts that completed their job.
    pub completed: u64,
    /// Attempts that failed and will be tried again.
    pub retried: u64,
    /// Attempts that used no try: snoozed, throttled, paused, handed back.
    pub postponed: u64,
    /// Attempts that ended in a dead letter.
    pub buried: u64,
    /// Attempts that discarded their job.
    pub discarded: u64,
    /// Attempts that were stopped because somebody asked for it.
    pub cancelled: u64,
    /// Attempts whose job was taken from them.
    pub lost: u64,
}

/// Runs whatever is due, one after the other, until nothing is.
pub async fn run_until_idle<S: Send + Sync + 'static>(
    pool: &PgPool,
    catalogue: &Catalogue<S>,
    services: &Arc<S>,
) -> anyhow::Result<Ran> {
    const ATTEMPTS_MAX: u64 = 100_000;
    let mut queues: Vec<_> = catalogue
        .kinds()
        .into_iter()
        .map(|kind| kind.queue.to_owned())
        .collect();
    queues.sort();
    queues.dedup();
    let known: Vec<_> = queues.iter().map(|queue| Known::of(catalogue, queue)).collect();

    // The row stands on a session of its own, as a real worker's does.
    let mut session = PgConnection::connect_with(&pool.connect_options()).await?;
    let identity = Identity {
        name: "run_until_idle".to_owned(),
        pools: queues,
        build: "test".to_owned(),
        lease: Duration::from_secs(3600),
        is_pooled: false,
    };
    let registration = Arc::new(lease::register(&mut session, &identity).await?);
    let stop = CancellationToken::new();
    let (completer, work) = Completer::new(pool.clone(), catalogue);
    let work = tokio::spawn(work);
    let runner = Runner {
        pool,
        catalogue,
        services: services.as_ref(),
        stop: &stop,
        completer: &completer,
    };
    let mut ran = Ran::default();
    let mut attempts = 0;
    loop {
        let mut is_idle = true;
        for known in &known {
            let mut claimed = claim::claim(pool, known, registration.id, 1).await?;
            claimed.extend(claim::claim_suspect(pool, known, registration.id).await?);
            completer.hold(&claimed);
            for job in claimed {
                is_idle = false;
                attempts += 1;
                match attempt::run(&runner, job, Arc::clone(&registration)).await {
                    Settled::Completed => ran.completed += 1,
                    Settled::Retried => ran.retried += 1,
                    Settled::Postponed => ran.postponed += 1,
                    Settled::Buried => ran.buried += 1,
                    Settled::Discarded => ran.discarded += 1,
                    Settled::Cancelled => ran.cancelled += 1,
                    Settled::Lost => ran.lost += 1,
                }
            }
        }
        if is_idle {
            break;
        }
        anyhow::ensure!(attempts < ATTEMPTS_MAX, "still not idle after {ATTEMPTS_MAX} attempts");
    }
    drop(completer);
    work.await?;
    lease::deregister(&mut session, registration.id).await?;
    session.close().await?;
    Ok(ran)
}

/// Makes everything that waits due that much sooner, and ends the keys that are taken for a time: rows move, not clocks.
pub async fn fast_forward(pool: &PgPool, time: Duration) -> sqlx::Result<()> {
    sqlx::query!(
        "with moved as (
             update queue.jobs
             set run_at = run_at - make_interval(secs => $1), deadline_at = deadline_at - make_interval(secs => $1),
                 created_at = created_at - make_interval(secs => $1)
         ), aged as (
             update queue.unique_keys set expires_at = expires_at - make_interval(secs => $1) where expires_at is not null
         )
         update queue.schedules set settled_at = settled_at - make_interval(secs => $1)",
        time.as_secs_f64(),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The jobs of a kind that have not ended, oldest first.
pub async fn enqueued(pool: &PgPool, kind: &str) -> sqlx::Result<Vec<JobView>> {
    inspect::live(&mut *pool.acquire().await?, kind).await
}
