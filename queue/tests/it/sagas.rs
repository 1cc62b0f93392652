//! Steps that are undone in reverse.

use std::sync::Arc;
use std::time::Duration;

use crate::kinds::*;
use queue::operate;
use queue::saga::{self, Begun, STEPS_MAX, Saga, SagaFilter, Steps};
use queue::{Job, JobId};
use sqlx::PgPool;
use testkit::Database;

fn named(name: &str, fate: Fate) -> Act {
    Act {
        order_id: name.to_owned(),
        ..act(fate)
    }
}

/// Four steps, of which the third cannot be undone; the fourth ends as told.
fn steps(last: Fate, undo_of_first: Fate) -> Steps {
    Steps::new()
        .step_with_undo(&named("1", Fate::Done), &named("undo 1", undo_of_first))
        .step_with_undo(&named("2", Fate::DoneInEffects), &named("undo 2", Fate::DoneInEffects))
        .step(&named("3", Fate::Done))
        .step_with_undo(&named("4", last), &named("undo 4", Fate::Done))
}

async fn begin(pool: &PgPool, steps: Steps) -> i64 {
    let mut tx = pool.begin().await.unwrap();
    let begun = saga::begin(&mut tx, "checkout", "o-1", steps).await.unwrap();
    assert!(begun.is_new);
    tx.commit().await.unwrap();
    begun.id
}

async fn look(pool: &PgPool, id: i64) -> Saga {
    saga::saga(&mut pool.acquire().await.unwrap(), id)
        .await
        .unwrap()
        .unwrap()
}

fn order(world: &World) -> Vec<String> {
    world.order.lock().unwrap().clone()
}

/// The job of a saga that is enqueued and has not ended.
fn current(saga: &Saga) -> Option<JobId> {
    let mut open = saga.jobs.iter().filter(|job| job.outcome.is_none());
    open.find_map(|job| job.job_id)
}

#[tokio::test]
async fn the_steps_of_a_saga_run_in_order_and_nothing_is_undone() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = begin(&db.pool, steps(Fate::Done, Fate::Done)).await;
    assert_eq!(run(&db.pool, &world).await.completed, 4);
    assert_eq!(order(&world), ["1", "2", "3", "4"]);
    let saga = look(&db.pool, id).await;
    assert_eq!((saga.state.as_str(), saga.failed_step), ("completed", None));
    assert!(saga.ended_at.is_some());
    assert!(saga.jobs.iter().all(|job| job.undo == job.job_id.is_none()));
}

#[tokio::test]
async fn completed_steps_are_undone_in_reverse_when_one_dies_or_is_discarded() {
    for (fate, outcome) in [(Fate::Permanent, "dead"), (Fate::Discard, "discarded")] {
        let db = Database::new().await;
        let world = Arc::new(World::default());
        let id = begin(&db.pool, steps(fate, Fate::Done)).await;
        run(&db.pool, &world).await;
        assert_eq!(order(&world), ["1", "2", "3", "4", "undo 2", "undo 1"]);
        let saga = look(&db.pool, id).await;
        assert_eq!((saga.state.as_str(), saga.failed_step), ("compensated", Some(4)));
        assert_eq!(saga.jobs[3].outcome.as_deref(), Some(outcome));
    }
}

#[tokio::test]
async fn a_dead_compensation_stops_its_saga_until_it_is_redriven_or_discarded() {
    for is_redriven in [true, false] {
        let db = Database::new().await;
        let world = Arc::new(World::default());
        let steps = Steps::new()
            .step_with_undo(&named("1", Fate::Done), &named("undo 1", Fate::Done))
            .step_with_undo(&named("2", Fate::Done), &named("undo 2", Fate::Permanent))
            .step(&named("3", Fate::Permanent));
        let id = begin(&db.pool, steps).await;
        run(&db.pool, &world).await;
        let stopped = look(&db.pool, id).await;
        assert_eq!(stopped.state, "compensation_failed");
        let dead = stopped
            .jobs
            .iter()
            .find(|job| job.undo && job.step == 2)
            .unwrap()
            .job_id
            .unwrap();

        let mut conn = db.pool.acquire().await.unwrap();
        if is_redriven {
            let mended = serde_json::to_value(named("undo 2", Fate::Done)).unwrap();
            operate::redrive(&mut conn, dead, "ann", "mended", Some(mended))
                .await
                .unwrap();
            assert_eq!(look(&db.pool, id).await.state, "compensating");
        } else {
            operate::discard(&mut conn, dead, "ann", "done by hand").await.unwrap();
        }
        run(&db.pool, &world).await;
        assert_eq!(order(&world).last().unwrap(), "undo 1", "the others go on");
        let expected = if is_redriven {
            "compensated"
        } else {
            "compensation_failed"
        };
        assert_eq!(look(&db.pool, id).await.state, expected);
    }
}

