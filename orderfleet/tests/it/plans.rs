//! `orderfleet routes plan|show|export`, as a planner types them.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use domain::services::Settings;
use domain::{Services, payments, webhooks};
use testkit::Database;

fn command(db: &Database, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orderfleet"));
    command
        .arg("routes")
        .args(args)
        .env_clear()
        .env("DATABASE_URL", &db.url)
        .env("COLUMNS", "120");
    command
}

fn orderfleet(db: &Database, args: &[&str]) -> Output {
    command(db, args).output().unwrap()
}

fn said(db: &Database, args: &[&str]) -> String {
    let output = orderfleet(db, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn refusal(db: &Database, args: &[&str]) -> String {
    let output = orderfleet(db, args);
    assert!(!output.status.success(), "{args:?} was not refused");
    String::from_utf8(output.stderr).unwrap()
}

/// A van, three shipments for tomorrow, and one that is too heavy.
async fn a_day(db: &Database) {
    let mut conn = db.connect().await;
    let warehouse = testkit::a_warehouse(&mut conn, "MAIN").await;
    testkit::a_vehicle(&mut conn, warehouse, "van 1").await;
    let customer = testkit::a_customer(&mut conn).await;
    sqlx::query("update customers set name = E'Ann\\x1b[31m'")
        .execute(&mut conn)
        .await
        .unwrap();
    for step in 0..4 {
        let order = testkit::an_order(&mut conn, customer, &[]).await;
        sqlx::query(
            "insert into shipments (id, order_id, warehouse_id, state, delivery_date, lat, lon, weight_grams, volume_cm3,
                                    window_start, window_end, service_seconds)
             select gen_random_uuid(), $1, w.id, 'unplanned', (clock_timestamp() at time zone 'UTC')::date + 1,
                    w.lat + $3 / 200.0, w.lon, case when $3 = 0 then 900000000 else 1000 end, 1000, 28800, 64800, 300
             from warehouses w where w.id = $2",
        )
        .bind(order)
        .bind(warehouse)
        .bind(f64::from(step))
        .execute(&mut conn)
        .await
        .unwrap();
    }
}

fn services() -> Arc<Services> {
    let nowhere = "http://127.0.0.1:9".parse().unwrap();
    Arc::new(Services {
        gateway: payments::Gateway::new(nowhere, "sk_test_nobody".to_owned().into()).unwrap(),
        sender: webhooks::Sender::new(true).unwrap(),
        settings: Settings::default(),
        keyring: domain::keyring::Keyring::random(),
    })
}

/// `routes plan` as a worker of this process carries it out.
async fn planned(db: &Database, args: &[&str]) -> (bool, String, String) {
    let mut planning = command(db, args);
    let planning = planning.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let planning = tokio::task::spawn_blocking(move || planning.wait_with_output());
    let (catalogue, services) = (jobs::catalogue(), services());
    while !planning.is_finished() {
        testkit::fast_forward(&db.pool, Duration::from_secs(10)).await;
        queue::testing::run_until_idle(&db.pool, &catalogue, &services)
            .await
            .unwrap();
        tokio::task::yield_now().await;
    }
    let output = planning.await.unwrap().unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_planned_shown_and_taken_along() {
    let db = Database::new().await;
    a_day(&db).await;
    let (is_well, shown, progress) = planned(&db, &["plan", "MAIN", "tomorrow"]).await;
    assert!(is_well, "{progress}");
    assert!(progress.contains("job 1 is "), "{progress}");
    assert!(
        shown.contains("1 vehicle, 3 stops, ") && shown.contains("distances: haversine 130% 40.0km/h"),
        "{shown}"
    );
    assert!(shown.contains("\nvan 1    planned  3 "), "{shown}");
    assert!(
        shown.contains("1 on no route: 1 too big") && shown.contains("too big for every vehicle: "),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "nobody's name steers a terminal");

    assert_eq!(said(&db, &["show", "MAIN/tomorrow"]), shown);
    let sheet: serde_json::Value = serde_json::from_str(&said(&db, &["show", "MAIN/tomorrow", "--json"])).unwrap();
    let id = sheet["plan"]["id"].as_str().unwrap();
    assert_eq!(said(&db, &["show", id]), shown);
    assert!(said(&db, &["show", id, "--stops"]).contains("\n3  "), "every stop");

    let dir = tempfile::tempdir().unwrap();
    for (format, start) in [
        ("geojson", "{\"features\""),
        ("polyline", "{\n  \"plan_id\""),
        ("map.svg", "<svg "),
        ("gantt.svg", "<svg "),
        ("list", "MAIN "),
        ("list.html", "<!doctype html>"),
    ] {
        let printed = said(&db, &["export", id, "--format", format]);
        assert!(printed.starts_with(start), "{format}: {printed}");
        let file = dir.path().join(format);
        let file = file.to_str().unwrap();
        said(&db, &["export", "MAIN/tomorrow", "--format", format, "--output", file]);
        assert_eq!(std::fs::read_to_string(file).unwrap(), printed);
        let again = refusal(&db, &["export", id, "--format", format, "--output", file]);
        assert!(again.contains("is there already; --force replaces it"), "{again}");
        said(&db, &["export", id, "--format", format, "--output", file, "--force"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_planned_or_shown_is_refused_with_what_to_do() {
    let db = Database::new().await;
    assert!(refusal(&db, &["plan", "MAIN", "today"]).contains("there is no warehouse \"MAIN\", nor any other"));
    a_day(&db).await;
    let cases: [(&[&str], &str); 9] = [
        (
            &["plan", "MAIM", "tomorrow"],
            "there is no warehouse \"MAIM\"; there are MAIN",
        ),
        (
            &["plan", "MAIN", "soon"],
            "write a day like 2026-11-23, today or tomorrow",
        ),
        (&["plan", "MAIN", "2020-01-01"], "is not a day that can be planned"),
        (&["plan", "MAIN", "2026-02-30"], "there is no such day"),
        (&["plan", "MAIN", "tomorrow", "--timeout", "0"], "--timeout"),
        (&["show", "MAIN"], "neither a plan's id nor DEPOT/DATE"),
        (&["show", "MAIN/tomorrow"], "`orderfleet routes plan MAIN "),
        (
            &["show", "01990b2e-7c41-7d2a-9d0c-6f3f5e2a1b77"],
            "there is no plan 01990b2e",
        ),
        (&["export", "MAIN/tomorrow", "--format", "pdf"], "map.svg"),
    ];
    for (args, expected) in cases {
        let said = refusal(&db, args);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    assert!(said(&db, &["plan", "MAIN", "tomorrow", "--detach"]).contains("orderfleet jobs show 1"));
    // Nobody works here, so it is not planned in time; the job is still there.
    let late = refusal(&db, &["plan", "MAIN", "tomorrow", "--timeout", "1"]);
    assert!(late.contains("the job goes on: `orderfleet why 1`"), "{late}");
}
