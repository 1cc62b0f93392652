//! Events reach whoever asked for them, and nobody else.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use domain::{
    ids::EndpointId,
    webhooks::{self, EndpointState, Ordering, Sender, sign, store::NewEndpoint},
};
use simulator::receiver;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::world::World;

const SOON: Duration = Duration::from_secs(7);

impl World {
    async fn endpoint(&self, url: &str, secret: Option<String>) -> EndpointId {
        let new = NewEndpoint {
            url: url.to_owned(),
            description: String::new(),
            event_types: vec!["order.created".to_owned()],
            ordering: Ordering::PerKey,
            secret,
        };
        let mut conn = self.db.pool.acquire().await.unwrap();
        webhooks::store::create(&mut conn, new, true).await.unwrap().0.id
    }

    /// Submits an order and runs its event's delivery once, as far as it goes at once.
    async fn tell(&self) {
        self.execute("insert into queue.pauses (target, name, reason, actor) values ('queue', 'stock', 'test', 'test') on conflict do nothing").await;
        self.submit("pm_card_visa").await;
        self.run().await;
    }

    async fn deliveries(&self) -> Vec<String> {
        sqlx::query_scalar(
            "select concat_ws(' ', d.state, d.attempts, d.reason, a.error_class) from webhook_deliveries d
             left join webhook_attempts a on a.delivery_id = d.id and a.n = d.attempts order by d.seq",
        )
        .fetch_all(&self.db.pool)
        .await
        .unwrap()
    }

    async fn due_in_seconds(&self) -> f64 {
        sqlx::query_scalar(
            "select extract(epoch from run_at - clock_timestamp())::float8 from queue.jobs where kind = 'deliver_webhook'",
        )
        .fetch_one(&self.db.pool)
        .await
        .unwrap()
    }
}

/// A receiver that says the same thing to everybody, and counts them. Nothing said: it listens for ever.
async fn says(answer: Option<Vec<u8>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&visits);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 16 * 1024];
                let _read = stream.read(&mut request).await;
                match answer {
                    Some(answer) => {
                        let _written = stream.write_all(&answer).await;
                    }
                    None => std::future::pending().await,
                }
            });
        }
    });
    (addr, visits)
}

