use std::sync::Arc;
use std::time::Duration;

use crate::kinds::*;
use queue::lease::Identity;
use queue::operate;
use queue::rescue::{CRASHES_ALONE_MAX, CRASHES_IN_COMPANY_MAX, Rescued, rescue};
use queue::runner::Settled;
use queue::testing::fast_forward;
use queue::{Job, JobId, testing};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};
use testkit::{Blow, Database, Line};

/// The server of the tests may be younger than any real lease.
const LEASE: Duration = Duration::from_millis(1);

async fn worker_as(identity: Identity, pool: &PgPool) -> Worker {
    Worker::register_as(identity, pool, catalogue(), &Arc::default())
        .await
        .unwrap()
}

fn with_lease(lease: Duration) -> Identity {
    Identity {
        lease,
        ..testing::identity(catalogue())
    }
}

#[tokio::test]
async fn a_killed_workers_jobs_run_again_with_their_try_and_their_place() {
    let db = Database::new().await;
    let ids = [
        enqueue(&db.pool, &act(Fate::Done)).await,
        enqueue(&db.pool, &act(Fate::Done)).await,
    ];
    let dead = worker(&db.pool).await;
    assert_eq!(dead.claim(Act::QUEUE, 10).await.unwrap().len(), 2);
    let younger = enqueue(&db.pool, &act(Fate::Done)).await;
    assert_eq!(
        rescue(&db.pool, true, LEASE).await.unwrap(),
        Rescued::default(),
        "it lives"
    );
    let mut hints = Hints::hear(&db.pool).await;
    dead.die().await.unwrap();

    assert_eq!(
        rescue(&db.pool, false, LEASE).await.unwrap(),
        Rescued { workers: 1, jobs: 2 }
    );
    for id in ids {
        let job = job(&db.pool, id).await;
        assert_eq!((job.attempt, job.crashes, job.suspect), (0, 1, false));
    }
    assert_eq!(hints.next().await, Act::QUEUE, "idle workers are told");
    let other = worker(&db.pool).await;
    let mut claimed = other.claim(Act::QUEUE, 10).await.unwrap();
    claimed.sort_by_key(|job| job.rank);
    let claimed: Vec<_> = claimed.iter().map(|job| job.id).collect();
    assert_eq!(claimed, [ids[0], ids[1], younger]);
}

#[tokio::test]
async fn what_two_deaths_have_in_common_runs_alone_and_nobody_else() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let common = enqueue(&db.pool, &act(Fate::Done)).await;
    let mut neighbours = Vec::new();
    for crashes in 1..=2 {
        neighbours.push(enqueue(&db.pool, &act(Fate::Done)).await);
        let dead = worker(&db.pool).await;
        let claimed: Vec<_> = dead
            .claim(Act::QUEUE, 10)
            .await
            .unwrap()
            .iter()
            .map(|job| job.id)
            .collect();
        assert_eq!(claimed, [common, *neighbours.last().unwrap()]);
        dead.die().await.unwrap();
        assert_eq!(rescue(&db.pool, false, LEASE).await.unwrap().jobs, 2);
        let view = job(&db.pool, common).await;
        assert_eq!((view.crashes, view.suspect), (crashes, crashes == 2));
        // The neighbour of the first death goes on while the other two meet their second.
        if crashes == 1 {
            let alive = worker(&db.pool).await;
            let claimed = alive.claim(Act::QUEUE, 10).await.unwrap();
            assert_eq!(claimed.len(), 2, "nobody is a suspect yet");
            alive.hand_back_all().await.unwrap();
            sqlx::query("update queue.jobs set run_at = clock_timestamp() + interval '1 h' where id = $1")
                .bind(neighbours[0])
                .execute(&db.pool)
                .await
                .unwrap();
        }
    }
    fast_forward(&db.pool, Duration::from_secs(3600)).await.unwrap();
    let alive = worker(&db.pool).await;
    let mut claimed: Vec<_> = alive
        .claim(Act::QUEUE, 10)
        .await
        .unwrap()
        .iter()
        .map(|job| job.id)
        .collect();
    claimed.sort();
    assert_eq!(claimed, neighbours, "suspects are not claimed with others");
    alive.hand_back_all().await.unwrap();
    let ran = run(&db.pool, &world).await;
    assert_eq!((ran.completed, ran.buried), (3, 0));
}

