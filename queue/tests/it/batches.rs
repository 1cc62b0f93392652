//! Many jobs of a kind in one transaction, and none of them pays for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use queue::runner::Settled::{self, Buried, Completed, Discarded, Lost, Postponed, Retried};
use queue::testing::Worker;
use queue::{Attempt, BatchJob, Catalogue, Failure, Job, JobId, Member, Outcome, Retry, batch};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use testkit::Database;

/// What a note does to its batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Fate {
    Written,
    WithResult,
    FailsAlone,
    DiesAlone,
    Discarded,
    Snoozed,
    /// Its row is refused, and with it the statement of the whole batch.
    Refused,
    Panics,
    Hangs,
    Deadlocks,
}

/// Writes its text down, together with others.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    text: String,
    fate: Fate,
    group: Option<String>,
}

fn note(text: impl Into<String>, fate: Fate) -> Note {
    Note {
        text: text.into(),
        fate,
        group: None,
    }
}

/// Counts the batches.
#[derive(Default)]
struct Desk {
    batches: AtomicU64,
}

impl Job for Note {
    type Services = Desk;
    const KIND: &'static str = "note";
    const QUEUE: &'static str = "desk";
    /// Several batches hang in turn until the culprit is found.
    const TIMEOUT: Duration = Duration::from_secs(1);
    const RETRY: Retry = Retry::new(Duration::from_secs(60), Duration::from_secs(3600), 3);

    fn group(&self) -> Option<String> {
        self.group.clone()
    }

    async fn run(self, attempt: &Attempt, desk: &Desk) -> anyhow::Result<Outcome> {
        batch::alone(self, attempt, desk).await
    }
}

impl BatchJob for Note {
    const BATCH_MAX: usize = 16;

    async fn run_batch(
        batch: Vec<Member<Self>>,
        conn: &mut PgConnection,
        desk: &Desk,
    ) -> anyhow::Result<Vec<anyhow::Result<Outcome>>> {
        desk.batches.fetch_add(1, Ordering::SeqCst);
        let has = |fate| batch.iter().any(|member| member.job.fate == fate);
        assert!(!has(Fate::Panics), "the ink ran out");
        if has(Fate::Hangs) {
            std::future::pending::<()>().await;
        }
        if has(Fate::Deadlocks) {
            sqlx::query("do $$ begin raise exception using errcode = '40P01', message = 'deadlock detected'; end $$")
                .execute(&mut *conn)
                .await?;
        }
        let writes = |fate| matches!(fate, Fate::Written | Fate::WithResult | Fate::Discarded | Fate::Refused);
        let texts: Vec<_> = batch
            .iter()
            .filter(|member| writes(member.job.fate))
            .map(|member| member.job.text.clone())
            .collect();
        sqlx::query("insert into notes (text) select unnest($1::text[])")
            .bind(&texts)
            .execute(conn)
            .await?;
        let outcomes = batch.iter().map(|member| match member.job.fate {
            Fate::WithResult => Ok(Outcome::DoneWith(json!({ "length": member.job.text.len() }))),
            Fate::FailsAlone => anyhow::bail!("smudged"),
            Fate::DiesAlone => Err(Failure::permanent("blank", "there is nothing to write").into()),
            Fate::Discarded => Ok(Outcome::Discard("torn up".to_owned())),
            Fate::Snoozed => Ok(Outcome::Snooze(Duration::from_secs(60))),
            _ => Ok(Outcome::Done),
        });
        Ok(outcomes.collect())
    }
}

fn catalogue() -> Catalogue<Desk> {
    Catalogue::new().with_batch::<Note>()
}

