//! Ten workers with wrong clocks, and the timetable keeps the database's time.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::postgres::PgPoolOptions;

use crate::fleet::{Fleet, signal};

const WORKERS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// Debian's package libfaketime; `.ci/run` installs it.
fn libfaketime() -> Option<PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let mut libraries = dirs.map(|dir| dir.join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.exists())
}

/// A worker whose wall clock is an hour ahead or behind. Its monotonic clock runs as any machine's does.
fn worker(fleet: &Fleet, library: &std::path::Path, n: usize) -> Child {
    let log = std::fs::File::create(fleet.file(&format!("skewed-{n}.log"))).unwrap();
    fleet
        .command([
            "worker",
            "--pool",
            "maintenance",
            "--slots",
            "1",
            "--name",
            &format!("skewed-{n}"),
        ])
        .env("LD_PRELOAD", library)
        .env("FAKETIME", if n.is_multiple_of(2) { "+1h" } else { "-1h" })
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn ten_workers_with_clocks_wrong_by_an_hour_fire_every_tick_once_and_in_time() {
    let Some(library) = libfaketime() else {
        println!("skipped: there is no libfaketime here; apt-get install libfaketime");
        return;
    };
    let fleet = Fleet::start(&["--no-demo"]);
    let output = std::process::Command::new("sh")
        .args(["-c", r#". "$0" && printf %s "$DATABASE_URL""#])
        .arg(fleet.file("env"))
        .output()
        .unwrap();
    let url = String::from_utf8(output.stdout).unwrap();
    let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();

    // Only the ten keep the timetable from here on: `up` would start what is killed again, so its own are frozen.
    let mut workers: Vec<Child> = (0..WORKERS).map(|n| worker(&fleet, &library, n)).collect();
    let registered = "select count(*) from queue.workers where name like 'skewed-%'";
    until(&pool, registered, WORKERS as i64).await;
    let own: Vec<u32> = fleet
        .pids()
        .into_iter()
        .filter_map(|(role, pid)| role.starts_with("worker").then_some(pid))
        .collect();
    assert!(!own.is_empty());
    for pid in &own {
        signal(*pid, Signal::STOP);
    }

    fleet.run([
        "schedule",
        "add",
        "drill",
        "--kind",
        "prune_unique_keys",
        "--cron",
        "* * * * *",
        "--missed",
        "all",
        "--reason",
        "a drill",
    ]);
    sqlx::query(
        "update queue.schedules set settled_at = settled_at - interval '30 min', next_at = null where name = 'drill'",
    )
    .execute(&pool)
    .await
    .unwrap();
    until(
        &pool,
        "select least(count(*), 30) from queue.ticks where name = 'drill'",
        30,
    )
    .await;
    // One that comes while they look, by the database's clock.
    let last: i64 = sqlx::query_scalar("select count(*) from queue.ticks where name = 'drill'")
        .fetch_one(&pool)
        .await
        .unwrap();
    let grown =
        "select least(count(*), $1) from queue.ticks where name = 'drill'".replace("$1", &(last + 1).to_string());
    until_within(Duration::from_secs(120), &pool, &grown, last + 1).await;

    let wrong: (i64, i64, i64, i64) = sqlx::query_as(
        "with drill as (
             select tick_at, job_id, outcome, fired_at, lag(tick_at) over (order by tick_at) as before from queue.ticks where name = 'drill'
         )
         select count(*) filter (where outcome <> 'fired' or job_id is null),
                count(*) - count(distinct job_id),
                count(*) filter (where tick_at - before <> interval '1 min'),
                count(*) filter (where tick_at > fired_at)
         from drill",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(wrong, (0, 0, 0, 0), "not fired, twice, left out, before its time");
    let late: f64 = sqlx::query_scalar(
        "select extract(epoch from fired_at - tick_at)::float8 from queue.ticks where name = 'drill' order by tick_at desc limit 1",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(late < 30.0, "the last tick fired {late} s late");
    let (ticks, jobs): (i64, i64) = sqlx::query_as(
        "select count(*), count(distinct j.id) from queue.ticks t left join queue.all_jobs j on j.id = t.job_id where t.name = 'drill'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(ticks, jobs);

    for pid in &own {
        signal(*pid, Signal::CONT);
    }
    for (n, worker) in workers.iter_mut().enumerate() {
        signal(worker.id(), Signal::TERM);
        assert!(worker.wait().unwrap().success());
        // The clocks were wrong indeed: the log has them.
        let log = std::fs::read_to_string(fleet.file(&format!("skewed-{n}.log"))).unwrap();
        let now: i64 = sqlx::query_scalar("select extract(epoch from clock_timestamp())::bigint")
            .fetch_one(&pool)
            .await
            .unwrap();
        let stamp = log
            .lines()
            .find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .unwrap();
        let at = stamp["timestamp"].as_str().unwrap();
        let at: i64 = sqlx::query_scalar("select extract(epoch from $1::timestamptz)::bigint")
            .bind(at)
            .fetch_one(&pool)
            .await
            .unwrap();
        assert!((at - now).abs() > 3000, "worker {n} logged {at} at {now}");
    }
    pool.close().await;
}

async fn until(pool: &sqlx::PgPool, count: &str, expected: i64) {
    until_within(PATIENCE, pool, count, expected).await;
}

async fn until_within(patience: Duration, pool: &sqlx::PgPool, count: &str, expected: i64) {
    let start = Instant::now();
    loop {
        let found: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(count))
            .fetch_one(pool)
            .await
            .unwrap();
        if found == expected {
            return;
        }
        assert!(start.elapsed() < patience, "{count}: {found}, not {expected}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
