//! Who completes a job of a group goes on with the next of it, if that one may run here and now.

use std::sync::Arc;
use std::time::Duration;

use crate::kinds::*;
use queue::claim::Claimed;
use queue::limit::{self, Limit};
use queue::runner::Settled;
use queue::{Job, JobId};
use testkit::Database;

fn of_group(group: &str, n: usize) -> Act {
    Act {
        group: Some(group.to_owned()),
        order_id: n.to_string(),
        ..act(Fate::Done)
    }
}

/// Enqueues so many into one group.
async fn line_up(db: &Database, count: usize) -> Vec<JobId> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(enqueue(&db.pool, &of_group("g", n)).await);
    }
    ids
}

async fn claim_one(worker: &Worker) -> Claimed {
    let mut claimed = worker.claim(Act::QUEUE, 10).await.unwrap();
    assert_eq!(claimed.len(), 1, "one of a group at a time");
    claimed.remove(0)
}

/// Completes the head of a group and asserts that nobody goes on; returns what the line has of it then.
async fn leaves_the_rest_to_the_line(worker: &Worker) -> Vec<JobId> {
    let first = claim_one(worker).await;
    let (settled, next) = worker.run_and_go_on(first).await;
    assert_eq!(settled, Settled::Completed);
    assert!(next.is_none(), "{next:?}");
    let claimed = worker.claim(Act::QUEUE, 10).await.unwrap();
    claimed.iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn the_next_of_a_group_is_claimed_as_the_one_before_it_is_completed() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let ids = line_up(&db, 4).await;
    let worker = worker_of(&world, &db.pool).await;
    let mut next = Some(Box::new(claim_one(&worker).await));
    for id in &ids {
        let job = *next.unwrap();
        assert_eq!((job.id, job.fence, job.attempt), (*id, 1, 1));
        assert!(
            worker.claim(Act::QUEUE, 10).await.unwrap().is_empty(),
            "its turn is taken"
        );
        let (settled, then) = worker.run_and_go_on(job).await;
        assert_eq!(settled, Settled::Completed);
        next = then;
    }
    assert!(next.is_none());
    assert_eq!(*world.order.lock().unwrap(), ["0", "1", "2", "3"]);
    assert_eq!(worker.jobs_in_hand(), 0);
    let turns: i64 = sqlx::query_scalar("select count(*) from queue.turns")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(turns, 0, "an empty group leaves nothing behind");
    worker.leave().await.unwrap();
}

#[tokio::test]
async fn who_does_not_go_on_leaves_the_next_to_the_line() {
    let db = Database::new().await;
    let ids = line_up(&db, 2).await;
    let worker = worker(&db.pool).await;
    let first = claim_one(&worker).await;
    assert_eq!(worker.run(first).await, Settled::Completed);
    assert_eq!(claim_one(&worker).await.id, ids[1]);
}

#[tokio::test]
async fn nobody_goes_on_with_what_is_not_due() {
    let db = Database::new().await;
    let ids = line_up(&db, 2).await;
    sqlx::query("update queue.jobs set run_at = clock_timestamp() + interval '1 hour' where id = $1")
        .bind(ids[1].0)
        .execute(&db.pool)
        .await
        .unwrap();
    let worker = worker(&db.pool).await;
    assert_eq!(leaves_the_rest_to_the_line(&worker).await, []);
    queue::testing::fast_forward(&db.pool, Duration::from_secs(7200))
        .await
        .unwrap();
    assert_eq!(claim_one(&worker).await.id, ids[1]);
}

#[tokio::test]
async fn nobody_goes_on_with_a_paused_kind_or_in_a_paused_queue() {
    for (target, name) in [("kind", Act::KIND), ("queue", Act::QUEUE)] {
        let db = Database::new().await;
        let ids = line_up(&db, 2).await;
        let worker = worker(&db.pool).await;
        let first = claim_one(&worker).await;
        sqlx::query("insert into queue.pauses (target, name, reason, actor) values ($1, $2, 'tea', 'ann')")
            .bind(target)
            .bind(name)
            .execute(&db.pool)
            .await
            .unwrap();
        assert!(worker.run_and_go_on(first).await.1.is_none(), "{target}");
        sqlx::query("delete from queue.pauses").execute(&db.pool).await.unwrap();
        assert_eq!(claim_one(&worker).await.id, ids[1], "{target}");
    }
}

