//! Jobs that a handler's own transaction ended give their limits' room back afterwards, together with others.
//!
//! In that transaction it would cost the others their parallelism: the row of a key that jobs wait for would be locked until its
//! commit is on disk, so that the jobs of a busy key would end one after the other. For the same reason the release itself does
//! not wait for the disk: one that a crash of the server forgets is mended like any other that was lost.

use std::collections::BTreeMap;

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use crate::finish::{self, Held};

/// How many jobs are released by one statement, at most.
const RELEASED_MAX: usize = 1000;

/// A job that has ended.
pub(crate) struct Release {
    held: Held,
    is_success: bool,
    done: oneshot::Sender<()>,
}

/// Asks for the release of a job's limits, and waits until it is done.
pub(crate) async fn release(sender: &mpsc::UnboundedSender<Release>, held: Held, is_success: bool) {
    let (done, is_done) = oneshot::channel();
    let release = Release { held, is_success, done };
    if sender.send(release).is_ok() {
        // An error says that the process ends.
        _ = is_done.await;
    }
}

/// Does what is asked for until nobody is left who could ask.
pub(crate) async fn run(pool: PgPool, mut receiver: mpsc::UnboundedReceiver<Release>) {
    let mut releases = Vec::new();
    while receiver.recv_many(&mut releases, RELEASED_MAX).await > 0 {
        let mut alike = BTreeMap::<_, Vec<_>>::new();
        for release in &releases {
            let held = &release.held;
            alike
                .entry((held.worker_id, release.is_success))
                .or_default()
                .push(held);
        }
        for ((worker_id, is_success), jobs) in alike {
            // Not tried again: it may have happened, and given back twice the room would be more than there is. What stays
            // taken is freed with its worker's claims, or by `limit::mend` when the claim is gone.
            if let Err(error) = write(&pool, worker_id, &jobs, is_success).await {
                tracing::warn!(jobs = jobs.len(), "the room of limits is given back later: {error}");
            }
        }
        for release in releases.drain(..) {
            _ = release.done.send(());
        }
    }
}

/// A worker that was lost meanwhile tells nobody anything.
async fn write(pool: &PgPool, worker_id: i64, jobs: &[&Held], is_success: bool) -> sqlx::Result<()> {
    let (claims, keys) = finish::holds_of(jobs);
    sqlx::query!(
        "select queue.let_go($1, $2, $3) from queue.workers where id = $4",
        &claims,
        &keys,
        is_success,
        worker_id,
    )
    .execute(pool)
    .await?;
    Ok(())
}
