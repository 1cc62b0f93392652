use std::sync::Arc;
use std::time::Duration;

use crate::kinds::*;
use queue::Job;
use queue::operate::{self, Target};
use queue::runner::Settled;
use queue::testing::Ran;
use sqlx::types::Json;
use testkit::Database;

#[tokio::test]
async fn effects_and_completion_commit_together() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = enqueue(&db.pool, &act(Fate::DoneInEffects)).await;
    assert_eq!(
        run(&db.pool, &world).await,
        Ran {
            completed: 1,
            ..Ran::default()
        }
    );
    let job = job(&db.pool, id).await;
    assert_eq!((job.state.as_str(), job.attempt, job.fence), ("completed", 1, 1));
    assert_eq!(job.result.unwrap()["run"], 0);
}

#[tokio::test]
async fn a_failed_attempt_waits_in_the_table_with_its_story() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = enqueue(&db.pool, &act(Fate::Fail)).await;
    assert_eq!(run(&db.pool, &world).await.retried, 1);
    let job = job(&db.pool, id).await;
    assert_eq!((job.attempt, world.runs()), (1, 1));
    assert_eq!(job.failures[0]["message"], "the lights went out");
    assert_eq!(job.failures[0]["class"], "transient");
    assert!(job.failures[0]["finished"].is_string());
    assert!(job.waiting.unwrap().contains("attempt 1 failed"));
}

#[tokio::test]
async fn timeouts_and_panics_are_failed_attempts_and_leave_no_job_stuck() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let hangs = enqueue(&db.pool, &act(Fate::Hang)).await;
    let panics = enqueue(&db.pool, &act(Fate::Panic)).await;
    let neighbour = enqueue(&db.pool, &act(Fate::Done)).await;
    assert_eq!(
        run(&db.pool, &world).await,
        Ran {
            completed: 1,
            retried: 2,
            ..Ran::default()
        }
    );
    assert_eq!(job(&db.pool, hangs).await.failures[0]["code"], "timeout");
    assert_eq!(job(&db.pool, panics).await.failures[0]["code"], "panic");
    assert_eq!(job(&db.pool, neighbour).await.state, "completed");
}

#[tokio::test]
async fn a_snooze_and_a_throttle_use_no_attempt_and_wait_as_told() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let snoozed = enqueue(&db.pool, &act(Fate::Snooze)).await;
    let throttled = enqueue(&db.pool, &act(Fate::Throttled)).await;
    assert_eq!(run(&db.pool, &world).await.postponed, 2);
    assert_eq!(job(&db.pool, snoozed).await.attempt, 0);
    let throttled = job(&db.pool, throttled).await;
    assert_eq!(throttled.attempt, 0);
    assert!(throttled.run_at.unwrap() > chrono::Utc::now() + chrono::TimeDelta::minutes(59));
    queue::testing::fast_forward(&db.pool, Duration::from_secs(61))
        .await
        .unwrap();
    run(&db.pool, &world).await;
    assert_eq!(world.runs(), 3, "the snoozed one ran again, the throttled one did not");
}

#[tokio::test]
async fn trouble_with_the_database_uses_no_attempt() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = enqueue(&db.pool, &act(Fate::DeadlockOnce)).await;
    assert_eq!(run(&db.pool, &world).await.postponed, 1);
    let waiting = job(&db.pool, id).await;
    assert_eq!(waiting.attempt, 0);
    assert!(waiting.waiting.unwrap().contains("deadlock detected"));
    queue::testing::fast_forward(&db.pool, Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(run(&db.pool, &world).await.completed, 1);
}

#[tokio::test]
async fn a_wrong_installation_pauses_the_kind_and_keeps_the_attempt() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = enqueue(&db.pool, &act(Fate::Config)).await;
    let behind = enqueue(&db.pool, &act(Fate::Done)).await;
    assert_eq!(
        run(&db.pool, &world).await,
        Ran {
            postponed: 1,
            ..Ran::default()
        }
    );
    assert_eq!(job(&db.pool, id).await.attempt, 0);
    assert_eq!(job(&db.pool, behind).await.state, "available");
    let conn = &mut *db.pool.acquire().await.unwrap();
    let why = causes(&db.pool, behind).await;
    assert!(why.iter().any(|cause| cause.contains("the key is missing")), "{why:?}");
    assert!(
        operate::resume(conn, Target::Kind, Act::KIND, "key set", "ann")
            .await
            .unwrap()
    );
    assert!(
        !operate::resume(conn, Target::Kind, Act::KIND, "again", "ann")
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_paused_queue_is_not_claimed_until_it_is_resumed() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    enqueue(&db.pool, &act(Fate::Done)).await;
    operate::pause(
        &mut db.pool.acquire().await.unwrap(),
        Target::Queue,
        Act::QUEUE,
        "stocktaking",
        "ann",
    )
    .await
    .unwrap();
    assert_eq!(run(&db.pool, &world).await, Ran::default());
    operate::resume(
        &mut db.pool.acquire().await.unwrap(),
        Target::Queue,
        Act::QUEUE,
        "over",
        "ann",
    )
    .await
    .unwrap();
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    let audited: i64 = sqlx::query_scalar("select count(*) from queue.audit")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(audited, 2);
}

