//! The whole product: orders a second from the POST to the capture and the last webhook, next to what the same server can
//! commit.
//!
//! Real processes, on loopback: the API, a worker for each of the pools stock, payments and webhooks, the gateway and the
//! receiver. They are this executable again with the crates that `orderfleet` is made of: starting the real one would need
//! a second package built, its ports and secrets chosen and its files read, and would measure the same code. Pool sizes are
//! those of `orderfleet up`. No pool plans routes, whose jobs stay in line; the cancel window is zero.
//!
//! Clients POST as fast as they are answered, so orders pile up before the workers: the times to the capture and the webhook
//! are those of a backlog being worked off, not of a fleet at ease. Gateway and receiver sync their journals on the same disk,
//! and that is in the figures, as is the processor's time of all six processes. The limit is durable transactions of one row
//! from as many connections for as long: its ratio to orders is how many commits' worth an order costs.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use domain::access::{self, Scope};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::latency::percentile;
use crate::limit;
use crate::roles::{Fleet, WEBHOOK_SECRET};
use crate::server::Server;
use crate::table::{Row, Table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many orders are created and confirmed.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    orders: u32,
    /// How many clients send them, each on a connection that it keeps; the limit has as many.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// How many slots each pool has, instead of 4 for stock, 8 for payments and 16 for webhooks.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    slots: Option<u16>,
}

/// Products and customers there are; an order is one customer's, with one of each of two products.
const PRODUCTS: usize = 50;
const CUSTOMERS: usize = 100;
/// With nothing captured and nothing delivered for so long, the run has failed.
const STALLED: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How long one POST may take.
const POST_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: &Args, rounds: u32) -> Table {
    // For the HTTP client.
    domain::tls::install();
    let server = Server::start().await;
    let mut table = Table::default();
    for _ in 0..rounds {
        one_round(args, &server, &mut table).await;
    }
    table
}

async fn one_round(args: &Args, server: &Server, table: &mut Table) {
    let orders = args.orders as usize;
    clean(server).await;
    let customers = seed(server, orders).await;
    let mut fleet = Fleet::start(server, args.slots.map(usize::from)).await;
    register(server, &fleet).await;
    let bodies = (0..orders).map(|n| order(n, &customers)).collect();
    let token = token(server).await;
    server.execute("checkpoint").await;

    let (wal, cpu) = (server.wal_bytes().await, fleet.cpu_seconds());
    let began = clock(server).await;
    let first_post = Instant::now();
    let posts = post_all(&fleet, args.clients, &token, bodies).await;
    let posting = first_post.elapsed().as_secs_f64();
    finished(server, &mut fleet, orders).await;
    let (wal, cpu) = (server.wal_bytes().await - wal, fleet.cpu_seconds() - cpu);

    assert_right(server, &fleet, posts.len()).await;
    let times = Times::read(server, began).await;
    let processes = fleet.processes();
    fleet.end(server).await;

    let took = Duration::from_secs_f64(times.seconds);
    let limit = limit::commits(server, args.clients as usize, took).await;
    let case = format!("{orders} orders");
    let row = |subject: &str| Row {
        case: case.clone(),
        subject: subject.to_owned(),
        processes,
        ..Row::default()
    };
    let rate = orders as f64 / times.seconds;
    table.add(limit::row(&case, limit));
    table.add(Row {
        jobs_per_s: Some(rate),
        ratio_to_limit: Some(rate / limit),
        wal_bytes_per_job: Some(wal / orders as f64),
        cpu_s_per_100k: Some(cpu / orders as f64 * 100_000.0),
        ..row("ours")
    });
    let waits = |mut waits: Vec<f64>, row: Row| {
        waits.sort_by(f64::total_cmp);
        Row {
            p50_ms: Some(percentile(&waits, 0.5)),
            p99_ms: Some(percentile(&waits, 0.99)),
            ..row
        }
    };
    let posted = Row {
        jobs_per_s: Some(orders as f64 / posting),
        ..row("ours, POST")
    };
    table.add(waits(posts, posted));
    table.add(waits(times.to_captured, row("ours, to captured")));
    table.add(waits(times.to_delivered, row("ours, to delivered")));
}

/// Everything as before the first order.
async fn clean(server: &Server) {
    server
        .execute(
            "truncate customers, products, warehouses, events, webhook_attempts, webhook_deliveries, webhook_endpoints,
                      idempotency_keys, queue.dead_letters cascade",
        )
        .await;
    server.clean().await;
}

