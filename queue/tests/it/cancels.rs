//! Jobs that somebody does not want any more.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};

use queue::operate::{self, Cancelled, Error};
use queue::runner::Settled;
use queue::testing::Worker;
use queue::{Attempt, Catalogue, Job, JobId, Outcome};
use serde::{Deserialize, Serialize};
use testkit::{Database, eventually};
use tokio::sync::Semaphore;

use crate::kinds::{self, Act, Fate, World, act, causes, job};

/// What waiting jobs wait for.
struct Stage {
    gate: Semaphore,
    waiting: AtomicI64,
}

/// Waits at the gate, then tells the next one, in one transaction.
#[derive(Clone, Serialize, Deserialize)]
struct WaitThenTell {}

impl Job for WaitThenTell {
    type Services = Stage;
    const KIND: &'static str = "wait_then_tell";
    const QUEUE: &'static str = Act::QUEUE;

    async fn run(self, attempt: &Attempt, stage: &Stage) -> anyhow::Result<Outcome> {
        stage.waiting.fetch_add(1, Ordering::SeqCst);
        let _leaving = Leaving(&stage.waiting);
        stage.gate.acquire().await?.forget();
        let mut tx = attempt.begin().await?;
        let told = Act {
            order_id: attempt.job_id.to_string(),
            ..act(Fate::Done)
        };
        queue::enqueue(&mut tx, &told).await?;
        tx.done().await
    }
}

struct Leaving<'a>(&'a AtomicI64);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

static CATALOGUE: LazyLock<Catalogue<Stage>> = LazyLock::new(|| Catalogue::new().with::<WaitThenTell>());

type StageWorker = Worker<'static, Stage>;

/// Runs so many of them side by side, cancels each by `cancel`, and says how they were settled.
async fn perform(
    db: &Database,
    count: usize,
    cancel: impl AsyncFn(&Stage, &StageWorker, &[JobId]),
) -> Vec<(JobId, Settled)> {
    let stage = Arc::new(Stage {
        gate: Semaphore::new(0),
        waiting: AtomicI64::new(0),
    });
    let jobs = vec![WaitThenTell {}; count];
    queue::enqueue_many(&mut db.pool.acquire().await.unwrap(), &jobs)
        .await
        .unwrap();
    let worker = Arc::new(Worker::register(&db.pool, &CATALOGUE, &stage).await.unwrap());
    let claimed = worker.claim(WaitThenTell::QUEUE, count).await.unwrap();
    assert_eq!(claimed.len(), count);
    let ids: Vec<JobId> = claimed.iter().map(|job| job.id).collect();
    let attempts: Vec<_> = claimed
        .into_iter()
        .map(|job| {
            let worker = Arc::clone(&worker);
            tokio::spawn(async move { worker.run(job).await })
        })
        .collect();
    eventually("all to wait at the gate", async || {
        (stage.waiting.load(Ordering::SeqCst) == count as i64).then_some(())
    })
    .await;
    cancel(&stage, &worker, &ids).await;
    let mut settled = Vec::new();
    for (id, attempt) in ids.into_iter().zip(attempts) {
        settled.push((id, attempt.await.unwrap()));
    }
    assert_eq!(stage.waiting.load(Ordering::SeqCst), 0);
    Arc::into_inner(worker).unwrap().leave().await.unwrap();
    settled
}

async fn cancel(db: &Database, id: JobId) -> Result<Cancelled, Error> {
    let conn = &mut *db.pool.acquire().await.unwrap();
    operate::cancel(conn, id, "ann", "nobody needs it").await
}

async fn count(db: &Database, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&db.pool).await.unwrap()
}

