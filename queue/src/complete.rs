//! Completions that have nothing else to write are gathered: one statement for all the jobs of a claim.
//!
//! The claim is what makes that cheap. When each of its jobs has ended, its row goes, and with it whatever was left to
//! complete; only when some jobs take longer than the others are the first ones marked one by one. The [`Completer`] knows
//! which claims are in this process's hands and how many of their jobs have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{PgConnection, PgPool};
use tokio::sync::{mpsc, oneshot};

use crate::catalogue::Catalogue;
use crate::claim::Claimed;
use crate::failure::is_database_trouble;
use crate::finish::{self, Held};
use crate::release::{self, Release};

/// A completion waits for the rest of its claim as long as one of them comes in this time,
const GATHER: Duration = Duration::from_millis(3);

/// and no longer than this.
const GATHER_MAX: Duration = Duration::from_millis(15);

/// How long a claim whose jobs have all ended may lie about when there is nothing to complete.
const CLEAN_WITHIN: Duration = Duration::from_millis(200);

/// How many messages are looked at before something is written.
const MESSAGES_MAX: usize = 4096;

/// Completes the jobs of one process. Cheap to clone; the work is done by the future of [`Completer::new`].
#[derive(Clone)]
pub struct Completer {
    sender: mpsc::UnboundedSender<Message>,
    releases: mpsc::UnboundedSender<Release>,
    in_hand: Arc<Mutex<BTreeMap<i64, InHand>>>,
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
    answer: oneshot::Sender<Result<bool, Unwritten>>,
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
        let unkept: Arc<[String]> = catalogue.unkept().into();
        let work = Work {
            pool,
            unkept: Arc::clone(&unkept),
            in_hand: Arc::clone(&in_hand),
            pending: BTreeMap::new(),
            is_open: true,
        };
        let completer = Completer {
            sender,
            releases,
            in_hand,
            unkept,
        };
        (completer, async move {
            tokio::join!(work.run(receiver), releasing);
        })
    }

    /// Remembers that these jobs, just claimed, are in this process's hands.
    pub fn hold(&self, claimed: &[Claimed]) {
        let mut in_hand = lock(&self.in_hand);
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

    /// Completes a job, together with others; false when it is no longer held.
    pub(crate) async fn complete(&self, held: Held, is_unique: bool) -> anyhow::Result<bool> {
        let (answer, answered) = oneshot::channel();
        let completion = Completion {
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
            is_gone = !delete_whole(conn, &claims, &workers, &[size], needs_the_jobs, &self.unkept)
                .await?
                .is_empty();
        }
        if !is_gone {
            let marked = mark_singles(conn, jobs.iter().copied(), &self.unkept).await?;
            if marked.len() != count {
                return Ok(None);
            }
        }
        finish::follow(conn, jobs, "completed").await?;
        Ok(Some(is_gone))
    }
}

