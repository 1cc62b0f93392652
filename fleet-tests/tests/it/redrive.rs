//! A redrive campaign of thousands of dead letters, while every worker is killed again and again. One of its three causes is not
//! mended: that one halts within its canary, the others finish, and nothing runs twice.
//!
//! `REDRIVE_LETTERS=100000` takes more than the usual 3,000, and prints how fast it went.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use queue::campaign::{self, CampaignView, Plan, Selection};
use queue::{Attempt, Catalogue, Failure, Job, Outcome};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use testkit::{Database, eventually_within};
use tokio_util::sync::CancellationToken;
use workers::{Config, Pool};

const LETTERS: i64 = 3_000;
const LETTERS_SETTING: &str = "REDRIVE_LETTERS";
const CANARY: i32 = 10;
const WORKERS: usize = 2;

/// At which parts of the way all workers are killed.
const KILLED_AT: [i64; 3] = [20, 45, 70];

/// Where the worker processes find the database.
const DATABASE: &str = "REDRIVE_DATABASE";

/// Mends what is broken, if the part is there; leaves a line for each job that did.
#[derive(Debug, Serialize, Deserialize)]
struct Mend {
    part: String,
}

impl Job for Mend {
    type Services = ();
    const KIND: &'static str = "mend";
    const QUEUE: &'static str = "mending";

    async fn run(self, attempt: &Attempt, (): &()) -> anyhow::Result<Outcome> {
        let mut tx = attempt.begin().await?;
        let is_missing: bool = sqlx::query_scalar("select exists (select from missing where part = $1)")
            .bind(&self.part)
            .fetch_one(&mut *tx)
            .await?;
        if is_missing {
            let message = format!("no {} for order {}", self.part, attempt.job_id);
            return Err(Failure::permanent("missing", message).into());
        }
        sqlx::query("insert into mended (job_id) values ($1)")
            .bind(attempt.job_id)
            .execute(&mut *tx)
            .await?;
        tx.done().await
    }
}

/// No test: this executable again, as a worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a worker process, which the test starts and kills"]
async fn a_worker_process() {
    let Ok(url) = std::env::var(DATABASE) else { return };
    let config = Config {
        name: "mender".to_owned(),
        pools: vec![Pool::of(Mend::QUEUE)],
        slots: 16,
        lease: Duration::from_secs(15),
        shutdown_grace: Duration::from_secs(1),
        build: "test".to_owned(),
        health: None,
        poll_only: false,
    };
    let catalogue = Catalogue::new().with::<Mend>();
    let stop = CancellationToken::new();
    workers::run_with(
        config,
        url.parse().unwrap(),
        catalogue,
        workers::Defaults::default(),
        Arc::new(()),
        stop,
    )
    .await
    .unwrap();
}

/// Worker processes; killed when dropped.
struct Menders(Vec<Child>);

impl Menders {
    fn start(url: &str) -> Self {
        let start = |_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "redrive::a_worker_process", "--ignored", "--nocapture"])
                .env(DATABASE, url)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        };
        Self((0..WORKERS).map(start).collect())
    }
}

