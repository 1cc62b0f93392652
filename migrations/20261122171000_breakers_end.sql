-- The audit is asked about one subject: limits at every start of a worker, jobs and dead letters by people.
create index audit_by_subject on queue.audit (subject, id);

-- Tells a limit that what its key depends on failed; returns until when its breaker is open, so that the job uses no try.
-- A key whose probes have failed for a week returns nothing any more: its breaker stays as it is, and each failure uses
-- a try, so that no job waits for ever.
create or replace function queue.limit_failed(p_key text, p_cause text, p_retry_after interval) returns timestamptz
language plpgsql as $$
declare
    patience constant interval := '7 days';
    l queue.limits := queue.limit_of(p_key);
    until timestamptz;
    failed_in_a_row int;
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
    returning k.open_until, k.failures into until, failed_in_a_row;
    update queue.limit_keys k set opens_at = until where k.key = p_key and k.opens_at is not null and until is not null;
    -- One probe at a time, so many probes took at least so long.
    if p_retry_after is null and (failed_in_a_row - l.breaker_failures) * make_interval(secs => l.breaker_seconds) >= patience then
        return null;
    end if;
    return until;
end $$;
