//! Everything on one machine: PostgreSQL, and each role as a real child process of its own.
//!
//! The order of starting is the order of need, and stopping is the reverse: no new orders, then no new jobs, then the
//! world outside, and PostgreSQL last.

mod demo;
mod directory;
mod postgres;
mod seed;
mod supervise;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use domain::access;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::client::ApiClient;
use crate::roles::loopback;
use crate::settings::{MASTER_KEY, keyring};
use crate::{cli, database, migrate, secrets, signals, table};
use directory::{Directory, Kept};
use postgres::Postgres;
use supervise::{Fleet, Pids, Role};

/// Each pool with its slots: what two cores can carry.
const POOLS: [(&str, u16); 5] = [
    ("stock", 4),
    ("payments", 8),
    ("webhooks", 16),
    ("routes", 1),
    ("maintenance", 2),
];
/// Secrets that are sealed in one step at the start.
const SEALED_AT_ONCE: i64 = 100;
/// How long all roles together may take to get ready.
const READY_MAX: Duration = Duration::from_secs(60);
/// How often it is asked whether they are.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// `orderfleet up`.
pub async fn run(args: cli::Up) -> anyhow::Result<()> {
    let stop = signals::stop_token()?;
    let directory = Directory::take(&args.data_dir)?;
    free_port(args.api_port)?;
    let mut kept = directory.kept()?;
    let pids = Pids::new(directory.file("pids.json"));
    pids.set("up", Some(std::process::id()));

    let mut postgres = Postgres::start(&directory, &mut kept, pids.clone()).await?;
    let database_url = postgres.url().clone();
    let options = database::options(&database_url, "orderfleet up")?;
    database::wait_for(&options, database::PATIENCE).await?;
    let mut conn = PgConnection::connect_with(&options)
        .await
        .map_err(|error| database::explain(error, &options))?;
    migrate::apply(&mut conn).await?;
    seal(&mut conn, &directory).await?;
    let api_key = api_key(&mut conn, &mut kept).await?;
    directory.keep(&kept)?;

    let urls = Urls::new(&args, &kept)?;
    write_env(&directory, &database_url, &urls, &api_key, &kept)?;
    let mut fleet = Fleet::new(directory.file("logs"), pids);
    for role in roles(&args, &directory, &database_url, &urls, &kept) {
        fleet.start(role)?;
    }
    if let Some(secret) = &kept.receiver_secret {
        fleet.start(receiver(&directory, kept.receiver_port, secret))?;
    }
    let client = ApiClient::new(urls.api.clone(), api_key.clone())?;
    let prepared = async {
        let look_there = || format!("the logs are in {}", directory.file("logs").display());
        ready(&mut conn, &urls).await.with_context(look_there)?;
        seed::load(&client).await.context("loading the catalogue")?;
        let secret = seed::endpoint(&client, &urls.receiver, kept.receiver_secret.is_some()).await?;
        if let Some(secret) = secret {
            fleet.stop(&["webhook-receiver"]).await;
            fleet.start(receiver(&directory, kept.receiver_port, &secret))?;
            kept.receiver_secret = Some(secret);
            directory.keep(&kept)?;
        }
        answers(&urls.receiver.join("/livez")?).await.with_context(look_there)?;
        conn.close().await.context("closing a connection")
    };
    let served = tokio::select! {
        prepared = prepared => match prepared {
            Ok(()) => {
                announce(&args, &directory, &urls, &api_key, postgres.is_private())?;
                serve(&args, client, &mut postgres, &stop).await
            }
            Err(error) => Err(error),
        },
        () = stop.cancelled() => Ok(()),
    };

    tracing::info!("stopping");
    fleet.stop(&["api"]).await;
    fleet.stop(&["worker"]).await;
    fleet.stop(&[""]).await;
    postgres.stop().await;
    served
}

/// Serves until told to stop: keeps PostgreSQL alive, and sends demo orders if asked to.
async fn serve(
    args: &cli::Up,
    client: ApiClient,
    postgres: &mut Postgres,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let demo = (!args.no_demo).then(|| tokio::spawn(demo::send_orders(client)));
    tokio::select! {
        () = stop.cancelled() => {}
        () = postgres.keep_running() => {}
    }
    if let Some(demo) = demo {
        demo.abort();
    }
    Ok(())
}

/// Where everything is.
struct Urls {
    api: Url,
    gateway: Url,
    receiver: Url,
}

