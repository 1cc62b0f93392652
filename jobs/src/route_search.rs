//! Where routes are searched for: on threads of their own, fewer than there are cores and with less right to them, so that
//! no heartbeat and no other job waits for a search.
//!
//! A search speaks at every tick, some thousand times a second; it is believed to live only while it does. Its best routes
//! are kept every few seconds, from within a tick, so nothing is kept of a search that hangs. One that is silent for
//! [`Pace::SILENCE_MAX`] is given up: its attempt fails, and its thread, which nothing can end from outside, is left behind.
//! [`LEFT_BEHIND_MAX`] of those are too many for one process: it then plans nothing until it is started again.
//!
//! A search ends early at nine tenths of the least of: the time it was given, what is left of its attempt, and what is left
//! until its worker, told to stop, hands its jobs back. What it has found by then is a valid plan, and says that it was cut
//! short. It ends at its next tick when its attempt is over for another reason: nobody wants what it has found.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use domain::routes::plan::{self, Checkpoint, Snapshot};
use domain::routes::recipe::{self, Found, Recipe};
use domain::routes::solver::{Control, Progress, Routes};
use queue::attempt::FenceLost;
use queue::{Attempt, Failure};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// More searches at one time need more memory than they are worth.
const SEARCHES_MAX: usize = 8;
/// How many threads that hang one process bears.
const LEFT_BEHIND_MAX: usize = 4;
/// How long somebody waits for a search to begin.
const TURN_MAX: Duration = Duration::from_secs(20);
/// How long rounds are counted to find out how many fit into a time.
const TRIAL: Duration = Duration::from_millis(100);
/// The most rounds of a search by time, and the fewest.
const ROUNDS_BY_TIME: (u64, u64) = (1_000, 1_000_000_000);
/// How long keeping the best routes may take: meanwhile nobody watches over the search.
const KEPT_WITHIN: Duration = Duration::from_secs(5);
/// How much less right to a core than others a search has.
const NICENESS: i32 = 10;

static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(threads(cores)))
});

/// Threads that hang and were left behind.
static LEFT_BEHIND: AtomicUsize = AtomicUsize::new(0);

/// One core is left to everything else.
fn threads(cores: usize) -> usize {
    cores.saturating_sub(1).clamp(1, SEARCHES_MAX)
}

/// How much to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    /// So many rounds, the same on every machine, but no longer than so long.
    Rounds(u64, Duration),
    /// As many rounds as fit into a time, counted out at the start: from then on it repeats.
    Time(Duration),
}

/// How often a search is looked at.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// How often its best routes are kept.
    keep_every: Duration,
    /// How long it may be silent.
    silence_max: Duration,
}

impl Pace {
    const KEEP_EVERY: Duration = Duration::from_secs(5);
    const SILENCE_MAX: Duration = Duration::from_secs(15);
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            keep_every: Pace::KEEP_EVERY,
            silence_max: Pace::SILENCE_MAX,
        }
    }
}

/// What a search has come to, on the way.
#[derive(Debug)]
struct Best {
    progress: Progress,
    iterations_budget: u64,
    routes: Routes,
}

/// Shows how far a search is, and keeps its best routes for the attempt after this one. Without contact the search goes on.
async fn keep(attempt: &Attempt, snapshot: &Snapshot, best: Best) -> anyhow::Result<()> {
    let (progress, iterations_budget) = (best.progress, best.iterations_budget);
    let shown = json!({
        "iterations": progress.iterations,
        "iterations_budget": iterations_budget,
        "cost": progress.cost,
        "unassigned": progress.unassigned,
    });
    let checkpoint = Checkpoint::of(
        snapshot,
        progress.iterations,
        iterations_budget,
        progress.cost,
        &best.routes,
    );
    let kept = async {
        attempt.progress(&shown).await?;
        let mut effects = attempt.begin().await?;
        plan::keep_checkpoint(&mut effects, snapshot.day(), &checkpoint, &crate::cause(attempt)).await?;
        effects.commit().await
    };
    match tokio::time::timeout(KEPT_WITHIN, kept).await {
        Ok(Err(lost)) if lost.is::<FenceLost>() => return Err(lost),
        Ok(Err(error)) => tracing::warn!("cannot keep the best routes so far: {error:#}"),
        Err(_) => tracing::warn!("keeping the best routes so far takes too long"),
        Ok(Ok(())) => {}
    }
    Ok(())
}

/// The right to search, one thread's worth.
#[derive(Debug)]
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
}

