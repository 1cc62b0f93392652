//! When a process should end: on SIGTERM or Ctrl-C, or when the `up` that started it is gone.

use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Set by `up` for its children: their standard input is a pipe whose other end only `up` holds.
pub const PARENT_PIPE: &str = "ORDERFLEET_PARENT_PIPE";

/// How long a child may take to end once its parent is gone; then it ends whatever it is doing.
const ORPHAN_GRACE: Duration = Duration::from_secs(3);

/// A signal that follows another this closely is its echo: `timeout` and terminals signal a process and its group.
const ECHO: Duration = Duration::from_secs(1);

/// A token that is cancelled by the first SIGTERM or SIGINT; a second one, if it is no echo of the first, ends the
/// process at once.
pub fn stop_token() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let cancelled = stop.clone();
    tokio::spawn(async move {
        let mut first: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first.is_some_and(|first| first.elapsed() > ECHO) {
                tracing::warn!("told to stop twice: ending at once");
                std::process::exit(130);
            }
            first.get_or_insert_with(Instant::now);
            cancelled.cancel();
        }
    });
    if std::env::var_os(PARENT_PIPE).is_some() {
        end_with_parent(stop.clone());
    }
    Ok(stop)
}

/// Reads the pipe from the parent on a thread of its own, where no stuck task can hold it up. The kernel closes the other
/// end however the parent dies, so this needs no help from a parent that was killed with -9.
fn end_with_parent(stop: CancellationToken) {
    std::thread::spawn(move || {
        let mut byte = [0];
        while !matches!(std::io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
        stop.cancel();
        std::thread::sleep(ORPHAN_GRACE);
        std::process::exit(1);
    });
}