#[tokio::test]
async fn a_silent_worker_is_lost_only_to_somebody_with_long_contact() {
    let db = Database::new().await;
    enqueue(&db.pool, &act(Fate::Done)).await;
    let silent = worker_as(with_lease(Duration::ZERO), &db.pool).await;
    silent.claim(Act::QUEUE, 10).await.unwrap();
    assert_eq!(rescue(&db.pool, false, LEASE).await.unwrap(), Rescued::default());
    assert_eq!(
        rescue(&db.pool, true, LEASE).await.unwrap(),
        Rescued { workers: 1, jobs: 1 }
    );
}

#[tokio::test]
async fn a_worker_without_a_session_of_its_own_is_lost_by_its_lease_only() {
    let db = Database::new().await;
    enqueue(&db.pool, &act(Fate::Done)).await;
    let identity = Identity {
        is_pooled: true,
        ..testing::identity(catalogue())
    };
    let pooled = worker_as(identity, &db.pool).await;
    let id = pooled.registration.id;
    pooled.claim(Act::QUEUE, 10).await.unwrap();
    pooled.die().await.unwrap();
    assert_eq!(rescue(&db.pool, true, LEASE).await.unwrap(), Rescued::default());
    sqlx::query("update queue.workers set lease_until = clock_timestamp() where id = $1")
        .bind(id)
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(rescue(&db.pool, false, LEASE).await.unwrap(), Rescued::default());
    assert_eq!(
        rescue(&db.pool, true, LEASE).await.unwrap(),
        Rescued { workers: 1, jobs: 1 }
    );
    let how: String = sqlx::query_scalar("select how from queue.losses where worker_id = $1")
        .bind(id)
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(how, "silent");
}

#[tokio::test]
async fn a_missing_session_means_nothing_while_the_server_is_younger_than_a_lease() {
    let db = Database::new().await;
    enqueue(&db.pool, &act(Fate::Done)).await;
    let dead = worker(&db.pool).await;
    dead.claim(Act::QUEUE, 10).await.unwrap();
    dead.die().await.unwrap();
    let decade = Duration::from_secs(10 * 365 * 24 * 3600);
    assert_eq!(rescue(&db.pool, false, decade).await.unwrap(), Rescued::default());
}

#[tokio::test]
async fn a_job_that_crashes_its_worker_alone_three_times_is_poison_and_its_neighbours_are_not() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let poison = enqueue(&db.pool, &act(Fate::Done)).await;
    let innocent = enqueue(&db.pool, &act(Fate::Done)).await;
    die_together(&db, 2).await;
    die_together(&db, 2).await;
    for crash in 1..=3 {
        let next = worker(&db.pool).await;
        let suspect = next.claim_suspect(Act::QUEUE).await.unwrap().unwrap();
        assert_eq!(suspect.id, poison, "crash {crash}");
        next.die().await.unwrap();
        rescue(&db.pool, false, LEASE).await.unwrap();
        let view = job(&db.pool, poison).await;
        assert_eq!(
            (view.attempt, view.crashes),
            (crash, crash + 2),
            "a crash alone uses its try"
        );
        first_in_line(&db, poison).await;
    }
    let ran = run(&db.pool, &world).await;
    assert_eq!((ran.buried, ran.completed), (1, 1));
    assert_eq!(world.buried.lock().unwrap()[0].reason, "poison");
    assert_eq!(job(&db.pool, innocent).await.state, "completed");
}

