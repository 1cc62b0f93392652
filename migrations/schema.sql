-- The schema as the migrations leave it. `cargo xtask schema` renews it.

CREATE SCHEMA queue;

CREATE TABLE public.orders (
    id uuid NOT NULL,
    customer_id uuid NOT NULL,
    reference text,
    status text NOT NULL,
    payment_status text DEFAULT 'none'::text NOT NULL,
    fulfilment_status text DEFAULT 'none'::text NOT NULL,
    version integer NOT NULL,
    currency character(3) NOT NULL,
    total_minor bigint NOT NULL,
    confirm_with text,
    reason jsonb,
    held_from text,
    expires_at timestamp with time zone,
    confirmed_at timestamp with time zone,
    cancel_until timestamp with time zone,
    cancel_accepted_at timestamp with time zone,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT a_confirmed_order_has_its_times CHECK (((confirmed_at IS NULL) = (cancel_until IS NULL))),
    CONSTRAINT a_hold_has_a_reason CHECK (((status <> 'on_hold'::text) OR ((reason IS NOT NULL) AND (held_from IS NOT NULL)))),
    CONSTRAINT orders_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT orders_fulfilment_status_check CHECK ((fulfilment_status = ANY (ARRAY['none'::text, 'partial'::text, 'shipped'::text, 'delivered'::text, 'partial_returned'::text, 'returned'::text]))),
    CONSTRAINT orders_payment_status_check CHECK ((payment_status = ANY (ARRAY['none'::text, 'authorizing'::text, 'authorized'::text, 'declined'::text, 'capturing'::text, 'captured'::text, 'voiding'::text, 'voided'::text, 'refunding'::text, 'refunded'::text, 'unknown'::text]))),
    CONSTRAINT orders_reference_check CHECK ((length(reference) <= 200)),
    CONSTRAINT orders_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'reserved'::text, 'confirmed'::text, 'closed'::text, 'rejected'::text, 'expired'::text, 'cancelling'::text, 'cancelled'::text, 'on_hold'::text]))),
    CONSTRAINT orders_total_minor_check CHECK ((total_minor >= 0))
)
WITH (fillfactor='70');

CREATE FUNCTION public.order_facts(o public.orders) RETURNS jsonb
    LANGUAGE sql STABLE
    AS $$
    select jsonb_strip_nulls(jsonb_build_object(
        'order_id', o.id, 'customer_id', o.customer_id, 'reference', o.reference, 'status', o.status,
        'payment_status', o.payment_status, 'fulfilment_status', o.fulfilment_status, 'version', o.version,
        'currency', o.currency, 'total_minor', o.total_minor,
        -- A thousand short lines do not fit an event: the order itself has them.
        'reason', case when octet_length(o.reason::text) > 20000 then o.reason - 'lines' else o.reason end,
        'expires_at', o.expires_at, 'confirmed_at', o.confirmed_at, 'cancel_until', o.cancel_until))
$$;

CREATE FUNCTION public.record_event(p_event_id uuid, p_type text, p_order_id uuid, p_data jsonb) RETURNS TABLE(delivery_id uuid, endpoint_id uuid, ordering_key text)
    LANGUAGE plpgsql
    AS $$
declare
    wanted uuid[];
    number bigint;
    moment timestamptz;
begin
    if p_type is null then
        return;
    end if;

    select array_agg(e.id) into wanted
    from webhook_endpoints e
    where e.deleted_at is null
      and (e.state = 'active' or e.updated_at > clock_timestamp() - interval '7 days')
      and e.event_types && array['*', split_part(p_type, '.', 1) || '.*', p_type];
    if wanted is not null then
        perform from webhook_endpoints e
        where e.id = any (wanted) and e.ordering = 'strict'
        order by e.id
        for no key update;
    end if;

    number := nextval(pg_get_serial_sequence('events', 'id'));
    moment := clock_timestamp();
    insert into events (id, event_id, type, order_id, payload, at)
    overriding system value
    values (number, p_event_id, p_type, p_order_id,
            '{"type":' || to_json(p_type)
            || ',"timestamp":"' || to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            || '","sequence":' || number
            || ',"data":' || case
                   when p_order_id is null then p_data
                   else p_data || jsonb_build_object('order_id', p_order_id)
               end || '}',
            moment);

    return query
    insert into webhook_deliveries as d (id, endpoint_id, event_id, ordering_key, seq)
    select gen_random_uuid(), e.id, p_event_id,
           case e.ordering when 'per_key' then coalesce(p_order_id::text, '') when 'strict' then '' end,
           number
    from webhook_endpoints e
    where e.id = any (wanted)
    order by e.id
    returning d.id, d.endpoint_id, d.ordering_key;
end $$;

CREATE FUNCTION queue.claim(p_queue text, p_kinds text[], p_versions smallint[], p_worker bigint, p_limit bigint, p_ahead interval DEFAULT '00:00:00'::interval, p_suspects boolean DEFAULT false) RETURNS TABLE(claim_id bigint, claimed_at timestamp with time zone, id bigint, kind text, args_version smallint, args jsonb, fence bigint, attempt integer, attempts_max integer, deadline_at timestamp with time zone, unique_key text, group_key text, crashes_alone integer, trace_context text, limit_key text, awaited boolean)
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_sort TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
begin
    return query
    with taken as (
        delete from queue.jobs j
        where j.id = any(array(
            select c.id
            from queue.jobs c
            where c.queue = p_queue and c.suspect = p_suspects and c.turn
              -- The clock is read in a sub-select: a volatile function cannot bound an index scan.
              and c.rank <= (select clock_timestamp() at time zone 'UTC' + p_ahead)
              and c.run_at <= (select clock_timestamp())
              and c.kind = any(p_kinds)
              and c.args_version <= p_versions[array_position(p_kinds, c.kind)]
              and c.kind <> all(array(select p.name from queue.pauses p where p.target = 'kind'))
              and not exists (select from queue.pauses p where p.target = 'queue' and p.name = p_queue)
              and exists (select from queue.workers w where w.id = p_worker and not w.stopping)
            order by c.rank, c.id
            limit p_limit
            for update of c skip locked
        ))
        returning j as job
    ), made as (
        insert into queue.claims as c (worker_id, queue, size, jobs)
        select p_worker, p_queue, count(*), array_agg(t.job) from taken t having count(*) > 0
        returning c.id, c.claimed_at, c.jobs
    )
    select m.id, m.claimed_at, j.id, j.kind, j.args_version, j.args, j.fence + 1, j.attempt + 1, j.attempts_max, j.deadline_at,
           j.unique_key, j.group_key, j.crashes_alone, j.trace_context, j.limit_key,
           coalesce(j.awaited, false)
    from made m cross join unnest(m.jobs) j;
end $$;

CREATE FUNCTION queue.clock() RETURNS timestamp with time zone
    LANGUAGE sql
    AS $$ select clock_timestamp() $$;

CREATE FUNCTION queue.complete_some(p_claims bigint[], p_workers bigint[], p_jobs bigint[], p_unkept text[]) RETURNS SETOF bigint
    LANGUAGE plpgsql
    SET enable_nestloop TO 'off'
    SET jit TO 'off'
    AS $$
declare
    these bigint[] := array(select distinct c from unnest(p_claims) c order by 1);
