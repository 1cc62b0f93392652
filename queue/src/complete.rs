//! Completions that have nothing else to write are gathered: one statement for all the jobs of a claim.
//!
//! The claim is what makes that cheap. When each of its jobs has ended, its row goes, and with it whatever was left to
//! complete; only when some jobs take longer than the others are the first ones marked one by one. The [`Completer`] knows
//! which claims are in this process's hands and how many of their jobs have ended.

mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};
use tokio::sync::{RwLock, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::catalogue::Catalogue;
use crate::claim::{Claimed, Known};
use crate::failure::is_database_trouble;
use crate::finish::{self, Held};
use crate::release::{self, Release};

use self::write::{Batch, End, Writer};

/// A completion waits for the rest of its claim as long as one of them comes in this time,
const GATHER: Duration = Duration::from_millis(3);

/// and no longer than this.
const GATHER_MAX: Duration = Duration::from_millis(15);

/// How long a claim whose jobs have all ended may lie about when there is nothing to complete.
const CLEAN_WITHIN: Duration = Duration::from_millis(200);

/// How many messages are looked at before something is written.
const MESSAGES_MAX: usize = 4096;

/// How many transactions are written side by side.
const WRITES_MAX: usize = 2;

const NOTHING_TO_DO: Duration = Duration::from_secs(3600);

/// Completes the jobs of one process. Cheap to clone; the work is done by the future of [`Completer::new`].
#[derive(Clone)]
pub struct Completer {
    sender: mpsc::UnboundedSender<Message>,
    releases: mpsc::UnboundedSender<Release>,
    in_hand: Arc<Mutex<BTreeMap<i64, InHand>>>,
    claiming: Arc<RwLock<()>>,
    /// Kinds that are forgotten when they have ended.
    unkept: Arc<[String]>,
}

/// A claim in this process's hands.
struct InHand {
    queue: Arc<str>,
    worker_id: i64,
    jobs: usize,
    ended: usize,
    /// Jobs of which nobody here knows what became: the claim is never deleted, only handed back.
    lost: usize,
}

impl InHand {
    fn is_over(&self) -> bool {
        self.ended + self.lost >= self.jobs
    }
}

enum Message {
    Complete(Completion),
    /// A job of this claim has ended otherwise.
    Left(i64),
}

struct Completion {
    held: Held,
    is_unique: bool,
    goes_on: bool,
    answer: oneshot::Sender<Result<Completed, Unwritten>>,
}

/// What a completion came to.
#[derive(Debug)]
pub(crate) struct Completed {
    /// False when the job was no longer held.
    pub(crate) is_written: bool,
    /// The next of its group, claimed for whoever completed it.
    pub(crate) next: Option<Box<Claimed>>,
}

/// Why a completion could not be written: the same for all of a batch.
#[derive(Clone, Debug)]
struct Unwritten {
    is_trouble: bool,
    message: String,
}

impl From<sqlx::Error> for Unwritten {
    fn from(error: sqlx::Error) -> Self {
        Self {
            is_trouble: is_database_trouble(&error),
            message: error.to_string(),
        }
    }
}

impl From<Unwritten> for anyhow::Error {
    fn from(unwritten: Unwritten) -> Self {
        match unwritten.is_trouble {
            true => sqlx::Error::Protocol(unwritten.message).into(),
            false => anyhow::anyhow!(unwritten.message),
        }
    }
}

impl Completer {
    /// A completer, and the work behind it: it ends when every clone is dropped and everything is written. Through `hasty`,
    /// whose commits need not wait for the disk, goes what a crash may forget: that a limit has room again.
    pub fn new<S: Send + Sync + 'static>(
        pool: PgPool,
        hasty: PgPool,
        catalogue: &Catalogue<S>,
    ) -> (Completer, impl Future<Output = ()> + Send + 'static) {
        // At most one message a job in flight is under way.
        let (sender, receiver) = mpsc::unbounded_channel();
        let (releases, released) = mpsc::unbounded_channel();
        let releasing = release::run(hasty, released);
        let in_hand = Arc::<Mutex<BTreeMap<i64, InHand>>>::default();
        let claiming = Arc::<RwLock<()>>::default();
        let unkept: Arc<[String]> = catalogue.unkept().into();
        let work = Work {
            writer: Arc::new(Writer {
                pool,
                unkept: Arc::clone(&unkept),
                known: known(catalogue),
                in_hand: Arc::clone(&in_hand),
                claiming: Arc::clone(&claiming),
            }),
            in_hand: Arc::clone(&in_hand),
            pending: BTreeMap::new(),
            is_open: true,
        };
        let completer = Completer {
            sender,
            releases,
            in_hand,
            claiming,
            unkept,
        };
        (completer, async move {
            tokio::join!(work.run(receiver), releasing);
        })
    }

    /// Remembers that these jobs, just claimed, are in this process's hands.
    pub fn hold(&self, claimed: &[Claimed]) {
        hold(&mut lock(&self.in_hand), claimed);
    }

    /// Held for reading by whoever claims, until what was claimed is in hand; whoever looks for claims that are in nobody's hands
    /// holds it for writing.
    pub fn claiming(&self) -> &RwLock<()> {
        &self.claiming
    }

    /// The claims on a queue that are in this process's hands.
    pub fn in_hand(&self, queue: &str) -> Vec<i64> {
        let in_hand = lock(&self.in_hand);
        in_hand
            .iter()
            .filter(|(_, claim)| *claim.queue == *queue)
            .map(|(id, _)| *id)
            .collect()
    }

    /// How many jobs are in this process's hands.
    pub fn jobs_in_hand(&self) -> usize {
        let in_hand = lock(&self.in_hand);
        in_hand
            .values()
            .map(|claim| claim.jobs - claim.ended - claim.lost)
            .sum()
    }

    /// Completes a job, together with others. Who goes on may be given the next of its group to run.
    pub(crate) async fn complete(&self, held: Held, is_unique: bool, goes_on: bool) -> anyhow::Result<Completed> {
        let (answer, answered) = oneshot::channel();
        let completion = Completion {
            // Room that it takes from others is given back first.
            goes_on: goes_on && held.group_key.is_some() && held.limit_keys.is_empty(),
            held,
            is_unique,
            answer,
        };
        _ = self.sender.send(Message::Complete(completion));
        match answered.await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(sqlx::Error::WorkerCrashed.into()),
        }
    }

    /// Gives back the room of a job that has ended in a transaction of its handler.
    pub(crate) async fn release(&self, held: Held, is_success: bool) {
        if !held.limit_keys.is_empty() {
            release::release(&self.releases, held, is_success).await;
        }
    }

    /// Jobs of a claim have ended in a statement of their own, or were taken away.
    pub(crate) fn left(&self, claim_id: i64, ended: usize, lost: usize) {
        if let Some(claim) = lock(&self.in_hand).get_mut(&claim_id) {
            claim.ended += ended;
            claim.lost += lost;
        }
        _ = self.sender.send(Message::Left(claim_id));
    }

    /// The last jobs of a claim have ended, and its row is gone.
    pub(crate) fn gone(&self, claim_id: i64) {
        lock(&self.in_hand).remove(&claim_id);
    }

    /// Completes jobs of one claim in the caller's transaction, which holds them. Says whether the claim went with its last
    /// jobs; none when they were not held.
    pub(crate) async fn complete_in(
        &self,
        conn: &mut PgConnection,
        jobs: &[&Held],
        is_any_unique: bool,
    ) -> sqlx::Result<Option<bool>> {
        let Some(first) = jobs.first() else {
            return Ok(Some(false));
        };
        let count = jobs.len();
        let is_last = lock(&self.in_hand)
            .get(&first.claim_id)
            .is_some_and(|claim| claim.lost == 0 && claim.ended + count == claim.jobs);
        let needs_the_jobs = is_any_unique || jobs.iter().any(|held| held.is_kept);
        let mut is_gone = false;
        if is_last {
            let size = count as i64;
            let (claims, workers) = ([first.claim_id], [first.worker_id]);
            is_gone = !write::delete_whole(conn, &claims, &workers, &[size], needs_the_jobs, &self.unkept)
                .await?
                .is_empty();
        }
        if !is_gone {
            let marked = write::mark_singles(conn, jobs.iter().copied(), &self.unkept).await?;
            if marked.len() != count {
                return Ok(None);
            }
        }
        finish::follow(conn, jobs, "completed").await?;
        Ok(Some(is_gone))
    }
}

