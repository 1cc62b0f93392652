//! Puts jobs into a queue: ours against a bare insert and a bare COPY.

use std::time::Instant;

use sqlx::{Connection, PgConnection};

use crate::kinds::Kept;
use crate::limit;
use crate::server::Server;
use crate::table::{Row, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many jobs one by one, each in a transaction of its own; in bulk ten times as many.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(i64).range(1000..=1_000_000))]
    jobs: i64,
    /// From how many connections, one by one.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(i64).range(1..=64))]
    connections: i64,
}

/// Jobs a statement, in bulk.
const BULK: i64 = 10_000;

pub(crate) async fn run(args: &Args, rounds: u32) -> Table {
    let server = Server::start().await;
    let mut table = Table::default();
    for _ in 0..rounds {
        let bare = one_by_one(&server, args, Way::Bare).await;
        let ours = one_by_one(&server, args, Way::Ours).await;
        let single = |subject: &str, rate: f64| row("one by one", subject, rate, rate / bare);
        table.add(single("limit", bare));
        table.add(single("ours", ours));

        let copied = copy(&server, args.jobs * 10).await;
        let ours = bulk(&server, args.jobs * 10).await;
        let bulk = |subject: &str, rate: f64| row("bulk", subject, rate, rate / copied);
        table.add(bulk("limit", copied));
        table.add(bulk("ours", ours));
    }
    table
}

fn row(case: &str, subject: &str, rate: f64, ratio: f64) -> Row {
    Row {
        case: case.to_owned(),
        subject: subject.to_owned(),
        processes: 1,
        jobs_per_s: Some(rate),
        ratio_to_limit: Some(ratio),
        ..Row::default()
    }
}

#[derive(Clone, Copy)]
enum Way {
    Bare,
    Ours,
}

async fn one_by_one(server: &Server, args: &Args, way: Way) -> f64 {
    limit::bare_table(server).await;
    server.clean().await;
    let share = args.jobs / args.connections;
    let mut connections = Vec::new();
    for _ in 0..args.connections {
        connections.push(PgConnection::connect(&server.url).await.unwrap());
    }
    let started = Instant::now();
    let senders: Vec<_> = connections
        .into_iter()
        .map(|mut conn| {
            tokio::spawn(async move {
                for n in 0..share {
                    let mut tx = conn.begin().await.unwrap();
                    match way {
                        Way::Ours => _ = queue::enqueue(&mut tx, &Kept { n }).await.unwrap(),
                        Way::Bare => {
                            let args = serde_json::json!({ "n": n });
                            let insert = "insert into bench.bare (queue, kind, args) values ($1, $2, $3) returning id";
                            _ = sqlx::query_scalar::<_, i64>(insert)
                                .bind("bare")
                                .bind("bare")
                                .bind(args)
                                .fetch_one(&mut *tx)
                                .await
                                .unwrap();
                        }
                    }
                    tx.commit().await.unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    (share * args.connections) as f64 / started.elapsed().as_secs_f64()
}

async fn bulk(server: &Server, jobs: i64) -> f64 {
    limit::bare_table(server).await;
    server.clean().await;
    let mut conn = PgConnection::connect(&server.url).await.unwrap();
    let started = Instant::now();
    for first in (0..jobs).step_by(BULK as usize) {
        let jobs: Vec<Kept> = (first..first + BULK).map(|n| Kept { n }).collect();
        queue::enqueue_many(&mut conn, &jobs).await.unwrap();
    }
    jobs as f64 / started.elapsed().as_secs_f64()
}

async fn copy(server: &Server, jobs: i64) -> f64 {
    limit::bare_table(server).await;
    server.clean().await;
    let mut conn = PgConnection::connect(&server.url).await.unwrap();
    let started = Instant::now();
    for first in (0..jobs).step_by(BULK as usize) {
        let mut rows = String::new();
        for n in first..first + BULK {
            rows += &format!("bare\tbare\t{{\"n\": {n}}}\n");
        }
        let mut copy = conn
            .copy_in_raw("copy bench.bare (queue, kind, args) from stdin")
            .await
            .unwrap();
        copy.send(rows.as_bytes()).await.unwrap();
        copy.finish().await.unwrap();
    }
    jobs as f64 / started.elapsed().as_secs_f64()
}