#[tokio::test]
async fn a_discarded_job_ends_for_the_reason_given() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = enqueue(&db.pool, &act(Fate::Discard)).await;
    assert_eq!(run(&db.pool, &world).await.discarded, 1);
    let job = job(&db.pool, id).await;
    assert_eq!(
        (job.state.as_str(), job.result.unwrap()["reason"].as_str().unwrap()),
        ("discarded", "the play was cancelled")
    );
}

#[tokio::test]
async fn a_stale_worker_writes_nothing() {
    let db = Database::new().await;
    let id = enqueue(&db.pool, &act(Fate::DoneInEffects)).await;
    let worker = worker(&db.pool).await;
    let stale = worker.claim(Act::QUEUE, 1).await.unwrap().pop().unwrap();
    // The job passes to somebody else, who holds it now under a higher fence.
    assert_eq!(worker.hand_back_all().await.unwrap(), 1);
    let fresh = worker.claim(Act::QUEUE, 1).await.unwrap().pop().unwrap();
    assert!(fresh.fence > stale.fence);

    for fate in [
        Fate::DoneInEffects,
        Fate::Done,
        Fate::Fail,
        Fate::Permanent,
        Fate::Snooze,
        Fate::Discard,
        Fate::Config,
    ] {
        let mut stale = stale.clone();
        stale.args = Json(serde_json::value::to_raw_value(&act(fate.clone())).unwrap());
        let settled = worker.run(stale).await;
        assert_eq!(settled, Settled::Lost, "{fate:?}");
    }
    let untouched = job(&db.pool, id).await;
    assert_eq!((untouched.state.as_str(), untouched.fence), ("running", fresh.fence));
    assert_eq!(untouched.failures, serde_json::json!([]));
    let pauses: i64 = sqlx::query_scalar("select count(*) from queue.pauses")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(pauses, 0);

    assert_eq!(worker.run(fresh).await, Settled::Completed);
}

#[tokio::test]
async fn a_handler_that_writes_without_the_fence_is_refused_by_the_database() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = enqueue(&db.pool, &act(Fate::WriteWithoutTheFence)).await;
    let ran = run(&db.pool, &world).await;
    assert_eq!(ran.retried, 1, "{ran:?}");
    let job = job(&db.pool, id).await;
    assert_eq!(
        (job.attempt, job.failures[0]["code"].as_str()),
        (1, Some("write_without_fence")),
        "it uses its tries: it would fail for ever"
    );
    let written: i64 = sqlx::query_scalar("select count(*) from queue.audit")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(written, 0);
}

#[tokio::test]
async fn a_stopped_attempt_is_handed_back_with_its_try_and_its_place() {
    let db = Database::new().await;
    let id = enqueue(&db.pool, &act(Fate::Hang)).await;
    let place = job(&db.pool, id).await.run_at;
    let worker = worker(&db.pool).await;
    let claimed = worker.claim(Act::QUEUE, 1).await.unwrap().pop().unwrap();
    worker.stop.cancel();
    let mut hints = Hints::hear(&db.pool).await;
    // Had it waited for the handler, that would have run into its timeout.
    assert_eq!(worker.run(claimed).await, Settled::Postponed);
    assert_eq!(hints.next().await, Act::QUEUE);
    let back = job(&db.pool, id).await;
    assert_eq!(
        (back.state.as_str(), back.attempt, back.fence, back.run_at),
        ("available", 0, 1, place)
    );
}

#[tokio::test]
async fn a_lost_lease_cancels_its_attempts() {
    let db = Database::new().await;
    enqueue(&db.pool, &act(Fate::Hang)).await;
    let worker = worker(&db.pool).await;
    let claimed = worker.claim(Act::QUEUE, 1).await.unwrap().pop().unwrap();
    worker.registration.lost.cancel();
    assert_eq!(worker.run(claimed).await, Settled::Lost);
}
