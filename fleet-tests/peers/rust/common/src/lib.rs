//! What the Rust peers share: the command line that `run` speaks to, and the clock.
//!
//! A peer says how it is installed, enqueues and works ([`Peer`]); its handlers call [`started`] and nothing else.
//! Everything that is timed is timed here, or by `drain.py`, so that all are timed alike.

use std::env;
use std::io::{self, BufRead};
use std::process::exit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Connections that enqueue at the same time.
const PRODUCERS: u32 = 8;
/// How often a worker says how many jobs it has handled.
const REPORT_INTERVAL: Duration = Duration::from_millis(5);
/// Seconds of `latency` that are run first and not counted.
const WARM_UP_S: u64 = 2;
/// How long after the last job was sent `latency` waits for it to start.
const LATENCY_DEADLINE: Duration = Duration::from_secs(60);
const LATENCY_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// One queue, used as its documentation says.
pub trait Peer: Clone + Send + Sync + Sized + 'static {
    const NAME: &'static str;
    /// The text of the peer's `Cargo.toml`, whose pin of the crate `NAME` is the version.
    const MANIFEST: &'static str;
    /// One row, one boolean: is any job not yet finished?
    const UNFINISHED: &'static str;
    /// How many connections a worker process has.
    const WORKER_CONNECTIONS: u32;

    fn connect(url: &str, connections: u32) -> impl Future<Output = Result<Self>>;
    /// Creates the schema in an empty database.
    fn install(&self) -> impl Future<Output = Result<()>>;
    /// Enqueues one job in a transaction of its own.
    fn enqueue(&self, job: u64) -> impl Future<Output = Result<()>> + Send;
    /// Enqueues the jobs 0 to `jobs` the fastest documented way.
    fn enqueue_all(&self, jobs: u64) -> impl Future<Output = Result<()>>;
    /// Works until the process ends.
    fn work(&self) -> impl Future<Output = Result<()>> + Send;
}

static STARTED: AtomicU64 = AtomicU64::new(0);
static TIMES: OnceLock<Times> = OnceLock::new();

/// When each job was sent and started, in nanoseconds of one clock.
struct Times {
    zero: Instant,
    sent: Vec<AtomicU64>,
    started: Vec<AtomicU64>,
}

impl Times {
    fn new(jobs: u64) -> Times {
        let empty = || (0..jobs).map(|_| AtomicU64::new(0)).collect();
        Times {
            zero: Instant::now(),
            sent: empty(),
            started: empty(),
        }
    }

    fn now(&self) -> u64 {
        self.zero.elapsed().as_nanos() as u64
    }
}

/// Called by a handler as the first thing it does.
pub fn started(job: u64) {
    if let Some(times) = TIMES.get() {
        times.started[job as usize].store(times.now(), Ordering::Relaxed);
    }
    STARTED.fetch_add(1, Ordering::Release);
}

/// Does what the command line says.
pub async fn run<P: Peer>() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["about"] => println!(
            r#"{{"version": "{}", "unfinished": "{}"}}"#,
            version::<P>(),
            P::UNFINISHED
        ),
        ["schema", url] => P::connect(url, 1).await?.install().await?,
        ["fill", url, jobs] => P::connect(url, 1).await?.enqueue_all(jobs.parse()?).await?,
        ["work", url] => work::<P>(url).await?,
        ["enqueue", url, jobs] => enqueue::<P>(url, jobs.parse()?).await?,
        ["latency", url, rate, seconds] => latency::<P>(url, rate.parse()?, seconds.parse()?).await?,
        _ => {
            return Err("about | schema URL | fill URL N | work URL | enqueue URL N | latency URL RATE SECONDS".into());
        }
    }
    exit(0) // Some peers keep threads that would wait for their work.
}

fn version<P: Peer>() -> &'static str {
    let pin = P::MANIFEST
        .lines()
        .find(|line| line.starts_with(&format!("{} = ", P::NAME)));
    let pin = pin.expect("a peer's Cargo.toml pins the crate it is named after");
    pin.split('=')
        .next_back()
        .expect("a pin ends with its version")
        .trim_end_matches(['"', ' ', '}'])
}