#[tokio::test]
async fn a_worker_that_stops_goes_on_with_nothing() {
    let db = Database::new().await;
    let ids = line_up(&db, 2).await;
    let stopping = worker(&db.pool).await;
    let first = claim_one(&stopping).await;
    sqlx::query("update queue.workers set stopping = true")
        .execute(&db.pool)
        .await
        .unwrap();
    assert!(stopping.run_and_go_on(first).await.1.is_none());
    assert_eq!(claim_one(&worker(&db.pool).await).await.id, ids[1]);
}

#[tokio::test]
async fn nobody_goes_on_with_what_this_build_cannot_read() {
    let db = Database::new().await;
    let ids = line_up(&db, 2).await;
    sqlx::query("update queue.jobs set args_version = 2 where id = $1")
        .bind(ids[1].0)
        .execute(&db.pool)
        .await
        .unwrap();
    let worker = worker(&db.pool).await;
    assert_eq!(leaves_the_rest_to_the_line(&worker).await, []);
    sqlx::query("update queue.jobs set args_version = 1")
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(claim_one(&worker).await.id, ids[1]);
}

#[tokio::test]
async fn a_limit_on_the_queue_or_on_the_next_ones_key_is_kept_by_the_line() {
    let db = Database::new().await;
    let ids = line_up(&db, 3).await;
    let mut conn = db.pool.acquire().await.unwrap();
    let worker = worker(&db.pool).await;
    let first = claim_one(&worker).await;
    // Set while the first one runs: it does not count against it, and the next one does.
    let none = Limit::concurrency(0);
    limit::set(&mut conn, "queue/stage", &none, "ann", "test")
        .await
        .unwrap();
    assert!(worker.run_and_go_on(first).await.1.is_none());
    assert!(worker.claim(Act::QUEUE, 10).await.unwrap().is_empty());
    limit::remove(&mut conn, "queue/stage", "ann", "test").await.unwrap();

    let second = claim_one(&worker).await;
    assert_eq!(second.id, ids[1]);
    sqlx::query("update queue.jobs set limit_key = 'key/1' where id = $1")
        .bind(ids[2].0)
        .execute(&db.pool)
        .await
        .unwrap();
    assert!(worker.run_and_go_on(second).await.1.is_none());
    assert_eq!(claim_one(&worker).await.id, ids[2]);
}

#[tokio::test]
async fn what_a_worker_went_on_with_is_rescued_when_it_dies() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let ids = line_up(&db, 3).await;
    let worker = worker_of(&world, &db.pool).await;
    let first = claim_one(&worker).await;
    let next = worker.run_and_go_on(first).await.1.unwrap();
    assert_eq!(next.id, ids[1]);
    worker.die().await.unwrap();
    let rescued = queue::rescue::rescue(&db.pool, true, Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!(rescued.jobs, 1);
    assert_eq!(run(&db.pool, &world).await.completed, 2);
    assert_eq!(*world.order.lock().unwrap(), ["0", "1", "2"]);
}

#[tokio::test]
async fn what_was_claimed_for_somebody_who_has_left_goes_back_in_line() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let ids = line_up(&db, 2).await;
    let worker = worker_of(&world, &db.pool).await;
    let first = claim_one(&worker).await;
    let mut turns = db.pool.begin().await.unwrap();
    sqlx::query("lock table queue.turns in share mode")
        .execute(&mut *turns)
        .await
        .unwrap();
    let mut running = Box::pin(worker.run_and_go_on(first));
    let is_waiting = "select exists (select from pg_locks where not granted
                                     and database = (select oid from pg_database where datname = current_database()))";
    while !sqlx::query_scalar::<_, bool>(is_waiting)
        .fetch_one(&db.pool)
        .await
        .unwrap()
    {
        _ = tokio::time::timeout(Duration::from_millis(5), &mut running).await;
    }
    drop(running);
    turns.rollback().await.unwrap();
    while worker.jobs_in_hand() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(worker.claim(Act::QUEUE, 10).await.unwrap().is_empty());
    assert_eq!(worker.hand_back_strays(Act::QUEUE).await.unwrap(), 1);
    assert_eq!(claim_one(&worker).await.id, ids[1]);
}
