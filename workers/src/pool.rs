//! The slots of one pool, run by apalis. No other file names it.
//!
//! Of apalis we use the worker: its stream of tasks, its tower layers, its draining stop. Everything durable is the
//! queue's: this backend is *ephemeral*, a channel with the fetcher at the other end, and the outcome of an attempt is
//! settled inside the handler, so that time-outs and caught panics count. (What the persisted backends of apalis lose
//! instead is in docs/adr.) A pool ends when its fetcher drops the channel and the last job in flight has ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::task::task_id::RandomId;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tower::layer::util::Identity;

use crate::site::{Flight, Site};

/// Runs what the fetchers send, each job on a task of its own, until they hang up and all have ended.
pub(crate) async fn serve<S: Send + Sync + 'static>(
    site: Arc<Site<S>>,
    name: String,
    claimed: mpsc::Receiver<Flight>,
) -> anyhow::Result<()> {
    let handler = move |flight: Flight| {
        let site = Arc::clone(&site);
        async move {
            // Handlers of one worker are concurrent; on tasks of their own they are parallel too.
            let attempts = TaskTracker::new();
            for (jobs, slot) in flight.attempts {
                let (site, registration) = (Arc::clone(&site), Arc::clone(&flight.registration));
                let company = Arc::clone(&flight.company);
                attempts.spawn(async move {
                    site.attempt(jobs, registration).await;
                    drop((slot, company));
                });
            }
            attempts.close();
            attempts.wait().await;
        }
    };
    let worker = WorkerBuilder::new(name.as_str())
        .backend(Claims { claimed })
        .build(handler);
    worker
        .run()
        .await
        .map_err(|error| anyhow::anyhow!("the pool {name} failed: {error}"))
}

/// What the fetchers have claimed: a task of apalis for each claim. A claim takes only as many jobs as there are free slots, so
/// a job here starts at once.
struct Claims {
    claimed: mpsc::Receiver<Flight>,
}

impl Backend for Claims {
    type Task = Task<Flight>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Self::Task, Infallible>>> {
        self.claimed
            .poll_recv(cx)
            .map(|flight| flight.map(|flight| Ok(Task::new(flight))))
    }

    fn poll_close(&mut self, _: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        // The end of the tasks is not the end of the worker to apalis: without this it would wait for ever.
        _ = worker.stop();
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Claims {
    type Args = Flight;
    type Id = RandomId;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}
