//! What the executable says: its help, and its refusals. The real executable, no database.

use std::process::{Command, Output};

/// Runs the executable with these arguments and these settings alone.
fn orderfleet(args: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orderfleet"));
    command
        .args(args)
        .env_clear()
        .env("COLUMNS", "100")
        .envs(settings.iter().copied());
    command.output().unwrap()
}

fn refusal(args: &[&str], settings: &[(&str, &str)]) -> String {
    let output = orderfleet(args, settings);
    assert!(!output.status.success(), "{args:?} was not refused");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_help_names_every_role_and_verb() {
    let help = String::from_utf8(orderfleet(&["--help"], &[]).stdout).unwrap();
    insta::assert_snapshot!(help);
}

#[test]
fn the_help_of_import_states_its_rules() {
    let help = String::from_utf8(orderfleet(&["import", "online-retail", "--help"], &[]).stdout).unwrap();
    insta::assert_snapshot!(help);
}

#[test]
fn each_command_has_help_with_an_explanation_of_each_option() {
    let commands = [
        "up",
        "api",
        "worker",
        "migrate",
        "check-deploy",
        "import",
        "drain",
        "verify",
        "jobs",
        "why",
        "dead",
        "redrive",
        "queues",
        "routes",
        "schedule",
        "webhooks",
        "partners",
        "secrets",
        "doctor",
        "gateway-simulator",
        "webhook-receiver",
        "completions",
    ];
    for command in commands {
        let output = orderfleet(&[command, "--help"], &[]);
        assert!(output.status.success(), "{command}");
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Usage: orderfleet"), "{help}");
    }
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(!orderfleet(&["completions", shell], &[]).stdout.is_empty(), "{shell}");
    }
}

