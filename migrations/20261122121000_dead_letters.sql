-- Dead letters are understood by cause and redriven in campaigns: selected, checked, tried on a few, paced, and stopped where the
-- cause is not mended. A dead job may also keep its group's turn.

-- What messages of one cause have in common: ids, numbers, UUIDs and quoted texts are masked.
create function queue.message_pattern(p_message text) returns text
language sql immutable parallel safe as $$
    select left(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
        left(p_message, 2048),
        '\m[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\M', '#', 'gi'),
        -- An apostrophe inside a word quotes nothing.
        '"[^"]*"|`[^`]*`|(?<!\w)''[^'']*''(?!\w)', '"#"', 'g'),
        '\m\w*\d\w*\M', '#', 'g'),
        '#(?:(?:[-+.:/]|, ?)#)+', '#', 'g'),
        '\s+', ' ', 'g'), 500)
$$;

-- The name of a cause: the same wherever and whenever it is met.
create function queue.cause(p_kind text, p_error_class text, p_error_code text, p_message text) returns text
language sql immutable parallel safe as $$
    select left(md5(p_kind || e'\n' || p_error_class || e'\n' || p_error_code || e'\n' || queue.message_pattern(p_message)), 12)
$$;

alter table queue.dead_letters
    add column pattern text generated always as (queue.message_pattern(message)) stored,
    add column cause text generated always as (queue.cause(kind, error_class, error_code, message)) stored;
-- Counting the letters of each cause reads this index only.
create index dead_letters_of_cause on queue.dead_letters (cause, id) include (dead_at);

-- The fields that an edit adds, changes or takes away.
create function queue.edited_fields(p_before jsonb, p_after jsonb) returns jsonb
language sql immutable parallel safe as $$
    select coalesce(jsonb_agg(coalesce(b.key, a.key) order by coalesce(b.key, a.key)), '[]')
    from jsonb_each(case when jsonb_typeof(p_before) = 'object' then p_before else '{}' end) b
    full join jsonb_each(case when jsonb_typeof(p_after) = 'object' then p_after else '{}' end) a on a.key = b.key
    where a.value is distinct from b.value
$$;

-- Makes dead letters jobs again, in the caller's transaction: with their ids, keys, fences and stories, and with all their
-- attempts. p_args holds a payload to run with instead, or null, for each. Returns those that were there; a letter whose
-- unique key another job has taken stays dead and says whose. Of a group, the lowest of those that wait and were not tried
-- has its turn, so a redriven job goes before everything younger that has not started.
create function queue.redrive(
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
                                     limit_key, failures, redrives, trace_context, created_at, waiting, turn, awaited)
        select r.id, r.queue, r.kind, r.args_version, r.new_args, r.priority, r.fence, r.attempts_max, r.unique_key, r.group_key,
               r.limit_key, nullif(r.report -> 'attempts', '[]'),
               coalesce(r.report -> 'redrives', '[]') || jsonb_strip_nulls(jsonb_build_object(
                   'by', p_actor, 'at', clock_timestamp(), 'reason', p_reason, 'campaign_id', p_campaign_id,
                   'edited_fields', case when r.is_edited then queue.edited_fields(r.args, r.new_args) else '[]' end)),
               r.trace_context, r.created_at,
               'redriven by ' || p_actor || coalesce(' in campaign ' || p_campaign_id, ''), r.group_key is null,
               nullif(r.id = any(awaited), false)
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
                    where w.id = holding and w.id > lowest and w.turn and w.attempt = 0 and not w.suspect
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

-- A redrive in bulk: frozen when it starts, and carried on by whatever worker looks first. Every round is one transaction under
-- the lock of its row, so a runner may be killed at any moment and nothing is redriven twice.
create table queue.campaigns (
    id bigint generated always as identity primary key,
    state text not null default 'running' check (state in ('running', 'paused', 'halted', 'cancelled', 'finished')),
    -- Why it is in that state, and who brought it there; null while it is the campaign itself.
    state_reason text,
    state_actor text,
    actor text not null,
    reason text not null,
    selection jsonb not null,
    -- A merge patch (RFC 7386) of the payloads.
    patch jsonb,
    -- How many letters of each cause are tried first.
    canary int not null check (canary between 1 and 1000),
    -- A larger share of dead ones halts a cause: of its canary, later of its last failure_window jobs that ended.
    failure_share float8 not null check (failure_share >= 0 and failure_share < 1),
    failure_window int not null check (failure_window between 1 and 10000),
    per_second float8 not null check (per_second >= 0.01 and per_second <= 10000),
    in_flight_max int not null check (in_flight_max between 1 and 10000),
    -- The pace is kept up to here.
    paced_at timestamptz not null default clock_timestamp(),
    -- When a letter was last redriven or settled, and before when nobody needs to look again.
    moved_at timestamptz not null default clock_timestamp(),
    look_at timestamptz not null default clock_timestamp(),
    created_at timestamptz not null default clock_timestamp(),
    -- Nothing of it is in flight any more, and it does nothing unless it is resumed.
    ended_at timestamptz
);
create index campaigns_open on queue.campaigns (look_at) where ended_at is null;

-- A campaign's letters of one cause: each cause has a canary of its own, and is halted alone.
create table queue.campaign_causes (
    campaign_id bigint not null references queue.campaigns on delete cascade,
    cause text not null,
    kind text not null,
    error_class text not null,
    error_code text not null,
    pattern text not null,
    state text not null default 'canary' check (state in ('canary', 'released', 'halted', 'finished')),
    halted_because text,
    -- What was redriven earlier says nothing: the campaign was resumed since.
    begun_at timestamptz not null default clock_timestamp(),
    -- How many letters its canary may still redrive.
    canary_left int not null check (canary_left >= 0),
    waiting int not null default 0 check (waiting >= 0),
    in_flight int not null default 0 check (in_flight >= 0),
    completed int not null default 0,
    died int not null default 0,
    -- Discarded or cancelled.
    given_up int not null default 0,
    skipped int not null default 0,
    primary key (campaign_id, cause)
);

create table queue.campaign_letters (
    campaign_id bigint not null references queue.campaigns on delete cascade,
    job_id bigint not null,
    cause text not null,
    group_key text,
    -- Of the letter that was selected: one that ran and died again is another.
    fence bigint not null,
    -- The payload as it was and as it is to be, where the patch changes it.
    args_before jsonb,
    args jsonb,
    state text not null default 'waiting'
        check (state in ('waiting', 'redriven', 'completed', 'died', 'discarded', 'cancelled', 'skipped')),
    skipped_because text,
    -- The cause that it died of again.
    died_of text,
    redriven_at timestamptz,
    ended_at timestamptz,
    primary key (campaign_id, job_id)
)
-- Each is updated twice, in place.
with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
create index campaign_letters_waiting on queue.campaign_letters (campaign_id, cause, job_id) where state = 'waiting';
create index campaign_letters_waiting_in_group on queue.campaign_letters (campaign_id, group_key, job_id)
    where state = 'waiting' and group_key is not null;
create index campaign_letters_in_flight on queue.campaign_letters (campaign_id, job_id) where state = 'redriven';
create index campaign_letters_skipped on queue.campaign_letters (campaign_id, job_id) where state = 'skipped';
create index campaign_letters_redriven on queue.campaign_letters (campaign_id, cause, redriven_at) where redriven_at is not null;
create index campaign_letters_ended on queue.campaign_letters (campaign_id, cause, ended_at)
    where ended_at is not null and redriven_at is not null;
