//! `orderfleet`: see `orderfleet --help`.

use std::process::ExitCode;

use clap::Parser;
use orderfleet::cli::Cli;
use orderfleet::{logging, run};

/// A worker makes and drops a task and its payload for every job, on any thread: glibc's allocator takes a tenth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let carried_out = logging::start(&cli.log_filter).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let carried_out = runtime.block_on(run(cli));
        // A thread that reads standard input, or a lost query, must not hold up the end.
        runtime.shutdown_background();
        carried_out
    });
    carried_out.unwrap_or_else(|error| {
        eprintln!("orderfleet: {error:#}");
        ExitCode::FAILURE
    })
}
