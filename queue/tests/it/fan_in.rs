use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::kinds::*;
use queue::fan_in::{self, MEMBERS_MAX, OnFailure};
use queue::{Job, JobId};
use sqlx::PgPool;
use testkit::Database;

async fn waiter(pool: &PgPool, members: &[JobId], on_failure: OnFailure) -> JobId {
    let mut conn = pool.acquire().await.unwrap();
    let last = Act {
        order_id: "last".to_owned(),
        ..act(Fate::Done)
    };
    queue::enqueue_after_all(&mut conn, &last, members, on_failure)
        .await
        .unwrap()
        .id
}

async fn members(pool: &PgPool, jobs: Vec<Act>) -> Vec<JobId> {
    let enqueued = queue::enqueue_many(&mut pool.acquire().await.unwrap(), &jobs)
        .await
        .unwrap();
    enqueued.into_iter().map(|member| member.id).collect()
}

async fn outcomes(pool: &PgPool, waiter: JobId) -> Vec<Option<String>> {
    let members = fan_in::members(&mut pool.acquire().await.unwrap(), waiter, None, 100)
        .await
        .unwrap();
    members.into_iter().map(|member| member.outcome).collect()
}

async fn pending(pool: &PgPool, waiter: JobId) -> i32 {
    let waiter = fan_in::waiter(&mut pool.acquire().await.unwrap(), waiter)
        .await
        .unwrap();
    waiter.unwrap().pending
}

/// How many rows are left about waiting.
async fn traces(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select (select count(*) from queue.waiters) + (select count(*) from queue.waiter_members)")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_job_waits_for_every_way_in_which_others_end() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let fates = [
        Fate::Done,
        Fate::DoneInEffects,
        Fate::Discard,
        Fate::Permanent,
        Fate::Snooze,
        Fate::Done,
    ];
    let mut jobs: Vec<_> = fates.into_iter().map(act).collect();
    jobs[5].group = Some("g".to_owned());
    let ids = members(&db.pool, jobs).await;
    let waiter = waiter(&db.pool, &ids, OnFailure::Run).await;

    let worker = worker_of(&world, &db.pool).await;
    let claimed = worker.claim(Act::QUEUE, 10).await.unwrap();
    assert_eq!(claimed.len(), 6, "the waiter is not in line");
    worker.run_all(claimed).await;
    assert_eq!(
        outcomes(&db.pool, waiter).await,
        [
            Some("completed"),
            Some("completed"),
            Some("discarded"),
            Some("dead"),
            None,
            Some("completed")
        ]
        .map(|outcome| outcome.map(str::to_owned))
    );
    assert_eq!(
        causes(&db.pool, waiter).await[0],
        format!("it waits for 1 of 6 jobs: {}", ids[4])
    );

    // The one that snoozed is given up by an operator: that is an end as well.
    let mut conn = db.pool.acquire().await.unwrap();
    queue::operate::discard(&mut conn, ids[4], "ann", "not needed")
        .await
        .unwrap();
    assert_eq!(job(&db.pool, waiter).await.state, "available");
    assert_eq!(
        causes(&db.pool, waiter).await.pop().unwrap(),
        "3 of the jobs it waited for did not complete"
    );
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    assert_eq!(world.order.lock().unwrap().last().unwrap(), "last");
    assert_eq!(traces(&db.pool).await, 0, "what it waited for goes with it");
}

#[tokio::test]
async fn a_waiter_can_read_what_its_members_left_behind() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let ids = members(&db.pool, vec![act(Fate::DoneInEffects), act(Fate::DoneInEffects)]).await;
    let waiter = waiter(&db.pool, &ids, OnFailure::Run).await;
    let worker = worker_of(&world, &db.pool).await;
    let claimed = worker.claim(Act::QUEUE, 10).await.unwrap();
    worker.run_all(claimed).await;
    let mut conn = db.pool.acquire().await.unwrap();
    let first = fan_in::members(&mut conn, waiter, None, 1).await.unwrap();
    assert_eq!(first[0].id, ids[0]);
    assert!(first[0].result.as_ref().unwrap()["run"].is_number());
    let second = fan_in::members(&mut conn, waiter, Some(ids[0]), 10).await.unwrap();
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].id, ids[1]);
}