impl Urls {
    fn new(args: &cli::Up, kept: &Kept) -> anyhow::Result<Urls> {
        let local =
            |port: u16, path: &str| Url::parse(&format!("http://127.0.0.1:{port}{path}")).context("making a URL");
        Ok(Urls {
            api: local(args.api_port, "")?,
            gateway: local(kept.gateway_port, "")?,
            receiver: local(kept.receiver_port, "/hooks/demo")?,
        })
    }
}

/// The children, in the order of their start.
fn roles(args: &cli::Up, directory: &Directory, database_url: &SecretString, urls: &Urls, kept: &Kept) -> Vec<Role> {
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let path = |name: &str| directory.file(name).display().to_string();
    let cancel_window = humantime::format_duration(args.cancel_window).to_string();
    let outside = text(&[
        "--gateway-url",
        urls.gateway.as_str(),
        "--cancel-window",
        &cancel_window,
        "--allow-private-webhooks",
        "true",
    ]);
    let secrets = vec![
        ("DATABASE_URL".to_owned(), database_url.expose_secret().to_owned()),
        ("ORDERFLEET_GATEWAY_KEY".to_owned(), kept.gateway_key.clone()),
        // Whatever key the shell has is for another database.
        (MASTER_KEY.to_owned(), String::new()),
        (master_key_file(), path("master.key")),
    ];

    let webhook_secret = (
        "ORDERFLEET_GATEWAY_WEBHOOK_SECRET".to_owned(),
        kept.gateway_webhook_secret.clone(),
    );

    let mut roles = vec![
        Role {
            name: "gateway-simulator".to_owned(),
            args: text(&[
                "gateway-simulator",
                "--port",
                &kept.gateway_port.to_string(),
                "--ledger",
                &path("gateway-ledger.jsonl"),
                "--webhook-url",
                &format!("{}webhooks/in/gateway", urls.api),
            ]),
            env: vec![webhook_secret.clone()],
        },
        Role {
            name: "api".to_owned(),
            args: [
                text(&["api", "--listen", &loopback(args.api_port).to_string()]),
                outside.clone(),
            ]
            .concat(),
            env: [secrets.clone(), vec![webhook_secret]].concat(),
        },
    ];
    roles.extend(POOLS.iter().map(|(pool, slots)| {
        Role {
            name: format!("worker-{pool}"),
            args: [
                text(&["worker", "--pool", pool, "--slots", &slots.to_string(), "--name", pool]),
                outside.clone(),
            ]
            .concat(),
            env: secrets.clone(),
        }
    }));
    roles
}

/// The demo receiver, which needs to know what its webhooks are signed with.
fn receiver(directory: &Directory, port: u16, secret: &str) -> Role {
    let log = directory.file("receiver.jsonl").display().to_string();
    Role {
        name: "webhook-receiver".to_owned(),
        args: ["webhook-receiver", "--port", &port.to_string(), "--log", &log]
            .map(str::to_owned)
            .to_vec(),
        env: vec![("ORDERFLEET_RECEIVER_SECRET".to_owned(), secret.to_owned())],
    }
}

/// Refuses early and in plain words; the API itself would only say so in its log.
fn free_port(port: u16) -> anyhow::Result<()> {
    match TcpListener::bind(loopback(port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("port {port} is in use: stop what uses it, or choose another with --api-port")
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!("port {port} needs more rights than this user has: choose one above 1024 with --api-port")
        }
        Err(error) => Err(error).with_context(|| format!("trying port {port}")),
    }
}

/// Whatever an earlier build, or another key of DIR/master.key, has left otherwise: nobody else runs here yet.
async fn seal(conn: &mut PgConnection, directory: &Directory) -> anyhow::Result<()> {
    let path = directory.master_key()?.display().to_string();
    let file = |name: &str| (name == master_key_file()).then(|| path.clone());
    let keyring = keyring(&file)?;
    secrets::refuse_unknown(conn, &keyring)
        .await
        .with_context(|| format!("the master key of this data directory is in {path}"))?;
    secrets::reseal(conn, &keyring, SEALED_AT_ONCE).await.map(drop)
}

/// The setting that names the file of the master key.
fn master_key_file() -> String {
    format!("{MASTER_KEY}_FILE")
}

/// The kept key while this database knows it, else a new one.
async fn api_key(conn: &mut PgConnection, kept: &mut Kept) -> anyhow::Result<SecretString> {
    if let Some(key) = &kept.api_key
        && access::store::verify(conn, key)
            .await
            .context("checking the kept API key")?
            .is_some()
    {
        return Ok(key.clone().into());
    }
    let (_, secret) = access::store::create(conn, "up", &[access::Scope::Admin], None)
        .await
        .context("creating an API key")?;
    let key = secret.token.expose_secret().to_owned();
    kept.api_key = Some(key.clone());
    Ok(key.into())
}