/// Customers, and products with enough of each for any order.
async fn seed(server: &Server, orders: usize) -> Vec<Uuid> {
    let mut tx = server.pool.begin().await.unwrap();
    for n in 0..PRODUCTS {
        testkit::build::a_product(&mut tx, &sku(n), 2 * orders as i64).await;
    }
    let mut customers = Vec::new();
    for _ in 0..CUSTOMERS {
        customers.push(testkit::build::a_customer(&mut tx).await);
    }
    tx.commit().await.unwrap();
    customers
}

fn sku(n: usize) -> String {
    format!("BENCH-{n}")
}

/// The one endpoint, which is told everything of every order.
async fn register(server: &Server, fleet: &Fleet) {
    sqlx::query(
        "insert into webhook_endpoints (id, url, event_types, secrets) values ($1, $2, array['order.*'], array[$3])",
    )
    .bind(Uuid::now_v7())
    .bind(format!("http://{}/hooks/bench", fleet.receiver))
    .bind(WEBHOOK_SECRET)
    .execute(&server.pool)
    .await
    .unwrap();
}

async fn token(server: &Server) -> String {
    let mut conn = server.pool.acquire().await.unwrap();
    let (_, key) = access::store::create(&mut conn, "bench", &[Scope::OrdersWrite], None)
        .await
        .unwrap();
    key.token.expose_secret().to_owned()
}

fn order(n: usize, customers: &[Uuid]) -> Value {
    let first = n % PRODUCTS;
    let second = (first + 1 + n / PRODUCTS % (PRODUCTS - 1)) % PRODUCTS;
    json!({
        "customer_id": customers[n % CUSTOMERS],
        "lines": [{ "sku": sku(first), "qty": 1 }, { "sku": sku(second), "qty": 1 }],
        "payment_method": "pm_card_visa",
    })
}

/// Sends them all, and returns how many milliseconds each was answered in. An answer that does not take an order in is a failure.
async fn post_all(fleet: &Fleet, clients: u32, token: &str, bodies: Vec<Value>) -> Vec<f64> {
    let url = format!("http://{}/api/v1/orchestrations/create-and-confirm", fleet.api);
    let (bodies, next) = (Arc::new(bodies), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            // A client each, so that each has one connection.
            let http = reqwest::Client::builder().no_proxy().timeout(POST_MAX).build().unwrap();
            let (bodies, next) = (Arc::clone(&bodies), Arc::clone(&next));
            let (url, token) = (url.clone(), token.to_owned());
            tokio::spawn(async move {
                let mut waits = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(body) = bodies.get(n) else {
                        return waits;
                    };
                    let sent = Instant::now();
                    let request = http.post(&url).bearer_auth(&token);
                    let request = request.header("Idempotency-Key", format!("bench-{n}"));
                    let answer = request.json(body).send().await.expect("an answer to a POST");
                    let status = answer.status().as_u16();
                    let text = answer.text().await.expect("the whole answer to a POST");
                    waits.push(sent.elapsed().as_secs_f64() * 1000.0);
                    assert!(matches!(status, 201 | 202), "order {n} was answered {status}: {text}");
                }
            })
        })
        .collect();
    let mut waits = Vec::new();
    for client in clients {
        waits.extend(client.await.expect("every order is taken in"));
    }
    waits
}