fn hold(in_hand: &mut BTreeMap<i64, InHand>, claimed: &[Claimed]) {
    for job in claimed {
        in_hand
            .entry(job.claim_id)
            .or_insert_with(|| InHand {
                queue: Arc::clone(&job.queue),
                worker_id: job.worker_id,
                jobs: 0,
                ended: 0,
                lost: 0,
            })
            .jobs += 1;
    }
}

/// What may be claimed from each queue of a catalogue.
fn known<S: Send + Sync + 'static>(catalogue: &Catalogue<S>) -> BTreeMap<&'static str, Known> {
    let queues = catalogue.kinds().into_iter().map(|kind| kind.queue);
    queues.map(|queue| (queue, Known::of(catalogue, queue))).collect()
}

fn lock(in_hand: &Mutex<BTreeMap<i64, InHand>>) -> MutexGuard<'_, BTreeMap<i64, InHand>> {
    in_hand.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Work {
    writer: Arc<Writer>,
    in_hand: Arc<Mutex<BTreeMap<i64, InHand>>>,
    /// What is to be completed, by claim; also the claims that have only to be cleaned away.
    pending: BTreeMap<i64, Pending>,
    /// Whether anything can still come in.
    is_open: bool,
}

struct Pending {
    since: Instant,
    latest: Instant,
    completions: Vec<Completion>,
}