begin
    perform pg_advisory_xact_lock_shared(1, (c % 2147483647)::int) from unnest(these) c;
    return query
    with held as materialized (
        select c.id, c.worker_id, c.claimed_at, c.jobs from queue.claims c where c.id = any(these)
    ), marked as (
        insert into queue.ended as e (claim_id, job_id)
        select m.claim_id, m.job_id
        from unnest(p_claims, p_workers, p_jobs) m (claim_id, worker_id, job_id)
        join held h on h.id = m.claim_id and h.worker_id = m.worker_id
        on conflict do nothing
        returning e.claim_id, e.job_id
    ), done as materialized (
        select h.id as claim_id, h.worker_id, h.claimed_at, j.* from held h cross join lateral unnest(h.jobs) j
    ), mine as materialized (
        select d.* from done d join marked m on m.claim_id = d.claim_id and m.job_id = d.id
    ), freed as (
        delete from queue.unique_keys u
        where u.job_id = any(array(select d.id from mine d where d.unique_key is not null)) and u.scope = 'live'
    ), kept as (
        insert into queue.finished_jobs (id, queue, kind, args_version, args, state, fence, attempt, unique_key,
                                         group_key, worker_id, failures, created_at, claimed_at)
        select d.id, d.queue, d.kind, d.args_version, d.args, 'completed', d.fence + 1, d.attempt + 1, d.unique_key,
               d.group_key, d.worker_id, d.failures, d.created_at, d.claimed_at
        from mine d
        where d.kind <> all(p_unkept)
    )
    select m.job_id from marked m;
end $$;

CREATE FUNCTION queue.drop_partitions(keep_days integer) RETURNS integer
    LANGUAGE plpgsql
    AS $_$
declare
    part record;
    dropped int := 0;
begin
    for part in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'queue.finished_jobs'::regclass and c.relname ~ '^finished_jobs_\d{8}$'
          and to_date(right(c.relname, 8), 'YYYYMMDD') < (clock_timestamp() at time zone 'UTC')::date - keep_days
    loop
        execute format('drop table queue.%I', part.relname);
        dropped := dropped + 1;
    end loop;
    return dropped;
end $_$;

CREATE FUNCTION queue.enqueue(p_queue text, p_kind text, p_args jsonb, p_run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_unique_key text DEFAULT NULL::text, p_unique_scope text DEFAULT 'kept'::text, p_group_key text DEFAULT NULL::text, p_priority integer DEFAULT 0, p_attempts_max integer DEFAULT 20, p_deadline_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_args_version integer DEFAULT 1, p_trace_context text DEFAULT NULL::text, OUT job_id bigint, OUT is_new boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    due timestamptz := coalesce(p_run_at, clock_timestamp());
    -- Read once: a volatile function cannot bound an index scan.
    present timestamptz := clock_timestamp();
    has_turn boolean := true;
begin
    if p_group_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(p_group_key, 7));
    end if;

    job_id := nextval('queue.jobs_id_seq');
    is_new := true;
    if p_unique_key is not null then
        insert into queue.unique_keys (kind, key, job_id, scope)
        values (p_kind, p_unique_key, job_id, p_unique_scope)
        on conflict do nothing;
        if not found then
            is_new := false;
            select u.job_id into job_id from queue.unique_keys u where u.kind = p_kind and u.key = p_unique_key;
            if job_id is null then
                -- Its owner ended between the two statements: the key is free again.
                select e.job_id, e.is_new into job_id, is_new
                from queue.enqueue(p_queue, p_kind, p_args, p_run_at, p_unique_key, p_unique_scope, p_group_key,
                                   p_priority, p_attempts_max, p_deadline_at, p_args_version, p_trace_context) e;
            end if;
            return;
        end if;
    end if;
    if p_group_key is not null then
        insert into queue.turns (group_key, holder) values (p_group_key, job_id) on conflict do nothing;
        has_turn := found;
    end if;

    -- The notification is a hint, and every one is paid for at commit: only an idle queue needs it.
    if has_turn and due <= present and not exists (
        select from queue.jobs j
        where j.queue = p_queue and j.turn and not j.suspect and j.rank <= present at time zone 'UTC'
    ) then
        perform pg_notify('queue_jobs', p_queue);
    end if;

    insert into queue.jobs (id, queue, kind, args_version, args, priority, run_at, attempts_max, deadline_at,
                            unique_key, group_key, trace_context, turn)
    values (job_id, p_queue, p_kind, p_args_version, p_args, p_priority, due, p_attempts_max, p_deadline_at,
            p_unique_key, p_group_key, p_trace_context, has_turn);
end $$;

CREATE FUNCTION queue.enqueue_debounced(p_wait interval, p_wait_max interval, p_queue text, p_kind text, p_args jsonb, p_unique_key text, p_group_key text DEFAULT NULL::text, p_priority integer DEFAULT 0, p_attempts_max integer DEFAULT 20, p_deadline_after interval DEFAULT NULL::interval, p_args_version integer DEFAULT 1, p_trace_context text DEFAULT NULL::text, OUT job_id bigint, OUT is_new boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
            p_trace_context => p_trace_context) e;
        exit when is_new;
    end loop;
    if not is_new then
        raise exception 'the unique key % of % never stood still', p_unique_key, p_kind using errcode = 'serialization_failure';
    end if;
end $$;

CREATE FUNCTION queue.enqueue_within(p_within interval, p_queue text, p_kind text, p_args jsonb, p_run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_unique_key text DEFAULT NULL::text, p_unique_scope text DEFAULT 'kept'::text, p_group_key text DEFAULT NULL::text, p_priority integer DEFAULT 0, p_attempts_max integer DEFAULT 20, p_deadline_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_args_version integer DEFAULT 1, p_trace_context text DEFAULT NULL::text, OUT job_id bigint, OUT is_new boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
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
        p_args_version => p_args_version, p_trace_context => p_trace_context) e;
    if p_within is not null and is_new then
        update queue.unique_keys u
        set scope = 'window', expires_at = clock_timestamp() + p_within
        where u.kind = p_kind and u.key = p_unique_key;
    end if;
end $$;

CREATE FUNCTION queue.ensure_partitions(days_ahead integer DEFAULT 7) RETURNS integer
    LANGUAGE plpgsql
    AS $$
declare
    day date;
    made int := 0;
