//! `cargo xtask test`: every test of every crate, on a PostgreSQL of its own, and one line at the end.
//!
//! With `DATABASE_URL` set, that server takes the tests' databases instead. Either way the tests are told by
//! `ORDERFLEET_TEST_DATABASE_URL`, and `DATABASE_URL` is unset for them: what they start must not fall for it.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, bail};

use crate::{database, sh};

const TEST_SERVER: &str = "ORDERFLEET_TEST_DATABASE_URL";

/// Tells the tests of the whole fleet what to run, so that they need not build it.
const EXECUTABLE: &str = "ORDERFLEET_EXECUTABLE";

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    run_with(args, &[])
}

/// The same with more to tell the tests.
pub(crate) fn run_with(args: &[String], told: &[(&str, &str)]) -> anyhow::Result<()> {
    // First, so that a line that does not compile is seen before a server is started. The integration tests of
    // `orderfleet` bring its executable with them, which `fleet-tests` runs.
    sh::run(sh::cargo(["test", "--workspace", "--no-run"]).env_remove("DATABASE_URL"))?;

    let named = [TEST_SERVER, "DATABASE_URL"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()));
    let (_cluster, url) = match named {
        Some(url) => (None, url),
        None => {
            let cluster = database::scratch("xtask-test-postgres")?;
            let url = cluster.url("postgres");
            (Some(cluster), url)
        }
    };

    let mut command = sh::cargo(["test", "--workspace", "--no-fail-fast"]);
    command
        .args(args)
        .envs(told.iter().copied())
        .env(TEST_SERVER, url)
        .env_remove("DATABASE_URL")
        .env(EXECUTABLE, sh::target_dir().join("debug/orderfleet"))
        .stdout(Stdio::piped());
    let mut cargo = command.spawn().context("running cargo test")?;
    let mut sum = Sum::default();
    if let Some(stdout) = cargo.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("reading what cargo test prints")?;
            sum.add(&line);
            println!("{line}");
        }
    }
    let status = cargo.wait().context("waiting for cargo test")?;
    if !status.success() && sum.failed == 0 {
        // A test program died without a result: it fails the run, and is counted.
        sum.failed = 1;
    }
    println!("{}", sum.line());
    if sum.failed > 0 {
        bail!("some tests failed");
    }
    Ok(())
}

/// What the results of all test programs add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Sum {
    /// Adds a line such as `test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let count = |what: &str| -> u64 {
            result
                .split([';', '.'])
                .filter_map(|part| part.trim().strip_suffix(what))
                .find_map(|number| number.trim().parse().ok())
                .unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
        self.skipped += count("ignored");
    }

    fn line(&self) -> String {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        if *skipped == 0 {
            format!("{passed} passed, {failed} failed")
        } else {
            format!("{passed} passed, {failed} failed, {skipped} skipped")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up_to_one_line() {
        let mut sum = Sum::default();
        sum.add("test result: ok. 6 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.84s");
        sum.add("test things::passed ... ok");
        assert_eq!(sum.line(), "6 passed, 0 failed");
        sum.add("test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s");
        assert_eq!(
            sum,
            Sum {
                passed: 16,
                failed: 2,
                skipped: 1
            }
        );
        assert_eq!(sum.line(), "16 passed, 2 failed, 1 skipped");
    }
}
