//! The command tree: what can be said, with the help that teaches it. What is done is in the module each command names.

#![expect(
    missing_docs,
    reason = "what is flattened or a subcommand shows in no help, and its type says what it is"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use domain::ids::OrderId;
use domain::services::Settings;
use url::Url;

use crate::settings::{duration, percent};

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
    /// See queues; pause or resume them
    Queues(Queues),
    /// See limits: what may run at once, how fast, and which breakers are open; set or remove them
    Limits(Limits),
    /// See the timetable; change, pause and run its entries
    #[command(visible_alias = "schedules")]
    Schedule(Schedule),
    /// Plan a warehouse's day; show, draw and print its routes
    Routes(crate::routes::Routes),
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

/// Settings of `up`.
#[derive(Debug, Args)]
#[command(
    after_help = "With DATABASE_URL set, that server is used; otherwise a private PostgreSQL keeps its files in DIR/postgres.\n\
    Written to DIR: env (source it), pids.json, gateway-ledger.jsonl, receiver.jsonl, logs/.\n\
    Ctrl-C or SIGTERM drains and stops all of it; the same DIR starts again with the same orders and keys."
)]
pub struct Up {
    /// Where everything is kept: database, logs, ledger, env
    #[arg(long, env = "ORDERFLEET_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// The port of the API and the page at /
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub api_port: u16,

    /// Send no demo orders
    #[arg(long)]
    pub no_demo: bool,

    /// How long a confirmed order can be cancelled before its payment is captured; 0 captures at once
    #[arg(long, env = "ORDERFLEET_CANCEL_WINDOW", default_value = "10m", value_name = "DURATION",
          value_parser = duration("ORDERFLEET_CANCEL_WINDOW"))]
    pub cancel_window: Duration,
}

/// What a process that meets the outside world needs to know: the API and the workers share it.
#[derive(Debug, Args, Clone)]
pub struct Outside {
    /// The payment gateway's address
    #[arg(
        long,
        env = "ORDERFLEET_GATEWAY_URL",
        default_value = "http://127.0.0.1:12111",
        value_name = "URL"
    )]
    pub gateway_url: Url,

    /// How long a confirmed order can be cancelled before its payment is captured; 0 captures at once
    #[arg(long, env = "ORDERFLEET_CANCEL_WINDOW", default_value = "10m", value_name = "DURATION",
          value_parser = duration("ORDERFLEET_CANCEL_WINDOW"))]
    pub cancel_window: Duration,

    /// How long reserved stock waits for a confirmation
    #[arg(long, env = "ORDERFLEET_RESERVATION_TTL", default_value = "15m", value_name = "DURATION",
          value_parser = duration("ORDERFLEET_RESERVATION_TTL"))]
    pub reservation_ttl: Duration,

    /// Let webhooks go to private and loopback addresses (development only)
    #[arg(long, env = "ORDERFLEET_ALLOW_PRIVATE_WEBHOOKS", value_name = "BOOL",
          num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub allow_private_webhooks: bool,
}

/// Settings of the API process.
#[derive(Debug, Args)]
#[command(
    after_help = "Secrets come from the environment only: DATABASE_URL, ORDERFLEET_GATEWAY_KEY, \
    each also as NAME_FILE with the path of a file that holds it."
)]
pub struct Api {
    /// Where to listen
    #[arg(
        long,
        env = "ORDERFLEET_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS"
    )]
    pub listen: SocketAddr,

    /// Connections to the database, at most
    #[arg(long, env = "ORDERFLEET_API_CONNECTIONS", default_value_t = 16, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=500))]
    pub connections: u32,

    #[command(flatten)]
    pub outside: Outside,
}

/// Settings of a worker process.
#[derive(Debug, Args)]
#[command(after_help = "Pools: stock, payments, webhooks, routes, maintenance.\n\
    --pool rest=routes:3,maintenance:1 shares its slots: three to one while both have work, all to one while the other has none.\n\
    Secrets come from the environment only: DATABASE_URL, ORDERFLEET_GATEWAY_KEY, each also as NAME_FILE.\n\
    SIGTERM takes no new jobs and waits for the running ones; a second one stops at once, and others take over.")]
