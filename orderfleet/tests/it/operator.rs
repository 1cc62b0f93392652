//! An operator at a terminal: the real executable over a test's database.

use std::process::{Command, Output};

use testkit::Database;

/// What a command prints that goes well.
pub(crate) fn said(db: &Database, args: &[&str]) -> String {
    let output = orderfleet(db, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that is refused says of it.
pub(crate) fn refusal(db: &Database, args: &[&str]) -> String {
    let output = orderfleet(db, args);
    assert!(!output.status.success(), "{args:?} was not refused");
    String::from_utf8(output.stderr).unwrap()
}

/// Runs it as ann, with no other settings.
fn orderfleet(db: &Database, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orderfleet"))
        .args(args)
        .env_clear()
        .env("DATABASE_URL", &db.url)
        .env("USER", "ann")
        .output()
        .unwrap()
}