#[test]
fn a_wrong_value_is_refused_with_the_settings_name() {
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let database = ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    let key = ("ORDERFLEET_GATEWAY_KEY", "sk_test_x");
    let master = ("ORDERFLEET_MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let cases: [Case<'_>; 11] = [
        (
            &["api"],
            &[("ORDERFLEET_CANCEL_WINDOW", "soon")],
            "ORDERFLEET_CANCEL_WINDOW: ",
        ),
        (&["api"], &[("ORDERFLEET_LISTEN", "everywhere")], "--listen"),
        (&["worker", "--pool", "stock", "--slots", "0"], &[], "--slots"),
        (
            &["worker", "--pool", "stock"],
            &[("ORDERFLEET_LEASE", "x")],
            "ORDERFLEET_LEASE: ",
        ),
        (&["drain", "--timeout", "long"], &[], "--timeout"),
        (&["api"], &[("ORDERFLEET_LOG", "a=b=c")], "ORDERFLEET_LOG: "),
        (&["worker", "--pool", "routes", "--roads", "google"], &[], "--roads"),
        (
            &["worker", "--pool", "routes"],
            &[database, key, master, ("ORDERFLEET_ROADS", "osrm")],
            "ORDERFLEET_ROADS_URL is not",
        ),
        (
            &["worker", "--pool", "routes", "--roads", "osrm"],
            &[database, key, master, ("ORDERFLEET_ROADS_URL", "user:hunter2@roads")],
            "roads_url",
        ),
        (
            &[
                "worker",
                "--pool",
                "routes",
                "--roads",
                "osrm",
                "--roads-url",
                "http://roads",
                "--roads-points",
                "1",
            ],
            &[database, key, master],
            "roads_points_max",
        ),
        (
            &["worker", "--pool", "routes", "--road-factor", "0.5"],
            &[database, key, master],
            "road_factor",
        ),
    ];
    for (args, settings, expected) in cases {
        let said = refusal(args, settings);
        assert!(said.contains(expected) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_missing_database_url_says_where_to_get_one() {
    let said = refusal(&["jobs"], &[]);
    assert!(
        said.contains("DATABASE_URL is not set (nor DATABASE_URL_FILE)") && said.contains("env file"),
        "{said}"
    );
}

#[test]
fn a_wrong_database_url_is_refused_without_being_repeated() {
    let said = refusal(&["jobs"], &[("DATABASE_URL", "postgres:/user:hunter2@nowhere")]);
    assert!(
        said.contains("DATABASE_URL is not a URL") && !said.contains("hunter2"),
        "{said}"
    );
}

#[test]
fn a_secret_may_come_from_a_file_but_not_from_both() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("url");
    std::fs::write(&file, "postgres://nobody:hunter2@127.0.0.1:1/none\n").unwrap();
    let file = file.to_str().unwrap();
    let said = refusal(&["jobs"], &[("DATABASE_URL_FILE", file)]);
    assert!(
        said.contains("no PostgreSQL answers at 127.0.0.1:1") && !said.contains("hunter2"),
        "{said}"
    );
    let said = refusal(
        &["jobs"],
        &[("DATABASE_URL_FILE", file), ("DATABASE_URL", "postgres://x")],
    );
    assert!(
        said.contains("DATABASE_URL and DATABASE_URL_FILE are both set"),
        "{said}"
    );
    let said = refusal(&["jobs"], &[("DATABASE_URL_FILE", "/nowhere")]);
    assert!(said.contains("DATABASE_URL_FILE: reading /nowhere"), "{said}");
}

#[test]
fn a_missing_gateway_key_is_refused_with_what_to_do() {
    let said = refusal(&["api"], &[("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")]);
    assert!(said.contains("ORDERFLEET_GATEWAY_KEY is not set"), "{said}");
}

#[test]
fn a_missing_or_malformed_master_key_is_refused_and_never_repeated() {
    let database = ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    let gateway = ("ORDERFLEET_GATEWAY_KEY", "sk_test_x");
    for role in [&["api"][..], &["worker", "--pool", "webhooks"]] {
        let said = refusal(role, &[database, gateway]);
        let is_told = said.contains("ORDERFLEET_MASTER_KEY is not set") && said.contains("orderfleet secrets new-key");
        assert!(is_told, "{said}");
        let said = refusal(role, &[database, gateway, ("ORDERFLEET_MASTER_KEY", "aHVudGVyMg==")]);
        let is_told = said.contains("ORDERFLEET_MASTER_KEY: key 1 is not 32 bytes in base64");
        assert!(is_told && !said.contains("aHVudGVyMg"), "{said}");
    }
    let made = |_| String::from_utf8(orderfleet(&["secrets", "new-key"], &[]).stdout).unwrap();
    let [one, other] = [0, 1].map(made);
    assert_ne!(one, other);
    let said = refusal(&["api"], &[database, gateway, ("ORDERFLEET_MASTER_KEY", one.trim())]);
    assert!(said.contains("no PostgreSQL answers"), "{said}");
}

#[test]
fn an_unknown_pool_is_refused_with_the_pools_there_are() {
    let settings = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
        ("ORDERFLEET_GATEWAY_KEY", "sk_test_x"),
        ("ORDERFLEET_MASTER_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ];
    let said = refusal(&["worker", "--pool", "payment"], &settings);
    assert!(
        said.contains("there is no such pool; the pools are maintenance, payments, routes, stock, webhooks"),
        "{said}"
    );
}

#[test]
fn a_port_in_use_says_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let said = refusal(
        &["up", "--data-dir", dir.path().to_str().unwrap(), "--api-port", &port],
        &[],
    );
    assert!(
        said.contains(&format!("port {port} is in use")) && said.contains("--api-port"),
        "{said}"
    );
}

#[test]
fn a_file_that_is_not_the_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.csv");
    std::fs::write(&file, "a,b\n1,2\n").unwrap();
    let said = refusal(
        &["import", "online-retail", file.to_str().unwrap()],
        &[("ORDERFLEET_API_KEY", "of_live_x_y")],
    );
    assert!(said.contains("the header is `a,b`"), "{said}");
}
