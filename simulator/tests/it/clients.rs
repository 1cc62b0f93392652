//! Stripe's own clients and the Standard Webhooks libraries as testers of the simulator: what they accept, ours must too.
//!
//! They are installed once, into the target folder. A machine without Python or Node skips with the reason.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use simulator::receiver;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::support::Sandbox;

const SECRET: &str = "whsec_Y2xpZW50cy1zZWNyZXQtY2xpZW50cy1zZWNyZXQ=";
const CHECKS: usize = 8;
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// One client at a time: they share two cores with everything else.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn stripes_python_client_is_content() {
    let _turn = TURN.lock().await;
    let home = home("python", &["requirements.txt", "check.py"]);
    let python = home.join("venv/bin/python");
    let steps = [
        vec!["python3", "-m", "venv", "--clear", "venv"],
        vec![
            "venv/bin/python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            "requirements.txt",
        ],
    ];
    match installed(&home, "requirements.txt", &steps, "venv/bin/python").await {
        Ok(()) => check(&home, python.to_str().unwrap(), "check.py").await,
        Err(reason) => println!("skipped: {reason}"),
    }
}

#[tokio::test]
async fn stripes_node_client_is_content() {
    let _turn = TURN.lock().await;
    let home = home("node", &["package.json", "package-lock.json", "check.js"]);
    let steps = [vec![
        "npm",
        "ci",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--loglevel=error",
    ]];
    match installed(&home, "package-lock.json", &steps, "node").await {
        Ok(()) => check(&home, "node", "check.js").await,
        Err(reason) => println!("skipped: {reason}"),
    }
}

/// A folder under the target folder with copies of `files`.
fn home(name: &str, files: &[&str]) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("simulator-clients")
        .join(name);
    std::fs::create_dir_all(&home).unwrap();
    for file in files {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file);
        std::fs::copy(source, home.join(file)).unwrap();
    }
    home
}

/// Installs what `list` names, unless that was done before and still starts; answers why it can't be done.
async fn installed(home: &Path, list: &str, steps: &[Vec<&str>], interpreter: &str) -> Result<(), String> {
    let done = home.join("installed");
    let wanted = std::fs::read(home.join(list)).unwrap();
    // The interpreter of another user, or one that was upgraded away, is behind a link that leads nowhere.
    let starts = finished(home, &[interpreter, "--version"], CHECK_TIMEOUT).await.is_ok();
    if starts && std::fs::read(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    for step in steps {
        let status = finished(home, step, INSTALL_TIMEOUT).await?;
        if !status.success() {
            return Err(format!(
                "{} ended with {status}; is the package registry reachable?",
                step.join(" ")
            ));
        }
    }
    std::fs::write(done, wanted).unwrap();
    Ok(())
}

/// Runs a script of checks against a gateway and a receiver of its own.
async fn check(home: &Path, interpreter: &str, script: &str) {
    let sandbox = Sandbox::new().await;
    let log = sandbox.folder().join("receiver.jsonl");
    let receiver = receiver::start(receiver::Config {
        port: 0,
        log,
        secrets: vec![SECRET.to_owned()],
    })
    .await
    .unwrap();
    let (gateway, hook) = (sandbox.gateway.url(), receiver.url("demo"));
    let step = [interpreter, script, &gateway, &hook, SECRET];
    let status = finished(home, &step, CHECK_TIMEOUT).await.unwrap();
    let output = std::fs::read_to_string(home.join("output.txt")).unwrap();
    assert!(status.success(), "{output}");
    assert_eq!(
        output.lines().filter(|line| line.starts_with("ok ")).count(),
        CHECKS,
        "{output}"
    );

    // Each of the two answers that got lost was executed once, and nothing was executed for the stored error.
    assert_eq!(sandbox.count("confirm", "ok"), 4);
    assert_eq!(sandbox.count("confirm", "declined"), 1);
    assert_eq!((sandbox.count("capture", "ok"), sandbox.count("refund", "ok")), (1, 1));
    let verified: Vec<bool> = receiver
        .log()
        .unwrap()
        .iter()
        .map(|line| line["verified"].as_bool().unwrap())
        .collect();
    assert_eq!(verified, [true, false]);
}

/// Runs one command to its end, with what it says in `output.txt`.
async fn finished(home: &Path, step: &[&str], timeout: Duration) -> Result<ExitStatus, String> {
    let output = std::fs::File::create(home.join("output.txt")).unwrap();
    let mut child = Command::new(step[0])
        .args(&step[1..])
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{} can't be started: {error}", step[0]))?;
    match tokio::time::timeout(timeout, child.wait()).await {
        Ok(status) => Ok(status.unwrap()),
        Err(_) => Err(format!("{} took longer than {timeout:?}", step.join(" "))),
    }
}
