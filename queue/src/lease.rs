//! A worker proves that it lives.
//!
//! The heartbeat has its own thread, runtime and connection: neither busy handlers nor an exhausted pool can silence
//! it. It beats several times a second, far more often than the lease needs, so that a killed worker is known by its
//! missing session within two seconds (see [`crate::rescue`]). One row a worker covers all its jobs.
//!
//! When the row is gone, others may hold our jobs: the [`Registration`] is cancelled, which cancels its handlers, and
//! the worker registers anew. When the thread itself dies, or the runtime it speaks for stands still for a whole lease,
//! the process ends at once: a worker that cannot know whether it lives must not live.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Trouble;
use crate::catalogue::KindInfo;
use crate::job::JobId;

/// How often the heart beats, at most a third of the lease.
const BEAT_EVERY: Duration = Duration::from_millis(400);

/// How long one beat may take before its connection is given up.
const BEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// One worker row, as its own process sees it.
pub struct Registration {
    /// The row.
    pub id: i64,
    /// The build that registered, for the reports.
    pub build: String,
    /// Cancelled when the row is gone: others may hold our jobs.
    pub lost: CancellationToken,
    valid_until: Mutex<Instant>,
    /// When what still runs is handed back; set once the worker is told to stop.
    hand_back_at: OnceLock<Instant>,
    /// Jobs, ours or not, that somebody has asked to stop.
    cancels: watch::Sender<Vec<i64>>,
}

impl Registration {
    fn new(id: i64, build: String, valid_until: Instant) -> Self {
        Self {
            id,
            build,
            lost: CancellationToken::new(),
            valid_until: Mutex::new(valid_until),
            hand_back_at: OnceLock::new(),
            cancels: watch::Sender::new(Vec::new()),
        }
    }

    /// Ends when a heartbeat has read that this job is asked to stop.
    pub(crate) async fn asked_to_cancel(&self, job: JobId) {
        let mut cancels = self.cancels.subscribe();
        // The sender lives as long as we do.
        _ = cancels.wait_for(|asked| asked.contains(&job.0)).await;
    }

    /// How long the lease can still be trusted, by this machine's monotonic clock.
    pub fn time_left(&self) -> Duration {
        if self.lost.is_cancelled() {
            return Duration::ZERO;
        }
        let until = *self.valid_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.saturating_duration_since(Instant::now())
    }

    /// Tells the attempts that the worker stops, and how long they may still take. The first time counts.
    pub fn hand_back_after(&self, grace: Duration) {
        _ = self.hand_back_at.set(Instant::now() + grace);
    }

