//! The command tree: what can be said, with the help that teaches it. What is done is in the module each command names.

#![expect(
    missing_docs,
    reason = "what is flattened or a subcommand shows in no help, and its type says what it is"
)]

mod jobs;
pub mod partners;
mod queues;
mod roles;
mod schedule;
mod secrets;
mod sellers;
pub mod webhooks;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use domain::ids::OrderId;
use url::Url;

use crate::settings::percent;
pub use jobs::{
    Dead, DeadAction, DeadList, Jobs, JobsAction, JobsList, Redrive, RedriveAction, RedriveList, RedriveStart, Sagas,
    SagasAction, SagasList,
};
pub use partners::{Partners, PartnersAction, PartnersList};
pub use queues::{Limits, LimitsAction, PauseTarget, Queues, QueuesAction};
pub use roles::{Api, GatewaySimulator, Outside, Roads, Up, WebhookReceiver, Worker};
pub use schedule::{Policies, Schedule, ScheduleAction};
pub use secrets::{Secrets, SecretsAction};
pub use sellers::{Most, Orphans, OrphansAction, OrphansList, Sellers, SellersAction};
pub use webhooks::{Webhooks, WebhooksAction, WebhooksList};

/// Orderfleet takes orders in and carries each one through: stock, payment, webhooks, routes.
#[derive(Debug, Parser)]
#[command(
    name = "orderfleet",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Start here:\n  \
        orderfleet up --data-dir /tmp/fleet --api-port 8080   everything on this machine, with demo orders\n  \
        . /tmp/fleet/env                                      lets the commands below find it\n  \
        orderfleet jobs                                       what is waiting, running and retrying\n  \
        orderfleet doctor                                     what is wrong here, and what to do about it\n\n\
        Every command that needs the database reads DATABASE_URL (or DATABASE_URL_FILE) from the environment."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// What is logged, to stderr: a level, or `target=level` pairs with commas.
    #[arg(
        long,
        global = true,
        env = "ORDERFLEET_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log_filter: String,
}

/// Each role of a process, and each thing an operator does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine: PostgreSQL, the API, every pool, a gateway simulator and a webhook receiver
    Up(Up),
    /// Run the HTTP API
    Api(Api),
    /// Run workers for one or more pools
    Worker(Worker),
    /// Bring the database's schema up to date
    Migrate(Migrate),
    /// Check that this build can run everything an earlier one has stored, before it takes over
    CheckDeploy(CheckDeploy),
    /// Import orders through the API, as a client would
    Import(Import),
    /// Wait until nothing is due or running
    Drain(Drain),
    /// Check the invariants of stock, orders, payments, webhooks, jobs and routes, changing nothing
    Verify(Verify),
    /// See jobs: what waits, runs, retries, or is done, and why
    Jobs(Jobs),
    /// Say why a job is not running, or what an order waits for: every cause, the predicted start and the remedy
    Why(Why),
    /// See dead letters; redrive or discard them
    Dead(Dead),
    /// Redrive dead letters in bulk: a few first, at a pace, and no further where the cause is not mended
    Redrive(Redrive),
    /// See sagas: their steps, how far each is, and what was undone
    Sagas(Sagas),
    /// See sellers, what they are owed and their payouts; pay one now
    Sellers(Sellers),
    /// See orphan charges: money that moved at the gateway for nothing of ours; say what became of one
    Orphans(Orphans),
    /// See queues; pause or resume them
    Queues(Queues),
    /// See limits: what may run at once, how fast, and which breakers are open; set or remove them
    Limits(Limits),
    /// See the timetable; change, pause and run its entries
    #[command(visible_alias = "schedules")]
    Schedule(Schedule),
    /// Plan a warehouse's day; show, draw and print its routes
    Routes(crate::routes::Routes),
    /// See webhook endpoints and what they were sent; register, change, pause, test, resend and replay
    Webhooks(Webhooks),
    /// See partners; make, pause and test them, and rotate their inbound secrets
    Partners(Partners),
    /// See which master keys seal the webhook secrets; seal them with a new one
    Secrets(Secrets),
    /// Say what is wrong with this installation, and what to do
    Doctor(Doctor),
    /// Run the payment gateway simulator (speaks Stripe's wire format)
    GatewaySimulator(GatewaySimulator),
    /// Run the demo webhook receiver: verifies and logs what it is sent
    WebhookReceiver(WebhookReceiver),
    /// Print shell completions
    Completions(Completions),
}

impl Command {
    /// What a role that exports spans calls itself there.
    pub fn service(&self) -> Option<&'static str> {
        match self {
            Self::Api(_) => Some("orderfleet-api"),
            Self::Worker(_) => Some("orderfleet-worker"),
            _ => None,
        }
    }
}

/// `migrate`, or `migrate status`.
#[derive(Debug, Args)]
#[command(after_help = "Several may run at once: an advisory lock lets one work while the others wait.")]
pub struct Migrate {
    #[command(subcommand)]
    pub action: Option<MigrateAction>,
}

/// What `migrate` can do besides migrating.
#[derive(Debug, Subcommand)]
pub enum MigrateAction {
    /// Say which migrations are applied and which are pending; exit 1 when one is pending
    Status {
        #[command(flatten)]
        output: Output,
    },
}

