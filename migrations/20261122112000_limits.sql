-- Limits: how many jobs of a key run at once, how many start a second, and whether what they depend on works at all. Exact
-- across the fleet, because a claim decides under the lock of the key's row. A job its limit does not let run is parked: it
-- leaves the line, so that a claim never reads past it, and is let in again when there is room.

create table queue.limits (
    -- `queue/NAME` bounds a queue. Any other name bounds each limit key that begins with it (`endpoint` bounds `endpoint/7`),
    -- unless the key has a limit of its own.
    name text primary key check (name <> '' and length(name) <= 300),
    -- Jobs that run at once.
    concurrency int check (concurrency >= 0),
    -- Jobs that start a second, over the long run.
    rate double precision check (rate > 0 and rate <= 100000),
    -- Jobs that may start at once when none has for long.
    burst int not null default 1 check (burst between 1 and 100000),
    -- Failures in a row that open the breaker: nothing runs then, but one job at a time as a probe.
    breaker_failures int check (breaker_failures between 1 and 10000),
    -- How long it stays open before a probe.
    breaker_seconds double precision not null default 10 check (breaker_seconds > 0 and breaker_seconds <= 86400),
    actor text not null,
    changed_at timestamptz not null default clock_timestamp()
);

-- What the fleet knows of one key. The row is the lock under which its jobs are admitted.
create table queue.limit_keys (
    key text primary key,
    -- The theoretical arrival time of the next job (GCRA, ITU-T I.371): the rate is kept by moving it on.
    arrival timestamptz,
    -- When parked jobs are let in; null when none are parked.
    opens_at timestamptz,
    -- Failures in a row.
    failures int not null default 0,
    -- The breaker is open until then, and after that lets single jobs through until one succeeds. Null when it is closed.
    open_until timestamptz,
    -- What opened it.
    cause text
)
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index limit_keys_opening on queue.limit_keys (opens_at) where opens_at is not null;

-- How many running jobs of a claim count against a key. Written when they are claimed and when they end, in the same
-- transaction; whatever takes a claim away takes these along, so that a crash leaks no room.
create table queue.limit_holds (
    claim_id bigint not null,
    key text not null,
    jobs int not null,
    primary key (key, claim_id)
)
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index limit_holds_of_claim on queue.limit_holds (claim_id);

create index jobs_parked on queue.jobs (limit_key, rank, id) where parked;

-- A dead letter that is redriven counts against the same limit.
alter table queue.dead_letters add column limit_key text;

-- What a key allows right now.
create type queue.room as (
    key text,
    -- How many more jobs may start.
    jobs bigint,
    -- The theoretical arrival time of the next job, not before now; one more job moves it on by `per_job`.
    arrival timestamptz,
    per_job interval,
    burst int,
    -- Whether those that run are counted.
    counts boolean,
    -- The breaker is open until then.
    open_until timestamptz
);

-- What these keys allow; keys without a limit are not returned. The keys' rows stay locked until the transaction ends, so that
-- nobody else admits jobs on the same ground.
create function queue.room(p_keys text[]) returns setof queue.room
language plpgsql
set jit = off
as $$
declare
    present timestamptz;
begin
    insert into queue.limit_keys (key)
    select distinct k from unnest(p_keys) k where not exists (select from queue.limit_keys o where o.key = k) order by 1
    on conflict do nothing;
    perform from queue.limit_keys k where k.key = any(p_keys) order by k.key for update;
    present := clock_timestamp();
    return query
    select k.key,
           greatest(least(
               l.concurrency - h.jobs,
               floor(extract(epoch from present - a.arrival + l.burst * g.per_job) / extract(epoch from g.per_job)),
               case when k.open_until > present then 0 when k.open_until is not null then 1 - h.jobs end,
               1000000000
           ), 0)::bigint,
           a.arrival, g.per_job, l.burst, l.concurrency is not null or l.breaker_failures is not null,
           case when k.open_until > present then k.open_until end
    from queue.limit_keys k
    cross join lateral (
        select o.* from queue.limits o
        where o.name = k.key or (o.name = split_part(k.key, '/', 1) and k.key not like 'queue/%')
        order by length(o.name) desc limit 1
    ) l
    cross join lateral (select make_interval(secs => 1 / l.rate) as per_job) g
    cross join lateral (select greatest(k.arrival, present) as arrival) a
    cross join lateral (select coalesce(sum(o.jobs), 0) as jobs from queue.limit_holds o where o.key = k.key) h
    where k.key = any(p_keys);
