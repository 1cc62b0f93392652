//! What a dead worker held runs again.
//!
//! A worker is lost in two ways. *Killed*: the session of its heartbeat is gone and it has not beaten for a second (it
//! beats several times a second, and a living one reconnects at once). That may be believed at once, even by a process
//! that has only just started, unless the server itself has only just started and everybody's session is gone.
//! A worker behind a proxy that pools transactions has no session of its own and is never seen as killed.
//! *Silent*: its lease ran out. Only somebody who has had one full lease of contact with the database may say so: after
//! an outage every lease has run out at once.
//!
//! Nobody saw which of its jobs took a lost worker down, if any did, so none is blamed: each goes back to its place in line with
//! its try, and starts wherever there is a slot. What was among the running in [`CRASHES_IN_COMPANY_MAX`] deaths is a suspect,
//! and runs alone. A suspect that was alone when its worker died is to blame, and the try stays used. But when workers die
//! around it that had nothing to do with it, somebody is killing workers, and even a death alone proves nothing:
//! [`QUIET_SECS`] of quiet are part of the evidence. (docs/adr/0014 weighs this against other rules.)

use std::time::{Duration, Instant};

use sqlx::PgPool;

/// How old a heartbeat must be before its missing session means a death.
const BEAT_STALE_SECS: f64 = 1.0;

/// Deaths of other workers within this time acquit a suspect that was alone.
const QUIET_SECS: f64 = 10.0;

/// How many crashes in company make a job a suspect.
pub const CRASHES_IN_COMPANY_MAX: i32 = 2;

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
    let workers = declare_lost(pool, may_expire, lease).await?;
    let jobs = take_back(pool).await?;
    if jobs > 0 {
        tracing::warn!(jobs, "jobs of lost workers are available again");
        metrics::counter!(crate::metric::RESCUED).increment(jobs);
    }
    Ok(Rescued { workers, jobs })
}

/// Removes the rows of lost workers, which is what takes their claims from them, and remembers what they held.
async fn declare_lost(pool: &PgPool, may_expire: bool, lease: Duration) -> sqlx::Result<usize> {
    let mut tx = pool.begin().await?;
    let lost = sqlx::query!(
        r#"select w.id, w.name, case when g.is_gone then 'killed' else 'silent' end as "how!"
           from queue.workers w
           cross join lateral (
               select w.backend_pid is not null
                      and w.beat_at < clock_timestamp() - make_interval(secs => $2)
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
    if lost.is_empty() {
        return Ok(0);
    }
    let ids: Vec<i64> = lost.iter().map(|worker| worker.id).collect();
    let names: Vec<String> = lost.iter().map(|worker| worker.name.clone()).collect();
    let hows: Vec<String> = lost.iter().map(|worker| worker.how.clone()).collect();
    sqlx::query!(
        "insert into queue.losses (worker_id, name, how, jobs, alone)
         select l.id, l.name, l.how, coalesce(array_agg(j.id) filter (where j.id is not null), '{}'),
                count(j.id) = 1 and bool_and(j.suspect)
         from unnest($1::bigint[], $2::text[], $3::text[]) l(id, name, how)
         left join queue.running_jobs j on j.worker_id = l.id
         group by l.id, l.name, l.how
         on conflict do nothing",
        &ids,
        &names,
        &hows,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("delete from queue.workers where id = any($1)", &ids)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("delete from queue.losses where lost_at < clock_timestamp() - interval '1 day'")
        .execute(&mut *tx)
        .await?;
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
    Ok(lost.len())
}

/// Takes back the claims of workers that have no row any more: they were lost, or claimed at the last moment.
///
/// A worker that was lost but lives may still have a transaction open that holds one of its jobs. It could no longer
/// commit anything but what it holds, so its session is ended, and the claim is taken back in the next round.
async fn take_back(pool: &PgPool) -> sqlx::Result<u64> {
    let orphans = sqlx::query_scalar!(
        "select c.id from queue.claims c where not exists (select from queue.workers w where w.id = c.worker_id)"
    )
    .fetch_all(pool)
    .await?;
    if orphans.is_empty() {
        return Ok(0);
    }
    let mut tx = pool.begin().await?;
    let lined_up = sqlx::query_scalar!(
        r#"select queue.put_back(array_agg(jsonb_populate_record(s.job, jsonb_build_object(
                      'fence', (s.job).fence + 1,
                      'suspect', is_suspect,
                      'crashes', crashes,
                      'crashes_alone', (s.job).crashes_alone + case when is_clear then 1 else 0 end,
                      'attempt', (s.job).attempt + case when is_alone then 1 else 0 end,
                      'run_at', case when is_alone
                                     then clock_timestamp() + make_interval(secs => least(2 ^ (s.job).crashes_alone, 60))
                                     else (s.job).run_at end,
                      'waiting', case when is_alone then 'its worker died while it ran alone; it runs alone again'
                                      when is_suspect then crashes || ' workers died while they held it; it runs alone next'
                                      else 'its worker died' end
                  )))) as "count!"
           from queue.seize($1, false) s
           left join queue.losses l on l.worker_id = s.worker_id and (s.job).id = any(l.jobs)
           cross join lateral (
               select (s.job).crashes + 1 as crashes,
                      (s.job).suspect or (s.job).crashes + 1 >= $3 as is_suspect,
                      coalesce(l.alone, false) as is_alone,
                      coalesce(l.alone, false) and not exists (
                          select from queue.losses o
                          where o.lost_at > clock_timestamp() - make_interval(secs => $2)
                            and not o.alone and not l.jobs <@ o.jobs
                      ) as is_clear
           ) evidence"#,
        &orphans,
        QUIET_SECS,
        CRASHES_IN_COMPANY_MAX,
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    let ended = sqlx::query_scalar!(
        "select pg_terminate_backend(l.pid)
         from pg_locks l
         join queue.claims c on l.objid = (c.id % 2147483647)::oid
         where l.locktype = 'advisory' and l.classid = 1 and l.objsubid = 2 and l.granted
           and l.database = (select oid from pg_database where datname = current_database())
           and l.pid <> pg_backend_pid() and l.mode = 'ShareLock' and c.id = any($1)
           and not exists (select from queue.workers w where w.id = c.worker_id)",
        &orphans,
    )
    .fetch_all(pool)
    .await?;
    if !ended.is_empty() {
        tracing::warn!(
            sessions = ended.len(),
            "ended the sessions of lost workers that still held a job"
        );
    }
    Ok(lined_up.unsigned_abs())
}
