//! Events reach whoever asked for them, and nobody else.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use domain::{
    ids::{DeliveryId, EndpointId, PartnerId},
    partners,
    webhooks::{
        self, DeliveryState, EndpointState, Sender, sign,
        store::{NewEndpoint, NotResent, Range, Rotation},
    },
};
use simulator::receiver;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::world::World;

const SOON: Duration = Duration::from_secs(7);

impl World {
    pub(crate) async fn endpoint(&self, url: &str, secret: Option<String>) -> EndpointId {
        let new = NewEndpoint {
            url: url.to_owned(),
            event_types: vec!["order.created".to_owned()],
            secret,
            ..NewEndpoint::default()
        };
        let mut conn = self.db.pool.acquire().await.unwrap();
        webhooks::store::create(&mut conn, &self.services.keyring, new, true)
            .await
            .unwrap()
            .0
            .id
    }

    /// Submits an order and runs its event's delivery once, as far as it goes at once.
    pub(crate) async fn tell(&self) {
        self.execute("insert into queue.pauses (target, name, reason, actor) values ('queue', 'stock', 'test', 'test') on conflict do nothing").await;
        self.submit("pm_card_visa").await;
        self.run().await;
    }

    pub(crate) async fn deliveries(&self) -> Vec<String> {
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
pub(crate) async fn says(answer: Option<Vec<u8>>) -> (SocketAddr, Arc<AtomicUsize>) {
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

pub(crate) fn head(status: &str, headers: &str) -> Option<Vec<u8>> {
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
        let rotation = Rotation {
            secret: Some(other.clone()),
            ..Rotation::default()
        };
        webhooks::store::rotate(&mut conn, &world.services.keyring, id, rotation)
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
    let range = Range {
        since: chrono::DateTime::UNIX_EPOCH,
        until: None,
        states: vec![DeliveryState::Discarded],
    };
    let missed = webhooks::store::replay(&mut conn, id, &range, 100).await.unwrap();
    assert_eq!(missed.len(), 2);
    jobs::send_again(&mut conn, missed, "test").await.unwrap();
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

/// A receiver that accepts everything and keeps what it was sent, head and body.
pub(crate) async fn hears() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    hears_unless(|_| false).await
}

/// The same, but for some requests: these it refuses, and keeps none of them.
pub(crate) async fn hears_unless(
    is_refused: impl Fn(&str) -> bool + Send + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 16 * 1024];
            let mut length = 0;
            // Head and body may come in two pieces; the body is an object, and its end the end.
            while !request[..length].ends_with(b"}") {
                length += stream.read(&mut request[length..]).await.unwrap();
            }
            let request = String::from_utf8(request[..length].to_vec()).unwrap();
            let answer: &[u8] = match is_refused(&request) {
                true => b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                false => b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
            };
            if answer.starts_with(b"HTTP/1.1 204") {
                hears.lock().unwrap().push(request);
            }
            stream.write_all(answer).await.unwrap();
        }
    });
    (addr, heard)
}

