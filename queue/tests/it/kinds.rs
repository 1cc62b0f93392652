//! The kinds of job these tests run. Each says in its payload what is to become of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use queue::claim::Claimed;
use queue::testing;
use queue::{Attempt, Catalogue, DeadLetter, Failure, Job, JobId, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgListener;
use sqlx::{PgConnection, PgPool};

/// What the jobs did.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) runs: AtomicU64,
    pub(crate) order: Mutex<Vec<String>>,
    pub(crate) buried: Mutex<Vec<DeadLetter>>,
}

impl World {
    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

/// What is to become of an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Fate {
    Done,
    DoneInEffects,
    Fail,
    Panic,
    Hang,
    Snooze,
    Throttled,
    Permanent,
    Config,
    Discard,
    DeadlockOnce,
    WriteWithoutTheFence,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Act {
    pub(crate) fate: Fate,
    pub(crate) order_id: String,
    pub(crate) key: Option<String>,
    pub(crate) kept: bool,
    pub(crate) group: Option<String>,
}

pub(crate) fn act(fate: Fate) -> Act {
    Act {
        fate,
        order_id: "o-1".to_owned(),
        key: None,
        kept: false,
        group: None,
    }
}

impl Job for Act {
    type Services = World;
    const KIND: &'static str = "act";
    const QUEUE: &'static str = "stage";
    /// A busy machine may take a second over what is done in a millisecond.
    const TIMEOUT: Duration = Duration::from_secs(3);
    const RETRY: Retry = Retry::new(Duration::from_secs(60), Duration::from_secs(3600), 3);

    fn unique(&self) -> Option<Unique> {
        let key = self.key.clone()?;
        Some(if self.kept {
            Unique::kept(key)
        } else {
            Unique::live(key)
        })
    }

    fn group(&self) -> Option<String> {
        self.group.clone()
    }

    async fn run(self, attempt: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        let run = world.runs.fetch_add(1, Ordering::SeqCst);
        world.order.lock().unwrap().push(self.order_id.clone());
        match self.fate {
            Fate::Done => Ok(Outcome::Done),
            Fate::DoneInEffects => attempt.begin().await?.done_with(serde_json::json!({"run": run})).await,
            Fate::Fail => anyhow::bail!("the lights went out"),
            Fate::Panic => panic!("the curtain fell"),
            Fate::Hang => std::future::pending().await,
            Fate::Snooze => Ok(Outcome::Snooze(Duration::from_secs(60))),
            Fate::Throttled => Err(Failure::throttled("busy", "come back later", Duration::from_secs(3600)).into()),
            Fate::Permanent => Err(Failure::permanent("no_such_play", "nobody wrote it").into()),
            Fate::Config => Err(Failure::config("no_key", "the key is missing").into()),
            Fate::Discard => Ok(Outcome::Discard("the play was cancelled".to_owned())),
            Fate::DeadlockOnce if run == 0 => {
                sqlx::query(
                    "do $$ begin raise exception using errcode = '40P01', message = 'deadlock detected'; end $$",
                )
                .execute(&mut *attempt.begin().await?)
                .await?;
                Ok(Outcome::Done)
            }
            Fate::DeadlockOnce => Ok(Outcome::Done),
            Fate::WriteWithoutTheFence => {
                let mut reads = attempt.read().await?;
                sqlx::query("insert into queue.audit (actor, action, subject) values ('handler', 'write', 'x')")
                    .execute(&mut *reads)
                    .await?;
                Ok(Outcome::Done)
            }
        }
    }

    async fn bury(&self, conn: &mut PgConnection, letter: &DeadLetter, world: &World) -> anyhow::Result<()> {
        world.buried.lock().unwrap().push(letter.clone());
        if self.order_id == "mourned" {
            queue::enqueue(conn, &act(Fate::Done)).await?;
        }
        Ok(())
    }
}

static CATALOGUE: LazyLock<Catalogue<World>> = LazyLock::new(|| Catalogue::new().with::<Act>());

pub(crate) fn catalogue() -> &'static Catalogue<World> {
    &CATALOGUE
}

pub(crate) async fn enqueue(pool: &PgPool, job: &Act) -> JobId {
    queue::enqueue(&mut pool.acquire().await.unwrap(), job)
        .await
        .unwrap()
        .id
}

pub(crate) async fn run(pool: &PgPool, world: &Arc<World>) -> testing::Ran {
    testing::run_until_idle(pool, catalogue(), world).await.unwrap()
}

pub(crate) async fn job(pool: &PgPool, id: JobId) -> queue::inspect::JobView {
    queue::inspect::job(&mut pool.acquire().await.unwrap(), id)
        .await
        .unwrap()
        .unwrap()
}

/// Why a job is where it is, in words.
pub(crate) async fn causes(pool: &PgPool, id: JobId) -> Vec<String> {
    let why = queue::why::why(&mut pool.acquire().await.unwrap(), id, &catalogue().kinds()).await;
    why.unwrap().texts()
}

pub(crate) type Worker = testing::Worker<'static, World>;

/// A worker whose world nobody looks at.
pub(crate) async fn worker(pool: &PgPool) -> Worker {
    worker_of(&Arc::default(), pool).await
}

pub(crate) async fn worker_of(world: &Arc<World>, pool: &PgPool) -> Worker {
    Worker::register(pool, catalogue(), world).await.unwrap()
}

/// What workers are told between their polls.
pub(crate) struct Hints(PgListener);

impl Hints {
    pub(crate) async fn hear(pool: &PgPool) -> Self {
        let mut listener = PgListener::connect_with(pool).await.unwrap();
        listener.listen("queue_jobs").await.unwrap();
        Self(listener)
    }

    /// The queue that the next one is about.
    pub(crate) async fn next(&mut self) -> String {
        const PATIENCE: Duration = Duration::from_secs(60);
        let hint = tokio::time::timeout(PATIENCE, self.0.recv()).await.unwrap().unwrap();
        hint.payload().to_owned()
    }
}

/// What the payload of a claimed job says.
pub(crate) fn order_id(claimed: &Claimed) -> String {
    serde_json::from_str::<Act>(claimed.args.get()).unwrap().order_id
}
