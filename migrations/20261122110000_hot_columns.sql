-- What the hot rows must say for limits and for jobs that wait for others. New columns of `queue.jobs` are nullable and have no
-- default: its rows also lie in `queue.claims`, where nothing can be rewritten.

alter table queue.jobs
    -- The limit it counts against (see queue.limits): concurrency, rate and breaker, shared by every job of the key.
    add column limit_key text check (length(limit_key) <= 300),
    -- True while its limit keeps it out of line: it has no turn then.
    add column parked boolean,
    -- True when something waits for its end: who ends it looks for what follows.
    add column awaited boolean;

drop function queue.claim(text, text[], smallint[], bigint, bigint, interval, boolean);
-- Due jobs change hands: up to p_limit of a queue leave the line and become one claim of that worker.
-- Only kinds that the worker knows, in versions it reads; nothing paused; either suspects or none. A job of low priority
-- stands behind its run_at, so a claim looks p_ahead further. The settings keep every plan on the index, in its order: the
-- planner cannot know that nearly every row passes the filters, and would sort the whole line. (What is off counts as dear, and
-- what is dear would be compiled, every time: hence the last one.)
create function queue.claim(
    p_queue text,
    p_kinds text[],
    p_versions smallint[],
    p_worker bigint,
    p_limit bigint,
    p_ahead interval default '0',
    p_suspects boolean default false
)
returns table (
    claim_id bigint, claimed_at timestamptz, id bigint, kind text, args_version smallint, args jsonb, fence bigint,
    attempt int, attempts_max int, deadline_at timestamptz, unique_key text, group_key text, crashes_alone int,
    trace_context text, limit_key text, awaited boolean
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_sort = off
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
begin
    return query
    with taken as (
        delete from queue.jobs j
        where j.id = any(array(
            select c.id
            from queue.jobs c
            where c.queue = p_queue and c.suspect = p_suspects and c.turn
              -- The clock is read in a sub-select: a volatile function cannot bound an index scan.
              and c.rank <= (select clock_timestamp() at time zone 'UTC' + p_ahead)
              and c.run_at <= (select clock_timestamp())
              and c.kind = any(p_kinds)
              and c.args_version <= p_versions[array_position(p_kinds, c.kind)]
              and c.kind <> all(array(select p.name from queue.pauses p where p.target = 'kind'))
              and not exists (select from queue.pauses p where p.target = 'queue' and p.name = p_queue)
              and exists (select from queue.workers w where w.id = p_worker and not w.stopping)
            order by c.rank, c.id
            limit p_limit
            for update of c skip locked
        ))
        returning j as job
    ), made as (
        insert into queue.claims as c (worker_id, queue, size, jobs)
        select p_worker, p_queue, count(*), array_agg(t.job) from taken t having count(*) > 0
        returning c.id, c.claimed_at, c.jobs
    )
    select m.id, m.claimed_at, j.id, j.kind, j.args_version, j.args, j.fence + 1, j.attempt + 1, j.attempts_max, j.deadline_at,
           j.unique_key, j.group_key, j.crashes_alone, j.trace_context, j.limit_key,
           coalesce(j.awaited, false)
    from made m cross join unnest(m.jobs) j;
end $$;

-- Puts jobs back in line as they are given.
create or replace function queue.line_up(p_jobs queue.jobs[]) returns bigint
language sql as $$
    with lined_up as (
        insert into queue.jobs (id, run_at, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
                                args_version, priority, suspect, turn, queue, kind, args, unique_key, group_key, trace_context,
                                waiting, failures, redrives, limit_key, awaited)
        select id, run_at, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
               args_version, priority, suspect, turn, queue, kind, args, unique_key, group_key, trace_context,
               waiting, failures, redrives, limit_key, awaited
        from unnest(p_jobs)
        returning id
    )
    select count(*) from lined_up
$$;
