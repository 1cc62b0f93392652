//! How soon a job starts, and how soon its end is written, while others are offered at a steady rate.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use workers::{Config, Pool};

use crate::kinds::{self, Kept, STARTED};
use crate::server::Server;
use crate::table::{Row, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each rate is kept up.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Rates besides 10/s and a half and nine tenths of what enqueueing and working at once come to.
    #[arg(long, value_delimiter = ',')]
    rates: Vec<u32>,
    /// How many slots the worker has.
    #[arg(long, default_value_t = 64)]
    slots: usize,
}

/// Connections that enqueue.
const SENDERS: u32 = 8;

pub(crate) async fn run(args: &Args, rounds: u32) -> Table {
    let server = Server::start().await;
    let (sender, mut started) = tokio::sync::mpsc::unbounded_channel();
    STARTED.set(sender).unwrap();
    let stop = CancellationToken::new();
    let worker = tokio::spawn(workers::run_with(
        config(args.slots),
        server.url.parse().unwrap(),
        kinds::catalogue(),
        workers::Defaults::default(),
        Arc::new(()),
        stop.clone(),
    ));
    let mut table = Table::default();
    for _ in 0..rounds {
        server.clean().await;
        let capacity = offer(&server, None, Duration::from_secs(5)).await.len() as f64 / 5.0;
        drained(&server).await;
        while started.try_recv().is_ok() {}
        table.add(Row {
            case: "capacity".to_owned(),
            subject: "ours".to_owned(),
            processes: 1,
            jobs_per_s: Some(capacity),
            ..Row::default()
        });
        let mut rates = vec![
            ("10/s".to_owned(), 10.0),
            ("half".to_owned(), capacity * 0.5),
            ("nine tenths".to_owned(), capacity * 0.9),
        ];
        rates.extend(args.rates.iter().map(|rate| (format!("{rate}/s"), f64::from(*rate))));
        for (case, rate) in rates {
            server.clean().await;
            let sent = offer(&server, Some(rate), Duration::from_secs(args.seconds)).await;
            drained(&server).await;
            let mut waits = Vec::new();
            while let Ok((n, at)) = started.try_recv() {
                waits.push((at - sent[&n]).as_secs_f64() * 1000.0);
            }
            assert_eq!(waits.len(), sent.len(), "every job starts once");
            let subjects = [("ours, to its start", waits), ("ours, to its end", ends(&server).await)];
            for (subject, mut waits) in subjects {
                waits.sort_by(f64::total_cmp);
                table.add(Row {
                    case: case.clone(),
                    subject: subject.to_owned(),
                    processes: 1,
                    jobs_per_s: Some(sent.len() as f64 / args.seconds as f64),
                    p50_ms: Some(percentile(&waits, 0.5)),
                    p99_ms: Some(percentile(&waits, 0.99)),
                    ..Row::default()
                });
            }
        }
    }
    stop.cancel();
    worker.await.unwrap().unwrap();
    table
}

pub(crate) fn config(slots: usize) -> Config {
    Config {
        name: "bench".to_owned(),
        pools: vec![Pool::of("kept")],
        slots,
        lease: Duration::from_secs(15),
        shutdown_grace: Duration::from_secs(10),
        build: "bench".to_owned(),
        health: None,
        poll_only: false,
    }
}

/// Enqueues at that rate, or as fast as can be, each job in a transaction of its own; returns when each was sent.
pub(crate) async fn offer(server: &Server, rate: Option<f64>, time: Duration) -> HashMap<i64, Instant> {
    let next = Arc::new(AtomicI64::new(0));
    let began = Instant::now();
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        let mut conn = PgConnection::connect(&server.url).await.unwrap();
        let next = Arc::clone(&next);
        senders.push(tokio::spawn(async move {
            let mut sent = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let due = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(n as f64 / rate));
                if due > time || began.elapsed() > time {
                    return sent;
                }
                tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
                let mut tx = conn.begin().await.unwrap();
                let sent_at = Instant::now();
                queue::enqueue(&mut tx, &Kept { n }).await.unwrap();
                tx.commit().await.unwrap();
                sent.push((n, sent_at));
            }
        }));
    }
    let mut sent = HashMap::new();
    for sender in senders {
        sent.extend(sender.await.unwrap());
    }
    sent
}

pub(crate) async fn drained(server: &Server) {
    let is_left = "select exists (select from queue.claims) or exists (select from queue.jobs)";
    while sqlx::query_scalar(is_left).fetch_one(&server.pool).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// From a job's row to the row of its end, both by the server's clock; the commit of the latter is not in it.
async fn ends(server: &Server) -> Vec<f64> {
    sqlx::query_scalar("select extract(epoch from finished_at - created_at)::float8 * 1000 from queue.finished_jobs")
        .fetch_all(&server.pool)
        .await
        .unwrap()
}

pub(crate) fn percentile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}
