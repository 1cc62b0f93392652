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

/// Runs it to its end.
fn orderfleet(db: &Database, args: &[&str]) -> Output {
    command(db, args).output().unwrap()
}

/// The executable as ann calls it, with no other settings.
pub(crate) fn command(db: &Database, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orderfleet"));
    command
        .args(args)
        .env_clear()
        .env("DATABASE_URL", &db.url)
        .env("USER", "ann");
    command
}
