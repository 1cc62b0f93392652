//! A dead job at the head of a group: it blocks the group or is skipped, and comes back in its place.

use std::sync::Arc;
use std::time::Duration;

use queue::inspect;
use queue::operate;
use queue::testing::run_until_idle;
use queue::{Attempt, Catalogue, DeadHead, Failure, Job, JobId, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};
use testkit::Database;

use crate::kinds::{Act, Fate, World, act, causes, enqueue, job, run, worker};

/// A verse of a song: none is sung before the one before it.
#[derive(Debug, Serialize, Deserialize)]
struct Verse {
    n: usize,
    is_lost: bool,
    song: String,
}

impl Job for Verse {
    type Services = World;
    const KIND: &'static str = "verse";
    const QUEUE: &'static str = "songs";
    const DEAD_HEAD: DeadHead = DeadHead::Block;

    fn group(&self) -> Option<String> {
        Some(self.song.clone())
    }

    async fn run(self, _: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        if self.is_lost {
            return Err(Failure::permanent("lost", "nobody remembers it").into());
        }
        world.order.lock().unwrap().push(format!("{} {}", self.song, self.n));
        Ok(Outcome::Done)
    }
}

async fn verse(pool: &PgPool, n: usize, is_lost: bool) -> JobId {
    let verse = Verse {
        n,
        is_lost,
        song: "ballad".to_owned(),
    };
    queue::enqueue(&mut pool.acquire().await.unwrap(), &verse)
        .await
        .unwrap()
        .id
}

/// A stanza: some of them may be left out, and the song goes on.
#[derive(Debug, Serialize, Deserialize)]
struct Stanza {
    n: usize,
    is_lost: bool,
    may_be_left_out: bool,
    song: String,
}

impl Job for Stanza {
    type Services = World;
    const KIND: &'static str = "stanza";
    const QUEUE: &'static str = "songs";
    const DEAD_HEAD: DeadHead = DeadHead::Block;

    fn group(&self) -> Option<String> {
        Some(self.song.clone())
    }

    async fn run(self, _: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        if self.is_lost {
            return Err(Failure::permanent("lost", "nobody remembers it").into());
        }
        world.order.lock().unwrap().push(format!("{} {}", self.song, self.n));
        Ok(Outcome::Done)
    }

    async fn dead_head(&self, conn: &mut PgConnection) -> anyhow::Result<DeadHead> {
        let skips: bool = sqlx::query_scalar("select $1")
            .bind(self.may_be_left_out)
            .fetch_one(conn)
            .await?;
        Ok(if skips { DeadHead::Skip } else { DeadHead::Block })
    }
}

fn songs() -> Catalogue<World> {
    Catalogue::new().with::<Stanza>().with::<Verse>()
}

async fn sing(pool: &PgPool, world: &Arc<World>) -> Vec<String> {
    run_until_idle(pool, &songs(), world).await.unwrap();
    world.order.lock().unwrap().clone()
}

fn found(n: usize) -> serde_json::Value {
    json!({"n": n, "is_lost": false, "song": "ballad"})
}

async fn blocked_by(pool: &PgPool) -> Option<JobId> {
    inspect::blocked_by(&mut pool.acquire().await.unwrap(), "ballad")
        .await
        .unwrap()
}

#[tokio::test]
async fn a_dead_head_blocks_its_group_until_it_is_redriven() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let lost = verse(&db.pool, 1, true).await;
    let next = verse(&db.pool, 2, false).await;
    assert!(sing(&db.pool, &world).await.is_empty(), "the second before the first");
    // Also what comes later waits behind it.
    verse(&db.pool, 3, false).await;
    assert!(sing(&db.pool, &world).await.is_empty());

    assert_eq!(blocked_by(&db.pool).await, Some(lost));
    let conn = &mut *db.pool.acquire().await.unwrap();
    let why = causes(&db.pool, next).await;
    let blocked = format!("its group ballad is blocked by dead letter {lost}; redrive or discard that one");
    assert!(why.contains(&blocked), "{why:?}");
    let why = causes(&db.pool, lost).await;
    assert!(why[1].contains("keeps the turn of its group ballad"), "{why:?}");

    operate::redrive(conn, lost, "ann", "found", Some(found(1)))
        .await
        .unwrap();
    assert_eq!(blocked_by(&db.pool).await, None);
    assert_eq!(sing(&db.pool, &world).await, ["ballad 1", "ballad 2", "ballad 3"]);
}

