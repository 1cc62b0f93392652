//! Somebody notices. The notification is a hint; polling is the rule.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::backoff::Trouble;

/// The channel `queue.enqueue` notifies, with the name of the queue.
const CHANNEL: &str = "queue_jobs";

/// Passes the hints on to the queues they are for, until told to stop. Without a connection there are no hints, only
/// polls.
pub async fn listen(pool: PgPool, queues: Vec<(String, Arc<Notify>)>, stop: CancellationToken) {
    let mut trouble = Trouble::default();
    while !stop.is_cancelled() {
        let heard = tokio::select! {
            heard = hear(&pool, &queues, &mut trouble) => heard,
            () = stop.cancelled() => return,
        };
        if let Err(error) = heard {
            let wait = trouble.wait();
            if trouble.is_first() {
                tracing::info!("no hints for now, only polls: {error}");
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

async fn hear(pool: &PgPool, queues: &[(String, Arc<Notify>)], trouble: &mut Trouble) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        trouble.over();
        // None: the connection was lost, and hints with it.
        let Some(hint) = listener.try_recv().await? else {
            return Ok(());
        };
        for (queue, notify) in queues {
            if hint.payload() == queue {
                notify.notify_one();
            }
        }
    }
}

/// How long to wait before the next poll: short while there is work, doubling to a second when there is none.
#[derive(Debug)]
pub struct Poll {
    wait: Duration,
}

impl Poll {
    const SHORTEST: Duration = Duration::from_millis(2);
    /// The longest wait between two polls of an idle queue.
    pub const LONGEST: Duration = Duration::from_secs(1);

    /// The first wait is the shortest.
    pub fn new() -> Self {
        Self { wait: Self::SHORTEST }
    }

    /// Something was found.
    pub fn found(&mut self) {
        self.wait = Self::SHORTEST;
    }

    /// Nothing was found: the wait before the next poll.
    pub fn wait(&mut self) -> Duration {
        let wait = self.wait;
        self.wait = (wait * 2).min(Self::LONGEST);
        wait
    }
}

impl Default for Poll {
    fn default() -> Self {
        Self::new()
    }
}
