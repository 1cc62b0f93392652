//! The hot statements use their indexes under a generic plan too, where the planner knows neither the queue nor the limit.

use sqlx::{Connection, PgConnection};
use testkit::Database;

/// A worker, a long line, more that is scheduled, and fifty jobs in flight.
async fn a_long_line(db: &Database) -> PgConnection {
    sqlx::raw_sql(
        "insert into queue.workers (name, pools, build, host, pid, backend_pid, backend_start, lease_until)
         values ('w', '{stage}', '', '', 0, 0, now(), now());
         insert into queue.jobs (queue, kind, args, run_at, rank)
         select 'stage', 'act', '{}', t, queue.rank(t, 0) from generate_series(1, 30000) n, make_interval(secs => n - 10000) i,
                lateral (select clock_timestamp() + i as t) d;
         select count(*) from queue.claim('stage', '{act}', '{1}', (select id from queue.workers), 50);
         analyze queue.jobs;
         analyze queue.claims;",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    PgConnection::connect(&db.url).await.unwrap()
}

#[tokio::test]
async fn hot_statements_use_their_indexes_under_a_generic_plan() {
    let db = Database::new().await;
    let mut conn = a_long_line(&db).await;
    sqlx::query("set plan_cache_mode = force_generic_plan")
        .execute(&mut conn)
        .await
        .unwrap();
    for (name, statement) in hot_statements() {
        let plan = explain(&mut conn, &statement).await;
        assert!(!plan.contains("Seq Scan on jobs "), "{name} scans the table:\n{plan}");
        assert!(
            !plan.contains("Sort Key: c.rank"),
            "{name} sorts what the index has in order:\n{plan}"
        );
    }
}

#[tokio::test]
async fn a_claim_reads_no_more_of_the_line_than_it_takes() {
    let db = Database::new().await;
    let mut conn = a_long_line(&db).await;
    // Statistics that know nothing must not change that either: a table just loaded has none.
    for preparation in [
        "select 1",
        "delete from pg_statistic where starelid = 'queue.jobs'::regclass",
    ] {
        sqlx::raw_sql(preparation).execute(&mut conn).await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        let before = rows_read(&mut tx).await;
        let claimed: i64 = sqlx::query_scalar(
            "select count(*) from queue.claim('stage', '{act}', '{1}', (select id from queue.workers), 20)",
        )
        .fetch_one(&mut *tx)
        .await
        .unwrap();
        assert_eq!(claimed, 20);
        let after = rows_read(&mut tx).await;
        assert_eq!(after.0, before.0, "scanned, after {preparation}");
        // Once to choose them, once to take them.
        let fetched = after.1 - before.1;
        assert!(fetched <= 2 * 20 + 1, "{fetched} rows read for 20, after {preparation}");
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn a_turn_is_passed_on_past_nothing_that_has_left() {
    let db = Database::new().await;
    sqlx::raw_sql(
        "insert into queue.turns (group_key, holder) values ('g', 1);
         insert into queue.jobs (id, queue, kind, args, rank, group_key, turn)
         select n, 'stage', 'act', '{}', queue.rank(now(), 0), 'g', n = 1 from generate_series(1, 1000) n;
         analyze queue.jobs;",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    // What has left stays in the index for as long as anybody might see it.
    let mut pinned = PgConnection::connect(&db.url).await.unwrap();
    sqlx::raw_sql("begin isolation level repeatable read; select 1")
        .execute(&mut pinned)
        .await
        .unwrap();
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    let mut pages = Vec::new();
    for holder in 1..=500_i64 {
        sqlx::query("delete from queue.jobs where id = $1")
            .bind(holder)
            .execute(&mut conn)
            .await
            .unwrap();
        pages.push(pages_read(&mut conn, &format!("select queue.pass_turns('{{g}}', '{{{holder}}}')")).await);
        let next: i64 = sqlx::query_scalar("select holder from queue.turns")
            .fetch_one(&mut conn)
            .await
            .unwrap();
        assert_eq!(next, holder + 1);
    }
    let (early, late) = (pages[10..20].iter().max(), pages[490..].iter().min());
    // The first ones read catalogues.
    assert!(late.unwrap() < &(early.unwrap() + 100), "{pages:?}");
}

/// How many pages a statement reads, with what it calls.
async fn pages_read(conn: &mut PgConnection, statement: &str) -> i64 {
    let explain = format!("explain (analyze, buffers, format json) {statement}");
    let plan: serde_json::Value = sqlx::query_scalar(sqlx::AssertSqlSafe(explain))
        .fetch_one(conn)
        .await
        .unwrap();
    let pages = |kind: &str| plan[0]["Plan"][kind].as_i64().unwrap();
    pages("Shared Hit Blocks") + pages("Shared Read Blocks")
}

/// How many rows of the line this session has read by scanning, and by an index.
async fn rows_read(conn: &mut PgConnection) -> (i64, i64) {
    sqlx::query_as(
        "select seq_tup_read, idx_tup_fetch from pg_stat_xact_user_tables where relid = 'queue.jobs'::regclass",
    )
    .fetch_one(conn)
    .await
    .unwrap()
}

/// The statements as the sources have them, so that the test cannot drift away from the code.
fn hot_statements() -> Vec<(&'static str, String)> {
    let sources = [
        ("claim", include_str!("../../src/claim.rs")),
        ("finish", include_str!("../../src/finish.rs")),
        ("complete", include_str!("../../src/complete/write.rs")),
    ];
    let mut found = Vec::new();
    for (name, source) in sources {
        for (open, close) in [("r#\"", "\"#"), ("\n        \"", "\",")] {
            for piece in source.split(open).skip(1) {
                let statement = piece.split(close).next().unwrap_or_default();
                if statement.contains("queue.jobs")
                    && ["update", "with", "select"]
                        .iter()
                        .any(|verb| statement.starts_with(verb))
                {
                    found.push((name, statement.to_owned()));
                }
            }
        }
    }
    assert!(found.len() >= 3, "{}", found.len());
    found
}

async fn explain(conn: &mut PgConnection, statement: &str) -> String {
    // Nulls for the parameters: a generic plan does not look at them.
    let parameters = (1..=9).filter(|n| statement.contains(&format!("${n}"))).count();
    let nulls = vec!["null"; parameters].join(", ");
    let arguments = if nulls.is_empty() {
        String::new()
    } else {
        format!("({nulls})")
    };
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("prepare hot as {statement}")))
        .execute(&mut *conn)
        .await
        .expect(statement);
    let lines: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("explain execute hot{arguments}")))
        .persistent(false)
        .fetch_all(&mut *conn)
        .await
        .unwrap();
    sqlx::raw_sql("deallocate hot").execute(conn).await.unwrap();
    lines.join("\n")
}
