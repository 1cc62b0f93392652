//! The kinds of job these tests run. Each says in its payload what is to become of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use queue::claim::{self, Claimed, Known};
use queue::lease::{self, Identity, Registration};
use queue::{Attempt, Catalogue, DeadLetter, Failure, Job, JobId, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection, PgPool};

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
    const TIMEOUT: Duration = Duration::from_millis(300);
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

pub(crate) fn catalogue() -> Catalogue<World> {
    Catalogue::new().with::<Act>()
}

pub(crate) fn known() -> Known {
    Known::of(&catalogue(), Act::QUEUE)
}

pub(crate) async fn enqueue(pool: &PgPool, job: &Act) -> JobId {
    queue::enqueue(&mut pool.acquire().await.unwrap(), job)
        .await
        .unwrap()
        .id
}

pub(crate) async fn run(pool: &PgPool, world: &Arc<World>) -> queue::testing::Ran {
    queue::testing::run_until_idle(pool, &catalogue(), world).await.unwrap()
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

/// A worker of the test's own, with the session that proves its life.
pub(crate) struct Worker {
    pub(crate) session: PgConnection,
    pub(crate) registration: Arc<Registration>,
}

pub(crate) async fn worker(pool: &PgPool, lease: Duration) -> Worker {
    registered(pool, lease, false).await
}

/// One that came through a proxy.
pub(crate) async fn pooled_worker(pool: &PgPool, lease: Duration) -> Worker {
    registered(pool, lease, true).await
}

async fn registered(pool: &PgPool, lease: Duration, is_pooled: bool) -> Worker {
    let mut session = PgConnection::connect_with(&pool.connect_options()).await.unwrap();
    let identity = Identity {
        name: "test".to_owned(),
        pools: vec![Act::QUEUE.to_owned()],
        build: "test".to_owned(),
        lease,
        kinds: catalogue().kinds(),
        is_pooled,
        slots: None,
    };
    let registration = Arc::new(lease::register(&mut session, &identity).await.unwrap());
    Worker { session, registration }
}

impl Worker {
    pub(crate) async fn claim(&self, pool: &PgPool, limit: usize) -> Vec<Claimed> {
        claim::claim(pool, &known(), self.registration.id, limit).await.unwrap()
    }

    pub(crate) async fn claim_suspect(&self, pool: &PgPool) -> Option<Claimed> {
        claim::claim_suspect(pool, &known(), self.registration.id)
            .await
            .unwrap()
    }

    /// The process is gone, and with it its session; its last heartbeat was a while ago.
    pub(crate) async fn die(mut self, pool: &PgPool) {
        sqlx::query("update queue.workers set beat_at = beat_at - interval '5 s' where id = $1")
            .bind(self.registration.id)
            .execute(pool)
            .await
            .unwrap();
        let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(&mut self.session)
            .await
            .unwrap();
        self.session.close().await.unwrap();
        testkit::eventually("the dead worker's session to be gone", || async {
            let left: i64 = sqlx::query_scalar("select count(*) from pg_stat_activity where pid = $1")
                .bind(pid)
                .fetch_one(pool)
                .await
                .unwrap();
            (left == 0).then_some(())
        })
        .await;
    }
}

/// What the payload of a claimed job says.
pub(crate) fn order_id(claimed: &Claimed) -> String {
    serde_json::from_str::<Act>(claimed.args.get()).unwrap().order_id
}
