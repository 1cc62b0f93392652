//! `cargo xtask contract`: the official clients of those whose formats we speak, unmodified, against what we built.

use std::process::Command;

use crate::{sh, test};

/// Tells the tests that a client which is not installed is a failure, and not a reason to skip.
const CLIENTS: (&str, &str) = ("ORDERFLEET_CLIENTS", "required");

/// Where they are run from: a package, and the names that its tests with a client begin with.
const TESTS: [(&str, &[&str]); 2] = [
    // Stripe's, npm and PyPI, against the simulator, and our adapter of it.
    ("fleet-tests", &["clients", "adapter"]),
    // standardwebhooks, npm and PyPI, as receivers of what the real job sends.
    ("jobs", &["standardwebhooks"]),
];

pub(crate) fn run(_: &[String]) -> anyhow::Result<()> {
    install()?;
    for (package, names) in TESTS {
        let mut command = sh::cargo(["test", "--package", package, "--test", "it", "--"]);
        command.args(names).env(CLIENTS.0, CLIENTS.1);
        sh::run(&mut command)?;
    }
    Ok(())
}

/// Installs what is not there yet.
pub(crate) fn install() -> anyhow::Result<()> {
    sh::run(&mut Command::new(sh::root().join("fleet-tests/clients/setup")))
}

/// Every test, with the clients there or not at all.
pub(crate) fn with_every_test() -> anyhow::Result<()> {
    test::run_with(&[], &[CLIENTS])
}