#[tokio::test]
async fn a_worker_killed_at_any_step_leaves_each_step_and_compensation_done_once() {
    for victim in 0..6 {
        let db = Database::new().await;
        let world = Arc::new(World::default());
        let id = begin(&db.pool, steps(Fate::Permanent, Fate::Done)).await;
        let mut at = 0;
        while let Some(job) = current(&look(&db.pool, id).await) {
            let worker = worker(&db.pool).await;
            if at == victim {
                assert_eq!(worker.claim(Act::QUEUE, 10).await.unwrap()[0].id, job);
                worker.die().await.unwrap();
                let rescued = queue::rescue::rescue(&db.pool, false, Duration::ZERO).await.unwrap();
                assert_eq!(rescued.jobs, 1);
            } else {
                worker.leave().await.unwrap();
            }
            run_one(&db.pool, &world).await;
            at += 1;
        }
        assert_eq!(at, 6, "one job at a time");
        assert_eq!(
            order(&world),
            ["1", "2", "3", "4", "undo 2", "undo 1"],
            "killed at {victim}"
        );
        assert_eq!(look(&db.pool, id).await.state, "compensated");
    }
}

/// Runs the one job that is due, and nothing that follows from it.
async fn run_one(pool: &PgPool, world: &Arc<World>) {
    let worker = worker_of(world, pool).await;
    let claimed = worker.claim(Act::QUEUE, 10).await.unwrap();
    assert_eq!(claimed.len(), 1);
    worker.run_all(claimed).await;
    worker.leave().await.unwrap();
}

#[tokio::test]
async fn a_stale_worker_moves_no_saga() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = begin(&db.pool, steps(Fate::Done, Fate::Done)).await;
    let stale = worker_of(&world, &db.pool).await;
    let claimed = stale.claim(Act::QUEUE, 1).await.unwrap();
    stale.hand_back_all().await.unwrap();
    stale.run_all(claimed).await;
    let saga = look(&db.pool, id).await;
    assert_eq!(saga.jobs.iter().filter(|job| job.job_id.is_some()).count(), 1);
    run(&db.pool, &world).await;
    assert_eq!(look(&db.pool, id).await.state, "completed");
}

#[tokio::test]
async fn a_step_whose_saga_has_turned_back_is_not_redriven() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = begin(&db.pool, steps(Fate::Permanent, Fate::Done)).await;
    run(&db.pool, &world).await;
    let failed = look(&db.pool, id).await.jobs[3].job_id.unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    let refused = operate::redrive(&mut conn, failed, "ann", "again", None).await;
    assert!(matches!(refused, Err(operate::Error::TurnedBack(job)) if job == failed));
    operate::discard(&mut conn, failed, "ann", "seen").await.unwrap();
    assert_eq!(look(&db.pool, id).await.state, "compensated");
    assert_eq!(run(&db.pool, &world).await, Default::default());
}

