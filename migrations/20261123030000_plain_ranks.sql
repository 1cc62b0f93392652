-- Two costs of every job are paid where it is made instead of by the table: PostgreSQL prepares a check and a generated column anew
-- for each statement, which was half of a one-row insert. See docs/adr/0015.
--
-- The place in line is a plain column. Whoever inserts says it, since it may not be null; whoever changes run_at or priority
-- need not think of it.
alter table queue.jobs alter column rank drop expression;
alter table queue.jobs alter column rank set not null;
alter table queue.jobs drop constraint jobs_are_bounded;

create function queue.rank(p_run_at timestamptz, p_priority int) returns timestamp
    language sql immutable parallel safe
    return (p_run_at at time zone 'UTC') - make_interval(secs => p_priority * 30);

create function queue.keep_rank() returns trigger
    language plpgsql
    as $$
begin
    new.rank := queue.rank(new.run_at, new.priority);
    return new;
end $$;

create trigger jobs_keep_their_rank before update of run_at, priority on queue.jobs
    for each row execute function queue.keep_rank();

-- A payload is as long as its JSON text.
create or replace function queue.is_bounded(p_queue text, p_kind text, p_args jsonb, p_args_version smallint, p_priority smallint, p_attempts_max integer, p_unique_key text, p_group_key text, p_limit_key text) returns boolean
    language plpgsql immutable parallel safe
    as $$
declare
    longest constant int := 300;
begin
    if (length(p_queue) between 1 and 100 and length(p_kind) between 1 and 100 and p_args_version > 0
       and p_attempts_max between 1 and 1000 and p_priority between -10 and 10
       -- No text is eight times as long as what is stored of it.
       and (pg_column_size(p_args) <= 8192 or octet_length(p_args::text) <= 65536)
       and (p_unique_key is null or length(p_unique_key) <= longest)
       and (p_group_key is null or length(p_group_key) <= longest)
       and (p_limit_key is null or length(p_limit_key) <= longest)) is not false then
        -- What is missing is refused by the table.
        return true;
    end if;
    raise exception '%', case
            when length(p_queue) not between 1 and 100 then 'the name of a queue has from 1 to 100 characters'
            when length(p_kind) not between 1 and 100 then 'the name of a kind has from 1 to 100 characters'
            when p_args_version < 1 then 'versions of payloads count from 1'
            when p_attempts_max not between 1 and 1000 then format('a job has from 1 to 1000 attempts, not %s', p_attempts_max)
            when p_priority not between -10 and 10 then format('a priority is from -10 to 10, not %s', p_priority)
            when octet_length(p_args::text) > 65536
                then format('the payload of a %s job has at most 65536 bytes, not %s', p_kind, octet_length(p_args::text))
            when length(p_unique_key) > longest then format('a unique key has at most %s characters', longest)
            when length(p_group_key) > longest then format('a group key has at most %s characters', longest)
            else format('a limit key has at most %s characters', longest)
        end
        using errcode = 'check_violation', schema = 'queue', table = 'jobs', constraint = 'jobs_are_bounded';
end $$;

create or replace function queue.enqueue(p_queue text, p_kind text, p_args jsonb, p_run_at timestamptz default null, p_unique_key text default null, p_unique_scope text default 'kept', p_group_key text default null, p_priority integer default 0, p_attempts_max integer default 20, p_deadline_at timestamptz default null, p_args_version integer default 1, p_trace_context text default null, p_limit_key text default null, out job_id bigint, out is_new boolean) returns record
    language plpgsql
    as $$
declare
    due timestamptz := coalesce(p_run_at, clock_timestamp());
    -- Read once: a volatile function cannot bound an index scan.
    present timestamptz := clock_timestamp();
    has_turn boolean := true;
begin
    perform queue.is_bounded(p_queue, p_kind, p_args, p_args_version::smallint, p_priority::smallint, p_attempts_max, p_unique_key,
                             p_group_key, p_limit_key);
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

    insert into queue.jobs (id, queue, kind, args_version, args, priority, run_at, rank, attempts_max, deadline_at,
                            unique_key, group_key, trace_context, turn, limit_key)
    values (job_id, p_queue, p_kind, p_args_version, p_args, p_priority, due, queue.rank(due, p_priority), p_attempts_max, p_deadline_at,
            p_unique_key, p_group_key, p_trace_context, has_turn, p_limit_key);
end $$;

create or replace function queue.enqueue_debounced(p_wait interval, p_wait_max interval, p_queue text, p_kind text, p_args jsonb, p_unique_key text, p_group_key text default null, p_priority integer default 0, p_attempts_max integer default 20, p_deadline_after interval default null, p_args_version integer default 1, p_trace_context text default null, p_limit_key text default null, out job_id bigint, out is_new boolean) returns record
    language plpgsql
    as $$
declare
    -- Whoever comes in between has got somewhere: a hundred times in a row is a fault.
    rounds_left int := 100;
    present timestamptz;
    due timestamptz;
