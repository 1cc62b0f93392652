//! `orderfleet webhooks`, `partners` and `secrets`, as an operator types them.

use std::process::{Command, Output};

use domain::keyring::{self, Keyring};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use testkit::Database;

/// A database, and the master key of its installation.
struct Desk {
    db: Database,
    key: SecretString,
}

impl Desk {
    async fn new() -> Desk {
        Desk {
            db: Database::new().await,
            key: keyring::new_key(),
        }
    }

    fn types(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_orderfleet"))
            .args(args)
            .env_clear()
            .env("DATABASE_URL", &self.db.url)
            .env("ORDERFLEET_MASTER_KEY", self.key.expose_secret())
            .env("ORDERFLEET_GATEWAY_KEY", "sk_test_none")
            .env("USER", "ann")
            .output()
            .unwrap()
    }

    fn said(&self, line: &str) -> String {
        let output = self.types(&line.split(' ').collect::<Vec<_>>());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.said(&format!("{line} --json"))).unwrap()
    }

    fn refusal(&self, line: &str) -> String {
        let output = self.types(&line.split(' ').collect::<Vec<_>>());
        assert!(!output.status.success(), "{line} was not refused");
        String::from_utf8(output.stderr).unwrap()
    }

    async fn run(&self, sql: &'static str) {
        sqlx::query(sql).execute(&self.db.pool).await.unwrap();
    }
}

