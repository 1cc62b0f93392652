use std::sync::Arc;
use std::time::Duration;

use crate::kinds::*;
use queue::Job;
use queue::runner::Settled;
use testkit::Database;

#[tokio::test]
async fn a_group_runs_one_at_a_time_in_order() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let jobs: Vec<_> = (0..3)
        .map(|n| Act {
            group: Some("g".to_owned()),
            order_id: n.to_string(),
            ..act(Fate::Done)
        })
        .collect();
    queue::enqueue_many(&mut db.pool.acquire().await.unwrap(), &jobs)
        .await
        .unwrap();
    let worker = worker(&db.pool).await;
    let claimed = worker.claim(Act::QUEUE, 10).await.unwrap();
    assert_eq!(claimed.len(), 1, "the head of the group only");
    assert_eq!(order_id(&claimed[0]), "0");
    assert!(worker.claim(Act::QUEUE, 10).await.unwrap().is_empty());
    worker.hand_back_all().await.unwrap();
    assert_eq!(run(&db.pool, &world).await.completed, 3);
    assert_eq!(*world.order.lock().unwrap(), ["0", "1", "2"]);
}

#[tokio::test]
async fn a_redriven_job_waits_for_the_one_of_its_group_that_runs() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let grouped = |fate| Act {
        group: Some("g".to_owned()),
        ..act(fate)
    };
    let first = enqueue(&db.pool, &grouped(Fate::Permanent)).await;
    assert_eq!(run(&db.pool, &world).await.buried, 1);
    enqueue(&db.pool, &grouped(Fate::Done)).await;
    let worker = worker(&db.pool).await;
    assert_eq!(worker.claim(Act::QUEUE, 10).await.unwrap().len(), 1);
    queue::operate::redrive(&mut db.pool.acquire().await.unwrap(), first, "ann", "mended", None)
        .await
        .unwrap();
    assert!(worker.claim(Act::QUEUE, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn priority_counts_but_nothing_starves() {
    let db = Database::new().await;
    for (priority, age_secs, name) in [(0, 0, "new"), (1, 0, "urgent"), (-1, 0, "idle"), (0, 40, "old")] {
        sqlx::query(
            "select queue.enqueue('stage', 'act', $1, clock_timestamp() - make_interval(secs => $2), p_priority => $3)",
        )
        .bind(
            serde_json::to_value(Act {
                order_id: name.to_owned(),
                ..act(Fate::Done)
            })
            .unwrap(),
        )
        .bind(f64::from(age_secs))
        .bind(priority)
        .execute(&db.pool)
        .await
        .unwrap();
    }
    let worker = worker(&db.pool).await;
    let mut order = Vec::new();
    while let Some(job) = worker.claim(Act::QUEUE, 1).await.unwrap().pop() {
        order.push(order_id(&job));
        if order.len() == 3 {
            break;
        }
    }
    assert_eq!(order, ["old", "urgent", "new"]);
    queue::testing::fast_forward(&db.pool, Duration::from_secs(31))
        .await
        .unwrap();
    assert_eq!(
        worker.claim(Act::QUEUE, 1).await.unwrap().len(),
        1,
        "thirty seconds later the idle one has its turn"
    );
}

#[tokio::test]
async fn unknown_kinds_and_newer_versions_stay_in_line() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    sqlx::query(
        "select queue.enqueue('stage', 'dance', '{}'), queue.enqueue('stage', 'act', '{}', p_args_version => 2)",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    assert_eq!(run(&db.pool, &world).await, Default::default());
    assert_eq!(queue::testing::enqueued(&db.pool, "dance").await.unwrap()[0].attempt, 0);
    let newer = queue::testing::enqueued(&db.pool, Act::KIND).await.unwrap().remove(0);
    assert_eq!(newer.attempt, 0);
    let _worker = worker(&db.pool).await;
    let why = causes(&db.pool, newer.id).await;
    let expected = "no worker of the queue stage knows act version 2; start one of a build that does";
    assert!(why[0].starts_with(expected), "{why:?}");
}

#[tokio::test]
async fn two_workers_never_claim_one_job() {
    let db = Database::new().await;
    let jobs: Vec<_> = (0..200).map(|_| act(Fate::Done)).collect();
    queue::enqueue_many(&mut db.pool.acquire().await.unwrap(), &jobs)
        .await
        .unwrap();
    let (one, other) = (worker(&db.pool).await, worker(&db.pool).await);
    let drain = async |worker: Worker| {
        let mut ids = Vec::new();
        loop {
            let claimed = worker.claim(Act::QUEUE, 7).await.unwrap();
            if claimed.is_empty() {
                return ids;
            }
            ids.extend(claimed.into_iter().map(|job| job.id));
        }
    };
    let (mut ids, more) = tokio::join!(tokio::spawn(drain(one)), tokio::spawn(drain(other)));
    let ids = ids.as_mut().unwrap();
    ids.extend(more.unwrap());
    assert_eq!(ids.len(), 200);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

#[tokio::test]
async fn a_stopping_or_unknown_worker_claims_nothing() {
    let db = Database::new().await;
    enqueue(&db.pool, &act(Fate::Done)).await;
    let worker = worker(&db.pool).await;
    queue::lease::stopping(&db.pool, worker.registration.id).await.unwrap();
    assert!(worker.claim(Act::QUEUE, 1).await.unwrap().is_empty());
    let conn = &mut *db.pool.acquire().await.unwrap();
    queue::lease::deregister(conn, worker.registration.id).await.unwrap();
    assert!(worker.claim(Act::QUEUE, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_handed_back() {
    let db = Database::new().await;
    let lost = enqueue(&db.pool, &act(Fate::Done)).await;
    let in_hand = enqueue(&db.pool, &act(Fate::Done)).await;
    let worker = worker(&db.pool).await;
    worker.claim(Act::QUEUE, 1).await.unwrap();
    let answered = worker.claim(Act::QUEUE, 1).await.unwrap();
    let strays = queue::finish::hand_back_strays(&db.pool, worker.registration.id, Act::QUEUE, &[answered[0].claim_id])
        .await
        .unwrap();
    assert_eq!(strays, 1);
    assert_eq!(job(&db.pool, lost).await.attempt, 0);
    assert_eq!(job(&db.pool, in_hand).await.state, "running");
}

/// How many rows the engine keeps about jobs in flight and turns.
async fn traces(pool: &sqlx::PgPool) -> Vec<i64> {
    sqlx::query_scalar(
        "select count(*) from queue.claims union all select count(*) from queue.ended
         union all select count(*) from queue.turns union all select count(*) from queue.progress",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_turn_is_passed_on_although_somebody_is_enqueueing_as_the_last_job_ends() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let grouped = Act {
        group: Some("g".to_owned()),
        ..act(Fate::Done)
    };
    enqueue(&db.pool, &grouped).await;
    let mut enqueueing = db.pool.begin().await.unwrap();
    let next = queue::enqueue(&mut enqueueing, &grouped).await.unwrap().id;
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    enqueueing.commit().await.unwrap();
    assert_eq!(run(&db.pool, &world).await.completed, 0, "nobody knew of it");
    queue::operate::fill_vacant_turns(&db.pool).await.unwrap();
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    assert_eq!(job(&db.pool, next).await.state, "completed");
    assert_eq!(traces(&db.pool).await, [0; 4]);
}

#[tokio::test]
async fn a_redriven_job_is_the_next_of_its_group() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let grouped = |name: &str, fate| Act {
        group: Some("g".to_owned()),
        order_id: name.to_owned(),
        ..act(fate)
    };
    let first = enqueue(&db.pool, &grouped("first", Fate::Permanent)).await;
    run(&db.pool, &world).await;
    for name in ["second", "third"] {
        enqueue(&db.pool, &grouped(name, Fate::Done)).await;
    }
    let edit = serde_json::to_value(grouped("first", Fate::Done)).unwrap();
    queue::operate::redrive(
        &mut db.pool.acquire().await.unwrap(),
        first,
        "ann",
        "mended",
        Some(edit),
    )
    .await
    .unwrap();
    run(&db.pool, &world).await;
    assert_eq!(*world.order.lock().unwrap(), ["first", "first", "second", "third"]);
    assert_eq!(traces(&db.pool).await, [0; 4]);
}

#[tokio::test]
async fn the_jobs_of_one_claim_end_each_in_its_own_way() {
    let db = Database::new().await;
    let fates = [
        Fate::Done,
        Fate::DoneInEffects,
        Fate::Fail,
        Fate::Permanent,
        Fate::Discard,
        Fate::Snooze,
        Fate::Done,
    ];
    let jobs: Vec<_> = fates.into_iter().map(act).collect();
    queue::enqueue_many(&mut db.pool.acquire().await.unwrap(), &jobs)
        .await
        .unwrap();
    let worker = worker(&db.pool).await;
    let claimed = worker.claim(Act::QUEUE, 10).await.unwrap();
    assert_eq!(claimed.len(), 7);
    assert_eq!(traces(&db.pool).await, [1, 0, 0, 0]);

    let settled = worker.run_all(claimed).await;
    use Settled::{Buried, Completed, Discarded, Postponed, Retried};
    assert_eq!(
        settled,
        [Completed, Completed, Retried, Buried, Discarded, Postponed, Completed]
    );
    assert_eq!(worker.jobs_in_hand(), 0);
    worker.leave().await.unwrap();
    assert_eq!(traces(&db.pool).await, [0; 4]);
    let states: Vec<(String, i64)> = sqlx::query_as("select state, count(*) from queue.all_jobs group by 1 order by 1")
        .fetch_all(&db.pool)
        .await
        .unwrap();
    let states: Vec<_> = states.iter().map(|(state, count)| (state.as_str(), *count)).collect();
    assert_eq!(
        states,
        [
            ("completed", 3),
            ("dead", 1),
            ("discarded", 1),
            ("retryable", 1),
            ("scheduled", 1)
        ]
    );
}

#[tokio::test]
async fn a_stale_end_passes_no_turn_on() {
    let db = Database::new().await;
    let grouped = Act {
        group: Some("g".to_owned()),
        ..act(Fate::Done)
    };
    let first = enqueue(&db.pool, &grouped).await;
    enqueue(&db.pool, &grouped).await;
    let worker = worker(&db.pool).await;
    let stale = worker.claim(Act::QUEUE, 10).await.unwrap().pop().unwrap();
    worker.hand_back_all().await.unwrap();

    assert_eq!(worker.run(stale).await, Settled::Lost);
    let in_line: Vec<_> = worker
        .claim(Act::QUEUE, 10)
        .await
        .unwrap()
        .iter()
        .map(|job| job.id)
        .collect();
    assert_eq!(in_line, [first]);
}
