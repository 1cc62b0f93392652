//! Unique keys for a time, and jobs that wait for the last word.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use queue::inspect::{JobFilter, JobView};
use queue::testing::{Worker, fast_forward};
use queue::{Attempt, Catalogue, Enqueued, Error, Job, JobId, Outcome, Retry, Unique};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use testkit::{Database, eventually};

use crate::kinds::{Act, Fate, World, act, job};

const MINUTE: Duration = Duration::from_secs(60);

/// At most one for a key in ten minutes.
#[derive(Clone, Serialize, Deserialize)]
struct Remind {
    key: String,
    window_secs: f64,
}

impl Job for Remind {
    type Services = World;
    const KIND: &'static str = "remind";
    const QUEUE: &'static str = "stage";

    fn unique(&self) -> Option<Unique> {
        Some(Unique::within(&self.key, Duration::from_secs_f64(self.window_secs)))
    }

    async fn run(self, _: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        world.runs.fetch_add(1, Ordering::SeqCst);
        Ok(Outcome::Done)
    }
}

fn remind(key: &str) -> Remind {
    Remind {
        key: key.to_owned(),
        window_secs: 600.0,
    }
}

/// Says what it was told last. The word `mumble` fails.
#[derive(Clone, Serialize, Deserialize)]
struct Say {
    topic: String,
    word: String,
}

impl Job for Say {
    type Services = World;
    const KIND: &'static str = "say";
    const QUEUE: &'static str = Act::QUEUE;
    const RETRY: Retry = Retry::new(Duration::from_secs(3600), Duration::from_secs(3600), 3);

    fn unique(&self) -> Option<Unique> {
        Some(Unique::live(&self.topic))
    }

    fn deadline_after() -> Option<Duration> {
        Some(60 * MINUTE)
    }

    fn delay_after(&self, _: i32) -> Option<Duration> {
        Some(30 * MINUTE)
    }

    async fn run(self, _: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        world.order.lock().unwrap().push(self.word.clone());
        anyhow::ensure!(self.word != "mumble", "nobody understood");
        Ok(Outcome::Done)
    }
}

fn say(word: &str) -> Say {
    Say {
        topic: "weather".to_owned(),
        word: word.to_owned(),
    }
}

fn catalogue() -> Catalogue<World> {
    Catalogue::new().with::<Remind>().with::<Say>()
}

async fn run(pool: &PgPool, world: &Arc<World>) {
    queue::testing::run_until_idle(pool, &catalogue(), world).await.unwrap();
}

async fn debounce(pool: &PgPool, job: &Say) -> Enqueued {
    queue::enqueue_debounced(&mut pool.acquire().await.unwrap(), job, 10 * MINUTE, 25 * MINUTE)
        .await
        .unwrap()
}

async fn jobs(pool: &PgPool) -> Vec<JobView> {
    queue::inspect::jobs(&mut pool.acquire().await.unwrap(), &JobFilter::default())
        .await
        .unwrap()
}

