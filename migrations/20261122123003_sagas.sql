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
