//! What a worker held goes on elsewhere: soon after it was killed, when the lease is over after it was frozen or cut off from
//! the database, and at once when it is told to stop. How soon exactly is what `cargo xtask bench rescue` measures.

pub(crate) mod holder;

use std::process::Command;
use std::time::Duration;

use queue::JobId;
use sqlx::types::chrono::{DateTime, Utc};
use testkit::{Database, eventually_within};

use self::holder::{Blow, Holder, PATIENCE, begun_at, enqueue, keep_busy, make_tables, server_is_older_than};

/// Long enough for a worker on a busy machine to beat.
const LEASE: Duration = Duration::from_secs(5);

/// So long that a job that begins elsewhere sooner was not waiting for its end.
const LEASE_LONG: Duration = Duration::from_secs(20);

/// No test: this executable again, as a worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a worker process, which the tests start and kill"]
async fn a_worker_process() {
    holder::work().await;
}

/// Two workers: one that holds two jobs, and one that nothing happens to.
struct Scene {
    db: Database,
    dir: tempfile::TempDir,
    /// One holds on before it writes, the other with what it has written uncommitted.
    jobs: [JobId; 2],
    /// Where the blow falls.
    struck: Holder,
    /// Its id then.
    struck_id: i64,
    other: Holder,
    other_id: i64,
}

impl Scene {
    async fn set(lease: Duration) -> Self {
        let db = Database::new().await;
        make_tables(&db.pool).await;
        let dir = tempfile::tempdir().unwrap();
        let gate = dir.path().join("gate");
        let struck = start("struck", &db, lease).await;
        let struck_id = struck.id(&db.pool).await.unwrap();
        let jobs = [
            enqueue(&db.pool, &gate, false).await,
            enqueue(&db.pool, &gate, true).await,
        ];
        for job in jobs {
            begun_at(&db.pool, job, struck_id).await;
        }
        let other = start("other", &db, lease).await;
        let other_id = other.id(&db.pool).await.unwrap();
        Self {
            db,
            dir,
            jobs,
            struck,
            struck_id,
            other,
            other_id,
        }
    }

    fn open_gate(&self) {
        std::fs::write(self.dir.path().join("gate"), "").unwrap();
    }

    /// Waits until both jobs have begun at the other worker; returns when, by the database's clock.
    async fn both_begun_elsewhere(&self) -> DateTime<Utc> {
        for job in self.jobs {
            begun_at(&self.db.pool, job, self.other_id).await;
        }
        sqlx::query_scalar("select max(at) from begun where worker_id = $1 and job_id = any($2)")
            .bind(self.other_id)
            .bind(self.jobs.map(|job| job.0))
            .fetch_one(&self.db.pool)
            .await
            .unwrap()
    }

    /// Until when the worker that is about to be struck is believed to live, whatever befalls it.
    async fn lease_until(&self) -> DateTime<Utc> {
        sqlx::query_scalar("select lease_until from queue.workers where id = $1")
            .bind(self.struck_id)
            .fetch_one(&self.db.pool)
            .await
            .unwrap()
    }

    /// Waits until both jobs are completed.
    async fn both_completed(&self) {
        eventually_within(PATIENCE, "both jobs to be completed", async || {
            let completed: i64 = sqlx::query_scalar(
                "select count(*) from queue.finished_jobs where state = 'completed' and id = any($1)",
            )
            .bind(self.jobs.map(|job| job.0))
            .fetch_one(&self.db.pool)
            .await
            .unwrap();
            (completed == 2).then_some(())
        })
        .await;
    }

    /// Each job began twice and ended once, at the other worker.
    async fn assert_ended_once_elsewhere(&self) {
        for job in self.jobs {
            let begun: Vec<i64> = sqlx::query_scalar("select worker_id from begun where job_id = $1 order by fence")
                .bind(job)
                .fetch_all(&self.db.pool)
                .await
                .unwrap();
            assert_eq!(begun, [self.struck_id, self.other_id]);
            let ended: Vec<i64> = sqlx::query_scalar("select fence from ended where job_id = $1")
                .bind(job)
                .fetch_all(&self.db.pool)
                .await
                .unwrap();
            assert_eq!(ended, [2]);
        }
    }