/// Settings of `check-deploy`.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads every payload with this build's kinds, upcasts included: what is due, scheduled, running, dead, and on\n\
    the timetable. Changes nothing, locks nothing, and reads in short pages, so it is safe on a running fleet.\n\n\
    Exit 0: this build may take over.\n\
    Exit 2: something would be stranded; each line says what, how many, why, and names some.\n\
    Exit 1: the check could not be made.\n\n\
    In a pipeline: orderfleet migrate && orderfleet check-deploy && (replace the processes)"
)]
pub struct CheckDeploy {
    /// Dead letters that this build cannot read are listed, but do not fail the check
    #[arg(long)]
    pub allow_dead: bool,

    #[command(flatten)]
    pub output: Output,
}

/// `import FORMAT FILE`.
#[derive(Debug, Args)]
pub struct Import {
    #[command(subcommand)]
    pub format: ImportFormat,
}

/// The formats that can be imported.
#[derive(Debug, Subcommand)]
pub enum ImportFormat {
    /// The UCI "Online Retail" CSV, plain or gzip: one order per invoice
    OnlineRetail(OnlineRetail),
}

/// Settings of `import online-retail`.
#[derive(Debug, Args)]
#[command(after_help = "Reads ORDERFLEET_API_URL and ORDERFLEET_API_KEY (source DIR/env).\n\n\
    Each input row gets exactly one result row: imported, or rejected with its reason.\n\
    Every request carries a key made of the file's hash and the invoice, so nothing is imported twice, whatever is\n\
    started again. A second start sends everything again and counts the replays; --resume skips what is known to be done.")]
pub struct OnlineRetail {
    /// The CSV file, plain or gzip
    pub file: PathBuf,

    /// Orders a second, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: Option<u32>,

    /// Skip the invoices that an earlier run of the same file finished
    #[arg(long)]
    pub resume: bool,

    /// Where the result rows go [default: FILE's name with .results.csv, in ORDERFLEET_DATA_DIR or here]
    #[arg(long, value_name = "FILE")]
    pub results: Option<PathBuf>,

    /// Requests at once
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,

    #[command(flatten)]
    pub client: Client,
}

/// Where the API is.
#[derive(Debug, Args, Clone)]
pub struct Client {
    /// The API's address
    #[arg(
        long,
        env = "ORDERFLEET_API_URL",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    pub api_url: Url,
}

/// Settings of `drain`.
#[derive(Debug, Args)]
#[command(
    after_help = "A capture still in its cancel window is not due, nor is anything else scheduled for later; a retry\n\
    that comes due within the timeout is waited for. Exit 1, with what is left and why, when the time runs out."
)]
pub struct Drain {
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

/// Settings of `verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "One line for each invariant: ok, FAIL with the ids concerned, or skipped with the reason.\n\
    Exit 1 on any violation. Reads in one read-only snapshot; safe on a running fleet, but meant for a drained one:\n\
    what began or came due within the last ten seconds is not held against it."
)]
pub struct Verify {
    /// The gateway's own ledger (JSON lines), for P1, P2, P4 and P5
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,

    /// The webhook receiver's log (JSON lines), for W2 and W3
    #[arg(long, value_name = "FILE")]
    pub receiver: Option<PathBuf>,

    #[command(flatten)]
    pub output: Output,
}

/// How a table is printed.
#[derive(Debug, Args, Clone, Copy, Default)]
pub struct Output {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Settings of `why`.
#[derive(Debug, Args)]
#[command(
    after_help = "The decisive cause comes first; under it, why the job it waits for has not ended. Each remedy is a command.\n\n\
    For example:\n  \
        orderfleet why 4711                                     a job\n  \
        orderfleet why 01990b2e-7c41-7d2a-9d0c-6f3f5e2a1b77     an order: each of its jobs that has not ended well\n\n\
    Exit 1 when there is no such job or order."
)]
pub struct Why {
    /// A job's number or an order's id
    #[arg(value_name = "JOB|ORDER", value_parser = why_subject)]
    pub subject: WhySubject,

    #[command(flatten)]
    pub output: Output,
}

/// What `why` is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhySubject {
    /// A job.
    Job(i64),
    /// An order.
    Order(OrderId),
}

fn why_subject(text: &str) -> Result<WhySubject, &'static str> {
    match (text.parse(), text.parse()) {
        (Ok(job), _) => Ok(WhySubject::Job(job)),
        (_, Ok(order)) => Ok(WhySubject::Order(order)),
        _ => Err("neither a job's number nor an order's id"),
    }
}

/// Who acts and why: it is kept.
#[derive(Debug, Args, Clone)]
pub struct Because {
    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: String,

    /// Who acts; kept in the audit
    #[arg(long, env = "USER", default_value = "operator", value_name = "NAME")]
    pub actor: String,
}

/// Who acts: it is kept.
#[derive(Debug, Args, Clone)]
pub struct Actor {
    /// Who acts; kept in the audit
    #[arg(long, env = "USER", default_value = "operator", value_name = "NAME")]
    pub actor: String,
}

/// Settings of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The payment gateway's address; not asked when absent
    #[arg(long, env = "ORDERFLEET_GATEWAY_URL", value_name = "URL")]
    pub gateway_url: Option<Url>,

    /// The API's address; not asked when absent
    #[arg(long, env = "ORDERFLEET_API_URL", value_name = "URL")]
    pub api_url: Option<Url>,

    /// Whose disk is looked at
    #[arg(long, env = "ORDERFLEET_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// A disk fuller than this is reported, in percent
    #[arg(long, default_value = "90", value_name = "PERCENT", value_parser = percent)]
    pub disk_full_at: u8,

    #[command(flatten)]
    pub output: Output,
}

/// Which shell's completions.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}
