//! How fast webhooks go out, by the real job, and what those whose receivers hang cost the others.
//!
//! Receivers are on loopback and answer at once; in every second run a tenth of the endpoints takes requests and never
//! answers. Only the others are measured: how fast a backlog goes, and at a steady rate the time from the commit of an event to
//! its arrival.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::events::{self, Audience, NewEvent};
use domain::ids::{EndpointId, EventId};
use domain::services::Settings;
use domain::{Services, payments, webhooks};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;
use workers::{Config, Pool};

use crate::latency::percentile;
use crate::server::Server;
use crate::table::{Row, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many endpoints there are.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 10_000])]
    endpoints: Vec<usize>,
    /// Deliveries that wait when the worker starts.
    #[arg(long, default_value_t = 2000)]
    backlog: usize,
    /// Deliveries a second that are offered afterwards.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// For how long.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How many slots the worker has: one that hangs holds at most eight of them, for fifteen seconds.
    #[arg(long, default_value_t = 1000)]
    slots: usize,
}

/// Longer than this for the last of the healthy, and the run has failed.
const PATIENCE: Duration = Duration::from_secs(600);
/// Deliveries enqueued in one transaction of the backlog.
const BATCH: usize = 100;

pub(crate) async fn run(args: &Args, rounds: u32) -> Table {
    let server = Server::start().await;
    let (arrived, mut arrivals) = unbounded_channel();
    let addr = receiver(arrived).await;
    let mut table = Table::default();
    for _ in 0..rounds {
        for &endpoints in &args.endpoints {
            let calm = one_run(args, &server, addr, &mut arrivals, endpoints, 0).await;
            let calm_p99 = calm.p99_ms;
            table.add(calm);
            if endpoints >= 10 {
                let mut row = one_run(args, &server, addr, &mut arrivals, endpoints, endpoints / 10).await;
                row.p99_of_calm = row.p99_ms.zip(calm_p99).map(|(p99, calm)| p99 / calm);
                table.add(row);
            }
        }
    }
    table
}

async fn one_run(
    args: &Args,
    server: &Server,
    addr: SocketAddr,
    arrivals: &mut UnboundedReceiver<(EventId, Instant)>,
    endpoints: usize,
    hanging: usize,
) -> Row {
    server.clean().await;
    server
        .execute("truncate webhook_attempts, webhook_deliveries, events, webhook_endpoints cascade")
        .await;
    while arrivals.try_recv().is_ok() {}
    let targets = register(server, addr, endpoints, hanging).await;

    // The backlog, in the order in which its events happened: one for each endpoint in turn.
    let mut expected = 0;
    let turns: Vec<usize> = (0..args.backlog).map(|n| n % endpoints).collect();
    for batch in turns.chunks(BATCH) {
        let mut tx = server.pool.begin().await.unwrap();
        let mut announced = events::Announced::default();
        for &turn in batch {
            expected += usize::from(!targets[turn].hangs);
            announced = announced.join(fire(&mut tx, &targets[turn], EventId::new()).await);
        }
        jobs::announce(&mut tx, announced).await.unwrap();
        tx.commit().await.unwrap();
    }
    let stop = CancellationToken::new();
    let services = Arc::new(Services {
        gateway: payments::Gateway::new("http://127.0.0.1:9/".parse().unwrap(), "sk_test_x".to_owned().into()).unwrap(),
        sender: webhooks::Sender::new(true).unwrap(),
        keyring: domain::keyring::Keyring::random(),
        settings: Settings::default(),
    });
    let worker = tokio::spawn(workers::run(
        config(args.slots),
        server.url.parse().unwrap(),
        services,
        stop.clone(),
    ));
    let drained = collect(arrivals, expected).await;
    let first = drained.values().min().unwrap();
    let taken = drained.values().max().unwrap().duration_since(*first).as_secs_f64();

    settled(server).await;

    // A steady rate, each event in a transaction of its own.
    let mut sent = HashMap::new();
    let began = Instant::now();
    for n in 0..u64::from(args.rate) * args.seconds {
        let due = Duration::from_secs_f64(n as f64 / f64::from(args.rate));
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        let target = &targets[(n as usize * 7919) % endpoints];
        let event = EventId::new();
        let mut tx = server.pool.begin().await.unwrap();
        let announced = fire(&mut tx, target, event).await;
        jobs::announce(&mut tx, announced).await.unwrap();
        let at = Instant::now();
        tx.commit().await.unwrap();
        if !target.hangs {
            sent.insert(event, at);
        }
    }
    let seen = collect(arrivals, sent.len()).await;
    stop.cancel();
    worker.abort();
    _ = worker.await;
    server.execute("delete from queue.workers").await;

    let mut waits: Vec<f64> = sent
        .iter()
        .map(|(event, at)| seen[event].saturating_duration_since(*at).as_secs_f64() * 1000.0)
        .collect();
    waits.sort_by(f64::total_cmp);
    Row {
        case: format!("{endpoints} endpoints"),
        subject: if hanging == 0 { "all answer" } else { "a tenth hangs" }.to_owned(),
        processes: 1,
        jobs_per_s: Some((drained.len() - 1) as f64 / taken),
        p50_ms: Some(percentile(&waits, 0.5)),
        p99_ms: Some(percentile(&waits, 0.99)),
        ..Row::default()
    }
}

