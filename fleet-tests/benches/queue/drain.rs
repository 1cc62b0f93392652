//! Empties a queue: worker processes against the raw limit.

use std::time::{Duration, Instant};

use crate::limit;
use crate::server::Server;
use crate::table::{Row, Table};
use crate::worker::Workers;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many jobs wait.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(i64).range(1000..=10_000_000))]
    pub(crate) jobs: i64,
    /// How many worker processes.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    pub(crate) processes: Vec<usize>,
    /// How many slots each has.
    #[arg(long, default_value_t = 2000)]
    slots: usize,
}

/// What is measured.
pub(crate) struct Subject {
    pub(crate) kind: &'static str,
    pub(crate) name: &'static str,
    /// It gets the jobs divided by this: a commit each takes its time.
    pub(crate) share: i64,
    /// Over how many groups its jobs are spread; 0 for none.
    pub(crate) groups: i64,
    /// Over how many limit keys.
    pub(crate) limit_keys: i64,
}

impl Subject {
    pub(crate) const fn new(kind: &'static str, name: &'static str) -> Self {
        Self {
            kind,
            name,
            share: 1,
            groups: 0,
            limit_keys: 0,
        }
    }
}

const SUBJECTS: [Subject; 5] = [
    Subject::new("forgotten", "ours"),
    Subject::new("kept", "ours, history"),
    Subject::new("batched", "ours-batch"),
    Subject::new("batched_kept", "ours-batch, history"),
    Subject {
        share: 10,
        ..Subject::new("fenced", "ours, fenced")
    },
];

impl Args {
    pub(crate) fn case(&self) -> String {
        format!("{}k", self.jobs / 1000)
    }
}

pub(crate) async fn run(args: &Args, rounds: u32) -> Table {
    let server = Server::start().await;
    let mut table = Table::default();
    for _ in 0..rounds {
        server.clean().await;
        let limit = limit::drain(&server, args.jobs).await;
        table.add(limit::row(&args.case(), limit));
        for &processes in &args.processes {
            ours(&server, args, processes, limit, &mut table).await;
        }
    }
    table
}

/// Each of our subjects, once.
pub(crate) async fn ours(server: &Server, args: &Args, processes: usize, limit: f64, table: &mut Table) {
    for subject in SUBJECTS {
        let mut row = drain(server, args, &subject, processes).await;
        row.case = args.case();
        row.subject = subject.name.to_owned();
        row.ratio_to_limit = row.jobs_per_s.map(|rate| rate / limit);
        table.add(row);
    }
}

/// Empties the queue once.
pub(crate) async fn drain(server: &Server, args: &Args, subject: &Subject, processes: usize) -> Row {
    let (kind, jobs) = (subject.kind, args.jobs / subject.share);
    server.clean().await;
    sqlx::query(
        "with groups as (
             insert into queue.turns (group_key, holder) select 'g' || n, n from generate_series(1, least($3, $2)) n
         )
         insert into queue.jobs (id, queue, kind, args, rank, group_key, turn, limit_key)
         select n, $1, $1, jsonb_build_object('n', n), queue.rank(clock_timestamp(), 0), case when $3 > 0 then 'g' || ((n - 1) % $3 + 1) end, $3 = 0 or n <= $3,
                case when $4 > 0 then 'key/' || n % $4 end
         from generate_series(1, $2) n",
    )
    .bind(kind)
    .bind(jobs)
    .bind(subject.groups)
    .bind(subject.limit_keys)
    .execute(&server.pool)
    .await
    .unwrap();
    server.execute("vacuum analyze queue.jobs").await;
    server.execute("checkpoint").await;
    // Nobody starts before everybody is there.
    sqlx::query("insert into queue.pauses (target, name, reason, actor) values ('queue', $1, 'bench', 'bench')")
        .bind(kind)
        .execute(&server.pool)
        .await
        .unwrap();
    let workers = Workers::start(server, kind, processes, args.slots).await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let (wal, cpu) = (server.wal_bytes().await, workers.cpu_seconds());
    let started = Instant::now();
    sqlx::query("with resumed as (delete from queue.pauses) select pg_notify('queue_jobs', $1)")
        .bind(kind)
        .execute(&server.pool)
        .await
        .unwrap();
    while is_left(server).await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let jobs = jobs as f64;
    let row = Row {
        processes,
        jobs_per_s: Some(jobs / seconds),
        wal_bytes_per_job: Some((server.wal_bytes().await - wal) / jobs),
        cpu_s_per_100k: Some((workers.cpu_seconds() - cpu) / jobs * 100_000.0),
        ..Row::default()
    };
    workers.end(server).await;
    row
}

/// The line is only looked at when nothing is in flight: it is full of what has been deleted from it.
async fn is_left(server: &Server) -> bool {
    sqlx::query_scalar("select exists (select from queue.claims) or exists (select from queue.jobs)")
        .fetch_one(&server.pool)
        .await
        .unwrap()
}