/// Says `ready` once connected, works when told to go, and ends with its input.
async fn work<P: Peer>(url: &str) -> Result<()> {
    let peer = P::connect(url, P::WORKER_CONNECTIONS).await?;
    println!("ready");
    let mut go = String::new();
    io::stdin().lock().read_line(&mut go)?;
    thread::spawn(|| {
        let _ = io::stdin().lock().read_line(&mut String::new());
        exit(0)
    });
    thread::spawn(report);
    peer.work().await
}

fn report() {
    let mut said = 0;
    loop {
        let handled = STARTED.load(Ordering::Acquire);
        if handled != said {
            println!("handled {handled}");
            said = handled;
        }
        thread::sleep(REPORT_INTERVAL);
    }
}

async fn enqueue<P: Peer>(url: &str, jobs: u64) -> Result<()> {
    let peer = P::connect(url, PRODUCERS).await?;
    let one_by_one = one_by_one(&peer, jobs).await?;
    let peer = P::connect(url, 1).await?;
    let start = Instant::now();
    peer.enqueue_all(jobs).await?;
    let bulk = start.elapsed();
    println!(
        r#"{{"peer": "{}", "version": "{}", "case": "enqueue", "jobs": {jobs}, "one_by_one_per_s": {:.0}, "bulk_per_s": {:.0}}}"#,
        P::NAME,
        version::<P>(),
        jobs as f64 / one_by_one.as_secs_f64(),
        jobs as f64 / bulk.as_secs_f64(),
    );
    Ok(())
}

async fn one_by_one<P: Peer>(peer: &P, jobs: u64) -> Result<Duration> {
    let next = Arc::new(AtomicU64::new(0));
    let mut producers = JoinSet::new();
    let start = Instant::now();
    for _ in 0..PRODUCERS {
        let (peer, next) = (peer.clone(), next.clone());
        producers.spawn(async move {
            loop {
                let job = next.fetch_add(1, Ordering::Relaxed);
                if job >= jobs {
                    return Ok(());
                }
                peer.enqueue(job).await?;
            }
        });
    }
    producers.join_all().await.into_iter().collect::<Result<()>>()?;
    Ok(start.elapsed())
}

async fn latency<P: Peer>(url: &str, rate: u64, seconds: u64) -> Result<()> {
    let warm_up = rate * WARM_UP_S;
    let jobs = warm_up + rate * seconds;
    let times = TIMES.get_or_init(|| Times::new(jobs));

    let worker = P::connect(url, P::WORKER_CONNECTIONS).await?;
    tokio::spawn(async move {
        if let Err(error) = worker.work().await {
            eprintln!("worker: {error}");
            exit(1)
        }
    });
    send_at_rate(P::connect(url, PRODUCERS).await?, jobs, rate).await?;

    let deadline = Instant::now() + LATENCY_DEADLINE;
    while STARTED.load(Ordering::Acquire) < jobs {
        if Instant::now() > deadline {
            return Err("some jobs were never started".into());
        }
        tokio::time::sleep(LATENCY_CHECK_INTERVAL).await;
    }

    let job_nanos = |job: usize| times.started[job].load(Ordering::Relaxed) - times.sent[job].load(Ordering::Relaxed);
    let mut nanos: Vec<u64> = (warm_up as usize..jobs as usize).map(job_nanos).collect();
    nanos.sort_unstable();
    let percentile_ms = |p: usize| nanos[(nanos.len() * p / 100).min(nanos.len() - 1)] as f64 / 1e6;
    println!(
        r#"{{"peer": "{}", "version": "{}", "case": "latency", "rate": {rate}, "seconds": {seconds}, "p50_ms": {:.2}, "p99_ms": {:.2}}}"#,
        P::NAME,
        version::<P>(),
        percentile_ms(50),
        percentile_ms(99),
    );
    Ok(())
}

/// Sends each job when its time has come, whether or not the ones before it are through.
async fn send_at_rate<P: Peer>(peer: P, jobs: u64, rate: u64) -> Result<()> {
    let times = TIMES.get().expect("latency sets the times first");
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate as u32);
    let mut sends = JoinSet::new();
    for job in 0..jobs {
        tick.tick().await;
        let peer = peer.clone();
        sends.spawn(async move {
            times.sent[job as usize].store(times.now(), Ordering::Relaxed);
            peer.enqueue(job).await
        });
    }
    sends.join_all().await.into_iter().collect()
}
