-- How deep each queue is and how fast it moves, counted once for the whole fleet.

create table queue.measures (
    at timestamptz not null,
    queue text not null,
    available bigint not null,
    scheduled bigint not null,
    retryable bigint not null,
    running bigint not null,
    dead bigint not null,
    oldest_due_seconds double precision,
    -- Jobs that the history received since the measure before.
    ended bigint not null,
    -- How long the measure took.
    took interval,
    primary key (at, queue)
)
with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Every queue that has jobs, dead letters, a worker or a pause. Reads the whole line.
create function queue.count_jobs() returns table (
    queue text, available bigint, scheduled bigint, retryable bigint, running bigint, dead bigint,
    oldest_due_seconds double precision
)
language sql as $$
    with live as (
        select j.queue as name,
               count(*) filter (where j.run_at <= clock_timestamp()) as available,
               count(*) filter (where j.run_at > clock_timestamp() and j.failures is null) as scheduled,
               count(*) filter (where j.run_at > clock_timestamp() and j.failures is not null) as retryable,
               extract(epoch from clock_timestamp() - min(j.run_at)
                   filter (where j.run_at <= clock_timestamp()))::double precision as oldest_due_seconds
        from queue.jobs j group by j.queue
    ), held as (
        select c.queue as name,
               sum(c.size - (select count(*) from queue.ended e where e.claim_id = c.id))::bigint as running
        from queue.claims c group by c.queue
    ), dead as (
        select d.queue as name, count(*) as dead from queue.dead_letters d group by d.queue
    ), names as (
        select l.name from live l union select h.name from held h union select d.name from dead d
        union select unnest(w.pools) from queue.workers w
        union select p.name from queue.pauses p where p.target = 'queue'
    )
    select n.name, coalesce(l.available, 0), coalesce(l.scheduled, 0), coalesce(l.retryable, 0), coalesce(h.running, 0),
           coalesce(d.dead, 0), l.oldest_due_seconds
    from names n
    left join live l using (name)
    left join held h using (name)
    left join dead d using (name)
$$;

-- Measures, unless somebody does or did within p_every; whether it did. It takes at most a fiftieth of the time: where counting
-- takes a second, it is done every fifty. What ends is counted a second late, when whoever ended it has committed.
create function queue.measure(p_every interval default '5 seconds') returns boolean
language plpgsql as $$
declare
    started timestamptz := clock_timestamp();
    before timestamptz;
begin
    if exists (select from queue.measures m
               where m.at > started - interval '10 minutes' and m.at + greatest(p_every, m.took * 50) > started)
       or not pg_try_advisory_xact_lock(hashtext('queue.measure')) then
        return false;
    end if;
    -- Whoever had the lock before has committed: it is seen only now.
    if exists (select from queue.measures m
               where m.at > started - interval '10 minutes' and m.at + greatest(p_every, m.took * 50) > started) then
        return false;
    end if;
    select max(m.at) into before from queue.measures m where m.at > started - interval '5 minutes';
    insert into queue.measures (at, queue, available, scheduled, retryable, running, dead, oldest_due_seconds, ended)
    select started, c.queue, c.available, c.scheduled, c.retryable, c.running, c.dead, c.oldest_due_seconds,
           coalesce(e.ended, 0)
    from queue.count_jobs() c
    left join (
        select f.queue, count(*) as ended
        from queue.finished_jobs f
        where f.kind = any(array(select distinct unnest(w.kinds) from queue.workers w))
          and f.finished_at > before - interval '1 second' and f.finished_at <= started - interval '1 second'
        group by f.queue
    ) e using (queue);
    update queue.measures m set took = clock_timestamp() - started where m.at = started;
    delete from queue.measures m where m.at < started - interval '10 minutes';
    return true;
end $$;

-- The last measure of each queue, and how fast it moved in the minute before: null while there is only one measure.
-- To drain: what is due, at the speed at which jobs ended; a day when none did.
create view queue.rates as
with last as (
    select max(m.at) as at from queue.measures m
), span as (
    select l.at as last_at, f.at as first_at, nullif(extract(epoch from l.at - f.at), 0)::double precision as seconds
    from last l
    cross join lateral (
        select coalesce(max(m.at) filter (where m.at <= l.at - interval '1 minute'), min(m.at)) as at
        from queue.measures m where m.at > l.at - interval '5 minutes'
    ) f
), moved as (
    select m.queue, s.seconds, sum(m.ended) filter (where m.at > s.first_at) as ended,
           sum(m.available + m.scheduled + m.retryable + m.running + m.dead) filter (where m.at = s.last_at)
           - coalesce(sum(m.available + m.scheduled + m.retryable + m.running + m.dead) filter (where m.at = s.first_at), 0)
               as grown
    from queue.measures m
    cross join span s
    where m.at >= s.first_at
    group by m.queue, s.seconds
), speeds as (
    select v.queue, (v.ended / v.seconds)::double precision as completed_per_second,
           (greatest(v.grown + v.ended, 0) / v.seconds)::double precision as arrived_per_second
    from moved v
)
select m.queue, m.at, m.available, m.scheduled, m.retryable, m.running, m.dead, m.oldest_due_seconds,
       v.completed_per_second, v.arrived_per_second,
       case
           when m.available = 0 then 0
           when v.completed_per_second > 0 then least(m.available / v.completed_per_second, 86400)
           when v.completed_per_second = 0 then 86400
       end::double precision as drain_seconds
from last l
join queue.measures m on m.at = l.at
left join speeds v on v.queue = m.queue;
