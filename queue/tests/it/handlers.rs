//! What a handler is given, what it shows, and how it may end its job.

use std::sync::Arc;
use std::time::Duration;

use queue::claim::Line;
use queue::runner::Settled;
use queue::testing::Worker;
use queue::{Attempt, Catalogue, FenceLost, Job, JobId, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgPool;
use testkit::Database;

use crate::kinds::{self, Act, Fate, World, act};

/// Packs boxes; the first version called them parcels.
#[derive(Clone, Serialize, Deserialize)]
struct Pack {
    boxes: u32,
    ends: End,
}

/// How it ends its job, in the transaction in which it packs.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
enum End {
    #[default]
    Done,
    Snooze,
    Discard,
}

impl Job for Pack {
    type Services = ();
    const KIND: &'static str = "pack";
    const QUEUE: &'static str = "packing";
    const VERSION: i16 = 2;

    fn upcast(_version: i16, args: Value) -> anyhow::Result<Value> {
        Ok(json!({ "boxes": args["parcels"], "ends": End::Done }))
    }

    async fn run(self, attempt: &Attempt, _services: &()) -> anyhow::Result<Outcome> {
        attempt.progress(&json!({ "packed": self.boxes })).await?;
        let mut tx = attempt.begin().await?;
        sqlx::query("insert into packed values ($1)")
            .bind(i64::from(self.boxes))
            .execute(&mut *tx)
            .await?;
        let outcome = match self.ends {
            End::Done => Outcome::DoneWith(json!({ "boxes": self.boxes })),
            End::Snooze => Outcome::Snooze(Duration::from_secs(60)),
            End::Discard => Outcome::Discard("nobody wants it".to_owned()),
        };
        tx.end(outcome).await
    }
}

/// Packs a box, and asks for the next in the same transaction.
#[derive(Clone, Serialize, Deserialize)]
struct PackOn {
    more: u32,
}

impl Job for PackOn {
    type Services = ();
    const KIND: &'static str = "pack_on";
    const QUEUE: &'static str = "packing";

    async fn run(self, attempt: &Attempt, _services: &()) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        sqlx::query("insert into packed values (1)").execute(&mut *tx).await?;
        if let Some(more) = self.more.checked_sub(1) {
            queue::enqueue(&mut tx, &Self { more }).await?;
        }
        tx.done().await
    }
}

fn catalogue() -> Catalogue<()> {
    Catalogue::new().with::<Pack>().with::<PackOn>()
}

async fn a_packing_hall() -> Database {
    let db = Database::new().await;
    sqlx::query("create table packed (boxes bigint)")
        .execute(&db.pool)
        .await
        .unwrap();
    db
}

async fn enqueue(pool: &PgPool, ends: End) -> JobId {
    let job = Pack { boxes: 3, ends };
    queue::enqueue(&mut pool.acquire().await.unwrap(), &job)
        .await
        .unwrap()
        .id
}

async fn packed(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from packed")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_payload_of_an_older_version_runs_as_todays() {
    let db = a_packing_hall().await;
    let id: i64 = sqlx::query_scalar(
        "select job_id from queue.enqueue('packing', 'pack', '{\"parcels\": 7}', p_args_version => 1)",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    let ran = queue::testing::run_until_idle(&db.pool, &catalogue(), &Arc::new(()))
        .await
        .unwrap();
    assert_eq!(ran.completed, 1);
    assert_eq!(view(&db.pool, JobId(id)).await.result, Some(json!({ "boxes": 7 })));
}

#[tokio::test]
async fn a_handler_ends_its_job_in_the_transaction_of_its_effects() {
    let db = a_packing_hall().await;
    let catalogue = catalogue();
    let worker = Worker::register(&db.pool, &catalogue, &Arc::new(())).await.unwrap();
    for (ends, settled, state) in [
        (End::Done, Settled::Completed, "completed"),
        (End::Snooze, Settled::Postponed, "scheduled"),
        (End::Discard, Settled::Discarded, "discarded"),
    ] {
        let id = enqueue(&db.pool, ends).await;
        let before = packed(&db.pool).await;
        let job = worker.claim("packing", 1).await.unwrap().pop().unwrap();
        assert_eq!(worker.run(job).await, settled);
        assert_eq!(
            (view(&db.pool, id).await.state.as_str(), packed(&db.pool).await),
            (state, before + 1)
        );

        // A worker that lost the job ends nothing, and what it packed is gone with it.
        let lost = enqueue(&db.pool, ends).await;
        let job = worker.claim("packing", 1).await.unwrap().pop().unwrap();
        worker.hand_back_all().await.unwrap();
        assert_eq!(worker.run(job).await, Settled::Lost);
        assert_eq!(
            (view(&db.pool, lost).await.state.as_str(), packed(&db.pool).await),
            ("available", before + 1)
        );
        queue::operate::cancel(&mut db.connect().await, lost, "test", "test")
            .await
            .unwrap();
    }
    worker.leave().await.unwrap();
}

#[tokio::test]
async fn what_follows_exists_if_and_only_if_the_job_before_it_completed() {
    let db = a_packing_hall().await;
    let (catalogue, services) = (catalogue(), Arc::new(()));
    let first = queue::enqueue(&mut db.connect().await, &PackOn { more: 2 })
        .await
        .unwrap()
        .id;
    let worker = Worker::register(&db.pool, &catalogue, &services).await.unwrap();
    let job = worker.claim(PackOn::QUEUE, 1).await.unwrap().remove(0);
    worker.hand_back_all().await.unwrap();
    assert_eq!(worker.run(job).await, Settled::Lost);
    let left = queue::testing::enqueued(&db.pool, PackOn::KIND).await.unwrap();
    let left: Vec<JobId> = left.iter().map(|job| job.id).collect();
    assert_eq!((left, packed(&db.pool).await), (vec![first], 0));
    worker.leave().await.unwrap();

    let ran = queue::testing::run_until_idle(&db.pool, &catalogue, &services)
        .await
        .unwrap();
    assert_eq!((ran.completed, packed(&db.pool).await), (3, 3));
}

#[tokio::test]
async fn a_permanent_failure_is_dead_at_once_and_leaves_what_it_was_about_in_a_named_state() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let job = Act {
        order_id: "mourned".to_owned(),
        ..act(Fate::Permanent)
    };
    let id = kinds::enqueue(&db.pool, &job).await;
    let ran = kinds::run(&db.pool, &world).await;
    assert_eq!(
        (ran.buried, ran.retried, ran.completed),
        (1, 0, 1),
        "its last rites enqueue one"
    );
    let dead = view(&db.pool, id).await;
    assert_eq!((dead.state.as_str(), dead.attempt), ("dead", 1));
    assert_eq!(world.buried.lock().unwrap()[0].code, "no_such_play");
}

