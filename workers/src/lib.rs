//! The worker process: pools of slots over the queue, and everything that keeps them honest.
//!
//! In reading order: [`run`] sets the process up and brings it down; `fetch` claims as many jobs as a pool has free
//! slots, `share` does so for a pool of several queues, `slots` changes how many there are; `pool` runs the slots, on apalis;
//! `quarantine` runs suspects with nothing beside them; `maintain` does what any worker does for the whole fleet: rescue,
//! timetable, partitions, gauges, campaigns; `health` answers the orchestrator.
//!
//! What one attempt does is `queue::attempt`; what the jobs do is `jobs`.

mod fetch;
mod health;
mod maintain;
mod pool;
mod quarantine;
mod share;
mod site;
mod slots;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use queue::Catalogue;
use queue::claim::Known;
use queue::complete::Completer;
use queue::lease::{Heart, Identity};
use queue::limit::Limit;
use queue::schedule::Entry;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use crate::share::Pool;
use crate::site::{Build, Site};
use crate::slots::Slots;

/// More slots than this hold more jobs in memory than a rescue should have to bring back.
const SLOTS_MAX: usize = 8192;

/// How a worker process is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of the process, for people.
    pub name: String,
    /// Its pools of slots, each for one queue or for several.
    pub pools: Vec<Pool>,
    /// How many jobs of each pool run at once.
    pub slots: usize,
    /// How long a silent worker is believed to live.
    pub lease: Duration,
    /// How long jobs in flight may take to end when the process is asked to stop.
    pub shutdown_grace: Duration,
    /// The build, for the reports.
    pub build: String,
    /// Where /livez, /readyz and /metrics are served.
    pub health: Option<SocketAddr>,
    /// For a database behind a proxy that pools transactions: no LISTEN and no state of a session, so no hints, no bounds
    /// on statements but those of the database's role, and a process that is killed is missed when its lease runs out.
    pub poll_only: bool,
}

/// Serves the pools with the jobs and the timetable of Orderfleet until `stop` is cancelled.
pub async fn run(
    config: Config,
    database: PgConnectOptions,
    services: Arc<domain::Services>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let defaults = Defaults {
        timetable: jobs::timetable(),
        limits: jobs::limits(),
    };
    run_with(config, database, jobs::catalogue(), defaults, services, stop).await
}

/// What a build brings along for the whole fleet; operators change it.
#[derive(Debug, Default)]
pub struct Defaults {
    /// What happens when, by itself.
    pub timetable: Vec<Entry>,
    /// What no more than so much of is done; in force before anything is claimed.
    pub limits: Vec<(&'static str, Limit)>,
}

/// The same for any catalogue and defaults.
pub async fn run_with<S: Send + Sync + 'static>(
    config: Config,
    database: PgConnectOptions,
    catalogue: Catalogue<S>,
    defaults: Defaults,
    services: Arc<S>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    check(&config, &catalogue)?;
    for entry in &defaults.timetable {
        let refused = || format!("the entry {} of the timetable", entry.name);
        entry.check().with_context(refused)?;
    }
    let database = match config.poll_only {
        true => for_a_pooler(database),
        false => with_bounds(database),
    };
    let pool = PgPoolOptions::new()
        .max_connections(connections(&config))
        .acquire_timeout(Duration::from_secs(5))
        // A ping before each use costs a round trip a job; a dead connection costs one job a short wait and no try.
        .test_before_acquire(false)
        .connect_lazy_with(database.clone());
    let queues = queues(&config.pools);
    let claim_database = match config.poll_only {
        true => database.clone(),
        false => database.clone().options([("synchronous_commit", "off")]),
    };
    let claim_pool = PgPoolOptions::new()
        .max_connections(u32::try_from(queues.len() * 2 + 2)?)
        .acquire_timeout(Duration::from_secs(5))
        .test_before_acquire(false)
        .connect_lazy_with(claim_database);
    let identity = Identity {
        name: config.name.clone(),
        pools: queues.clone(),
        build: config.build.clone(),
        lease: config.lease,
        kinds: catalogue.kinds_of(&queues),
        is_pooled: config.poll_only,
        slots: Some(queue::lease::Slots {
            pool_names: pool_names(&config.pools),
            each: i32::try_from(config.slots)?,
        }),
    };
    let heart = Heart::start(identity, database).context("starting the heartbeat")?;
    let (completer, completions) = Completer::new(pool.clone(), claim_pool.clone(), &catalogue);
    let build = Build {
        catalogue,
        services,
        limits: defaults.limits,
    };
    let registration = heart.registration();
    let site = Arc::new(Site::new(
        pool,
        claim_pool,
        &queues,
        build,
        registration,
        completer,
        stop,
    ));

