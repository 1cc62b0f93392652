//! Other queues on the same server: each from its own package, set up by `fleet-tests/peers/setup`.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::drain;
use crate::limit;
use crate::server::Server;
use crate::table::{Row, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    drain: drain::Args,
    /// Which of them; those that are not set up are left out, and it is said so.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "graphile_worker,awa,apalis-postgres,graphile-worker,pg-boss,pgqueuer"
    )]
    peers: Vec<String>,
}

pub(crate) async fn run(args: &Args, rounds: u32) -> Table {
    let server = Server::start().await;
    let mut table = Table::default();
    for _ in 0..rounds {
        let limit = limit::drain(&server, args.drain.jobs).await;
        table.add(limit::row(&args.drain.case(), limit));
        for &processes in &args.drain.processes {
            drain::ours(&server, &args.drain, processes, limit, &mut table).await;
            for peer in &args.peers {
                server.clean().await;
                if let Some(row) = peer_drain(&server, peer, &args.drain, processes, limit).await {
                    table.add(row);
                }
            }
        }
    }
    table
}

/// One run of a peer in a database of its own; none when it is not set up or fails, which it says itself.
async fn peer_drain(server: &Server, peer: &str, args: &drain::Args, processes: usize, limit: f64) -> Option<Row> {
    server.execute("drop database if exists peer with (force)").await;
    server.execute("create database peer").await;
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/run");
    let output = Command::new(run)
        .args([peer, "drain", "--url", &server.url_of("peer")])
        .args(["--jobs", &args.jobs.to_string(), "--processes", &processes.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    server.execute("drop database if exists peer with (force)").await;
    let text = String::from_utf8_lossy(&output.stdout);
    let said: Value = match text.lines().last().map(serde_json::from_str) {
        Some(Ok(said)) if output.status.success() => said,
        _ => {
            eprintln!("{peer} is left out: it ended with {}", output.status);
            return None;
        }
    };
    let rate = said["jobs_per_s"].as_f64();
    Some(Row {
        case: args.case(),
        subject: format!("{peer} {}", said["version"].as_str().unwrap_or_default()),
        processes,
        jobs_per_s: rate,
        ratio_to_limit: rate.map(|rate| rate / limit),
        cpu_s_per_100k: said["cpu_s"]
            .as_f64()
            .map(|seconds| seconds / args.jobs as f64 * 100_000.0),
        ..Row::default()
    })
}
