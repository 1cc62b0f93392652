//! One round of a campaign: what has ended is noted, each cause is judged, and the next letters are redriven.

use std::time::Duration;

use serde_json::json;
use sqlx::{PgConnection, PgPool};

use crate::metric;
use crate::operate::audit;

/// How many letters one transaction redrives.
const BATCH: i64 = 500;

/// How long to wait before the next call when there is no campaign, and when there is one that is not due.
const IDLE: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_millis(50);

/// A campaign as its round finds it.
struct Due {
    id: i64,
    state: String,
    actor: String,
    reason: String,
    failure_share: f64,
    failure_window: i32,
    in_flight_max: i32,
    in_flight: i64,
    allowance: i64,
}

/// Does one round of one campaign that is due; returns how long to wait before the next call.
///
/// Any number of processes may call this at once: a campaign that one of them is at, the others leave alone.
pub async fn advance(pool: &PgPool) -> sqlx::Result<Duration> {
    let mut tx = pool.begin().await?;
    let due = sqlx::query_as!(
        Due,
        r#"select p.id, p.state, p.actor, p.reason, p.failure_share, p.failure_window, p.in_flight_max,
                  (select coalesce(sum(c.in_flight), 0) from queue.campaign_causes c where c.campaign_id = p.id)::bigint as "in_flight!",
                  -- A second's worth may be made up for, or one letter of a slow pace.
                  floor(least(extract(epoch from clock_timestamp() - p.paced_at)::float8, greatest(1, 1 / p.per_second))
                        * p.per_second)::bigint as "allowance!"
           from queue.campaigns p
           where p.ended_at is null and p.look_at <= (select clock_timestamp())
           order by p.look_at
           limit 1
           for update of p skip locked"#
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(due) = due else {
        let is_any_open =
            sqlx::query_scalar!(r#"select exists (select from queue.campaigns where ended_at is null) as "open!""#)
                .fetch_one(&mut *tx)
                .await?;
        return Ok(if is_any_open { SOON } else { IDLE });
    };
    let settled = match due.in_flight {
        0 => 0,
        _ => settle(&mut tx, due.id).await?,
    };
    let mut redriven = 0;
    let mut is_more = false;
    if due.state == "running" {
        judge_all(&mut tx, &due).await?;
        let room = i64::from(due.in_flight_max) - due.in_flight + settled;
        let limit = due.allowance.min(room).clamp(0, BATCH);
        if limit > 0 {
            let moved = redrive(&mut tx, &due, limit).await?;
            redriven = moved.redriven;
            // What the pace or the room kept back has to wait a little: it would come one by one.
            is_more = moved.letters == BATCH;
        }
    }
    end_if_over(&mut tx, due.id).await?;
    look_again(&mut tx, due.id, settled + redriven, redriven, is_more).await?;
    tx.commit().await?;
    metrics::counter!(metric::REDRIVEN).increment(redriven.unsigned_abs());
    Ok(Duration::ZERO)
}

/// Notes which jobs in flight have ended, and how; returns how many.
async fn settle(conn: &mut PgConnection, id: i64) -> sqlx::Result<i64> {
    let flying = sqlx::query!(
        r#"select array_agg(job_id) as "jobs!", min(redriven_at) as "since!"
           from queue.campaign_letters where campaign_id = $1 and state = 'redriven' having count(*) > 0"#,
        id
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(flying) = flying else { return Ok(0) };
    // One statement, one snapshot: in it a job is in line, in a claim, dead or in the history. What is nowhere has ended well,
    // and its kind is not remembered.
    sqlx::query_scalar!(
        r#"with running as materialized (
               select r.id from queue.running_jobs r where r.id = any($2)
           ), ended as (
               select i.id, d.cause as died_of,
                      case when d.id is not null then 'died' else coalesce(f.state, 'completed') end as state
               from unnest($2::bigint[]) i (id)
               left join queue.dead_letters d on d.id = i.id
               left join lateral (
                   select f.state from queue.finished_jobs f
                   where f.id = i.id and f.finished_at >= $3
                   order by f.finished_at desc limit 1
               ) f on true
               where not exists (select from queue.jobs j where j.id = i.id)
                 and not exists (select from running r where r.id = i.id)
           ), moved as (
               update queue.campaign_letters l
               set state = e.state, died_of = e.died_of, ended_at = clock_timestamp()
               from ended e
               where l.campaign_id = $1 and l.job_id = e.id
               returning l.cause, l.state
           ), counted as (
               select cause, count(*) as ended, count(*) filter (where state = 'completed') as completed,
                      count(*) filter (where state = 'died') as died
               from moved group by cause
           ), written as (
               update queue.campaign_causes c
               set in_flight = c.in_flight - n.ended, completed = c.completed + n.completed, died = c.died + n.died,
                   given_up = c.given_up + n.ended - n.completed - n.died
               from counted n
               where c.campaign_id = $1 and c.cause = n.cause
           )
           select count(*) as "count!" from moved"#,
        id,
        &flying.jobs,
        flying.since,
    )
    .fetch_one(conn)
    .await
}

/// What is known of a cause when it is judged. What was tried before it last began does not count.
#[derive(Clone, Debug)]
struct Standing {
    is_canary: bool,
    canary_left: i64,
    waiting: i64,
    in_flight: i64,
    /// Redriven since it began; only in its canary.
    tried: i64,
    tried_in_flight: i64,
    tried_died: i64,
    /// How many of the last that ended have died; only after its canary.
    window_died: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    GoOn,
    Release,
    Finish,
    /// With how many died of how many that count.
    Halt {
        died: i64,
        of: String,
    },
}

/// Decides what a cause does next.
fn judge(standing: &Standing, failure_share: f64, failure_window: i32) -> Verdict {
    let is_over = standing.waiting == 0 && standing.in_flight == 0;
    if !standing.is_canary {
        return if standing.window_died as f64 > failure_share * f64::from(failure_window) {
            Verdict::Halt {
                died: standing.window_died,
                of: format!("the last {failure_window} jobs"),
            }
        } else if is_over {
            Verdict::Finish
        } else {
            Verdict::GoOn
        };
    }
    let left = standing.canary_left.min(standing.waiting);
    let size = standing.tried + left;
    if standing.tried_died as f64 > failure_share * size as f64 {
        Verdict::Halt {
            died: standing.tried_died,
            of: format!("the {size} jobs of its canary"),
        }
    } else if is_over {
        Verdict::Finish
    } else if left == 0 && standing.tried_in_flight == 0 {
        Verdict::Release
    } else {
        Verdict::GoOn
    }
}

async fn judge_all(conn: &mut PgConnection, due: &Due) -> sqlx::Result<()> {
    let causes = sqlx::query!(
        r#"select c.cause, c.state = 'canary' as "is_canary!", c.canary_left, c.waiting, c.in_flight,
                  t.tried as "tried!", t.in_flight as "tried_in_flight!", t.died as "tried_died!", w.died as "window_died!"
           from queue.campaign_causes c
           cross join lateral (
               select count(*) as tried, count(*) filter (where l.state = 'redriven') as in_flight,
                      count(*) filter (where l.state = 'died') as died
               from queue.campaign_letters l
               where c.state = 'canary' and l.campaign_id = c.campaign_id and l.cause = c.cause and l.redriven_at >= c.begun_at
           ) t
           cross join lateral (
               select count(*) filter (where l.state = 'died') as died
               from (
                   select l.state from queue.campaign_letters l
                   where c.state = 'released' and l.campaign_id = c.campaign_id and l.cause = c.cause
                     and l.ended_at is not null and l.redriven_at >= c.begun_at
                   order by l.ended_at desc limit $2
               ) l
           ) w
           where c.campaign_id = $1 and c.state in ('canary', 'released')"#,
        due.id,
        i64::from(due.failure_window),
    )
    .fetch_all(&mut *conn)
    .await?;
    for row in causes {
        let standing = Standing {
            is_canary: row.is_canary,
            canary_left: i64::from(row.canary_left),
            waiting: i64::from(row.waiting),
            in_flight: i64::from(row.in_flight),
            tried: row.tried,
            tried_in_flight: row.tried_in_flight,
            tried_died: row.tried_died,
            window_died: row.window_died,
        };
        match judge(&standing, due.failure_share, due.failure_window) {
            Verdict::GoOn => {}
            Verdict::Release => turn_to(conn, due.id, &row.cause, "released", None).await?,
            Verdict::Finish => turn_to(conn, due.id, &row.cause, "finished", None).await?,
            Verdict::Halt { died, of } => halt(conn, due, &row.cause, died, &of).await?,
        }
    }
    Ok(())
}

/// Redrives no more of a cause, and says why, for the campaign and for the audit.
async fn halt(conn: &mut PgConnection, due: &Due, cause: &str, died: i64, of: &str) -> sqlx::Result<()> {
    let deaths = sqlx::query!(
        r#"select count(*) filter (where died_of = cause) as "same!", (array_agg(job_id order by ended_at desc))[1:5] as "jobs!"
           from (
               select * from queue.campaign_letters
               where campaign_id = $1 and cause = $2 and state = 'died'
               order by ended_at desc limit $3
           ) l"#,
        due.id,
        cause,
        died,
    )
    .fetch_one(&mut *conn)
    .await?;
    let jobs: Vec<String> = deaths.jobs.iter().map(i64::to_string).collect();
    let because = format!(
        "{died} of {of} died again, {} of them of the same cause (job {})",
        deaths.same,
        jobs.join(", ")
    );
    turn_to(&mut *conn, due.id, cause, "halted", Some(&because)).await?;
    let detail = json!({ "cause": cause, "because": because });
    let subject = format!("campaign {}", due.id);
    audit(conn, &subject, "halt", &subject, detail).await?;
    tracing::warn!(campaign.id = due.id, cause, "a redrive halted: {because}");
    metrics::counter!(metric::REDRIVES_HALTED).increment(1);
    Ok(())
}

async fn turn_to(
    conn: &mut PgConnection,
    id: i64,
    cause: &str,
    state: &str,
    halted_because: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update queue.campaign_causes set state = $3, halted_because = $4 where campaign_id = $1 and cause = $2",
        id,
        cause,
        state,
        halted_because,
    )
    .execute(conn)
    .await?;
    Ok(())
}

struct Moved {
    letters: i64,
    redriven: i64,
}

/// Redrives the oldest letters that may go, at most `limit`.
async fn redrive(conn: &mut PgConnection, due: &Due, limit: i64) -> sqlx::Result<Moved> {
    // Of a group, nothing may go before an older letter that waits for a canary; the rest goes in the order of ids anyway.
    let picked = sqlx::query!(
        r#"select w.job_id, w.args, d.id is null as "is_gone!", coalesce(d.fence <> w.fence, false) as "is_another!",
                  exists (select from queue.saga_jobs s where s.job_id = w.job_id and not s.undo) as "is_turned_back!"
           from queue.campaign_causes c
           cross join lateral (
               select l.job_id, l.args, l.fence
               from queue.campaign_letters l
               where l.campaign_id = c.campaign_id and l.cause = c.cause and l.state = 'waiting'
                 and (l.group_key is null or not exists (
                     select from queue.campaign_letters o
                     join queue.campaign_causes oc on oc.campaign_id = o.campaign_id and oc.cause = o.cause
                     where o.campaign_id = l.campaign_id and o.group_key = l.group_key and o.job_id < l.job_id
                       and o.state = 'waiting' and oc.state = 'canary'))
               order by l.job_id
               limit case c.state when 'canary' then least($2::bigint, c.canary_left) else $2::bigint end
           ) w
           left join queue.dead_letters d on d.id = w.job_id
           where c.campaign_id = $1 and c.state in ('canary', 'released')
           order by w.job_id
           limit $2::bigint"#,
        due.id,
        limit,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut skipped: Vec<(i64, String)> = Vec::new();
    let mut jobs = Vec::new();
    let mut args = Vec::new();
    let letters = picked.len() as i64;
    for letter in picked {
        if letter.is_gone {
            skipped.push((letter.job_id, GONE.to_owned()));
        } else if letter.is_another {
            skipped.push((letter.job_id, "it ran and died again meanwhile".to_owned()));
        } else if letter.is_turned_back {
            skipped.push((letter.job_id, "it is a step of a saga that has turned back".to_owned()));
        } else {
            jobs.push(letter.job_id);
            args.push(letter.args);
        }
    }
    let there = sqlx::query!(
        r#"select id as "id!", taken_by from queue.redrive($1, $2, $3, $4, $5)"#,
        &jobs,
        &args as &[Option<serde_json::Value>],
        due.actor,
        due.reason,
        due.id,
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut redriven = Vec::new();
    for letter in &there {
        match letter.taken_by {
            Some(other) => skipped.push((letter.id, format!("job {other} has taken its unique key"))),
            None => redriven.push(letter.id),
        }
    }
    let vanished = jobs.iter().filter(|id| !there.iter().any(|letter| letter.id == **id));
    skipped.extend(vanished.map(|id| (*id, GONE.to_owned())));
    write_down(conn, due.id, &redriven, skipped).await?;
    Ok(Moved {
        letters,
        redriven: redriven.len() as i64,
    })
}

const GONE: &str = "it is no dead letter any more";

async fn write_down(
    conn: &mut PgConnection,
    id: i64,
    redriven: &[i64],
    skipped: Vec<(i64, String)>,
) -> sqlx::Result<()> {
    let (skipped, because): (Vec<i64>, Vec<String>) = skipped.into_iter().unzip();
    sqlx::query!(
        "with moved as (
             update queue.campaign_letters l
             set state = case when m.because is null then 'redriven' else 'skipped' end, skipped_because = m.because,
                 redriven_at = case when m.because is null then clock_timestamp() end
             from (
                 select r.id, null as because from unnest($2::bigint[]) r (id)
                 union all
                 select s.id, s.because from unnest($3::bigint[], $4::text[]) s (id, because)
             ) m
             where l.campaign_id = $1 and l.job_id = m.id
             returning l.cause, l.state
         ), counted as (
             select cause, count(*) filter (where state = 'redriven') as redriven,
                    count(*) filter (where state = 'skipped') as skipped
             from moved group by cause
         )
         update queue.campaign_causes c
         set waiting = c.waiting - n.redriven - n.skipped, in_flight = c.in_flight + n.redriven,
             skipped = c.skipped + n.skipped, canary_left = greatest(0, c.canary_left - n.redriven)
         from counted n
         where c.campaign_id = $1 and c.cause = n.cause",
        id,
        redriven,
        &skipped,
        &because,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Nothing is in flight, and nothing is to come: halted if any of its causes is.
async fn end_if_over(conn: &mut PgConnection, id: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update queue.campaigns p
         set ended_at = clock_timestamp(),
             state = case when p.state = 'cancelled' then 'cancelled' when n.is_halted then 'halted' else 'finished' end,
             state_actor = case when p.state = 'cancelled' then p.state_actor end,
             state_reason = case when p.state = 'cancelled' then p.state_reason end
         from (
             select sum(in_flight) as in_flight, bool_or(state = 'halted') as is_halted,
                    bool_or(state in ('canary', 'released')) as is_open
             from queue.campaign_causes where campaign_id = $1
         ) n
         where p.id = $1 and n.in_flight = 0 and (p.state = 'cancelled' or p.state = 'running' and not n.is_open)",
        id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// At once if there is more to redrive now; otherwise the later, the longer nothing has moved.
async fn look_again(conn: &mut PgConnection, id: i64, moved: i64, redriven: i64, is_more: bool) -> sqlx::Result<()> {
    sqlx::query!(
        "update queue.campaigns p
         set moved_at = case when $2 then clock_timestamp() else p.moved_at end,
             look_at = clock_timestamp() + case
                 when $3 then interval '0'
                 when $2 then interval '50 ms'
                 else least(greatest((clock_timestamp() - p.moved_at) / 10, interval '50 ms'), interval '1 s') end,
             paced_at = greatest(p.paced_at, clock_timestamp() - make_interval(secs => greatest(1, 1 / p.per_second)))
                        + make_interval(secs => $4 / p.per_second)
         where p.id = $1",
        id,
        moved > 0,
        is_more,
        redriven as f64,
    )
    .execute(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary(tried: i64, in_flight: i64, died: i64, left: i64, waiting: i64) -> Standing {
        Standing {
            is_canary: true,
            canary_left: left,
            waiting,
            in_flight,
            tried,
            tried_in_flight: in_flight,
            tried_died: died,
            window_died: 0,
        }
    }

    fn released(window_died: i64, waiting: i64, in_flight: i64) -> Standing {
        Standing {
            is_canary: false,
            window_died,
            ..canary(0, in_flight, 0, 0, waiting)
        }
    }

    #[test]
    fn a_canary_is_waited_for_and_then_releases_the_rest_or_halts() {
        let is_halted = |standing: Standing| matches!(judge(&standing, 0.1, 100), Verdict::Halt { .. });
        assert_eq!(judge(&canary(4, 4, 0, 6, 96), 0.1, 100), Verdict::GoOn);
        assert_eq!(judge(&canary(10, 1, 1, 0, 90), 0.1, 100), Verdict::GoOn);
        assert_eq!(judge(&canary(10, 0, 1, 0, 90), 0.1, 100), Verdict::Release);
        // It need not be waited for to the end.
        assert!(is_halted(canary(10, 8, 2, 0, 90)));
        assert!(is_halted(canary(2, 0, 2, 8, 98)));
        // Fewer letters than a canary: all of them are it.
        assert_eq!(judge(&canary(3, 0, 0, 7, 0), 0.1, 100), Verdict::Finish);
        assert!(is_halted(canary(3, 0, 1, 7, 0)));
        assert_eq!(judge(&canary(3, 0, 1, 7, 0), 0.5, 100), Verdict::Finish);
    }

    #[test]
    fn a_released_cause_halts_when_too_many_of_the_last_have_died() {
        assert_eq!(judge(&released(10, 50, 5), 0.1, 100), Verdict::GoOn);
        assert!(matches!(
            judge(&released(11, 50, 5), 0.1, 100),
            Verdict::Halt { died: 11, .. }
        ));
        assert_eq!(judge(&released(10, 0, 0), 0.1, 100), Verdict::Finish);
        assert_eq!(judge(&released(0, 0, 1), 0.0, 100), Verdict::GoOn);
        assert!(matches!(judge(&released(1, 0, 1), 0.0, 100), Verdict::Halt { .. }));
    }
}