#[tokio::test]
async fn a_waiter_whose_member_failed_is_buried_with_its_last_rites_if_told_so() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let ids = members(&db.pool, vec![act(Fate::Permanent), act(Fate::Done)]).await;
    let waiter = waiter(&db.pool, &ids, OnFailure::Bury).await;
    let ran = run(&db.pool, &world).await;
    assert_eq!((ran.completed, ran.buried), (1, 2));
    let mut conn = db.pool.acquire().await.unwrap();
    let letter = queue::inspect::dead_letter(&mut conn, waiter).await.unwrap().unwrap();
    assert_eq!(letter.reason, "cancelled_parent");
    assert_eq!(
        letter.message,
        format!(
            "1 of the jobs it waited for did not complete, the first of them {} (dead)",
            ids[0]
        )
    );
    assert_eq!(world.runs(), 2, "it was not run");
    assert_eq!(world.buried.lock().unwrap()[1].id, waiter);

    // Whoever redrives it means it to run, and it can still read how its members ended.
    queue::operate::redrive(&mut conn, waiter, "ann", "go on without it", None)
        .await
        .unwrap();
    assert_eq!(
        outcomes(&db.pool, waiter).await,
        [Some("dead".to_owned()), Some("completed".to_owned())]
    );
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    assert_eq!(traces(&db.pool).await, 0);
}

#[tokio::test]
async fn a_redriven_member_counts_again_while_others_are_waited_for() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let ids = members(&db.pool, vec![act(Fate::Permanent), act(Fate::Snooze)]).await;
    let waiter = waiter(&db.pool, &ids, OnFailure::Bury).await;
    run(&db.pool, &world).await;
    assert_eq!(pending(&db.pool, waiter).await, 1);
    let mut conn = db.pool.acquire().await.unwrap();
    let mended = serde_json::to_value(act(Fate::Done)).unwrap();
    queue::operate::redrive(&mut conn, ids[0], "ann", "mended", Some(mended))
        .await
        .unwrap();
    assert_eq!(pending(&db.pool, waiter).await, 2);
    sqlx::query("update queue.jobs set args = $1, run_at = now() where id = $2")
        .bind(serde_json::to_value(act(Fate::Done)).unwrap())
        .bind(ids[1].0)
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(run(&db.pool, &world).await.completed, 3, "nothing failed after all");
}

#[tokio::test]
async fn members_in_flight_or_ended_count_from_the_beginning() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let ended = enqueue(&db.pool, &act(Fate::Done)).await;
    run(&db.pool, &world).await;
    let dead = enqueue(&db.pool, &act(Fate::Permanent)).await;
    run(&db.pool, &world).await;
    let in_flight = enqueue(&db.pool, &act(Fate::Done)).await;
    let worker = worker_of(&world, &db.pool).await;
    let claimed = worker.claim(Act::QUEUE, 1).await.unwrap();
    let waiting = waiter(&db.pool, &[ended, dead, in_flight, ended], OnFailure::Run).await;
    assert_eq!(
        outcomes(&db.pool, waiting).await,
        [Some("completed".to_owned()), Some("dead".to_owned()), None]
    );
    // It ends without knowing that it is waited for: the sweep finds out.
    worker.run_all(claimed).await;
    assert_eq!(pending(&db.pool, waiting).await, 1);
    assert_eq!(fan_in::sweep(&db.pool, false).await.unwrap(), 1);
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    assert_eq!(fan_in::sweep(&db.pool, true).await.unwrap(), 0);

    let nothing = waiter(&db.pool, &[ended], OnFailure::Bury).await;
    assert_eq!(
        job(&db.pool, nothing).await.state,
        "available",
        "there is nothing to wait for"
    );
    let nobody = waiter(&db.pool, &[], OnFailure::Bury).await;
    assert_eq!(
        job(&db.pool, nobody).await.state,
        "available",
        "there is nobody to wait for"
    );
    assert_eq!(run(&db.pool, &world).await.completed, 2);
}

#[tokio::test]
async fn a_member_that_went_back_in_line_is_marked_by_the_sweep() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let member = enqueue(&db.pool, &act(Fate::Done)).await;
    let worker = worker(&db.pool).await;
    worker.claim(Act::QUEUE, 1).await.unwrap();
    let waiter = waiter(&db.pool, &[member], OnFailure::Run).await;
    worker.hand_back_all().await.unwrap();
    assert_eq!(fan_in::sweep(&db.pool, false).await.unwrap(), 0);
    // One is enough now: the member tells it itself.
    assert_eq!(run(&db.pool, &world).await.completed, 2);
    assert_eq!(job(&db.pool, waiter).await.state, "completed");
}