end $$;

-- The limit that holds for a key; all null when there is none.
create function queue.limit_of(p_key text) returns queue.limits
language sql stable as $$
    select l from queue.limits l
    where l.name = p_key or (l.name = split_part(p_key, '/', 1) and p_key not like 'queue/%')
    order by length(l.name) desc limit 1
$$;

-- When parked jobs of a key may be let in, after so many more have started: when its breaker lets a probe through, when the
-- rate allows the next, and soon in any case. What ends says so before.
create function queue.opens_at(p_room queue.room, p_started bigint) returns timestamptz
language sql volatile as $$
    select coalesce(
        p_room.open_until,
        least(clock_timestamp() + interval '5 s',
              nullif(greatest(p_room.arrival + (p_started + 1 - p_room.burst) * p_room.per_job, clock_timestamp()), clock_timestamp()))
    )
$$;

-- Which of these jobs, just taken out of line, may start: the rest is parked. Says whether any of them has a limit, and of which
-- keys those that run are counted.
create function queue.admit(inout p_jobs queue.jobs[], out limited boolean, out counted text[])
language plpgsql
set jit = off
as $$
declare
    rooms queue.room[];
begin
    rooms := array(
        select r
        from queue.room(array(
            select distinct j.limit_key from unnest(p_jobs) j
            where exists (select from queue.limits l where l.name in (j.limit_key, split_part(j.limit_key, '/', 1)))
        )) r
    );
    limited := cardinality(rooms) > 0;
    counted := array(select r.key from unnest(rooms) r where r.counts);
    if not limited then
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
end $$;

-- Lets parked jobs back in line where there is room.
create function queue.let_in() returns void
language plpgsql
set jit = off
as $$
declare
    keys text[];
    rooms queue.room[];
    present timestamptz := clock_timestamp();
begin
    keys := array(
        select k.key from queue.limit_keys k where k.opens_at <= present order by k.opens_at limit 100 for update skip locked
    );
    if keys = '{}' then
        return;
    end if;
    rooms := array(select r from queue.room(keys) r);
    update queue.jobs j
    set turn = true, parked = null
    where j.id = any(array(
        select p.id
        from unnest(keys) k (key)
        left join unnest(rooms) r on r.key = k.key
        cross join lateral (
            select o.id from queue.jobs o where o.parked and o.limit_key = k.key
            order by o.rank, o.id limit coalesce(r.jobs, 1000)
        ) p
    ));
    update queue.limit_keys k
    set opens_at = case
            when not exists (select from queue.jobs j where j.parked and j.limit_key = k.key) then null
            when r.key is null then present
            else queue.opens_at(r, r.jobs)
        end
    from unnest(keys) w (key)
    left join unnest(rooms) r on r.key = w.key
    where k.key = w.key;
end $$;

-- Jobs of these claims no longer run. p_succeeded: what they depend on works.
create function queue.let_go(p_claims bigint[], p_keys text[], p_succeeded boolean) returns void
language plpgsql
set jit = off
as $$
begin
    -- In one order, since two transactions may let go of jobs of the same claim.
    perform from queue.limit_holds h where h.claim_id = any(p_claims) and h.key = any(p_keys) order by h.key, h.claim_id for update;
    update queue.limit_holds h
    set jobs = h.jobs - g.jobs
    from (select c as claim_id, k as key, count(*) as jobs from unnest(p_claims, p_keys) u (c, k) group by 1, 2) g
    where h.claim_id = g.claim_id and h.key = g.key;
    delete from queue.limit_holds h where h.claim_id = any(p_claims) and h.jobs <= 0;
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