/// Waits until every order is captured and all its webhooks are delivered. Captures come after the last event of an order
/// that the endpoint is told of, so then there is nothing more to come.
async fn finished(server: &Server, fleet: &mut Fleet, orders: usize) {
    let (mut before, mut moved) = (None, Instant::now());
    loop {
        let now: (i64, i64, i64) = sqlx::query_as(
            "select (select count(*) from orders where payment_status = 'captured'),
                    count(*) filter (where state = 'delivered'), count(*)
             from webhook_deliveries",
        )
        .fetch_one(&server.pool)
        .await
        .unwrap();
        let (captured, delivered, deliveries) = now;
        if captured == orders as i64 && delivered == deliveries {
            return;
        }
        fleet.assert_alive();
        if before != Some(now) {
            (before, moved) = (Some(now), Instant::now());
        }
        if moved.elapsed() > STALLED {
            let missing = missing(server).await;
            panic!(
                "nothing has moved for {} s: {captured} of {orders} orders are captured, \
                 {delivered} of {deliveries} webhooks delivered\n{missing}",
                STALLED.as_secs()
            );
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// What there is that is not at its end, a line for each sort.
async fn missing(server: &Server) -> String {
    let sorts: Vec<String> = sqlx::query_scalar(
        "select format('orders %s, payment %s: %s, such as %s', status, payment_status, count(*), min(id::text))
         from orders where payment_status <> 'captured' group by status, payment_status
         union all
         select format('webhooks %s: %s, such as %s', state, count(*), min(id::text))
         from webhook_deliveries where state <> 'delivered' group by state
         union all
         select format('jobs waiting, %s: %s', kind, count(*)) from queue.jobs group by kind
         union all
         select format('jobs dead, %s: %s, such as %s', kind, count(*), min(id)) from queue.dead_letters group by kind",
    )
    .fetch_all(&server.pool)
    .await
    .unwrap();
    sorts.join("\n")
}

/// Every order that was taken in is there, reserved, captured once and told of, by our record and by those of gateway and
/// receiver; nothing is dead.
async fn assert_right(server: &Server, fleet: &Fleet, taken_in: usize) {
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "select 'orders', count(*) from orders
         union all
         select 'orders confirmed and captured', count(*) from orders
         where status in ('confirmed', 'closed') and payment_status = 'captured'
         union all
         select 'orders reserved in full', count(*) from orders o
         where (select sum(r.qty) filter (where r.state = 'committed') from reservations r
                join order_lines l on l.id = r.order_line_id where l.order_id = o.id)
             = (select sum(l.qty) from order_lines l where l.order_id = o.id)
         union all
         select 'orders with one payment, captured in full', count(*) from orders o
         where (select array_agg(p.captured_minor) from payments p where p.order_id = o.id) = array[o.total_minor]
         union all
         select 'captures', count(*) from payment_attempts where op = 'capture' and state = 'succeeded'
         union all
         select 'confirmations delivered', count(distinct e.order_id) from webhook_deliveries d
         join events e on e.event_id = d.event_id and e.type = 'order.confirmed' where d.state = 'delivered'",
    )
    .fetch_all(&server.pool)
    .await
    .unwrap();
    for (what, count) in counts {
        assert_eq!(count, taken_in as i64, "{what}, of the orders taken in");
    }
    let dead: i64 = sqlx::query_scalar("select count(*) from queue.dead_letters")
        .fetch_one(&server.pool)
        .await
        .unwrap();
    assert_eq!(dead, 0, "dead jobs: {}", missing(server).await);

    let ledger = simulator::journal::read(&fleet.ledger()).unwrap();
    let captures: Vec<&Value> = ledger
        .iter()
        .filter(|line| line["op"] == "capture" && line["outcome"] == "ok")
        .map(|line| &line["intent"])
        .collect();
    assert_eq!(captures.len(), taken_in, "captures in the gateway's ledger");
    let intents: HashSet<String> = captures.iter().map(ToString::to_string).collect();
    assert_eq!(intents.len(), taken_in, "payments captured in the gateway's ledger");

    let log = simulator::journal::read(&fleet.log()).unwrap();
    let arrived = log.iter().filter(|line| line["first"] == true).count();
    let delivered: i64 = sqlx::query_scalar("select count(*) from webhook_deliveries")
        .fetch_one(&server.pool)
        .await
        .unwrap();
    assert_eq!(arrived as i64, delivered, "webhooks in the receiver's log");
}

/// The server's clock, in seconds.
async fn clock(server: &Server) -> f64 {
    sqlx::query_scalar("select extract(epoch from clock_timestamp())::float8")
        .fetch_one(&server.pool)
        .await
        .unwrap()
}

/// When things happened, all by the server's clock.
struct Times {
    /// From before the first POST to the last capture or delivery.
    seconds: f64,
    /// From an order's row to its capture, in milliseconds.
    to_captured: Vec<f64>,
    /// From an order's row to its last delivery, in milliseconds.
    to_delivered: Vec<f64>,
}

impl Times {
    async fn read(server: &Server, began: f64) -> Self {
        let captured = "select extract(epoch from min(h.at) - o.created_at)::float8 * 1000
                        from orders o join order_history h on h.order_id = o.id and h.payment_status = 'captured'
                        group by o.id";
        let delivered = "select extract(epoch from max(d.delivered_at) - o.created_at)::float8 * 1000
                         from orders o
                         join events e on e.order_id = o.id
                         join webhook_deliveries d on d.event_id = e.event_id
                         group by o.id";
        let ended = "select extract(epoch from greatest(
                                (select max(at) from order_history where payment_status = 'captured'),
                                (select max(delivered_at) from webhook_deliveries)
                            ))::float8";
        let ended: f64 = sqlx::query_scalar(ended).fetch_one(&server.pool).await.unwrap();
        Self {
            seconds: ended - began,
            to_captured: sqlx::query_scalar(captured).fetch_all(&server.pool).await.unwrap(),
            to_delivered: sqlx::query_scalar(delivered).fetch_all(&server.pool).await.unwrap(),
        }
    }
}