/// Seconds until a job is due, by the database's clock.
async fn due_in(pool: &PgPool, id: JobId) -> f64 {
    sqlx::query_scalar("select extract(epoch from run_at - clock_timestamp())::float8 from queue.jobs where id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Waits until some session waits for a lock.
async fn somebody_waits(pool: &PgPool) {
    eventually("somebody to wait for a lock", async || {
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (waiting > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_taken_for_a_time_returns_its_job_until_then_also_when_it_has_ended() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let conn = &mut *db.pool.acquire().await.unwrap();
    let first = queue::enqueue(conn, &remind("rent")).await.unwrap();
    assert!(first.is_new);
    fast_forward(&db.pool, 5 * MINUTE).await.unwrap();
    let waiting = queue::enqueue(conn, &remind("rent")).await.unwrap();
    assert_eq!((waiting.id, waiting.is_new), (first.id, false));
    run(&db.pool, &world).await;
    assert_eq!(job(&db.pool, first.id).await.state, "completed");
    let ended = queue::enqueue(conn, &remind("rent")).await.unwrap();
    assert_eq!((ended.id, ended.is_new), (first.id, false));

    fast_forward(&db.pool, 5 * MINUTE).await.unwrap();
    let second = queue::enqueue(conn, &remind("rent")).await.unwrap();
    assert!(second.is_new && second.id != first.id);
    let twin = queue::enqueue(conn, &remind("rent")).await.unwrap();
    assert_eq!((twin.id, twin.is_new), (second.id, false));
    run(&db.pool, &world).await;
    assert_eq!(world.runs(), 2);
}

#[tokio::test]
async fn many_with_keys_for_a_time_are_answered_in_their_order() {
    let db = Database::new().await;
    let conn = &mut *db.pool.acquire().await.unwrap();
    let old = queue::enqueue(conn, &remind("b")).await.unwrap();
    let jobs = ["a", "b", "a", "c"].map(remind);
    let answers = queue::enqueue_many(conn, &jobs).await.unwrap();
    assert_eq!(
        answers.iter().map(|one| one.is_new).collect::<Vec<_>>(),
        [true, false, false, true]
    );
    assert_eq!((answers[1].id, answers[2].id), (old.id, answers[0].id));
    fast_forward(&db.pool, 10 * MINUTE).await.unwrap();
    let later = queue::enqueue_many(conn, &jobs).await.unwrap();
    assert_eq!(
        later.iter().map(|one| one.is_new).collect::<Vec<_>>(),
        [true, true, false, true]
    );
}

#[tokio::test]
async fn two_transactions_at_the_end_of_a_keys_time_make_one_job() {
    let db = Database::new().await;
    queue::enqueue(&mut db.pool.acquire().await.unwrap(), &remind("rent"))
        .await
        .unwrap();
    fast_forward(&db.pool, 10 * MINUTE).await.unwrap();
    let mut first = db.pool.begin().await.unwrap();
    let winner = queue::enqueue(&mut first, &remind("rent")).await.unwrap();
    let twin = tokio::spawn({
        let pool = db.pool.clone();
        async move {
            queue::enqueue(&mut pool.acquire().await.unwrap(), &remind("rent"))
                .await
                .unwrap()
        }
    });
    somebody_waits(&db.pool).await;
    first.commit().await.unwrap();
    let twin = twin.await.unwrap();
    assert_eq!((twin.id, twin.is_new), (winner.id, false));
    assert!(winner.is_new);
}

#[tokio::test]
async fn a_key_for_no_time_or_for_ever_is_refused() {
    let db = Database::new().await;
    let conn = &mut *db.pool.acquire().await.unwrap();
    for window_secs in [0.0, 367.0 * 86_400.0] {
        let job = Remind {
            window_secs,
            ..remind("rent")
        };
        let refused = queue::enqueue(conn, &job).await.unwrap_err();
        assert!(refused.to_string().contains("at most 366 days"), "{refused}");
        assert!(queue::enqueue_many(conn, &[job]).await.is_err());
    }
    assert!(jobs(&db.pool).await.is_empty());
}

#[tokio::test]
async fn a_debounced_job_runs_once_with_the_last_payload_and_never_waits_beyond_its_bound() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let first = debounce(&db.pool, &say("rain")).await;
    assert!(first.is_new);
    for (word, due_mins) in [("hail", 10.0), ("snow", 10.0), ("fog", 4.0)] {
        fast_forward(&db.pool, 7 * MINUTE).await.unwrap();
        run(&db.pool, &world).await;
        let again = debounce(&db.pool, &say(word)).await;
        assert_eq!((again.id, again.is_new), (first.id, false));
        let due_in = due_in(&db.pool, first.id).await / 60.0;
        assert!((due_in - due_mins).abs() < 0.9, "{word} is due in {due_in} min");
    }
    fast_forward(&db.pool, 4 * MINUTE).await.unwrap();
    run(&db.pool, &world).await;
    assert_eq!(*world.order.lock().unwrap(), ["fog"]);
    assert!(debounce(&db.pool, &say("sun")).await.is_new);
}

#[tokio::test]
async fn a_debounced_job_that_runs_keeps_its_payload_and_a_new_one_is_made() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let first = debounce(&db.pool, &say("mumble")).await;
    fast_forward(&db.pool, 10 * MINUTE).await.unwrap();
    let catalogue = catalogue();
    let worker = Worker::register(&db.pool, &catalogue, &world).await.unwrap();
    let claimed = worker.claim(Say::QUEUE, 1).await.unwrap();
    assert_eq!(claimed[0].id, first.id);
    let second = debounce(&db.pool, &say("snow")).await;
    assert!(second.is_new && second.id != first.id);
    let third = debounce(&db.pool, &say("fog")).await;
    assert_eq!((third.id, third.is_new), (second.id, false));
    assert_eq!(job(&db.pool, first.id).await.args["word"], "mumble");

    // What ran goes back in line, and the key stays with the new one.
    worker.hand_back_all().await.unwrap();
    run(&db.pool, &world).await;
    assert_eq!(*world.order.lock().unwrap(), ["mumble"]);
    assert_eq!(debounce(&db.pool, &say("sun")).await.id, second.id);
    fast_forward(&db.pool, 10 * MINUTE).await.unwrap();
    run(&db.pool, &world).await;
    assert_eq!(*world.order.lock().unwrap(), ["mumble", "sun"]);
}

#[tokio::test]
async fn a_debounced_job_that_failed_waits_for_its_retry_with_the_new_payload() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let first = debounce(&db.pool, &say("mumble")).await;
    fast_forward(&db.pool, 10 * MINUTE).await.unwrap();
    run(&db.pool, &world).await;
    assert_eq!(job(&db.pool, first.id).await.attempt, 1);
    assert_eq!(debounce(&db.pool, &say("clearly")).await.id, first.id);
    assert!(due_in(&db.pool, first.id).await > 29.0 * 60.0);
    fast_forward(&db.pool, 30 * MINUTE).await.unwrap();
    run(&db.pool, &world).await;
    assert_eq!(*world.order.lock().unwrap(), ["mumble", "clearly"]);
}

#[tokio::test]
async fn two_debounced_at_once_make_one_job_with_the_payload_of_the_last_to_commit() {
    let db = Database::new().await;
    for already_there in [false, true] {
        if already_there {
            debounce(&db.pool, &say("rain")).await;
        }
        let mut first = db.pool.begin().await.unwrap();
        let one = queue::enqueue_debounced(&mut first, &say("hail"), MINUTE, MINUTE)
            .await
            .unwrap();
        assert_eq!(one.is_new, !already_there);
        let other = tokio::spawn({
            let pool = db.pool.clone();
            async move { debounce(&pool, &say("snow")).await }
        });
        somebody_waits(&db.pool).await;
        first.commit().await.unwrap();
        let other = other.await.unwrap();
        assert_eq!((other.id, other.is_new), (one.id, false));
        let jobs = jobs(&db.pool).await;
        assert_eq!((jobs.len(), &jobs[0].args["word"]), (1, &"snow".into()));
    }
}

#[tokio::test]
async fn a_claim_at_the_same_moment_loses_no_payload() {
    let db = Database::new().await;
    let first = debounce(&db.pool, &say("rain")).await;
    fast_forward(&db.pool, 10 * MINUTE).await.unwrap();
    let (catalogue, world) = (catalogue(), Arc::new(World::default()));
    let worker = Worker::register(&db.pool, &catalogue, &world).await.unwrap();

    // The new payload is first: the claim passes the job over, and finds it later.
    let mut replacing = db.pool.begin().await.unwrap();
    let replaced = queue::enqueue_debounced(&mut replacing, &say("hail"), Duration::ZERO, MINUTE)
        .await
        .unwrap();
    assert_eq!((replaced.id, replaced.is_new), (first.id, false));
    assert!(worker.claim(Say::QUEUE, 1).await.unwrap().is_empty());
    replacing.commit().await.unwrap();
    assert!(
        worker.claim(Say::QUEUE, 1).await.unwrap()[0]
            .args
            .get()
            .contains("hail")
    );
    worker.hand_back_all().await.unwrap();

    // The claim is first: whoever waited for it makes a job of its own.
    let mut claiming = db.pool.begin().await.unwrap();
    let claimed: i64 = sqlx::query_scalar("select id from queue.claim('stage', '{say}', '{1}', $1, 1)")
        .bind(worker.registration.id)
        .fetch_one(&mut *claiming)
        .await
        .unwrap();
    assert_eq!(claimed, first.id.0);
    let late = tokio::spawn({
        let pool = db.pool.clone();
        async move { debounce(&pool, &say("snow")).await }
    });
    somebody_waits(&db.pool).await;
    claiming.commit().await.unwrap();
    let late = late.await.unwrap();
    assert!(late.is_new && late.id != first.id);
    assert_eq!(job(&db.pool, first.id).await.args["word"], "hail");
    assert_eq!(job(&db.pool, late.id).await.args["word"], "snow");
}

#[tokio::test]
async fn only_a_job_with_a_live_key_can_be_debounced() {
    let db = Database::new().await;
    let conn = &mut *db.pool.acquire().await.unwrap();
    let refused = queue::enqueue_debounced(conn, &act(Fate::Done), MINUTE, MINUTE).await;
    assert!(matches!(refused, Err(Error::NotDebounced { kind: "act" })));
    let refused = queue::enqueue_debounced(conn, &remind("rent"), MINUTE, MINUTE).await;
    assert!(matches!(refused, Err(Error::NotDebounced { kind: "remind" })));
    assert!(jobs(&db.pool).await.is_empty());
}
