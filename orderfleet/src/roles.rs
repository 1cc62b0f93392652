//! The long-running roles: each reads its settings once, makes what it needs, and serves until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use domain::routes::roads::{Kind, Roads};
use domain::services::Settings;
use domain::{Services, payments, webhooks};
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use crate::cli;
use crate::settings::{environment, keyring, required_secret, secrets};
use crate::{database, migrate, signals};

/// What this build calls itself in reports.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");

/// Serves the API.
pub async fn api(args: cli::Api) -> anyhow::Result<()> {
    let stop = signals::stop_token()?;
    let url = database::url()?;
    let options = database::options(&url, "orderfleet-api")?;
    let services = services(&args.outside, Settings::default())?;
    current(&options, &services).await?;
    let mut config = api::Config::new(args.listen, api::CursorKey::derived_from(url.expose_secret()));
    config.gateway_webhook_secrets = secrets("ORDERFLEET_GATEWAY_WEBHOOK_SECRET", &environment)?;
    api::serve(config, api::pool(options, args.connections), services, stop).await
}

/// Serves pools of jobs.
pub async fn worker(args: cli::Worker) -> anyhow::Result<()> {
    let stop = signals::stop_token()?;
    let name = args.name.unwrap_or_else(|| {
        let names: Vec<&str> = args.pools.iter().map(|pool| pool.name.as_str()).collect();
        format!("{}-{}", names.join("+"), std::process::id())
    });
    let mut options = database::options(&database::url()?, &format!("orderfleet-worker {name}"))?;
    if args.poll_only {
        options = options.extra_float_digits(None);
    }
    let settings = Settings {
        history_days: args.history_days,
        road_factor: args.roads.road_factor,
        speed_kmh: args.roads.speed_kmh,
        roads: roads(&args.roads)?,
        road_matrix_days: args.roads.days,
        ..Settings::default()
    };
    let services = services(&args.outside, settings)?;
    known_pools(&args.pools)?;
    current(&options, &services).await?;
    let config = workers::Config {
        name,
        pools: args.pools,
        slots: usize::from(args.slots),
        lease: args.lease,
        shutdown_grace: args.shutdown_grace,
        build: BUILD.to_owned(),
        health: args.health,
        poll_only: args.poll_only,
    };
    workers::run(config, options, services, stop).await
}

/// Serves the payment gateway simulator.
pub async fn gateway_simulator(args: cli::GatewaySimulator) -> anyhow::Result<()> {
    let stop = signals::stop_token()?;
    let config = simulator::gateway::Config {
        port: args.port,
        ledger: args.ledger,
        seed: args.seed,
    };
    let hook = match args.webhook_url {
        None => None,
        Some(url) => {
            let name = "ORDERFLEET_GATEWAY_WEBHOOK_SECRET";
            let hint = "it signs what --webhook-url is sent; choose any whsec_…, and give the API the same";
            let secret = required_secret(name, hint, &environment)?.expose_secret().to_owned();
            Some(simulator::gateway::Hook { url, secret })
        }
    };
    simulator::gateway::run(config, hook, stop.cancelled_owned()).await
}

/// Serves the demo webhook receiver.
pub async fn webhook_receiver(args: cli::WebhookReceiver) -> anyhow::Result<()> {
    let stop = signals::stop_token()?;
    let config = simulator::receiver::Config {
        port: args.port,
        log: args.log,
        secrets: args.secrets,
    };
    simulator::receiver::run(config, stop.cancelled_owned()).await
}

/// The outside world, from the settings that the API and the workers share and from those of the role alone.
fn services(outside: &cli::Outside, of_role: Settings) -> anyhow::Result<Arc<Services>> {
    let hint = "set it to the gateway's secret key; the simulator accepts any sk_test_…";
    let key = required_secret("ORDERFLEET_GATEWAY_KEY", hint, &environment)?;
    let gateway = payments::Gateway::new(outside.gateway_url.clone(), key).context("ORDERFLEET_GATEWAY_URL")?;
    let sender = webhooks::Sender::new(outside.allow_private_webhooks).context("making the sender of webhooks")?;
    let keyring = keyring(&environment)?;
    let settings = Settings {
        cancel_window: outside.cancel_window,
        reservation_ttl: outside.reservation_ttl,
        ..of_role
    };
    settings.check()?;
    Ok(Arc::new(Services {
        gateway,
        sender,
        keyring,
        settings,
    }))
}

/// The road server, if one is set.
fn roads(args: &cli::Roads) -> anyhow::Result<Option<Roads>> {
    let kind = match (args.kind.as_str(), args.url.as_str()) {
        ("", "") => return Ok(None),
        ("", _) => anyhow::bail!("ORDERFLEET_ROADS_URL is set and ORDERFLEET_ROADS is not: set it to osrm or valhalla"),
        (_, "") => {
            anyhow::bail!("ORDERFLEET_ROADS is set and ORDERFLEET_ROADS_URL is not: set it to the server's address")
        }
        ("osrm", _) => Kind::Osrm,
        _ => Kind::Valhalla,
    };
    // The address may hold a password: it is not repeated.
    let url = args
        .url
        .parse()
        .map_err(|_| anyhow::anyhow!("ORDERFLEET_ROADS_URL is no address: write one like http://127.0.0.1:5000"))?;
    Ok(Some(Roads {
        profile: Some(args.profile.clone()).filter(|profile| !profile.is_empty()),
        points_max: args.points_max,
        timeout: args.timeout,
        ..Roads::new(kind, url)
    }))
}

/// Waits for the database and refuses a schema that is behind, and secrets that would not open.
async fn current(options: &PgConnectOptions, services: &Services) -> anyhow::Result<()> {
    database::wait_for(options, database::PATIENCE).await?;
    let mut conn = PgConnection::connect_with(options)
        .await
        .map_err(|error| database::explain(error, options))?;
    migrate::refuse_pending(&mut conn).await?;
    crate::secrets::refuse_unknown(&mut conn, &services.keyring).await?;
    conn.close().await.context("closing a connection")
}

/// Refuses a pool that no kind of job uses: a misspelt one would idle for ever.
fn known_pools(pools: &[workers::Pool]) -> anyhow::Result<()> {
    let mut known: Vec<&str> = jobs::catalogue().kinds().iter().map(|kind| kind.queue).collect();
    known.sort_unstable();
    known.dedup();
    let mut served = pools.iter().flat_map(|pool| &pool.queues).map(|(queue, _)| queue);
    match served.find(|queue| !known.contains(&queue.as_str())) {
        Some(pool) => anyhow::bail!(
            "--pool {pool}: there is no such pool; the pools are {}",
            known.join(", ")
        ),
        None => Ok(()),
    }
}

/// Where a role on this machine is reached.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
