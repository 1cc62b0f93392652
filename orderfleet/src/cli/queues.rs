//! `orderfleet queues …` and `limits …`.

use clap::{Args, Subcommand};

use super::{Because, Output};

/// `queues [list|pause|resume|slots]`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Queues {
    #[command(subcommand)]
    pub action: Option<QueuesAction>,

    #[command(flatten)]
    pub output: Output,
}

/// What can be done to queues.
#[derive(Debug, Subcommand)]
pub enum QueuesAction {
    /// List queues with their counts (the default)
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Take no more jobs from a queue, or of a kind; running ones go on
    Pause {
        #[command(flatten)]
        target: PauseTarget,
        #[command(flatten)]
        because: Because,
    },
    /// Change how many jobs a pool runs at once in each process, while it runs
    #[command(
        after_help = "The processes follow within seconds, without a restart: more jobs start at once; of too many none is\n\
        stopped, and none is started until enough have ended. Without N each goes back to the --slots it was started with."
    )]
    Slots {
        /// The pool: its queue, or the name it has if it serves several
        pool: String,
        /// Jobs at once in each process
        #[arg(value_name = "N", value_parser = clap::value_parser!(i32).range(1..=8192))]
        slots: Option<i32>,
        #[command(flatten)]
        because: Because,
    },
    /// Take jobs again
    Resume {
        #[command(flatten)]
        target: PauseTarget,
        #[command(flatten)]
        because: Because,
    },
}

/// What to pause or resume.
#[derive(Debug, Args)]
pub struct PauseTarget {
    /// The queue's name, or the kind's with --kind
    pub name: String,

    /// NAME is a kind of job, not a queue
    #[arg(long)]
    pub kind: bool,
}

/// `limits [list|show|set|remove|close-breaker]`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "NAME is a key that jobs count against (gateway, endpoint/ID), the beginning of many keys, each\n\
        with as much for itself (endpoint), or a whole queue (queue/webhooks). The longest that fits holds.\n\n\
        For example:\n  \
        orderfleet limits set endpoint --concurrency 8 --rate 50 --burst 10 --reason \"they are slow\"\n  \
        orderfleet limits set gateway --breaker-failures 20 --breaker-seconds 5 --reason \"as it was\"\n  \
        orderfleet limits show gateway\n  \
        orderfleet limits close-breaker gateway --reason \"it is back\"\n\n\
        What is set here holds for the whole fleet at once, and no deploy undoes it. Jobs over a limit\n\
        wait and use no try."
)]
pub struct Limits {
    #[command(subcommand)]
    pub action: Option<LimitsAction>,

    #[command(flatten)]
    pub output: Output,
}

/// What can be done about limits.
#[derive(Debug, Subcommand)]
pub enum LimitsAction {
    /// List limits, and what each holds back (the default)
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show one limit with its keys: those with jobs waiting first, a hundred at most
    Show {
        /// The limit's name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Set a limit, or replace it as a whole; what runs goes on
    Set {
        /// A key, the beginning of keys, or queue/NAME
        name: String,
        /// Jobs that run at once for each key; 0 for none at all
        #[arg(long, value_name = "N")]
        concurrency: Option<i32>,
        /// Jobs that start a second for each key, from 0.0001 to 100000
        #[arg(long, value_name = "N")]
        rate: Option<f64>,
        /// Jobs that may start at once when none has for long; without it a tenth of a second's worth
        #[arg(long, value_name = "N", requires = "rate")]
        burst: Option<i32>,
        /// Failures in a row that open the breaker; without it there is none
        #[arg(long, value_name = "N")]
        breaker_failures: Option<i32>,
        /// Seconds until an open breaker lets single jobs through; 10 without it
        #[arg(long, value_name = "N", requires = "breaker_failures")]
        breaker_seconds: Option<f64>,
        #[command(flatten)]
        because: Because,
    },
    /// Remove a limit; what waited for it is let in
    Remove {
        /// The limit's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Close the breaker of a key before its time: everybody is let in
    CloseBreaker {
        /// The key, as `limits show` names it
        key: String,
        #[command(flatten)]
        because: Because,
    },
}
