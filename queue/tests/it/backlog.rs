//! The deploy gate: what a build could not run of what others stored.

use queue::backlog::{self, Backlog, Fault, Place};
use queue::schedule::{self, Entry};
use queue::{Attempt, Catalogue, Job, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::Connection;
use testkit::Database;

/// The kind as the new build has it: version 1 had no scenes.
#[derive(Debug, Serialize, Deserialize)]
struct Play {
    title: String,
    scenes: Vec<Scene>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Scene {
    minutes: u16,
}

impl Job for Play {
    type Services = ();
    const KIND: &'static str = "play";
    const QUEUE: &'static str = "stage";
    const VERSION: i16 = 2;

    fn upcast(_version: i16, mut args: Value) -> anyhow::Result<Value> {
        anyhow::ensure!(args["title"] != "lost", "nobody remembers the scenes");
        assert_ne!(args["title"], "cursed");
        args["scenes"] = json!([]);
        Ok(args)
    }

    async fn run(self, _attempt: &Attempt, _services: &()) -> anyhow::Result<Outcome> {
        Ok(Outcome::Done)
    }
}

fn new_build() -> Catalogue<()> {
    Catalogue::new().with::<Play>()
}

async fn store(db: &Database, queue: &str, kind: &str, version: i32, args: Value, later_secs: f64) {
    sqlx::query(
        "select queue.enqueue($1, $2, $3, clock_timestamp() + make_interval(secs => $5), p_args_version => $4)",
    )
    .bind(queue)
    .bind(kind)
    .bind(args)
    .bind(version)
    .bind(later_secs)
    .execute(&db.pool)
    .await
    .unwrap();
}

async fn check(db: &Database) -> Backlog {
    let mut conn = db.pool.acquire().await.unwrap();
    backlog::check(&mut conn, &new_build(), |_| {}).await.unwrap()
}

#[tokio::test]
async fn the_gate_lists_what_a_build_could_not_run_wherever_it_lies() {
    let db = Database::new().await;
    let good = json!({ "title": "hamlet", "scenes": [{ "minutes": 90 }] });
    let worse = json!({ "title": "hamlet", "scenes": [{ "minutes": 90 }, { "minutes": "long" }] });
    store(&db, "stage", "play", 2, good.clone(), 0.0).await;
    store(&db, "stage", "play", 1, json!({ "title": "hamlet" }), 3600.0).await;
    assert_eq!(check(&db).await.stranded, [], "old versions are read through upcast");

    store(&db, "stage", "dance", 1, json!({}), 0.0).await;
    store(&db, "stage", "dance", 1, json!({}), 3600.0).await;
    store(&db, "stage", "play", 3, good.clone(), 0.0).await;
    store(&db, "cellar", "play", 2, good.clone(), 0.0).await;
    store(&db, "stage", "play", 2, worse.clone(), 0.0).await;
    store(
        &db,
        "stage",
        "play",
        2,
        json!({ "title": "lear", "scenes": [{ "minutes": -1 }] }),
        0.0,
    )
    .await;
    store(&db, "stage", "play", 1, json!({ "title": "lost" }), 0.0).await;
    store(&db, "stage", "play", 1, json!({ "title": "cursed" }), 0.0).await;
    sqlx::raw_sql(
        "insert into queue.workers (name, pools, build, host, pid, backend_pid, backend_start, lease_until)
         values ('w', '{pit}', '', '', 0, 0, now(), now());
         select queue.enqueue('pit', 'tune', '{}');
         select count(*) from queue.claim('pit', '{tune}', '{1}', (select id from queue.workers), 50);
         insert into queue.dead_letters (id, queue, kind, args_version, args, priority, fence, attempt, attempts_max, reason,
                                         error_class, error_code, message, report, created_at)
         select 1000 + n, 'stage', 'play', 2, '{\"title\": 7, \"scenes\": []}', 0, 1, 1, 1, 'poison', 'poison', 'undecodable', '',
                '{}', now()
         from generate_series(1, 7) n;",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    let mut opera = Entry::new(
        "opera",
        "* * * * *",
        &Play {
            title: String::new(),
            scenes: vec![],
        },
    );
    opera.kind = "sing";
    schedule::install(&mut db.pool.acquire().await.unwrap(), &[opera])
        .await
        .unwrap();

    let mut conn = db.pool.acquire().await.unwrap();
    let next = Play {
        title: "next".to_owned(),
        scenes: vec![],
    };
    let steps = queue::saga::Steps::new().step(&next).step(&next);
    queue::saga::begin(&mut conn, "season", "2026", steps).await.unwrap();
    sqlx::query("update queue.saga_jobs set kind = 'mime' where step = 2")
        .execute(&mut *conn)
        .await
        .unwrap();
    drop(conn);

    let found = check(&db).await;
    let read: Vec<_> = found.read.into_iter().collect();
    use Place::{Dead, Due, Running, Saga, Scheduled, Timetable};
    assert_eq!(
        read,
        [
            (Due, 9),
            (Scheduled, 2),
            (Running, 1),
            (Dead, 7),
            (Saga, 1),
            (Timetable, 1)
        ]
    );
    let seen: Vec<_> = found
        .stranded
        .iter()
        .map(|one| {
            let path = one.path.as_deref().unwrap_or("");
            (one.place, one.kind.as_str(), one.version, one.fault, path, one.count)
        })
        .collect();
    use Fault::{NewerVersion, OtherQueue, Undecodable, UnknownKind};
    assert_eq!(
        seen,
        [
            (Due, "play", 2, OtherQueue, "", 1),
            (Due, "dance", 1, UnknownKind, "", 1),
            (Due, "play", 1, Undecodable, "", 2),
            (Due, "play", 2, Undecodable, "scenes[].minutes", 2),
            (Due, "play", 3, NewerVersion, "", 1),
            (Scheduled, "dance", 1, UnknownKind, "", 1),
            (Running, "tune", 1, UnknownKind, "", 1),
            (Dead, "play", 2, Undecodable, "title", 7),
            (Saga, "mime", 2, UnknownKind, "", 1),
            (Timetable, "sing", 2, UnknownKind, "", 1),
        ]
    );
    let error = |at: usize| found.stranded[at].error.as_str();
    assert_eq!(error(0), "this build runs the kind from the queue stage");
    assert_eq!(error(2), "nobody remembers the scenes");
    assert!(
        error(3).starts_with("scenes[1].minutes: invalid type: string \"long\""),
        "{}",
        error(3)
    );
    assert_eq!(error(4), "this build reads up to version 2");
    assert_eq!(found.stranded[7].samples, ["1001", "1002", "1003", "1004", "1005"]);
    assert_eq!(found.stranded[8].samples, ["step 2 of saga 1"]);
    assert_eq!(found.stranded[9].samples, ["opera"]);
    let found = check(&db).await;
    assert_eq!((found.stranded_count(true), found.stranded_count(false)), (18, 11));
}

#[tokio::test]
async fn the_gate_reads_page_by_page_and_writes_nothing() {
    let db = Database::new().await;
    sqlx::query(
        "select queue.enqueue('stage', 'play', jsonb_build_object('title', n::text, 'scenes', jsonb_build_array()), p_args_version => 2)
         from generate_series(1, 1100) n",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    // A role that may read everything and write nothing is enough.
    let mut reader = sqlx::PgConnection::connect(&db.url).await.unwrap();
    sqlx::query("set role pg_read_all_data")
        .execute(&mut reader)
        .await
        .unwrap();
    let mut heard = Vec::new();
    let found = backlog::check(&mut reader, &new_build(), |read| heard.push(read))
        .await
        .unwrap();
    assert_eq!(found.stranded, []);
    assert_eq!(heard, [250, 500, 750, 1000, 1100]);
}
