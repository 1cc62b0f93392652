use std::sync::Arc;

use crate::kinds::*;
use queue::Job;
use testkit::Database;

#[tokio::test]
async fn a_rolled_back_transaction_leaves_no_job() {
    let db = Database::new().await;
    let mut tx = db.pool.begin().await.unwrap();
    queue::enqueue(&mut tx, &act(Fate::Done)).await.unwrap();
    tx.rollback().await.unwrap();
    assert!(queue::testing::enqueued(&db.pool, Act::KIND).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_job_enqueued_in_sql_lives_and_dies_with_its_transaction() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let args = serde_json::to_value(act(Fate::Done)).unwrap();
    for is_committed in [false, true] {
        let mut tx = db.pool.begin().await.unwrap();
        let (id, is_new): (i64, bool) =
            sqlx::query_as("select job_id, is_new from queue.enqueue('stage', 'act', $1, p_unique_key => 'k')")
                .bind(&args)
                .fetch_one(&mut *tx)
                .await
                .unwrap();
        assert!(is_new);
        assert_eq!(run(&db.pool, &world).await.completed, 0, "nobody sees it yet");
        match is_committed {
            true => tx.commit().await.unwrap(),
            false => tx.rollback().await.unwrap(),
        }
        let ran = run(&db.pool, &world).await;
        assert_eq!(ran.completed, u64::from(is_committed), "job {id}");
    }
}

#[tokio::test]
async fn what_is_asserted_to_be_enqueued_is_found_or_said_to_be_something_else() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let message = async |job: Act| {
        let pool = db.pool.clone();
        let looking = tokio::spawn(async move { queue::testing::assert_enqueued(&pool, &job).await.id });
        let panic = looking.await.unwrap_err().into_panic();
        *panic.downcast::<String>().unwrap()
    };
    let nothing = message(act(Fate::Done)).await;
    assert!(nothing.ends_with("is enqueued, nor anything else"), "{nothing}");

    let id = enqueue(&db.pool, &act(Fate::Done)).await;
    assert_eq!(queue::testing::assert_enqueued(&db.pool, &act(Fate::Done)).await.id, id);
    let other = message(act(Fate::Panic)).await;
    assert!(other.contains(&format!("available job {id}: act")), "{other}");

    assert_eq!(run(&db.pool, &world).await.completed, 1);
    let ended = message(act(Fate::Done)).await;
    assert!(ended.contains(&format!("completed job {id}: act")), "{ended}");
}

#[tokio::test]
async fn a_live_key_is_free_again_when_its_job_ends() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let job = Act {
        key: Some("k".to_owned()),
        ..act(Fate::Done)
    };
    let first = enqueue(&db.pool, &job).await;
    let twin = queue::enqueue(&mut db.pool.acquire().await.unwrap(), &job)
        .await
        .unwrap();
    assert_eq!((twin.id, twin.is_new), (first, false));
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    assert_ne!(enqueue(&db.pool, &job).await, first);
}

#[tokio::test]
async fn a_kept_key_stays_taken_after_its_job_completed() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let job = Act {
        key: Some("k".to_owned()),
        kept: true,
        ..act(Fate::DoneInEffects)
    };
    let first = enqueue(&db.pool, &job).await;
    run(&db.pool, &world).await;
    assert_eq!(enqueue(&db.pool, &job).await, first);
    assert_eq!(world.runs(), 1);
}

#[tokio::test]
async fn a_duplicate_key_does_not_fail_its_batch() {
    let db = Database::new().await;
    let keyed = |key: &str| Act {
        key: Some(key.to_owned()),
        ..act(Fate::Done)
    };
    let jobs = [keyed("a"), keyed("b"), keyed("a")];
    let enqueued = queue::enqueue_many(&mut db.pool.acquire().await.unwrap(), &jobs)
        .await
        .unwrap();
    assert_eq!(
        enqueued.iter().map(|one| one.is_new).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert_eq!(enqueued[0].id, enqueued[2].id);
}

#[tokio::test]
async fn two_transactions_with_one_key_make_one_job() {
    let db = Database::new().await;
    let job = Act {
        key: Some("k".to_owned()),
        ..act(Fate::Done)
    };
    let mut first = db.pool.begin().await.unwrap();
    let winner = queue::enqueue(&mut first, &job).await.unwrap();
    let twin = tokio::spawn({
        let (pool, job) = (db.pool.clone(), job.clone());
        async move { enqueue(&pool, &job).await }
    });
    first.commit().await.unwrap();
    assert_eq!(twin.await.unwrap(), winner.id);
}

#[tokio::test]
async fn a_payload_over_64_kib_is_refused() {
    let db = Database::new().await;
    let noise: String = (0..200_000u32)
        .map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26))
        .collect();
    let refused = queue::enqueue(
        &mut db.pool.acquire().await.unwrap(),
        &Act {
            order_id: noise,
            ..act(Fate::Done)
        },
    )
    .await;
    assert!(refused.is_err());
    assert_eq!(
        queue::inspect::jobs(&mut db.pool.acquire().await.unwrap(), &Default::default())
            .await
            .unwrap()
            .len(),
        0
    );
}

