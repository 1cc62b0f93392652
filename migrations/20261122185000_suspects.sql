-- A job is a suspect only when a second worker has died over it. What depends on that:
-- a redriven job that took workers down alone is one from the start, and a job that a worker has died over has started.

create or replace function queue.redrive(
    p_ids bigint[],
    p_args jsonb[],
    p_actor text,
    p_reason text,
    p_campaign_id bigint default null
)
returns table (id bigint, taken_by bigint, edited_fields jsonb)
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
        insert into queue.jobs as j (id, queue, kind, args_version, args, priority, fence, attempts_max, unique_key, group_key,
                                     limit_key, failures, redrives, trace_context, created_at, waiting, turn, awaited, suspect)
        select r.id, r.queue, r.kind, r.args_version, r.new_args, r.priority, r.fence, r.attempts_max, r.unique_key, r.group_key,
               r.limit_key, nullif(r.report -> 'attempts', '[]'),
               coalesce(r.report -> 'redrives', '[]') || jsonb_strip_nulls(jsonb_build_object(
                   'by', p_actor, 'at', clock_timestamp(), 'reason', p_reason, 'campaign_id', p_campaign_id,
                   'edited_fields', case when r.is_edited then queue.edited_fields(r.args, r.new_args) else '[]' end)),
               r.trace_context, r.created_at,
               'redriven by ' || p_actor || coalesce(' in campaign ' || p_campaign_id, ''), r.group_key is null,
               nullif(r.id = any(awaited), false), r.error_code = 'crashed_alone'
        from revived r
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
