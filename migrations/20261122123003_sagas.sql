-- Steps that are undone in reverse when a later one fails.

create table queue.sagas (
    id bigint generated always as identity primary key,
    name text not null check (name <> '' and length(name) <= 100),
    -- What it is about: one saga for each name and key, ever.
    key text not null check (length(key) <= 300),
    state text not null default 'running'
        check (state in ('running', 'compensating', 'completed', 'compensated', 'compensation_failed')),
    -- The step that did not complete.
    failed_step int,
    created_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    constraint a_saga_is_known_by_its_key unique (name, key)
);
create index sagas_ended on queue.sagas (ended_at) where ended_at is not null;
create index sagas_in_progress on queue.sagas (id) where state in ('running', 'compensating');

-- The job of a step, and the one that undoes it, from the moment when the saga begins; they are enqueued when their turn comes.
create table queue.saga_jobs (
    id bigint generated always as identity primary key,
    saga_id bigint not null references queue.sagas on delete cascade,
    step int not null check (step between 1 and 100),
    undo boolean not null,
    queue text not null,
    kind text not null,
    args_version smallint not null,
    args jsonb not null constraint saga_job_args_are_small check (pg_column_size(args) <= 65536),
    priority smallint not null,
    attempts_max int not null,
    deadline_after interval,
    -- Null until it is enqueued.
    job_id bigint,
    -- How it ended; null until it has.
    outcome text,
    unique (saga_id, step, undo)
);
create index saga_jobs_by_job on queue.saga_jobs (job_id) where job_id is not null;

create function queue.enqueue_saga_job(p_id bigint) returns void
language plpgsql as $$
declare
    this queue.saga_jobs;
    enqueued bigint;
begin
    select * into this from queue.saga_jobs s where s.id = p_id;
    select e.job_id into enqueued
    from queue.enqueue(p_queue => this.queue, p_kind => this.kind, p_args => this.args, p_priority => this.priority::int,
                       p_attempts_max => this.attempts_max, p_deadline_at => clock_timestamp() + this.deadline_after,
                       p_args_version => this.args_version::int) e;
    update queue.jobs j set awaited = true where j.id = enqueued;
    update queue.saga_jobs s set job_id = enqueued where s.id = p_id;
end $$;

-- Enqueues the compensation of the latest step that completed and is not undone, or ends the saga when there is none.
create function queue.compensate(p_saga bigint) returns void
language plpgsql as $$
declare
    next bigint;
begin
    select u.id into next
    from queue.saga_jobs u
    join queue.saga_jobs s on s.saga_id = u.saga_id and s.step = u.step and not s.undo
    where u.saga_id = p_saga and u.undo and u.job_id is null and s.outcome in ('completed', 'forgotten')
    order by u.step desc
    limit 1;
    if next is not null then
        update queue.sagas s set state = 'compensating', ended_at = null where s.id = p_saga;
        perform queue.enqueue_saga_job(next);
    else
        update queue.sagas s
        set ended_at = clock_timestamp(),
            state = case
                when exists (select from queue.saga_jobs u
                             where u.saga_id = p_saga and u.undo and u.outcome not in ('completed', 'forgotten'))
                then 'compensation_failed' else 'compensated'
            end
        where s.id = p_saga;
    end if;
end $$;

-- These jobs end in this transaction, so: the sagas they belong to go on, forwards or backwards.
create function queue.move_sagas(p_jobs bigint[], p_outcomes text[]) returns void
language plpgsql as $$
declare
    this record;
    next bigint;
begin
    for this in
        select m.id, m.saga_id, m.step, m.undo, e.outcome
        from unnest(p_jobs, p_outcomes) e (job_id, outcome)
        join queue.saga_jobs m on m.job_id = e.job_id
        order by m.saga_id
    loop
        perform from queue.sagas s where s.id = this.saga_id for update;
        -- An end counts once; but who discards a dead compensation means the others to go on without it.
        update queue.saga_jobs m set outcome = this.outcome
        where m.id = this.id and (m.outcome is null or (m.undo and m.outcome = 'dead' and this.outcome = 'discarded'));
        continue when not found;
        if this.undo and this.outcome = 'dead' then
            update queue.sagas s set state = 'compensation_failed', ended_at = clock_timestamp() where s.id = this.saga_id;
        elsif this.undo then
            perform queue.compensate(this.saga_id);
        elsif this.outcome in ('completed', 'forgotten') then
            select m.id into next
            from queue.saga_jobs m where m.saga_id = this.saga_id and m.step = this.step + 1 and not m.undo;
            if next is null then
                update queue.sagas s set state = 'completed', ended_at = clock_timestamp() where s.id = this.saga_id;
            else
                perform queue.enqueue_saga_job(next);
            end if;
        else
            update queue.sagas s set failed_step = this.step where s.id = this.saga_id;
            perform queue.compensate(this.saga_id);
        end if;
    end loop;
end $$;

-- These jobs end in this transaction, so: tells whoever waits for them, moves their sagas, and forgets what they waited for
-- themselves, unless they are dead and may come back. Waiters are locked first, in their order, so that no two ends wait in a circle.
create or replace function queue.tell_waiters(p_jobs bigint[], p_outcomes text[]) returns void
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
create or replace function queue.count_again(p_job bigint) returns boolean
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

-- Looks after the members without the mark: marks those that are in line, and tells of those that have ended. With p_all also
-- after the others and the jobs of sagas, in case a worker of an earlier build, which tells nobody, has ended one. Returns how many had ended.
create or replace function queue.sweep_waiters(p_all boolean default false) returns bigint
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