    /// How the workers that were lost were lost.
    async fn losses(&self) -> Vec<(i64, String)> {
        sqlx::query_as("select worker_id, how from queue.losses")
            .fetch_all(&self.db.pool)
            .await
            .unwrap()
    }
}

async fn start(name: &'static str, db: &Database, lease: Duration) -> Holder {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "rescue::a_worker_process", "--ignored", "--nocapture"]);
    Holder::start(command, name, &db.url, lease, &db.pool).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_jobs_start_elsewhere_long_before_its_lease_is_over() {
    let scene = Scene::set(LEASE_LONG).await;
    server_is_older_than(&scene.db.pool, LEASE_LONG).await;
    let lease_until = scene.lease_until().await;
    scene.struck.strike(Blow::Kill);
    assert!(scene.both_begun_elsewhere().await < lease_until);
    scene.open_gate();
    scene.both_completed().await;
    scene.assert_ended_once_elsewhere().await;
    assert_eq!(scene.losses().await, [(scene.struck_id, "killed".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_worker_starts_a_killed_ones_jobs_beside_its_own() {
    let scene = Scene::set(LEASE_LONG).await;
    let pool = &scene.db.pool;
    server_is_older_than(pool, LEASE_LONG).await;
    let gate = scene.dir.path().join("own");
    let own = keep_busy(pool, scene.other_id, &gate).await;
    let lease_until = scene.lease_until().await;
    scene.struck.strike(Blow::Kill);
    assert!(scene.both_begun_elsewhere().await < lease_until);
    let beside: Option<i64> = sqlx::query_scalar("select worker_id from queue.running_jobs where id = $1")
        .bind(own)
        .fetch_optional(pool)
        .await
        .unwrap();
    assert_eq!(beside, Some(scene.other_id), "its own job runs on");
    scene.open_gate();
    scene.both_completed().await;
    scene.assert_ended_once_elsewhere().await;
    std::fs::write(&gate, "").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_workers_jobs_start_elsewhere_and_thawed_it_writes_nothing() {
    silenced_and_back(Blow::Freeze).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_workers_jobs_start_elsewhere_and_back_again_it_writes_nothing() {
    silenced_and_back(Blow::CutOff).await;
}

async fn silenced_and_back(blow: Blow) {
    let mut scene = Scene::set(LEASE).await;
    let pool = &scene.db.pool;
    scene.struck.strike(blow);
    scene.both_begun_elsewhere().await;
    scene.open_gate();
    scene.both_completed().await;
    assert_eq!(scene.losses().await, [(scene.struck_id, "silent".to_owned())]);

    // The gate is open for the one that comes back as well.
    scene.struck.thaw();
    let anew = eventually_within(PATIENCE, "it to register anew", async || {
        scene.struck.id(pool).await.filter(|id| *id != scene.struck_id)
    })
    .await;
    // It works again, and by then it has done with what it held before.
    scene.other.strike(Blow::Terminate);
    assert!(scene.other.ended().await);
    let last = enqueue(pool, &scene.dir.path().join("gate"), false).await;
    begun_at(pool, last, anew).await;
    scene.struck.strike(Blow::Terminate);
    assert!(scene.struck.ended().await);
    scene.assert_ended_once_elsewhere().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_worker_hands_its_jobs_over_and_no_try_is_used() {
    let mut scene = Scene::set(LEASE).await;
    scene.struck.strike(Blow::Terminate);
    scene.both_begun_elsewhere().await;
    assert!(scene.struck.ended().await);
    scene.open_gate();
    scene.both_completed().await;
    scene.assert_ended_once_elsewhere().await;
    let tries: Vec<i32> = sqlx::query_scalar("select attempt from begun")
        .fetch_all(&scene.db.pool)
        .await
        .unwrap();
    assert_eq!(tries, [1; 4]);
    assert_eq!(scene.losses().await, []);
}
