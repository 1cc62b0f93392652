-- Holds jobs of one claim for the rest of the transaction; returns how many of them are still the worker's.
-- In plpgsql for the same reason as queue.hold.
create function queue.hold_some(p_claim bigint, p_jobs bigint[], p_worker bigint) returns bigint
language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(1, (p_claim % 2147483647)::int);
    if not exists (select from queue.claims c where c.id = p_claim and c.worker_id = p_worker) then
        return 0;
    end if;
    return cardinality(p_jobs)
         - (select count(*) from queue.ended e where e.claim_id = p_claim and e.job_id = any(p_jobs));
end $$;