#[tokio::test]
async fn only_the_culprit_is_dead_lettered_after_five_deaths_whoever_its_neighbours_are() {
    for slots in [1, 2, 5, 20] {
        let db = Database::new().await;
        let world = Arc::new(World::default());
        let mut ids = Vec::new();
        for _ in 0..11 {
            ids.push(enqueue(&db.pool, &act(Fate::Done)).await);
        }
        let culprit = ids[4];
        let mut deaths = 0;
        loop {
            let worker = worker_of(&world, &db.pool).await;
            let mut held = worker.claim(Act::QUEUE, slots).await.unwrap();
            if held.is_empty() {
                held.extend(worker.claim_suspect(Act::QUEUE).await.unwrap());
            }
            if held
                .iter()
                .any(|job| job.id == culprit && job.crashes_alone < CRASHES_ALONE_MAX)
            {
                worker.die().await.unwrap();
                rescue(&db.pool, false, LEASE).await.unwrap();
                deaths += 1;
                fast_forward(&db.pool, Duration::from_secs(60)).await.unwrap();
                continue;
            }
            let is_over = held.is_empty();
            worker.run_all(held).await;
            worker.leave().await.unwrap();
            if is_over {
                break;
            }
        }
        assert_eq!(deaths, CRASHES_IN_COMPANY_MAX + CRASHES_ALONE_MAX, "with {slots} slots");
        let buried: Vec<_> = world.buried.lock().unwrap().iter().map(|letter| letter.id).collect();
        assert_eq!(buried, [culprit]);
        let tries: Vec<i32> = sqlx::query_scalar("select attempt from queue.finished_jobs")
            .fetch_all(&db.pool)
            .await
            .unwrap();
        assert_eq!(tries, [1; 10], "no neighbour has lost a try");
    }
}

#[tokio::test]
async fn a_redriven_poison_job_runs_alone_from_the_start() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let poison = enqueue(&db.pool, &act(Fate::Done)).await;
    sqlx::query("update queue.jobs set suspect = true, crashes_alone = 3")
        .execute(&db.pool)
        .await
        .unwrap();
    let failed = enqueue(&db.pool, &act(Fate::Permanent)).await;
    assert_eq!(run(&db.pool, &world).await.buried, 2);
    let conn = &mut *db.pool.acquire().await.unwrap();
    for id in [poison, failed] {
        operate::redrive(conn, id, "ann", "mended", None).await.unwrap();
    }
    assert!(job(&db.pool, poison).await.suspect);
    assert!(!job(&db.pool, failed).await.suspect, "it harmed nobody");
    let ran = run(&db.pool, &world).await;
    assert_eq!((ran.completed, ran.buried), (1, 1), "it is poison no more");
}

/// A worker claims all that is due, so many jobs, and dies.
async fn die_together(db: &Database, jobs: usize) {
    let dead = worker(&db.pool).await;
    assert_eq!(dead.claim(Act::QUEUE, 10).await.unwrap().len(), jobs);
    dead.die().await.unwrap();
    rescue(&db.pool, false, LEASE).await.unwrap();
}

