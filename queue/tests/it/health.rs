//! Depth, speed, bloat and the horizon: what an operator and an autoscaler go by.

use std::sync::Arc;

use crate::kinds::*;
use queue::inspect::{self, Measure};
use sqlx::{Connection, PgConnection, PgPool};
use testkit::Database;

async fn measured(pool: &PgPool) -> Measure {
    let mut conn = pool.acquire().await.unwrap();
    inspect::measured(&mut conn).await.unwrap().pop().unwrap()
}

/// Makes everything measured so far that much older, and what has ended as well.
async fn pass(pool: &PgPool, seconds: f64) {
    for statement in [
        "update queue.measures set at = at - make_interval(secs => $1)",
        "update queue.finished_jobs set finished_at = finished_at - make_interval(secs => $1)",
    ] {
        sqlx::query(statement).bind(seconds).execute(pool).await.unwrap();
    }
}

#[tokio::test]
async fn a_queue_tells_how_fast_it_moves_and_when_it_will_be_empty() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let jobs: Vec<_> = (0..10).map(|_| act(Fate::Done)).collect();
    let mut conn = db.pool.acquire().await.unwrap();
    queue::enqueue_many(&mut conn, &jobs).await.unwrap();
    let _worker = worker(&db.pool).await;
    let first = measured(&db.pool).await;
    assert_eq!(
        (first.available, first.completed_per_second, first.drain_seconds),
        (10, None, None)
    );

    // In the ten seconds after it ten jobs end and twenty come in.
    pass(&db.pool, 12.0).await;
    assert_eq!(run(&db.pool, &world).await.completed, 10);
    sqlx::query("update queue.finished_jobs set finished_at = finished_at - interval '2 seconds'")
        .execute(&db.pool)
        .await
        .unwrap();
    queue::enqueue_many(&mut conn, &[jobs.clone(), jobs].concat())
        .await
        .unwrap();
    let second = measured(&db.pool).await;
    assert_eq!(second.available, 20);
    let completed = second.completed_per_second.unwrap();
    assert!((0.1..=10.0 / 12.0).contains(&completed), "{completed}");
    let arrived = second.arrived_per_second.unwrap();
    assert!((arrived / completed - 2.0).abs() < 1e-9, "{arrived} {completed}");
    let drain = second.drain_seconds.unwrap();
    assert!((drain - 20.0 / completed).abs() < 1e-6, "{drain}");

    // Nothing ends any more.
    pass(&db.pool, 100.0).await;
    let third = measured(&db.pool).await;
    assert_eq!(third.completed_per_second, Some(0.0));
    assert_eq!(third.drain_seconds, Some(86_400.0), "no end in sight");
    let shown = inspect::queues(&mut conn).await.unwrap().remove(0);
    assert_eq!(shown.drain_seconds, Some(86_400.0));
}

#[tokio::test]
async fn one_process_at_a_time_counts_for_the_whole_fleet() {
    let db = Database::new().await;
    enqueue(&db.pool, &act(Fate::Done)).await;
    assert_eq!(measured(&db.pool).await.available, 1);
    enqueue(&db.pool, &act(Fate::Done)).await;
    assert_eq!(measured(&db.pool).await.available, 1, "it was counted a moment ago");
    pass(&db.pool, 6.0).await;

    let mut counting = db.pool.begin().await.unwrap();
    let counts: bool = sqlx::query_scalar("select queue.measure()")
        .fetch_one(&mut *counting)
        .await
        .unwrap();
    assert!(counts);
    let counts: bool = sqlx::query_scalar("select queue.measure()")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert!(!counts, "somebody else does");
    counting.commit().await.unwrap();
    assert_eq!(measured(&db.pool).await.available, 2);

    // Counting that took a second is not done again for fifty.
    pass(&db.pool, 40.0).await;
    sqlx::query("update queue.measures set took = interval '1 second'")
        .execute(&db.pool)
        .await
        .unwrap();
    enqueue(&db.pool, &act(Fate::Done)).await;
    assert_eq!(measured(&db.pool).await.available, 2);
    pass(&db.pool, 11.0).await;
    assert_eq!(measured(&db.pool).await.available, 3);
}

#[tokio::test]
async fn whoever_pins_the_horizon_is_named_with_the_remedy() {
    let db = Database::new().await;
    let mut reader = PgConnection::connect(&db.url).await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut reader)
        .await
        .unwrap();
    sqlx::raw_sql(
        "set application_name = 'a report'; begin isolation level repeatable read; select count(*) from queue.jobs",
    )
    .execute(&mut reader)
    .await
    .unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    let health = inspect::health(&mut conn).await.unwrap();
    assert!(health.sees_all);
    let holder = health
        .holders
        .iter()
        .find(|holder| holder.name == pid.to_string())
        .unwrap();
    assert_eq!(holder.what, "session");
    assert!(holder.who.starts_with("a report of "), "{}", holder.who);
    assert!(holder.doing.starts_with("idle in transaction: "), "{}", holder.doing);
    assert!(
        holder.doing.contains("select count(*) from queue.jobs"),
        "{}",
        holder.doing
    );
    assert!(health.horizon_seconds() > 0.0);
    assert!(!holder.is_harmful(), "it has only just begun");
    let long = queue::health::Holder {
        seconds: Some(61.0),
        ..holder.clone()
    };
    assert!(long.is_harmful());

    let is_ended: bool = sqlx::query_scalar(sqlx::AssertSqlSafe(holder.remedy.clone()))
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert!(is_ended);
    testkit::eventually("the horizon to be free", || async {
        let mut conn = db.pool.acquire().await.unwrap();
        let health = inspect::health(&mut conn).await.unwrap();
        let is_held = health.holders.iter().any(|holder| holder.name == pid.to_string());
        (!is_held).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_history_is_dropped_by_the_day_and_never_deleted() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    enqueue(&db.pool, &act(Fate::Done)).await;
    run(&db.pool, &world).await;
    sqlx::raw_sql(
        "select queue.ensure_partitions();
         create table queue.finished_jobs_20200101 partition of queue.finished_jobs
             for values from ('2020-01-01 00:00+00') to ('2020-01-02 00:00+00');
         insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, created_at, finished_at)
         select n, 'stage', 'act', 1, '{}', 'completed', 1, 1, '2020-01-01 12:00+00', '2020-01-01 12:00+00'
         from generate_series(100001, 101000) n",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    let before = inspect::health(&mut conn).await.unwrap().history;
    assert_eq!(before.since.unwrap().to_string(), "2020-01-01");
    let dropped: i32 = sqlx::query_scalar("select queue.drop_partitions(30)")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(dropped, 1);
    let after = inspect::health(&mut conn).await.unwrap().history;
    assert_eq!(after.days, before.days - 1);
    assert!(after.since > before.since);
    let left: i64 = sqlx::query_scalar("select count(*) from queue.finished_jobs")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(left, 1, "what is young stays");
    sqlx::query("select pg_stat_force_next_flush()")
        .execute(&mut *conn)
        .await
        .unwrap();
    let deleted: Option<i64> = sqlx::query_scalar(
        "select sum(n_tup_del)::bigint from pg_stat_user_tables where relname like 'finished_jobs%'",
    )
    .fetch_one(&mut *conn)
    .await
    .unwrap();
    assert_eq!(deleted, Some(0));
}
