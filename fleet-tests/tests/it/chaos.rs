//! Parts of the fleet are killed while it works, and nothing comes out wrong.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::Signal;

use crate::fleet::{Fleet, assert_success, signal};

const INVOICES: u32 = 80;

/// The killing goes on until the import is through, and no longer than this.
const CHAOS_MAX: Duration = Duration::from_secs(60);

/// Where the random choices begin: another seed is another run.
const SEED: u64 = 7;

#[test]
fn an_import_comes_through_while_workers_are_killed_and_the_database_is_cut_off() {
    let fleet = Fleet::start(&["--no-demo", "--cancel-window", "0"]);
    let csv = fleet.file("orders.csv");
    let rows = write_orders(&csv);

    // Slow enough to be killed in the middle of.
    let mut import = fleet.command(["import", "online-retail", csv.to_str().unwrap(), "--rate", "8"]);
    let mut importing = import.spawn().unwrap();
    let killed = kill_until(&fleet, || importing.try_wait().unwrap().is_some());
    let output = importing.wait_with_output().unwrap();
    assert_success(&import, &output);
    assert!(
        killed.workers > 3 && killed.databases == 1,
        "too quiet to prove anything: {killed:?}"
    );

    fleet.run(["drain", "--timeout", "120"]);
    let ledger = fleet.file("gateway-ledger.jsonl");
    let log = fleet.file("receiver.jsonl");
    fleet.run([
        "verify",
        "--ledger",
        ledger.to_str().unwrap(),
        "--receiver",
        log.to_str().unwrap(),
    ]);

    let results = std::fs::read_to_string(fleet.file("orders.results.csv")).unwrap();
    assert_eq!(
        results.lines().count(),
        rows + 1,
        "a result for every row, and the heading"
    );
    assert!(fleet.stop().success());
}

#[derive(Debug, Default)]
struct Killed {
    workers: u32,
    databases: u32,
}

/// kill -9 of a random worker every half second, and once the database, in the middle, as a crash would end it.
fn kill_until(fleet: &Fleet, is_over: impl FnMut() -> bool) -> Killed {
    let mut is_over = is_over;
    let mut random = rand::rngs::StdRng::seed_from_u64(SEED);
    let mut killed = Killed::default();
    let start = Instant::now();
    while !is_over() && start.elapsed() < CHAOS_MAX {
        let pids = fleet.pids();
        let workers: Vec<u32> = pids
            .iter()
            .filter(|(role, _)| role.starts_with("worker"))
            .map(|(_, pid)| *pid)
            .collect();
        if let Some(pid) = workers.choose(&mut random) {
            signal(*pid, Signal::KILL);
            killed.workers += 1;
        }
        if killed.databases == 0
            && start.elapsed() > Duration::from_secs(3)
            && let Some(pid) = pids.get("postgres")
        {
            signal(*pid, Signal::QUIT);
            killed.databases += 1;
        }
        // Time for work between two blows; what is waited for is the end of the import.
        std::thread::sleep(Duration::from_millis(500));
    }
    killed
}

/// Invoices in the format of the real input, with rows that are refused among them. Returns how many rows.
fn write_orders(path: &Path) -> usize {
    let mut random = rand::rngs::StdRng::seed_from_u64(SEED);
    let mut text = String::from("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n");
    let mut rows = 0;
    for invoice in 0..INVOICES {
        let (lines, customer) = (random.random_range(1..=5), random.random_range(17_000..17_010));
        for line in 0..lines {
            let product = random.random_range(0..20);
            let (qty, price) = (random.random_range(1..=12), random.random_range(1..=9));
            let _ = writeln!(
                text,
                "{},P{product:03},PRODUCT {product},{qty},2010-12-01T08:{:02}:00,{price}.50,{customer},United Kingdom",
                500_000 + invoice,
                line % 60
            );
            rows += 1;
        }
    }
    // A cancellation and a row without a price: no orders, and results all the same.
    text.push_str("C500000,P001,PRODUCT 1,-1,2010-12-01T09:00:00,1.50,17001,United Kingdom\n");
    text.push_str("500999,P001,PRODUCT 1,1,2010-12-01T09:00:00,0.00,17001,United Kingdom\n");
    std::fs::write(path, text).unwrap();
    rows + 2
}