/// The types of the events in those requests.
pub(crate) fn types(heard: &Mutex<Vec<String>>) -> Vec<String> {
    let heard = heard.lock().unwrap();
    let kind = |request: &String| {
        request
            .split("{\"type\":\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned()
    };
    heard.iter().map(kind).collect()
}

impl World {
    pub(crate) async fn endpoint_for(
        &self,
        addr: SocketAddr,
        event_type: &str,
        partner: Option<PartnerId>,
    ) -> EndpointId {
        let new = NewEndpoint {
            url: format!("http://{addr}/"),
            event_types: vec![event_type.to_owned()],
            partner_id: partner,
            ..NewEndpoint::default()
        };
        let mut conn = self.db.pool.acquire().await.unwrap();
        webhooks::store::create(&mut conn, &self.services.keyring, new, true)
            .await
            .unwrap()
            .0
            .id
    }

    pub(crate) async fn partner(&self, name: &str) -> PartnerId {
        let new = partners::store::NewPartner {
            name: name.to_owned(),
            description: String::new(),
            event_types: vec!["*".to_owned()],
            endpoints_max: 10,
            concurrency: None,
            rate: None,
        };
        let mut conn = self.db.pool.acquire().await.unwrap();
        partners::store::create(&mut conn, &self.services.keyring, new)
            .await
            .unwrap()
            .0
            .id
    }

    pub(crate) async fn first_delivery(&self) -> DeliveryId {
        let id: uuid::Uuid = sqlx::query_scalar("select id from webhook_deliveries order by seq limit 1")
            .fetch_one(&self.db.pool)
            .await
            .unwrap();
        DeliveryId(id)
    }
}

#[tokio::test]
async fn an_endpoint_can_be_signed_for_with_ed25519() {
    let world = World::new().await;
    let (addr, heard) = hears().await;
    let secret = sign::generate(sign::Signing::Ed25519);
    let id = world.endpoint(&format!("http://{addr}/"), Some(secret.clone())).await;
    world.tell().await;
    assert_eq!(world.deliveries().await, ["delivered 1"]);
    let request = heard.lock().unwrap()[0].clone();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap().to_owned()
    };
    let expected = sign::signatures(
        std::slice::from_ref(&secret),
        &header("webhook-id"),
        header("webhook-timestamp").parse().unwrap(),
        body,
    );
    assert!(expected.starts_with("v1a,"));
    assert_eq!(header("webhook-signature"), expected);
    let endpoint = webhooks::store::get(&mut world.db.pool.acquire().await.unwrap(), id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(endpoint.public_keys, [sign::public_key(&secret).unwrap()]);
}

#[tokio::test]
async fn whoever_asked_is_told_that_an_endpoint_was_disabled_and_a_delivery_exhausted() {
    let world = World::new().await;
    let (one, other) = (world.partner("one").await, world.partner("other").await);
    let (failing, _) = says(head("500 Oops", "")).await;
    world.endpoint_for(failing, "order.created", Some(one)).await;
    let mut listeners = Vec::new();
    for partner in [Some(one), Some(other), None] {
        for event_type in ["endpoint.*", "delivery.exhausted"] {
            let (addr, heard) = hears().await;
            world.endpoint_for(addr, event_type, partner).await;
            listeners.push(heard);
        }
    }
    world.tell().await;
    world.run_on(11, Duration::from_secs(30 * 60 * 60)).await;
    let told: Vec<Vec<String>> = listeners.iter().map(|heard| types(heard)).collect();
    let (disabled, exhausted) = (
        vec!["endpoint.disabled".to_owned()],
        vec!["delivery.exhausted".to_owned()],
    );
    // The partner and we; what goes wrong at one partner's is not another's business.
    assert_eq!(
        told,
        [disabled.clone(), exhausted.clone(), vec![], vec![], disabled, exhausted]
    );
    let notice = listeners[0].lock().unwrap()[0].clone();
    assert!(
        notice.contains("\"reason\":\"failing\"") || notice.contains("\"reason\": \"failing\""),
        "{notice}"
    );
}

#[tokio::test]
async fn whoever_asked_is_told_once_that_an_endpoint_works_again() {
    let world = World::new().await;
    let (failing, _) = says(head("500 Oops", "")).await;
    let id = world.endpoint_for(failing, "order.created", None).await;
    let (listener, told) = hears().await;
    world.endpoint_for(listener, "delivery.recovered", None).await;
    for _ in 0..10 {
        world.tell().await;
    }
    let (working, heard) = hears().await;
    let change = webhooks::store::EndpointChange {
        url: Some(format!("http://{working}/")),
        ..Default::default()
    };
    webhooks::store::patch(&mut world.db.pool.acquire().await.unwrap(), id, change, true)
        .await
        .unwrap();
    // The breaker is open; one delivery is the probe, and all the others arrive after it.
    world.run_on(4, Duration::from_secs(60)).await;
    assert_eq!(heard.lock().unwrap().len(), 10);
    assert_eq!(types(&told), ["delivery.recovered"]);
    assert!(told.lock().unwrap()[0].contains(&id.to_string()));
    // One failure that passes is no news.
    let change = webhooks::store::EndpointChange {
        url: Some(format!("http://{failing}/")),
        ..Default::default()
    };
    webhooks::store::patch(&mut world.db.pool.acquire().await.unwrap(), id, change, true)
        .await
        .unwrap();
    world.tell().await;
    let change = webhooks::store::EndpointChange {
        url: Some(format!("http://{working}/")),
        ..Default::default()
    };
    webhooks::store::patch(&mut world.db.pool.acquire().await.unwrap(), id, change, true)
        .await
        .unwrap();
    world.run_on(2, SOON).await;
    assert_eq!(heard.lock().unwrap().len(), 11);
    assert_eq!(types(&told).len(), 1);
}

#[tokio::test]
async fn an_unconfirmed_endpoint_is_sent_its_challenge_and_nothing_else() {
    let world = World::new().await;
    let (addr, heard) = hears().await;
    let id = world.endpoint_for(addr, "*", None).await;
    let mut conn = world.db.pool.acquire().await.unwrap();
    let (endpoint, announced) = webhooks::store::challenge(&mut conn, id).await.unwrap();
    assert_eq!(endpoint.state, EndpointState::Unconfirmed);
    jobs::announce(&mut conn, announced).await.unwrap();
    world.tell().await;
    assert_eq!(types(&heard), ["endpoint.challenge"]);

    let request = heard.lock().unwrap()[0].clone();
    let (_, body) = request.split_once("\r\n\r\n").expect("a body");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let code = body["data"]["code"].as_str().expect("a code");
    let confirmed = webhooks::store::confirm(&mut conn, id, code).await.unwrap();
    assert_eq!(confirmed.state, EndpointState::Active);
    // What it missed meanwhile is kept for it.
    let range = Range {
        since: chrono::DateTime::UNIX_EPOCH,
        until: None,
        states: vec![DeliveryState::Discarded],
    };
    let missed = webhooks::store::replay(&mut conn, id, &range, 100).await.unwrap();
    assert_eq!(missed.len(), 1);
    jobs::send_again(&mut conn, missed, "test").await.unwrap();
    drop(conn);
    world.run().await;
    assert_eq!(heard.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_test_goes_to_its_endpoint_alone_whatever_it_asked_for() {
    let world = World::new().await;
    let (addr, heard) = hears().await;
    let (others, unheard) = hears().await;
    let id = world.endpoint_for(addr, "payment.captured", None).await;
    world.endpoint_for(others, "*", None).await;
    let mut conn = world.db.pool.acquire().await.unwrap();
    let (event, announced) = webhooks::store::test_fire(&mut conn, id).await.unwrap();
    jobs::announce(&mut conn, announced).await.unwrap();
    drop(conn);
    world.run().await;
    assert_eq!(types(&heard), ["endpoint.test"]);
    assert!(heard.lock().unwrap()[0].contains(&format!("webhook-id: {event}")));
    assert_eq!(types(&unheard), Vec::<String>::new());
}

#[tokio::test]
async fn one_delivery_is_sent_again_and_a_range_is_replayed_with_the_same_ids_and_bytes() {
    let world = World::new().await;
    let (addr, heard) = hears().await;
    let id = world.endpoint_for(addr, "order.created", None).await;
    for _ in 0..3 {
        world.tell().await;
    }
    let first = world.first_delivery().await;
    let mut conn = world.db.pool.acquire().await.unwrap();
    let resent = webhooks::store::resend(&mut conn, first).await.unwrap();
    jobs::send_again(&mut conn, vec![resent], "test").await.unwrap();
    let again = webhooks::store::resend(&mut conn, first).await;
    assert!(
        matches!(again, Err(NotResent::OnItsWay(DeliveryState::Pending))),
        "{again:?}"
    );
    world.run().await;

    let until: chrono::DateTime<chrono::Utc> = sqlx::query_scalar("select max(created_at) from webhook_deliveries")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    let range = Range {
        since: chrono::DateTime::UNIX_EPOCH,
        until: Some(until),
        states: vec![DeliveryState::Delivered],
    };
    let replayed = webhooks::store::replay(&mut conn, id, &range, 100).await.unwrap();
    assert_eq!(replayed.len(), 2, "the last one was written at its end, not before");
    jobs::send_again(&mut conn, replayed, "test").await.unwrap();
    world.run().await;

    let said: Vec<(String, String)> = heard
        .lock()
        .unwrap()
        .iter()
        .map(|request| {
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            let id = head.lines().find(|line| line.starts_with("webhook-id: ")).unwrap();
            (id.to_owned(), body.to_owned())
        })
        .collect();
    assert_eq!(said.len(), 6);
    assert_eq!((&said[3], &said[4], &said[5]), (&said[0], &said[0], &said[1]));
    assert_eq!(world.deliveries().await, ["delivered 3", "delivered 2", "delivered 1"]);
}

#[tokio::test]
async fn after_a_month_the_contents_are_gone_and_the_record_stays() {
    let world = World::new().await;
    let (addr, _) = hears().await;
    world.endpoint_for(addr, "order.created", None).await;
    world.tell().await;
    let (waiting, visits) = says(head("500 Oops", "")).await;
    world.endpoint_for(waiting, "order.created", None).await;
    world.tell().await;
    world.execute("update events set at = at - interval '31 days'").await;
    world.tell().await;
    let tried = visits.load(SeqCst);

    let mut conn = world.db.pool.acquire().await.unwrap();
    queue::enqueue(&mut conn, &jobs::PurgeWebhooks {}).await.unwrap();
    world.run().await;
    let kept: Vec<bool> = sqlx::query_scalar("select payload <> '' from events order by id")
        .fetch_all(&mut *conn)
        .await
        .unwrap();
    assert_eq!(kept, [false, false, true]);
    let first = world.first_delivery().await;
    let resent = webhooks::store::resend(&mut conn, first).await;
    assert!(matches!(resent, Err(NotResent::Purged)), "{resent:?}");
    drop(conn);
    // What still waited for its receiver has nothing to say any more, and says so.
    world.run_on(1, SOON).await;
    let ends = world.deliveries().await;
    assert_eq!(ends.iter().filter(|end| *end == "delivered 1").count(), 3, "{ends:?}");
    assert_eq!(
        ends.iter()
            .filter(|end| end.starts_with("discarded 1 payload_purged"))
            .count(),
        1,
        "{ends:?}"
    );
    assert_eq!(visits.load(SeqCst), tried + 1, "only the young one was tried again");
}

#[tokio::test]
async fn an_endpoint_is_sent_to_at_the_rate_it_asks_for() {
    let world = World::new().await;
    let (addr, heard) = hears().await;
    let id = world.endpoint_for(addr, "order.created", None).await;
    let change = webhooks::store::EndpointChange {
        rate: Some(Some(0.01)),
        ..Default::default()
    };
    let mut conn = world.db.pool.acquire().await.unwrap();
    let endpoint = webhooks::store::patch(&mut conn, id, change, true).await.unwrap();
    jobs::limit_endpoint(&mut conn, &endpoint, "test").await.unwrap();
    drop(conn);
    for _ in 0..3 {
        world.tell().await;
    }
    assert_eq!(heard.lock().unwrap().len(), 1);
    assert_eq!(
        world.deliveries().await,
        ["delivered 1", "pending 0", "pending 0"],
        "waiting is no try"
    );
    world.db.fast_forward(Duration::from_secs(101)).await;
    world.run().await;
    assert_eq!(heard.lock().unwrap().len(), 2);
}