impl Pending {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            since: now,
            latest: now,
            completions: Vec::new(),
        }
    }

    /// When it is written although the claim goes on.
    fn due_at(&self) -> Instant {
        match self.completions.is_empty() {
            true => self.since + CLEAN_WITHIN,
            false => (self.latest + GATHER).min(self.since + GATHER_MAX),
        }
    }
}

impl Work {
    async fn run(mut self, mut receiver: mpsc::UnboundedReceiver<Message>) {
        let mut messages = Vec::with_capacity(MESSAGES_MAX);
        let mut writes = JoinSet::new();
        while self.is_open || !self.pending.is_empty() || !writes.is_empty() {
            let is_full = writes.len() >= WRITES_MAX;
            let wait = match is_full || self.pending.is_empty() {
                true => NOTHING_TO_DO,
                // What is left at the end is written at once.
                false if !self.is_open => Duration::ZERO,
                false => self.wait(),
            };
            if wait > Duration::ZERO {
                tokio::select! {
                    received = receiver.recv_many(&mut messages, MESSAGES_MAX), if self.is_open => self.is_open = received > 0,
                    Some(written) = writes.join_next() => match written {
                        Ok(written) => self.answer(written),
                        // Whoever waits for it finds out that nobody answers.
                        Err(error) => tracing::error!("completions were not written: {error}"),
                    },
                    () = tokio::time::sleep(wait) => {}
                }
            }
            while messages.len() < MESSAGES_MAX
                && let Ok(message) = receiver.try_recv()
            {
                messages.push(message);
            }
            let now = Instant::now();
            for message in messages.drain(..) {
                self.note(message, now);
            }
            if writes.len() >= WRITES_MAX {
                continue;
            }
            let batch = self.due();
            if !batch.is_empty() {
                let writer = Arc::clone(&self.writer);
                writes.spawn(async move { writer.write(batch).await });
            }
        }
    }

    /// How long until something must be written, if nothing comes in.
    fn wait(&self) -> Duration {
        self.pending
            .values()
            .map(Pending::due_at)
            .min()
            .map_or(NOTHING_TO_DO, |due| due.saturating_duration_since(Instant::now()))
    }

    fn note(&mut self, message: Message, now: Instant) {
        let claim_id = match &message {
            Message::Complete(completion) => completion.held.claim_id,
            Message::Left(claim_id) => *claim_id,
        };
        let pending = self.pending.entry(claim_id).or_insert_with(Pending::new);
        if let Message::Complete(completion) = message {
            if pending.completions.is_empty() {
                pending.since = now;
            }
            pending.latest = now;
            pending.completions.push(completion);
        }
        if pending.completions.is_empty() {
            // Nothing to write for a claim that goes on, was lost, or went with its only job.
            let mut in_hand = lock(&self.in_hand);
            let claim = in_hand.get(&claim_id);
            let is_over = claim.is_none_or(InHand::is_over);
            let is_gone = claim.is_none_or(|claim| claim.lost > 0 || claim.jobs == 1);
            if !is_over || is_gone {
                self.pending.remove(&claim_id);
            }
            if is_over && is_gone {
                in_hand.remove(&claim_id);
            }
        }
    }

