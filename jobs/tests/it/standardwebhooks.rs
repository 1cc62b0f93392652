//! The libraries that partners verify with, npm's and PyPI's `standardwebhooks`, each in a receiver of its own that the real
//! job delivers to: they accept every delivery, whatever is being rotated, and nothing that was changed on the way or is old.
//!
//! `fleet-tests/clients/setup` installs them. Without that these tests say so and pass, unless
//! `ORDERFLEET_CLIENTS=required`, which is how CI runs them.

use std::{path::PathBuf, process::Stdio, sync::Arc, sync::Mutex, time::Duration};

use domain::webhooks::{
    Posted, Sender,
    egress::Post,
    sign::{self, Signing},
    store::{self, Rotation},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(30);
const LANGUAGES: [&str; 2] = ["node", "python"];

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fleet-tests/clients/standardwebhooks")
}

/// Whether both libraries are there.
fn are_installed() -> bool {
    let parts = ["node_modules/standardwebhooks", ".venv/bin/python"];
    let Some(missing) = parts.into_iter().find(|part| !home().join(part).exists()) else {
        return true;
    };
    let reason = format!("standardwebhooks/{missing} is not there: run fleet-tests/clients/setup");
    assert!(
        std::env::var_os("ORDERFLEET_CLIENTS").is_none_or(|word| word != "required"),
        "{reason}"
    );
    println!("skipped: {reason}");
    false
}

/// What a receiver says of one request.
#[derive(Debug, Clone, Deserialize)]
struct Heard {
    id: String,
    timestamp: String,
    signature: String,
    body: String,
    refused: Option<String>,
}

/// A receiver that runs; killed when dropped.
struct Receiver {
    port: u16,
    heard: Arc<Mutex<Vec<Heard>>>,
    _child: Child,
}

