//! What group keys and limits cost: the same jobs without and with them.
//!
//! The limits do not hold the work up, since then they would be what is measured: what counts is the bookkeeping.

use queue::limit::{self, Limit};

use crate::drain::{Args, Subject, drain};
use crate::server::Server;
use crate::table::Table;

const KEYS: i64 = 100;
const GROUPS: i64 = 5000;

const PLAIN: Subject = Subject::new("forgotten", "plain");

const SUBJECTS: [Subject; 3] = [
    Subject {
        limit_keys: KEYS,
        ..Subject::new("forgotten", "limited")
    },
    Subject {
        groups: GROUPS,
        ..Subject::new("forgotten", "grouped")
    },
    Subject {
        limit_keys: KEYS,
        groups: GROUPS,
        ..Subject::new("forgotten", "limited, grouped")
    },
];

/// Empties the queue without and with them; the ratio is to the run without.
pub(crate) async fn run(args: &Args, rounds: u32) -> Table {
    let server = Server::start().await;
    let mut table = Table::default();
    for _ in 0..rounds {
        for &processes in &args.processes {
            let mut plain = drain(&server, args, &PLAIN, processes).await;
            plain.case = args.case();
            plain.subject = PLAIN.name.to_owned();
            let rate = plain.jobs_per_s.unwrap_or(f64::NAN);
            plain.ratio_to_limit = Some(1.0);
            table.add(plain);
            bound(&server).await;
            for subject in SUBJECTS {
                let mut row = drain(&server, args, &subject, processes).await;
                row.case = args.case();
                row.subject = subject.name.to_owned();
                row.ratio_to_limit = row.jobs_per_s.map(|with| with / rate);
                table.add(row);
            }
            server.execute("delete from queue.limits").await;
        }
    }
    table
}

/// A bound on how many of each key and of the queue run at once, a rate, and a breaker.
async fn bound(server: &Server) {
    let mut conn = server.pool.acquire().await.unwrap();
    let of_a_key = Limit {
        concurrency: Some(1000),
        rate: Some(100_000.0),
        burst: Some(100_000),
        breaker_failures: Some(5),
        breaker_seconds: None,
    };
    limit::set(&mut conn, "key", &of_a_key, "bench", "bench").await.unwrap();
    limit::set(
        &mut conn,
        "queue/forgotten",
        &Limit::concurrency(8000),
        "bench",
        "bench",
    )
    .await
    .unwrap();
}
