-- Jobs that wait for others (fan-in): a waiter is out of line until every one of its members has ended.

create table queue.waiters (
    job_id bigint primary key,
    -- What becomes of it when a member did not complete: it runs all the same, or is buried.
    on_failure text not null check (on_failure in ('run', 'bury')),
    -- Members that have not ended. At 0 the waiter is released, and what it was told stays as it is.
    pending int not null check (pending >= 0),
    -- Members that died, were discarded or were cancelled.
    failed int not null default 0 check (failed >= 0),
    -- From its release to its deadline.
    deadline_after interval
)
-- Each end of a member updates the row: there is room for that on its page.
with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
      autovacuum_vacuum_cost_delay = 0);

-- What a waiter waits for: the truth. The mark `awaited` of a member only makes its end known at once.
create table queue.waiter_members (
    waiter_id bigint not null,
    member_id bigint not null,
    -- Whether the member has the mark. What was in flight or locked has not: a sweep looks after it.
    marked boolean not null,
    -- How the member ended; null while it has not. Forgotten: its kind leaves no trace, or the trace was dropped.
    outcome text check (outcome in ('completed', 'discarded', 'cancelled', 'dead', 'forgotten')),
    primary key (waiter_id, member_id),
    -- A job waits only for jobs that were there before it, so nothing can wait in a circle.
    constraint waiters_come_after_their_members check (member_id < waiter_id)
)
with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
      autovacuum_vacuum_cost_delay = 0);
create index waiter_members_pending on queue.waiter_members (member_id) where outcome is null;
create index waiter_members_dead on queue.waiter_members (member_id) where outcome = 'dead';
create index waiter_members_unmarked on queue.waiter_members (member_id) where outcome is null and not marked;

-- Puts a waiter in line whose members have all ended: its waiting, its place and its deadline count from now.
create function queue.release_waiter(p_waiter bigint) returns void
language plpgsql as $$
declare
    line text;
begin
    update queue.jobs j
    set turn = true, run_at = clock_timestamp(), deadline_at = clock_timestamp() + w.deadline_after,
        waiting = case
            when w.failed = 0 then 'every job it waited for has ended'
            else w.failed || ' of the jobs it waited for did not complete'
        end
    from queue.waiters w
    where j.id = p_waiter and w.job_id = p_waiter
    returning j.queue into line;
    if found then
        perform pg_notify('queue_jobs', line);
    end if;
end $$;

-- These jobs end in this transaction, so: tells whoever waits for them, moves their sagas, and forgets what they waited for
-- themselves, unless they are dead and may come back. Waiters are locked first, in their order, so that no two ends wait in a circle.
create function queue.tell_waiters(p_jobs bigint[], p_outcomes text[]) returns void
language plpgsql as $$
declare
    this record;
begin
    perform from queue.waiters w
    where w.job_id = any(p_jobs)
       or w.job_id in (select m.waiter_id from queue.waiter_members m
                       where m.member_id = any(p_jobs) and m.outcome is null)
    order by w.job_id
    for update;

    for this in
        with told as (
            update queue.waiter_members m
            set outcome = e.outcome
            from unnest(p_jobs, p_outcomes) e (id, outcome)
            where m.member_id = e.id and m.outcome is null
            returning m.waiter_id, m.outcome
        )
        select t.waiter_id, count(*) as ended,
               count(*) filter (where t.outcome in ('discarded', 'cancelled', 'dead')) as failed
        from told t group by t.waiter_id order by t.waiter_id
    loop
        update queue.waiters w
        set pending = w.pending - this.ended, failed = w.failed + this.failed
        where w.job_id = this.waiter_id;
        perform queue.release_waiter(w.job_id) from queue.waiters w where w.job_id = this.waiter_id and w.pending = 0;
    end loop;

    with over as (
        delete from queue.waiters w
        using unnest(p_jobs, p_outcomes) e (id, outcome)
        where w.job_id = e.id and e.outcome <> 'dead'
        returning w.job_id
    )
    delete from queue.waiter_members m using over o where m.waiter_id = o.job_id;
    perform queue.move_sagas(p_jobs, p_outcomes);