#[tokio::test]
async fn a_member_that_ends_while_its_waiter_is_being_created_is_not_missed() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let [in_flight, in_line] = members(&db.pool, vec![act(Fate::Done), act(Fate::Done)]).await[..] else {
        panic!("two");
    };
    let worker = worker_of(&world, &db.pool).await;
    let claimed = worker.claim(Act::QUEUE, 1).await.unwrap();
    let mut creating = db.pool.begin().await.unwrap();
    let waiter = queue::enqueue_after_all(&mut creating, &act(Fate::Done), &[in_flight, in_line], OnFailure::Run)
        .await
        .unwrap()
        .id;
    worker.run_all(claimed).await;
    assert!(
        worker.claim(Act::QUEUE, 10).await.unwrap().is_empty(),
        "a member in line cannot overtake the transaction that waits for it"
    );
    creating.commit().await.unwrap();
    assert_eq!(run(&db.pool, &world).await.completed, 1, "the member in line");
    assert_eq!(pending(&db.pool, waiter).await, 1);
    fan_in::sweep(&db.pool, false).await.unwrap();
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    assert_eq!(job(&db.pool, waiter).await.state, "completed");
}

#[tokio::test]
async fn a_rolled_back_waiter_leaves_its_members_alone() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let member = enqueue(&db.pool, &act(Fate::Done)).await;
    let mut creating = db.pool.begin().await.unwrap();
    queue::enqueue_after_all(&mut creating, &act(Fate::Done), &[member], OnFailure::Run)
        .await
        .unwrap();
    creating.rollback().await.unwrap();
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    assert_eq!(traces(&db.pool).await, 0);
}

/// Workers that claim, run and complete side by side until nothing is due.
async fn run_side_by_side(pool: &PgPool, world: &Arc<World>, workers: usize, claim: usize) {
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let (pool, world) = (pool.clone(), Arc::clone(world));
        running.spawn(async move {
            let worker = worker_of(&world, &pool).await;
            loop {
                let claimed = worker.claim(Act::QUEUE, claim).await.unwrap();
                if claimed.is_empty() {
                    return;
                }
                worker.run_all(claimed).await;
            }
        });
    }
    while let Some(ran) = running.join_next().await {
        ran.unwrap();
    }
}

#[tokio::test]
async fn a_thousand_members_that_end_side_by_side_release_their_waiter_once() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    // Half of them are completed in bulk, half in transactions of their own.
    let jobs: Vec<_> = (0..1000)
        .map(|n| act(if n % 2 == 0 { Fate::Done } else { Fate::DoneInEffects }))
        .collect();
    let ids = members(&db.pool, jobs).await;
    let all = waiter(&db.pool, &ids, OnFailure::Bury).await;
    let evens: Vec<_> = ids.iter().copied().step_by(2).collect();
    let some = waiter(&db.pool, &evens, OnFailure::Bury).await;
    run_side_by_side(&db.pool, &world, 4, 50).await;
    // On a busy machine some took longer than they may, and are tried again, one by one.
    queue::testing::fast_forward(&db.pool, Duration::from_secs(7200))
        .await
        .unwrap();
    run(&db.pool, &world).await;
    for waiter in [all, some] {
        assert_eq!(job(&db.pool, waiter).await.state, "completed");
    }
    let (ended, jobs): (i64, i64) = sqlx::query_as("select count(*), count(distinct id) from queue.finished_jobs")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!((ended, jobs), (1002, 1002), "each of them once");
    let overtaken: i64 = sqlx::query_scalar(
        "select count(*) from queue.finished_jobs m join queue.finished_jobs w on w.id = $1 and m.id < $2
         where m.finished_at > w.claimed_at",
    )
    .bind(all.0)
    .bind(all.0)
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(overtaken, 0, "the last one ran after all the others");
    assert_eq!(traces(&db.pool).await, 0);
}

#[tokio::test]
async fn the_waiter_of_a_crashed_workers_last_member_runs_after_the_rescue() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let member = enqueue(&db.pool, &act(Fate::Done)).await;
    let waiter = waiter(&db.pool, &[member], OnFailure::Bury).await;
    let worker = worker(&db.pool).await;
    assert!(worker.claim(Act::QUEUE, 1).await.unwrap()[0].is_awaited);
    worker.die().await.unwrap();
    assert_eq!(pending(&db.pool, waiter).await, 1);
    let rescued = queue::rescue::rescue(&db.pool, false, Duration::ZERO).await.unwrap();
    assert_eq!(rescued.jobs, 1);
    assert_eq!(
        run(&db.pool, &world).await.completed,
        2,
        "the mark came back with the job"
    );
    assert_eq!(job(&db.pool, waiter).await.state, "completed");
}

#[tokio::test]
async fn a_member_ended_by_a_build_that_knows_no_waiters_is_found_by_the_thorough_sweep() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let member = enqueue(&db.pool, &act(Fate::Done)).await;
    let waiter = waiter(&db.pool, &[member], OnFailure::Run).await;
    sqlx::query("update queue.jobs set awaited = null where id = $1")
        .bind(member.0)
        .execute(&db.pool)
        .await
        .unwrap();
    run(&db.pool, &world).await;
    assert_eq!(fan_in::sweep(&db.pool, false).await.unwrap(), 0);
    assert_eq!(fan_in::sweep(&db.pool, true).await.unwrap(), 1);
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    assert_eq!(job(&db.pool, waiter).await.state, "completed");
}