/// Waits for a thread to be free; none when that takes too long.
pub(crate) async fn turn() -> anyhow::Result<Option<Turn>> {
    if LEFT_BEHIND.load(Ordering::Relaxed) >= LEFT_BEHIND_MAX {
        let message = format!("{LEFT_BEHIND_MAX} searches hang in this process: start it again");
        return Err(Failure::transient("searches_hang", message).into());
    }
    match tokio::time::timeout(TURN_MAX, Arc::clone(&TURNS).acquire_owned()).await {
        Ok(permit) => Ok(Some(Turn { _permit: permit? })),
        Err(_) => Ok(None),
    }
}

/// What to search for, and how.
pub(crate) struct Task {
    /// The day.
    pub(crate) snapshot: Arc<Snapshot>,
    /// With how many rounds in all, unless `amount` counts them out.
    pub(crate) recipe: Recipe,
    /// How much to search.
    pub(crate) amount: Amount,
}

impl Turn {
    /// Searches, and keeps the best routes on the way.
    pub(crate) async fn search(&self, attempt: &Attempt, task: Task) -> anyhow::Result<Found> {
        let time = match task.amount {
            Amount::Rounds(_, time) | Amount::Time(time) => time,
        };
        let snapshot = Arc::clone(&task.snapshot);
        let by = |watch: &Watch| task.run(watch);
        self.supervise(attempt, &snapshot, time, Pace::default(), by).await
    }

    /// Runs a search on a thread of its own, and watches over it.
    async fn supervise<T: Send + 'static>(
        &self,
        attempt: &Attempt,
        snapshot: &Snapshot,
        time: Duration,
        pace: Pace,
        search: impl FnOnce(&Watch) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        const LOOK_EVERY: Duration = Duration::from_millis(200);
        let (bests, mut kept) = mpsc::channel(1);
        let watch = Arc::new(Watch::new(
            nine_tenths(time.min(attempt.timeout_in())),
            pace.keep_every,
            bests,
        ));
        // Whoever stops waiting, for whatever reason, stops the search.
        let _stop = StopOnDrop(Arc::clone(&watch));
        let (told, mut found) = oneshot::channel();
        let thread = std::thread::Builder::new().name("route search".to_owned());
        thread.spawn({
            let watch = Arc::clone(&watch);
            move || {
                be_nice();
                // Nobody listens when the attempt is over.
                _ = told.send(search(&watch));
                watch.end();
            }
        })?;
        let mut ticks = (0, Instant::now());
        loop {
            tokio::select! {
                biased;
                // A search that panicked tells nothing.
                found = &mut found => return found.map_err(|_| anyhow::anyhow!("the search panicked")),
                Some(best) = kept.recv() => keep(attempt, snapshot, best).await?,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if let Some(left) = attempt.hand_back_in() {
                        watch.end_within(nine_tenths(left));
                    }
                    let now = watch.ticks.load(Ordering::Relaxed);
                    if now != ticks.0 {
                        ticks = (now, Instant::now());
                    } else if ticks.1.elapsed() > pace.silence_max {
                        watch.leave_behind();
                        let message = format!("the search was silent for {} s", pace.silence_max.as_secs_f64());
                        return Err(Failure::transient("search_hangs", message).into());
                    }
                }
            }
        }
    }
}

impl Task {
    fn run(self, control: &Watch) -> Found {
        let rounds = match self.amount {
            _ if self.recipe.before > 0 => self.recipe.iterations,
            Amount::Rounds(rounds, _) => rounds,
            Amount::Time(_) => self.rounds_within(control),
        };
        control.budget.store(rounds, Ordering::Relaxed);
        let recipe = Recipe {
            iterations: rounds,
            ..self.recipe
        };
        recipe::search(&self.snapshot.problem, recipe, control)
    }

    /// How many rounds fit into the time that is left, by a short trial. Later rounds are cheaper, so they do fit; the
    /// deadline is there for a machine that slows down.
    fn rounds_within(&self, control: &Watch) -> u64 {
        let trial = Trial::new(control);
        let endless = Recipe {
            iterations: u64::MAX >> 1,
            ..self.recipe.clone()
        };
        recipe::search(&self.snapshot.problem, endless, &trial);
        let left = control.time_left().as_nanos();
        let rounds = u128::from(trial.rounds.load(Ordering::Relaxed)) * left / trial.took().as_nanos().max(1);
        let (least, most) = ROUNDS_BY_TIME;
        u64::try_from(rounds).unwrap_or(most).clamp(least, most)
    }
}

