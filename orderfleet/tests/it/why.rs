//! `orderfleet why`, as an operator types it and pastes what it says.

use clap::Parser;
use orderfleet::cli::Cli;
use queue::JobId;
use queue::limit::Limit;
use queue::why::Remedy;
use testkit::Database;

use crate::operator::{refusal, said};

#[tokio::test(flavor = "multi_thread")]
async fn what_it_says_can_be_pasted() {
    let db = Database::new().await;
    sqlx::query(
        "select queue.enqueue('stock', 'reserve_stock', '{}', p_run_at => clock_timestamp() + interval '1 hour')",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    said(&db, &["queues", "pause", "stock", "--reason", "stocktaking"]);
    let why = said(&db, &["why", "1"]);
    assert!(why.starts_with("reserve_stock 1 in stock: scheduled\n"), "{why}");
    assert!(
        why.contains("  - the queue stock is paused: stocktaking (ann)\n"),
        "{why}"
    );
    let remedies: Vec<&str> = why
        .lines()
        .filter_map(|line| line.trim().strip_prefix("$ orderfleet "))
        .collect();
    assert_eq!(
        remedies,
        [
            "queues resume stock --reason mended",
            "worker --pool stock",
            "jobs run 1 --reason mended"
        ]
    );
    for remedy in [remedies[0], remedies[2]] {
        said(&db, &remedy.split(' ').collect::<Vec<_>>());
    }
    let why: serde_json::Value = serde_json::from_str(&said(&db, &["why", "1", "--json"])).unwrap();
    assert_eq!(
        why["causes"].as_array().unwrap().len(),
        1,
        "only a worker is missing: {why:#}"
    );
    assert_eq!(why["causes"][0]["code"], "no_worker");
    assert_eq!(
        said(&db, &["jobs", "run", "1", "--reason", "again"]),
        "job 1 was due already\n"
    );

    assert!(refusal(&db, &["why", "7"]).contains("there has never been a job 7: the last is 1"));
    assert!(refusal(&db, &["why", "mug"]).contains("neither a job's number nor an order's id"));
    let nobody = "01990b2e-7c41-7d2a-9d0c-6f3f5e2a1b77";
    assert!(refusal(&db, &["why", nobody]).contains(&format!("there is no order {nobody}")));
    assert!(refusal(&db, &["jobs", "run", "7", "--reason", "now"]).contains("making job 7 due"));
}

#[test]
fn every_remedy_is_a_command() {
    let remedies = [
        Remedy::ResumeQueue("stock".to_owned()),
        Remedy::ResumeKind("reserve_stock".to_owned()),
        Remedy::RunNow(JobId(7)),
        Remedy::StartWorker("stock".to_owned()),
        Remedy::SetSlots("stock".to_owned(), 8),
        Remedy::Redrive(JobId(7)),
        Remedy::Cancel(JobId(7)),
        Remedy::ResumeCampaign(7),
        Remedy::SetLimit("endpoint/7".to_owned(), Limit::concurrency(8)),
        Remedy::SetLimit("gateway".to_owned(), Limit::rate(5.0, 11)),
        Remedy::CloseBreaker("gateway".to_owned()),
    ];
    for remedy in remedies {
        let command = remedy.to_string();
        let parsed = Cli::try_parse_from(command.split(' '));
        assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
    }
}
