//! `cargo xtask ci`, and the parts of it that are commands by themselves.

use std::process::Command;
use std::time::Instant;

use anyhow::bail;

use crate::{contract, sh, snapshots};

/// A part of `ci`: its name, and what it does.
type Step = (&'static str, fn() -> anyhow::Result<()>);

pub(crate) fn run(_: &[String]) -> anyhow::Result<()> {
    // The cheap ones first. Linting and renewing .sqlx is one pass over the code: both expand every query. That the
    // OpenAPI document is current is one of the tests.
    let steps: [Step; 6] = [
        ("format", || fmt(&["--check".to_owned()])),
        ("advisories", advisories),
        ("schema snapshot", || snapshots::schema(&["--check".to_owned()])),
        ("clippy, .sqlx snapshot", clippy_with_queries),
        ("official clients", contract::install),
        ("tests", contract::with_every_test),
    ];
    for (name, step) in steps {
        println!("==> {name}");
        let start = Instant::now();
        step()?;
        if name != "tests" {
            println!("    {name}: ok, {} s", start.elapsed().as_secs());
        }
    }
    Ok(())
}

pub(crate) fn fmt(args: &[String]) -> anyhow::Result<()> {
    sh::run(sh::cargo(["fmt", "--all"]).args(args.iter().filter(|arg| *arg == "--check")))
}

pub(crate) fn clippy(_: &[String]) -> anyhow::Result<()> {
    sh::run(&mut clippy_command())
}

pub(crate) fn clippy_command() -> Command {
    sh::cargo(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])
}

fn clippy_with_queries() -> anyhow::Result<()> {
    snapshots::check_queries(&mut clippy_command())
}

/// Compares Cargo.lock with the advisories beside the tree, where there are any.
fn advisories() -> anyhow::Result<()> {
    let tool = sh::root().join("../shared/tools/check-advisories");
    if !tool.exists() {
        println!("    advisories: skipped, there is no {}", tool.display());
        return Ok(());
    }
    sh::run(Command::new(tool).arg(sh::root().join("Cargo.lock")))
}

pub(crate) fn ui(_: &[String]) -> anyhow::Result<()> {
    if !sh::root().join("ui").exists() {
        println!("there is no ui/ yet: the page at / comes with the API");
        return Ok(());
    }
    bail!("ui/ is there, and `cargo xtask ui` does not know yet how to build it");
}