/// Shows its progress and then waits to be told to end.
#[derive(Clone, Serialize, Deserialize)]
struct Climb {}

#[derive(Default)]
struct Mountain {
    is_seen: tokio::sync::Notify,
    is_refused: tokio::sync::Notify,
}

impl Job for Climb {
    type Services = Mountain;
    const KIND: &'static str = "climb";
    const QUEUE: &'static str = "mountain";

    async fn run(self, attempt: &Attempt, mountain: &Mountain) -> anyhow::Result<Outcome> {
        attempt.progress(&json!({ "metres": 1 })).await?;
        attempt.progress(&json!({ "metres": 800 })).await?;
        mountain.is_seen.notified().await;
        if let Err(error) = attempt.progress(&json!({ "metres": 900 })).await {
            assert!(error.is::<FenceLost>(), "{error}");
            mountain.is_refused.notify_one();
        }
        Ok(Outcome::Done)
    }
}

#[tokio::test]
async fn progress_is_seen_while_the_job_runs_and_only_its_holder_shows_any() {
    let db = Database::new().await;
    let (catalogue, mountain) = (Catalogue::new().with::<Climb>(), Arc::<Mountain>::default());
    let mut conn = db.connect().await;
    let id = queue::enqueue(&mut conn, &Climb {}).await.unwrap().id;
    let worker = Worker::register(&db.pool, &catalogue, &mountain).await.unwrap();
    let job = worker.claim("mountain", 1).await.unwrap().pop().unwrap();
    let watch = async {
        testkit::eventually("the last progress to be seen", || async {
            (view(&db.pool, id).await.progress == Some(json!({ "metres": 800 }))).then_some(())
        })
        .await;
        worker.hand_back_all().await.unwrap();
        mountain.is_seen.notify_one();
        mountain.is_refused.notified().await;
    };
    let (settled, ()) = tokio::join!(worker.run(job), watch);
    assert_eq!(settled, Settled::Lost);
    worker.leave().await.unwrap();
}

#[tokio::test]
async fn a_job_for_later_is_claimed_when_it_is_due_and_not_before() {
    let db = a_packing_hall().await;
    let mut conn = db.connect().await;
    let hour = Duration::from_secs(3600);
    let job = Pack {
        boxes: 1,
        ends: End::Done,
    };
    queue::enqueue_after(&mut conn, &job, hour).await.unwrap();
    let at: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("select clock_timestamp() + interval '2 hours'")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    queue::enqueue_at(&mut conn, &job, at).await.unwrap();
    let (catalogue, services) = (catalogue(), Arc::new(()));
    for due in [0, 1, 1] {
        let ran = queue::testing::run_until_idle(&db.pool, &catalogue, &services)
            .await
            .unwrap();
        assert_eq!(ran.completed, due);
        queue::testing::fast_forward(&db.pool, hour).await.unwrap();
    }
}

#[tokio::test]
async fn a_line_finds_what_comes_to_its_end_and_what_is_put_back_at_its_beginning() {
    let db = a_packing_hall().await;
    let catalogue = catalogue();
    let worker = Worker::register(&db.pool, &catalogue, &Arc::new(())).await.unwrap();
    let line = Line::new(queue::claim::Known::of(&catalogue, "packing"));
    for age_secs in [0, 3600, 0, 7200] {
        let id: i64 = sqlx::query_scalar(
            "select job_id from queue.enqueue('packing', 'pack', '{}', clock_timestamp() - make_interval(secs => $1))",
        )
        .bind(f64::from(age_secs))
        .fetch_one(&db.pool)
        .await
        .unwrap();
        // What was put back may be found by a later claim only.
        let finding = async {
            loop {
                if let Some(job) = line.claim(&db.pool, worker.registration.id, 10).await.unwrap().pop() {
                    break job;
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(60), finding).await.unwrap();
        assert_eq!(found.id, JobId(id));
    }
}

async fn view(pool: &PgPool, id: JobId) -> queue::inspect::JobView {
    queue::inspect::job(&mut pool.acquire().await.unwrap(), id)
        .await
        .unwrap()
        .unwrap()
}
