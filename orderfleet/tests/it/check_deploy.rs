//! The deploy gate, as a pipeline runs it: the real executable, and its exit code.

use std::process::{Command, Output};

use serde_json::Value;
use testkit::Database;

async fn check_deploy(db: &Database, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orderfleet"));
    command
        .arg("check-deploy")
        .args(args)
        .env_clear()
        .env("DATABASE_URL", &db.url);
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn a_deploy_that_would_strand_jobs_ends_with_2_and_names_them() {
    let db = Database::new().await;
    let order = r#"{"order_id": "01930000-0000-7000-8000-000000000001"}"#;
    sqlx::query("select queue.enqueue('stock', 'reserve_stock', $1::jsonb)")
        .bind(order)
        .execute(&db.pool)
        .await
        .unwrap();
    let output = check_deploy(&db, &[]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(said(&output), "safe: this build can run all 1 payloads\n");

    sqlx::raw_sql(
        "insert into queue.dead_letters (id, queue, kind, args_version, args, priority, fence, attempt, attempts_max, reason,
                                         error_class, error_code, message, report, created_at)
         values (1000, 'stock', 'juggle_stock', 1, '{}', 0, 1, 1, 1, 'permanent', 'permanent', 'no', '', '{}', now())",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    assert_eq!(check_deploy(&db, &[]).await.status.code(), Some(2));
    let output = check_deploy(&db, &["--allow-dead"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    sqlx::query("select queue.enqueue('stock', 'reserve_stock', '{\"order_id\": 7}')")
        .execute(&db.pool)
        .await
        .unwrap();
    let output = check_deploy(&db, &["--allow-dead"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let words = said(&output);
    assert!(words.contains("undecodable: order_id: "), "{words}");
    assert!(
        words.ends_with("NOT SAFE: 2 of 3 payloads would be stranded\n"),
        "{words}"
    );

    let report: Value = serde_json::from_str(&said(&check_deploy(&db, &["--json"]).await)).unwrap();
    assert_eq!(report["is_safe"], false);
    assert_eq!(report["read"]["due"], 2);
    assert_eq!(report["stranded"][0]["path"], "order_id");
    assert_eq!(report["stranded"][1]["fault"], "unknown_kind");
}

#[tokio::test]
async fn a_check_that_cannot_be_made_ends_with_1() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orderfleet"));
    command
        .arg("check-deploy")
        .env_clear()
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
