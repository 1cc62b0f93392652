-- Whoever locks rows of limits locks them in one order, or the database has to find a deadlock and end one of them, a second later:
-- what its jobs take of limits (limit_holds, by key and claim) before keys (limit_keys), the key of a queue before others, others in
-- their order, and all that a transaction needs of either at once.
--
-- A claim let in what limits had parked, and locked their keys, and then locked the keys of the jobs it took; two claims could wait for
-- each other. Now it only says that there is something to let in, or that all it took was parked, by one row of claim -1, and whoever
-- claims looks again: queue.let_in is a transaction of its own.

drop function queue.claim(text, text[], smallint[], bigint, bigint, interval, boolean, timestamp, bigint[]);

create function queue.claim(p_queue text, p_kinds text[], p_versions smallint[], p_worker bigint, p_limit bigint, p_ahead interval default '0', p_suspects boolean default false, p_since timestamp default '-infinity', p_turned bigint[] default null, p_looks boolean default null) returns table (claim_id bigint, claimed_at timestamptz, id bigint, kind text, args_version smallint, args jsonb, fence bigint, attempt integer, attempts_max integer, deadline_at timestamptz, unique_key text, group_key text, crashes_alone integer, trace_context text, limit_key text, awaited boolean, limited boolean, rank timestamp)
    language plpgsql
    set plan_cache_mode = force_generic_plan
    set enable_sort = off
    set enable_bitmapscan = off
    set enable_seqscan = off
    set jit = off
    as $$
declare
    queue_key constant text := 'queue/' || p_queue;
    queue_is_limited boolean := false;
    has_keys boolean;
    is_limited boolean := false;
    counted text[];
    admitted bigint[];
    bound bigint := p_limit;
    taken queue.jobs[];
    again boolean := false;
    made bigint;
    made_at timestamptz;
begin
    if p_turned is not null then
        -- What counts against a limit goes by the line: its rows are not to be locked until a completion is on the disk.
        with gone as (
            delete from queue.jobs j
            where j.ctid = any(array(
                select c.ctid
                from queue.jobs c
                where c.id = any(p_turned) and c.queue = p_queue and not c.suspect and c.limit_key is null
                  and c.run_at <= (select clock_timestamp())
                  and c.kind = any(p_kinds)
                  and c.args_version <= p_versions[array_position(p_kinds, c.kind)]
                  and c.kind <> all(array(select p.name from queue.pauses p where p.target = 'kind'))
                  and not exists (select from queue.pauses p where p.target = 'queue' and p.name = p_queue)
                  and not exists (select from queue.limits l where l.name = queue_key)
                  and exists (select from queue.workers w where w.id = p_worker and not w.stopping)
                for update of c skip locked
            ))
            returning j as job
        )
        select array_agg(g.job) into taken from gone g;
    elsif p_looks and exists (select from queue.limit_keys k where k.opens_at <= (select clock_timestamp())) then
        again := true;
    else
        -- A build that does not know of this.
        if p_looks is null and exists (select from queue.limit_keys k where k.opens_at <= (select clock_timestamp())) then
            p_since := least(p_since, queue.let_in());
        end if;
        queue_is_limited := exists (select from queue.limits l where l.name = queue_key);
        if queue_is_limited then
            select least(p_limit, r.jobs) into bound from queue.room(array[queue_key]) r;
            bound := coalesce(bound, p_limit);
            if bound < p_limit then
                -- Nothing is parked for it, but whoever polls wants to know when it is worth while.
                update queue.limit_keys k
                set opens_at = queue.opens_at(r, bound)
                from queue.room(array[queue_key]) r
                where k.key = queue_key;
            end if;
        end if;
        if bound > 0 then
            with gone as (
                delete from queue.jobs j
                where j.ctid = any(array(
                    select c.ctid
                    from queue.jobs c
                    where c.queue = p_queue and c.suspect = p_suspects and c.turn and c.rank >= p_since
                      -- The clock is read in a sub-select: a volatile function cannot bound an index scan.
                      and c.rank <= (select clock_timestamp() at time zone 'UTC' + p_ahead)
                      and c.run_at <= (select clock_timestamp())
                      and c.kind = any(p_kinds)
                      and c.args_version <= p_versions[array_position(p_kinds, c.kind)]
                      and c.kind <> all(array(select p.name from queue.pauses p where p.target = 'kind'))
                      and not exists (select from queue.pauses p where p.target = 'queue' and p.name = p_queue)
                      and exists (select from queue.workers w where w.id = p_worker and not w.stopping)
                    order by c.rank, c.id
                    limit bound
                    for update of c skip locked
                ))
                returning j as job
            )
            select array_agg(g.job), bool_or((g.job).limit_key is not null) into taken, has_keys from gone g;
            if has_keys then
                select a.p_jobs, a.limited, a.keys, a.admitted into taken, is_limited, counted, admitted from queue.admit(taken) a;
            end if;
            again := p_looks is not null and cardinality(taken) = 0;
        end if;
    end if;
    if taken is null or cardinality(taken) = 0 then
        if again then
            return query select -1::bigint, clock_timestamp(), 0::bigint, '', 0::smallint, '{}'::jsonb, 0::bigint, 0, 0, null::timestamptz,
                                null::text, null::text, 0, null::text, null::text, false, false, clock_timestamp() at time zone 'UTC';
        end if;
        return;
    end if;

    insert into queue.claims as c (worker_id, queue, size, jobs)
    values (p_worker, p_queue, cardinality(taken), taken)
    returning c.id, c.claimed_at into made, made_at;
    if is_limited then
        insert into queue.limit_holds (claim_id, key, jobs)
        select made, h.key, h.jobs from unnest(counted, admitted) h (key, jobs);
    end if;
    if queue_is_limited then
        insert into queue.limit_holds (claim_id, key, jobs) values (made, queue_key, cardinality(taken));
        update queue.limit_keys k
        set arrival = greatest(k.arrival, clock_timestamp()) + cardinality(taken) * make_interval(secs => 1 / l.rate)
        from queue.limits l
        where k.key = queue_key and l.name = queue_key and l.rate is not null;
    end if;
    return query
    select made, made_at, j.id, j.kind, j.args_version, j.args, j.fence + 1, j.attempt + 1, j.attempts_max, j.deadline_at,
           j.unique_key, j.group_key, j.crashes_alone, j.trace_context, j.limit_key, coalesce(j.awaited, false),
           is_limited or queue_is_limited, j.rank
    from unnest(taken) j;
