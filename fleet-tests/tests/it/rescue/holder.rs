//! Worker processes that hold jobs in their hands, and the blows that fall on them.
//!
//! The tests and the bench start their own executable again, which then calls [`work`].

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use queue::{Attempt, Catalogue, Job, JobId, Outcome};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgPool};
use testkit::{Line, eventually, eventually_within};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use workers::{Config, Pool};

/// Where a worker process finds the database.
const DATABASE: &str = "HOLDER_DATABASE";
/// What it is called.
const NAME: &str = "HOLDER_NAME";
/// How long its lease is, in milliseconds.
const LEASE: &str = "HOLDER_LEASE_MS";

/// How many jobs a worker process runs at once.
pub(crate) const SLOTS: usize = 4;

/// How long anything here may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Says that it has begun, holds on until its gate is there, and says that it has ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hold {
    /// A file.
    pub(crate) gate: PathBuf,
    /// Whether it waits in the middle of its transaction.
    pub(crate) is_in_transaction: bool,
}

impl Job for Hold {
    type Services = ();
    const KIND: &'static str = "hold";
    const QUEUE: &'static str = "holding";
    const TIMEOUT: Duration = Duration::from_secs(600);

    async fn run(self, attempt: &Attempt, (): &()) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        sqlx::query("insert into begun (job_id, fence, attempt, worker_id) values ($1, $2, $3, $4)")
            .bind(attempt.job_id)
            .bind(attempt.fence)
            .bind(attempt.number)
            .bind(attempt.worker_id)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        if !self.is_in_transaction {
            self.wait().await;
        }
        let mut tx = attempt.begin().await?;
        sqlx::query("insert into ended (job_id, fence) values ($1, $2)")
            .bind(attempt.job_id)
            .bind(attempt.fence)
            .execute(&mut *tx)
            .await?;
        if self.is_in_transaction {
            self.wait().await;
        }
        tx.done().await
    }
}

impl Hold {
    async fn wait(&self) {
        while !self.gate.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The tables that the jobs write to.
pub(crate) async fn make_tables(pool: &PgPool) {
    sqlx::raw_sql(
        "create table begun (job_id bigint, fence bigint, attempt int, worker_id bigint, at timestamptz default clock_timestamp());
         create table ended (job_id bigint, fence bigint);",
    )
    .execute(pool)
    .await
    .unwrap();
}

/// What a worker process does, until it is told to stop by SIGTERM. It hands its jobs back at once then.
pub(crate) async fn work() {
    serve(Catalogue::new().with::<Hold>(), Hold::QUEUE, ()).await;
}

/// The same with any jobs, of one queue.
pub(crate) async fn serve<S: Send + Sync + 'static>(catalogue: Catalogue<S>, queue: &str, services: S) {
    let Ok(url) = std::env::var(DATABASE) else { return };
    let lease = std::env::var(LEASE).unwrap().parse().unwrap();
    let config = Config {
        name: std::env::var(NAME).unwrap(),
        pools: vec![Pool::of(queue)],
        slots: SLOTS,
        lease: Duration::from_millis(lease),
        shutdown_grace: Duration::ZERO,
        build: "test".to_owned(),
        health: None,
        poll_only: false,
    };
    let stop = CancellationToken::new();
    let mut told = signal(SignalKind::terminate()).unwrap();
    let stopping = stop.clone();
    tokio::spawn(async move {
        told.recv().await;
        stopping.cancel();
    });
    workers::run_with(
        config,
        url.parse().unwrap(),
        catalogue,
        workers::Defaults::default(),
        Arc::new(services),
        stop,
    )
    .await
    .unwrap();
}

/// What befalls a worker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Freeze,
    /// Nothing reaches the database any more, nor comes back.
    CutOff,
    /// SIGTERM.
    Terminate,
}

/// A worker process, with its line to the database; killed when dropped.
pub(crate) struct Holder {
    pub(crate) name: &'static str,
    child: Child,
    line: Line,
}

impl Holder {
    /// Starts one with `command`, which has to come to [`work`], and waits until it is registered.
    pub(crate) async fn start(
        mut command: Command,
        name: &'static str,
        url: &str,
        lease: Duration,
        pool: &PgPool,
    ) -> Self {
        let database: PgConnectOptions = url.parse().unwrap();
        let line = Line::default();
        let through = line.to_postgres(&database).await;
        command
            .env(DATABASE, through.to_url_lossy().as_str())
            .env(NAME, name)
            .env(LEASE, lease.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = command.spawn().unwrap();
        let holder = Self { name, child, line };
        eventually_within(PATIENCE, "the worker to be registered", async || holder.id(pool).await).await;
        holder
    }

    /// The id under which it is registered.
    pub(crate) async fn id(&self, pool: &PgPool) -> Option<i64> {
        sqlx::query_scalar("select max(id) from queue.workers where name = $1")
            .bind(self.name)
            .fetch_one(pool)
            .await
            .unwrap()
    }

    pub(crate) fn strike(&self, blow: Blow) {
        match blow {
            Blow::Kill => self.signal(Signal::KILL),
            Blow::Freeze => self.signal(Signal::STOP),
            Blow::CutOff => self.line.freeze(),
            Blow::Terminate => self.signal(Signal::TERM),
        }
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.line.thaw();
        self.signal(Signal::CONT);
    }

    /// Whether it ended well.
    pub(crate) async fn ended(&mut self) -> bool {
        let status = eventually("the process to end", async || self.child.try_wait().unwrap()).await;
        status.success()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A job that holds on until there is a file.
pub(crate) async fn enqueue(pool: &PgPool, gate: &Path, is_in_transaction: bool) -> JobId {
    let job = Hold {
        gate: gate.to_owned(),
        is_in_transaction,
    };
    let mut conn = pool.acquire().await.unwrap();
    queue::enqueue(&mut conn, &job).await.unwrap().id
}

/// Gives a worker a job of its own, which holds on until there is a file. One that another worker takes instead holds on there.
pub(crate) async fn keep_busy(pool: &PgPool, worker: i64, gate: &Path) -> JobId {
    const WORKERS_MAX: usize = 2;
    for _ in 0..WORKERS_MAX * SLOTS {
        let job = enqueue(pool, gate, false).await;
        let at = eventually_within(PATIENCE, "the job to begin", async || {
            sqlx::query_scalar::<_, i64>("select worker_id from begun where job_id = $1")
                .bind(job)
                .fetch_optional(pool)
                .await
                .unwrap()
        })
        .await;
        if at == worker {
            return job;
        }
    }
    panic!("the other workers have more jobs than slots");
}

/// Waits until a job has begun at a worker.
pub(crate) async fn begun_at(pool: &PgPool, job: JobId, worker: i64) {
    eventually_within(PATIENCE, "the job to begin", async || {
        let begun: bool = sqlx::query_scalar("select exists (select from begun where job_id = $1 and worker_id = $2)")
            .bind(job)
            .bind(worker)
            .fetch_one(pool)
            .await
            .unwrap();
        begun.then_some(())
    })
    .await;
}

/// Waits until the server has been up for a lease: before that, a missing session proves no death.
pub(crate) async fn server_is_older_than(pool: &PgPool, lease: Duration) {
    eventually_within(PATIENCE + lease, "the server to be up long enough", async || {
        let is_old: bool = sqlx::query_scalar(
            "select greatest(pg_postmaster_start_time(), (select stats_reset from pg_stat_bgwriter))
                    < clock_timestamp() - $1::interval",
        )
        .bind(lease)
        .fetch_one(pool)
        .await
        .unwrap();
        is_old.then_some(())
    })
    .await;
}
