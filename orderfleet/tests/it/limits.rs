//! `orderfleet limits`, as an operator types it.

use testkit::Database;

use crate::operator;

fn said(db: &Database, args: &[&str]) -> String {
    operator::said(db, &[&["limits"], args].concat())
}

fn refusal(db: &Database, args: &[&str]) -> String {
    operator::refusal(db, &[&["limits"], args].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sets_sees_and_removes_a_limit_and_closes_its_breaker() {
    let db = Database::new().await;
    let with = |line: &str| {
        let args: Vec<&str> = line.split(' ').chain(["--reason", "a test"]).collect();
        said(&db, &args)
    };
    assert_eq!(
        with("set endpoint --concurrency 8 --rate 50 --burst 10 --breaker-failures 2 --breaker-seconds 30"),
        "limit endpoint: 8 at once; 50 a second, 10 in a burst; a breaker of 2 failures for 30 s\n"
    );
    assert_eq!(
        with("set queue/stock --concurrency 0"),
        "limit queue/stock: 0 at once\n"
    );
    let foreign = with("set tenant/acme --rate 0.5");
    assert!(
        foreign.contains("no kind of this build counts against tenant"),
        "{foreign}"
    );

    sqlx::query("select queue.limit_failed('endpoint/7', 'it answers 503', null) from generate_series(1, 2)")
        .execute(&db.pool)
        .await
        .unwrap();
    let listed: serde_json::Value = serde_json::from_str(&said(&db, &["list", "--json"])).unwrap();
    assert_eq!(
        (&listed[0]["name"], &listed[0]["open_breakers"]),
        (&"endpoint".into(), &1.into())
    );
    let shown = said(&db, &["show", "endpoint"]);
    assert!(
        shown.contains("endpoint/7") && shown.contains("it answers 503"),
        "{shown}"
    );
    assert_eq!(with("close-breaker endpoint/7"), "closed the breaker of endpoint/7\n");
    assert_eq!(
        with("close-breaker endpoint/7"),
        "the breaker of endpoint/7 was not open\n"
    );

    assert_eq!(with("remove endpoint"), "removed limit endpoint\n");
    let left = said(&db, &[]);
    assert!(left.contains("tenant/acme") && !left.contains("endpoint"), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_would_do_nothing_or_harm_is_refused() {
    let db = Database::new().await;
    let refused = |line: &str| refusal(&db, &line.split(' ').chain(["--reason", "x"]).collect::<Vec<_>>());
    for (said, expected) in [
        (refused("set endpoint"), "it limits nothing"),
        (
            refused("set queue/stok --rate 1"),
            "there is no queue stok; there are maintenance, payments",
        ),
        (refused("set endpoint/ --rate 1"), "the beginning of keys"),
        (refused("set endpoint --rate 0"), "rate must be from 0.0001"),
        (refused("set endpoint --rate fast"), "invalid value"),
        (refused("set endpoint --concurrency 1 --burst 5"), "--rate"),
        (refused("remove nothing"), "there is no limit nothing"),
        (refusal(&db, &["show", "nothing"]), "there is no limit nothing"),
        (refusal(&db, &["set", "endpoint", "--concurrency", "1"]), "--reason"),
    ] {
        assert!(said.contains(expected), "{said}");
    }
    assert_eq!(said(&db, &["list", "--json"]), "[]\n");
}
