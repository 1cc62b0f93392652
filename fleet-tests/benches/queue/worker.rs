//! Worker processes: this executable again, told to work.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use workers::{Config, Pool};

use crate::kinds;
use crate::server::Server;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    url: String,
    #[arg(long)]
    queue: String,
    #[arg(long)]
    slots: usize,
}

/// Works until killed.
pub(crate) async fn run(args: &Args) {
    let config = Config {
        name: "bench".to_owned(),
        pools: vec![Pool::of(&args.queue)],
        slots: args.slots,
        lease: Duration::from_secs(15),
        shutdown_grace: Duration::from_secs(10),
        build: "bench".to_owned(),
        health: None,
        poll_only: false,
    };
    let stop = CancellationToken::new();
    let database = args.url.parse().unwrap();
    workers::run_with(
        config,
        database,
        kinds::catalogue(),
        workers::Defaults::default(),
        Arc::new(()),
        stop,
    )
    .await
    .unwrap();
}

/// Worker processes that serve a queue; killed when dropped.
pub(crate) struct Workers {
    children: Vec<Child>,
}

impl Workers {
    /// Starts that many and waits until they are registered.
    pub(crate) async fn start(server: &Server, queue: &str, processes: usize, slots: usize) -> Self {
        let children = (0..processes)
            .map(|_| {
                Command::new(std::env::current_exe().unwrap())
                    .args([
                        "worker",
                        "--url",
                        &server.url,
                        "--queue",
                        queue,
                        "--slots",
                        &slots.to_string(),
                    ])
                    .stdin(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let workers = Self { children };
        loop {
            let registered: i64 = sqlx::query_scalar("select count(*) from queue.workers")
                .fetch_one(&server.pool)
                .await
                .unwrap();
            if registered == processes as i64 {
                return workers;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the processes have used so far, in seconds of user and system time.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.children.iter().map(cpu_seconds).sum()
    }

    /// Kills them, and takes their rows away.
    pub(crate) async fn end(mut self, server: &Server) {
        self.kill();
        server.execute("delete from queue.workers").await;
    }

    fn kill(&mut self) {
        for child in &mut self.children {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a process has used so far, in seconds of user and system time.
pub(crate) fn cpu_seconds(child: &Child) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    // The name, in brackets, may hold spaces; user and system time are the 12th and 13th field after it.
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    (fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)) / TICKS_PER_SECOND
}
