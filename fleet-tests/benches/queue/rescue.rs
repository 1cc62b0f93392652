//! How soon a job starts elsewhere after something has befallen its worker.

use std::process::Command;
use std::time::Duration;

use crate::holder::{Blow, Holder, begun_at, enqueue, keep_busy, make_tables, server_is_older_than};
use crate::latency::percentile;
use crate::server::Server;
use crate::table::{Row, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many workers each blow falls on, in each round.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    blows: u32,
    /// The lease of the workers, in seconds.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    lease: u64,
}

/// What befalls the worker, whether the other one has a job of its own then, and what the times are counted from.
const CASES: [(Blow, bool, &str, &str); 5] = [
    (Blow::Kill, false, "SIGKILL", "from the blow"),
    (Blow::Kill, true, "SIGKILL, the other busy", "from the blow"),
    (Blow::Terminate, false, "SIGTERM", "from the blow"),
    (Blow::Freeze, false, "SIGSTOP", "beyond the lease"),
    (Blow::CutOff, false, "cut off", "beyond the lease"),
];

/// Each job is alone with its worker, or nearly so; the other worker takes it over.
pub(crate) async fn run(args: &Args, rounds: u32) -> Table {
    let lease = Duration::from_secs(args.lease);
    let server = Server::start().await;
    make_tables(&server.pool).await;
    server_is_older_than(&server.pool, lease).await;
    let mut table = Table::default();
    for _ in 0..rounds {
        for (blow, is_other_busy, case, since) in CASES {
            let mut times = Vec::new();
            for _ in 0..args.blows {
                let taken = time_to_start_elsewhere(&server, blow, is_other_busy, lease).await;
                times.push(match since {
                    "beyond the lease" => taken - lease.as_secs_f64() * 1000.0,
                    _ => taken,
                });
            }
            times.sort_by(f64::total_cmp);
            table.add(Row {
                case: case.to_owned(),
                subject: since.to_owned(),
                processes: 2,
                p50_ms: Some(percentile(&times, 0.5)),
                p99_ms: Some(percentile(&times, 0.99)),
                ..Row::default()
            });
        }
    }
    table
}

/// In milliseconds, by the server's clock.
async fn time_to_start_elsewhere(server: &Server, blow: Blow, is_other_busy: bool, lease: Duration) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let struck = start("struck", server, lease).await;
    let job = enqueue(&server.pool, &gate, false).await;
    begun_at(&server.pool, job, struck.id(&server.pool).await.unwrap()).await;
    let other = start("other", server, lease).await;
    let other_id = other.id(&server.pool).await.unwrap();
    if matches!(blow, Blow::Freeze | Blow::CutOff) {
        has_had_contact_for(server, other_id, lease).await;
    }
    if is_other_busy {
        keep_busy(&server.pool, other_id, &gate).await;
    }

    let struck_at: f64 = sqlx::query_scalar("select extract(epoch from clock_timestamp())::float8 * 1000")
        .fetch_one(&server.pool)
        .await
        .unwrap();
    struck.strike(blow);
    begun_at(&server.pool, job, other_id).await;
    let begun: f64 = sqlx::query_scalar(
        "select extract(epoch from at)::float8 * 1000 from begun where job_id = $1 and worker_id = $2",
    )
    .bind(job)
    .bind(other_id)
    .fetch_one(&server.pool)
    .await
    .unwrap();
    drop((struck, other));
    server.clean().await;
    server.execute("delete from queue.workers").await;
    server.execute("delete from queue.losses").await;
    begun - struck_at
}

/// Nobody declares others silent before it has had contact with the database for a lease itself.
async fn has_had_contact_for(server: &Server, worker: i64, lease: Duration) {
    let has = "select started_at < clock_timestamp() - $2::interval from queue.workers where id = $1";
    while !sqlx::query_scalar::<_, bool>(has)
        .bind(worker)
        .bind(lease + Duration::from_secs(1))
        .fetch_one(&server.pool)
        .await
        .unwrap()
    {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn start(name: &'static str, server: &Server, lease: Duration) -> Holder {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("holder");
    Holder::start(command, name, &server.url, lease, &server.pool).await
}
