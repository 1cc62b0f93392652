//! What jobs say about their work.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use queue::log::{LINE_BYTES_MAX, LINES_MAX, Log};
use queue::runner::Settled;
use queue::testing::Worker;
use queue::{Attempt, Catalogue, Failure, Job, JobId, Outcome};
use serde::{Deserialize, Serialize};
use testkit::Database;

use crate::kinds::{self, Act, World};

/// Logs so many lines, and fails the first time.
#[derive(Clone, Serialize, Deserialize)]
struct Chatter {
    lines: u32,
    dies: bool,
}

impl Job for Chatter {
    type Services = World;
    const KIND: &'static str = "chatter";
    const QUEUE: &'static str = Act::QUEUE;

    async fn run(self, attempt: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        world.runs.fetch_add(1, Ordering::SeqCst);
        for n in 1..=self.lines {
            attempt.log(&format!("line {n}")).await?;
        }
        if self.dies {
            return Err(Failure::permanent("hoarse", "no voice left").into());
        }
        anyhow::ensure!(attempt.number > 1, "out of breath");
        Ok(Outcome::Done)
    }
}

fn catalogue() -> Catalogue<World> {
    Catalogue::new().with::<Chatter>()
}

async fn enqueue(db: &Database, lines: u32, dies: bool) -> JobId {
    let conn = &mut *db.pool.acquire().await.unwrap();
    queue::enqueue(conn, &Chatter { lines, dies }).await.unwrap().id
}

async fn run(db: &Database) {
    let world = Arc::new(World::default());
    queue::testing::run_until_idle(&db.pool, &catalogue(), &world)
        .await
        .unwrap();
}

async fn log(db: &Database, id: JobId) -> Log {
    queue::log::read(&mut db.pool.acquire().await.unwrap(), id)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_log_goes_on_from_attempt_to_attempt_and_stays_when_the_job_has_ended() {
    let db = Database::new().await;
    let (done, dead) = (enqueue(&db, 2, false).await, enqueue(&db, 1, true).await);
    run(&db).await;
    queue::testing::fast_forward(&db.pool, Duration::from_secs(60))
        .await
        .unwrap();
    run(&db).await;
    assert_eq!(kinds::job(&db.pool, done).await.state, "completed");
    let said = log(&db, done).await;
    let lines: Vec<_> = said
        .lines
        .iter()
        .map(|line| (line.attempt, line.line.as_str()))
        .collect();
    assert_eq!(lines, [(1, "line 1"), (1, "line 2"), (2, "line 1"), (2, "line 2")]);
    assert!(said.dropped == 0 && said.lines.is_sorted_by_key(|line| line.at));
    assert_eq!(kinds::job(&db.pool, dead).await.state, "dead");
    assert_eq!(log(&db, dead).await.lines[0].line, "line 1");
}

#[tokio::test]
async fn a_log_keeps_its_last_lines_and_says_how_many_are_gone() {
    let db = Database::new().await;
    let lines_max = u32::try_from(LINES_MAX).unwrap();
    let id = enqueue(&db, lines_max + 7, true).await;
    run(&db).await;
    let said = log(&db, id).await;
    assert_eq!((said.dropped, said.lines.len()), (7, LINES_MAX as usize));
    assert_eq!(said.lines[0].line, "line 8");
    assert_eq!(said.lines.last().unwrap().line, format!("line {}", lines_max + 7));
    assert_eq!(LINE_BYTES_MAX, 1024);
}

#[tokio::test]
async fn a_stale_worker_logs_nothing() {
    let db = Database::new().await;
    let (catalogue, world) = (catalogue(), Arc::new(World::default()));
    let id = enqueue(&db, 1, true).await;
    let worker = Worker::register(&db.pool, &catalogue, &world).await.unwrap();
    let stale = worker.claim(Chatter::QUEUE, 1).await.unwrap().remove(0);
    worker.hand_back_all().await.unwrap();
    assert_eq!((worker.run(stale).await, world.runs()), (Settled::Lost, 1));
    assert_eq!(log(&db, id).await, Log::default());
}