fn lock(in_hand: &Mutex<BTreeMap<i64, InHand>>) -> MutexGuard<'_, BTreeMap<i64, InHand>> {
    in_hand.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Work {
    pool: PgPool,
    unkept: Arc<[String]>,
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

/// What one transaction writes.
#[derive(Default)]
struct Batch {
    /// Claims of which every job has ended or is among `completions`.
    whole: Vec<i64>,
    whole_workers: Vec<i64>,
    /// How many jobs of each are among `completions`.
    whole_jobs: Vec<i64>,
    /// How many of `completions`, from the front, belong to `whole`.
    of_whole: usize,
    completions: Vec<Completion>,
}

impl Batch {
    /// Deletes the claims that are whole; returns those that are gone.
    async fn delete_whole(&self, conn: &mut PgConnection, unkept: &[String]) -> sqlx::Result<Vec<i64>> {
        let needs_the_jobs = self.completions[..self.of_whole]
            .iter()
            .any(|one| one.held.is_kept || one.is_unique);
        delete_whole(
            conn,
            &self.whole,
            &self.whole_workers,
            &self.whole_jobs,
            needs_the_jobs,
            unkept,
        )
        .await
    }
}

impl Work {
    async fn run(mut self, mut receiver: mpsc::UnboundedReceiver<Message>) {
        let mut messages = Vec::with_capacity(MESSAGES_MAX);
        while self.is_open || !self.pending.is_empty() {
            let wait = self.wait();
            if self.is_open && wait > Duration::ZERO {
                tokio::select! {
                    received = receiver.recv_many(&mut messages, MESSAGES_MAX) => self.is_open = received > 0,
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
            let batch = self.due();
            if !batch.whole.is_empty() || !batch.completions.is_empty() {
                self.write(batch).await;
            }
        }
    }

    /// How long until something must be written, if nothing comes in.
    fn wait(&self) -> Duration {
        const NOTHING_TO_DO: Duration = Duration::from_secs(3600);
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

    /// Writes a batch in one transaction, and answers everybody in it.
    async fn write(&mut self, batch: Batch) {
        match self.try_write(&batch).await {
            Ok(held) => self.answer(batch, &held),
            Err(error) if is_database_trouble(&error) || batch.completions.len() <= 1 => {
                // Whoever waits tries again, after a while.
                let unwritten = Unwritten::from(error);
                for completion in batch.completions {
                    _ = completion.answer.send(Err(unwritten.clone()));
                }
                self.clean_later(&batch.whole);
            }
            Err(_) => {
                // One of them cannot be written: it must not hold up the others.
                for completion in batch.completions {
                    let written = self.complete_alone(&completion.held).await;
                    if let Ok(is_written) = written {
                        self.settled(&completion.held, is_written);
                    }
                    _ = completion.answer.send(written.map_err(Unwritten::from));
                }
                self.clean_later(&batch.whole);
            }
        }
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

    async fn complete_alone(&self, held: &Held) -> sqlx::Result<bool> {
        let mut tx = self.pool.begin().await?;
        let is_written = finish::complete(&mut tx, held, None).await?;
        tx.commit().await?;
        Ok(is_written)
    }

    /// Returns, in order, whether each of the completions was written.
    async fn try_write(&self, batch: &Batch) -> sqlx::Result<Vec<bool>> {
        let (of_whole, singles) = batch.completions.split_at(batch.of_whole);
        let is_followed = batch.completions.iter().any(|one| one.held.is_followed());
        if singles.is_empty() && !is_followed {
            let gone = batch
                .delete_whole(&mut *self.pool.acquire().await?, &self.unkept)
                .await?;
            return Ok(of_whole.iter().map(|one| gone.contains(&one.held.claim_id)).collect());
        }
        let mut tx = self.pool.begin().await?;
        let gone = match batch.whole.is_empty() {
            true => Vec::new(),
            false => batch.delete_whole(&mut tx, &self.unkept).await?,
        };
        let mut written: Vec<bool> = of_whole.iter().map(|one| gone.contains(&one.held.claim_id)).collect();
        if !singles.is_empty() {
            let marked: BTreeSet<i64> = mark_singles(&mut tx, singles.iter().map(|one| &one.held), &self.unkept)
                .await?
                .into_iter()
                .collect();
            written.extend(singles.iter().map(|one| marked.contains(&one.held.job_id.0)));
        }
        if is_followed {
            // Only of those that have really ended: another is back in line, and it is still its turn.
            let ended: Vec<_> = batch
                .completions
                .iter()
                .zip(&written)
                .filter(|(_, is_written)| **is_written)
                .map(|(one, _)| &one.held)
                .collect();
            finish::follow(&mut tx, &ended, "completed").await?;
        }
        tx.commit().await?;
        Ok(written)
    }

    fn answer(&mut self, batch: Batch, written: &[bool]) {
        for (completion, is_written) in batch.completions.into_iter().zip(written) {
            self.settled(&completion.held, *is_written);
            _ = completion.answer.send(Ok(*is_written));
        }
        // A claim that was written whole is out of hand; one whose row was not as expected goes back as a stray.
        let mut in_hand = lock(&self.in_hand);
        for claim_id in batch.whole {
            in_hand.remove(&claim_id);
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

/// Deletes claims whose last jobs end now, and moves those jobs into the history; returns the claims that are gone.
async fn delete_whole(
    conn: &mut PgConnection,
    claims: &[i64],
    workers: &[i64],
    jobs: &[i64],
    needs_the_jobs: bool,
    unkept: &[String],
) -> sqlx::Result<Vec<i64>> {
    if !needs_the_jobs {
        return sqlx::query_scalar!(
            r#"with gone as (
                   delete from queue.claims c
                   using unnest($1::bigint[], $2::bigint[], $3::bigint[]) w (claim_id, worker_id, jobs)
                   where c.id = any($1) and c.id = w.claim_id and c.worker_id = w.worker_id
                     and c.size = w.jobs + (select count(*) from queue.ended e where e.claim_id = c.id)
                   returning c.id
               ), cleaned as (
                   delete from queue.ended e where e.claim_id = any($1) and e.claim_id in (select id from gone)
               ), forgotten as (
                   delete from queue.progress p where p.claim_id = any($1) and p.claim_id in (select id from gone)
               )
               select id from gone"#,
            claims,
            workers,
            jobs,
        )
        .fetch_all(conn)
        .await;
    }
    sqlx::query_scalar!(
        r#"with gone as materialized (
               delete from queue.claims c
               using unnest($1::bigint[], $2::bigint[], $3::bigint[]) w (claim_id, worker_id, jobs)
               where c.id = any($1) and c.id = w.claim_id and c.worker_id = w.worker_id
                 and c.size = w.jobs + (select count(*) from queue.ended e where e.claim_id = c.id)
               returning c.id, c.worker_id, c.claimed_at, clock_timestamp() as finished_at, c.jobs
           ), cleaned as (
               delete from queue.ended e where e.claim_id = any($1) and e.claim_id in (select id from gone)
           ), forgotten as (
               delete from queue.progress p where p.claim_id = any($1) and p.claim_id in (select id from gone)
           ), done as materialized (
               select g.worker_id, g.claimed_at, g.finished_at, j.*
               from gone g
               cross join unnest(g.jobs) j
               where not exists (select from queue.ended e where e.claim_id = g.id and e.job_id = j.id)
           ), freed as (
               delete from queue.unique_keys u
               where u.job_id = any(array(select id from done where unique_key is not null)) and u.scope = 'live'
           ), kept as (
               insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, unique_key,
                                                group_key, worker_id, failures, created_at, claimed_at, finished_at)
               select id, queue, kind, args_version, args, 'completed', fence + 1, attempt + 1, unique_key,
                      group_key, worker_id, failures, created_at, claimed_at, finished_at
               from done
               where kind <> all($4)
           )
           select id from gone"#,
        claims,
        workers,
        jobs,
        unkept,
    )
    .fetch_all(conn)
    .await
}

/// Marks jobs of claims that go on as ended, and moves them into the history; returns those that were still held.
async fn mark_singles<'a>(
    conn: &mut PgConnection,
    singles: impl Iterator<Item = &'a Held> + Clone,
    unkept: &[String],
) -> sqlx::Result<Vec<i64>> {
    let claims: Vec<i64> = singles.clone().map(|held| held.claim_id).collect();
    let workers: Vec<i64> = singles.clone().map(|held| held.worker_id).collect();
    let jobs: Vec<i64> = singles.map(|held| held.job_id.0).collect();
    sqlx::query_scalar!(
        r#"select job_id as "job_id!" from queue.complete_some($1, $2, $3, $4) as job_id"#,
        &claims,
        &workers,
        &jobs,
        unkept,
    )
    .fetch_all(conn)
    .await
}
