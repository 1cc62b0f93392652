-- The timetable: what overlaps, what an operator changed, which build's list is in force, and what became of each tick.

alter table queue.schedules
    -- What a tick does while an earlier run of its entry has not ended.
    add column overlap text not null default 'allow' check (overlap in ('allow', 'skip', 'queue_one')),
    -- A job starts up to so much after its tick, at random.
    add column jitter_seconds int not null default 0 check (jitter_seconds between 0 and 3600),
    add column group_key text check (length(group_key) <= 300),
    -- Who listed it: a build, which may take it off again, or an operator, whom no build contradicts.
    add column origin text not null default 'build' check (origin in ('build', 'operator')),
    -- Since when no list in force has it. It is remembered with its override, and fires nothing.
    add column retired_at timestamptz,
    -- The next tick; null when that has to be worked out. Looking for what is due reads nothing else.
    add column next_at timestamptz,
    add column pause_reason text,
    add column paused_by text,
    add column paused_at timestamptz,
    add constraint schedule_names_are_short check (name <> '' and length(name) <= 100),
    add constraint schedule_args_are_small check (pg_column_size(args) <= 65536);

-- A row is what an operator changed of a build's entry; null is as the build has it. No deploy touches it.
create table queue.schedule_overrides (
    name text primary key references queue.schedules on delete cascade,
    cron text,
    time_zone text,
    missed text check (missed in ('skip', 'once', 'all')),
    overlap text check (overlap in ('allow', 'skip', 'queue_one')),
    jitter_seconds int check (jitter_seconds between 0 and 3600),
    reason text not null,
    actor text not null,
    changed_at timestamptz not null default clock_timestamp()
);

-- The lists that running workers carry. The one in force is the youngest of those still listed.
create table queue.timetables (
    digest text primary key,
    first_listed_at timestamptz not null default clock_timestamp(),
    listed_at timestamptz not null default clock_timestamp()
);

alter table queue.ticks
    add column outcome text not null default 'fired' check (outcome in ('fired', 'skipped', 'missed')),
    add column reason text,
    -- How many ticks the row stands for, itself included: those that nobody was there for share one.
    add column ticks int not null default 1 check (ticks > 0);

create index ticks_with_jobs on queue.ticks (name, tick_at desc) where job_id is not null;

-- The timetable as it is in force.
create view queue.timetable as
select s.name, s.kind, s.queue, s.args, s.args_version, s.unique_key, s.group_key, s.priority, s.attempts_max, s.origin,
       coalesce(o.cron, s.cron) as cron,
       coalesce(o.time_zone, s.time_zone) as time_zone,
       coalesce(o.missed, s.missed) as missed,
       coalesce(o.overlap, s.overlap) as overlap,
       coalesce(o.jitter_seconds, s.jitter_seconds) as jitter_seconds,
       s.paused, s.pause_reason, s.paused_by, s.paused_at, s.settled_at
from queue.schedules s
left join queue.schedule_overrides o on o.name = s.name
where s.retired_at is null;

-- Fires one tick of an entry, unless it was decided already (then the outcome is null); says what became of it.
-- The row of the tick is the single fire: whoever inserts it enqueues the job, in the same transaction.
create function queue.fire(p_name text, p_tick_at timestamptz, p_reason text default null,
                           out outcome text, out job_id bigint, out reason text)
language plpgsql as $$
declare
    entry queue.timetable%rowtype;
    -- An earlier run is looked for among the last hundred jobs of the entry.
    blocker bigint;
    made record;
begin
    select * into entry from queue.timetable t where t.name = p_name;
    if not found then
        return;
    end if;
    insert into queue.ticks (name, tick_at, reason) values (p_name, p_tick_at, p_reason) on conflict do nothing;
    if not found then
        return;
    end if;
    outcome := 'fired';
    reason := p_reason;

    if entry.overlap <> 'allow' then
        with recent as (
            select t.job_id as id from queue.ticks t
            where t.name = p_name and t.job_id is not null
            order by t.tick_at desc limit 100
        )
        select r.id into blocker from recent r
        where exists (select from queue.jobs j where j.id = r.id)
           or entry.overlap = 'skip' and r.id = any(array(select j.id from queue.running_jobs j))
        order by r.id limit 1;
        if blocker is not null then
            outcome := 'skipped';
            reason := format(case entry.overlap when 'skip' then 'job %s of an earlier tick has not ended'
                                                else 'job %s of an earlier tick still waits' end, blocker);
        end if;
    end if;
    if outcome = 'fired' then
        select e.job_id as id, e.is_new into made
        from queue.enqueue(
            entry.queue, entry.kind, entry.args,
            case when entry.jitter_seconds > 0
                 then clock_timestamp() + random() * make_interval(secs => entry.jitter_seconds) end,
            entry.unique_key, 'live',
            -- Who waits behind a run waits for its turn.
            case entry.overlap when 'queue_one' then coalesce(entry.group_key, 'timetable:' || entry.name)
                               else entry.group_key end,
            entry.priority::int, entry.attempts_max, null, entry.args_version::int) e;
        if made.is_new then
            job_id := made.id;
        else
            outcome := 'skipped';
            reason := format('job %s has its unique key %s and has not ended', made.id, entry.unique_key);
        end if;
    end if;
    update queue.ticks t set outcome = fire.outcome, job_id = fire.job_id, reason = fire.reason
    where t.name = p_name and t.tick_at = p_tick_at;
end $$;
