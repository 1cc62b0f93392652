//! Strangers' addresses never make us call ourselves, neither when they are registered nor when they are delivered to.
//!
//! A canary listens on loopback; whatever is tried, it sees no connection. Each test shows first that the canary would sing.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use domain::{
    ids::EndpointId,
    webhooks::{
        self, Sender,
        egress::{Names, Post, Posted},
        store::NewEndpoint,
    },
};
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    webhooks::{head, says},
    world::World,
};

const PATIENCE: Duration = Duration::from_millis(500);
/// Public by its number, and given to nobody: nothing answers there.
const NOWHERE: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1));

/// Listeners on loopback that count who comes.
struct Canary {
    addr: SocketAddr,
    visits: Arc<AtomicUsize>,
}

impl Canary {
    /// On a free port, and on the ports that hostile addresses mean as far as they are free.
    async fn start() -> Canary {
        let visits = Arc::new(AtomicUsize::new(0));
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = first.local_addr().unwrap();
        let mut listeners = vec![first];
        for port in [80, 443, 8443] {
            for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                listeners.extend(TcpListener::bind((ip, port)).await.ok());
            }
        }
        for listener in listeners {
            let counted = Arc::clone(&visits);
            tokio::spawn(async move {
                while listener.accept().await.is_ok() {
                    counted.fetch_add(1, SeqCst);
                }
            });
        }
        Canary { addr, visits }
    }

    fn visits(&self) -> usize {
        self.visits.load(SeqCst)
    }

    /// That somebody was here, or does come within a while.
    async fn sings(&self) -> bool {
        let sung = async {
            while self.visits() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), sung).await.is_ok()
    }
}

/// A name server that gives one answer after the other, the last one for ever.
#[derive(Debug)]
struct Fickle {
    answers: Mutex<VecDeque<Vec<SocketAddr>>>,
    asked: AtomicUsize,
}

impl Fickle {
    fn new(answers: impl IntoIterator<Item = Vec<SocketAddr>>) -> Arc<Fickle> {
        Arc::new(Fickle {
            answers: Mutex::new(answers.into_iter().collect()),
            asked: AtomicUsize::new(0),
        })
    }
}

impl Names for Fickle {
    fn look_up(&self, _name: &str) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        self.asked.fetch_add(1, SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = match answers.len() {
            1 => answers[0].clone(),
            _ => answers.pop_front().unwrap(),
        };
        async move { Ok(answer) }.boxed()
    }
}

fn hostile() -> Vec<String> {
    let list = include_str!("../../../domain/src/webhooks/hostile_urls.json");
    serde_json::from_str(list).unwrap()
}

fn a_post(url: &str) -> Post<'_> {
    Post {
        url,
        webhook_id: "e",
        timestamp: 1,
        secrets: &[],
        body: "{}".to_owned(),
        traceparent: None,
    }
}

#[tokio::test]
async fn a_hostile_address_is_refused_when_registered_and_when_delivered() {
    let canary = Canary::start().await;
    let addr = canary.addr;
    let names = Fickle::new([vec![addr]]);
    let world = World::with_sender(Sender::with_names(false, PATIENCE, names.clone()).unwrap()).await;
    let urls = hostile();
    assert!(urls.len() >= 60, "{}", urls.len());

    let mut conn = world.db.pool.acquire().await.unwrap();
    for url in &urls {
        let new = NewEndpoint {
            url: url.clone(),
            event_types: vec!["order.created".to_owned()],
            ..NewEndpoint::default()
        };
        let refused = webhooks::store::create(&mut conn, &world.services.keyring, new, false).await;
        assert!(
            matches!(refused, Err(webhooks::store::Error::Invalid(_))),
            "{url:?} was registered"
        );
    }

    // As if each had been registered before there was a rule, or written into the table by somebody else. The last one has
    // nothing wrong with it but its name server.
    for url in urls.iter().map(String::as_str).chain(["https://hooks.example.com/"]) {
        sqlx::query(
            "insert into webhook_endpoints (id, url, event_types, ordering, secrets)
             values ($1, $2, array['order.created'], 'none', array['whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'])",
        )
        .bind(EndpointId::new().0)
        .bind(url)
        .execute(&mut *conn)
        .await
        .unwrap();
    }
    drop(conn);
    world.tell().await;
    let delivered: Vec<(String, String)> = sqlx::query_as(
        "select e.url, concat_ws(' ', d.state, d.attempts, d.reason) from webhook_deliveries d
         join webhook_endpoints e on e.id = d.endpoint_id",
    )
    .fetch_all(&world.db.pool)
    .await
    .unwrap();
    assert_eq!(delivered.len(), urls.len() + 1);
    for (url, end) in delivered {
        assert!(
            end == "discarded 1 blocked_address" || end == "discarded 1 invalid_url",
            "{url:?}: {end}"
        );
    }
    assert_eq!(names.asked.load(SeqCst), 1, "only the honest name was looked up");
    assert_eq!(canary.visits(), 0);

    // Without the guard the same name does lead there.
    let open = Sender::with_names(true, PATIENCE, Fickle::new([vec![addr]])).unwrap();
    open.post(a_post("https://hooks.example.com/")).await;
    assert!(canary.sings().await);
}