impl Receiver {
    async fn start(language: &str, secret: &str) -> Receiver {
        let home = home();
        let (interpreter, script) = match language {
            "node" => (PathBuf::from("node"), "receiver.mjs"),
            _ => (home.join(".venv/bin/python"), "receiver.py"),
        };
        let mut child = Command::new(interpreter)
            .arg(script)
            .arg(secret)
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{language} does not start ({error}): run fleet-tests/clients/setup once"));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .unwrap()
            .unwrap();
        let port = port.expect("the receiver says its port").parse().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                hears.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Receiver {
            port,
            heard,
            _child: child,
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// The first so many requests, once they are there.
    async fn heard(&self, count: usize) -> Vec<Heard> {
        let there = async {
            loop {
                let heard = self.heard.lock().unwrap().clone();
                if heard.len() >= count {
                    return heard;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.expect("the requests")
    }

    /// Sends that once more, and returns the status.
    async fn repeat(&self, request: &Heard) -> u16 {
        let Heard {
            id,
            timestamp,
            signature,
            body,
            ..
        } = request;
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\nwebhook-id: {id}\r\n\
             webhook-timestamp: {timestamp}\r\nwebhook-signature: {signature}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

fn rotation(secret: &str, overlap_hours: Option<i32>) -> Rotation {
    Rotation {
        secret: Some(secret.to_owned()),
        overlap_hours,
        ..Rotation::default()
    }
}

#[tokio::test]
async fn the_libraries_verify_every_delivery_also_while_a_secret_is_rotated() {
    if !are_installed() {
        return;
    }
    let world = World::new().await;
    let (old, new) = (sign::generate_secret(), sign::generate_secret());
    let other_kind = sign::generate(Signing::Ed25519);
    let mut olds = Vec::new();
    let mut news = Vec::new();
    for language in LANGUAGES {
        olds.push(Receiver::start(language, &old).await);
        news.push(Receiver::start(language, &new).await);
    }

    // One secret: those who know it accept.
    let mut ids = Vec::new();
    for receiver in &olds {
        ids.push(world.endpoint(&receiver.url(), Some(old.clone())).await);
    }
    world.tell().await;
    // Two secrets: whoever has changed already accepts, and whoever has not.
    let mut conn = world.db.pool.acquire().await.unwrap();
    for receiver in &news {
        ids.push(world.endpoint(&receiver.url(), Some(old.clone())).await);
    }
    for id in &ids {
        store::rotate(&mut conn, &world.services.keyring, *id, rotation(&new, None))
            .await
            .unwrap();
    }
    world.tell().await;
    // Three, of which one is of a kind that these libraries do not know.
    for id in &ids {
        store::rotate(&mut conn, &world.services.keyring, *id, rotation(&other_kind, None))
            .await
            .unwrap();
    }
    world.tell().await;
    assert_eq!(world.deliveries().await, ["delivered 1"; 10]);
    for (receivers, count) in [(&olds, 3), (&news, 2)] {
        for receiver in receivers {
            for (heard, signatures) in receiver.heard(count).await.iter().zip(4 - count..) {
                assert_eq!(heard.refused, None);
                assert_eq!(heard.signature.split(' ').count(), signatures, "{heard:?}");
            }
        }
    }

    // The overlap is over, and then it is cut short: the old secret signs nothing any more.
    let expire = "update webhook_endpoints set old_secrets_until = clock_timestamp()";
    world.execute(expire).await;
    for id in &ids {
        store::rotate(&mut conn, &world.services.keyring, *id, rotation(&new, Some(0)))
            .await
            .unwrap();
    }
    drop(conn);
    world.tell().await;
    let last = world.deliveries().await.split_off(10);
    assert_eq!(last.iter().filter(|end| *end == "delivered 1").count(), 2, "{last:?}");
    assert_eq!(
        last.iter().filter(|end| *end == "pending 1 client_error").count(),
        2,
        "{last:?}"
    );
    for receiver in &olds {
        let refused = receiver.heard(4).await[3].refused.clone();
        assert!(refused.is_some_and(|why| why.contains("No matching signature")));
    }
}

#[tokio::test]
async fn the_libraries_refuse_what_was_changed_and_what_is_old() {
    if !are_installed() {
        return;
    }
    let world = World::new().await;
    let secret = sign::generate_secret();
    let mut receivers = Vec::new();
    for language in LANGUAGES {
        let receiver = Receiver::start(language, &secret).await;
        world.endpoint(&receiver.url(), Some(secret.clone())).await;
        receivers.push(receiver);
    }
    world.tell().await;
    assert_eq!(world.deliveries().await, ["delivered 1"; 2]);

    for receiver in &receivers {
        let sent = receiver.heard(1).await[0].clone();
        assert_eq!(receiver.repeat(&sent).await, 204, "what came is repeated as it came");
        let changes: [fn(&mut Heard); 5] = [
            |it| it.body = it.body.replace("order", "0rder"),
            |it| it.body.push(' '),
            |it| it.id.push('x'),
            |it| it.timestamp = (it.timestamp.parse::<i64>().unwrap() + 1).to_string(),
            |it| it.signature = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned(),
        ];
        for change in changes {
            let mut changed = sent.clone();
            change(&mut changed);
            assert_eq!(receiver.repeat(&changed).await, 401, "{changed:?}");
        }
    }

    // By the sender itself, with another time.
    let sender = Sender::with_timeout(true, PATIENCE).unwrap();
    let now = chrono::Utc::now().timestamp();
    for receiver in &receivers {
        for (offset, expected) in [(-900, 401), (-330, 401), (-240, 204), (240, 204), (330, 401)] {
            let posted = sender
                .post(Post {
                    url: &receiver.url(),
                    webhook_id: "evt",
                    timestamp: now + offset,
                    secrets: std::slice::from_ref(&secret),
                    body: "{}".to_owned(),
                    traceparent: None,
                })
                .await;
            assert!(
                matches!(posted, Posted::Answered { status, .. } if status == expected),
                "{offset}: {posted:?}"
            );
        }
    }
}