/// Its pause after a crash is over, and it is before all others.
async fn first_in_line(db: &Database, id: JobId) {
    sqlx::query("update queue.jobs set run_at = run_at - interval '1 h' where id = $1")
        .bind(id)
        .execute(&db.pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_death_alone_proves_nothing_while_other_workers_are_being_killed() {
    let db = Database::new().await;
    let innocent = enqueue(&db.pool, &act(Fate::Done)).await;
    die_together(&db, 1).await;
    die_together(&db, 1).await;
    let bystander = worker(&db.pool).await;
    bystander.die().await.unwrap();
    let alone = worker(&db.pool).await;
    alone.claim_suspect(Act::QUEUE).await.unwrap().unwrap();
    alone.die().await.unwrap();
    rescue(&db.pool, false, LEASE).await.unwrap();
    let crashes_alone: i32 = sqlx::query_scalar("select crashes_alone from queue.jobs where id = $1")
        .bind(innocent.0)
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(crashes_alone, 0);
}

#[tokio::test]
async fn a_frozen_workers_open_transaction_neither_keeps_its_job_nor_commits() {
    let db = Database::new().await;
    let id = enqueue(&db.pool, &act(Fate::Done)).await;
    let frozen = worker_as(with_lease(Duration::ZERO), &db.pool).await;
    let claimed = frozen.claim(Act::QUEUE, 1).await.unwrap().pop().unwrap();
    // It has asserted its fence and written something, and then it stands still.
    let mut session = PgConnection::connect(&db.url).await.unwrap();
    sqlx::raw_sql("begin").execute(&mut session).await.unwrap();
    let is_held: bool = sqlx::query_scalar("select queue.hold($1, $2, $3)")
        .bind(claimed.claim_id)
        .bind(id.0)
        .bind(claimed.worker_id)
        .fetch_one(&mut session)
        .await
        .unwrap();
    assert!(is_held);
    sqlx::raw_sql("insert into queue.audit (actor, action, subject) values ('zombie', 'write', 'x')")
        .execute(&mut session)
        .await
        .unwrap();

    testkit::eventually("the job to be taken back", || async {
        (rescue(&db.pool, true, LEASE).await.unwrap().jobs == 1).then_some(())
    })
    .await;
    assert!(sqlx::raw_sql("commit").execute(&mut session).await.is_err());
    let written: i64 = sqlx::query_scalar("select count(*) from queue.audit")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(written, 0);
    assert_eq!(job(&db.pool, id).await.state, "available");
}

#[tokio::test]
async fn a_settlement_that_is_frozen_at_any_step_neither_loses_its_job_nor_doubles_it() {
    for fate in [Fate::Fail, Fate::Snooze, Fate::Permanent] {
        let steps = frozen_at_every_step_of_its_settlement(&fate).await;
        // To take the job, to write where it goes, and to commit.
        assert!(steps >= 3, "{fate:?} was frozen at {steps} steps only");
    }
}

/// Each attempt is frozen one step later than the one before, until one gets through; returns how many were.
async fn frozen_at_every_step_of_its_settlement(fate: &Fate) -> u32 {
    const STEPS_MAX: u32 = 50;
    let world = Arc::new(World::default());
    let db = Database::new().await;
    for step in 1..=STEPS_MAX {
        // The only job of its claim is taken out of it in another way than one of several.
        for jobs in [1, 2] {
            sqlx::raw_sql("truncate queue.jobs, queue.finished_jobs, queue.dead_letters")
                .execute(&db.pool)
                .await
                .unwrap();
            let id = enqueue(&db.pool, &act(fate.clone())).await;
            if jobs == 2 {
                enqueue(&db.pool, &act(Fate::Done)).await;
            }
            let line = Line::default();
            let pool = pool_over(&line, &db).await;
            let frozen = worker_of(&world, &pool).await;
            let mut claimed = frozen.claim(Act::QUEUE, jobs).await.unwrap();
            assert_eq!((claimed.len(), claimed[0].id), (jobs, id));
            line.strike_at(step, Blow::Freeze);
            let run = frozen.run(claimed.remove(0));
            tokio::pin!(run);
            let settled = tokio::select! {
                settled = &mut run => Some(settled),
                () = line.struck() => None,
            };
            if let Some(settled) = settled {
                assert_ne!(settled, Settled::Lost);
                return step - 1;
            }

            sqlx::raw_sql("update queue.workers set lease_until = '-infinity'")
                .execute(&db.pool)
                .await
                .unwrap();
            testkit::eventually("the claim to be taken back", async || {
                let rescued = tokio::time::timeout(Duration::from_secs(30), rescue(&db.pool, true, LEASE)).await;
                rescued.expect("a rescue waits for no frozen settlement").unwrap();
                let claims: i64 = sqlx::query_scalar("select count(*) from queue.claims")
                    .fetch_one(&db.pool)
                    .await
                    .unwrap();
                (claims == 0).then_some(())
            })
            .await;
            let rescued = everywhere(&db.pool).await;
            assert_eq!(rescued.len(), jobs, "{fate:?} frozen at step {step}: {rescued:?}");
            line.thaw();
            assert_eq!(run.await, Settled::Lost, "{fate:?} frozen at step {step}");
            assert_eq!(everywhere(&db.pool).await, rescued, "{fate:?} thawed at step {step}");
        }
    }
    panic!("{fate:?} has more than {STEPS_MAX} steps");
}

/// Where each job is, with its fence.
async fn everywhere(pool: &PgPool) -> Vec<(i64, String, i64)> {
    sqlx::query_as("select id, state, fence from queue.all_jobs order by id, state")
        .fetch_all(pool)
        .await
        .unwrap()
}

async fn pool_over(line: &Line, db: &Database) -> PgPool {
    let options = line.to_postgres(&db.pool.connect_options()).await;
    PgPoolOptions::new()
        .max_connections(3)
        .test_before_acquire(false)
        .connect_lazy_with(options)
}