begin
    if p_unique_key is null then
        raise exception 'only a job with a unique key can be debounced' using errcode = 'null_value_not_allowed';
    end if;
    perform queue.is_bounded(p_queue, p_kind, p_args, p_args_version::smallint, p_priority::smallint, p_attempts_max, p_unique_key,
                             p_group_key, p_limit_key);
    if p_group_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(p_group_key, 7));
    end if;
    while rounds_left > 0 loop
        rounds_left := rounds_left - 1;
        present := clock_timestamp();
        select u.job_id into job_id from queue.unique_keys u where u.kind = p_kind and u.key = p_unique_key;
        if job_id is not null then
            -- The row of the job is the lock: a claim that is faster takes it away, one that is slower takes the new payload.
            -- One that was tried waits as long as its retry says.
            update queue.jobs j
            set args = p_args, args_version = p_args_version, trace_context = p_trace_context,
                run_at = greatest(least(present + p_wait, j.created_at + p_wait_max),
                                  case when j.fence > 0 then j.run_at end),
                deadline_at = least(present + p_wait, j.created_at + p_wait_max) + p_deadline_after
            where j.id = job_id
            returning j.run_at into due;
            if found then
                is_new := false;
                if due <= present then
                    perform pg_notify('queue_jobs', p_queue);
                end if;
                return;
            end if;
            delete from queue.unique_keys u where u.kind = p_kind and u.key = p_unique_key and u.job_id = enqueue_debounced.job_id;
        end if;
        due := present + least(p_wait, p_wait_max);
        select e.job_id, e.is_new into job_id, is_new
        from queue.enqueue(
            p_queue => p_queue, p_kind => p_kind, p_args => p_args, p_run_at => due, p_unique_key => p_unique_key,
            p_unique_scope => 'live', p_group_key => p_group_key, p_priority => p_priority,
            p_attempts_max => p_attempts_max, p_deadline_at => due + p_deadline_after, p_args_version => p_args_version,
            p_trace_context => p_trace_context, p_limit_key => p_limit_key) e;
        exit when is_new;
    end loop;
    if not is_new then
        raise exception 'the unique key % of % never stood still', p_unique_key, p_kind using errcode = 'serialization_failure';
    end if;
end $$;

create or replace function queue.line_up(p_jobs queue.jobs[]) returns bigint
    language sql
    as $$
    with lined_up as (
        insert into queue.jobs (id, run_at, rank, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
                                args_version, priority, suspect, turn, queue, kind, args, unique_key, group_key, trace_context,
                                waiting, failures, redrives, limit_key, awaited)
        select id, run_at, queue.rank(run_at, priority), created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
               args_version, priority, suspect, turn, queue, kind, args, unique_key, group_key, trace_context,
               waiting, failures, redrives, limit_key, awaited
        from unnest(p_jobs)
        returning id
    )
    select count(*) from lined_up
$$;

create or replace function queue.admit(inout p_jobs queue.jobs[], out limited boolean, out keys text[], out admitted bigint[]) returns record
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
        insert into queue.jobs (id, run_at, rank, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
                                args_version, priority, suspect, turn, parked, queue, kind, args, unique_key, group_key,
                                trace_context, waiting, failures, redrives, limit_key, awaited)
        select j.id, j.run_at, j.rank, j.created_at, j.deadline_at, j.fence, j.attempt, j.attempts_max, j.crashes, j.crashes_alone,
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

create or replace function queue.redrive(p_ids bigint[], p_args jsonb[], p_actor text, p_reason text, p_campaign_id bigint default null) returns table (id bigint, taken_by bigint, edited_fields jsonb)
    language plpgsql
    set plan_cache_mode = force_custom_plan
    as $$
declare
    this text;
    lowest bigint;
    holding bigint;
    redriven bigint[];
    awaited bigint[];
    freed text[] := '{}';