begin
    perform pg_advisory_xact_lock(hashtext('queue.ensure_partitions'));
    for day in select generate_series((clock_timestamp() at time zone 'UTC')::date,
                                      (clock_timestamp() at time zone 'UTC')::date + days_ahead, interval '1 day')::date loop
        if to_regclass(format('queue.finished_jobs_%s', to_char(day, 'YYYYMMDD'))) is null then
            -- Rows that reached the default partition before their day had its own would refuse the new partition.
            execute format('create table queue.finished_jobs_%s (like queue.finished_jobs including defaults including constraints)',
                           to_char(day, 'YYYYMMDD'));
            execute format('with moved as (delete from queue.finished_jobs_other where finished_at >= %L and finished_at < %L returning *)
                            insert into queue.finished_jobs_%s select * from moved',
                           day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC', to_char(day, 'YYYYMMDD'));
            execute format('alter table queue.finished_jobs attach partition queue.finished_jobs_%s for values from (%L) to (%L)',
                           to_char(day, 'YYYYMMDD'), day::timestamp at time zone 'UTC', (day + 1)::timestamp at time zone 'UTC');
            made := made + 1;
        end if;
    end loop;
    return made;
end $$;

CREATE FUNCTION queue.hold(p_claim bigint, p_job bigint, p_worker bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
begin
    perform pg_advisory_xact_lock_shared(1, (p_claim % 2147483647)::int);
    return exists (select from queue.claims c where c.id = p_claim and c.worker_id = p_worker)
       and not exists (select from queue.ended e where e.claim_id = p_claim and e.job_id = p_job);
end $$;

CREATE TABLE queue.jobs (
    id bigint NOT NULL,
    run_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    rank timestamp without time zone GENERATED ALWAYS AS (((run_at AT TIME ZONE 'UTC'::text) - make_interval(secs => ((priority * 30))::double precision))) STORED,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    deadline_at timestamp with time zone,
    fence bigint DEFAULT 0 NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    attempts_max integer DEFAULT 20 NOT NULL,
    crashes integer DEFAULT 0 NOT NULL,
    crashes_alone integer DEFAULT 0 NOT NULL,
    args_version smallint DEFAULT 1 NOT NULL,
    priority smallint DEFAULT 0 NOT NULL,
    suspect boolean DEFAULT false NOT NULL,
    turn boolean DEFAULT true NOT NULL,
    queue text NOT NULL,
    kind text NOT NULL,
    args jsonb NOT NULL,
    unique_key text,
    group_key text,
    trace_context text,
    waiting text,
    failures jsonb,
    redrives jsonb,
    limit_key text,
    parked boolean,
    awaited boolean,
    CONSTRAINT job_args_are_small CHECK ((pg_column_size(args) <= 65536)),
    CONSTRAINT jobs_args_version_check CHECK ((args_version > 0)),
    CONSTRAINT jobs_attempt_check CHECK ((attempt >= 0)),
    CONSTRAINT jobs_attempts_max_check CHECK (((attempts_max >= 1) AND (attempts_max <= 1000))),
    CONSTRAINT jobs_fence_check CHECK ((fence >= 0)),
    CONSTRAINT jobs_group_key_check CHECK ((length(group_key) <= 300)),
    CONSTRAINT jobs_kind_check CHECK (((kind <> ''::text) AND (length(kind) <= 100))),
    CONSTRAINT jobs_limit_key_check CHECK ((length(limit_key) <= 300)),
    CONSTRAINT jobs_priority_check CHECK (((priority >= '-10'::integer) AND (priority <= 10))),
    CONSTRAINT jobs_queue_check CHECK (((queue <> ''::text) AND (length(queue) <= 100))),
    CONSTRAINT jobs_unique_key_check CHECK ((length(unique_key) <= 300))
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0', autovacuum_vacuum_insert_scale_factor='0.2', autovacuum_analyze_scale_factor='0.05');

CREATE FUNCTION queue.line_up(p_jobs queue.jobs[]) RETURNS bigint
    LANGUAGE sql
    AS $$
    with lined_up as (
        insert into queue.jobs (id, run_at, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
                                args_version, priority, suspect, turn, queue, kind, args, unique_key, group_key, trace_context,
                                waiting, failures, redrives, limit_key, awaited)
        select id, run_at, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
               args_version, priority, suspect, turn, queue, kind, args, unique_key, group_key, trace_context,
               waiting, failures, redrives, limit_key, awaited
        from unnest(p_jobs)
        returning id
    )
    select count(*) from lined_up
$$;

CREATE FUNCTION queue.pass_turns(p_groups text[], p_holders bigint[] DEFAULT '{}'::bigint[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    this text;
    next bigint;
begin
    for this in select distinct g from unnest(p_groups) g order by 1 loop
        perform from queue.turns t where t.group_key = this and (t.vacant or t.holder = any(p_holders)) for update;
        continue when not found;
        -- Those who wait are committed, and whoever is still enqueueing has a higher number.
        select j.id into next from queue.jobs j where j.group_key = this and not j.turn order by j.id limit 1;
        if next is null and pg_try_advisory_xact_lock(hashtextextended(this, 7)) then
            -- Nobody is enqueueing now: what there is to be seen can be seen.
            select j.id into next from queue.jobs j where j.group_key = this and not j.turn order by j.id limit 1;
            if next is null then
                delete from queue.turns t where t.group_key = this;
                continue;
            end if;
        end if;
        update queue.turns t set holder = coalesce(next, t.holder), vacant = next is null where t.group_key = this;
        update queue.jobs j set turn = true where j.id = next;
    end loop;
end $$;

CREATE FUNCTION queue.seize(p_claims bigint[], p_wait boolean) RETURNS TABLE(claim_id bigint, worker_id bigint, job queue.jobs)
    LANGUAGE plpgsql
    AS $$
declare
    this bigint;
    mine bigint[] := '{}';
begin
    for this in select distinct c from unnest(p_claims) c order by 1 loop
        if p_wait then
            perform pg_advisory_xact_lock(1, (this % 2147483647)::int);
        elsif not pg_try_advisory_xact_lock(1, (this % 2147483647)::int) then
            continue;
        end if;
        mine := mine || this;
    end loop;
    return query
    with gone as (
        delete from queue.claims c where c.id = any(mine) returning c.id, c.worker_id, c.jobs
    ), forgotten as (
        delete from queue.progress p where p.claim_id = any(mine)
    ), cleaned as (
        delete from queue.ended e where e.claim_id = any(mine)
    )
    select g.id, g.worker_id, j
    from gone g cross join unnest(g.jobs) j
    where not exists (select from queue.ended e where e.claim_id = g.id and e.job_id = j.id);
end $$;

CREATE FUNCTION queue.take(p_claim bigint, p_job bigint, p_worker bigint) RETURNS TABLE(claimed_at timestamp with time zone, job queue.jobs)
    LANGUAGE plpgsql
    AS $$
begin
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

CREATE TABLE public.api_keys (
    id uuid NOT NULL,
    name text NOT NULL,
    key_id text NOT NULL,
    secret_sha256 bytea NOT NULL,
    scopes text[] NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    CONSTRAINT api_keys_name_check CHECK ((name <> ''::text))
);

CREATE TABLE public.customers (
    id uuid NOT NULL,
    name text NOT NULL,
    email text NOT NULL,
    address text DEFAULT ''::text NOT NULL,
    lat double precision,
    lon double precision,
    state text DEFAULT 'active'::text NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    deleted_at timestamp with time zone,
    CONSTRAINT customers_address_check CHECK ((length(address) <= 500)),
    CONSTRAINT customers_email_check CHECK ((length(email) <= 320)),
    CONSTRAINT customers_lat_check CHECK (((lat >= ('-90'::integer)::double precision) AND (lat <= (90)::double precision))),
    CONSTRAINT customers_lon_check CHECK (((lon >= ('-180'::integer)::double precision) AND (lon <= (180)::double precision))),
    CONSTRAINT customers_name_check CHECK (((name <> ''::text) AND (length(name) <= 200))),
    CONSTRAINT customers_state_check CHECK ((state = ANY (ARRAY['active'::text, 'blocked'::text])))
);

CREATE TABLE public.events (
    id bigint NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    order_id uuid,
    payload text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT events_payload_check CHECK ((octet_length(payload) <= 65536))
);

ALTER TABLE public.events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.idempotency_keys (
    principal text NOT NULL,
    key text NOT NULL,
    fingerprint bytea NOT NULL,
    status integer,
    headers jsonb,
    body text,
    order_id uuid,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT idempotency_keys_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255)))
);

CREATE TABLE public.order_history (
    order_id uuid NOT NULL,
    version integer NOT NULL,
    status text NOT NULL,
    payment_status text NOT NULL,
    fulfilment_status text NOT NULL,
    cause text NOT NULL,
    actor text NOT NULL,
    job_id bigint,
    fence bigint,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT order_history_version_check CHECK ((version > 0))
);

CREATE TABLE public.order_lines (
    id uuid NOT NULL,
    order_id uuid NOT NULL,
    line_no integer NOT NULL,
    product_id uuid NOT NULL,
    sku text NOT NULL,
    qty bigint NOT NULL,
    unit_price_minor bigint NOT NULL,
    qty_reserved bigint DEFAULT 0 NOT NULL,
    qty_backordered bigint DEFAULT 0 NOT NULL,
    qty_shipped bigint DEFAULT 0 NOT NULL,
    qty_cancelled bigint DEFAULT 0 NOT NULL,
    CONSTRAINT a_line_never_exceeds_its_quantity CHECK (((((qty_reserved + qty_backordered) + qty_shipped) + qty_cancelled) <= qty)),
    CONSTRAINT order_lines_line_no_check CHECK ((line_no > 0)),
    CONSTRAINT order_lines_qty_backordered_check CHECK ((qty_backordered >= 0)),
    CONSTRAINT order_lines_qty_cancelled_check CHECK ((qty_cancelled >= 0)),
    CONSTRAINT order_lines_qty_check CHECK (((qty >= 1) AND (qty <= 1000000))),
    CONSTRAINT order_lines_qty_reserved_check CHECK ((qty_reserved >= 0)),
    CONSTRAINT order_lines_qty_shipped_check CHECK ((qty_shipped >= 0)),
    CONSTRAINT order_lines_unit_price_minor_check CHECK ((unit_price_minor >= 0))
);

CREATE TABLE public.payment_attempts (
    id uuid NOT NULL,
    payment_id uuid NOT NULL,
    op text NOT NULL,
    seq integer NOT NULL,
    idem_key text NOT NULL,
    amount_minor bigint NOT NULL,
    state text NOT NULL,
    sends integer DEFAULT 0 NOT NULL,
    http_status integer,
    request_id text,
    error_code text,
    message text,
    job_id bigint,
    fence bigint,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    answered_at timestamp with time zone,
    CONSTRAINT payment_attempts_amount_minor_check CHECK ((amount_minor >= 0)),
    CONSTRAINT payment_attempts_op_check CHECK ((op = ANY (ARRAY['create'::text, 'confirm'::text, 'capture'::text, 'void'::text, 'refund'::text]))),
    CONSTRAINT payment_attempts_seq_check CHECK ((seq > 0)),
    CONSTRAINT payment_attempts_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'succeeded'::text, 'declined'::text, 'failed'::text, 'unknown'::text])))
);

