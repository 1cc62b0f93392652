-- A worker that stood still while it settled a job (a retry, a snooze, a hand-back) held the row of its claim and no lock that says
-- so: the rescuer waited for that row, and with it everything that was to be rescued. Now it is seen and its session is ended.

create or replace function queue.take(p_claim bigint, p_job bigint, p_worker bigint) returns table (claimed_at timestamptz, job queue.jobs) language plpgsql as $$
begin
    -- Whoever takes the claim back sees by this lock that somebody is at it, and does not wait for the row.
    perform pg_advisory_xact_lock_shared(1, (p_claim % 2147483647)::int);
    return query
    with whole as (
        delete from queue.claims c
        where c.id = p_claim and c.worker_id = p_worker and c.size = 1 and (c.jobs[1]).id = p_job
        returning c.claimed_at, c.jobs
    )
    select w.claimed_at, w.jobs[1] from whole w;
    if found then
        delete from queue.progress p where p.claim_id = p_claim;
        return;
    end if;
    if not queue.hold(p_claim, p_job, p_worker) then
        return;
    end if;
    return query
    with taken as (
        insert into queue.ended as e (claim_id, job_id) values (p_claim, p_job) on conflict do nothing returning e.claim_id
    )
    select c.claimed_at, j
    from taken t
    join queue.claims c on c.id = t.claim_id
    cross join unnest(c.jobs) j
    where j.id = p_job;
end $$;