#[tokio::test]
async fn many_at_once_are_answered_and_run_in_their_order_with_or_without_keys() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let named = |n: usize, key: Option<String>| Act {
        order_id: n.to_string(),
        key,
        ..act(Fate::Done)
    };
    let plain: Vec<_> = (0..50).map(|n| named(n, None)).collect();
    let keyed: Vec<_> = (50..100).map(|n| named(n, Some(format!("k{n}")))).collect();
    let conn = &mut *db.pool.acquire().await.unwrap();
    let mut ids = Vec::new();
    for jobs in [plain, keyed] {
        let enqueued = queue::enqueue_many(conn, &jobs).await.unwrap();
        assert!(enqueued.iter().all(|one| one.is_new));
        ids.extend(enqueued.iter().map(|one| one.id));
    }
    assert!(ids.is_sorted() && ids.len() == 100);
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(job(&db.pool, *id).await.args["order_id"], n.to_string());
    }
    assert_eq!(run(&db.pool, &world).await.completed, 100);
    let order: Vec<usize> = world.order.lock().unwrap().iter().map(|n| n.parse().unwrap()).collect();
    assert!(order.is_sorted());
    assert!(queue::enqueue_many::<Act>(conn, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn payloads_in_bulk_arrive_as_they_were_sent() {
    let db = Database::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let texts = [
        "tab\there",
        "line\nbreak\r",
        "back\\slash \\N \\.",
        "quotes \"'",
        "\u{1f69a} \u{7f}",
        "",
    ];
    let jobs = texts.map(|text| Act {
        order_id: text.to_owned(),
        ..act(Fate::Done)
    });
    let enqueued = queue::enqueue_many(&mut conn, &jobs).await.unwrap();
    for (text, enqueued) in texts.iter().zip(enqueued) {
        assert_eq!(job(&db.pool, enqueued.id).await.args["order_id"], *text);
    }
    assert!(queue::enqueue_many::<Act>(&mut conn, &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_payload_that_cannot_be_stored_fails_its_bulk_and_leaves_nothing() {
    let db = Database::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let long = "x".repeat(queue::PAYLOAD_BYTES_MAX);
    for (text, words) in [("nul \0", "unsupported Unicode escape"), (&long, "and may have 65536")] {
        let jobs = [
            act(Fate::Done),
            Act {
                order_id: text.to_owned(),
                ..act(Fate::Done)
            },
        ];
        let error = queue::enqueue_many(&mut conn, &jobs).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        let left: i64 = sqlx::query_scalar("select count(*) from queue.jobs")
            .fetch_one(&mut *conn)
            .await
            .unwrap();
        assert_eq!(left, 0);
    }
}

#[tokio::test]
async fn a_payload_and_a_limit_key_may_be_so_long_and_no_longer() {
    let db = Database::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let of_length = |bytes: usize| {
        let mut job = act(Fate::Done);
        let rest = serde_json::to_string(&job).unwrap().len() - job.order_id.len();
        job.order_id = "x".repeat(bytes - rest);
        job
    };
    let longest = of_length(queue::PAYLOAD_BYTES_MAX);
    queue::enqueue(&mut conn, &longest).await.unwrap();
    queue::enqueue_many(&mut conn, std::slice::from_ref(&longest))
        .await
        .unwrap();
    let longer = of_length(queue::PAYLOAD_BYTES_MAX + 1);
    let words = "the payload of act has 65537 bytes, and may have 65536";
    let refused = queue::enqueue(&mut conn, &longer).await.unwrap_err();
    assert_eq!(refused.to_string(), words);
    let refused = queue::enqueue_many(&mut conn, std::slice::from_ref(&longer))
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), words);

    let keyed = |characters: usize| Keyed {
        limit: "é".repeat(characters),
    };
    queue::enqueue(&mut conn, &keyed(queue::KEY_CHARACTERS_MAX))
        .await
        .unwrap();
    let refused = queue::enqueue(&mut conn, &keyed(queue::KEY_CHARACTERS_MAX + 1))
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the limit key of keyed has 301 characters, and may have 300"
    );
    let kept: i64 = sqlx::query_scalar("select count(*) from queue.jobs")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(kept, 3);
}

/// Counts against a limit.
#[derive(serde::Serialize, serde::Deserialize)]
struct Keyed {
    limit: String,
}

impl Job for Keyed {
    type Services = ();
    const KIND: &'static str = "keyed";
    const QUEUE: &'static str = "stage";

    fn limit(&self) -> Option<String> {
        Some(self.limit.clone())
    }

    async fn run(self, _: &queue::Attempt, (): &()) -> anyhow::Result<queue::Outcome> {
        Ok(queue::Outcome::Done)
    }
}

#[tokio::test]
async fn a_place_in_line_follows_the_time_and_the_priority_however_a_job_was_made_or_moved() {
    let db = Database::new().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let hour = std::time::Duration::from_secs(3600);
    queue::enqueue(&mut conn, &act(Fate::Done)).await.unwrap();
    queue::enqueue_after(&mut conn, &act(Fate::Done), hour).await.unwrap();
    queue::enqueue_many(&mut conn, &[act(Fate::Done), act(Fate::Done)])
        .await
        .unwrap();
    for enqueued in [
        "select queue.enqueue('stage', 'act', '{}', p_priority => 7)",
        "select queue.enqueue('stage', 'act', '{}', now() - interval '1 day', p_priority => -3, p_group_key => 'g')",
        "select queue.enqueue_debounced('1 h', '2 h', 'stage', 'act', '{}', 'key')",
        "select queue.enqueue_debounced('2 h', '2 h', 'stage', 'act', '{}', 'key')",
    ] {
        sqlx::query(enqueued).execute(&mut *conn).await.unwrap();
    }
    let misplaced = "select count(*) from queue.jobs where rank <> queue.rank(run_at, priority)";
    let places = "select count(distinct rank) from queue.jobs";
    let count = async |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(&db.pool).await.unwrap();
    assert_eq!(
        (count(misplaced).await, count(places).await),
        (0, 6),
        "those of a bulk have one time"
    );
    queue::testing::fast_forward(&db.pool, hour).await.unwrap();
    sqlx::query("update queue.jobs set priority = 2")
        .execute(&mut *conn)
        .await
        .unwrap();
    assert_eq!(count(misplaced).await, 0);
    run(&db.pool, &Arc::new(World::default())).await;
    queue::enqueue(&mut conn, &act(Fate::Fail)).await.unwrap();
    run(&db.pool, &Arc::new(World::default())).await;
    assert_eq!(
        (
            count(misplaced).await,
            count("select count(*) from queue.jobs where failures is not null").await
        ),
        (0, 1)
    );
}

/// Whoever enqueues, in whatever language, is told which bound it is, and nothing is kept of the job.
#[tokio::test]
async fn a_job_beyond_a_bound_is_refused_in_words() {
    let db = Database::new().await;
    let key = |length: usize| format!("'{}'", "k".repeat(length));
    let bytes = |length: usize| format!("to_jsonb(repeat('x', {length}))");
    let cases = [
        ("p_queue => ''".to_owned(), "from 1 to 100 characters"),
        (format!("p_queue => {}", key(101)), "name of a queue has from 1 to 100"),
        (format!("p_kind => {}", key(101)), "name of a kind has from 1 to 100"),
        ("p_args_version => 0".to_owned(), "count from 1"),
        ("p_attempts_max => 0".to_owned(), "from 1 to 1000 attempts, not 0"),
        ("p_attempts_max => 1001".to_owned(), "from 1 to 1000 attempts, not 1001"),
        ("p_priority => 11".to_owned(), "from -10 to 10, not 11"),
        (format!("p_args => {}", bytes(65_536)), "at most 65536 bytes, not 65"),
        (format!("p_unique_key => {}", key(301)), "a unique key has at most 300"),
        (format!("p_group_key => {}", key(301)), "a group key has at most 300"),
        (format!("p_limit_key => {}", key(301)), "a limit key has at most 300"),
    ];
    let enqueue = async |beyond: &str| {
        let given = [
            ("p_queue", "'queue'"),
            ("p_kind", "'kind'"),
            ("p_args", "'{}'"),
            ("p_unique_key", "'k'"),
        ];
        let arguments: Vec<_> = given
            .iter()
            .filter(|(name, _)| beyond.split(" =>").next() != Some(name))
            .map(|(name, value)| format!("{name} => {value}"))
            .chain([beyond.to_owned()])
            .filter(|argument| !argument.is_empty())
            .collect();
        let sql = format!("select job_id from queue.enqueue({})", arguments.join(", "));
        sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql))
            .fetch_one(&db.pool)
            .await
    };
    for (beyond, words) in cases {
        let refused = enqueue(&beyond).await.unwrap_err();
        let refused = refused.as_database_error().unwrap();
        assert!(refused.message().contains(words), "{beyond}: {refused}");
        assert_eq!(
            (refused.code().as_deref(), refused.constraint()),
            (Some("23514"), Some("jobs_are_bounded")),
            "{beyond}"
        );
    }
    let kept = "select (select count(*) from queue.jobs) + (select count(*) from queue.unique_keys)";
    assert_eq!(sqlx::query_scalar::<_, i64>(kept).fetch_one(&db.pool).await.unwrap(), 0);

    // Nor is a dead one mended into one.
    crate::kinds::enqueue(&db.pool, &act(Fate::Permanent)).await;
    run(&db.pool, &Arc::new(World::default())).await;
    let refused = sqlx::query(
        "select queue.redrive(array[id], array[to_jsonb(repeat('x', 65536))], 'test', 'test') from queue.dead_letters",
    )
    .execute(&db.pool)
    .await
    .unwrap_err();
    assert!(
        refused.to_string().contains("at most 65536 bytes, not 65538"),
        "{refused}"
    );
    sqlx::query("delete from queue.dead_letters")
        .execute(&db.pool)
        .await
        .unwrap();
    enqueue("").await.unwrap();
}
