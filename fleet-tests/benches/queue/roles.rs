//! The processes of a fleet: this executable again, each told its part. They run the real crates, as `orderfleet` does,
//! and those that listen do so on any free port and print where.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use domain::services::Settings;
use domain::{Services, payments, webhooks};
use tokio_util::sync::CancellationToken;
use workers::{Config, Pool};

use crate::server::Server;
use crate::worker::cpu_seconds;

/// What a process is.
#[derive(clap::Subcommand)]
pub(crate) enum Role {
    Gateway {
        #[arg(long)]
        ledger: PathBuf,
    },
    Receiver {
        #[arg(long)]
        log: PathBuf,
    },
    Api {
        #[arg(long)]
        url: String,
        #[arg(long)]
        gateway: String,
    },
    Worker {
        #[arg(long)]
        url: String,
        #[arg(long)]
        gateway: String,
        #[arg(long)]
        pool: String,
        #[arg(long)]
        slots: usize,
    },
}

/// What the receiver's endpoint signs with.
pub(crate) const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The pools an order needs, with the slots that `orderfleet up` gives them; each is a process.
const POOLS: [(&str, usize); 3] = [("stock", 4), ("payments", 8), ("webhooks", 16)];
/// Connections of the API, as `orderfleet api` has by default.
const API_CONNECTIONS: u32 = 16;
/// How long the workers may take to register.
const READY_MAX: Duration = Duration::from_secs(60);

/// Serves until killed.
pub(crate) async fn run(role: Role) {
    let stop = CancellationToken::new();
    match role {
        Role::Gateway { ledger } => {
            let config = simulator::gateway::Config {
                port: 0,
                ledger,
                seed: 0,
            };
            let running = simulator::gateway::start(config).await.unwrap();
            println!("{}", running.addr);
            stop.cancelled().await;
        }
        Role::Receiver { log } => {
            let config = simulator::receiver::Config {
                port: 0,
                log,
                secrets: vec![WEBHOOK_SECRET.to_owned()],
            };
            let running = simulator::receiver::start(config).await.unwrap();
            println!("{}", running.addr);
            stop.cancelled().await;
        }
        Role::Api { url, gateway } => {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            println!("{addr}");
            let config = api::Config::new(addr, api::CursorKey::derived_from(&url));
            let pool = api::pool(url.parse().unwrap(), API_CONNECTIONS);
            api::serve_on(listener, config, pool, services(&gateway), stop)
                .await
                .unwrap();
        }
        Role::Worker {
            url,
            gateway,
            pool,
            slots,
        } => {
            let config = Config {
                name: pool.clone(),
                pools: vec![Pool::of(&pool)],
                slots,
                lease: Duration::from_secs(15),
                shutdown_grace: Duration::from_secs(10),
                build: "bench".to_owned(),
                health: None,
                poll_only: false,
            };
            workers::run(config, url.parse().unwrap(), services(&gateway), stop)
                .await
                .unwrap();
        }
    }
}

/// The outside world: the gateway, receivers on loopback, and no time to cancel in.
fn services(gateway: &str) -> Arc<Services> {
    let key = "sk_test_bench".to_owned().into();
    Arc::new(Services {
        gateway: payments::Gateway::new(format!("http://{gateway}/").parse().unwrap(), key).unwrap(),
        sender: webhooks::Sender::new(true).unwrap(),
        keyring: domain::keyring::Keyring::random(),
        settings: Settings {
            cancel_window: Duration::ZERO,
            ..Settings::default()
        },
    })
}

/// The processes of one round; killed when dropped.
pub(crate) struct Fleet {
    pub(crate) api: SocketAddr,
    pub(crate) receiver: SocketAddr,
    children: Vec<(&'static str, Child)>,
    folder: tempfile::TempDir,
}

impl Fleet {
    /// Starts them all and waits until they serve.
    pub(crate) async fn start(server: &Server, slots: Option<usize>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = Self {
            api: SocketAddr::from(([127, 0, 0, 1], 0)),
            receiver: SocketAddr::from(([127, 0, 0, 1], 0)),
            children: Vec::new(),
            folder,
        };
        let (ledger, log) = (fleet.ledger(), fleet.log());
        let gateway = fleet.serve("gateway", &["--ledger", text(&ledger)]).to_string();
        fleet.receiver = fleet.serve("receiver", &["--log", text(&log)]);
        let outside = ["--url", &server.url, "--gateway", &gateway];
        fleet.api = fleet.serve("api", &outside);
        for (pool, usual) in POOLS {
            let slots = slots.unwrap_or(usual).to_string();
            let args = [&outside[..], &["--pool", pool, "--slots", &slots]].concat();
            let child = spawn("worker", &args, Stdio::null());
            fleet.children.push((pool, child));
        }
        let registered = async {
            let count = "select count(*) from queue.workers";
            while sqlx::query_scalar::<_, i64>(count)
                .fetch_one(&server.pool)
                .await
                .unwrap()
                < POOLS.len() as i64
            {
                fleet.assert_alive();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(READY_MAX, registered)
            .await
            .expect("the workers register in time");
        fleet
    }

    /// Starts one that listens, and returns where.
    fn serve(&mut self, role: &'static str, args: &[&str]) -> SocketAddr {
        let mut child = spawn(role, args, Stdio::piped());
        let mut line = String::new();
        let said = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        self.children.push((role, child));
        said.unwrap();
        let addr = line.trim().parse();
        addr.unwrap_or_else(|_| panic!("{role} ended before it served; what it said is above"))
    }

    /// The gateway's own record of what it executed.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger")
    }

    /// The receiver's own record of what arrived.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// How many processes it has.
    pub(crate) fn processes(&self) -> usize {
        self.children.len()
    }

    /// What they have used so far, in seconds of user and system time.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.children.iter().map(|(_, child)| cpu_seconds(child)).sum()
    }

    /// Fails if one of them has ended, and says which.
    pub(crate) fn assert_alive(&mut self) {
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the process {name} ended: {status}");
            }
        }
    }

    /// Kills them, and takes the workers' rows away.
    pub(crate) async fn end(mut self, server: &Server) {
        self.kill();
        server.execute("delete from queue.workers").await;
    }

    fn kill(&mut self) {
        for (_, child) in &mut self.children {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(role: &str, args: &[&str], stdout: Stdio) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["role", role])
        .args(args)
        .stdin(Stdio::null())
        .stdout(stdout)
        .spawn()
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder is named in UTF-8")
}
