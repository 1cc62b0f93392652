//! The official clients, unmodified, as testers: what they accept, ours must too.
//!
//! `fleet-tests/clients/setup` installs them. Without that these tests say so and pass, unless
//! `ORDERFLEET_CLIENTS=required`, which is how `cargo xtask contract` and CI run them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use simulator::gateway::{self, Running};
use tempfile::TempDir;
use tokio::process::Command;

const TIMEOUT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn stripes_node_client_is_content_with_the_simulator() {
    if let Some(node) = installed("node", "node_modules/stripe") {
        contract(&node, "check.mjs", 13).await;
    }
}

#[tokio::test]
async fn stripes_python_client_is_content_with_the_simulator() {
    if let Some(python) = installed(".venv/bin/python", ".venv/installed") {
        contract(&python, "check.py", 14).await;
    }
}

/// A gateway with a folder of its own.
pub(crate) async fn a_gateway() -> (Running, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = gateway::Config {
        port: 0,
        ledger: folder.path().join("ledger.jsonl"),
        seed: 7,
    };
    (gateway::start(config).await.unwrap(), folder)
}

/// The program that runs Stripe's client; none, with the reason, when that is not installed.
pub(crate) fn installed(program: &str, witness: &str) -> Option<PathBuf> {
    if folder().join(witness).exists() {
        let inside = folder().join(program);
        return Some(if inside.exists() { inside } else { program.into() });
    }
    let reason = format!("{witness} is not there: run fleet-tests/clients/setup, or cargo xtask contract");
    assert!(
        std::env::var_os("ORDERFLEET_CLIENTS").is_none_or(|word| word != "required"),
        "{reason}"
    );
    println!("skipped: {reason}");
    None
}

/// Runs a script beside Stripe's client; answers what it printed.
pub(crate) async fn run(program: &Path, script: &str, argument: &str) -> String {
    let child = Command::new(program)
        .args([script, argument])
        .current_dir(folder())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await;
    let output = output.expect("the script took too long").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}\n{said}\n{errors}", output.status);
    said
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/stripe")
}

/// Runs the checks of one client, and asks the ledger whether what must have happened once has.
async fn contract(program: &Path, script: &str, checks: usize) {
    let (gateway, _folder) = a_gateway().await;
    let said = run(program, script, &gateway.url()).await;
    assert_eq!(
        said.lines().filter(|line| line.starts_with("ok ")).count(),
        checks,
        "{said}"
    );
    let ledger = gateway.ledger().unwrap();
    let once: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("once ")).collect();
    assert!(once.len() >= 8, "{said}");
    for intent in once {
        assert_eq!(
            count(&ledger, intent, "confirm"),
            1,
            "{intent} was confirmed more than once"
        );
        assert!(
            count(&ledger, intent, "capture") <= 1,
            "{intent} was captured more than once"
        );
    }
    gateway.stop().await.unwrap();
}

fn count(ledger: &[Value], intent: &str, op: &str) -> usize {
    let is_it = |line: &&Value| line["intent"] == intent && line["op"] == op && line["outcome"] == "ok";
    ledger.iter().filter(is_it).count()
}
