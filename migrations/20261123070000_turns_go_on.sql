-- A worker that completes a job of a group goes on with the next of the group, in the same transaction: that one's row is not
-- rewritten to have its turn, only to be claimed from the line at once. See docs/adr/0016.

-- Who waits for a turn has a higher number than who has it, unless it was redriven: then the turns say so, and the next one is
-- looked for from the beginning of the group. Otherwise it is looked for behind the holder, past nothing that has left: how many
-- have, and whether somebody holds an old snapshot, is the same to it.
alter table queue.turns add column passed_over boolean not null default true;
alter table queue.turns alter column passed_over set default false;

-- Gives the turn of each of these groups to the next of it, and returns those who have it now. Their rows do not say so yet: the
-- caller sees to that, in the same transaction.
create function queue.give_turns(p_groups text[], p_holders bigint[] default '{}') returns bigint[]
    language plpgsql
    set enable_seqscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
    set jit = off
    set plan_cache_mode = force_generic_plan
    as $$
declare
    these text[];
    turned bigint[];
    this text;
    next bigint;
begin
    -- Those who wait are committed, and whoever is still enqueueing has a higher number. Whoever else passes this turn on at the
    -- same moment finds another holder when it has the row.
    with first as materialized (
        select g.group_key, g.holders, g.holder, n.id
        from (
            select u.group_key, array_agg(u.holder) as holders, min(u.holder) as holder
            from unnest(p_groups, p_holders) u (group_key, holder)
            group by u.group_key order by u.group_key
        ) g
        left join lateral (
            select j.id from queue.jobs j
            where j.group_key = g.group_key and not j.turn
              and j.id > coalesce(g.holder, 0)
            order by j.id limit 1
        ) n on true
    ), passed as (
        update queue.turns t
        set holder = case when n.id is null or n.holder is not null and (t.vacant or t.passed_over) then t.holder else n.id end,
            vacant = n.id is null or n.holder is not null and (t.vacant or t.passed_over),
            passed_over = t.passed_over and (n.id is null or n.holder is not null)
        from first n
        where t.group_key = n.group_key and (t.vacant or t.holder = any(n.holders))
        returning t.group_key, case when not t.vacant then t.holder end as id
    )
    select coalesce(array_agg(p.id) filter (where p.id is not null), '{}'),
           array_agg(p.group_key order by p.group_key) filter (where p.id is null)
    into turned, these
    from passed p;
    foreach this in array coalesce(these, '{}') loop
        select j.id into next from queue.jobs j
        where j.group_key = this and not j.turn
        order by j.id limit 1;
        if next is null and pg_try_advisory_xact_lock(hashtextextended(this, 7)) then
            -- Nobody is enqueueing now: what there is to be seen can be seen.
            select j.id into next from queue.jobs j
            where j.group_key = this and not j.turn
            order by j.id limit 1;
            if next is null then
                delete from queue.turns t where t.group_key = this;
                continue;
            end if;
        end if;
        if next is not null then
            update queue.turns t set holder = next, vacant = false, passed_over = false where t.group_key = this;
            turned := turned || next;
        end if;
    end loop;
    return turned;
end $$;

create or replace function queue.pass_turns(p_groups text[], p_holders bigint[] default '{}') returns void
    language plpgsql
    set enable_seqscan = off
    set jit = off
    set plan_cache_mode = force_generic_plan
    as $$
declare
    turned bigint[] := queue.give_turns(p_groups, p_holders);
begin
    update queue.jobs j set turn = true where j.id = any(turned);
end $$;

drop function queue.claim(text, text[], smallint[], bigint, bigint, interval, boolean, timestamp);

create function queue.claim(p_queue text, p_kinds text[], p_versions smallint[], p_worker bigint, p_limit bigint, p_ahead interval default '0', p_suspects boolean default false, p_since timestamp default '-infinity', p_turned bigint[] default null) returns table (claim_id bigint, claimed_at timestamptz, id bigint, kind text, args_version smallint, args jsonb, fence bigint, attempt integer, attempts_max integer, deadline_at timestamptz, unique_key text, group_key text, crashes_alone integer, trace_context text, limit_key text, awaited boolean, limited boolean, rank timestamp)
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
    else
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
    end if;
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

-- What was claimed had its turn, also when its row did not say so.
create or replace function queue.line_up(p_jobs queue.jobs[]) returns bigint
    language sql
    as $$
    with lined_up as (
        insert into queue.jobs (id, run_at, rank, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
                                args_version, priority, suspect, turn, queue, kind, args, unique_key, group_key, trace_context,
                                waiting, failures, redrives, limit_key, awaited)
        select id, run_at, queue.rank(run_at, priority), created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
               args_version, priority, suspect, true, queue, kind, args, unique_key, group_key, trace_context,
               waiting, failures, redrives, limit_key, awaited
        from unnest(p_jobs)
        returning id
    )
    select count(*) from lined_up
$$;

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
                if not found then
                    update queue.turns t set passed_over = true where t.group_key = this and t.holder > lowest;
                    continue;
                end if;
            end if;
            update queue.turns t set vacant = true where t.group_key = this;
        end if;
        freed := freed || this;
    end loop;
    perform queue.pass_turns(freed);
    perform pg_notify('queue_jobs', q.name)
    from (select distinct j.queue from queue.jobs j where j.id = any(redriven)) q (name);
end $$;