    let mut tasks = JoinSet::new();
    let mut kept = JoinSet::new();
    let mut hints = Vec::new();
    let mut slots = JoinSet::new();
    let (settings, set) = watch::channel(BTreeMap::new());
    let mut resizable = |pool: &Pool, part, parts, initial| {
        let semaphore = Arc::new(Semaphore::new(initial));
        let slots = Slots {
            pool: pool.name.clone(),
            semaphore: Arc::clone(&semaphore),
            initial,
            part,
            parts,
        };
        kept.spawn(slots::keep(Arc::clone(&site), slots, set.clone()));
        semaphore
    };
    for pool in &config.pools {
        let (sender, receiver) = mpsc::channel(config.slots);
        if let [(queue, _)] = pool.queues.as_slice() {
            let shares = fetch::shares(config.slots);
            let line = site.line(queue);
            for (part, share) in shares.iter().enumerate() {
                let semaphore = resizable(pool, part, shares.len(), *share);
                let hint = Arc::new(Notify::new());
                hints.push((queue.clone(), Arc::clone(&hint)));
                let (site, line) = (Arc::clone(&site), Arc::clone(&line));
                tasks.spawn(fetch::fetch(site, line, hint, semaphore, sender.clone()));
            }
        } else {
            let semaphore = resizable(pool, 0, 1, config.slots);
            let hint = Arc::new(Notify::new());
            hints.extend(pool.queues.iter().map(|(queue, _)| (queue.clone(), Arc::clone(&hint))));
            let lines = pool
                .queues
                .iter()
                .map(|(queue, weight)| (site.line(queue), *weight))
                .collect();
            let fetch = share::fetch(Arc::clone(&site), lines, hint, semaphore, sender.clone());
            tasks.spawn(fetch);
        }
        drop(sender);
        slots.spawn(pool::serve(Arc::clone(&site), pool.name.clone(), receiver));
    }
    tasks.spawn(slots::read(Arc::clone(&site), settings));
    tasks.spawn(completions);
    _ = site.hints.set(hints.clone());
    if !config.poll_only {
        tasks.spawn(queue::wakeup::listen(site.pool.clone(), hints, site.stop.clone()));
    }
    tasks.spawn(quarantine::quarantine(Arc::clone(&site), queues));
    tasks.spawn(maintain::maintain(Arc::clone(&site), config.lease, defaults.timetable));
    tasks.spawn(maintain::redrive(Arc::clone(&site)));
    tasks.spawn(pulse(heart.pulse(), site.ended.clone()));
    if let Some(listen) = config.health {
        tasks.spawn(health::serve(listen, Arc::clone(&site)));
    }
    tracing::info!(worker.name = config.name, pools = ?config.pools, slots = config.slots, "serving");

    let ended_early = tokio::select! {
        biased;
        () = site.stop.cancelled() => None,
        // The senders live as long as the process serves: an end of the slots is a fault.
        Some(ended) = slots.join_next() => Some(ended),
    };
    site.stop.cancel();
    bring_down(&site, &config, slots).await;
    heart.stop().await;
    site.ended.cancel();
    kept.shutdown().await;
    tasks.shutdown().await;
    site.claim_pool.close().await;
    site.pool.close().await;
    match ended_early {
        Some(ended) => anyhow::bail!("a pool ended unasked: {ended:?}"),
        None => Ok(()),
    }
}