pub struct Worker {
    /// A pool to serve, or NAME=POOL:WEIGHT,… for slots that several share; repeat it for several
    #[arg(long = "pool", required = true, value_name = "NAME")]
    pub pools: Vec<workers::Pool>,

    /// Jobs at once in each pool
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub slots: u16,

    /// What this process is called in `doctor` and in failures; host and pid by default
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// A worker whose heartbeat is older than this loses its jobs to others
    #[arg(long, env = "ORDERFLEET_LEASE", default_value = "15s", value_name = "DURATION",
          value_parser = duration("ORDERFLEET_LEASE"))]
    pub lease: Duration,

    /// How long running jobs may take to end after SIGTERM
    #[arg(long, env = "ORDERFLEET_SHUTDOWN_GRACE", default_value = "25s", value_name = "DURATION",
          value_parser = duration("ORDERFLEET_SHUTDOWN_GRACE"))]
    pub shutdown_grace: Duration,

    /// Days for which finished jobs are remembered; older days are dropped whole
    #[arg(long, env = "ORDERFLEET_HISTORY_DAYS", default_value_t = Settings::HISTORY_DAYS, value_name = "DAYS",
          value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub history_days: u16,

    /// Where to serve /livez, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS")]
    pub health: Option<SocketAddr>,

    /// For a DATABASE_URL that leads to a proxy which pools transactions (PgBouncer 1.21 or later): poll, never LISTEN
    #[arg(long, env = "ORDERFLEET_POLL_ONLY", value_name = "BOOL",
          num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub poll_only: bool,

    #[command(flatten)]
    pub roads: Roads,

    #[command(flatten)]
    pub outside: Outside,
}

/// How far it is, for workers that plan routes.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "Distances")]
pub struct Roads {
    /// What the road server speaks: osrm or valhalla. Without one distances are straight lines made longer
    #[arg(long = "roads", env = "ORDERFLEET_ROADS", default_value = "", value_name = "KIND", hide_default_value = true,
          value_parser = ["", "osrm", "valhalla"], hide_possible_values = true)]
    pub kind: String,

    /// Where the road server is
    #[arg(
        long = "roads-url",
        env = "ORDERFLEET_ROADS_URL",
        default_value = "",
        value_name = "URL",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub url: String,

    /// Its name for the sort of vehicle [default: driving for osrm, auto for valhalla]
    #[arg(
        long = "roads-profile",
        env = "ORDERFLEET_ROADS_PROFILE",
        default_value = "",
        value_name = "NAME",
        hide_default_value = true
    )]
    pub profile: String,

    /// Points that one request names at most: osrm-routed's --max-table-size
    #[arg(long = "roads-points", env = "ORDERFLEET_ROADS_POINTS", default_value_t = domain::routes::Roads::POINTS_MAX,
          value_name = "N")]
    pub points_max: usize,

    /// How long one request may take
    #[arg(long = "roads-timeout", env = "ORDERFLEET_ROADS_TIMEOUT", default_value = "5s", value_name = "DURATION",
          value_parser = duration("ORDERFLEET_ROADS_TIMEOUT"))]
    pub timeout: Duration,

    /// Days for which its distances are kept after their last use
    #[arg(
        long = "roads-days",
        env = "ORDERFLEET_ROADS_DAYS",
        default_value_t = 30,
        value_name = "DAYS"
    )]
    pub days: u16,

    /// How much longer a road is than the straight line, where neither a road server nor the warehouse says
    #[arg(long, env = "ORDERFLEET_ROAD_FACTOR", default_value_t = 1.3, value_name = "FACTOR")]
    pub road_factor: f64,

    /// How fast a van is there, in km/h
    #[arg(long, env = "ORDERFLEET_SPEED_KMH", default_value_t = 40.0, value_name = "KMH")]
    pub speed_kmh: f64,
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

/// `jobs [list|show|why|run|cancel]`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Jobs {
    #[command(subcommand)]
    pub action: Option<JobsAction>,

    #[command(flatten)]
    pub list: JobsList,
}