CREATE TABLE public.payments (
    id uuid NOT NULL,
    order_id uuid NOT NULL,
    gateway_ref text,
    payment_method text NOT NULL,
    currency character(3) NOT NULL,
    amount_minor bigint NOT NULL,
    state text NOT NULL,
    captured_minor bigint DEFAULT 0 NOT NULL,
    refunded_minor bigint DEFAULT 0 NOT NULL,
    decline_code text,
    version integer DEFAULT 1 NOT NULL,
    authorized_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT never_captured_above_the_amount CHECK ((captured_minor <= amount_minor)),
    CONSTRAINT never_refunded_above_the_capture CHECK ((refunded_minor <= captured_minor)),
    CONSTRAINT payments_amount_minor_check CHECK ((amount_minor > 0)),
    CONSTRAINT payments_captured_minor_check CHECK ((captured_minor >= 0)),
    CONSTRAINT payments_payment_method_check CHECK ((payment_method ~ '^pm_[A-Za-z0-9_]{1,250}$'::text)),
    CONSTRAINT payments_refunded_minor_check CHECK ((refunded_minor >= 0)),
    CONSTRAINT payments_state_check CHECK ((state = ANY (ARRAY['authorizing'::text, 'authorized'::text, 'declined'::text, 'failed'::text, 'capturing'::text, 'captured'::text, 'voiding'::text, 'voided'::text, 'refunding'::text, 'refunded'::text, 'unknown'::text])))
);

CREATE TABLE public.products (
    id uuid NOT NULL,
    sku text NOT NULL,
    name text NOT NULL,
    price_minor bigint NOT NULL,
    currency character(3) NOT NULL,
    weight_grams integer DEFAULT 500 NOT NULL,
    volume_cm3 integer DEFAULT 1000 NOT NULL,
    backorderable boolean DEFAULT false NOT NULL,
    reorder_point bigint DEFAULT 0 NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    retired_at timestamp with time zone,
    CONSTRAINT products_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT products_name_check CHECK (((name <> ''::text) AND (length(name) <= 300))),
    CONSTRAINT products_price_minor_check CHECK (((price_minor >= 0) AND (price_minor <= '100000000000'::bigint))),
    CONSTRAINT products_reorder_point_check CHECK ((reorder_point >= 0)),
    CONSTRAINT products_sku_check CHECK (((sku <> ''::text) AND (length(sku) <= 64))),
    CONSTRAINT products_volume_cm3_check CHECK ((volume_cm3 > 0)),
    CONSTRAINT products_weight_grams_check CHECK ((weight_grams > 0))
);

CREATE TABLE public.reservations (
    id uuid NOT NULL,
    order_line_id uuid NOT NULL,
    product_id uuid NOT NULL,
    warehouse_id uuid NOT NULL,
    qty bigint NOT NULL,
    state text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT reservations_qty_check CHECK ((qty > 0)),
    CONSTRAINT reservations_state_check CHECK ((state = ANY (ARRAY['held'::text, 'committed'::text, 'released'::text, 'expired'::text, 'shipped'::text])))
);

CREATE TABLE public.route_plans (
    id uuid NOT NULL,
    warehouse_id uuid NOT NULL,
    date date NOT NULL,
    version integer NOT NULL,
    active boolean DEFAULT true NOT NULL,
    is_full boolean DEFAULT false NOT NULL,
    input_hash bytea NOT NULL,
    seed bigint NOT NULL,
    iterations bigint NOT NULL,
    truncated boolean DEFAULT false NOT NULL,
    distance_source text NOT NULL,
    metres bigint NOT NULL,
    stops integer NOT NULL,
    unassigned integer NOT NULL,
    job_id bigint,
    fence bigint,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT route_plans_version_check CHECK ((version > 0))
);

CREATE TABLE public.route_stops (
    route_id uuid NOT NULL,
    "position" integer NOT NULL,
    shipment_id uuid NOT NULL,
    active boolean DEFAULT true NOT NULL,
    arrives_at integer NOT NULL,
    starts_at integer NOT NULL,
    leaves_at integer NOT NULL,
    metres_from_previous bigint NOT NULL,
    CONSTRAINT route_stops_position_check CHECK (("position" > 0))
);

CREATE TABLE public.routes (
    id uuid NOT NULL,
    plan_id uuid NOT NULL,
    warehouse_id uuid NOT NULL,
    vehicle_id uuid NOT NULL,
    date date NOT NULL,
    state text DEFAULT 'planned'::text NOT NULL,
    departs_at integer NOT NULL,
    returns_at integer NOT NULL,
    metres bigint NOT NULL,
    load_grams bigint NOT NULL,
    load_cm3 bigint NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT routes_state_check CHECK ((state = ANY (ARRAY['planned'::text, 'dispatched'::text, 'superseded'::text])))
);

CREATE TABLE public.shipments (
    id uuid NOT NULL,
    order_id uuid NOT NULL,
    warehouse_id uuid NOT NULL,
    state text NOT NULL,
    delivery_date date NOT NULL,
    lat double precision NOT NULL,
    lon double precision NOT NULL,
    weight_grams bigint NOT NULL,
    volume_cm3 bigint NOT NULL,
    window_start integer NOT NULL,
    window_end integer NOT NULL,
    service_seconds integer NOT NULL,
    unassigned jsonb,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT shipments_check CHECK (((window_start < window_end) AND (window_end <= 86400))),
    CONSTRAINT shipments_service_seconds_check CHECK (((service_seconds >= 0) AND (service_seconds <= 14400))),
    CONSTRAINT shipments_state_check CHECK ((state = ANY (ARRAY['unplanned'::text, 'planned'::text, 'dispatched'::text, 'shipped'::text, 'cancelled'::text]))),
    CONSTRAINT shipments_volume_cm3_check CHECK ((volume_cm3 > 0)),
    CONSTRAINT shipments_weight_grams_check CHECK ((weight_grams > 0)),
    CONSTRAINT shipments_window_start_check CHECK (((window_start >= 0) AND (window_start <= 86400)))
)
WITH (fillfactor='70');

