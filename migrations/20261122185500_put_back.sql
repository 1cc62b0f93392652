-- Puts jobs back in line that somebody held, and hints to the workers of their queues, which may be asleep between two polls.
-- Suspects are not claimed by those, and looked for by all. Returns how many there are.
create function queue.put_back(p_jobs queue.jobs[]) returns bigint
language sql as $$
    select pg_notify('queue_jobs', q.name)
    from (select distinct j.queue from unnest(p_jobs) j where not j.suspect) q (name);
    select queue.line_up(p_jobs)
$$;