end $$;

create or replace function queue.let_go(p_claims bigint[], p_keys text[], p_succeeded boolean) returns void
    language plpgsql
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
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
    order by k.key not like 'queue/%', k.key for update;
    if found then
        update queue.limit_keys k
        set failures = case when p_succeeded then 0 else k.failures end,
            open_until = case when p_succeeded then null else k.open_until end,
            cause = case when p_succeeded then null else k.cause end,
            opens_at = case when p_succeeded or k.open_until is null then least(k.opens_at, clock_timestamp()) else k.opens_at end
        where k.key = any(p_keys) and (k.opens_at is not null or p_succeeded and (k.failures > 0 or k.open_until is not null));
    end if;
end $$;

create or replace function queue.seize(p_claims bigint[], p_wait boolean) returns table(claim_id bigint, worker_id bigint, job queue.jobs)
    language plpgsql
    as $$
declare
    this bigint;
    mine bigint[] := '{}';
begin
    for this in select distinct c from unnest(p_claims) c order by 1 loop
        if p_wait then
            perform pg_advisory_xact_lock(1, (this % 2147483647)::int);
        elsif not pg_try_advisory_xact_lock(1, (this % 2147483647)::int) then
            continue;
        end if;
        mine := mine || this;
    end loop;
    perform from queue.limit_holds h where h.claim_id = any(mine) order by h.key, h.claim_id for update;
    perform from queue.limit_keys k
    where k.opens_at is not null and k.open_until is null
      and k.key in (select h.key from queue.limit_holds h where h.claim_id = any(mine))
    order by k.key not like 'queue/%', k.key for update;
    update queue.limit_keys k set opens_at = clock_timestamp()
    where k.opens_at is not null and k.open_until is null
      and k.key in (select h.key from queue.limit_holds h where h.claim_id = any(mine));
    delete from queue.limit_holds h where h.claim_id = any(mine);
    return query
    with gone as (
        delete from queue.claims c where c.id = any(mine) returning c.id, c.worker_id, c.jobs
    ), forgotten as (
        delete from queue.progress p where p.claim_id = any(mine)
    ), cleaned as (
        delete from queue.ended e where e.claim_id = any(mine)
    )
    select g.id, g.worker_id, j
    from gone g cross join unnest(g.jobs) j
    where not exists (select from queue.ended e where e.claim_id = g.id and e.job_id = j.id);
end $$;

-- What a job takes of limits, and their keys: for whoever is going to write to both. A failure is told to its key before its room
-- is given back.
create function queue.hold_limits(p_claim bigint, p_keys text[]) returns void
    language sql
    as $$
    select from queue.limit_holds h where h.claim_id = p_claim and h.key = any(p_keys) order by h.key for update;
    select from queue.limit_keys k where k.key = any(p_keys) order by k.key not like 'queue/%', k.key for update;
$$;
