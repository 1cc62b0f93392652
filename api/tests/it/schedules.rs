//! The timetable over HTTP.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::app::App;

async fn app_with_the_timetable() -> App {
    let app = App::new().await;
    let conn = &mut app.db.connect().await;
    queue::schedule::install(conn, &jobs::timetable()).await.unwrap();
    app
}

fn matinee() -> Value {
    json!({
        "name": "matinee", "kind": "reconcile_payments", "cron": "30 2 * * SUN", "time_zone": "Europe/Berlin",
        "missed": "skip", "overlap": "allow", "jitter_seconds": 30, "reason": "a test"
    })
}

#[tokio::test]
async fn an_entry_is_added_changed_paused_run_and_removed() {
    let app = app_with_the_timetable().await;
    let made = app.post("/api/v1/schedules", matinee()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
    let path = made.header("location").unwrap();
    assert_eq!(path, "/api/v1/schedules/matinee");
    let found = app.get(path).await.json();
    assert_eq!(found, made.json());
    assert_eq!(
        (
            &found["origin"],
            &found["queue"],
            &found["args"],
            &found["jitter_seconds"]
        ),
        (&json!("operator"), &json!("maintenance"), &json!({}), &json!(30))
    );
    assert_eq!(found["next"].as_array().unwrap().len(), 3);
    assert_eq!(
        app.post("/api/v1/schedules", matinee()).await.problem(),
        "409 name_taken /name:name_taken"
    );

    let patch = async |body: Value| app.send(Method::PATCH, path, &[], Some(body)).await;
    let changed = patch(json!({"cron": "0 12 * * *", "missed": "all", "paused": true, "reason": "later"})).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    let changed = changed.json();
    assert_eq!(
        (&changed["cron"], &changed["missed"]),
        (&json!("0 12 * * *"), &json!("all"))
    );
    assert_eq!(
        (&changed["paused"]["actor"], &changed["next"]),
        (&json!("tester"), &json!([]))
    );
    assert!(patch(json!({"paused": false, "reason": "go on"})).await.json()["paused"].is_null());

    let run = app.post(&format!("{path}/run"), json!({"reason": "now"})).await;
    assert_eq!(run.status, StatusCode::ACCEPTED, "{run:?}");
    let job = app.get(run.header("location").unwrap()).await.json();
    assert_eq!(
        (&job["id"], &job["kind"]),
        (&run.json()["job_id"], &json!("reconcile_payments"))
    );
    let again = app.post(&format!("{path}/run"), json!({"reason": "now"})).await;
    assert_eq!(again.problem(), "409 run_overlaps", "its kind lets one live");
    let ticks = app.get(&format!("{path}/ticks?limit=1")).await.json();
    assert_eq!(ticks["items"][0]["reason"], "run by tester: now");
    assert!(ticks["next_cursor"].is_null());

    let removed = app
        .send(Method::DELETE, path, &[], Some(json!({"reason": "over"})))
        .await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT, "{removed:?}");
    assert_eq!(app.get(path).await.problem(), "404 not_found");
    let audited: Vec<String> = sqlx::query_scalar(
        "select action || ' ' || actor from queue.audit where subject = 'schedule matinee' order by id",
    )
    .fetch_all(&app.db.pool)
    .await
    .unwrap();
    assert_eq!(
        audited,
        [
            "add tester",
            "change tester",
            "resume tester",
            "run tester",
            "remove tester"
        ]
    );
}

#[tokio::test]
async fn an_override_of_the_builds_entry_shows_and_is_reset() {
    let app = app_with_the_timetable().await;
    let path = "/api/v1/schedules/reconcile_payments";
    let body = json!({"cron": "*/5 * * * *", "reason": "less often"});
    let changed = app.send(Method::PATCH, path, &[], Some(body)).await.json();
    let overridden = &changed["overridden"];
    assert_eq!(
        (
            &overridden["fields"],
            &overridden["listed"],
            &overridden["actor"],
            &overridden["reason"]
        ),
        (
            &json!(["cron"]),
            &json!({"cron": "* * * * *"}),
            &json!("tester"),
            &json!("less often")
        )
    );
    let remove = app.send(Method::DELETE, path, &[], Some(json!({"reason": "x"}))).await;
    assert_eq!(remove.problem(), "409 listed_by_build");
    for _ in 0..2 {
        let reset = app.post(&format!("{path}/reset"), json!({"reason": "as before"})).await;
        assert_eq!(reset.status, StatusCode::OK, "{reset:?}");
        assert!(reset.json()["overridden"].is_null());
        assert_eq!(reset.json()["cron"], "* * * * *");
    }
}