/// The jobs that those which got through have told.
async fn told(db: &Database) -> Vec<i64> {
    sqlx::query_scalar("select (args ->> 'order_id')::bigint from queue.jobs where kind = 'act' order by 1")
        .fetch_all(&db.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_waiting_job_that_is_cancelled_ends_and_gives_its_key_and_its_turn_away() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let first = Act {
        key: Some("k".to_owned()),
        group: Some("g".to_owned()),
        ..act(Fate::Done)
    };
    let id = kinds::enqueue(&db.pool, &first).await;
    let next = Act {
        key: None,
        ..first.clone()
    };
    kinds::enqueue(&db.pool, &next).await;
    assert_eq!(cancel(&db, id).await.unwrap(), Cancelled::Ended);
    let ended = job(&db.pool, id).await;
    assert_eq!(ended.state, "cancelled");
    assert_eq!(
        ended.result.unwrap(),
        serde_json::json!({"by": "ann", "reason": "nobody needs it"})
    );
    assert_ne!(kinds::enqueue(&db.pool, &first).await, id);
    assert_eq!(kinds::run(&db.pool, &world).await.completed, 2);
    assert_eq!(
        count(&db, "select count(*) from queue.audit where action = 'cancel'").await,
        1
    );
}

#[tokio::test]
async fn a_running_job_that_is_cancelled_stops_and_is_not_tried_again() {
    let db = Database::new().await;
    let settled = perform(&db, 3, async |stage, worker, ids| {
        assert_eq!(cancel(&db, ids[1]).await.unwrap(), Cancelled::Asked);
        assert_eq!(
            cancel(&db, ids[1]).await.unwrap(),
            Cancelled::Asked,
            "asking twice is asking"
        );
        let why = causes(&db.pool, ids[1]).await;
        assert!(
            why.concat().contains("ann has asked it to stop: nobody needs it"),
            "{why:?}"
        );
        assert!(worker.beat().await.unwrap());
        eventually("the one to be dropped", async || {
            (stage.waiting.load(Ordering::SeqCst) == 2).then_some(())
        })
        .await;
        stage.gate.add_permits(2);
    })
    .await;
    let ways: Vec<_> = settled.iter().map(|(_, settled)| *settled).collect();
    assert_eq!(ways, [Settled::Completed, Settled::Cancelled, Settled::Completed]);
    let cancelled = job(&db.pool, settled[1].0).await;
    assert_eq!((cancelled.state.as_str(), cancelled.attempt), ("cancelled", 1));
    assert_eq!(cancelled.result.unwrap()["by"], "ann");
    assert_eq!(told(&db).await, [settled[0].0.0, settled[2].0.0]);
    assert_eq!(count(&db, "select count(*) from queue.cancels").await, 0);
    assert!(matches!(
        cancel(&db, settled[0].0).await,
        Err(Error::Ended { state, .. }) if state == "completed"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_cancel_and_a_completion_at_once_exactly_one_wins() {
    let db = Database::new().await;
    let settled = perform(&db, 100, async |stage, worker, ids| {
        // Each is asked to stop and let through; now and then the wishes are read, sometimes before, sometimes after.
        for (n, id) in ids.iter().enumerate() {
            let asked = cancel(&db, *id).await;
            assert!(
                matches!(asked, Ok(Cancelled::Asked) | Err(Error::Ended { .. })),
                "{asked:?}"
            );
            if n % 7 == 0 {
                assert!(worker.beat().await.unwrap());
            }
            stage.gate.add_permits(1);
        }
        assert!(worker.beat().await.unwrap());
    })
    .await;
    let mut completed = Vec::new();
    for (id, settled) in settled {
        let state = job(&db.pool, id).await.state;
        match settled {
            Settled::Completed => completed.push(id.0),
            Settled::Cancelled => {}
            other => panic!("{id} was {other:?}"),
        }
        let expected = if settled == Settled::Completed {
            "completed"
        } else {
            "cancelled"
        };
        assert_eq!(state, expected);
    }
    assert_eq!(
        told(&db).await,
        completed,
        "what was cancelled has no effects, what completed has them"
    );
    assert_eq!(count(&db, "select count(*) from queue.finished_jobs").await, 100);
    operate::settle_cancels(&db.pool).await.unwrap();
    assert_eq!(count(&db, "select count(*) from queue.cancels").await, 0);
}

#[tokio::test]
async fn a_job_that_was_asked_to_stop_and_goes_back_in_line_ends_there() {
    let db = Database::new().await;
    let id = kinds::enqueue(&db.pool, &act(Fate::Done)).await;
    let ends = kinds::enqueue(&db.pool, &act(Fate::Done)).await;
    // A worker that never looks.
    let worker = kinds::worker(&db.pool).await;
    assert_eq!(worker.claim(Act::QUEUE, 2).await.unwrap().len(), 2);
    assert_eq!(cancel(&db, id).await.unwrap(), Cancelled::Asked);
    assert_eq!(cancel(&db, ends).await.unwrap(), Cancelled::Asked);
    operate::settle_cancels(&db.pool).await.unwrap();
    assert_eq!(job(&db.pool, id).await.state, "running");
    worker.hand_back_all().await.unwrap();
    operate::settle_cancels(&db.pool).await.unwrap();
    assert_eq!(job(&db.pool, id).await.state, "cancelled");
    assert_eq!(job(&db.pool, ends).await.state, "cancelled");
    assert_eq!(count(&db, "select count(*) from queue.cancels").await, 0);
}

#[tokio::test]
async fn what_is_not_there_or_has_ended_cannot_be_cancelled() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    assert!(matches!(cancel(&db, JobId(77)).await, Err(Error::NotFound(JobId(77)))));
    let dead = kinds::enqueue(&db.pool, &act(Fate::Permanent)).await;
    kinds::run(&db.pool, &world).await;
    let refused = cancel(&db, dead).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("job {dead} has ended: it is dead"));
    assert_eq!(count(&db, "select count(*) from queue.audit").await, 0);
}