    /// How long the attempts of a worker that stops may still take; none while it does not stop.
    pub(crate) fn hand_back_in(&self) -> Option<Duration> {
        let at = self.hand_back_at.get()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    fn extend(&self, until: Instant) {
        *self.valid_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Who a worker says it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name, for people.
    pub name: String,
    /// The queues it serves.
    pub pools: Vec<String>,
    /// Its build.
    pub build: String,
    /// How long it is believed to live without a beat.
    pub lease: Duration,
    /// The kinds it can run.
    pub kinds: Vec<KindInfo>,
    /// Whether it comes through a proxy that pools transactions: no session is its own, so none proves that it lives, and it
    /// is lost when its lease has run out.
    pub is_pooled: bool,
    /// How many jobs it runs at once, for whoever asks why a job waits; none if it does not tell.
    pub slots: Option<Slots>,
}

/// How many jobs a worker runs at once.
#[derive(Clone, Debug)]
pub struct Slots {
    /// The pool that serves each of the worker's queues, in their order.
    pub pool_names: Vec<String>,
    /// How many slots each pool was started with.
    pub each: i32,
}

/// A registered worker whose heart beats; dropping it stops the heart but leaves the row.
pub struct Heart {
    current: watch::Receiver<Option<Arc<Registration>>>,
    pulse: Arc<AtomicU64>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Heart {
    /// Starts the thread; it registers as soon as the database answers.
    pub fn start(identity: Identity, database: PgConnectOptions) -> std::io::Result<Self> {
        let (sender, current) = watch::channel(None);
        let pulse = Arc::new(AtomicU64::new(0));
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn({
            let beats = Beats {
                identity,
                database,
                sender,
                pulse: Arc::clone(&pulse),
                stop: stop.clone(),
            };
            move || {
                let _fail_stop = FailStop {
                    stop: beats.stop.clone(),
                };
                runtime.block_on(beats.run());
            }
        })?;
        Ok(Self {
            current,
            pulse,
            stop,
            thread: Some(thread),
        })
    }

    /// The registration in force, none while there is none yet.
    pub fn registration(&self) -> watch::Receiver<Option<Arc<Registration>>> {
        self.current.clone()
    }

    /// To be raised at least every few seconds by the runtime the heart speaks for, once it has been raised at all.
    pub fn pulse(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.pulse)
    }

    /// Stops the heart and removes the row; the jobs must have been handed back.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Joining blocks, at most for one beat.
            _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Ends the process when the heart stops unasked.
struct FailStop {
    stop: CancellationToken,
}

impl Drop for FailStop {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            abort("the heartbeat thread died");
        }
    }
}

fn abort(why: &str) -> ! {
    tracing::error!("{why}: ending the process");
    std::process::abort()
}

struct Beats {
    identity: Identity,
    database: PgConnectOptions,
    sender: watch::Sender<Option<Arc<Registration>>>,
    pulse: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Beats {
    /// Beats until told to stop, over as many connections as it takes.
    async fn run(self) {
        let mut trouble = Trouble::default();
        while !self.stop.is_cancelled() {
            let Err(error) = self.live(&mut trouble).await else {
                continue;
            };
            let wait = trouble.wait();
            if trouble.is_first() {
                tracing::warn!("the heartbeat lost its connection: {error}");
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// One connection's life: register or prove that the row still stands, then beat.
    async fn live(&self, trouble: &mut Trouble) -> sqlx::Result<()> {
        let mut conn = in_time(PgConnection::connect_with(&self.database)).await?;
        // A beat that a crash of the server forgets costs nothing. But in a pooled session the setting would stay for whoever
        // comes next.
        if !self.identity.is_pooled {
            in_time(sqlx::query("set synchronous_commit = off").execute(&mut conn)).await?;
        }
        let mut registration = match self.current() {
            Some(registration) if in_time(self.take_over(&mut conn, &registration)).await? => registration,
            _ => self.register_anew(&mut conn).await?,
        };
        trouble.over();
        let period = BEAT_EVERY.min(self.identity.lease / 3);
        let mut watched = Watched::default();
        loop {
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = self.stop.cancelled() => {
                    let gone = sqlx::query!("delete from queue.workers where id = $1", registration.id).execute(&mut conn);
                    _ = in_time(gone).await;
                    return conn.close().await;
                }
            }
            watched.look(&self.pulse, self.identity.lease);
            if !in_time(beat(&mut conn, &registration, self.identity.lease)).await? {
                registration = self.register_anew(&mut conn).await?;
            }
        }
    }

    fn current(&self) -> Option<Arc<Registration>> {
        self.sender.borrow().clone()
    }

    /// The same row under a new session; false when the row is gone.
    async fn take_over(&self, conn: &mut PgConnection, registration: &Registration) -> sqlx::Result<bool> {
        let sent = Instant::now();
        let taken = sqlx::query!(
            "update queue.workers w
             set backend_pid = case when not $3 then a.pid end, backend_start = case when not $3 then a.backend_start end,
                 beat_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => $2)
             from pg_stat_get_activity(pg_backend_pid()) a
             where w.id = $1",
            registration.id,
            self.identity.lease.as_secs_f64(),
            self.identity.is_pooled,
        )
        .execute(conn)
        .await?;
        if taken.rows_affected() == 0 {
            return Ok(false);
        }
        registration.extend(sent + self.identity.lease);
        Ok(true)
    }

    /// A new row; the old registration, if any, is lost and its handlers with it.
    async fn register_anew(&self, conn: &mut PgConnection) -> sqlx::Result<Arc<Registration>> {
        if let Some(old) = self.current() {
            if !old.lost.is_cancelled() {
                tracing::warn!(
                    worker.id = old.id,
                    "others declared this worker lost: its jobs are cancelled"
                );
            }
            old.lost.cancel();
        }
        let registration = Arc::new(in_time(register(conn, &self.identity)).await?);
        tracing::info!(
            worker.id = registration.id,
            worker.name = self.identity.name,
            "registered"
        );
        self.sender.send_replace(Some(Arc::clone(&registration)));
        Ok(registration)
    }
}

/// Writes a worker's row, for the session of this connection if it is the worker's own.
pub async fn register(conn: &mut PgConnection, identity: &Identity) -> sqlx::Result<Registration> {
    let sent = Instant::now();
    let kinds: Vec<String> = identity.kinds.iter().map(|kind| kind.kind.to_owned()).collect();
    let versions: Vec<i16> = identity.kinds.iter().map(|kind| kind.version).collect();
    let id = sqlx::query_scalar!(
        r#"insert into queue.workers (name, pools, build, host, pid, backend_pid, backend_start, lease_until, kinds, versions,
                                      slots, pool_names)
           select $1, $2, $3, $4, $5, case when not $9 then a.pid end, case when not $9 then a.backend_start end,
                  clock_timestamp() + make_interval(secs => $6), $7, $8, $10, $11
           from pg_stat_get_activity(pg_backend_pid()) a
           -- On the disk before anybody claims under its number: a crash that forgot it could give the number to somebody else.
           cross join set_config('synchronous_commit', 'on', true)
           returning id"#,
        identity.name,
        &identity.pools,
        identity.build,
        hostname(),
        i32::try_from(std::process::id()).unwrap_or(0),
        identity.lease.as_secs_f64(),
        &kinds,
        &versions,
        identity.is_pooled,
        identity.slots.as_ref().map(|slots| slots.each),
        identity.slots.as_ref().map(|slots| slots.pool_names.as_slice()),
    )
    .fetch_one(conn)
    .await?;
    Ok(Registration::new(id, identity.build.clone(), sent + identity.lease))
}

/// Proves life once, and reads which jobs are asked to stop; false when the row is gone.
pub(crate) async fn beat(conn: &mut PgConnection, registration: &Registration, lease: Duration) -> sqlx::Result<bool> {
    const CANCELS_MAX: i64 = 1000;
    let sent = Instant::now();
    let beaten = sqlx::query_scalar!(
        r#"update queue.workers set beat_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => $2)
           where id = $1
           returning array(select c.job_id from queue.cancels c order by c.at limit $3) as "cancels!""#,
        registration.id,
        lease.as_secs_f64(),
        CANCELS_MAX,
    )
    .fetch_optional(conn)
    .await?;
    let Some(cancels) = beaten else { return Ok(false) };
    registration.extend(sent + lease);
    registration.cancels.send_if_modified(|known| {
        let is_news = *known != cancels;
        *known = cancels;
        is_news
    });
    Ok(true)
}

/// Says that a worker is on its way out: it claims nothing more.
pub async fn stopping(pool: &sqlx::PgPool, worker_id: i64) -> sqlx::Result<()> {
    sqlx::query!("update queue.workers set stopping = true where id = $1", worker_id)
        .execute(pool)
        .await?;
    Ok(())
}

/// Removes a worker's row.
pub async fn deregister(conn: &mut PgConnection, worker_id: i64) -> sqlx::Result<()> {
    sqlx::query!("delete from queue.workers where id = $1", worker_id)
        .execute(conn)
        .await?;
    Ok(())
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

async fn in_time<T>(work: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    tokio::time::timeout(BEAT_TIMEOUT, work)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Watches the pulse of the runtime that runs the handlers.
#[derive(Default)]
struct Watched {
    pulse: u64,
    since: Option<Instant>,
}

impl Watched {
    /// A runtime that stands still for a whole lease is blocked: its handlers can be neither timed out nor cancelled.
    fn look(&mut self, pulse: &AtomicU64, lease: Duration) {
        let now = pulse.load(Ordering::Relaxed);
        if now == 0 || now != self.pulse || self.since.is_none() {
            self.pulse = now;
            self.since = Some(Instant::now());
        } else if self
            .since
            .is_some_and(|since| since.elapsed() > lease.max(Duration::from_secs(10)))
        {
            abort("the runtime of the handlers stands still");
        }
    }
}