impl Drop for Menders {
    /// kill -9, whatever they are at.
    fn drop(&mut self) {
        for child in &mut self.0 {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// A third of the letters each for want of one part; one in five belongs to a group.
async fn a_heap_of_letters(pool: &PgPool, letters: i64) {
    sqlx::raw_sql(
        "create table missing (part text primary key);
         create table mended (seq bigint generated always as identity, job_id bigint not null);
         insert into missing values ('brake');",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::query(
        "insert into queue.dead_letters (id, queue, kind, args_version, args, priority, fence, attempt, attempts_max, group_key,
                                         reason, error_class, error_code, message, report, created_at)
         select nextval('queue.jobs_id_seq'), 'mending', 'mend', 1, jsonb_build_object('part', p.part), 0, 1, 1, 20,
                case when n % 5 = 0 then 'bicycle-' || n % 50 end,
                'permanent', 'permanent', 'missing', 'no ' || p.part || ' for order ' || n,
                jsonb_build_object('attempts', jsonb_build_array(jsonb_build_object('n', 1))), clock_timestamp()
         from generate_series(1, $1) n
         cross join lateral (select (array['axle', 'brake', 'chain'])[1 + n % 3] as part) p",
    )
    .bind(letters)
    .execute(pool)
    .await
    .unwrap();
    sqlx::query("analyze queue.dead_letters").execute(pool).await.unwrap();
}

async fn see(pool: &PgPool, id: i64) -> CampaignView {
    campaign::campaign(&mut pool.acquire().await.unwrap(), id)
        .await
        .unwrap()
        .unwrap()
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_campaign_finishes_what_is_mended_and_halts_what_is_not_whoever_is_killed() {
    let letters: i64 = std::env::var(LETTERS_SETTING).map_or(LETTERS, |text| text.parse().unwrap());
    let db = Database::new().await;
    let pool = &db.pool;
    a_heap_of_letters(pool, letters).await;
    let brakes = count(
        pool,
        "select count(*) from queue.dead_letters where args ->> 'part' = 'brake'",
    )
    .await;

    let plan = Plan {
        selection: Selection {
            kind: Some(Mend::KIND.to_owned()),
            ..Selection::default()
        },
        canary: CANARY,
        per_second: 10_000.0,
        in_flight_max: 1000,
        ..Plan::default()
    };
    let catalogue = Catalogue::new().with::<Mend>();
    let asked = Instant::now();
    let conn = &mut *pool.acquire().await.unwrap();
    let id = campaign::start(conn, &catalogue, &plan, "ann", "two of the parts are here")
        .await
        .unwrap();
    let frozen_in = asked.elapsed();

    let started = Instant::now();
    let patience = Duration::from_secs(90 + letters.unsigned_abs() / 50);
    let mut menders = Menders::start(&db.url);
    for part in KILLED_AT {
        eventually_within(patience, "the campaign to get on", || async {
            let view = see(pool, id).await;
            assert!(view.ended_at.is_none(), "over before anything was killed: {view:?}");
            (view.counts.completed * 100 >= letters * part * 2 / 3).then_some(())
        })
        .await;
        // The runner is one of them.
        drop(menders);
        menders = Menders::start(&db.url);
    }
    let view = eventually_within(patience, "the campaign to end", || async {
        Some(see(pool, id).await).filter(|view| view.ended_at.is_some())
    })
    .await;
    let took = started.elapsed();

    assert_eq!(view.state, "halted", "{view:?}");
    assert_eq!(view.counts.completed, letters - brakes, "{view:?}");
    assert_eq!(view.counts.died, i64::from(CANARY), "{view:?}");
    assert_eq!(view.counts.waiting, brakes - i64::from(CANARY));
    assert_eq!((view.counts.in_flight, view.counts.skipped), (0, 0));
    for cause in &view.causes {
        let is_mended = !cause.pattern.contains("brake");
        assert_eq!(cause.state, if is_mended { "finished" } else { "halted" }, "{cause:?}");
    }
    // Each that was mended, exactly once; of the others no more was tried than the canary, and nothing twice.
    assert_eq!(count(pool, "select count(*) from mended").await, letters - brakes);
    assert_eq!(
        count(pool, "select count(distinct job_id) from mended").await,
        letters - brakes
    );
    assert_eq!(count(pool, "select count(*) from queue.dead_letters").await, brakes);
    assert_eq!(
        count(
            pool,
            "select count(*) from queue.dead_letters where report -> 'redrives' is not null and report -> 'redrives' <> '[]'"
        )
        .await,
        i64::from(CANARY)
    );
    assert_eq!(
        count(
            pool,
            "select coalesce(max(jsonb_array_length(report -> 'redrives')), 0)::bigint from queue.dead_letters"
        )
        .await,
        1
    );
    let out_of_order = "select count(*) from (
             select m.job_id, lag(m.job_id) over (partition by f.group_key order by m.seq) as before
             from mended m join queue.finished_jobs f on f.id = m.job_id where f.group_key is not null
         ) o where o.before > o.job_id";
    assert_eq!(count(pool, out_of_order).await, 0);
    assert_eq!(count(pool, "select count(*) from queue.turns").await, 0);
    println!(
        "{letters} letters frozen in {:.1} s; {} redriven and completed in {:.1} s ({:.0}/s) with {} killings of {WORKERS} workers; \
         the cause that is not mended halted after {} of {brakes}",
        frozen_in.as_secs_f64(),
        view.counts.completed,
        took.as_secs_f64(),
        view.counts.completed as f64 / took.as_secs_f64(),
        KILLED_AT.len(),
        view.counts.died,
    );
}