#[tokio::test]
async fn waiters_wait_for_waiters() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let first = enqueue(&db.pool, &act(Fate::Permanent)).await;
    let middle = waiter(&db.pool, &[first], OnFailure::Bury).await;
    let last = waiter(&db.pool, &[middle], OnFailure::Run).await;
    let ran = run(&db.pool, &world).await;
    assert_eq!((ran.buried, ran.completed), (2, 1));
    assert_eq!(job(&db.pool, middle).await.state, "dead");
    assert_eq!(job(&db.pool, last).await.state, "completed");
}

#[tokio::test]
async fn a_discarded_waiter_leaves_nothing_behind() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let member = enqueue(&db.pool, &act(Fate::Done)).await;
    let waiter = waiter(&db.pool, &[member], OnFailure::Run).await;
    let mut conn = db.pool.acquire().await.unwrap();
    queue::operate::discard(&mut conn, waiter, "ann", "not needed")
        .await
        .unwrap();
    assert_eq!(traces(&db.pool).await, 0);
    assert_eq!(run(&db.pool, &world).await.completed, 1);
}

#[tokio::test]
async fn a_waiter_with_a_group_too_many_members_or_unknown_ones_is_refused() {
    let db = Database::new().await;
    let member = enqueue(&db.pool, &act(Fate::Done)).await;
    let mut conn = db.pool.acquire().await.unwrap();
    let grouped = Act {
        group: Some("g".to_owned()),
        ..act(Fate::Done)
    };
    let many: Vec<_> = (0..=MEMBERS_MAX as i64).map(JobId).collect();
    let refused = [
        (
            &grouped,
            &[member][..],
            "act has a group and cannot wait for other jobs",
        ),
        (
            &act(Fate::Done),
            &many,
            "a job waits for at most 10000 others, not 10001",
        ),
        (
            &act(Fate::Done),
            &[member, JobId(99)],
            "cannot wait: there is no job 99",
        ),
        (&act(Fate::Done), &[JobId(0)], "cannot wait: there is no job 0"),
    ];
    for (job, members, message) in refused {
        let error = queue::enqueue_after_all(&mut conn, job, members, OnFailure::Run)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let kinds: Vec<_> = queue::testing::enqueued(&db.pool, Act::KIND).await.unwrap();
    assert_eq!(kinds.len(), 1, "nothing else was enqueued");
}

#[tokio::test]
async fn the_deadline_of_a_waiter_counts_from_its_release() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let member = enqueue(&db.pool, &act(Fate::Done)).await;
    let waiter: i64 = sqlx::query_scalar(
        "select job_id from queue.enqueue_after_all(array[$1::bigint], 'stage', 'act', $2, p_deadline_after => interval '1 hour')",
    )
    .bind(member.0)
    .bind(serde_json::to_value(act(Fate::Done)).unwrap())
    .fetch_one(&db.pool)
    .await
    .unwrap();
    let deadline =
        "select deadline_at is null, deadline_at > now() + interval '59 minutes' from queue.jobs where id = $1";
    let (is_open, _): (bool, Option<bool>) = sqlx::query_as(deadline).bind(waiter).fetch_one(&db.pool).await.unwrap();
    assert!(is_open);
    let worker = worker_of(&world, &db.pool).await;
    let claimed = worker.claim(Act::QUEUE, 1).await.unwrap();
    worker.run_all(claimed).await;
    let (_, is_later): (bool, Option<bool>) = sqlx::query_as(deadline).bind(waiter).fetch_one(&db.pool).await.unwrap();
    assert_eq!(is_later, Some(true));
}

#[tokio::test]
async fn a_taken_key_returns_the_waiter_that_has_it() {
    let db = Database::new().await;
    let ids = members(&db.pool, vec![act(Fate::Done), act(Fate::Done)]).await;
    let keyed = Act {
        key: Some("k".to_owned()),
        ..act(Fate::Done)
    };
    let mut conn = db.pool.acquire().await.unwrap();
    let mut seen = BTreeSet::new();
    for member in &ids {
        let enqueued = queue::enqueue_after_all(&mut conn, &keyed, &[*member], OnFailure::Run)
            .await
            .unwrap();
        assert_eq!(enqueued.is_new, seen.insert(enqueued.id) && *member == ids[0]);
    }
    assert_eq!(seen.len(), 1);
    assert_eq!(traces(&db.pool).await, 2, "the second wish wrote nothing");
}
