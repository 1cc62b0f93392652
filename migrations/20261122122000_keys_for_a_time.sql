-- Unique keys that are taken for a time, and jobs that wait for the last word.

alter table queue.unique_keys
    -- When the key is free again, whatever has become of its job; only a key that is taken for a time has one.
    add column expires_at timestamptz,
    drop constraint unique_keys_scope_check,
    add constraint unique_keys_scope_check check (scope in ('live', 'kept', 'window')),
    add constraint unique_keys_window_has_an_end check ((scope = 'window') = (expires_at is not null));
create index unique_keys_by_end on queue.unique_keys (expires_at) where expires_at is not null;

-- Enqueues as queue.enqueue does, but the key is taken for that time from now on: until then it returns the same job, also
-- when that has ended; afterwards there is a new one. Without a time it is queue.enqueue.
create function queue.enqueue_within(
    p_within interval,
    p_queue text,
    p_kind text,
    p_args jsonb,
    p_run_at timestamptz default null,
    p_unique_key text default null,
    p_unique_scope text default 'kept',
    p_group_key text default null,
    p_priority int default 0,
    p_attempts_max int default 20,
    p_deadline_at timestamptz default null,
    p_args_version int default 1,
    p_trace_context text default null,
    p_limit_key text default null,
    out job_id bigint,
    out is_new boolean
)
language plpgsql as $$
begin
    if p_within <= interval '0' or p_within > interval '366 days' then
        raise exception 'a unique key is taken for more than nothing and at most 366 days, not for %', p_within
            using errcode = 'invalid_parameter_value';
    end if;
    if p_within is not null then
        if p_unique_key is null then
            raise exception 'only a job with a unique key can be unique for a time'
                using errcode = 'null_value_not_allowed';
        end if;
        -- The group before the key, as whoever enqueues a second job of the group in one transaction does.
        if p_group_key is not null then
            perform pg_advisory_xact_lock(hashtextextended(p_group_key, 7));
        end if;
        delete from queue.unique_keys u
        where u.kind = p_kind and u.key = p_unique_key and u.expires_at <= clock_timestamp();
    end if;
    select e.job_id, e.is_new into job_id, is_new
    from queue.enqueue(
        p_queue => p_queue, p_kind => p_kind, p_args => p_args, p_run_at => p_run_at, p_unique_key => p_unique_key,
        p_unique_scope => case when p_within is null then p_unique_scope else 'kept' end, p_group_key => p_group_key,
        p_priority => p_priority, p_attempts_max => p_attempts_max, p_deadline_at => p_deadline_at,
        p_args_version => p_args_version, p_trace_context => p_trace_context, p_limit_key => p_limit_key) e;
    if p_within is not null and is_new then
        update queue.unique_keys u
        set scope = 'window', expires_at = clock_timestamp() + p_within
        where u.kind = p_kind and u.key = p_unique_key;
    end if;
end $$;

-- Enqueues a job that is due after p_wait, or gives the job of its kind and key that waits already this payload and this
-- wait, but never beyond p_wait_max after that one was enqueued. A job that runs keeps its payload: its key passes on to
-- a new one. The key is live: it is free when the job that has it ends.
create function queue.enqueue_debounced(
    p_wait interval,
    p_wait_max interval,
    p_queue text,
    p_kind text,
    p_args jsonb,
    p_unique_key text,
    p_group_key text default null,
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
    -- Whoever comes in between has got somewhere: a hundred times in a row is a fault.
    rounds_left int := 100;
    present timestamptz;
    due timestamptz;
begin
    if p_unique_key is null then
        raise exception 'only a job with a unique key can be debounced' using errcode = 'null_value_not_allowed';
    end if;
    if p_group_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(p_group_key, 7));
    end if;
    while rounds_left > 0 loop
        rounds_left := rounds_left - 1;
        present := clock_timestamp();
        select u.job_id into job_id from queue.unique_keys u where u.kind = p_kind and u.key = p_unique_key;
        if job_id is not null then
            -- The row of the job is the lock: a claim that is faster takes it away, one that is slower takes the new payload.
            -- One that was tried waits as long as its retry says.
            update queue.jobs j
            set args = p_args, args_version = p_args_version, trace_context = p_trace_context,
                run_at = greatest(least(present + p_wait, j.created_at + p_wait_max),
                                  case when j.fence > 0 then j.run_at end),
                deadline_at = least(present + p_wait, j.created_at + p_wait_max) + p_deadline_after
            where j.id = job_id
            returning j.run_at into due;
            if found then
                is_new := false;
                if due <= present then
                    perform pg_notify('queue_jobs', p_queue);
                end if;
                return;
            end if;
            delete from queue.unique_keys u where u.kind = p_kind and u.key = p_unique_key and u.job_id = enqueue_debounced.job_id;
        end if;
        due := present + least(p_wait, p_wait_max);
        select e.job_id, e.is_new into job_id, is_new
        from queue.enqueue(
            p_queue => p_queue, p_kind => p_kind, p_args => p_args, p_run_at => due, p_unique_key => p_unique_key,
            p_unique_scope => 'live', p_group_key => p_group_key, p_priority => p_priority,
            p_attempts_max => p_attempts_max, p_deadline_at => due + p_deadline_after, p_args_version => p_args_version,
            p_trace_context => p_trace_context, p_limit_key => p_limit_key) e;
        exit when is_new;
    end loop;
    if not is_new then
        raise exception 'the unique key % of % never stood still', p_unique_key, p_kind using errcode = 'serialization_failure';
    end if;
end $$;
