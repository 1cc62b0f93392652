-- How many jobs a worker runs at once, so that whoever asks why a job waits learns that every slot is taken.
-- `pool_names` has the pool that serves each of `pools`, and each of them has `slots`, unless queue.pool_settings says otherwise.
-- A worker of a build that does not tell has neither.
alter table queue.workers
    add column slots int check (slots > 0),
    add column pool_names text[],
    add constraint workers_tell_the_pool_of_each_queue check (cardinality(pool_names) = cardinality(pools));

-- How many jobs are before one, counted up to p_max: read from the index, whatever the planner thinks of the line.
create function queue.place_in_line(p_job bigint, p_max bigint) returns bigint
    language sql stable
    set enable_seqscan to off
    set enable_bitmapscan to off
    set enable_sort to off
    set jit to off
as $$
    select count(*)
    from (
        select from queue.jobs j
        cross join lateral (
            select from queue.jobs e
            where e.queue = j.queue and e.suspect = false and e.turn and (e.rank, e.id) < (j.rank, j.id)
            order by e.rank, e.id
            limit p_max
        ) e
        where j.id = p_job
    ) e
$$;

-- The same among those that are parked for a key.
create function queue.place_parked(p_job bigint, p_key text, p_max bigint) returns bigint
    language sql stable
    set enable_seqscan to off
    set enable_bitmapscan to off
    set enable_sort to off
    set jit to off
as $$
    select count(*)
    from (
        select from queue.jobs j
        cross join lateral (
            select from queue.jobs e
            where e.parked and e.limit_key = p_key and (e.rank, e.id) < (j.rank, j.id)
            order by e.rank, e.id
            limit p_max
        ) e
        where j.id = p_job
    ) e
$$;