    /// Takes what is to be written now: whole claims at once, single jobs when they have waited long enough.
    fn due(&mut self) -> Batch {
        let is_last = !self.is_open;
        let mut batch = Batch::default();
        let mut singles = Vec::new();
        let in_hand = lock(&self.in_hand);
        let now = Instant::now();
        let is_crowded = self.pending.values().any(|pending| !pending.completions.is_empty());
        self.pending.retain(|claim_id, pending| {
            let jobs = pending.completions.len();
            let claim = in_hand.get(claim_id);
            match claim.filter(|claim| claim.lost == 0 && claim.ended + jobs == claim.jobs) {
                // What has only to be cleaned away goes along with whatever is written anyway.
                Some(_) if jobs == 0 && !is_last && !is_crowded && now < pending.due_at() => return true,
                Some(claim) => {
                    batch.whole.push(*claim_id);
                    batch.whole_workers.push(claim.worker_id);
                    batch.whole_jobs.push(jobs as i64);
                    batch.completions.append(&mut pending.completions);
                }
                None if !is_last && now < pending.due_at() => return true,
                None => singles.append(&mut pending.completions),
            }
            false
        });
        batch.of_whole = batch.completions.len();
        batch.completions.append(&mut singles);
        batch
    }

    /// Claims that could not be cleaned away are tried again, unless the process ends: then they are handed back, empty.
    fn clean_later(&mut self, claims: &[i64]) {
        let in_hand = lock(&self.in_hand);
        for claim_id in claims {
            if self.is_open
                && in_hand
                    .get(claim_id)
                    .is_some_and(|claim| claim.is_over() && claim.lost == 0)
            {
                self.pending.insert(*claim_id, Pending::new());
            }
        }
    }

    /// Answers everybody in a batch.
    fn answer(&mut self, (batch, end): (Batch, End)) {
        match end {
            End::Written { written, claimed, .. } => self.answer_written(batch, &written, claimed),
            End::Apart(ends) => {
                for (completion, end) in batch.completions.into_iter().zip(ends) {
                    if let Ok(is_written) = end {
                        self.settled(&completion.held, is_written);
                    }
                    let completed = |is_written| Completed { is_written, next: None };
                    _ = completion.answer.send(end.map(completed));
                }
                self.clean_later(&batch.whole);
            }
            End::Unwritten(unwritten) => {
                // Whoever waits tries again, after a while.
                for completion in batch.completions {
                    _ = completion.answer.send(Err(unwritten.clone()));
                }
                self.clean_later(&batch.whole);
            }
        }
    }

    fn answer_written(&mut self, batch: Batch, written: &[bool], claimed: Vec<Claimed>) {
        hold(&mut lock(&self.in_hand), &claimed);
        let mut next: BTreeMap<_, _> = claimed.into_iter().map(|job| (job.group_key.clone(), job)).collect();
        for (completion, is_written) in batch.completions.into_iter().zip(written) {
            self.settled(&completion.held, *is_written);
            let goes_on = completion.goes_on && *is_written;
            let next = goes_on.then(|| next.remove(&completion.held.group_key)).flatten();
            let completed = Completed {
                is_written: *is_written,
                next: next.map(Box::new),
            };
            if let Err(Ok(Completed { next: Some(job), .. })) = completion.answer.send(Ok(completed)) {
                // Nobody is there any more to run it.
                self.lose(job.claim_id);
            }
        }
        // A claim that was written whole is out of hand; one whose row was not as expected goes back as a stray.
        let mut in_hand = lock(&self.in_hand);
        for claim_id in batch.whole {
            in_hand.remove(&claim_id);
        }
    }

    /// A job of a claim in hand is run by nobody: it goes back with its claim.
    fn lose(&self, claim_id: i64) {
        let mut in_hand = lock(&self.in_hand);
        if let Some(claim) = in_hand.get_mut(&claim_id) {
            claim.lost += 1;
            if claim.is_over() {
                in_hand.remove(&claim_id);
            }
        }
    }

    /// Counts a job of a claim in hand, and forgets the claim when nothing of it is left to be written.
    fn settled(&mut self, held: &Held, is_written: bool) {
        let mut in_hand = lock(&self.in_hand);
        let Some(claim) = in_hand.get_mut(&held.claim_id) else {
            return;
        };
        if is_written {
            claim.ended += 1;
        } else {
            claim.lost += 1;
        }
        if !claim.is_over() {
            return;
        }
        if claim.lost > 0 {
            in_hand.remove(&held.claim_id);
        } else {
            self.pending.entry(held.claim_id).or_insert_with(Pending::new);
        }
    }
}
