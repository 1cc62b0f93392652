//! `up`, from outside: orders go through while its processes are killed, and nothing is left behind when it ends.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::fleet::{Fleet, signal};

/// A small file with a row of each sort: 40 invoices of two lines, one cancellation, one postage, one note.
fn a_sheet(path: &Path) {
    let mut text = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n".to_owned();
    for n in 0..40 {
        let customer = 17_850 + n % 7;
        text += &format!(
            "{},85123A,HEART,2,2010-12-01T08:26:00,2.55,{customer},United Kingdom\n",
            536_365 + n
        );
        text += &format!(
            "{},{},LANTERN,1,2010-12-01T08:26:00,3.39,,France\n",
            536_365 + n,
            71_053 + n % 5
        );
    }
    text += "C536379,85123A,HEART,-1,2010-12-01T09:41:00,2.55,14527,United Kingdom\n";
    text += "536400,POST,POSTAGE,1,2010-12-01T09:41:00,18,14527,France\n";
    text += "536401,22139,damaged?,5,2010-12-01T09:41:00,0,,United Kingdom\n";
    std::fs::write(path, text).unwrap();
}

fn is_alive(pid: u32) -> bool {
    // A zombie still has its entry, and is gone all the same.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

/// Waits until none of these lives.
fn gone(pids: impl IntoIterator<Item = u32>) {
    let deadline = Instant::now() + Duration::from_secs(30);
    for pid in pids {
        while is_alive(pid) {
            assert!(Instant::now() < deadline, "process {pid} is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Kills the process of a role and waits for its successor.
fn kill(fleet: &Fleet, role: &str) {
    let before = fleet.pids()[role];
    signal(before, Signal::KILL);
    let deadline = Instant::now() + Duration::from_secs(30);
    while fleet.pids().get(role).is_none_or(|pid| *pid == before) {
        assert!(Instant::now() < deadline, "{role} was not started again");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_import_survives_the_kill_of_a_worker_and_of_the_api() {
    let fleet = Fleet::start(&["--no-demo", "--cancel-window", "0"]);
    let sheet = fleet.file("sheet.csv");
    a_sheet(&sheet);
    let mut import = fleet
        .command(["import", "online-retail", sheet.to_str().unwrap()])
        .spawn()
        .unwrap();
    for role in ["worker-stock", "api", "worker-payments"] {
        kill(&fleet, role);
    }
    assert!(import.wait().unwrap().success());

    let results = std::fs::read_to_string(fleet.file("sheet.results.csv")).unwrap();
    assert_eq!(
        results.lines().count(),
        1 + 83,
        "one result row for each of the 83 input rows"
    );
    assert_eq!(results.lines().filter(|line| line.contains(",imported,")).count(), 80);
    let again = fleet.run(["import", "online-retail", sheet.to_str().unwrap()]);
    assert!(again.contains("sent now 40 (40 of them replays)"), "{again}");
    let resumed = fleet.run(["import", "online-retail", sheet.to_str().unwrap(), "--resume"]);
    assert!(
        resumed.contains("sent now 0 (0 of them replays), known from before 40"),
        "{resumed}"
    );

    fleet.run(["drain", "--timeout", "60"]);
    let limits: serde_json::Value = serde_json::from_str(&fleet.run(["limits", "list", "--json"])).unwrap();
    for (at, name) in ["endpoint", "gateway"].into_iter().enumerate() {
        let limit = &limits[at];
        assert_eq!((&limit["name"], &limit["actor"]), (&name.into(), &"build".into()));
        assert_eq!(
            (&limit["parked"], &limit["open_breakers"]),
            (&0.into(), &0.into()),
            "{name}"
        );
    }
    let (ledger, receiver) = (fleet.file("gateway-ledger.jsonl"), fleet.file("receiver.jsonl"));
    fleet.run([
        "verify",
        "--ledger",
        ledger.to_str().unwrap(),
        "--receiver",
        receiver.to_str().unwrap(),
    ]);

    let pids = fleet.pids();
    assert!(fleet.stop().success());
    gone(pids.into_values());
}

#[test]
fn nothing_outlives_an_up_that_is_killed() {
    let fleet = Fleet::start(&["--no-demo"]);
    let pids = fleet.pids();
    for role in [
        "up",
        "api",
        "worker-stock",
        "gateway-simulator",
        "webhook-receiver",
        "postgres",
    ] {
        assert!(pids.contains_key(role), "{role} is in pids.json");
    }
    signal(pids["up"], Signal::KILL);
    gone(pids.into_values());
}
