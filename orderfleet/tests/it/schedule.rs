//! `orderfleet schedule`, as an operator types it.

use testkit::Database;

use crate::operator;

async fn a_timetable() -> Database {
    let db = Database::new().await;
    queue::schedule::install(&mut db.connect().await, &jobs::timetable())
        .await
        .unwrap();
    db
}

fn said(db: &Database, args: &[&str]) -> String {
    operator::said(db, &[&["schedule"], args].concat())
}

fn refusal(db: &Database, args: &[&str]) -> String {
    operator::refusal(db, &[&["schedule"], args].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_adds_changes_runs_and_removes_an_entry() {
    let db = a_timetable().await;
    let because = ["--reason", "a test"];
    let with = |args: &[&str]| said(&db, &[args, &because].concat());
    let added = with(&[
        "add",
        "drill",
        "--kind",
        "prune_unique_keys",
        "--cron",
        "30 2 * * *",
        "--time-zone",
        "Europe/Berlin",
        "--overlap",
        "skip",
    ]);
    assert!(added.starts_with("added drill; it ticks next at 20"), "{added}");
    assert!(with(&["change", "drill", "--missed", "all"]).starts_with("changed drill;"));
    assert_eq!(with(&["pause", "drill"]), "paused drill\n");
    assert!(with(&["resume", "drill"]).starts_with("resumed drill;"));
    assert!(with(&["run", "drill"]).starts_with("enqueued job "));
    let again = refusal(&db, &["run", "drill", "--reason", "a test"]);
    assert!(again.contains("of an earlier tick has not ended"), "{again}");
    let ticks = said(&db, &["ticks", "drill"]);
    assert!(
        ticks.contains("fired") && ticks.contains("run by ann: a test"),
        "{ticks}"
    );
    let shown = said(&db, &["show", "drill"]);
    assert!(
        shown.contains("30 2 * * * in Europe/Berlin") && shown.contains("operator"),
        "{shown}"
    );
    assert_eq!(with(&["remove", "drill"]), "removed drill\n");
    assert!(!said(&db, &["list"]).contains("drill"));

    with(&["change", "reconcile_payments", "--cron", "*/5 * * * *"]);
    let shown = said(&db, &["show", "reconcile_payments"]);
    assert!(
        shown.contains("by ann") && shown.contains(r#"{"cron":"* * * * *"}"#),
        "{shown}"
    );
    assert!(with(&["reset", "reconcile_payments"]).starts_with("reset reconcile_payments;"));
    assert_eq!(
        with(&["reset", "reconcile_payments"]),
        "reconcile_payments was not overridden\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_word_about_the_timetable_is_answered_with_the_right_ones() {
    let db = a_timetable().await;
    let add = |kind: &str, cron: &str, args: &str| {
        let line = [
            "add", "drill", "--kind", kind, "--cron", cron, "--args", args, "--reason", "x",
        ];
        refusal(&db, &line)
    };
    for (said, expected) in [
        (
            add("dance", "* * * * *", "{}"),
            "there is no kind dance; there are authorize_payment",
        ),
        (add("prune_unique_keys", "0 0 30 2 *", "{}"), "never comes"),
        (add("prune_unique_keys", "* * * * * *", "{}"), "there are no seconds"),
        (add("prune_unique_keys", "* * * * *", "{"), "--args is not JSON"),
        (
            add("prune_unique_keys", "* * * * *", r#"{"days": 1}"#),
            "it has no field days",
        ),
        (
            refusal(&db, &["pause", "nothing", "--reason", "x"]),
            "the timetable has no entry nothing",
        ),
        (refusal(&db, &["show", "nothing"]), "the timetable has no entry nothing"),
        (
            refusal(&db, &["remove", "reconcile_payments", "--reason", "x"]),
            "pause it instead",
        ),
        (
            refusal(&db, &["change", "reconcile_payments", "--reason", "x"]),
            "nothing is to change",
        ),
        (refusal(&db, &["pause", "reconcile_payments"]), "--reason"),
        (
            refusal(
                &db,
                &["change", "reconcile_payments", "--time-zone", "Berlin", "--reason", "x"],
            ),
            "their names are like Europe/Berlin",
        ),
    ] {
        assert!(said.contains(expected), "{said}");
    }
}