/// What a master key is called.
fn name(key: &SecretString) -> String {
    let ring = Keyring::new(std::slice::from_ref(key)).unwrap();
    ring.names().next().unwrap().to_owned()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

const CREATE: &str = "webhooks create https://hooks.example.com/orders --event order.*";

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_registers_changes_pauses_and_deletes_an_endpoint() {
    let desk = Desk::new().await;
    let made = desk.json(&format!("{CREATE} --ordering strict --dead-head block --concurrency 2"));
    let id = text(&made, "id");
    assert!(text(&made, "secret").starts_with("whsec_"), "{made}");
    assert_eq!((text(&made, "ordering"), text(&made, "dead_head")), ("strict", "block"));
    let limits = desk.json("limits list");
    assert!(limits.to_string().contains(&format!("endpoint/{id}")), "{limits}");

    let listed = desk.said("webhooks");
    assert!(
        listed.contains(id) && listed.contains("strict, block") && !listed.contains("whsec_"),
        "{listed}"
    );
    let changed = desk.json(&format!(
        "webhooks change {id} --dead-head skip --concurrency 0 --event payment.*"
    ));
    assert_eq!(
        (text(&changed, "dead_head"), &changed["concurrency"]),
        ("skip", &Value::Null)
    );
    assert_eq!(changed["event_types"], serde_json::json!(["payment.*"]));

    let rotated = desk.json(&format!("webhooks rotate {id} --signing ed25519 --overlap-hours 0"));
    assert_eq!(rotated["secret"], Value::Null, "a private key is nobody's but ours");
    let shown = desk.said(&format!("webhooks show {id}"));
    assert!(shown.contains(text(&rotated, "public_key")), "{shown}");

    desk.said(&format!("webhooks pause {id} --reason moving"));
    let shown = desk.json(&format!("webhooks show {id}"));
    assert_eq!(
        (text(&shown, "state"), text(&shown, "disabled_reason")),
        ("disabled", "by ann: moving")
    );
    assert!(desk.refusal(&format!("webhooks test {id}")).contains("webhooks resume"));
    let resumed = desk.said(&format!("webhooks resume {id}"));
    assert!(resumed.contains("webhooks replay"), "{resumed}");
    desk.said(&format!("webhooks delete {id}"));
    assert!(
        desk.refusal(&format!("webhooks show {id}"))
            .contains("there is no endpoint")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_was_sent_and_sends_it_again() {
    let desk = Desk::new().await;
    let made = desk.json(CREATE);
    let id = text(&made, "id");
    for _ in 0..3 {
        desk.said(&format!("webhooks test {id}"));
    }
    let all = desk.json(&format!("webhooks deliveries {id} --limit 2"));
    let [last, second] = all.as_array().unwrap().as_slice() else {
        panic!("{all}")
    };
    let first = desk.json(&format!("webhooks deliveries {id} --before {}", second["seq"]));
    assert_eq!(first.as_array().unwrap().len(), 1, "the page after: {first}");
    let delivery = text(last, "id");
    assert!(
        desk.refusal(&format!("webhooks resend {delivery}"))
            .contains("it is sent anyway")
    );

    desk.run("delete from queue.jobs").await;
    desk.run("delete from queue.unique_keys").await;
    desk.run("update webhook_deliveries set state = 'dead', reason = 'http_500'")
        .await;
    let dead = desk.said(&format!("webhooks deliveries {id} --state dead"));
    assert_eq!(dead.matches("http_500").count(), 3, "{dead}");
    desk.said(&format!("webhooks discard {delivery} --reason nobody-waits"));
    let tried = desk.json(&format!("webhooks attempts {delivery}"));
    assert_eq!(
        (text(&tried, "state"), text(&tried, "reason")),
        ("discarded", "by ann: nobody-waits")
    );
    assert!(
        desk.refusal(&format!("webhooks discard {delivery} --reason x"))
            .contains("only a dead one")
    );
    desk.said(&format!("webhooks resend {delivery}"));
    assert_eq!(
        desk.said(&format!("webhooks replay {id} --since 1h")),
        "2 deliveries are sent again\n"
    );
    assert_eq!(
        desk.said(&format!("webhooks replay {id} --since 1h")),
        "0 deliveries are sent again\n"
    );
    let jobs: i64 = sqlx::query_scalar("select count(*) from queue.jobs where kind = 'deliver_webhook'")
        .fetch_one(&desk.db.pool)
        .await
        .unwrap();
    assert_eq!(jobs, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_makes_pauses_and_tests_a_partner() {
    let desk = Desk::new().await;
    let made = desk.json("partners create acme --event order.*");
    assert_eq!(text(&made, "inbound_path"), "/webhooks/in/acme");
    let again = desk.refusal("partners create acme");
    assert!(again.contains("there is a partner of that name"), "{again}");
    let beyond = desk.refusal("webhooks create https://hooks.example.com/ --event payment.* --partner acme");
    assert!(beyond.contains("its partner may ask for"), "{beyond}");
    let endpoint = desk.json(&format!("{CREATE} --partner acme"));
    assert_eq!(desk.json("webhooks list --partner acme").as_array().unwrap().len(), 1);
    assert_eq!(desk.json("partners test acme").as_array().unwrap().len(), 1);
    assert!(text(&desk.json("partners key acme"), "key").len() > 40);
    let secret = desk.json("partners rotate acme --overlap-hours 0");
    assert_ne!(text(&secret, "inbound_secret"), text(&made, "inbound_secret"));

    desk.said("partners pause acme --reason unpaid");
    let shown = desk.json("partners show acme");
    assert_eq!(
        (text(&shown, "state"), text(&shown, "paused_reason")),
        ("paused", "by ann: unpaid")
    );
    let of_endpoint = format!("webhooks show {}", text(&endpoint, "id"));
    assert_eq!(text(&desk.json(&of_endpoint), "state"), "disabled");
    assert_eq!(
        desk.said("partners resume acme"),
        "resumed acme; 1 endpoints are sent to again\n"
    );
    assert_eq!(text(&desk.json(&of_endpoint), "state"), "active");
    assert_eq!(desk.json("partners inbound acme"), serde_json::json!([]));
    assert!(
        desk.refusal("partners show nobody")
            .contains("there is no partner nobody")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let desk = Desk::new().await;
    for (line, why) in [
        ("webhooks create http://127.0.0.1/ --event *", "the address"),
        (
            "webhooks create https://hooks.example.com/ --event order",
            "an event type is",
        ),
        (
            "webhooks create https://hooks.example.com/ --event * --ordering none --dead-head block",
            "there is no line to block",
        ),
        (
            "webhooks create https://hooks.example.com/ --event * --partner acme",
            "there is no partner acme",
        ),
        ("webhooks show 7", "invalid value"),
        (
            "webhooks replay 01990b2e-7c41-7d2a-9d0c-6f3f5e2a1b77 --since yesterday",
            "how long ago, as 6h",
        ),
        ("partners create Acme", "a name has"),
    ] {
        let said = desk.refusal(line);
        assert!(said.contains(why), "{line}: {said}");
    }
    assert_eq!(desk.json("webhooks"), serde_json::json!([]));
    assert_eq!(desk.json("partners"), serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_with_a_wrong_master_key_and_a_new_one_is_brought_in_by_reseal() {
    let mut desk = Desk::new().await;
    desk.said("partners create acme");
    desk.said(CREATE);
    let (old, new) = (desk.key.clone(), keyring::new_key());
    let listed = desk.said("secrets");
    assert!(
        listed.contains(&format!("{}  1          1         seals", name(&old))),
        "{listed}"
    );

    desk.key = new.clone();
    for line in ["api --listen 127.0.0.1:0", "worker --pool webhooks", "secrets reseal"] {
        let said = desk.refusal(line);
        let why = format!("2 webhook secrets are sealed with master key {}", name(&old));
        assert!(
            said.contains(&why) && said.contains("orderfleet secrets --help"),
            "{said}"
        );
    }
    let output = desk.types(&["secrets"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("MISSING"));
    let doctor = String::from_utf8(desk.types(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("2 of 2 do not open"), "{doctor}");

    desk.key = format!("{},{}", new.expose_secret(), old.expose_secret()).into();
    assert_eq!(
        desk.said("secrets reseal --step 1"),
        format!("sealed 2 secrets with {}\n", name(&new))
    );
    desk.key = new;
    desk.said("secrets");
    assert_eq!(
        desk.said("secrets reseal"),
        format!("sealed 0 secrets with {}\n", name(&desk.key))
    );
}
