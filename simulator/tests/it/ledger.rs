//! The ledger on disk: killed processes, torn ends, a second process, damaged lines.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{Client, Sandbox, open, until};

const LEDGER: &str = "SIMULATOR_TEST_LEDGER";

/// The test starts itself as a process that is only a gateway, so that there is something to kill.
#[tokio::test]
async fn what_was_answered_survives_kill_9() {
    if let Some(ledger) = std::env::var_os(LEDGER) {
        let gateway = open(Path::new(&ledger)).await.unwrap();
        println!("listening {}", gateway.addr);
        std::io::stdout().flush().unwrap();
        std::future::pending::<()>().await;
    }
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.jsonl");
    let mut answered: Vec<(String, String, String)> = Vec::new();
    for round in 0..3 {
        let mut process = GatewayProcess::start(&ledger);
        answered.extend(load_until_killed(&mut process, round).await);
    }
    assert!(answered.len() >= 150, "only {} answers in three rounds", answered.len());

    let gateway = open(&ledger).await.unwrap();
    let http = Client::new(gateway.url());
    let lines = gateway.ledger().unwrap();
    for (key, intent, text) in &answered {
        let count = lines
            .iter()
            .filter(|line| line["key"] == key.as_str() && line["outcome"] == "ok")
            .count();
        assert_eq!(count, 1, "{key} was executed {count} times");
        let again = http.act_with_key(key, intent, "confirm").await.unwrap();
        assert!(again.is_replayed());
        assert_eq!(again.text, *text);
    }
    let numbers: Vec<u64> = lines.iter().map(|line| line["n"].as_u64().unwrap()).collect();
    assert!(numbers.iter().enumerate().all(|(at, n)| *n == at as u64 + 1));
}