end $$;

-- A dead job comes back: as a member it counts again for those who still wait for others, and for nobody else; as a compensation
-- it goes on where its saga stopped. A step whose saga has turned back is refused. Returns whether the job must have the mark.
create function queue.count_again(p_job bigint) returns boolean
language plpgsql as $$
declare
    of_saga bigint;
begin
    if exists (select from queue.saga_jobs m where m.job_id = p_job and not m.undo) then
        raise exception 'job % is a step of a saga that has turned back', p_job
            using errcode = 'object_not_in_prerequisite_state', constraint = 'sagas_do_not_turn_again';
    end if;
    perform from queue.waiters w
    where w.pending > 0
      and w.job_id in (select m.waiter_id from queue.waiter_members m where m.member_id = p_job and m.outcome = 'dead')
    order by w.job_id
    for update;
    with again as (
        update queue.waiter_members m
        set outcome = null, marked = true
        from queue.waiters w
        where m.member_id = p_job and m.outcome = 'dead' and w.job_id = m.waiter_id and w.pending > 0
        returning m.waiter_id
    )
    update queue.waiters w
    set pending = w.pending + 1, failed = w.failed - 1
    from again a
    where w.job_id = a.waiter_id;
    select m.saga_id into of_saga from queue.saga_jobs m where m.job_id = p_job;
    perform from queue.sagas s where s.id = of_saga for update;
    update queue.saga_jobs m set outcome = null where m.job_id = p_job and m.outcome = 'dead';
    update queue.sagas s set state = 'compensating', ended_at = null where s.id = of_saga;
    -- Whoever redrives a waiter means it to run.
    update queue.waiters w set on_failure = 'run' where w.job_id = p_job;
    return found or of_saga is not null or exists (select from queue.waiter_members m where m.member_id = p_job and m.outcome is null);
end $$;

-- How those of the jobs ended that have.
create function queue.how_ended(p_jobs bigint[]) returns table (id bigint, outcome text)
language sql stable as $$
    with live as materialized (
        select j.id from queue.jobs j where j.id = any(p_jobs)
        union all
        select j.id
        from queue.claims c
        cross join unnest(c.jobs) j
        where not exists (select from queue.ended e where e.claim_id = c.id and e.job_id = j.id)
    ), gone as materialized (
        select g.id from unnest(p_jobs) g (id)
        except
        select l.id from live l
    )
    select g.id,
           coalesce((select 'dead' from queue.dead_letters d where d.id = g.id),
                    (select f.state from queue.finished_jobs f where f.id = g.id limit 1),
                    'forgotten')
    from gone g
$$;

-- Looks after the members without the mark: marks those that are in line, and tells of those that have ended. With p_all also
-- after the others and the jobs of sagas, in case a worker of an earlier build, which tells nobody, has ended one. Returns how many had ended.
create function queue.sweep_waiters(p_all boolean default false) returns bigint
language plpgsql as $$
declare
    looked_at bigint[];
    in_line bigint[];
    gone bigint[];
    outcomes text[];
begin
    if p_all then
        looked_at := array(select m.member_id from queue.waiter_members m where m.outcome is null
                           union
                           select j.job_id
                           from queue.sagas s
                           join queue.saga_jobs j on j.saga_id = s.id
                           where s.state in ('running', 'compensating') and j.job_id is not null and j.outcome is null);
    else
        looked_at := array(select distinct m.member_id from queue.waiter_members m where m.outcome is null and not m.marked);
    end if;
    if cardinality(looked_at) = 0 then
        return 0;
    end if;
    select array_agg(e.id), array_agg(e.outcome) into gone, outcomes from queue.how_ended(looked_at) e;
    if gone is not null then
        perform queue.tell_waiters(gone, outcomes);
    end if;
    in_line := array(select j.id from queue.jobs j where j.id = any(looked_at) for no key update skip locked);
    update queue.jobs j set awaited = true where j.id = any(in_line) and j.awaited is distinct from true;
    update queue.waiter_members m set marked = true
    where m.member_id = any(in_line) and m.outcome is null and not m.marked;
    return coalesce(cardinality(gone), 0);
