-- Admission in bulk: mostly there is room for all that was taken, and then no job is looked at again. The keys come with how many
-- jobs of each were admitted, so that whoever holds them need not count once more.

drop function queue.admit(queue.jobs[]);

-- Which of these jobs, just taken out of line, may run: the others are parked. With it: whether any of them has a limit, and of
-- the keys that count what runs, how many jobs were admitted.
create function queue.admit(inout p_jobs queue.jobs[], out limited boolean, out keys text[], out admitted bigint[])
language plpgsql
set jit = off
as $$
declare
    rooms queue.room[];
begin
    select array_agg(t.key), array_agg(t.jobs)
    into keys, admitted
    from (
        select j.limit_key as key, count(*) as jobs from unnest(p_jobs) j where j.limit_key is not null group by j.limit_key
    ) t
    where exists (select from queue.limits l where l.name in (t.key, split_part(t.key, '/', 1)));
    rooms := array(select r from queue.room(keys) r);
    limited := cardinality(rooms) > 0;
    if not limited then
        keys := '{}';
        return;
    end if;
    if not exists (
        select from unnest(rooms) r join unnest(keys, admitted) t (key, jobs) using (key) where t.jobs > r.jobs
    ) then
        update queue.limit_keys k
        set arrival = r.arrival + t.jobs * r.per_job
        from unnest(rooms) r
        join unnest(keys, admitted) t (key, jobs) using (key)
        where k.key = r.key and r.per_job is not null;
        select coalesce(array_agg(t.key), '{}'), array_agg(t.jobs)
        into keys, admitted
        from unnest(rooms) r
        join unnest(keys, admitted) t (key, jobs) using (key)
        where r.counts;
        return;
    end if;
    with numbered as materialized (
        select j as job, r as room, row_number() over (partition by r.key order by j.rank, j.id) as place
        from unnest(p_jobs) j
        left join unnest(rooms) r on r.key = j.limit_key
    ), moved as (
        update queue.limit_keys k
        set arrival = case when c.per_job is not null then c.arrival + c.started * c.per_job end,
            opens_at = case when c.parked > 0 then queue.opens_at(c.room, c.started) else k.opens_at end
        from (
            select n.room, (n.room).key, (n.room).arrival, (n.room).per_job,
                   count(*) filter (where n.place <= (n.room).jobs) as started,
                   count(*) filter (where n.place > (n.room).jobs) as parked
            from numbered n where (n.room).key is not null group by n.room
        ) c
        where k.key = c.key
    ), parked as (
        insert into queue.jobs (id, run_at, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
                                args_version, priority, suspect, turn, parked, queue, kind, args, unique_key, group_key,
                                trace_context, waiting, failures, redrives, limit_key, awaited)
        select j.id, j.run_at, j.created_at, j.deadline_at, j.fence, j.attempt, j.attempts_max, j.crashes, j.crashes_alone,
               j.args_version, j.priority, j.suspect, false, true, j.queue, j.kind, j.args, j.unique_key, j.group_key,
               j.trace_context, j.waiting, j.failures, j.redrives, j.limit_key, j.awaited
        from numbered n
        cross join lateral (select (n.job).*) j
        where n.place > (n.room).jobs
    )
    select coalesce(array_agg(n.job) filter (where (n.room).key is null or n.place <= (n.room).jobs), '{}')
    into p_jobs
    from numbered n;
    select coalesce(array_agg(t.key), '{}'), array_agg(t.jobs)
    into keys, admitted
    from (select j.limit_key as key, count(*) as jobs from unnest(p_jobs) j group by j.limit_key) t
    where t.key = any(array(select r.key from unnest(rooms) r where r.counts));
end $$;

-- A key of a claim whose last jobs end goes in one step.
create or replace function queue.let_go(p_claims bigint[], p_keys text[], p_succeeded boolean) returns void
language plpgsql
set jit = off
as $$
begin
    -- In one order, since two transactions may let go of jobs of the same claim.
    perform from queue.limit_holds h where h.claim_id = any(p_claims) and h.key = any(p_keys) order by h.key, h.claim_id for update;
    with gone as (
        select c as claim_id, k as key, count(*) as jobs from unnest(p_claims, p_keys) u (c, k) group by 1, 2
    ), over as (
        delete from queue.limit_holds h using gone g where h.claim_id = g.claim_id and h.key = g.key and h.jobs <= g.jobs
    )
    update queue.limit_holds h
    set jobs = h.jobs - g.jobs
    from gone g
    where h.claim_id = g.claim_id and h.key = g.key and h.jobs > g.jobs;
    perform from queue.limit_keys k
    where k.key = any(p_keys) and (k.opens_at is not null or p_succeeded and (k.failures > 0 or k.open_until is not null))
    order by k.key for update;
    if found then
        update queue.limit_keys k
        set failures = case when p_succeeded then 0 else k.failures end,
            open_until = case when p_succeeded then null else k.open_until end,
            cause = case when p_succeeded then null else k.cause end,
            opens_at = case when p_succeeded or k.open_until is null then least(k.opens_at, clock_timestamp()) else k.opens_at end
        where k.key = any(p_keys) and (k.opens_at is not null or p_succeeded and (k.failures > 0 or k.open_until is not null));
    end if;
end $$;