#[tokio::test]
async fn a_name_that_changes_its_mind_leads_nowhere() {
    let canary = Canary::start().await;
    let port = canary.addr.port();
    let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
    let nowhere = SocketAddr::new(NOWHERE, port);
    let scoped = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, 1));
    let answers = [
        // First public, then loopback: the rebinding.
        vec![nowhere],
        vec![canary.addr],
        // A good address among bad ones, in either order.
        vec![nowhere, canary.addr],
        vec![canary.addr, nowhere],
        // Loopback and others in other clothes; an alias (CNAME) of something inside ends in such an answer too.
        vec![at("::1")],
        vec![at("::ffff:127.0.0.1")],
        vec![at("64:ff9b::7f00:1")],
        vec![at("169.254.169.254"), at("10.0.0.1")],
        vec![scoped],
    ];
    let tries = answers.len();
    let names = Fickle::new(answers);
    let world = World::with_sender(Sender::with_names(false, PATIENCE, names.clone()).unwrap()).await;
    world.endpoint("https://hooks.example.com/", None).await;
    for _ in 0..tries {
        world.tell().await;
    }
    let deliveries = world.deliveries().await;
    assert!(deliveries[0].starts_with("pending 1 "), "{deliveries:?}");
    assert!(
        deliveries[1..]
            .iter()
            .all(|line| line == "discarded 1 blocked_address unreachable"),
        "{deliveries:?}"
    );
    // What is dialled is what was looked at: no second question that could be answered otherwise.
    assert_eq!(names.asked.load(SeqCst), tries);
    assert_eq!(canary.visits(), 0);

    let open = Sender::with_names(true, PATIENCE, Fickle::new([vec![canary.addr]])).unwrap();
    open.post(a_post("https://hooks.example.com/")).await;
    assert!(canary.sings().await);
}

#[tokio::test]
async fn no_kind_of_redirect_is_followed() {
    let world = World::new().await;
    let canary = Canary::start().await;
    let mut endpoints = Vec::new();
    for status in [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
    ] {
        let (last, _) = says(head(status, &format!("location: http://{}/\r\n", canary.addr))).await;
        let (first, _) = says(head(
            status,
            &format!("location: http://{last}/\r\nrefresh: 0; url=http://{last}/\r\n"),
        ))
        .await;
        endpoints.push(world.endpoint(&format!("http://{first}/"), None).await);
    }
    world.tell().await;
    assert_eq!(world.deliveries().await, ["pending 1 redirect"; 5]);
    assert_eq!(canary.visits(), 0);
}

const PROXIED: &str = "a_proxy_in_the_environment_is_not_asked";

/// The environment of a process is read once, so the test is a process of its own: this program again, with a proxy for
/// everything in its environment.
#[tokio::test]
async fn a_proxy_in_the_environment_is_not_asked() {
    if std::env::var_os("ALL_PROXY").is_some_and(|proxy| proxy.to_string_lossy().contains("canary@")) {
        let (addr, visits) = says(head("200 OK", "")).await;
        let sender = Sender::with_timeout(true, PATIENCE).unwrap();
        let posted = sender.post(a_post(&format!("http://{addr}/"))).await;
        assert!(matches!(posted, Posted::Answered { status: 200, .. }), "{posted:?}");
        assert_eq!(visits.load(SeqCst), 1);
        return;
    }
    let canary = Canary::start().await;
    let proxy = format!("http://canary@{}", canary.addr);
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args([&format!("egress::{PROXIED}"), "--exact"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        child.env(name, &proxy).env(name.to_lowercase(), &proxy);
    }
    child.env_remove("NO_PROXY").env_remove("no_proxy");
    let output = child.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(canary.visits(), 0);
}

#[tokio::test]
async fn a_receiver_cannot_cost_more_than_the_bounds() {
    let world = World::new().await;
    // A thousand bytes that say they are gzip: nothing here would unpack them. The request did not ask for them either.
    let bomb = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00".to_vec();
    let (packed, _) = says(Some(bomb)).await;
    // A megabyte of headers.
    let mut headers = b"HTTP/1.1 200 OK\r\n".to_vec();
    for n in 0..1024 {
        headers.extend(format!("x-{n}: {}\r\n", "x".repeat(1000)).into_bytes());
    }
    headers.extend(b"content-length: 0\r\n\r\n");
    let (wordy, _) = says(Some(headers)).await;
    let (drip, heard) = drips().await;
    for addr in [packed, wordy, drip] {
        world.endpoint(&format!("http://{addr}/"), None).await;
    }
    world.tell().await;
    assert_eq!(
        world.deliveries().await,
        ["delivered 1", "pending 1 no_answer", "pending 1 timeout"]
    );
    let request = heard.lock().unwrap().to_ascii_lowercase();
    assert!(request.starts_with("post / http/1.1"), "{request}");
    for uninvited in ["accept-encoding", "cookie", "authorization", "referer"] {
        assert!(!request.contains(uninvited), "{request}");
    }
}

/// A receiver that sends its headers a byte at a time, and never comes to their end. Also what it was sent.
async fn drips() -> (SocketAddr, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(String::new()));
    let hears = Arc::clone(&heard);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 16 * 1024];
        let length = stream.read(&mut request).await.unwrap();
        *hears.lock().unwrap() = String::from_utf8_lossy(&request[..length]).into_owned();
        let start: &[u8] = b"HTTP/1.1 200 OK\r\nx: ";
        for byte in start.iter().chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    (addr, heard)
}