fn config(slots: usize) -> Config {
    Config {
        name: "bench".to_owned(),
        pools: vec![Pool::of("webhooks")],
        slots,
        lease: Duration::from_secs(15),
        shutdown_grace: Duration::from_secs(1),
        build: "bench".to_owned(),
        health: None,
        poll_only: false,
    }
}

struct Target {
    id: EndpointId,
    hangs: bool,
}

/// Endpoints of which every tenth hangs, if any does.
async fn register(server: &Server, addr: SocketAddr, endpoints: usize, hanging: usize) -> Vec<Target> {
    let targets: Vec<Target> = (0..endpoints)
        .map(|n| Target {
            id: EndpointId::new(),
            hangs: hanging > 0 && n % 10 == 9,
        })
        .collect();
    let ids: Vec<uuid::Uuid> = targets.iter().map(|target| target.id.0).collect();
    let urls: Vec<String> = targets
        .iter()
        .map(|target| format!("http://{addr}/{}", if target.hangs { "hang" } else { "answer" }))
        .collect();
    sqlx::query(
        "insert into webhook_endpoints (id, url, event_types, ordering, secrets)
         select id, url, array['bench.fired'], 'none', array['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw']
         from unnest($1::uuid[], $2::text[]) e (id, url)",
    )
    .bind(ids)
    .bind(urls)
    .execute(&server.pool)
    .await
    .unwrap();
    targets
}

async fn fire(conn: &mut sqlx::PgConnection, target: &Target, id: EventId) -> events::Announced {
    let event = NewEvent {
        kind: "bench.fired",
        order_id: None,
        data: json!({ "what": "a payload of the usual length of an order's event", "filler": "x".repeat(300) }),
    };
    events::record_as(conn, id, event, Audience::endpoint(target.id))
        .await
        .unwrap()
}

/// Waits until what arrived is on record as delivered.
async fn settled(server: &Server) {
    let is_settled = async {
        loop {
            let open: i64 = sqlx::query_scalar(
                "select count(*) from webhook_deliveries d
                 join webhook_endpoints e on e.id = d.endpoint_id and e.url like '%/answer'
                 where d.state <> 'delivered'",
            )
            .fetch_one(&server.pool)
            .await
            .unwrap();
            if open == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_settled).await.expect("the record");
}

/// When each of that many events first arrived.
async fn collect(arrivals: &mut UnboundedReceiver<(EventId, Instant)>, count: usize) -> HashMap<EventId, Instant> {
    let mut seen = HashMap::new();
    let all = async {
        while seen.len() < count {
            let (event, at) = arrivals.recv().await.unwrap();
            seen.entry(event).or_insert(at);
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("the healthy deliveries");
    seen
}

/// A receiver of webhooks that tells what arrives where it answers.
async fn receiver(arrived: UnboundedSender<(EventId, Instant)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, arrived.clone()));
        }
    });
    addr
}

/// Answers one request after the other, until one hangs or the sender has had enough.
async fn serve(mut stream: TcpStream, arrived: UnboundedSender<(EventId, Instant)>) {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        };
        let at = Instant::now();
        let header = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .unwrap()
        };
        let length: usize = header("content-length").parse().unwrap();
        while buffer.len() < length {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
        buffer.drain(..length);
        if head.starts_with("POST /hang ") {
            // Until the sender goes.
            _ = stream.read_buf(&mut buffer).await;
            return;
        }
        _ = arrived.send((header("webhook-id").parse().unwrap(), at));
        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
            return;
        }
    }
}
