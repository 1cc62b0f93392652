-- What the hot rows must say for limits and for jobs that wait for others. New columns of `queue.jobs` are nullable and have no
-- default: its rows also lie in `queue.claims`, where nothing can be rewritten.

alter table queue.jobs
    -- The limit it counts against (see queue.limits): concurrency, rate and breaker, shared by every job of the key.
    add column limit_key text check (length(limit_key) <= 300),
    -- True while its limit keeps it out of line: it has no turn then.
    add column parked boolean,
    -- True when something waits for its end: who ends it looks for what follows.
    add column awaited boolean;

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
