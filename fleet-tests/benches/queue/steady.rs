//! An hour like any other: a steady load over a long history, without and with a session that pins the horizon.
//!
//! What is measured is the claim, by the worker's own histogram. A pinned snapshot keeps every row that is deleted meanwhile
//! from being vacuumed, and the head of a line is where rows are deleted.

use std::sync::Arc;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::kinds;
use crate::latency::{config, drained, offer, percentile};
use crate::server::Server;
use crate::table::{Row, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many jobs lie in the history.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(i64).range(0..=100_000_000))]
    history: i64,
    /// How long each run takes.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Jobs a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// How many slots the worker has.
    #[arg(long, default_value_t = 256)]
    slots: usize,
}

pub(crate) async fn run(args: &Args, rounds: u32) -> Table {
    let recorder = DebuggingRecorder::new();
    let claims = recorder.snapshotter();
    recorder.install().unwrap();
    let server = Server::start().await;
    fill_history(&server, args.history).await;
    let mut table = Table::default();
    for _ in 0..rounds {
        let without = one(&server, args, &claims, false).await;
        let mut with = one(&server, args, &claims, true).await;
        with.ratio_to_limit = with.p99_ms.zip(without.p99_ms).map(|(with, without)| with / without);
        table.add(without);
        table.add(with);
    }
    table
}

async fn one(server: &Server, args: &Args, claims: &Snapshotter, is_pinned: bool) -> Row {
    server.clean_line().await;
    let stop = CancellationToken::new();
    let worker = tokio::spawn(workers::run_with(
        config(args.slots),
        server.url.parse().unwrap(),
        kinds::catalogue(),
        workers::Defaults::default(),
        Arc::new(()),
        stop.clone(),
    ));
    let mut other = PgConnection::connect(&server.url).await.unwrap();
    let mut pin = other.begin().await.unwrap();
    if is_pinned {
        sqlx::raw_sql("set transaction isolation level repeatable read; select count(*) from queue.workers")
            .execute(&mut *pin)
            .await
            .unwrap();
    }
    _ = claim_times(claims);
    let (wal, time) = (server.wal_bytes().await, Duration::from_secs(args.seconds));
    let sent = offer(server, Some(f64::from(args.rate)), time).await.len() as f64;
    drained(server).await;
    let mut took = claim_times(claims);
    let wal = (server.wal_bytes().await - wal) / sent;
    // The server's own count lags; this one does not.
    let dead = server.dead_rows("queue.jobs").await;
    pin.rollback().await.unwrap();
    stop.cancel();
    worker.await.unwrap().unwrap();
    took.sort_by(f64::total_cmp);
    Row {
        case: format!("{}M of history", args.history / 1_000_000),
        subject: if is_pinned { "a claim, pinned" } else { "a claim" }.to_owned(),
        processes: 1,
        jobs_per_s: Some(sent / time.as_secs_f64()),
        p50_ms: Some(percentile(&took, 0.5)),
        p99_ms: Some(percentile(&took, 0.99)),
        wal_bytes_per_job: Some(wal),
        dead_rows: Some(dead),
        ..Row::default()
    }
}

async fn fill_history(server: &Server, jobs: i64) {
    sqlx::query(
        "insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, created_at)
         select -n, 'kept', 'kept', 1, jsonb_build_object('n', n), 'completed', 1, 1, clock_timestamp()
         from generate_series(1, $1) n",
    )
    .bind(jobs)
    .execute(&server.pool)
    .await
    .unwrap();
    server.execute("vacuum analyze queue.finished_jobs").await;
    server.execute("checkpoint").await;
}

/// The claims since the last call, in milliseconds.
fn claim_times(claims: &Snapshotter) -> Vec<f64> {
    claims
        .snapshot()
        .into_vec()
        .into_iter()
        .filter(|(key, ..)| key.key().name() == "queue_claim_seconds")
        .flat_map(|(_, _, _, value)| match value {
            DebugValue::Histogram(values) => values.into_iter().map(|value| value.into_inner() * 1000.0).collect(),
            _ => Vec::new(),
        })
        .collect()
}