/// A database in which the text "refused" cannot be written.
async fn desk() -> Database {
    let db = Database::new().await;
    sqlx::query(
        "create table notes (text text check (text <> 'refused'), written_by xid8 default pg_current_xact_id())",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    db
}

async fn enqueue(pool: &PgPool, notes: &[Note]) -> Vec<JobId> {
    let mut conn = pool.acquire().await.unwrap();
    let enqueued = queue::enqueue_many(&mut conn, notes).await.unwrap();
    enqueued.into_iter().map(|one| one.id).collect()
}

/// Runs all of these in one batch; returns their ends in their order, and how many times the handler was called.
async fn run(db: &Database, notes: &[Note]) -> (Vec<Settled>, u64) {
    let ids = enqueue(&db.pool, notes).await;
    let (catalogue, desk) = (catalogue(), Arc::<Desk>::default());
    let worker = Worker::register(&db.pool, &catalogue, &desk).await.unwrap();
    let claimed = worker.claim("desk", notes.len()).await.unwrap();
    assert_eq!(claimed.len(), notes.len());
    let settled = worker.run_batch(claimed).await;
    assert_eq!(worker.jobs_in_hand(), 0);
    worker.leave().await.unwrap();
    assert_eq!(claims_left(&db.pool).await, 0);
    let ends = settled.len();
    assert_eq!(ends, ids.len());
    (settled, desk.batches.load(Ordering::SeqCst))
}

async fn claims_left(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select (select count(*) from queue.claims) + (select count(*) from queue.ended)")
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn written(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("select text from notes order by text")
        .fetch_all(pool)
        .await
        .unwrap()
}

async fn states(pool: &PgPool) -> Vec<(String, String, i32)> {
    sqlx::query_as("select args ->> 'text', state, attempt from queue.all_jobs order by 1")
        .fetch_all(pool)
        .await
        .unwrap()
}

fn state(text: &str, state: &str, attempt: i32) -> (String, String, i32) {
    (text.to_owned(), state.to_owned(), attempt)
}

#[tokio::test]
async fn a_batch_is_one_transaction() {
    let db = desk().await;
    let notes: Vec<_> = (0..10).map(|n| note(format!("n{n}"), Fate::Written)).collect();
    let (settled, batches) = run(&db, &notes).await;
    assert_eq!((settled, batches), (vec![Completed; 10], 1));
    let (rows, transactions): (i64, i64) = sqlx::query_as("select count(*), count(distinct written_by) from notes")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!((rows, transactions), (10, 1));
    let ended: i64 = sqlx::query_scalar(
        "select count(*) from queue.finished_jobs f
         where state = 'completed' and f.xmin = (select distinct written_by from notes)::xid",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(ended, 10, "the ends were not written with the effects");
}

#[tokio::test]
async fn each_job_of_a_batch_has_its_own_outcome() {
    let db = desk().await;
    let notes = [
        note("a", Fate::Written),
        note("b", Fate::WithResult),
        note("c", Fate::FailsAlone),
        note("d", Fate::DiesAlone),
        note("e", Fate::Discarded),
        note("f", Fate::Snoozed),
        note("g", Fate::Written),
    ];
    let (settled, batches) = run(&db, &notes).await;
    let ends = vec![Completed, Completed, Retried, Buried, Discarded, Postponed, Completed];
    assert_eq!((settled, batches), (ends, 1));
    assert_eq!(written(&db.pool).await, ["a", "b", "e", "g"]);
    assert_eq!(
        states(&db.pool).await,
        [
            state("a", "completed", 1),
            state("b", "completed", 1),
            state("c", "retryable", 1),
            state("d", "dead", 1),
            state("e", "discarded", 1),
            state("f", "scheduled", 0),
            state("g", "completed", 1),
        ]
    );
    let result: serde_json::Value =
        sqlx::query_scalar("select result from queue.finished_jobs where args ->> 'text' = 'b'")
            .fetch_one(&db.pool)
            .await
            .unwrap();
    assert_eq!(result, json!({ "length": 1 }));
}

#[tokio::test]
async fn one_poison_row_fails_alone() {
    for culprit in [
        note("refused", Fate::Refused),
        note("refused", Fate::Panics),
        note("refused", Fate::Hangs),
    ] {
        let db = desk().await;
        let mut notes: Vec<_> = (0..9).map(|n| note(format!("n{n}"), Fate::Written)).collect();
        notes.insert(6, culprit.clone());
        let (mut settled, batches) = run(&db, &notes).await;
        settled.sort_by_key(|end| *end == Retried);
        assert_eq!(settled, [vec![Completed; 9], vec![Retried]].concat(), "{culprit:?}");
        assert!(batches <= 9, "{batches} tries for one culprit among ten");
        let innocent: Vec<_> = (0..9).map(|n| format!("n{n}")).collect();
        assert_eq!(written(&db.pool).await, innocent, "each exactly once");
        let states = states(&db.pool).await;
        assert_eq!(states[9], state("refused", "retryable", 1));
        assert!(
            states[..9]
                .iter()
                .all(|(_, state, attempt)| state == "completed" && *attempt == 1)
        );
    }
}

#[tokio::test]
async fn an_undecodable_job_fails_alone() {
    let db = desk().await;
    let notes: Vec<_> = (0..5).map(|n| note(format!("n{n}"), Fate::Written)).collect();
    let ids = enqueue(&db.pool, &notes).await;
    sqlx::query("update queue.jobs set args = args - 'fate' where id = $1")
        .bind(ids[2])
        .execute(&db.pool)
        .await
        .unwrap();
    let (catalogue, desk) = (catalogue(), Arc::<Desk>::default());
    let worker = Worker::register(&db.pool, &catalogue, &desk).await.unwrap();
    let claimed = worker.claim("desk", 5).await.unwrap();
    let settled = worker.run_batch(claimed).await;
    worker.leave().await.unwrap();
    assert_eq!(settled.iter().filter(|end| **end == Buried).count(), 1);
    assert_eq!(written(&db.pool).await, ["n0", "n1", "n3", "n4"]);
}

#[tokio::test]
async fn a_batch_burns_no_try_when_the_database_is_in_trouble() {
    let db = desk().await;
    let mut notes: Vec<_> = (0..4).map(|n| note(format!("n{n}"), Fate::Written)).collect();
    notes.push(note("x", Fate::Deadlocks));
    let (settled, batches) = run(&db, &notes).await;
    assert_eq!((settled, batches), (vec![Postponed; 5], 1));
    assert!(written(&db.pool).await.is_empty());
    assert!(states(&db.pool).await.iter().all(|(_, _, attempt)| *attempt == 0));
}

#[tokio::test]
async fn a_stale_batch_writes_nothing() {
    let db = desk().await;
    let notes: Vec<_> = (0..4).map(|n| note(format!("n{n}"), Fate::Written)).collect();
    enqueue(&db.pool, &notes).await;
    let (catalogue, desk) = (catalogue(), Arc::<Desk>::default());
    let stale = Worker::register(&db.pool, &catalogue, &desk).await.unwrap();
    let claimed = stale.claim("desk", 4).await.unwrap();
    stale.hand_back_all().await.unwrap();

    let fresh = Worker::register(&db.pool, &catalogue, &desk).await.unwrap();
    let again = fresh.claim("desk", 4).await.unwrap();
    assert_eq!(stale.run_batch(claimed).await, [Lost; 4]);
    assert!(written(&db.pool).await.is_empty());
    assert_eq!(fresh.run_batch(again).await, [Completed; 4]);
    assert_eq!(written(&db.pool).await.len(), 4);
    stale.leave().await.unwrap();
    fresh.leave().await.unwrap();
}

#[tokio::test]
async fn nobody_can_take_a_batch_away_while_its_transaction_is_open() {
    let db = desk().await;
    let notes = [note("a", Fate::Written), note("b", Fate::Hangs)];
    enqueue(&db.pool, &notes).await;
    let (catalogue, desk) = (catalogue(), Arc::<Desk>::default());
    let worker = Worker::register(&db.pool, &catalogue, &desk).await.unwrap();
    let claimed = worker.claim("desk", 2).await.unwrap();
    let claim = claimed[0].claim_id;
    let batch = worker.run_batch(claimed);
    let thief = async {
        testkit::eventually("the batch to be under way", || async {
            (desk.batches.load(Ordering::SeqCst) > 0).then_some(())
        })
        .await;
        sqlx::query_scalar::<_, i64>("select count(*) from queue.seize(array[$1], false)")
            .bind(claim)
            .fetch_one(&db.pool)
            .await
            .unwrap()
    };
    let (settled, stolen) = tokio::join!(batch, thief);
    assert_eq!(stolen, 0);
    assert_eq!(settled.len(), 2);
    worker.leave().await.unwrap();
}

#[tokio::test]
async fn batches_of_one_claim_end_it_together_and_pass_turns_on() {
    let db = desk().await;
    let grouped = |n: i32| Note {
        group: Some(format!("g{}", n % 4)),
        ..note(format!("n{n}"), Fate::Written)
    };
    let notes: Vec<_> = (0..8).map(grouped).collect();
    enqueue(&db.pool, &notes).await;
    let (catalogue, desk) = (catalogue(), Arc::<Desk>::default());
    let worker = Worker::register(&db.pool, &catalogue, &desk).await.unwrap();
    for round in 0..2 {
        // The first of each group, then the second of each.
        let mut first = worker.claim("desk", 8).await.unwrap();
        assert_eq!(first.len(), 4, "round {round}");
        let second = first.split_off(2);
        let (one, two) = tokio::join!(worker.run_batch(first), worker.run_batch(second));
        assert_eq!([one, two].concat(), [Completed; 4]);
    }
    assert_eq!(worker.jobs_in_hand(), 0);
    worker.leave().await.unwrap();
    assert_eq!(claims_left(&db.pool).await, 0);
    assert_eq!(written(&db.pool).await.len(), 8);
    assert_eq!(desk.batches.load(Ordering::SeqCst), 4);
}