begin
    perform queue.is_bounded(l.queue, l.kind, g.args, l.args_version, l.priority, l.attempts_max, null, null, null)
    from unnest(p_ids, p_args) g (id, args)
    join queue.dead_letters l on l.id = g.id
    where g.args is not null;

    -- As whoever enqueues into several groups: in the order of their keys.
    for this in
        select distinct l.group_key from queue.dead_letters l where l.id = any(p_ids) and l.group_key is not null order by 1
    loop
        perform pg_advisory_xact_lock(hashtextextended(this, 7));
    end loop;
    perform from queue.dead_letters l where l.id = any(p_ids) order by l.id for update;

    -- A live key was freed when the job died, a kept one never. Whose owner ends meanwhile is free at the next look.
    loop
        insert into queue.unique_keys (kind, key, job_id, scope)
        select l.kind, l.unique_key, l.id, 'live'
        from queue.dead_letters l
        where l.id = any(p_ids) and l.unique_key is not null
        order by l.kind, l.unique_key, l.id
        on conflict do nothing;
        exit when not exists (
            select from queue.dead_letters l
            where l.id = any(p_ids) and l.unique_key is not null
              and not exists (select from queue.unique_keys u where u.kind = l.kind and u.key = l.unique_key)
        );
    end loop;

    return query
    select l.id, u.job_id,
           case when g.args is null then '[]' else queue.edited_fields(l.args, g.args) end
    from unnest(p_ids, p_args) g (id, args)
    join queue.dead_letters l on l.id = g.id
    left join queue.unique_keys u on u.kind = l.kind and u.key = l.unique_key and u.job_id <> l.id;

    -- Whoever waits for one of them waits for it again.
    awaited := array(
        select x.id
        from (
            select l.id from queue.dead_letters l
            where l.id = any(p_ids)
              and not exists (select from queue.unique_keys u where u.kind = l.kind and u.key = l.unique_key and u.job_id <> l.id)
            order by l.id
            offset 0
        ) x
        where queue.count_again(x.id)
    );

    with revived as (
        delete from queue.dead_letters l
        using unnest(p_ids, p_args) g (id, args)
        where l.id = g.id
          and not exists (
              select from queue.unique_keys u where u.kind = l.kind and u.key = l.unique_key and u.job_id <> l.id
          )
        returning l.*, coalesce(g.args, l.args) as new_args, g.args is not null as is_edited
    ), lined_up as (
        insert into queue.jobs as j (id, queue, kind, args_version, args, priority, run_at, rank, fence, attempts_max, unique_key, group_key,
                                     limit_key, failures, redrives, trace_context, created_at, waiting, turn, awaited, suspect)
        select r.id, r.queue, r.kind, r.args_version, r.new_args, r.priority, now.at, queue.rank(now.at, r.priority), r.fence, r.attempts_max, r.unique_key, r.group_key,
               r.limit_key, nullif(r.report -> 'attempts', '[]'),
               coalesce(r.report -> 'redrives', '[]') || jsonb_strip_nulls(jsonb_build_object(
                   'by', p_actor, 'at', clock_timestamp(), 'reason', p_reason, 'campaign_id', p_campaign_id,
                   'edited_fields', case when r.is_edited then queue.edited_fields(r.args, r.new_args) else '[]' end)),
               r.trace_context, r.created_at,
               'redriven by ' || p_actor || coalesce(' in campaign ' || p_campaign_id, ''), r.group_key is null,
               nullif(r.id = any(awaited), false), r.error_code = 'crashed_alone'
        from revived r
        cross join (select clock_timestamp() as at) now
        order by r.id
        returning j.id
    )
    select array_agg(l.id) into redriven from lined_up l;

    for this, lowest in
        select j.group_key, min(j.id) from queue.jobs j
        where j.id = any(redriven) and j.group_key is not null
        group by j.group_key order by 1
    loop
        insert into queue.turns (group_key, holder, vacant) values (this, lowest, true) on conflict do nothing;
        if not found then
            select t.holder into holding from queue.turns t where t.group_key = this for update;
            if holding <> all(redriven) then
                -- One that is being claimed this moment is locked: it has started.
                update queue.jobs j set turn = false
                where j.id = (
                    select w.id from queue.jobs w
                    where w.id = holding and w.id > lowest and w.turn and w.attempt = 0 and w.crashes = 0
                    for update skip locked
                );
                continue when not found;
            end if;
            update queue.turns t set vacant = true where t.group_key = this;
        end if;
        freed := freed || this;
    end loop;
    perform queue.pass_turns(freed);
    perform pg_notify('queue_jobs', q.name)
    from (select distinct j.queue from queue.jobs j where j.id = any(redriven)) q (name);
end $$;

-- What a limit lets in has its place in line from when it was made. A claim that begins to read elsewhere goes back to it.
drop function queue.let_in();

create function queue.let_in() returns timestamp
    language plpgsql
    set jit = off
    as $$
declare
    keys text[];
    rooms queue.room[];
    present timestamptz := clock_timestamp();
    lowest timestamp;
begin
    keys := array(
        select k.key from queue.limit_keys k where k.opens_at <= present order by k.opens_at limit 100 for update skip locked
    );
    if keys = '{}' then
        return 'infinity';
    end if;
    rooms := array(select r from queue.room(keys) r);
    with let_in as (
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
        ))
        returning j.rank
    )
    select coalesce(min(l.rank), 'infinity') into lowest from let_in l;
    update queue.limit_keys k
    set opens_at = case
            when not exists (select from queue.jobs j where j.parked and j.limit_key = k.key) then null
            when r.key is null then present
            else queue.opens_at(r, r.jobs)
        end
    from unnest(keys) w (key)
    left join unnest(rooms) r on r.key = w.key
    where k.key = w.key;
    return lowest;
end $$;

create or replace function queue.claim(p_queue text, p_kinds text[], p_versions smallint[], p_worker bigint, p_limit bigint, p_ahead interval default '0', p_suspects boolean default false, p_since timestamp default '-infinity') returns table (claim_id bigint, claimed_at timestamptz, id bigint, kind text, args_version smallint, args jsonb, fence bigint, attempt integer, attempts_max integer, deadline_at timestamptz, unique_key text, group_key text, crashes_alone integer, trace_context text, limit_key text, awaited boolean, limited boolean, rank timestamp)
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