/// What can be asked about jobs.
#[derive(Debug, Subcommand)]
pub enum JobsAction {
    /// List jobs, newest first (the default)
    List(JobsList),
    /// Show one job whole: arguments, attempts, failures, log
    Show {
        /// The job's number
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Say why a job is not running, or why it ended as it did: as `orderfleet why`
    Why {
        /// The job's number
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Make jobs due now that are scheduled, wait for a retry or were asked to come back later
    Run {
        /// The jobs' numbers
        #[arg(required = true)]
        ids: Vec<i64>,
        #[command(flatten)]
        because: Because,
    },
    /// End jobs that wait, and ask those that run to stop: they do within a second, unless they end before
    Cancel {
        /// The jobs' numbers
        #[arg(required = true)]
        ids: Vec<i64>,
        #[command(flatten)]
        because: Because,
    },
}

/// Which jobs to list.
#[derive(Debug, Args)]
pub struct JobsList {
    /// Only this queue
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,

    /// Only this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,

    /// Only this state: available, scheduled, retryable, running, completed, discarded, cancelled or dead
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,

    /// How many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
}

/// `dead [list|causes|show|redrive|discard]`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Dead {
    #[command(subcommand)]
    pub action: Option<DeadAction>,

    #[command(flatten)]
    pub list: DeadList,
}

/// What can be done about dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadAction {
    /// List dead letters, newest first (the default)
    List(DeadList),
    /// Count dead letters by cause, the largest first: same kind, class, code and message, but for ids and numbers
    Causes(DeadList),
    /// Show one dead letter with its whole report
    Show {
        /// The job's number
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Try again, as the same job: it keeps its id and its keys
    Redrive {
        /// The jobs' numbers
        #[arg(required = true)]
        ids: Vec<i64>,
        #[command(flatten)]
        because: Because,
        /// New arguments, as a JSON object (one job only)
        #[arg(long, value_name = "JSON")]
        edit: Option<String>,
    },
    /// Give up on it for good
    Discard {
        /// The jobs' numbers
        #[arg(required = true)]
        ids: Vec<i64>,
        #[command(flatten)]
        because: Because,
    },
}

/// `redrive [list|show|start|follow|pause|resume|cancel]`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "For example:\n  \
        orderfleet dead causes                                          what died of what\n  \
        orderfleet redrive start --cause 3f0c9a1b2d4e --dry-run         what would happen\n  \
        orderfleet redrive start --cause 3f0c9a1b2d4e --reason mended   ten first, then the rest, shown as it goes\n\n\
        The workers carry a campaign on, whoever started it. One letter is redriven with `orderfleet dead redrive ID`."
)]
pub struct Redrive {
    #[command(subcommand)]
    pub action: Option<RedriveAction>,

    #[command(flatten)]
    pub list: RedriveList,
}

/// What can be done about campaigns.
#[derive(Debug, Subcommand)]
pub enum RedriveAction {
    /// List campaigns, newest first (the default)
    List(RedriveList),
    /// Show one campaign: how far it is, and why it is there
    Show {
        /// The campaign's number
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Start a campaign and follow it; exit 1 when it halts or is paused
    Start(Box<RedriveStart>),
    /// Show how far a campaign is until it ends; Ctrl-C leaves it running
    Follow {
        /// The campaign's number
        id: i64,
    },
    /// Redrive no more for now; what is in flight goes on
    Pause {
        /// The campaign's number
        id: i64,
        #[command(flatten)]
        because: Because,
    },
    /// Go on after a pause; causes that halted begin again with a new canary
    Resume {
        /// The campaign's number
        id: i64,
        #[command(flatten)]
        because: Because,
    },
    /// End a campaign; what it has not redriven stays dead
    Cancel {
        /// The campaign's number
        id: i64,
        #[command(flatten)]
        because: Because,
    },
}

/// Settings of `orderfleet sagas`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        orderfleet sagas --state compensation_failed   those that wait for somebody\n  \
        orderfleet sagas show 12                       its steps, what undoes them, and the job of each\n\n\
        A compensation that is dead is redriven or discarded as any job: `orderfleet dead redrive JOB`."
)]
pub struct Sagas {
    #[command(subcommand)]
    pub action: Option<SagasAction>,