#[tokio::test]
async fn there_is_one_saga_for_a_key_and_a_wrong_one_is_refused() {
    let db = Database::new().await;
    let id = begin(&db.pool, steps(Fate::Done, Fate::Done)).await;
    let mut conn = db.pool.acquire().await.unwrap();
    let again = saga::begin(&mut conn, "checkout", "o-1", steps(Fate::Done, Fate::Done))
        .await
        .unwrap();
    assert_eq!(again, Begun { id, is_new: false });
    let grouped = Act {
        group: Some("g".to_owned()),
        ..act(Fate::Done)
    };
    let long = (0..=STEPS_MAX).fold(Steps::new(), |steps, _| steps.step(&act(Fate::Done)));
    for (steps, message) in [
        (Steps::new(), "a saga has from 1 to 100 steps, not 0"),
        (long, "a saga has from 1 to 100 steps, not 101"),
        (
            Steps::new().step(&grouped),
            "act has a group and cannot wait for other jobs",
        ),
    ] {
        let refusal = saga::begin(&mut conn, "checkout", "o-2", steps).await.unwrap_err();
        assert_eq!(refusal.to_string(), message);
    }
    let jobs = queue::testing::enqueued(&db.pool, "act").await.unwrap();
    assert_eq!(jobs.len(), 1, "one first step");
}

#[tokio::test]
async fn a_step_ended_by_a_build_that_knows_no_sagas_is_found_by_the_thorough_sweep() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = begin(&db.pool, steps(Fate::Done, Fate::Done)).await;
    sqlx::query("update queue.jobs set awaited = null")
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    assert_eq!(queue::fan_in::sweep(&db.pool, true).await.unwrap(), 1);
    assert_eq!(run(&db.pool, &world).await.completed, 3);
    assert_eq!(look(&db.pool, id).await.state, "completed");
}

#[tokio::test]
async fn sagas_are_listed_page_by_page_and_shown_whole() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let mut conn = db.pool.acquire().await.unwrap();
    for (key, fate) in [("o-1", Fate::Done), ("o-2", Fate::Permanent), ("o-3", Fate::Done)] {
        saga::begin(&mut conn, "checkout", key, steps(fate, Fate::Done))
            .await
            .unwrap();
    }
    run(&db.pool, &world).await;
    saga::begin(&mut conn, "checkout", "o-4", steps(Fate::Done, Fate::Done))
        .await
        .unwrap();

    let mut listed = Vec::new();
    let mut filter = SagaFilter {
        limit: 3,
        ..SagaFilter::default()
    };
    loop {
        let page = saga::sagas(&mut conn, &filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.id);
        listed.extend(page);
    }
    let lines: Vec<_> = listed
        .iter()
        .map(|saga| {
            (
                saga.key.as_str(),
                saga.state.as_str(),
                saga.steps_completed,
                saga.steps,
                saga.failed_step,
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            ("o-4", "running", 0, 4, None),
            ("o-3", "completed", 4, 4, None),
            ("o-2", "compensated", 3, 4, Some(4)),
            ("o-1", "completed", 4, 4, None),
        ]
    );
    let only = |filter: SagaFilter| {
        let pool = &db.pool;
        async move {
            let found = saga::sagas(&mut pool.acquire().await.unwrap(), &filter).await.unwrap();
            found.into_iter().map(|saga| saga.key).collect::<Vec<_>>()
        }
    };
    let state = |state: &str| SagaFilter {
        state: Some(state.to_owned()),
        ..SagaFilter::default()
    };
    assert_eq!(only(state("compensated")).await, ["o-2"]);
    assert_eq!(only(state("completed")).await, ["o-3", "o-1"]);
    let of_key = SagaFilter {
        name: Some("checkout".to_owned()),
        key: Some("o-1".to_owned()),
        ..SagaFilter::default()
    };
    assert_eq!(only(of_key).await, ["o-1"]);
    let of_name = SagaFilter {
        name: Some("refund".to_owned()),
        ..SagaFilter::default()
    };
    assert!(only(of_name).await.is_empty());

    let whole = look(&db.pool, listed[2].id).await;
    let jobs: Vec<_> = whole
        .jobs
        .iter()
        .map(|job| (job.step, job.undo, job.outcome.as_deref()))
        .collect();
    assert_eq!(
        jobs,
        [
            (1, false, Some("completed")),
            (2, false, Some("completed")),
            (3, false, Some("completed")),
            (4, false, Some("dead")),
            (1, true, Some("completed")),
            (2, true, Some("completed")),
            (4, true, None),
        ]
    );
}