/// A tenth is for storing what was found.
fn nine_tenths(time: Duration) -> Duration {
    time / 10 * 9
}

/// Lets others go first, where the host allows it.
fn be_nice() {
    // On Linux a thread has a niceness of its own.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!("a search runs with the priority of all others: {error}");
    }
}

/// What a search and those who wait for it have in common.
struct Watch {
    began: Instant,
    /// In microseconds after it began.
    deadline: AtomicU64,
    is_stopped: AtomicBool,
    ticks: AtomicU64,
    budget: AtomicU64,
    keep_every: Duration,
    kept: AtomicU64,
    bests: mpsc::Sender<Best>,
    is_left_behind: AtomicBool,
}

impl Watch {
    fn new(time: Duration, keep_every: Duration, bests: mpsc::Sender<Best>) -> Watch {
        Watch {
            began: Instant::now(),
            deadline: AtomicU64::new(micros(time)),
            is_stopped: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            budget: AtomicU64::new(0),
            keep_every,
            kept: AtomicU64::new(0),
            bests,
            is_left_behind: AtomicBool::new(false),
        }
    }

    /// Brings the deadline nearer.
    fn end_within(&self, time: Duration) {
        self.deadline
            .fetch_min(micros(self.began.elapsed() + time), Ordering::Relaxed);
    }

    fn time_left(&self) -> Duration {
        Duration::from_micros(self.deadline.load(Ordering::Relaxed)).saturating_sub(self.began.elapsed())
    }

    fn leave_behind(&self) {
        self.is_left_behind.store(true, Ordering::Relaxed);
        let count = LEFT_BEHIND.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::error!(count, "a search hangs: its thread is left behind");
    }

