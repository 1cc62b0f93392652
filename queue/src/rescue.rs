//! What a dead worker held runs again.
//!
//! A worker is lost in two ways. *Killed*: the session of its heartbeat is gone and it has not beaten for a second (it
//! beats several times a second, and a living one reconnects at once). That may be believed at once, even by a process
//! that has only just started, unless the server itself has only just started and everybody's session is gone.
//! *Silent*: its lease ran out. Only somebody who has had one full lease of contact with the database may say so: after
//! an outage every lease has run out at once.
//!
//! A lost worker makes suspects of all it held, because nobody saw which of them took it down. A suspect runs alone.
//! A suspect that was alone when its worker died is to blame, and the try stays used; its innocent neighbours get
//! theirs back. But when workers die around it that had nothing to do with it, somebody is killing workers, and even a
//! death alone proves nothing: [`QUIET_SECS`] of quiet are part of the evidence.

use std::time::{Duration, Instant};

use sqlx::PgPool;

/// How old a heartbeat must be before its missing session means a death.
const BEAT_STALE_SECS: f64 = 1.0;

/// Deaths of other workers within this time acquit a suspect that was alone.
const QUIET_SECS: f64 = 10.0;

/// How many crashes alone make a job poison.
pub const CRASHES_ALONE_MAX: i32 = 3;

/// What one round found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Workers declared lost.
    pub workers: usize,
    /// Their jobs, available again.
    pub jobs: u64,
}

/// Looks for lost workers on behalf of the whole fleet, whatever queues they served.
#[derive(Debug)]
pub struct Rescuer {
    lease: Duration,
    contact_since: Option<Instant>,
}

impl Rescuer {
    /// One that trusts leases of this length.
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            contact_since: None,
        }
    }

    /// One round.
    pub async fn round(&mut self, pool: &PgPool) -> sqlx::Result<Rescued> {
        let has_long_contact = self.contact_since.is_some_and(|since| since.elapsed() >= self.lease);
        let rescued = rescue(pool, has_long_contact, self.lease).await;
        match &rescued {
            Ok(_) => _ = self.contact_since.get_or_insert_with(Instant::now),
            Err(_) => self.contact_since = None,
        }
        rescued
    }
}

/// Declares workers lost and makes what they held available again.
pub async fn rescue(pool: &PgPool, may_expire: bool, lease: Duration) -> sqlx::Result<Rescued> {
    let mut tx = pool.begin().await?;
    let lost = sqlx::query!(
        r#"select w.id, w.name, case when g.is_gone then 'killed' else 'silent' end as "how!"
           from queue.workers w
           cross join lateral (
               select w.beat_at < clock_timestamp() - make_interval(secs => $2)
                      -- After a start or a crash of the server nobody's session is left, and nobody is to blame.
                      and greatest(pg_postmaster_start_time(), (select b.stats_reset from pg_stat_bgwriter b))
                          < clock_timestamp() - make_interval(secs => $3)
                      and not exists (
                          select from pg_stat_get_activity(w.backend_pid) a
                          where a.pid = w.backend_pid
                            and (a.backend_start is null or a.backend_start = w.backend_start)
                      ) as is_gone
           ) g
           where g.is_gone or ($1 and w.lease_until < clock_timestamp())
           for update of w skip locked"#,
        may_expire,
        BEAT_STALE_SECS,
        lease.as_secs_f64(),
    )
    .fetch_all(&mut *tx)
    .await?;
    let ids: Vec<i64> = lost.iter().map(|worker| worker.id).collect();

    let mut jobs = 0;
    if !lost.is_empty() {
        let names: Vec<String> = lost.iter().map(|worker| worker.name.clone()).collect();
        let hows: Vec<String> = lost.iter().map(|worker| worker.how.clone()).collect();
        sqlx::query!(
            "insert into queue.losses (worker_id, name, how, jobs, alone)
             select l.id, l.name, l.how, coalesce(array_agg(j.id) filter (where j.id is not null), '{}'),
                    count(j.id) = 1 and bool_and(j.suspect)
             from unnest($1::bigint[], $2::text[], $3::text[]) l(id, name, how)
             left join queue.jobs j on j.worker_id = l.id and j.state = 'running'
             group by l.id, l.name, l.how
             on conflict do nothing",
            &ids,
            &names,
            &hows,
        )
        .execute(&mut *tx)
        .await?;
        jobs = sqlx::query!(
            "update queue.jobs j
             set state = 'available', worker_id = null, claimed_at = null, suspect = true,
                 crashes = j.crashes + 1,
                 crashes_alone = j.crashes_alone + case when evidence.is_clear then 1 else 0 end,
                 attempt = j.attempt - case when l.alone then 0 else 1 end,
                 run_at = case when l.alone then clock_timestamp() + make_interval(secs => least(2 ^ j.crashes_alone, 60))
                               else j.run_at end,
                 waiting = case when l.alone then 'its worker died while it ran alone; it runs alone again'
                                else 'its worker died; it runs alone next' end
             from queue.losses l
             cross join lateral (
                 select l.alone and not exists (
                     select from queue.losses o
                     where o.lost_at > clock_timestamp() - make_interval(secs => $2)
                       and not o.alone and not l.jobs <@ o.jobs
                 ) as is_clear
             ) evidence
             where l.worker_id = any($1) and j.worker_id = l.worker_id and j.state = 'running'",
            &ids,
            QUIET_SECS,
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        sqlx::query!("delete from queue.workers where id = any($1)", &ids)
            .execute(&mut *tx)
            .await?;
        sqlx::query!("delete from queue.losses where lost_at < clock_timestamp() - interval '1 day'")
            .execute(&mut *tx)
            .await?;
    }

    // A holder without a row can only be a row removed by hand.
    jobs += sqlx::query!(
        "update queue.jobs j
         set state = 'available', worker_id = null, claimed_at = null, attempt = j.attempt - 1,
             waiting = 'its worker is unknown'
         where j.state = 'running' and not exists (select from queue.workers w where w.id = j.worker_id)",
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    tx.commit().await?;

    for worker in &lost {
        tracing::warn!(
            worker.id = worker.id,
            worker.name = worker.name,
            how = worker.how,
            "a worker was lost"
        );
        metrics::counter!(crate::metric::WORKERS_LOST, "how" => worker.how.clone()).increment(1);
    }
    if jobs > 0 {
        tracing::warn!(jobs, "jobs of lost workers are available again");
        metrics::counter!(crate::metric::RESCUED).increment(jobs);
    }
    Ok(Rescued {
        workers: lost.len(),
        jobs,
    })
}