    #[command(flatten)]
    pub list: SagasList,
}

/// What can be asked about sagas.
#[derive(Debug, Subcommand)]
pub enum SagasAction {
    /// List sagas, newest first (the default)
    List(SagasList),
    /// Show one saga: its steps, what undoes them, and how each ended
    Show {
        /// The saga's number
        id: i64,
        #[command(flatten)]
        output: Output,
    },
}

/// Which sagas to list.
#[derive(Debug, Args)]
pub struct SagasList {
    /// Only of this sort
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Only about this
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,

    /// Only in this state
    #[arg(long, value_name = "STATE", value_parser = queue::saga::STATES)]
    pub state: Option<String>,

    /// How many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
}

/// How campaigns are listed.
#[derive(Debug, Args)]
pub struct RedriveList {
    /// How many
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
}

/// Which dead letters to redrive, and how carefully.
#[derive(Debug, Args)]
pub struct RedriveStart {
    /// Only this cause, as `orderfleet dead causes` names it; repeat it for several
    #[arg(long = "cause", value_name = "CAUSE")]
    pub causes: Vec<String>,

    /// Only this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,

    /// Only this queue
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,

    /// Only this class of failure
    #[arg(long, value_name = "CLASS")]
    pub error_class: Option<String>,

    /// Only this code of failure
    #[arg(long, value_name = "CODE")]
    pub error_code: Option<String>,

    /// Only this job and younger ones
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub from: Option<i64>,

    /// Only this job and older ones
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub to: Option<i64>,

    /// Change every payload: a JSON merge patch (RFC 7386)
    #[arg(long, value_name = "JSON")]
    pub patch: Option<String>,

    /// Change one field of every payload, such as address.city='"Leeds"'; null takes it away; repeat it for several
    #[arg(long = "set", value_name = "FIELD=JSON")]
    pub sets: Vec<String>,

    /// Leave out letters whose payload cannot be read, instead of refusing them all
    #[arg(long)]
    pub skip_unreadable: bool,

    /// Say what would happen, field by field, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// How many letters of each cause are tried first
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub canary: i32,

    /// A cause halts when a larger share of its jobs dies again, from 0 to under 1
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    pub failure_share: f64,

    /// After the canary: the share of how many jobs, the last that ended
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub failure_window: i32,

    /// Letters redriven a second, at most
    #[arg(long, default_value_t = 100.0, value_name = "N")]
    pub per_second: f64,

    /// Jobs of the campaign at once, at most
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub in_flight_max: i32,

    /// Do not wait for its end
    #[arg(long)]
    pub detach: bool,

    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,

    /// Who acts; kept in the audit
    #[arg(long, env = "USER", default_value = "operator", value_name = "NAME")]
    pub actor: String,

    #[command(flatten)]
    pub output: Output,
}

/// Which dead letters to list.
#[derive(Debug, Args)]
pub struct DeadList {
    /// Only this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,

    /// How many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
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

/// What to pause or resume.
#[derive(Debug, Args)]
pub struct PauseTarget {
    /// The queue's name, or the kind's with --kind
    pub name: String,

    /// NAME is a kind of job, not a queue
    #[arg(long)]
    pub kind: bool,
}

/// `schedule [list|show|ticks|add|change|pause|resume|reset|remove|run]`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "What a build lists is overridden by `change` and `pause`, and no deploy undoes that; `reset` takes the\n\
        override away. What was added by `add` is changed as it stands, and removed by `remove`.\n\n\
        CRON has five fields: minute, hour, day, month, weekday; or is @hourly, @daily, @weekly, @monthly, @yearly.\n\
        When the clocks change, a time of day ticks once: in the hour they skip right after it, in the hour they\n\
        repeat the first time. With * or / among its minutes or hours an expression follows real time instead."
)]
pub struct Schedule {
    #[command(subcommand)]
    pub action: Option<ScheduleAction>,