#[tokio::test]
async fn a_page_of_ticks_goes_on_where_the_one_before_ended() {
    let app = app_with_the_timetable().await;
    sqlx::query(
        "insert into queue.ticks (name, tick_at, outcome, ticks)
         select 'expire_reservations', timestamptz '2026-01-01' + make_interval(mins => n), 'missed', n from generate_series(1, 5) n",
    )
    .execute(&app.db.pool)
    .await
    .unwrap();
    let mut seen = Vec::new();
    let mut path = "/api/v1/schedules/expire_reservations/ticks?limit=2".to_owned();
    loop {
        let page = app.get(&path).await.json();
        seen.extend(
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|tick| tick["ticks"].as_i64().unwrap()),
        );
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/schedules/expire_reservations/ticks?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn what_cannot_be_in_the_timetable_is_refused_with_its_field() {
    let app = app_with_the_timetable().await;
    let before = app.get("/api/v1/schedules").await.json();
    for (field, value, expected) in [
        ("cron", json!("0 0 30 2 *"), "/cron:invalid"),
        ("cron", json!("* * * * * *"), "/cron:invalid"),
        ("cron", json!(""), "/cron:too_short"),
        ("cron", json!(5), "/cron:wrong_type"),
        ("cron", json!("1,".repeat(200)), "/cron:too_long"),
        ("time_zone", json!("Europe/Berlinn"), "/time_zone:invalid"),
        ("name", json!("Two Words"), "/name:invalid"),
        ("name", Value::Null, "/name:wrong_type"),
        ("kind", json!("dance"), "/kind:invalid"),
        ("args", json!({"order": 1}), "/args:invalid"),
        ("args", json!([]), "/args:wrong_type"),
        ("missed", json!("maybe"), "/missed:invalid"),
        ("overlap", json!("maybe"), "/overlap:invalid"),
        ("overlap", json!("queue_one"), "/overlap:invalid"),
        ("jitter_seconds", json!(-1), "/jitter_seconds:out_of_range"),
        ("jitter_seconds", json!(1.5), "/jitter_seconds:wrong_type"),
        ("reason", json!(" "), "/reason:invalid"),
        ("seconds", json!(1), "/seconds:unknown_field"),
    ] {
        let mut body = matinee();
        body[field] = value;
        let answer = app.post("/api/v1/schedules", body.clone()).await;
        assert_eq!(answer.problem(), format!("422 validation_failed {expected}"), "{body}");
    }
    let patch = async |name: &str, body: Value| {
        let path = format!("/api/v1/schedules/{name}");
        app.send(Method::PATCH, &path, &[], Some(body)).await.problem()
    };
    for (body, expected) in [
        (json!({"reason": "x"}), "422 validation_failed /cron:invalid"),
        (
            json!({"cron": null, "reason": "x"}),
            "422 validation_failed /cron:wrong_type",
        ),
        (
            json!({"paused": "yes", "reason": "x"}),
            "422 validation_failed /paused:wrong_type",
        ),
        (
            json!({"cron": "61 * * * *", "reason": "x"}),
            "422 validation_failed /cron:invalid",
        ),
        (
            json!({"kind": "reserve_stock", "reason": "x"}),
            "422 validation_failed /kind:unknown_field",
        ),
        (json!({"paused": true}), "422 validation_failed /reason:missing"),
    ] {
        assert_eq!(patch("reconcile_payments", body.clone()).await, expected, "{body}");
    }
    assert_eq!(
        patch("nothing", json!({"paused": true, "reason": "x"})).await,
        "404 not_found"
    );
    for action in ["reset", "run"] {
        let answer = app
            .post(&format!("/api/v1/schedules/nothing/{action}"), json!({"reason": "x"}))
            .await;
        assert_eq!(answer.problem(), "404 not_found", "{action}");
    }
    assert_eq!(
        app.get("/api/v1/schedules/nothing/ticks").await.problem(),
        "404 not_found"
    );
    assert_eq!(
        app.get("/api/v1/schedules").await.json()["items"]
            .as_array()
            .unwrap()
            .len(),
        before["items"].as_array().unwrap().len()
    );
}
