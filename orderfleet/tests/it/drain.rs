//! `orderfleet drain`, as a pipeline waits for it.

use std::process::Stdio;

use testkit::Database;

use crate::operator::{command, said};

async fn enqueue(db: &Database, sql: &'static str) {
    sqlx::query(sql).execute(&db.pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_until_nothing_is_due_or_says_what_is_left() {
    let db = Database::new().await;
    enqueue(
        &db,
        "select queue.enqueue('stock', 'reserve_stock', '{}', p_run_at => clock_timestamp() + interval '1 hour')",
    )
    .await;
    assert_eq!(
        said(&db, &["drain", "--timeout", "0"]),
        "",
        "what is due later is not waited for"
    );

    enqueue(&db, "select queue.enqueue('stock', 'reserve_stock', '{}')").await;
    said(&db, &["queues", "pause", "stock", "--reason", "stocktaking"]);
    let output = command(&db, &["drain", "--timeout", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "1 reserve_stock in stock: due (paused: stocktaking)\n"
    );

    let mut waiting = command(&db, &["drain", "--timeout", "60"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    said(&db, &["jobs", "cancel", "2", "--reason", "not needed"]);
    assert!(waiting.wait().unwrap().success());
}
