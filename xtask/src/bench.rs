//! `cargo xtask bench`: the measurements of the queue and of the route solver, in release.

use crate::sh;

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    if let Some(("routes", rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return routes(rest);
    }
    let mut bench = sh::cargo(["bench", "--quiet", "--package", "fleet-tests", "--bench", "queue", "--"]);
    bench.args(if args.is_empty() {
        vec!["--help".to_owned()]
    } else {
        args.to_vec()
    });
    sh::run(&mut bench)
}

/// Our solver beside those that `fleet-tests/solvers/setup` installs; or how long it makes its caller wait.
fn routes(args: &[String]) -> anyhow::Result<()> {
    if args.first().is_some_and(|first| first == "limits") {
        return sh::run(&mut sh::cargo([
            "bench",
            "--quiet",
            "--package",
            "domain",
            "--bench",
            "limits",
        ]));
    }
    sh::run(&mut sh::cargo([
        "build",
        "--quiet",
        "--release",
        "--package",
        "orderfleet",
    ]))?;
    let mut bench = std::process::Command::new("python3");
    bench.arg("fleet-tests/solvers/bench.py").args(args);
    sh::run(&mut bench)
}
