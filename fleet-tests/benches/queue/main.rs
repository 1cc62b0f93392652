//! How fast the queue is, next to the smallest loop PostgreSQL allows, on one server that syncs to disk.
//!
//! `cargo xtask bench drain` and its sisters start this; `--help` says what there is. Every subject runs in every round, one
//! after the other, since machines are noisy: what counts is the ratio within a round. Durability stays on throughout.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod drain;
mod enqueue;
#[path = "../../tests/it/rescue/holder.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod holder;
mod kinds;
mod latency;
mod limit;
mod limits;
mod orders;
mod peers;
mod rescue;
mod roles;
mod server;
mod steady;
mod table;
mod webhooks;
mod worker;

use clap::{Parser, Subcommand};

/// Measures the queue.
#[derive(Parser)]
#[command(
    about,
    after_help = "Quote ratios, never rates: another machine, or another hour, has other rates."
)]
struct Args {
    #[command(subcommand)]
    bench: Bench,
    /// Prints the rows as one JSON object too, as the last line.
    #[arg(long, global = true)]
    json: bool,
    /// How often each subject runs; the median counts.
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// What `cargo bench` adds to every command.
    #[arg(long = "bench", global = true, hide = true)]
    is_bench: bool,
}

#[derive(Subcommand)]
enum Bench {
    /// Empties a queue of jobs that do nothing.
    Drain(drain::Args),
    /// Puts jobs into a queue.
    Enqueue(enqueue::Args),
    /// Empties a queue whose jobs have group keys, limits, or both.
    Limits(drain::Args),
    /// The time from a job's enqueueing to its start, at a steady rate.
    Latency(latency::Args),
    /// A steady load over a long history, without and with a pinned snapshot.
    Steady(steady::Args),
    /// Empties a queue, and lets other queues empty theirs.
    Peers(peers::Args),
    /// Webhooks by the real job, with receivers of which a tenth hangs.
    Webhooks(webhooks::Args),
    /// The whole product: orders a second, from the POST to the capture and the last webhook.
    Orders(orders::Args),
    /// A process of the fleet, for orders.
    #[command(hide = true, subcommand)]
    Role(roles::Role),
    /// The time from a worker's end, or its silence, to the start of its job at another.
    Rescue(rescue::Args),
    /// A worker process, for the others.
    #[command(hide = true)]
    Worker(worker::Args),
    /// A worker process that holds its jobs, for `rescue`.
    #[command(hide = true)]
    Holder,
}

/// That of the executable itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let (name, table) = match args.bench {
        Bench::Drain(options) => ("drain", drain::run(&options, args.rounds).await),
        Bench::Enqueue(options) => ("enqueue", enqueue::run(&options, args.rounds).await),
        Bench::Limits(options) => ("limits", limits::run(&options, args.rounds).await),
        Bench::Latency(options) => ("latency", latency::run(&options, args.rounds).await),
        Bench::Steady(options) => ("steady", steady::run(&options, args.rounds).await),
        Bench::Peers(options) => ("peers", peers::run(&options, args.rounds).await),
        Bench::Webhooks(options) => ("webhooks", webhooks::run(&options, args.rounds).await),
        Bench::Orders(options) => ("orders", orders::run(&options, args.rounds).await),
        Bench::Role(role) => return roles::run(role).await,
        Bench::Rescue(options) => ("rescue", rescue::run(&options, args.rounds).await),
        Bench::Worker(options) => return worker::run(&options).await,
        Bench::Holder => return holder::work().await,
    };
    table.print();
    if args.json {
        println!("{}", table.json(name));
    }
}
