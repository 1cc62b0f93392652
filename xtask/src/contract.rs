//! `cargo xtask contract`: the official clients of those whose formats we speak, unmodified, against what we built.

use std::process::Command;

use crate::{sh, test};

/// Tells the tests that a client which is not installed is a failure, and not a reason to skip.
const CLIENTS: (&str, &str) = ("ORDERFLEET_CLIENTS", "required");

/// Where they are run from; each test there that needs one has this in its module's name.
const TESTS: [&str; 6] = ["--package", "fleet-tests", "--test", "it", "--", "clients"];

pub(crate) fn run(_: &[String]) -> anyhow::Result<()> {
    install()?;
    let mut command = sh::cargo(["test"]);
    command.args(TESTS).arg("adapter").env(CLIENTS.0, CLIENTS.1);
    sh::run(&mut command)
}

/// Installs what is not there yet.
pub(crate) fn install() -> anyhow::Result<()> {
    sh::run(&mut Command::new(sh::root().join("fleet-tests/clients/setup")))
}

/// Every test, with the clients there or not at all.
pub(crate) fn with_every_test() -> anyhow::Result<()> {
    test::run_with(&[], &[CLIENTS])
}