-- A job of this key failed in a way that says something of what it depends on. Returns until when the breaker is open, null
-- when it is not; p_retry_after: the other side said when to come back.
create function queue.limit_failed(p_key text, p_cause text, p_retry_after interval) returns timestamptz
language plpgsql as $$
declare
    l queue.limits := queue.limit_of(p_key);
    until timestamptz;
begin
    if l.breaker_failures is null then
        return null;
    end if;
    insert into queue.limit_keys (key) values (p_key) on conflict do nothing;
    update queue.limit_keys k
    set failures = k.failures + case when p_retry_after is null then 1 else 0 end,
        open_until = case
            when p_retry_after is not null then greatest(k.open_until, clock_timestamp() + p_retry_after)
            -- Half open, or somebody who started before it opened.
            when k.open_until is not null or k.failures + 1 >= l.breaker_failures
                then greatest(k.open_until, clock_timestamp() + make_interval(secs => l.breaker_seconds))
        end,
        cause = p_cause
    where k.key = p_key
    returning k.open_until into until;
    update queue.limit_keys k set opens_at = until where k.key = p_key and k.opens_at is not null and until is not null;
    return until;
end $$;

drop function queue.claim(text, text[], smallint[], bigint, bigint, interval, boolean);
-- Due jobs change hands: up to p_limit of a queue leave the line and become one claim of that worker.
-- Only kinds that the worker knows, in versions it reads; nothing paused; either suspects or none. A job of low priority
-- stands behind its run_at, so a claim looks p_ahead further; p_since is where it begins to look. Where limits park all that was taken, there may be more behind them. The settings keep every plan on the index, in its order: the
-- planner cannot know that nearly every row passes the filters, and would sort the whole line. (What is off counts as dear, and
-- what is dear would be compiled, every time: hence the last one.)
create function queue.claim(
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
    counted_keys text[];
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
            where j.id = any(array(
                select c.id
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
            select a.p_jobs, a.limited, a.counted into taken, is_limited, counted_keys from queue.admit(taken) a;
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
        select made, j.limit_key, count(*) from unnest(taken) j where j.limit_key = any(counted_keys) group by j.limit_key;
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

-- Takes claims apart, whoever holds them: what of their jobs has not ended. Locked, they cannot end any more; p_wait says
-- whether to wait for transactions that are about to end some, or to leave such claims out.
create or replace function queue.seize(p_claims bigint[], p_wait boolean)
returns table (claim_id bigint, worker_id bigint, job queue.jobs)
language plpgsql as $$
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

drop function queue.enqueue(text, text, jsonb, timestamptz, text, text, text, int, int, timestamptz, int, text);
-- Enqueues one job in the caller's transaction and returns its id.
-- A unique key that is taken returns the id of the job that has it, and writes nothing.
-- A group key takes a lock until the transaction ends, so that a group's ids are in commit order: enqueue into several
-- groups in the order of their keys.
create function queue.enqueue(
    p_queue text,
    p_kind text,
    p_args jsonb,
    p_run_at timestamptz default null,
    p_unique_key text default null,
    p_unique_scope text default 'kept',
    p_group_key text default null,
    p_priority int default 0,
    p_attempts_max int default 20,
    p_deadline_at timestamptz default null,
    p_args_version int default 1,
    p_trace_context text default null,
    p_limit_key text default null,
    out job_id bigint,
    out is_new boolean
)
language plpgsql as $$
declare
    due timestamptz := coalesce(p_run_at, clock_timestamp());
    -- Read once: a volatile function cannot bound an index scan.
    present timestamptz := clock_timestamp();
    has_turn boolean := true;
begin
    if p_group_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(p_group_key, 7));
    end if;

    job_id := nextval('queue.jobs_id_seq');
    is_new := true;
    if p_unique_key is not null then
        insert into queue.unique_keys (kind, key, job_id, scope)
        values (p_kind, p_unique_key, job_id, p_unique_scope)
        on conflict do nothing;
        if not found then
            is_new := false;
            select u.job_id into job_id from queue.unique_keys u where u.kind = p_kind and u.key = p_unique_key;
            if job_id is null then
                -- Its owner ended between the two statements: the key is free again.
                select e.job_id, e.is_new into job_id, is_new
                from queue.enqueue(p_queue, p_kind, p_args, p_run_at, p_unique_key, p_unique_scope, p_group_key,
                                   p_priority, p_attempts_max, p_deadline_at, p_args_version, p_trace_context, p_limit_key) e;
            end if;
            return;
        end if;
    end if;
    if p_group_key is not null then
        insert into queue.turns (group_key, holder) values (p_group_key, job_id) on conflict do nothing;
        has_turn := found;
    end if;

    -- The notification is a hint, and every one is paid for at commit: only an idle queue needs it. Where a job became due within
    -- the last second and still waits, somebody is awake. It looks back no further, because the head of the line is full of rows
    -- that are deleted and not yet vacuumed.
    if has_turn and due <= present and not exists (
        select from queue.jobs j
        where j.queue = p_queue and j.turn and not j.suspect
          and j.rank > (present - interval '1 s') at time zone 'UTC' and j.rank <= present at time zone 'UTC'
    ) then
        perform pg_notify('queue_jobs', p_queue);
    end if;

    insert into queue.jobs (id, queue, kind, args_version, args, priority, run_at, attempts_max, deadline_at,
                            unique_key, group_key, trace_context, turn, limit_key)
    values (job_id, p_queue, p_kind, p_args_version, p_args, p_priority, due, p_attempts_max, p_deadline_at,
            p_unique_key, p_group_key, p_trace_context, has_turn, p_limit_key);
end $$;

-- Who waits for the turn of its group, in order; nobody else is in this index, so that a turn costs one entry less.
drop index queue.jobs_grouped;
create index jobs_grouped on queue.jobs (group_key, id) where not turn and group_key is not null;

-- The holders have ended: the next of each group has its turn. Without holders, for groups whose turn was left vacant. The
-- settings keep the plans on the indexes, in the order of the groups, in which everybody locks them.
create or replace function queue.pass_turns(p_groups text[], p_holders bigint[] default '{}') returns void
language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
as $$
declare
    these text[];
    holders bigint[];
    this text;
    next bigint;
begin
    -- Those who wait are committed, and whoever is still enqueueing has a higher number. Whoever else passes this turn on at the
    -- same moment finds another holder when it has the row.
    with first as materialized (
        select g.group_key, g.holders, n.id
        from (
            select u.group_key, array_agg(u.holder) as holders from unnest(p_groups, p_holders) u (group_key, holder)
            group by u.group_key order by u.group_key
        ) g
        left join lateral (
            select j.id from queue.jobs j where j.group_key = g.group_key and not j.turn order by j.id limit 1
        ) n on true
    ), turned as (
        update queue.turns t set holder = coalesce(n.id, t.holder), vacant = n.id is null
        from first n
        where t.group_key = n.group_key and (t.vacant or t.holder = any(n.holders))
        returning t.group_key, n.id
    )
    select array_agg(t.id) filter (where t.id is not null), array_agg(t.group_key order by t.group_key) filter (where t.id is null)
    into holders, these
    from turned t;
    update queue.jobs j set turn = true where j.id = any(holders);
    foreach this in array coalesce(these, '{}') loop
        next := null;
        if pg_try_advisory_xact_lock(hashtextextended(this, 7)) then
            -- Nobody is enqueueing now: what there is to be seen can be seen.
            select j.id into next from queue.jobs j where j.group_key = this and not j.turn order by j.id limit 1;
            if next is null then
                delete from queue.turns t where t.group_key = this;
                continue;
            end if;
        end if;
        update queue.turns t set holder = coalesce(next, t.holder), vacant = next is null where t.group_key = this;
        update queue.jobs j set turn = true where j.id = next;
    end loop;
end $$;