CREATE TABLE public.stock_levels (
    product_id uuid NOT NULL,
    warehouse_id uuid NOT NULL,
    on_hand bigint NOT NULL,
    reserved bigint DEFAULT 0 NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT stock_levels_reserved_check CHECK ((reserved >= 0)),
    CONSTRAINT stock_never_negative CHECK ((on_hand >= 0)),
    CONSTRAINT stock_never_oversold CHECK ((reserved <= on_hand))
)
WITH (fillfactor='60');

CREATE TABLE public.stock_movements (
    id bigint NOT NULL,
    product_id uuid NOT NULL,
    warehouse_id uuid NOT NULL,
    kind text NOT NULL,
    qty bigint NOT NULL,
    d_on_hand bigint NOT NULL,
    d_reserved bigint NOT NULL,
    cause_key text NOT NULL,
    reason text,
    actor text NOT NULL,
    job_id bigint,
    fence bigint,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT stock_movements_kind_check CHECK ((kind = ANY (ARRAY['received'::text, 'reserved'::text, 'released'::text, 'shipped'::text, 'returned'::text, 'adjusted'::text]))),
    CONSTRAINT stock_movements_qty_check CHECK ((qty <> 0))
);

ALTER TABLE public.stock_movements ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.stock_movements_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.vehicles (
    id uuid NOT NULL,
    warehouse_id uuid NOT NULL,
    name text NOT NULL,
    capacity_grams bigint NOT NULL,
    capacity_cm3 bigint NOT NULL,
    shift_start integer NOT NULL,
    shift_end integer NOT NULL,
    stops_max integer DEFAULT 100 NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    retired_at timestamp with time zone,
    CONSTRAINT vehicles_capacity_cm3_check CHECK ((capacity_cm3 > 0)),
    CONSTRAINT vehicles_capacity_grams_check CHECK ((capacity_grams > 0)),
    CONSTRAINT vehicles_check CHECK (((shift_start < shift_end) AND (shift_end <= 86400))),
    CONSTRAINT vehicles_name_check CHECK ((name <> ''::text)),
    CONSTRAINT vehicles_shift_start_check CHECK (((shift_start >= 0) AND (shift_start <= 86400))),
    CONSTRAINT vehicles_stops_max_check CHECK ((stops_max > 0))
);

CREATE TABLE public.warehouses (
    id uuid NOT NULL,
    code text NOT NULL,
    name text NOT NULL,
    lat double precision NOT NULL,
    lon double precision NOT NULL,
    priority integer DEFAULT 100 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT warehouses_code_check CHECK (((code <> ''::text) AND (length(code) <= 32))),
    CONSTRAINT warehouses_lat_check CHECK (((lat >= ('-90'::integer)::double precision) AND (lat <= (90)::double precision))),
    CONSTRAINT warehouses_lon_check CHECK (((lon >= ('-180'::integer)::double precision) AND (lon <= (180)::double precision)))
);

CREATE TABLE public.webhook_attempts (
    id bigint NOT NULL,
    delivery_id uuid NOT NULL,
    n integer NOT NULL,
    job_id bigint,
    fence bigint,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    finished_at timestamp with time zone,
    http_status integer,
    error_class text,
    message text,
    CONSTRAINT webhook_attempts_n_check CHECK ((n > 0))
);

ALTER TABLE public.webhook_attempts ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.webhook_attempts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.webhook_deliveries (
    id uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    event_id uuid NOT NULL,
    ordering_key text,
    seq bigint NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    reason text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    delivered_at timestamp with time zone,
    CONSTRAINT webhook_deliveries_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'in_flight'::text, 'delivered'::text, 'dead'::text, 'discarded'::text])))
)
WITH (fillfactor='70');

CREATE TABLE public.webhook_endpoints (
    id uuid NOT NULL,
    url text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    event_types text[] NOT NULL,
    ordering text DEFAULT 'per_key'::text NOT NULL,
    secrets text[] NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    disabled_reason text,
    failing_since timestamp with time zone,
    open_until timestamp with time zone,
    opened_times integer DEFAULT 0 NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    deleted_at timestamp with time zone,
    CONSTRAINT webhook_endpoints_ordering_check CHECK ((ordering = ANY (ARRAY['none'::text, 'per_key'::text, 'strict'::text]))),
    CONSTRAINT webhook_endpoints_secrets_check CHECK (((cardinality(secrets) >= 1) AND (cardinality(secrets) <= 3))),
    CONSTRAINT webhook_endpoints_state_check CHECK ((state = ANY (ARRAY['active'::text, 'disabled'::text]))),
    CONSTRAINT webhook_endpoints_url_check CHECK ((length(url) <= 2000))
);

CREATE TABLE queue.claims (
    id bigint NOT NULL,
    worker_id bigint NOT NULL,
    queue text NOT NULL,
    claimed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    size integer NOT NULL,
    jobs queue.jobs[] NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='500', autovacuum_vacuum_cost_delay='0', toast.autovacuum_vacuum_scale_factor='0', toast.autovacuum_vacuum_threshold='5000', toast.autovacuum_vacuum_cost_delay='0');
ALTER TABLE ONLY queue.claims ALTER COLUMN jobs SET STORAGE EXTERNAL;

CREATE TABLE queue.dead_letters (
    id bigint NOT NULL,
    queue text NOT NULL,
    kind text NOT NULL,
    args_version smallint NOT NULL,
    args jsonb NOT NULL,
    priority smallint NOT NULL,
    fence bigint NOT NULL,
    attempt integer NOT NULL,
    attempts_max integer NOT NULL,
    unique_key text,
    group_key text,
    reason text NOT NULL,
    error_class text NOT NULL,
    error_code text NOT NULL,
    message text NOT NULL,
    report jsonb NOT NULL,
    trace_context text,
    created_at timestamp with time zone NOT NULL,
    dead_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT dead_letters_reason_check CHECK ((reason = ANY (ARRAY['exhausted'::text, 'permanent'::text, 'poison'::text, 'deadline'::text, 'cancelled_parent'::text])))
);