/// Sixteen clients create and confirm; the gateway is killed among them. Returns the confirmations that were answered.
async fn load_until_killed(process: &mut GatewayProcess, round: usize) -> Vec<(String, String, String)> {
    let count = Arc::new(AtomicUsize::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for worker in 0..16 {
        let (http, count, is_over) = (
            Client::new(process.url.clone()),
            Arc::clone(&count),
            Arc::clone(&is_over),
        );
        tasks.spawn(async move {
            let mut answered = Vec::new();
            for n in 0.. {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                let name = format!("{round}:{worker}:{n}");
                let form = [
                    ("amount", "100"),
                    ("currency", "gbp"),
                    ("capture_method", "manual"),
                    ("payment_method", "pm_card_visa"),
                ];
                let created = http
                    .post_with_key(&format!("create:{name}"), "/v1/payment_intents", &form)
                    .await;
                let Ok(created) = created else { break };
                let id = created.ok()["id"].as_str().unwrap().to_owned();
                let key = format!("confirm:{name}");
                let Ok(confirmed) = http.act_with_key(&key, &id, "confirm").await else {
                    break;
                };
                confirmed.ok();
                count.fetch_add(1, Ordering::SeqCst);
                answered.push((key, id, confirmed.text));
            }
            answered
        });
    }
    until("sixty answers", || count.load(Ordering::SeqCst) >= 60).await;
    process.kill();
    is_over.store(true, Ordering::SeqCst);
    tasks.join_all().await.into_iter().flatten().collect()
}

/// A gateway in a process of its own.
pub(crate) struct GatewayProcess {
    child: Child,
    pub(crate) url: String,
}

impl GatewayProcess {
    pub(crate) fn start(ledger: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ledger::what_was_answered_survives_kill_9", "--nocapture"])
            .env(LEDGER, ledger)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr = lines
            .map_while(Result::ok)
            .find_map(|line| line.split("listening ").nth(1).map(str::to_owned));
        Self {
            child,
            url: format!("http://{}", addr.expect("the gateway says where it listens")),
        }
    }

    /// Waits until it has died by itself.
    pub(crate) fn has_died(mut self) {
        assert!(!self.child.wait().unwrap().success());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_restart_changes_nothing_that_can_be_seen() {
    let sandbox = Sandbox::new().await;
    let refunded = sandbox.authorised("pm_card_visa").await;
    sandbox.http.act(&refunded, "capture").await.ok();
    sandbox
        .http
        .post(
            "/v1/refunds",
            &[("payment_intent", &refunded), ("amount", "1"), ("metadata[why]", "x")],
        )
        .await
        .ok();
    let declined = sandbox.intent("pm_card_chargeDeclinedInsufficientFunds").await;
    assert_eq!(sandbox.http.act(&declined, "confirm").await.status, 402);
    let canceled = sandbox.authorised("pm_card_visa").await;
    sandbox.http.act(&canceled, "cancel").await.ok();
    let paths = [
        "/v1/payment_intents?expand[]=data.latest_charge",
        "/v1/refunds?expand[]=data.charge",
        "/v1/charges",
    ];
    let mut before = Vec::new();
    for path in paths {
        before.push(sandbox.http.get(path).await.ok());
    }
    let sandbox = sandbox.restarted().await;
    for (path, before) in paths.iter().zip(before) {
        assert_eq!(sandbox.http.get(path).await.ok(), before, "{path}");
    }
    let rest = sandbox
        .http
        .post("/v1/refunds", &[("payment_intent", &refunded)])
        .await
        .ok();
    assert_eq!(rest["amount"], 999);
}

#[tokio::test]
async fn a_torn_last_line_is_cut_off_and_reported() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.intent("pm_card_visa").await;
    let ledger = sandbox.gateway.ledger.clone();
    sandbox.gateway.stop().await.unwrap();
    let whole = std::fs::read(&ledger).unwrap();
    append(&ledger, br#"{"n":2,"at":"2026-"#);
    let gateway = open(&ledger).await.unwrap();
    assert_eq!(gateway.torn, [r#"{"n":2,"at":"2026-"#]);
    assert_eq!(std::fs::read(&ledger).unwrap(), whole);
    Client::new(gateway.url()).act(&id, "confirm").await.ok();
    assert_eq!(gateway.ledger().unwrap()[1]["n"], 2);
}

#[tokio::test]
async fn a_damaged_line_in_the_middle_is_refused_with_its_number() {
    let sandbox = Sandbox::new().await;
    sandbox.intent("pm_card_visa").await;
    let ledger = sandbox.gateway.ledger.clone();
    sandbox.gateway.stop().await.unwrap();
    append(&ledger, b"not json\n");
    let error = open(&ledger).await.unwrap_err();
    assert!(
        format!("{error:#}").starts_with(&format!("line 2 of {} is damaged", ledger.display())),
        "{error:#}"
    );
}

#[tokio::test]
async fn a_ledger_in_use_is_refused() {
    let sandbox = Sandbox::new().await;
    let error = open(&sandbox.gateway.ledger).await.unwrap_err();
    assert!(error.to_string().contains("is in use by another process"), "{error}");
    let sandbox = sandbox.restarted().await;
    sandbox.intent("pm_card_visa").await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_created_and_a_file_in_its_way_is_named() {
    let sandbox = Sandbox::new().await;
    let deep: PathBuf = sandbox.folder().join("a/b/ledger.jsonl");
    open(&deep).await.unwrap().stop().await.unwrap();
    let error = open(&deep.join("ledger.jsonl")).await.unwrap_err();
    assert!(format!("{error:#}").contains("b/ledger.jsonl"), "{error:#}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let sandbox = Sandbox::new().await;
    let port = sandbox.gateway.addr.port();
    let config = simulator::gateway::Config {
        port,
        ledger: sandbox.folder().join("other.jsonl"),
        seed: 0,
    };
    let error = simulator::gateway::run(config, None, std::future::pending())
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains(&format!("127.0.0.1:{port}")), "{error:#}");
}

#[tokio::test]
async fn a_seed_makes_the_ids_of_a_new_ledger_repeatable() {
    let (one, two) = (Sandbox::new().await, Sandbox::new().await);
    assert_eq!(one.intent("pm_card_visa").await, two.intent("pm_card_visa").await);
    let next = one.restarted().await.intent("pm_card_visa").await;
    assert_eq!(next, two.intent("pm_card_visa").await);
}

#[tokio::test]
async fn every_line_has_what_checkers_read() {
    let sandbox = Sandbox::new().await;
    let id = sandbox.intent("pm_card_chargeDeclined").await;
    sandbox
        .http
        .act_with_key("confirm:p:1", &id, "confirm")
        .await
        .unwrap()
        .error(402);
    let line = &sandbox.gateway.ledger().unwrap()[1];
    let expected = serde_json::json!({
        "n": 2, "key": "confirm:p:1", "op": "confirm", "intent": id, "refund": null, "amount": 1000, "currency": "gbp",
        "outcome": "declined", "code": "card_declined", "intent_status": "requires_payment_method", "amount_received": 0,
        "metadata": {},
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(line.get(name), Some(value), "{name}");
    }
    let text = |name: &str| line[name].as_str().map(str::to_owned).unwrap();
    assert!(text("request_id").starts_with("req_"));
    assert_eq!(text("params_sha256").len(), 64);
    assert!(text("at").ends_with('Z'));
    let first: &Value = &sandbox.gateway.ledger().unwrap()[0];
    assert_eq!(first["key"], Value::Null);
}

fn append(path: &Path, bytes: &[u8]) {
    std::fs::OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(bytes)
        .unwrap();
}