fn head(status: &str, headers: &str) -> Option<Vec<u8>> {
    Some(format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\n\r\n").into_bytes())
}

#[tokio::test]
async fn an_event_arrives_signed_and_once() {
    let world = World::new().await;
    let secret = sign::generate_secret();
    let config = receiver::Config {
        port: 0,
        log: world.dir.path().join("log.jsonl"),
        secrets: vec![secret.clone()],
    };
    let receiver = receiver::start(config).await.unwrap();
    world.endpoint(&receiver.url("demo"), Some(secret)).await;
    world.tell().await;
    world.run_on(3, SOON).await;
    assert_eq!(world.deliveries().await, ["delivered 1"]);
    let log = receiver.log().unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(
        (&log[0]["verified"], &log[0]["type"]),
        (&true.into(), &"order.created".into())
    );
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_one_it_replaces() {
    let world = World::new().await;
    let (old, other) = (sign::generate_secret(), sign::generate_secret());
    let start = async |name: &str, secret: &String| {
        let config = receiver::Config {
            port: 0,
            log: world.dir.path().join(name),
            secrets: vec![secret.clone()],
        };
        receiver::start(config).await.unwrap()
    };
    let (before, after) = (start("before", &old).await, start("after", &other).await);
    for url in [before.url("a"), after.url("b")] {
        let id = world.endpoint(&url, Some(old.clone())).await;
        let mut conn = world.db.pool.acquire().await.unwrap();
        webhooks::store::rotate(&mut conn, id, Some(other.clone()))
            .await
            .unwrap();
    }
    world.tell().await;
    assert_eq!(world.deliveries().await, ["delivered 1", "delivered 1"]);
}

#[tokio::test]
async fn an_answer_that_is_lost_is_sent_again_with_the_same_id_and_bytes() {
    let world = World::new().await;
    let secret = sign::generate_secret();
    let config = receiver::Config {
        port: 0,
        log: world.dir.path().join("log.jsonl"),
        secrets: vec![secret.clone()],
    };
    let receiver = receiver::start(config).await.unwrap();
    let id = world
        .endpoint(&format!("{}?lost=true", receiver.url("demo")), Some(secret))
        .await;
    world.tell().await;
    assert_eq!(world.deliveries().await, ["pending 1 no_answer"]);
    let change = webhooks::store::EndpointChange {
        url: Some(receiver.url("demo")),
        ..Default::default()
    };
    webhooks::store::patch(&mut world.db.pool.acquire().await.unwrap(), id, change, true)
        .await
        .unwrap();
    world.run_on(2, SOON).await;
    assert_eq!(world.deliveries().await, ["delivered 2"]);
    let log = receiver.log().unwrap();
    let ids: Vec<_> = log.iter().map(|line| line["webhook_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let world = World::new().await;
    let (canary, visits) = says(head("200 OK", "")).await;
    let (addr, _) = says(head("302 Found", &format!("location: http://{canary}/\r\n"))).await;
    world.endpoint(&format!("http://{addr}/"), None).await;
    world.tell().await;
    assert_eq!(world.deliveries().await, ["pending 1 redirect"]);
    assert_eq!(visits.load(SeqCst), 0);
}

#[tokio::test]
async fn a_guarded_sender_never_reaches_loopback_however_it_is_written() {
    let world = World::with_sender(Sender::new(false).unwrap()).await;
    let (canary, visits) = says(head("200 OK", "")).await;
    let port = canary.port();
    let id = world.endpoint(&format!("http://{canary}/"), None).await;
    world.tell().await;
    // As if they had been registered before a rule was there.
    for url in [
        format!("https://127.0.0.1:{port}/"),
        "https://127.1:8443/".to_owned(),
        "https://[::ffff:127.0.0.1]/".to_owned(),
        "https://2130706433/".to_owned(),
        "https://localhost/".to_owned(),
    ] {
        sqlx::query("update webhook_endpoints set url = $2 where id = $1")
            .bind(id.0)
            .bind(url)
            .execute(&world.db.pool)
            .await
            .unwrap();
        world.tell().await;
    }
    world.run_on(2, SOON).await;
    let deliveries = world.deliveries().await;
    assert_eq!(deliveries.len(), 6);
    assert!(
        deliveries.iter().all(|line| line.starts_with("discarded 1 ")),
        "{deliveries:?}"
    );
    assert_eq!(visits.load(SeqCst), 0);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_and_asked_no_more() {
    let world = World::new().await;
    let (addr, visits) = says(head("410 Gone", "")).await;
    let id = world.endpoint(&format!("http://{addr}/"), None).await;
    world.tell().await;
    world.tell().await;
    assert_eq!(
        world.deliveries().await,
        ["discarded 1 gone gone", "discarded 0 endpoint_disabled"]
    );
    assert_eq!(visits.load(SeqCst), 1);
    let mut conn = world.db.pool.acquire().await.unwrap();
    let endpoint = webhooks::store::get(&mut conn, id).await.unwrap().unwrap();
    assert_eq!(
        (endpoint.state, endpoint.disabled_reason.as_deref()),
        (EndpointState::Disabled, Some("gone"))
    );

    // Enabling it offers what it missed.
    webhooks::store::enable(&mut conn, id).await.unwrap();
    let since = chrono::DateTime::UNIX_EPOCH;
    let missed = webhooks::store::replay(&mut conn, id, since, 100).await.unwrap();
    assert_eq!(missed.0.len(), 2);
    jobs::announce(&mut conn, missed).await.unwrap();
    drop(conn);
    world.run().await;
    assert_eq!(visits.load(SeqCst), 2);
}

#[tokio::test]
async fn a_throttling_receiver_is_given_the_time_it_asks_for() {
    let world = World::new().await;
    let (addr, _) = says(head("429 Too Many Requests", "retry-after: 900\r\n")).await;
    world.endpoint(&format!("http://{addr}/"), None).await;
    world.tell().await;
    assert_eq!(world.deliveries().await, ["pending 1 throttled"]);
    let wait = world.due_in_seconds().await;
    assert!((890.0..=910.0).contains(&wait), "{wait}");
}

#[tokio::test]
async fn a_receiver_that_hangs_costs_the_time_out_and_gets_a_minute() {
    let world = World::new().await;
    let (addr, _) = says(None).await;
    world.endpoint(&format!("http://{addr}/"), None).await;
    let began = std::time::Instant::now();
    world.tell().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(world.deliveries().await, ["pending 1 timeout"]);
    let wait = world.due_in_seconds().await;
    assert!((50.0..=70.0).contains(&wait), "{wait}");
}

#[tokio::test]
async fn an_answer_of_ten_megabytes_is_cut_off_and_still_an_answer() {
    let world = World::new().await;
    let length = 10 * 1024 * 1024;
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + length, b'x');
    let (addr, _) = says(Some(answer)).await;
    world.endpoint(&format!("http://{addr}/"), None).await;
    world.tell().await;
    assert_eq!(world.deliveries().await, ["delivered 1"]);
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_left_alone_at_no_cost_then_probed() {
    let world = World::new().await;
    let (addr, visits) = says(head("500 Oops", "")).await;
    let id = world.endpoint(&format!("http://{addr}/"), None).await;
    for _ in 0..12 {
        world.tell().await;
    }
    assert_eq!(visits.load(SeqCst), 10, "ten failures open it");
    assert_eq!(
        world
            .deliveries()
            .await
            .iter()
            .filter(|line| *line == "pending 0")
            .count(),
        2
    );
    // Half a minute later one of the waiting deliveries is the probe, and it stays open for twice as long.
    world.db.fast_forward(Duration::from_secs(40)).await;
    world.run().await;
    assert_eq!(visits.load(SeqCst), 11);
    let mut conn = world.db.pool.acquire().await.unwrap();
    let endpoint = webhooks::store::get(&mut conn, id).await.unwrap().unwrap();
    let left = endpoint.open_until.unwrap() - chrono::Utc::now();
    assert!((45..=61).contains(&left.num_seconds()), "{left}");
}
