//! `orderfleet`: see `orderfleet --help`.

use std::process::ExitCode;

use clap::Parser;
use orderfleet::cli::Cli;
use orderfleet::otlp::Export;
use orderfleet::settings::environment;
use orderfleet::{logging, run};

/// A worker makes and drops a task and its payload for every job, on any thread: glibc's allocator takes a tenth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    carry_out(Cli::parse()).unwrap_or_else(|error| {
        eprintln!("orderfleet: {error:#}");
        ExitCode::FAILURE
    })
}

fn carry_out(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let export = match cli.command.service() {
        Some(service) => Export::start(service, &environment, runtime.handle().clone())?,
        None => None,
    };
    logging::start(&cli.log_filter, export.as_ref().map(|export| export.processor.clone()))?;
    let carried_out = runtime.block_on(run(cli));
    // What it sends, it sends on the runtime.
    if let Some(export) = export {
        export.finish();
    }
    // A thread that reads standard input, or a lost query, must not hold up the end.
    runtime.shutdown_background();
    carried_out
}
