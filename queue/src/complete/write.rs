//! One batch of completions in one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use sqlx::{PgConnection, PgPool};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::{Completion, InHand, Unwritten, lock};
use crate::claim::{Claimed, Known};
use crate::failure::is_database_trouble;
use crate::finish::{self, Held};

/// What one transaction writes.
#[derive(Default)]
pub(super) struct Batch {
    /// Claims of which every job has ended or is among `completions`.
    pub(super) whole: Vec<i64>,
    pub(super) whole_workers: Vec<i64>,
    /// How many jobs of each are among `completions`.
    pub(super) whole_jobs: Vec<i64>,
    /// How many of `completions`, from the front, belong to `whole`.
    pub(super) of_whole: usize,
    pub(super) completions: Vec<Completion>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.completions.is_empty()
    }

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

/// What became of a batch.
pub(super) enum End {
    /// Whether each of the completions, in order, was written; and what was claimed for those who go on.
    Written {
        written: Vec<bool>,
        claimed: Vec<Claimed>,
        /// Until that is in hand.
        _claiming: Option<OwnedRwLockReadGuard<()>>,
    },
    /// One of them cannot be written, and it did not hold up the others.
    Apart(Vec<Result<bool, Unwritten>>),
    /// Nothing is written.
    Unwritten(Unwritten),
}

/// Writes batches, several of them side by side.
pub(super) struct Writer {
    pub(super) pool: PgPool,
    pub(super) unkept: Arc<[String]>,
    /// What may be claimed from each queue.
    pub(super) known: BTreeMap<&'static str, Known>,
    pub(super) in_hand: Arc<Mutex<BTreeMap<i64, InHand>>>,
    pub(super) claiming: Arc<RwLock<()>>,
}

impl Writer {
    /// Writes a batch in one transaction, if that can be.
    pub(super) async fn write(&self, batch: Batch) -> (Batch, End) {
        let claiming = match batch.completions.iter().any(|one| one.goes_on) {
            true => Some(Arc::clone(&self.claiming).read_owned().await),
            false => None,
        };
        let end = match self.try_write(&batch).await {
            Ok((written, claimed)) => End::Written {
                written,
                claimed,
                _claiming: claiming,
            },
            Err(error) if is_database_trouble(&error) || batch.completions.len() <= 1 => End::Unwritten(error.into()),
            Err(_) => {
                let mut ends = Vec::with_capacity(batch.completions.len());
                for completion in &batch.completions {
                    ends.push(self.complete_alone(&completion.held).await.map_err(Unwritten::from));
                }
                End::Apart(ends)
            }
        };
        (batch, end)
    }

    async fn complete_alone(&self, held: &Held) -> sqlx::Result<bool> {
        let mut tx = self.pool.begin().await?;
        let is_written = finish::complete(&mut tx, held, None).await?;
        tx.commit().await?;
        Ok(is_written)
    }

    /// Returns, in order, whether each of the completions was written; and what was claimed for those who go on.
    async fn try_write(&self, batch: &Batch) -> sqlx::Result<(Vec<bool>, Vec<Claimed>)> {
        let (of_whole, singles) = batch.completions.split_at(batch.of_whole);
        let is_followed = batch.completions.iter().any(|one| one.held.is_followed());
        if singles.is_empty() && !is_followed {
            let gone = batch
                .delete_whole(&mut *self.pool.acquire().await?, &self.unkept)
                .await?;
            let written = of_whole.iter().map(|one| gone.contains(&one.held.claim_id));
            return Ok((written.collect(), Vec::new()));
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
        let mut claimed = Vec::new();
        if is_followed {
            // Only of those that have really ended: another is back in line, and it is still its turn.
            let ended = batch.completions.iter().zip(&written);
            let ended: Vec<_> = ended
                .filter(|(_, is_written)| **is_written)
                .map(|(one, _)| one)
                .collect();
            claimed = self.pass_turns(&mut tx, &ended).await?;
            let ended: Vec<_> = ended.iter().map(|one| &one.held).collect();
            finish::follow_outside_groups(&mut tx, &ended, "completed").await?;
        }
        tx.commit().await?;
        Ok((written, claimed))
    }

    /// The next of each group has its turn; what of it goes to those who go on is claimed.
    async fn pass_turns(&self, conn: &mut PgConnection, ended: &[&Completion]) -> sqlx::Result<Vec<Claimed>> {
        let mut others = Vec::new();
        let mut going_on = BTreeMap::<(&str, i64), Vec<&Held>>::new();
        for one in ended {
            let queue = lock(&self.in_hand)
                .get(&one.held.claim_id)
                .map(|claim| Arc::clone(&claim.queue));
            let queue = queue
                .and_then(|queue| self.known.get_key_value(&*queue))
                .filter(|_| one.goes_on);
            match queue {
                Some((queue, _)) => going_on.entry((queue, one.held.worker_id)).or_default().push(&one.held),
                None => others.push(&one.held),
            }
        }
        finish::leave_groups(conn, &others).await?;
        let mut claimed = Vec::new();
        for ((queue, worker_id), jobs) in going_on {
            claimed.extend(finish::go_on_in_groups(conn, &jobs, &self.known[queue], worker_id).await?);
        }
        Ok(claimed)
    }
}

/// Deletes claims whose last jobs end now, and moves those jobs into the history; returns the claims that are gone.
pub(super) async fn delete_whole(
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
pub(super) async fn mark_singles<'a>(
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