    #[command(flatten)]
    pub output: Output,
}

/// What can be done to the timetable.
#[derive(Debug, Subcommand)]
pub enum ScheduleAction {
    /// List the timetable (the default)
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show one entry: its times, policies, override and next ticks
    Show {
        /// The entry's name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List what became of an entry's ticks, the latest first: fired, skipped or missed, and why
    Ticks {
        /// The entry's name
        name: String,
        /// How many
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Add an entry that enqueues a job of some kind
    Add {
        /// What it is called: a to z, 0 to 9, _, - and .
        name: String,
        /// The kind of job
        #[arg(long, value_name = "KIND")]
        kind: String,
        /// Its payload, as a JSON object
        #[arg(long, value_name = "JSON", default_value = "{}")]
        args: String,
        /// When, in five fields
        #[arg(long, value_name = "CRON")]
        cron: String,
        #[command(flatten)]
        policies: Policies,
        #[command(flatten)]
        because: Because,
    },
    /// Change an entry; new times count from now on
    Change {
        /// The entry's name
        name: String,
        /// When, in five fields
        #[arg(long, value_name = "CRON")]
        cron: Option<String>,
        #[command(flatten)]
        policies: Policies,
        #[command(flatten)]
        because: Because,
    },
    /// Let an entry fire no more; what ticks meanwhile is skipped, and noted at the end
    Pause {
        /// The entry's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Let an entry fire again
    Resume {
        /// The entry's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Take an override away: the entry is again as the build lists it
    Reset {
        /// The entry's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Take an added entry off the timetable; the jobs it made go on
    Remove {
        /// The entry's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Run an entry now, paused or not
    Run {
        /// The entry's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
}

/// How an entry of the timetable fires.
#[derive(Debug, Args, Clone)]
pub struct Policies {
    /// The zone of the times, such as Europe/Berlin (UTC for a new entry)
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,

    /// What happens to ticks nobody was there for: skip them, fire once, or fire all, 1000 at most (once for a new entry)
    #[arg(long, value_name = "POLICY", value_parser = ["skip", "once", "all"])]
    pub missed: Option<String>,

    /// What a tick does while an earlier run has not ended: allow it, skip it, or queue_one behind it (allow for a new entry)
    #[arg(long, value_name = "POLICY", value_parser = ["allow", "skip", "queue_one"])]
    pub overlap: Option<String>,

    /// Start jobs up to so many seconds after their tick, at random, 3600 at most (0 for a new entry)
    #[arg(long, value_name = "N")]
    pub jitter_seconds: Option<i32>,
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

/// Settings of the gateway simulator.
#[derive(Debug, Args)]
#[command(after_help = format!("{}\n{}", simulator::gateway::TEST_METHODS, simulator::gateway::ORDERED_FAULTS))]
pub struct GatewaySimulator {
    /// The port to listen on, loopback only
    #[arg(long, value_name = "PORT")]
    pub port: u16,

    /// Where each executed operation is written, before it is answered
    #[arg(long, value_name = "FILE")]
    pub ledger: PathBuf,

    /// Where the outcomes of payments are sent as events, signed by ORDERFLEET_GATEWAY_WEBHOOK_SECRET
    #[arg(long, value_name = "URL")]
    pub webhook_url: Option<String>,

    /// The seed of its ids and of the luck of its faults
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

/// Settings of the webhook receiver.
#[derive(Debug, Args)]
pub struct WebhookReceiver {
    /// The port to listen on, loopback only
    #[arg(long, value_name = "PORT")]
    pub port: u16,

    /// Where each request is written
    #[arg(long, value_name = "FILE")]
    pub log: PathBuf,

    /// A signing secret that is accepted, whsec_…; repeat it for several
    #[arg(
        long = "secret",
        env = "ORDERFLEET_RECEIVER_SECRET",
        hide_env_values = true,
        required = true,
        value_delimiter = ',',
        value_name = "SECRET"
    )]
    pub secrets: Vec<String>,
}

/// Which shell's completions.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}