fn write_env(
    directory: &Directory,
    database_url: &SecretString,
    urls: &Urls,
    api_key: &SecretString,
    kept: &Kept,
) -> anyhow::Result<()> {
    let data_dir = directory.file("").display().to_string();
    directory.write_env(&[
        ("DATABASE_URL", database_url.expose_secret()),
        ("ORDERFLEET_API_URL", urls.api.as_str().trim_end_matches('/')),
        ("ORDERFLEET_API_KEY", api_key.expose_secret()),
        ("ORDERFLEET_DATA_DIR", data_dir.trim_end_matches('/')),
        ("ORDERFLEET_GATEWAY_URL", urls.gateway.as_str().trim_end_matches('/')),
        ("ORDERFLEET_GATEWAY_KEY", &kept.gateway_key),
        (&master_key_file(), &directory.file("master.key").display().to_string()),
        ("ORDERFLEET_ALLOW_PRIVATE_WEBHOOKS", "true"),
        (
            "ORDERFLEET_LEDGER",
            &directory.file("gateway-ledger.jsonl").display().to_string(),
        ),
        (
            "ORDERFLEET_RECEIVER_LOG",
            &directory.file("receiver.jsonl").display().to_string(),
        ),
        ("ORDERFLEET_RECEIVER_URL", urls.receiver.as_str()),
    ])
}

/// Waits until something answers at that address.
async fn answers(url: &Url) -> anyhow::Result<()> {
    let http = http_client()?;
    let started = Instant::now();
    while http.get(url.clone()).send().await.is_err() {
        if started.elapsed() > READY_MAX {
            bail!("not ready after {} s: {url}", READY_MAX.as_secs());
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
    Ok(())
}

fn http_client() -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(Duration::from_secs(2))
        .build()
        .context("making an HTTP client")
}

/// Waits until the API, the gateway and a worker of each pool answer.
async fn ready(conn: &mut PgConnection, urls: &Urls) -> anyhow::Result<()> {
    let http = http_client()?;
    let started = Instant::now();
    loop {
        let missing = missing(conn, &http, urls).await?;
        if missing.is_empty() {
            return Ok(());
        }
        if started.elapsed() > READY_MAX {
            bail!("not ready after {} s: {}", READY_MAX.as_secs(), missing.join(", "));
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn missing(conn: &mut PgConnection, http: &reqwest::Client, urls: &Urls) -> anyhow::Result<Vec<String>> {
    let mut missing = Vec::new();
    for (name, url) in [
        ("api", urls.api.join("/readyz")?),
        ("gateway-simulator", urls.gateway.join("/livez")?),
    ] {
        let is_there = http
            .get(url)
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success());
        if !is_there {
            missing.push(name.to_owned());
        }
    }
    let workers = queue::inspect::workers(conn).await.context("listing the workers")?;
    let now = chrono::Utc::now();
    let is_served = |pool: &str| {
        workers
            .iter()
            .any(|worker| worker.lease_until > now && worker.pools.iter().any(|served| served == pool))
    };
    missing.extend(
        POOLS
            .iter()
            .filter(|(pool, _)| !is_served(pool))
            .map(|(pool, _)| format!("worker-{pool}")),
    );
    Ok(missing)
}

/// What to look at, and the line that scripts wait for.
fn announce(
    args: &cli::Up,
    directory: &Directory,
    urls: &Urls,
    api_key: &SecretString,
    is_private: bool,
) -> anyhow::Result<()> {
    let dir = directory.file("");
    let dir = dir.display().to_string();
    let dir = Path::new(dir.trim_end_matches('/')).display();
    let api = urls.api.as_str().trim_end_matches('/');
    let database = if is_private {
        format!("private, in {dir}/postgres")
    } else {
        "the one of DATABASE_URL".to_owned()
    };
    let orders = if args.no_demo {
        "none are sent (--no-demo)"
    } else {
        "about one a second, some declined, some cancelled"
    };
    table::say(&format!(
        "the page         {api}/#key={key}\n\
         the API          {api}/api/v1, documented at {api}/docs\n\
         the gateway      {gateway}, its ledger {dir}/gateway-ledger.jsonl\n\
         the receiver     {receiver}, its log {dir}/receiver.jsonl\n\
         PostgreSQL       {database}\n\
         logs             {dir}/logs/, processes {dir}/pids.json\n\
         demo orders      {orders}\n\
         in another shell . {dir}/env && orderfleet jobs    (or: dead, queues, schedule, doctor, verify)\n\
         ready {api}\n",
        key = api_key.expose_secret(),
        gateway = urls.gateway,
        receiver = urls.receiver,
    ))
}
