//! The hot statements use their indexes under a generic plan too, where the planner knows neither the queue nor the limit.

use sqlx::{Connection, PgConnection};
use testkit::Database;

#[tokio::test]
async fn hot_statements_use_their_indexes_under_a_generic_plan() {
    let db = Database::new().await;
    sqlx::raw_sql(
        "insert into queue.workers (name, pools, build, host, pid, backend_pid, backend_start, lease_until)
         values ('w', '{stage}', '', '', 0, 0, now(), now());
         insert into queue.jobs (queue, kind, args, run_at)
         select 'stage', 'act', '{}', clock_timestamp() + make_interval(secs => n - 10000) from generate_series(1, 30000) n;
         insert into queue.jobs (queue, kind, args, state, worker_id)
         select 'stage', 'act', '{}', 'running', 1 from generate_series(1, 50) n;
         analyze queue.jobs;",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    let statements: Vec<(&str, String)> = hot_statements();
    let mut conn = PgConnection::connect(&db.url).await.unwrap();
    sqlx::query("set plan_cache_mode = force_generic_plan")
        .execute(&mut conn)
        .await
        .unwrap();
    for (name, statement) in statements {
        let plan = explain(&mut conn, &statement).await;
        assert!(!plan.contains("Seq Scan on jobs "), "{name} scans the table:\n{plan}");
        assert!(
            !plan.contains("Sort Key: c.rank"),
            "{name} sorts what the index has in order:\n{plan}"
        );
    }
}

/// The statements as the sources have them, so that the test cannot drift away from the code.
fn hot_statements() -> Vec<(&'static str, String)> {
    let sources = [
        ("claim", include_str!("../../src/claim.rs")),
        ("finish", include_str!("../../src/finish.rs")),
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
    assert!(found.len() >= 8, "{}", found.len());
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