/// Nothing new is claimed by now. What runs may end within the grace; the rest goes back with its try.
async fn bring_down<S: Send + Sync + 'static>(
    site: &Arc<Site<S>>,
    config: &Config,
    mut slots: JoinSet<anyhow::Result<()>>,
) {
    const HAND_BACK: Duration = Duration::from_secs(3);
    tracing::info!(in_flight = site.completer.jobs_in_hand(), "stopping");
    let registration = site.current();
    if let Some(registration) = &registration {
        registration.hand_back_after(config.shutdown_grace);
        _ = tokio::time::timeout(HAND_BACK, queue::lease::stopping(&site.pool, registration.id)).await;
    }
    let drained = async { while slots.join_next().await.is_some() {} };
    if tokio::time::timeout(config.shutdown_grace, drained).await.is_err() {
        tracing::warn!(
            in_flight = site.completer.jobs_in_hand(),
            "the grace is over: handing back what still runs"
        );
        site.hand_back.cancel();
        let drained = async { while slots.join_next().await.is_some() {} };
        _ = tokio::time::timeout(HAND_BACK, drained).await;
    }
    slots.abort_all();
    if let Some(registration) = registration {
        // A claim whose answer never arrived is nobody's in this process.
        _ = tokio::time::timeout(HAND_BACK, queue::finish::hand_back_all(&site.pool, registration.id)).await;
    }
}

/// Shows the heartbeat that this runtime still turns.
async fn pulse(pulse: Arc<std::sync::atomic::AtomicU64>, ended: CancellationToken) {
    while !ended.is_cancelled() {
        pulse.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn check<S: Send + Sync + 'static>(config: &Config, catalogue: &Catalogue<S>) -> anyhow::Result<()> {
    anyhow::ensure!(!config.pools.is_empty(), "a worker needs at least one pool");
    anyhow::ensure!(
        (1..=SLOTS_MAX).contains(&config.slots),
        "slots must be from 1 to {SLOTS_MAX}"
    );
    anyhow::ensure!(
        config.lease >= Duration::from_secs(1),
        "the lease must be at least one second"
    );
    let queues = queues(&config.pools);
    for (n, queue) in queues.iter().enumerate() {
        if Known::of(catalogue, queue).is_empty() {
            let known: std::collections::BTreeSet<_> = catalogue.kinds().into_iter().map(|kind| kind.queue).collect();
            anyhow::bail!("no kind of job waits in a queue called {queue}; there are {known:?}");
        }
        anyhow::ensure!(
            !queues[..n].contains(queue),
            "the queue {queue} is in two pools of one worker"
        );
    }
    Ok(())
}

/// The queues of all the pools.
fn queues(pools: &[Pool]) -> Vec<String> {
    let queues = pools.iter().flat_map(|pool| &pool.queues);
    queues.map(|(queue, _)| queue.clone()).collect()
}

/// The pool of each of these queues.
fn pool_names(pools: &[Pool]) -> Vec<String> {
    let names = pools.iter().flat_map(|pool| pool.queues.iter().map(|_| &pool.name));
    names.cloned().collect()
}

/// Slots wait for the outside world more than for the database, so they share connections.
fn connections(config: &Config) -> u32 {
    const SPARE: usize = 4;
    const CONNECTIONS_MAX: usize = 20;
    u32::try_from((config.slots * config.pools.len() + SPARE).min(CONNECTIONS_MAX)).unwrap_or(20)
}

/// A proxy passes on only the settings it knows. (`extra_float_digits` changes nothing since PostgreSQL 12.)
fn for_a_pooler(database: PgConnectOptions) -> PgConnectOptions {
    database.application_name("orderfleet worker").extra_float_digits(None)
}

/// No statement of a worker waits for ever.
fn with_bounds(database: PgConnectOptions) -> PgConnectOptions {
    database.application_name("orderfleet worker").options([
        ("statement_timeout", "60s"),
        // No statement of ours runs long enough to repay being compiled.
        ("jit", "off"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "60s"),
    ])
}