CREATE TABLE queue.ended (
    claim_id bigint NOT NULL,
    job_id bigint NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000', autovacuum_vacuum_cost_delay='0');

CREATE TABLE queue.finished_jobs (
    id bigint NOT NULL,
    queue text NOT NULL,
    kind text NOT NULL,
    args_version smallint NOT NULL,
    args jsonb NOT NULL,
    state text NOT NULL,
    fence bigint NOT NULL,
    attempt integer NOT NULL,
    unique_key text,
    group_key text,
    worker_id bigint,
    result jsonb,
    failures jsonb,
    created_at timestamp with time zone NOT NULL,
    claimed_at timestamp with time zone,
    finished_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT finished_jobs_state_check CHECK ((state = ANY (ARRAY['completed'::text, 'discarded'::text, 'cancelled'::text])))
)
PARTITION BY RANGE (finished_at);

CREATE TABLE queue.progress (
    job_id bigint NOT NULL,
    claim_id bigint NOT NULL,
    value jsonb NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE VIEW queue.running_jobs AS
 SELECT j.id,
    j.queue,
    j.kind,
    j.args_version,
    j.args,
    j.priority,
    j.run_at,
    (j.fence + 1) AS fence,
    (j.attempt + 1) AS attempt,
    j.attempts_max,
    j.deadline_at,
    j.unique_key,
    j.group_key,
    c.id AS claim_id,
    c.worker_id,
    c.claimed_at,
    j.crashes,
    j.suspect,
    j.failures,
    p.value AS progress,
    j.trace_context,
    j.created_at
   FROM ((queue.claims c
     CROSS JOIN LATERAL unnest(c.jobs) j(id, run_at, rank, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone, args_version, priority, suspect, turn, queue, kind, args, unique_key, group_key, trace_context, waiting, failures, redrives))
     LEFT JOIN queue.progress p ON ((p.job_id = j.id)))
  WHERE (NOT (EXISTS ( SELECT
           FROM queue.ended e
          WHERE ((e.claim_id = c.id) AND (e.job_id = j.id)))));

CREATE VIEW queue.live_jobs AS
 SELECT jobs.id,
    jobs.queue,
    jobs.kind,
    jobs.args_version,
    jobs.args,
        CASE
            WHEN (jobs.run_at <= clock_timestamp()) THEN 'available'::text
            WHEN (jobs.failures IS NOT NULL) THEN 'retryable'::text
            ELSE 'scheduled'::text
        END AS state,
    jobs.priority,
    jobs.run_at,
    jobs.fence,
    jobs.attempt,
    jobs.attempts_max,
    jobs.unique_key,
    jobs.group_key,
    NULL::bigint AS worker_id,
    NULL::timestamp with time zone AS claimed_at,
    jobs.crashes,
    jobs.suspect,
    jobs.waiting,
    COALESCE(jobs.failures, '[]'::jsonb) AS failures,
    NULL::jsonb AS progress,
    jobs.trace_context,
    jobs.created_at
   FROM queue.jobs
UNION ALL
 SELECT running_jobs.id,
    running_jobs.queue,
    running_jobs.kind,
    running_jobs.args_version,
    running_jobs.args,
    'running'::text AS state,
    running_jobs.priority,
    running_jobs.run_at,
    running_jobs.fence,
    running_jobs.attempt,
    running_jobs.attempts_max,
    running_jobs.unique_key,
    running_jobs.group_key,
    running_jobs.worker_id,
    running_jobs.claimed_at,
    running_jobs.crashes,
    running_jobs.suspect,
    NULL::text AS waiting,
    COALESCE(running_jobs.failures, '[]'::jsonb) AS failures,
    running_jobs.progress,
    running_jobs.trace_context,
    running_jobs.created_at
   FROM queue.running_jobs;

CREATE VIEW queue.all_jobs AS
 SELECT live_jobs.id,
    live_jobs.queue,
    live_jobs.kind,
    live_jobs.args_version,
    live_jobs.args,
    live_jobs.state,
    live_jobs.priority,
    live_jobs.run_at,
    live_jobs.fence,
    live_jobs.attempt,
    live_jobs.attempts_max,
    live_jobs.unique_key,
    live_jobs.group_key,
    live_jobs.worker_id,
    live_jobs.claimed_at,
    live_jobs.crashes,
    live_jobs.suspect,
    live_jobs.waiting,
    live_jobs.failures,
    live_jobs.progress,
    NULL::jsonb AS result,
    live_jobs.trace_context,
    live_jobs.created_at,
    NULL::timestamp with time zone AS ended_at
   FROM queue.live_jobs
UNION ALL
 SELECT dead_letters.id,
    dead_letters.queue,
    dead_letters.kind,
    dead_letters.args_version,
    dead_letters.args,
    'dead'::text AS state,
    dead_letters.priority,
    NULL::timestamp with time zone AS run_at,
    dead_letters.fence,
    dead_letters.attempt,
    dead_letters.attempts_max,
    dead_letters.unique_key,
    dead_letters.group_key,
    NULL::bigint AS worker_id,
    NULL::timestamp with time zone AS claimed_at,
    0 AS crashes,
    false AS suspect,
    dead_letters.message AS waiting,
    (dead_letters.report -> 'attempts'::text) AS failures,
    NULL::jsonb AS progress,
    NULL::jsonb AS result,
    dead_letters.trace_context,
    dead_letters.created_at,
    dead_letters.dead_at AS ended_at
   FROM queue.dead_letters
UNION ALL
 SELECT finished_jobs.id,
    finished_jobs.queue,
    finished_jobs.kind,
    finished_jobs.args_version,
    finished_jobs.args,
    finished_jobs.state,
    0 AS priority,
    NULL::timestamp with time zone AS run_at,
    finished_jobs.fence,
    finished_jobs.attempt,
    NULL::integer AS attempts_max,
    finished_jobs.unique_key,
    finished_jobs.group_key,
    finished_jobs.worker_id,
    finished_jobs.claimed_at,
    0 AS crashes,
    false AS suspect,
    NULL::text AS waiting,
    COALESCE(finished_jobs.failures, '[]'::jsonb) AS failures,
    NULL::jsonb AS progress,
    finished_jobs.result,
    NULL::text AS trace_context,
    finished_jobs.created_at,
    finished_jobs.finished_at AS ended_at
   FROM queue.finished_jobs;

CREATE TABLE queue.audit (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL
);

ALTER TABLE queue.audit ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME queue.audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE queue.cancels (
    job_id bigint NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE queue.claims ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME queue.claims_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE queue.finished_jobs_other (
    id bigint NOT NULL,
    queue text NOT NULL,
    kind text NOT NULL,
    args_version smallint NOT NULL,
    args jsonb NOT NULL,
    state text NOT NULL,
    fence bigint NOT NULL,
    attempt integer NOT NULL,
    unique_key text,
    group_key text,
    worker_id bigint,
    result jsonb,
    failures jsonb,
    created_at timestamp with time zone NOT NULL,
    claimed_at timestamp with time zone,
    finished_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT finished_jobs_state_check CHECK ((state = ANY (ARRAY['completed'::text, 'discarded'::text, 'cancelled'::text])))
);

ALTER TABLE queue.jobs ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME queue.jobs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE queue.logs (
    job_id bigint NOT NULL,
    lines jsonb NOT NULL,
    dropped integer DEFAULT 0 NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE queue.losses (
    worker_id bigint NOT NULL,
    name text NOT NULL,
    how text NOT NULL,
    lost_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    jobs bigint[] NOT NULL,
    alone boolean NOT NULL,
    CONSTRAINT losses_how_check CHECK ((how = ANY (ARRAY['killed'::text, 'silent'::text])))
);

CREATE TABLE queue.pauses (
    target text NOT NULL,
    name text NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    paused_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pauses_target_check CHECK ((target = ANY (ARRAY['queue'::text, 'kind'::text])))
);

CREATE TABLE queue.pool_settings (
    pool text NOT NULL,
    slots integer NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pool_settings_pool_check CHECK (((pool <> ''::text) AND (length(pool) <= 100))),
    CONSTRAINT pool_slots_are_from_1_to_8192 CHECK (((slots >= 1) AND (slots <= 8192)))
);

CREATE TABLE queue.schedules (
    name text NOT NULL,
    kind text NOT NULL,
    queue text NOT NULL,
    args jsonb NOT NULL,
    args_version smallint DEFAULT 1 NOT NULL,
    unique_key text,
    priority smallint DEFAULT 0 NOT NULL,
    attempts_max integer DEFAULT 20 NOT NULL,
    cron text NOT NULL,
    time_zone text DEFAULT 'UTC'::text NOT NULL,
    missed text DEFAULT 'once'::text NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    settled_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT schedules_missed_check CHECK ((missed = ANY (ARRAY['skip'::text, 'once'::text, 'all'::text])))
);

CREATE TABLE queue.ticks (
    name text NOT NULL,
    tick_at timestamp with time zone NOT NULL,
    job_id bigint,
    fired_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE queue.turns (
    group_key text NOT NULL,
    holder bigint NOT NULL,
    vacant boolean DEFAULT false NOT NULL
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');

CREATE TABLE queue.unique_keys (
    kind text NOT NULL,
    key text NOT NULL,
    job_id bigint NOT NULL,
    scope text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone,
    CONSTRAINT unique_keys_scope_check CHECK ((scope = ANY (ARRAY['live'::text, 'kept'::text, 'window'::text]))),
    CONSTRAINT unique_keys_window_has_an_end CHECK (((scope = 'window'::text) = (expires_at IS NOT NULL)))
);

CREATE TABLE queue.workers (
    id bigint NOT NULL,
    name text NOT NULL,
    pools text[] NOT NULL,
    build text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    backend_pid integer,
    backend_start timestamp with time zone,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    beat_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    stopping boolean DEFAULT false NOT NULL,
    CONSTRAINT workers_session_is_whole CHECK (((backend_pid IS NULL) = (backend_start IS NULL)))
);

ALTER TABLE queue.workers ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME queue.workers_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY queue.finished_jobs ATTACH PARTITION queue.finished_jobs_other DEFAULT;

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_key_id_key UNIQUE (key_id);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.payment_attempts
    ADD CONSTRAINT attempts_have_their_own_key UNIQUE (idem_key);

ALTER TABLE ONLY public.customers
    ADD CONSTRAINT customers_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_event_id_key UNIQUE (event_id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (principal, key);

ALTER TABLE ONLY public.stock_movements
    ADD CONSTRAINT movements_happen_once UNIQUE (cause_key);

ALTER TABLE ONLY public.order_history
    ADD CONSTRAINT order_history_pkey PRIMARY KEY (order_id, version);

ALTER TABLE ONLY public.order_lines
    ADD CONSTRAINT order_lines_order_id_line_no_key UNIQUE (order_id, line_no);

ALTER TABLE ONLY public.order_lines
    ADD CONSTRAINT order_lines_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.payment_attempts
    ADD CONSTRAINT payment_attempts_payment_id_op_seq_key UNIQUE (payment_id, op, seq);

ALTER TABLE ONLY public.payment_attempts
    ADD CONSTRAINT payment_attempts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.payments
    ADD CONSTRAINT payments_gateway_ref_is_unique UNIQUE (gateway_ref);

ALTER TABLE ONLY public.payments
    ADD CONSTRAINT payments_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.products
    ADD CONSTRAINT products_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.products
    ADD CONSTRAINT products_sku_is_unique UNIQUE (sku);

ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT reservations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.route_plans
    ADD CONSTRAINT route_plans_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.route_plans
    ADD CONSTRAINT route_plans_warehouse_id_date_version_key UNIQUE (warehouse_id, date, version);

ALTER TABLE ONLY public.route_stops
    ADD CONSTRAINT route_stops_pkey PRIMARY KEY (route_id, "position");

ALTER TABLE ONLY public.routes
    ADD CONSTRAINT routes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.shipments
    ADD CONSTRAINT shipments_order_id_warehouse_id_key UNIQUE (order_id, warehouse_id);

ALTER TABLE ONLY public.shipments
    ADD CONSTRAINT shipments_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.stock_levels
    ADD CONSTRAINT stock_levels_pkey PRIMARY KEY (product_id, warehouse_id);

ALTER TABLE ONLY public.stock_movements
    ADD CONSTRAINT stock_movements_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.vehicles
    ADD CONSTRAINT vehicles_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.vehicles
    ADD CONSTRAINT vehicles_warehouse_id_name_key UNIQUE (warehouse_id, name);

ALTER TABLE ONLY public.warehouses
    ADD CONSTRAINT warehouses_code_is_unique UNIQUE (code);

ALTER TABLE ONLY public.warehouses
    ADD CONSTRAINT warehouses_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.webhook_attempts
    ADD CONSTRAINT webhook_attempts_delivery_id_n_key UNIQUE (delivery_id, n);

ALTER TABLE ONLY public.webhook_attempts
    ADD CONSTRAINT webhook_attempts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_endpoint_id_event_id_key UNIQUE (endpoint_id, event_id);

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.webhook_endpoints
    ADD CONSTRAINT webhook_endpoints_pkey PRIMARY KEY (id);

ALTER TABLE ONLY queue.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);

ALTER TABLE ONLY queue.cancels
    ADD CONSTRAINT cancels_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY queue.claims
    ADD CONSTRAINT claims_pkey PRIMARY KEY (id);

ALTER TABLE ONLY queue.dead_letters
    ADD CONSTRAINT dead_letters_pkey PRIMARY KEY (id);

ALTER TABLE ONLY queue.ended
    ADD CONSTRAINT ended_pkey PRIMARY KEY (claim_id, job_id);

ALTER TABLE ONLY queue.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY queue.logs
    ADD CONSTRAINT logs_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY queue.losses
    ADD CONSTRAINT losses_pkey PRIMARY KEY (worker_id);

ALTER TABLE ONLY queue.pauses
    ADD CONSTRAINT pauses_pkey PRIMARY KEY (target, name);

ALTER TABLE ONLY queue.pool_settings
    ADD CONSTRAINT pool_settings_pkey PRIMARY KEY (pool);

ALTER TABLE ONLY queue.progress
    ADD CONSTRAINT progress_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY queue.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (name);

ALTER TABLE ONLY queue.ticks
    ADD CONSTRAINT ticks_pkey PRIMARY KEY (name, tick_at);

ALTER TABLE ONLY queue.turns
    ADD CONSTRAINT turns_pkey PRIMARY KEY (group_key);

ALTER TABLE ONLY queue.unique_keys
    ADD CONSTRAINT unique_keys_pkey PRIMARY KEY (kind, key);

ALTER TABLE ONLY queue.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);

CREATE UNIQUE INDEX customers_email_is_unique ON public.customers USING btree (lower(email)) WHERE (deleted_at IS NULL);

CREATE INDEX customers_in_order ON public.customers USING btree (created_at, id) WHERE (deleted_at IS NULL);

CREATE INDEX events_by_order ON public.events USING btree (order_id, id);

CREATE INDEX idempotency_keys_expiring ON public.idempotency_keys USING btree (expires_at);

CREATE INDEX orders_by_customer ON public.orders USING btree (customer_id, created_at, id);

CREATE INDEX orders_by_status ON public.orders USING btree (status, created_at, id);

CREATE INDEX orders_expiring ON public.orders USING btree (expires_at) WHERE (status = 'reserved'::text);

CREATE INDEX orders_in_order ON public.orders USING btree (created_at, id);

CREATE UNIQUE INDEX orders_reference_is_unique ON public.orders USING btree (created_by, reference) WHERE (reference IS NOT NULL);

CREATE INDEX payments_by_order ON public.payments USING btree (order_id);

CREATE INDEX payments_in_order ON public.payments USING btree (created_at, id);

CREATE UNIQUE INDEX payments_one_live_per_order ON public.payments USING btree (order_id) WHERE (state <> ALL (ARRAY['declined'::text, 'failed'::text, 'voided'::text]));

CREATE INDEX payments_unsettled ON public.payments USING btree (updated_at) WHERE (state = ANY (ARRAY['authorizing'::text, 'capturing'::text, 'voiding'::text, 'refunding'::text, 'unknown'::text]));

CREATE INDEX products_in_order ON public.products USING btree (created_at, id);

CREATE UNIQUE INDEX reservations_are_unique ON public.reservations USING btree (order_line_id, warehouse_id) WHERE (state = ANY (ARRAY['held'::text, 'committed'::text]));

CREATE INDEX reservations_by_line ON public.reservations USING btree (order_line_id);

CREATE INDEX reservations_live_by_level ON public.reservations USING btree (product_id, warehouse_id) WHERE (state = ANY (ARRAY['held'::text, 'committed'::text]));

CREATE UNIQUE INDEX route_plans_one_active ON public.route_plans USING btree (warehouse_id, date) WHERE active;

CREATE UNIQUE INDEX route_stops_one_route_per_shipment ON public.route_stops USING btree (shipment_id) WHERE active;

CREATE INDEX routes_by_plan ON public.routes USING btree (plan_id);

CREATE INDEX routes_in_order ON public.routes USING btree (created_at, id);

CREATE UNIQUE INDEX routes_one_per_vehicle_and_day ON public.routes USING btree (vehicle_id, date) WHERE (state <> 'superseded'::text);

CREATE INDEX shipments_to_plan ON public.shipments USING btree (warehouse_id, delivery_date) WHERE (state = ANY (ARRAY['unplanned'::text, 'planned'::text]));

CREATE INDEX stock_movements_by_level ON public.stock_movements USING btree (product_id, warehouse_id, id);

CREATE INDEX webhook_attempts_by_time ON public.webhook_attempts USING btree (started_at);

CREATE INDEX webhook_deliveries_by_endpoint ON public.webhook_deliveries USING btree (endpoint_id, seq);

CREATE INDEX webhook_deliveries_by_event ON public.webhook_deliveries USING btree (event_id);

CREATE INDEX webhook_deliveries_unsettled ON public.webhook_deliveries USING btree (updated_at) WHERE (state = ANY (ARRAY['pending'::text, 'in_flight'::text]));

CREATE INDEX claims_of_worker ON queue.claims USING btree (worker_id);

CREATE INDEX dead_letters_by_cause ON queue.dead_letters USING btree (kind, error_class, error_code, id);

CREATE INDEX finished_jobs_by_id ON ONLY queue.finished_jobs USING btree (id);

CREATE INDEX finished_jobs_by_kind ON ONLY queue.finished_jobs USING btree (kind, finished_at);

CREATE INDEX finished_jobs_other_id_idx ON queue.finished_jobs_other USING btree (id);

CREATE INDEX finished_jobs_other_kind_finished_at_idx ON queue.finished_jobs_other USING btree (kind, finished_at);

CREATE INDEX jobs_grouped ON queue.jobs USING btree (group_key, id) WHERE (group_key IS NOT NULL);

CREATE INDEX jobs_in_line ON queue.jobs USING btree (queue, suspect, rank, id) WHERE turn;

CREATE INDEX logs_by_age ON queue.logs USING btree (at);

CREATE INDEX losses_by_time ON queue.losses USING btree (lost_at);

CREATE INDEX progress_of_claim ON queue.progress USING btree (claim_id);

CREATE INDEX turns_vacant ON queue.turns USING btree (group_key) WHERE vacant;

CREATE INDEX unique_keys_by_age ON queue.unique_keys USING btree (created_at);

CREATE INDEX unique_keys_by_end ON queue.unique_keys USING btree (expires_at) WHERE (expires_at IS NOT NULL);

CREATE INDEX unique_keys_by_job ON queue.unique_keys USING btree (job_id);

ALTER INDEX queue.finished_jobs_by_id ATTACH PARTITION queue.finished_jobs_other_id_idx;

ALTER INDEX queue.finished_jobs_by_kind ATTACH PARTITION queue.finished_jobs_other_kind_finished_at_idx;

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_order_id_fkey FOREIGN KEY (order_id) REFERENCES public.orders(id);

ALTER TABLE ONLY public.order_history
    ADD CONSTRAINT order_history_order_id_fkey FOREIGN KEY (order_id) REFERENCES public.orders(id);

ALTER TABLE ONLY public.order_lines
    ADD CONSTRAINT order_lines_order_id_fkey FOREIGN KEY (order_id) REFERENCES public.orders(id);

ALTER TABLE ONLY public.order_lines
    ADD CONSTRAINT order_lines_product_id_fkey FOREIGN KEY (product_id) REFERENCES public.products(id);

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES public.customers(id);

ALTER TABLE ONLY public.payment_attempts
    ADD CONSTRAINT payment_attempts_payment_id_fkey FOREIGN KEY (payment_id) REFERENCES public.payments(id);

ALTER TABLE ONLY public.payments
    ADD CONSTRAINT payments_order_id_fkey FOREIGN KEY (order_id) REFERENCES public.orders(id);

ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT reservations_order_line_id_fkey FOREIGN KEY (order_line_id) REFERENCES public.order_lines(id);

ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT reservations_product_id_warehouse_id_fkey FOREIGN KEY (product_id, warehouse_id) REFERENCES public.stock_levels(product_id, warehouse_id);

ALTER TABLE ONLY public.route_plans
    ADD CONSTRAINT route_plans_warehouse_id_fkey FOREIGN KEY (warehouse_id) REFERENCES public.warehouses(id);

ALTER TABLE ONLY public.route_stops
    ADD CONSTRAINT route_stops_route_id_fkey FOREIGN KEY (route_id) REFERENCES public.routes(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.route_stops
    ADD CONSTRAINT route_stops_shipment_id_fkey FOREIGN KEY (shipment_id) REFERENCES public.shipments(id);

ALTER TABLE ONLY public.routes
    ADD CONSTRAINT routes_plan_id_fkey FOREIGN KEY (plan_id) REFERENCES public.route_plans(id);

ALTER TABLE ONLY public.routes
    ADD CONSTRAINT routes_vehicle_id_fkey FOREIGN KEY (vehicle_id) REFERENCES public.vehicles(id);

ALTER TABLE ONLY public.routes
    ADD CONSTRAINT routes_warehouse_id_fkey FOREIGN KEY (warehouse_id) REFERENCES public.warehouses(id);

ALTER TABLE ONLY public.shipments
    ADD CONSTRAINT shipments_order_id_fkey FOREIGN KEY (order_id) REFERENCES public.orders(id);

ALTER TABLE ONLY public.shipments
    ADD CONSTRAINT shipments_warehouse_id_fkey FOREIGN KEY (warehouse_id) REFERENCES public.warehouses(id);

ALTER TABLE ONLY public.stock_levels
    ADD CONSTRAINT stock_levels_product_id_fkey FOREIGN KEY (product_id) REFERENCES public.products(id);

ALTER TABLE ONLY public.stock_levels
    ADD CONSTRAINT stock_levels_warehouse_id_fkey FOREIGN KEY (warehouse_id) REFERENCES public.warehouses(id);

ALTER TABLE ONLY public.stock_movements
    ADD CONSTRAINT stock_movements_product_id_warehouse_id_fkey FOREIGN KEY (product_id, warehouse_id) REFERENCES public.stock_levels(product_id, warehouse_id);

ALTER TABLE ONLY public.vehicles
    ADD CONSTRAINT vehicles_warehouse_id_fkey FOREIGN KEY (warehouse_id) REFERENCES public.warehouses(id);

ALTER TABLE ONLY public.webhook_attempts
    ADD CONSTRAINT webhook_attempts_delivery_id_fkey FOREIGN KEY (delivery_id) REFERENCES public.webhook_deliveries(id);

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES public.webhook_endpoints(id);

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_event_id_fkey FOREIGN KEY (event_id) REFERENCES public.events(event_id);
