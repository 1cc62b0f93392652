-- A claim deletes the rows it has locked by their place, without looking each up in the index of ids again.
--
-- A row that was changed after the statement began has moved: it is locked at its new place, where this statement does not see it,
-- and is left to the next claim.

create or replace function queue.claim(
    p_queue text,
    p_kinds text[],
    p_versions smallint[],
    p_worker bigint,
    p_limit bigint,
    p_ahead interval default '0',
    p_suspects boolean default false,
    p_since timestamp default '-infinity'
)
returns table (
    claim_id bigint, claimed_at timestamptz, id bigint, kind text, args_version smallint, args jsonb, fence bigint,
    attempt int, attempts_max int, deadline_at timestamptz, unique_key text, group_key text, crashes_alone int,
    trace_context text, limit_key text, awaited boolean, limited boolean, rank timestamp
)
language plpgsql
set plan_cache_mode = force_generic_plan
set enable_sort = off
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
declare
    queue_key constant text := 'queue/' || p_queue;
    queue_is_limited boolean;
    has_keys boolean;
    is_limited boolean := false;
    counted text[];
    admitted bigint[];
    bound bigint := p_limit;
    taken queue.jobs[];
    made bigint;
    made_at timestamptz;
begin
    if exists (select from queue.limit_keys k where k.opens_at <= (select clock_timestamp())) then
        perform queue.let_in();
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
    for round in 1 .. case when bound > 0 then 20 else 0 end loop
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
        exit when taken is null or cardinality(taken) > 0;
    end loop;
    if taken is null or cardinality(taken) = 0 then
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