#[tokio::test]
async fn a_job_may_say_itself_what_becomes_of_its_group() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    for (song, may_be_left_out) in [("hymn", true), ("anthem", false)] {
        for n in 1..=2 {
            let stanza = Stanza {
                n,
                is_lost: n == 1,
                may_be_left_out,
                song: song.to_owned(),
            };
            queue::enqueue(&mut db.connect().await, &stanza).await.unwrap();
        }
    }
    assert_eq!(sing(&db.pool, &world).await, ["hymn 2"], "the anthem waits");
}

#[tokio::test]
async fn discarding_a_blocking_dead_letter_passes_the_turn() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let lost = verse(&db.pool, 1, true).await;
    verse(&db.pool, 2, true).await;
    verse(&db.pool, 3, false).await;
    sing(&db.pool, &world).await;
    let conn = &mut *db.pool.acquire().await.unwrap();
    operate::discard(conn, lost, "ann", "lost for ever").await.unwrap();
    assert!(sing(&db.pool, &world).await.is_empty(), "the second is lost too");
    let second = blocked_by(&db.pool).await.unwrap();
    operate::discard(conn, second, "ann", "lost for ever").await.unwrap();
    assert_eq!(sing(&db.pool, &world).await, ["ballad 3"]);
    let turns: i64 = sqlx::query_scalar("select count(*) from queue.turns")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(turns, 0);
}

#[tokio::test]
async fn a_group_stays_blocked_while_others_enqueue_into_it_and_goes_on_in_order() {
    const WRITERS: usize = 4;
    const EACH: usize = 10;
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let lost = verse(&db.pool, 0, true).await;
    sing(&db.pool, &world).await;
    // Redriven in the middle of it, by a transaction that has not seen what is being enqueued.
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let pool = db.pool.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    verse(&pool, 1 + writer * EACH + n, false).await;
                }
            })
        })
        .collect();
    let mut conn = db.connect().await;
    operate::redrive(&mut conn, lost, "ann", "found", Some(found(0)))
        .await
        .unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let sung = sing(&db.pool, &world).await;
    assert_eq!(sung[0], "ballad 0");
    assert_eq!(sung.len(), 1 + WRITERS * EACH);
    let by_id: Vec<String> = sqlx::query_scalar(
        "select 'ballad ' || (args ->> 'n') from queue.finished_jobs where kind = 'verse' order by id",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(sung, by_id);
}

#[tokio::test]
async fn a_redrive_that_crashes_leaves_the_group_blocked() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let lost = verse(&db.pool, 1, true).await;
    verse(&db.pool, 2, false).await;
    sing(&db.pool, &world).await;
    let mut crashing = PgConnection::connect(&db.url).await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut crashing)
        .await
        .unwrap();
    let mut tx = crashing.begin().await.unwrap();
    operate::redrive(&mut tx, lost, "ann", "found", Some(found(1)))
        .await
        .unwrap();
    sqlx::query("select pg_terminate_backend($1, 5000)")
        .bind(pid)
        .execute(&db.pool)
        .await
        .unwrap();
    tx.commit().await.unwrap_err();
    assert_eq!(blocked_by(&db.pool).await, Some(lost));
    assert!(sing(&db.pool, &world).await.is_empty());
    let conn = &mut *db.pool.acquire().await.unwrap();
    operate::redrive(conn, lost, "ann", "found", Some(found(1)))
        .await
        .unwrap();
    assert_eq!(sing(&db.pool, &world).await, ["ballad 1", "ballad 2"]);
}