end $$;

-- Enqueues a job that is due when all of p_members have ended, in the caller's transaction. Members are jobs that are
-- committed or were enqueued by this transaction. p_deadline_after counts from the release. It takes no group: the turn of a
-- group is given when a job is enqueued, and this one may wait for long.
create function queue.enqueue_after_all(
    p_members bigint[],
    p_queue text,
    p_kind text,
    p_args jsonb,
    p_on_failure text default 'run',
    p_unique_key text default null,
    p_unique_scope text default 'kept',
    p_priority int default 0,
    p_attempts_max int default 20,
    p_deadline_after interval default null,
    p_args_version int default 1,
    p_trace_context text default null,
    p_limit_key text default null,
    out job_id bigint,
    out is_new boolean
)
language plpgsql as $$
declare
    members bigint[] := array(select distinct m from unnest(p_members) m where m is not null order by 1);
    last_given bigint;
    marked bigint[];
    waits_for int;
    waiter bigint;
begin
    if cardinality(members) > 10000 then
        raise exception 'a job waits for at most 10000 others, not %', cardinality(members)
            using errcode = 'check_violation', constraint = 'waiters_have_at_most_10000_members';
    end if;
    select s.last_value into last_given from queue.jobs_id_seq s;
    if members[1] < 1 or members[cardinality(members)] > last_given then
        raise exception 'there is no job %', case when members[1] < 1 then members[1] else members[cardinality(members)] end
            using errcode = 'foreign_key_violation', constraint = 'members_are_jobs';
    end if;

    -- Not due until it is released: it has no turn, and the last day there is says so to whoever only looks at run_at.
    select e.job_id, e.is_new into job_id, is_new
    from queue.enqueue(p_queue => p_queue, p_kind => p_kind, p_args => p_args, p_run_at => '9999-12-31 00:00:00+00',
                       p_unique_key => p_unique_key, p_unique_scope => p_unique_scope, p_priority => p_priority,
                       p_attempts_max => p_attempts_max, p_args_version => p_args_version,
                       p_trace_context => p_trace_context, p_limit_key => p_limit_key) e;
    if not is_new then
        return;
    end if;

    waiter := job_id;

    -- A member that is locked here cannot be claimed, let alone end, before its waiter is committed. What somebody else has
    -- locked is left to the sweep, so that nobody waits for anybody.
    marked := array(select j.id from queue.jobs j where j.id = any(members) for no key update skip locked);
    update queue.jobs j set awaited = true where j.id = any(marked) and j.awaited is distinct from true;
    insert into queue.waiter_members (waiter_id, member_id, marked, outcome)
    select waiter, m.id, k.id is not null, e.outcome
    from unnest(members) m (id)
    left join unnest(marked) k (id) on k.id = m.id
    left join queue.how_ended(members) e on e.id = m.id;
    insert into queue.waiters (job_id, on_failure, pending, failed, deadline_after)
    select waiter, p_on_failure, count(*) filter (where m.outcome is null),
           count(*) filter (where m.outcome in ('discarded', 'cancelled', 'dead')), p_deadline_after
    from queue.waiter_members m where m.waiter_id = waiter
    returning pending into waits_for;
    update queue.jobs j
    set turn = false, awaited = true, waiting = 'it waits for ' || waits_for || ' jobs'
    where j.id = waiter;
    if waits_for = 0 then
        perform queue.release_waiter(waiter);
    end if;
end $$;