    /// The thread ends after all.
    fn end(&self) {
        if self.is_left_behind.load(Ordering::Relaxed) {
            LEFT_BEHIND.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Control for Watch {
    fn tick(&self, _: &Progress) -> ControlFlow<()> {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        match self.is_stopped.load(Ordering::Relaxed) || self.time_left().is_zero() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn wants_best(&self) -> bool {
        let since = self.began.elapsed() - Duration::from_micros(self.kept.load(Ordering::Relaxed));
        since >= self.keep_every
    }

    fn best(&self, progress: &Progress, routes: Routes) {
        self.kept.store(micros(self.began.elapsed()), Ordering::Relaxed);
        // While the one before is still being written there is no hurry.
        _ = self.bests.try_send(Best {
            progress: *progress,
            iterations_budget: self.budget.load(Ordering::Relaxed),
            routes,
        });
    }
}

struct StopOnDrop(Arc<Watch>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.is_stopped.store(true, Ordering::Relaxed);
    }
}

/// Counts rounds for a short time. They begin with the first tick: what comes before happens once.
struct Trial<'a> {
    watch: &'a Watch,
    /// In microseconds after the watch began.
    first: AtomicU64,
    last: AtomicU64,
    rounds: AtomicU64,
}

impl<'a> Trial<'a> {
    fn new(watch: &'a Watch) -> Trial<'a> {
        Trial {
            watch,
            first: AtomicU64::new(0),
            last: AtomicU64::new(0),
            rounds: AtomicU64::new(0),
        }
    }

    fn took(&self) -> Duration {
        Duration::from_micros(self.last.load(Ordering::Relaxed) - self.first.load(Ordering::Relaxed))
    }
}

impl Control for Trial<'_> {
    fn tick(&self, progress: &Progress) -> ControlFlow<()> {
        self.watch.tick(progress)?;
        let now = micros(self.watch.began.elapsed());
        if progress.iterations == 0 {
            self.first.store(now, Ordering::Relaxed);
        }
        self.last.store(now, Ordering::Relaxed);
        self.rounds.store(progress.iterations, Ordering::Relaxed);
        match self.took() < TRIAL {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::ids::WarehouseId;
    use domain::routes::Haversine;
    use queue::runner::Settled;
    use queue::testing::Worker;
    use queue::{Catalogue, Job, Outcome};
    use serde::{Deserialize, Serialize};
    use testkit::{Database, eventually_within};
    use tokio::sync::mpsc::UnboundedSender;

    use super::*;

    /// How long anything here may take on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(60);
    const AN_HOUR: Duration = Duration::from_secs(3600);

    /// What a search does instead of searching.
    #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
    enum How {
        /// Nothing, and says nothing, until it is let go.
        Hang,
        /// Ticks until it is told to end.
        Tick,
        /// Ends at once.
        End,
        /// Panics.
        Panic,
    }

    /// The outside world of such a search.
    struct Stage {
        warehouse: WarehouseId,
        events: UnboundedSender<&'static str>,
        is_let_go: Arc<AtomicBool>,
    }

    /// Searches without a solver; its attempts take so many seconds at most.
    #[derive(Serialize, Deserialize)]
    struct SearchSo<const TIMEOUT: u64> {
        how: How,
    }

    impl<const TIMEOUT: u64> Job for SearchSo<TIMEOUT> {
        type Services = Stage;
        const KIND: &'static str = "search_so";
        const QUEUE: &'static str = "routes";
        const TIMEOUT: Duration = Duration::from_secs(TIMEOUT);

        async fn run(self, attempt: &Attempt, stage: &Stage) -> anyhow::Result<Outcome> {
            let turn = turn().await?.expect("a turn");
            let mut reads = attempt.read().await?;
            let date = sqlx::query_scalar("select current_date + 1")
                .fetch_one(&mut *reads)
                .await?;
            let snapshot = plan::snapshot(&mut reads, (stage.warehouse, date), Haversine::new(1.0, 50.0)).await?;
            drop(reads);
            let snapshot = snapshot.expect("a day");
            let (events, is_let_go, how) = (stage.events.clone(), Arc::clone(&stage.is_let_go), self.how);
            let search = move |watch: &Watch| {
                let tell = |event| _ = events.send(event);
                tell("begun");
                match how {
                    How::Hang => {
                        while !is_let_go.load(Ordering::Relaxed) {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                    How::Tick => {
                        let nowhere = Progress {
                            iterations: 0,
                            cost: 0,
                            unassigned: 0,
                        };
                        while watch.tick(&nowhere).is_continue() {
                            std::thread::yield_now();
                        }
                    }
                    How::End => {}
                    How::Panic => panic!("as it was told to"),
                }
                tell("ended");
                niceness()
            };
            let pace = Pace {
                silence_max: Duration::from_secs(1),
                ..Pace::default()
            };
            let niceness = turn.supervise(attempt, &snapshot, AN_HOUR, pace, search).await?;
            attempt.begin().await?.done_with(json!(niceness)).await
        }
    }

    /// Of the thread that asks, where the host tells.
    fn niceness() -> Option<i32> {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").ok()?;
        let (_, after_name) = stat.rsplit_once(')')?;
        after_name.split_whitespace().nth(16)?.parse().ok()
    }

    /// A database with a warehouse, the events of the searches, and what lets one go that hangs.
    async fn a_stage() -> (Database, Arc<Stage>, mpsc::UnboundedReceiver<&'static str>) {
        let db = Database::new().await;
        let warehouse = WarehouseId(testkit::a_warehouse(&mut db.connect().await, "MAIN").await);
        let (events, seen) = mpsc::unbounded_channel();
        let stage = Stage {
            warehouse,
            events,
            is_let_go: Arc::default(),
        };
        (db, Arc::new(stage), seen)
    }

    async fn next(seen: &mut mpsc::UnboundedReceiver<&'static str>) -> Option<&'static str> {
        tokio::time::timeout(PATIENCE, seen.recv())
            .await
            .expect("an event in time")
    }

    async fn enqueue<const TIMEOUT: u64>(db: &Database, how: How) {
        let job = SearchSo::<TIMEOUT> { how };
        queue::enqueue(&mut db.connect().await, &job).await.expect("a job");
    }

    async fn failures(db: &Database) -> String {
        sqlx::query_scalar("select coalesce(string_agg(failures::text, ' '), '') from queue.jobs")
            .fetch_one(&db.pool)
            .await
            .expect("the failures")
    }

    #[test]
    fn one_core_is_left_to_everything_else() {
        assert_eq!([1, 2, 3, 4, 64].map(threads), [1, 1, 2, 3, SEARCHES_MAX]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_search_that_hangs_is_given_up_and_others_have_its_turn() {
        let (db, stage, mut seen) = a_stage().await;
        let catalogue = Catalogue::new().with::<SearchSo<600>>();
        let worker = Worker::register(&db.pool, &catalogue, &stage).await.expect("a worker");
        enqueue::<600>(&db, How::Hang).await;
        enqueue::<600>(&db, How::End).await;
        // Both at once, since the first may be due again at once.
        let mut jobs = worker.claim("routes", 2).await.expect("a claim");
        let (hanging, other) = (jobs.remove(0), jobs.remove(0));
        assert_eq!(worker.run(hanging).await, Settled::Retried);
        assert!(failures(&db).await.contains("search_hangs"), "{}", failures(&db).await);
        assert_eq!(LEFT_BEHIND.load(Ordering::Relaxed), 1);
        assert_eq!(next(&mut seen).await, Some("begun"));

        assert_eq!(worker.run(other).await, Settled::Completed);
        assert_eq!(
            [next(&mut seen).await, next(&mut seen).await],
            [Some("begun"), Some("ended")]
        );

        stage.is_let_go.store(true, Ordering::Relaxed);
        assert_eq!(next(&mut seen).await, Some("ended"));
        eventually_within(PATIENCE, "the thread to be counted out", async || {
            (LEFT_BEHIND.load(Ordering::Relaxed) == 0).then_some(())
        })
        .await;
        worker.leave().await.expect("a good end");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_attempt_that_is_over_stops_its_search_at_the_next_tick() {
        let (db, stage, mut seen) = a_stage().await;
        let catalogue = Catalogue::new().with::<SearchSo<600>>();
        let worker = Worker::register(&db.pool, &catalogue, &stage).await.expect("a worker");
        enqueue::<600>(&db, How::Tick).await;
        let job = worker.claim("routes", 1).await.expect("a claim").remove(0);
        let stop = async {
            assert_eq!(next(&mut seen).await, Some("begun"));
            worker.stop.cancel();
            next(&mut seen).await
        };
        let (settled, ended) = tokio::join!(worker.run(job), stop);
        assert_eq!((settled, ended), (Settled::Postponed, Some("ended")));
        worker.leave().await.expect("a good end");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_search_ends_before_its_attempt_times_out_and_what_it_found_is_kept() {
        let (db, stage, _seen) = a_stage().await;
        let catalogue = Catalogue::new().with::<SearchSo<8>>();
        let worker = Worker::register(&db.pool, &catalogue, &stage).await.expect("a worker");
        enqueue::<8>(&db, How::Tick).await;
        let job = worker.claim("routes", 1).await.expect("a claim").remove(0);
        assert_eq!(worker.run(job).await, Settled::Completed);
        worker.leave().await.expect("a good end");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_search_ends_before_a_stopping_worker_hands_its_jobs_back() {
        let (db, stage, mut seen) = a_stage().await;
        let catalogue = Catalogue::new().with::<SearchSo<600>>();
        let worker = Worker::register(&db.pool, &catalogue, &stage).await.expect("a worker");
        enqueue::<600>(&db, How::Tick).await;
        let job = worker.claim("routes", 1).await.expect("a claim").remove(0);
        let stop = async {
            assert_eq!(next(&mut seen).await, Some("begun"));
            worker.registration.hand_back_after(Duration::from_secs(2));
        };
        let (settled, ()) = tokio::join!(worker.run(job), stop);
        assert_eq!(settled, Settled::Completed);
        worker.leave().await.expect("a good end");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_search_that_panics_fails_its_attempt_alone() {
        let (db, stage, _seen) = a_stage().await;
        let catalogue = Catalogue::new().with::<SearchSo<600>>();
        let worker = Worker::register(&db.pool, &catalogue, &stage).await.expect("a worker");
        for how in [How::Panic, How::End] {
            enqueue::<600>(&db, how).await;
        }
        // Both at once, since the first may be due again at once.
        let jobs = worker.claim("routes", 2).await.expect("a claim");
        for (job, expected) in jobs.into_iter().zip([Settled::Retried, Settled::Completed]) {
            assert_eq!(worker.run(job).await, expected);
        }
        worker.leave().await.expect("a good end");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_search_has_less_right_to_a_core_than_others() {
        let Some(ours) = niceness() else {
            eprintln!("skipped: this host tells no niceness");
            return;
        };
        let (db, stage, _seen) = a_stage().await;
        let catalogue = Catalogue::new().with::<SearchSo<600>>();
        let worker = Worker::register(&db.pool, &catalogue, &stage).await.expect("a worker");
        enqueue::<600>(&db, How::End).await;
        let job = worker.claim("routes", 1).await.expect("a claim").remove(0);
        worker.run(job).await;
        let seen: i32 = sqlx::query_scalar("select (result #>> '{}')::int from queue.finished_jobs")
            .fetch_one(&db.pool)
            .await
            .expect("a niceness");
        assert_eq!(seen, ours.max(NICENESS));
        assert_eq!(niceness(), Some(ours), "others stay as they are");
        worker.leave().await.expect("a good end");
    }
}
