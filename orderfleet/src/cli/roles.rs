//! The long-running roles, and `up`, which runs all of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use domain::services::Settings;
use url::Url;

use crate::settings::duration;

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
    ORDERFLEET_MASTER_KEY,\neach also as NAME_FILE with the path of a file that holds it."
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
    Secrets come from the environment only: DATABASE_URL, ORDERFLEET_GATEWAY_KEY, ORDERFLEET_MASTER_KEY, each also\n\
    as NAME_FILE.\n\
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