fn scene(order_id: &str, fate: Fate) -> Act {
    Act {
        order_id: order_id.to_owned(),
        group: Some("play".to_owned()),
        ..act(fate)
    }
}

/// The payload of a dead scene that is mended.
fn mended(order_id: &str) -> Option<serde_json::Value> {
    Some(serde_json::to_value(scene(order_id, Fate::Done)).unwrap())
}

#[tokio::test]
async fn a_redriven_job_goes_before_everything_younger_that_has_not_started() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let first = enqueue(&db.pool, &scene("1", Fate::Permanent)).await;
    let second = enqueue(&db.pool, &scene("2", Fate::Permanent)).await;
    enqueue(&db.pool, &scene("3", Fate::Done)).await;
    run(&db.pool, &world).await;
    assert_eq!(*world.order.lock().unwrap(), ["1", "2", "3"], "the dead were skipped");
    world.order.lock().unwrap().clear();

    enqueue(&db.pool, &scene("4", Fate::Done)).await;
    enqueue(&db.pool, &scene("5", Fate::Done)).await;
    let conn = &mut *db.pool.acquire().await.unwrap();
    operate::redrive(conn, second, "ann", "written", mended("2"))
        .await
        .unwrap();
    operate::redrive(conn, first, "ann", "written", mended("1"))
        .await
        .unwrap();
    run(&db.pool, &world).await;
    assert_eq!(*world.order.lock().unwrap(), ["1", "2", "4", "5"]);
}

#[tokio::test]
async fn a_redriven_job_waits_for_a_younger_one_that_has_started() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let first = enqueue(&db.pool, &scene("1", Fate::Permanent)).await;
    run(&db.pool, &world).await;
    let second = enqueue(&db.pool, &scene("2", Fate::Done)).await;
    enqueue(&db.pool, &scene("3", Fate::Done)).await;
    world.order.lock().unwrap().clear();

    let holder = worker(&db.pool).await;
    assert_eq!(holder.claim(Act::QUEUE, 10).await.unwrap()[0].id, second);
    let conn = &mut *db.pool.acquire().await.unwrap();
    operate::redrive(conn, first, "ann", "written", mended("1"))
        .await
        .unwrap();
    assert!(
        holder.claim(Act::QUEUE, 10).await.unwrap().is_empty(),
        "two of a group at once"
    );
    let view = job(&db.pool, first).await;
    assert_eq!(view.state, "available");
    let why = causes(&db.pool, first).await;
    assert!(
        why.contains(&format!("job {second} of its group play comes first and runs")),
        "{why:?}"
    );

    // The worker dies over it: what had started is still before what was redriven.
    holder.die().await.unwrap();
    queue::rescue::rescue(&db.pool, false, Duration::from_secs(15))
        .await
        .unwrap();
    run(&db.pool, &world).await;
    assert_eq!(*world.order.lock().unwrap(), ["2", "1", "3"]);
}

#[tokio::test]
async fn a_redriven_job_waits_for_a_younger_one_that_a_worker_has_died_over() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let first = enqueue(&db.pool, &scene("1", Fate::Permanent)).await;
    run(&db.pool, &world).await;
    let second = enqueue(&db.pool, &scene("2", Fate::Done)).await;
    world.order.lock().unwrap().clear();

    let holder = worker(&db.pool).await;
    assert_eq!(holder.claim(Act::QUEUE, 10).await.unwrap()[0].id, second);
    holder.die().await.unwrap();
    queue::rescue::rescue(&db.pool, false, Duration::from_secs(15))
        .await
        .unwrap();
    let conn = &mut *db.pool.acquire().await.unwrap();
    operate::redrive(conn, first, "ann", "written", mended("1"))
        .await
        .unwrap();
    run(&db.pool, &world).await;
    assert_eq!(*world.order.lock().unwrap(), ["2", "1"]);
}
