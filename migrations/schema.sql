-- The schema as the migrations leave it. `cargo xtask schema` renews it.

CREATE SCHEMA queue;

CREATE TYPE queue.room AS (
	key text,
	jobs bigint,
	arrival timestamp with time zone,
	per_job interval,
	burst integer,
	counts boolean,
	open_until timestamp with time zone
);

CREATE FUNCTION public.book_payout() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
    booked_as bigint;
    amount bigint := case when new.state = 'failed' then -new.amount_minor else new.amount_minor end;
begin
    insert into ledger_transactions (cause, payout_id)
    values (format('payout:%s%s', new.id, case when new.state = 'failed' then ':failed' else '' end), new.id)
    returning id into booked_as;
    insert into ledger_entries (transaction_id, account, seller_id, amount_minor)
    values (booked_as, 'seller', new.seller_id, -amount), (booked_as, 'payouts', new.seller_id, amount);
    return null;
end $$;

CREATE FUNCTION public.book_sales() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
    sale record;
    booked_as bigint;
begin
    if old.captured_minor = 0 then
        insert into sales (payment_id, seller_id, gross_minor, commission_minor)
        select new.id, s.id, g.gross, floor(g.gross * s.commission_bp / 10000)::bigint
        from (
            select p.seller_id, sum(l.qty * l.unit_price_minor)::bigint as gross
            from order_lines l
            join products p on p.id = l.product_id
            where l.order_id = new.order_id and p.seller_id is not null
            group by p.seller_id
        ) g
        join sellers s on s.id = g.seller_id
        where g.gross > 0
        on conflict do nothing;
    end if;
    for sale in
        select f.seller_id, f.gross - f.gross_kept_minor as gross, f.commission - f.commission_kept_minor as commission
        from (
            select s.seller_id, s.gross_kept_minor, s.commission_kept_minor,
                   floor(s.gross_minor::numeric * (new.captured_minor - new.refunded_minor) / new.captured_minor)::bigint as gross,
                   floor(s.commission_minor::numeric * (new.captured_minor - new.refunded_minor) / new.captured_minor)::bigint
                       as commission
            from sales s
            where s.payment_id = new.id
        ) f
        where f.gross <> f.gross_kept_minor or f.commission <> f.commission_kept_minor
        order by f.seller_id
    loop
        if booked_as is null then
            insert into ledger_transactions (cause, payment_id)
            values (format('payment:%s:%s:%s', new.id, new.captured_minor, new.refunded_minor), new.id)
            returning id into booked_as;
        end if;
        update sales s
        set gross_kept_minor = s.gross_kept_minor + sale.gross,
            commission_kept_minor = s.commission_kept_minor + sale.commission
        where s.payment_id = new.id and s.seller_id = sale.seller_id;
        insert into ledger_entries (transaction_id, account, seller_id, amount_minor)
        select booked_as, e.account, sale.seller_id, e.amount
        from (values ('sales', -sale.gross), ('commission', sale.commission), ('seller', sale.gross - sale.commission))
            e (account, amount)
        where e.amount <> 0;
    end loop;
    return null;
end $$;

CREATE FUNCTION public.check_ledger_transaction() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    if exists (
        select from ledger_entries e where e.transaction_id = new.transaction_id
        group by e.seller_id having sum(e.amount_minor) <> 0
    ) then
        raise exception 'the entries of ledger transaction % do not sum to zero', new.transaction_id
            using errcode = 'check_violation', constraint = 'ledger_transactions_sum_to_zero';
    end if;
    return null;
end $$;

CREATE FUNCTION public.count_ledger_entry() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
declare
    balance bigint;
begin
    update sellers set balance_minor = balance_minor + new.amount_minor where id = new.seller_id
    returning balance_minor into balance;
    if balance < 0 and new.amount_minor < 0 and exists (
        select from ledger_transactions t where t.id = new.transaction_id and t.payout_id is not null
    ) then
        raise exception 'seller % is not owed that much', new.seller_id
            using errcode = 'check_violation', constraint = 'payouts_take_only_what_is_owed';
    end if;
    return null;
end $$;

CREATE FUNCTION public.note_payment() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    insert into payment_events (payment_id, what, state, amount_minor, captured_minor, refunded_minor, error_code)
    values (new.id, 'payment', new.state, new.amount_minor, new.captured_minor, new.refunded_minor, new.decline_code);
    return null;
end $$;

CREATE FUNCTION public.note_payment_attempt() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    insert into payment_events (payment_id, what, state, op, seq, amount_minor, sends, http_status, request_id, error_code)
    values (new.payment_id, 'attempt', new.state, new.op, new.seq, new.amount_minor, new.sends, new.http_status,
            new.request_id, new.error_code);
    return null;
end $$;

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

CREATE FUNCTION public.record_event(p_event_id uuid, p_type text, p_order_id uuid, p_data jsonb, p_partner_id uuid DEFAULT NULL::uuid, p_endpoint_id uuid DEFAULT NULL::uuid) RETURNS TABLE(delivery_id uuid, endpoint_id uuid, ordering_key text)
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    wanted uuid[];
    number bigint;
    moment timestamptz;
begin
    if p_type is null then
        return;
    end if;

    if p_endpoint_id is not null then
        wanted := array[p_endpoint_id];
    else
        select array_agg(e.id) into wanted
        from webhook_endpoints e
        where e.deleted_at is null
          and (e.state = 'active' or e.updated_at > clock_timestamp() - interval '7 days')
          and e.event_types && array['*', split_part(p_type, '.', 1) || '.*', p_type]
          and (p_partner_id is null or e.partner_id is null or e.partner_id = p_partner_id);
    end if;
    if wanted is not null then
        perform from webhook_endpoints e
        where e.id = any (wanted) and e.ordering = 'strict'
        order by e.id
        for no key update;
    end if;

    number := nextval(pg_get_serial_sequence('events', 'id'));
    moment := clock_timestamp();
    insert into events (id, event_id, type, order_id, partner_id, endpoint_id, payload, at)
    overriding system value
    values (number, p_event_id, p_type, p_order_id, p_partner_id, p_endpoint_id,
            '{"type":' || to_json(p_type)
            || ',"timestamp":"' || to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            || '","sequence":' || number
            || ',"data":' || case
                   when p_order_id is null then p_data
                   else p_data || jsonb_build_object('order_id', p_order_id)
               end || '}',
            moment);

    return query
    insert into webhook_deliveries as d (id, endpoint_id, event_id, ordering_key, seq, prev_seq)
    select gen_random_uuid(), e.id, p_event_id,
           case e.ordering when 'per_key' then coalesce(p_order_id::text, '') when 'strict' then '' end,
           number,
           case e.ordering
               when 'strict' then (select b.seq from webhook_deliveries b
                                   where b.endpoint_id = e.id
                                   order by b.seq desc
                                   limit 1)
               when 'per_key' then (select v.id from events v
                                    where v.order_id = p_order_id and v.id < number
                                      and exists (select from webhook_deliveries b
                                                  -- No condition for an index: of an endpoint's deliveries there are many.
                                                  where b.event_id = v.event_id and b.endpoint_id is not distinct from e.id
                                                  offset 0)
                                    order by v.id desc
                                    limit 1)
           end
    from webhook_endpoints e
    where e.id = any (wanted)
    order by e.id
    returning d.id, d.endpoint_id, d.ordering_key;
end $$;

CREATE FUNCTION public.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    raise exception '% is only ever added to', tg_table_name using errcode = 'restrict_violation';
end $$;

CREATE FUNCTION public.refuse_change_of_payout() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    raise exception 'payout % is %, and stays so', old.id, old.state using errcode = 'restrict_violation';
end $$;

CREATE FUNCTION public.webhook_public_keys(secrets text[]) RETURNS text[]
    LANGUAGE sql IMMUTABLE
    AS $$
    select coalesce(array_agg(p.key order by s.n), '{}')
    from unnest(secrets) with ordinality s (secret, n)
    cross join lateral (
        select case
                   when s.secret like 'sealed:%' then nullif(split_part(s.secret, ':', 4), '')
                   when s.secret like 'whsk\_%'
                   then 'whpk_' || encode(substring(decode(substr(s.secret, 6), 'base64') from 33), 'base64')
               end as key
    ) p
    where p.key is not null
$$;

CREATE TABLE queue.jobs (
    id bigint NOT NULL,
    run_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    rank timestamp without time zone NOT NULL,
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
    awaited boolean
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0', autovacuum_vacuum_insert_scale_factor='0.2', autovacuum_analyze_scale_factor='0.05');

CREATE FUNCTION queue.admit(INOUT p_jobs queue.jobs[], OUT limited boolean, OUT keys text[], OUT admitted bigint[]) RETURNS record
    LANGUAGE plpgsql
    SET jit TO 'off'
    AS $$
declare
    rooms queue.room[];
begin
    select array_agg(t.key), array_agg(t.jobs)
    into keys, admitted
    from (
        select j.limit_key as key, count(*) as jobs from unnest(p_jobs) j where j.limit_key is not null group by j.limit_key
    ) t
    where exists (select from queue.limits l where l.name in (t.key, split_part(t.key, '/', 1)));
    rooms := array(select r from queue.room(keys) r);
    limited := cardinality(rooms) > 0;
    if not limited then
        keys := '{}';
        return;
    end if;
    if not exists (
        select from unnest(rooms) r join unnest(keys, admitted) t (key, jobs) using (key) where t.jobs > r.jobs
    ) then
        update queue.limit_keys k
        set arrival = r.arrival + t.jobs * r.per_job
        from unnest(rooms) r
        join unnest(keys, admitted) t (key, jobs) using (key)
        where k.key = r.key and r.per_job is not null;
        select coalesce(array_agg(t.key), '{}'), array_agg(t.jobs)
        into keys, admitted
        from unnest(rooms) r
        join unnest(keys, admitted) t (key, jobs) using (key)
        where r.counts;
        return;
    end if;
    with numbered as materialized (
        select j as job, r as room, row_number() over (partition by r.key order by j.rank, j.id) as place
        from unnest(p_jobs) j
        left join unnest(rooms) r on r.key = j.limit_key
    ), moved as (
        update queue.limit_keys k
        set arrival = case when c.per_job is not null then c.arrival + c.started * c.per_job end,
            opens_at = case when c.parked > 0 then queue.opens_at(c.room, c.started) else k.opens_at end
        from (
            select n.room, (n.room).key, (n.room).arrival, (n.room).per_job,
                   count(*) filter (where n.place <= (n.room).jobs) as started,
                   count(*) filter (where n.place > (n.room).jobs) as parked
            from numbered n where (n.room).key is not null group by n.room
        ) c
        where k.key = c.key
    ), parked as (
        insert into queue.jobs (id, run_at, rank, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
                                args_version, priority, suspect, turn, parked, queue, kind, args, unique_key, group_key,
                                trace_context, waiting, failures, redrives, limit_key, awaited)
        select j.id, j.run_at, j.rank, j.created_at, j.deadline_at, j.fence, j.attempt, j.attempts_max, j.crashes, j.crashes_alone,
               j.args_version, j.priority, j.suspect, false, true, j.queue, j.kind, j.args, j.unique_key, j.group_key,
               j.trace_context, j.waiting, j.failures, j.redrives, j.limit_key, j.awaited
        from numbered n
        cross join lateral (select (n.job).*) j
        where n.place > (n.room).jobs
    )
    select coalesce(array_agg(n.job) filter (where (n.room).key is null or n.place <= (n.room).jobs), '{}')
    into p_jobs
    from numbered n;
    select coalesce(array_agg(t.key), '{}'), array_agg(t.jobs)
    into keys, admitted
    from (select j.limit_key as key, count(*) as jobs from unnest(p_jobs) j group by j.limit_key) t
    where t.key = any(array(select r.key from unnest(rooms) r where r.counts));
end $$;

CREATE FUNCTION queue.cause(p_kind text, p_error_class text, p_error_code text, p_message text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select left(md5(p_kind || e'\n' || p_error_class || e'\n' || p_error_code || e'\n' || queue.message_pattern(p_message)), 12)
$$;

CREATE FUNCTION queue.claim(p_queue text, p_kinds text[], p_versions smallint[], p_worker bigint, p_limit bigint, p_ahead interval DEFAULT '00:00:00'::interval, p_suspects boolean DEFAULT false, p_since timestamp without time zone DEFAULT '-infinity'::timestamp without time zone, p_turned bigint[] DEFAULT NULL::bigint[], p_looks boolean DEFAULT NULL::boolean) RETURNS TABLE(claim_id bigint, claimed_at timestamp with time zone, id bigint, kind text, args_version smallint, args jsonb, fence bigint, attempt integer, attempts_max integer, deadline_at timestamp with time zone, unique_key text, group_key text, crashes_alone integer, trace_context text, limit_key text, awaited boolean, limited boolean, rank timestamp without time zone)
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_sort TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    AS $$
declare
    queue_key constant text := 'queue/' || p_queue;
    queue_is_limited boolean := false;
    has_keys boolean;
    is_limited boolean := false;
    counted text[];
    admitted bigint[];
    bound bigint := p_limit;
    taken queue.jobs[];
    again boolean := false;
    made bigint;
    made_at timestamptz;
begin
    if p_turned is not null then
        -- What counts against a limit goes by the line: its rows are not to be locked until a completion is on the disk.
        with gone as (
            delete from queue.jobs j
            where j.ctid = any(array(
                select c.ctid
                from queue.jobs c
                where c.id = any(p_turned) and c.queue = p_queue and not c.suspect and c.limit_key is null
                  and c.run_at <= (select clock_timestamp())
                  and c.kind = any(p_kinds)
                  and c.args_version <= p_versions[array_position(p_kinds, c.kind)]
                  and c.kind <> all(array(select p.name from queue.pauses p where p.target = 'kind'))
                  and not exists (select from queue.pauses p where p.target = 'queue' and p.name = p_queue)
                  and not exists (select from queue.limits l where l.name = queue_key)
                  and exists (select from queue.workers w where w.id = p_worker and not w.stopping)
                for update of c skip locked
            ))
            returning j as job
        )
        select array_agg(g.job) into taken from gone g;
    elsif p_looks and exists (select from queue.limit_keys k where k.opens_at <= (select clock_timestamp())) then
        again := true;
    else
        -- A build that does not know of this.
        if p_looks is null and exists (select from queue.limit_keys k where k.opens_at <= (select clock_timestamp())) then
            p_since := least(p_since, queue.let_in());
        end if;
        queue_is_limited := exists (select from queue.limits l where l.name = queue_key);
        if queue_is_limited then
            select least(p_limit, r.jobs) into bound from queue.room(array[queue_key]) r;
            bound := coalesce(bound, p_limit);
            if bound < p_limit then
                -- Nothing is parked for it, but whoever polls wants to know when it is worth while.
                update queue.limit_keys k
                set opens_at = queue.opens_at(r, bound)
                from queue.room(array[queue_key]) r
                where k.key = queue_key;
            end if;
        end if;
        if bound > 0 then
            with gone as (
                delete from queue.jobs j
                where j.ctid = any(array(
                    select c.ctid
                    from queue.jobs c
                    where c.queue = p_queue and c.suspect = p_suspects and c.turn and c.rank >= p_since
                      -- The clock is read in a sub-select: a volatile function cannot bound an index scan.
                      and c.rank <= (select clock_timestamp() at time zone 'UTC' + p_ahead)
                      and c.run_at <= (select clock_timestamp())
                      and c.kind = any(p_kinds)
                      and c.args_version <= p_versions[array_position(p_kinds, c.kind)]
                      and c.kind <> all(array(select p.name from queue.pauses p where p.target = 'kind'))
                      and not exists (select from queue.pauses p where p.target = 'queue' and p.name = p_queue)
                      and exists (select from queue.workers w where w.id = p_worker and not w.stopping)
                    order by c.rank, c.id
                    limit bound
                    for update of c skip locked
                ))
                returning j as job
            )
            select array_agg(g.job), bool_or((g.job).limit_key is not null) into taken, has_keys from gone g;
            if has_keys then
                select a.p_jobs, a.limited, a.keys, a.admitted into taken, is_limited, counted, admitted from queue.admit(taken) a;
            end if;
            again := p_looks is not null and cardinality(taken) = 0;
        end if;
    end if;
    if taken is null or cardinality(taken) = 0 then
        if again then
            return query select -1::bigint, clock_timestamp(), 0::bigint, '', 0::smallint, '{}'::jsonb, 0::bigint, 0, 0, null::timestamptz,
                                null::text, null::text, 0, null::text, null::text, false, false, clock_timestamp() at time zone 'UTC';
        end if;
        return;
    end if;

    insert into queue.claims as c (worker_id, queue, size, jobs)
    values (p_worker, p_queue, cardinality(taken), taken)
    returning c.id, c.claimed_at into made, made_at;
    if is_limited then
        insert into queue.limit_holds (claim_id, key, jobs)
        select made, h.key, h.jobs from unnest(counted, admitted) h (key, jobs);
    end if;
    if queue_is_limited then
        insert into queue.limit_holds (claim_id, key, jobs) values (made, queue_key, cardinality(taken));
        update queue.limit_keys k
        set arrival = greatest(k.arrival, clock_timestamp()) + cardinality(taken) * make_interval(secs => 1 / l.rate)
        from queue.limits l
        where k.key = queue_key and l.name = queue_key and l.rate is not null;
    end if;
    return query
    select made, made_at, j.id, j.kind, j.args_version, j.args, j.fence + 1, j.attempt + 1, j.attempts_max, j.deadline_at,
           j.unique_key, j.group_key, j.crashes_alone, j.trace_context, j.limit_key, coalesce(j.awaited, false),
           is_limited or queue_is_limited, j.rank
    from unnest(taken) j;
end $$;

CREATE FUNCTION queue.clock() RETURNS timestamp with time zone
    LANGUAGE sql
    AS $$ select clock_timestamp() $$;

CREATE FUNCTION queue.compensate(p_saga bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION queue.count_again(p_job bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION queue.count_jobs() RETURNS TABLE(queue text, available bigint, scheduled bigint, retryable bigint, running bigint, dead bigint, oldest_due_seconds double precision)
    LANGUAGE sql
    AS $$
    with live as (
        select j.queue as name,
               count(*) filter (where j.run_at <= clock_timestamp()) as available,
               count(*) filter (where j.run_at > clock_timestamp() and j.failures is null) as scheduled,
               count(*) filter (where j.run_at > clock_timestamp() and j.failures is not null) as retryable,
               extract(epoch from clock_timestamp() - min(j.run_at)
                   filter (where j.run_at <= clock_timestamp()))::double precision as oldest_due_seconds
        from queue.jobs j group by j.queue
    ), held as (
        select c.queue as name,
               sum(c.size - (select count(*) from queue.ended e where e.claim_id = c.id))::bigint as running
        from queue.claims c group by c.queue
    ), dead as (
        select d.queue as name, count(*) as dead from queue.dead_letters d group by d.queue
    ), names as (
        select l.name from live l union select h.name from held h union select d.name from dead d
        union select unnest(w.pools) from queue.workers w
        union select p.name from queue.pauses p where p.target = 'queue'
    )
    select n.name, coalesce(l.available, 0), coalesce(l.scheduled, 0), coalesce(l.retryable, 0), coalesce(h.running, 0),
           coalesce(d.dead, 0), l.oldest_due_seconds
    from names n
    left join live l using (name)
    left join held h using (name)
    left join dead d using (name)
$$;

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

CREATE FUNCTION queue.edited_fields(p_before jsonb, p_after jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select coalesce(jsonb_agg(coalesce(b.key, a.key) order by coalesce(b.key, a.key)), '[]')
    from jsonb_each(case when jsonb_typeof(p_before) = 'object' then p_before else '{}' end) b
    full join jsonb_each(case when jsonb_typeof(p_after) = 'object' then p_after else '{}' end) a on a.key = b.key
    where a.value is distinct from b.value
$$;

CREATE FUNCTION queue.enqueue(p_queue text, p_kind text, p_args jsonb, p_run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_unique_key text DEFAULT NULL::text, p_unique_scope text DEFAULT 'kept'::text, p_group_key text DEFAULT NULL::text, p_priority integer DEFAULT 0, p_attempts_max integer DEFAULT 20, p_deadline_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_args_version integer DEFAULT 1, p_trace_context text DEFAULT NULL::text, p_limit_key text DEFAULT NULL::text, OUT job_id bigint, OUT is_new boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    due timestamptz := coalesce(p_run_at, clock_timestamp());
    -- Read once: a volatile function cannot bound an index scan.
    present timestamptz := clock_timestamp();
    has_turn boolean := true;
begin
    perform queue.is_bounded(p_queue, p_kind, p_args, p_args_version::smallint, p_priority::smallint, p_attempts_max, p_unique_key,
                             p_group_key, p_limit_key);
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
                                   p_priority, p_attempts_max, p_deadline_at, p_args_version, p_trace_context, p_limit_key) e;
            end if;
            return;
        end if;
    end if;
    if p_group_key is not null then
        insert into queue.turns (group_key, holder) values (p_group_key, job_id) on conflict do nothing;
        has_turn := found;
    end if;

    -- The notification is a hint, and every one is paid for at commit: only an idle queue needs it. Where a job became due within
    -- the last second and still waits, somebody is awake. It looks back no further, because the head of the line is full of rows
    -- that are deleted and not yet vacuumed.
    if has_turn and due <= present and not exists (
        select from queue.jobs j
        where j.queue = p_queue and j.turn and not j.suspect
          and j.rank > (present - interval '1 s') at time zone 'UTC' and j.rank <= present at time zone 'UTC'
    ) then
        perform pg_notify('queue_jobs', p_queue);
    end if;

    insert into queue.jobs (id, queue, kind, args_version, args, priority, run_at, rank, attempts_max, deadline_at,
                            unique_key, group_key, trace_context, turn, limit_key)
    values (job_id, p_queue, p_kind, p_args_version, p_args, p_priority, due, queue.rank(due, p_priority), p_attempts_max, p_deadline_at,
            p_unique_key, p_group_key, p_trace_context, has_turn, p_limit_key);
end $$;

CREATE FUNCTION queue.enqueue_after_all(p_members bigint[], p_queue text, p_kind text, p_args jsonb, p_on_failure text DEFAULT 'run'::text, p_unique_key text DEFAULT NULL::text, p_unique_scope text DEFAULT 'kept'::text, p_priority integer DEFAULT 0, p_attempts_max integer DEFAULT 20, p_deadline_after interval DEFAULT NULL::interval, p_args_version integer DEFAULT 1, p_trace_context text DEFAULT NULL::text, p_limit_key text DEFAULT NULL::text, OUT job_id bigint, OUT is_new boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION queue.enqueue_debounced(p_wait interval, p_wait_max interval, p_queue text, p_kind text, p_args jsonb, p_unique_key text, p_group_key text DEFAULT NULL::text, p_priority integer DEFAULT 0, p_attempts_max integer DEFAULT 20, p_deadline_after interval DEFAULT NULL::interval, p_args_version integer DEFAULT 1, p_trace_context text DEFAULT NULL::text, p_limit_key text DEFAULT NULL::text, OUT job_id bigint, OUT is_new boolean) RETURNS record
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
    perform queue.is_bounded(p_queue, p_kind, p_args, p_args_version::smallint, p_priority::smallint, p_attempts_max, p_unique_key,
                             p_group_key, p_limit_key);
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

CREATE FUNCTION queue.enqueue_saga_job(p_id bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION queue.enqueue_within(p_within interval, p_queue text, p_kind text, p_args jsonb, p_run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_unique_key text DEFAULT NULL::text, p_unique_scope text DEFAULT 'kept'::text, p_group_key text DEFAULT NULL::text, p_priority integer DEFAULT 0, p_attempts_max integer DEFAULT 20, p_deadline_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_args_version integer DEFAULT 1, p_trace_context text DEFAULT NULL::text, p_limit_key text DEFAULT NULL::text, OUT job_id bigint, OUT is_new boolean) RETURNS record
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
        p_args_version => p_args_version, p_trace_context => p_trace_context, p_limit_key => p_limit_key) e;
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

CREATE FUNCTION queue.fire(p_name text, p_tick_at timestamp with time zone, p_reason text DEFAULT NULL::text, OUT outcome text, OUT job_id bigint, OUT reason text) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    entry queue.timetable%rowtype;
    -- An earlier run is looked for among the last hundred jobs of the entry.
    blocker bigint;
    made record;
begin
    select * into entry from queue.timetable t where t.name = p_name;
    if not found then
        return;
    end if;
    insert into queue.ticks (name, tick_at, reason) values (p_name, p_tick_at, p_reason) on conflict do nothing;
    if not found then
        return;
    end if;
    outcome := 'fired';
    reason := p_reason;

    if entry.overlap <> 'allow' then
        with recent as (
            select t.job_id as id from queue.ticks t
            where t.name = p_name and t.job_id is not null
            order by t.tick_at desc limit 100
        )
        select r.id into blocker from recent r
        where exists (select from queue.jobs j where j.id = r.id)
           or entry.overlap = 'skip' and r.id = any(array(select j.id from queue.running_jobs j))
        order by r.id limit 1;
        if blocker is not null then
            outcome := 'skipped';
            reason := format(case entry.overlap when 'skip' then 'job %s of an earlier tick has not ended'
                                                else 'job %s of an earlier tick still waits' end, blocker);
        end if;
    end if;
    if outcome = 'fired' then
        select e.job_id as id, e.is_new into made
        from queue.enqueue(
            entry.queue, entry.kind, entry.args,
            case when entry.jitter_seconds > 0
                 then clock_timestamp() + random() * make_interval(secs => entry.jitter_seconds) end,
            entry.unique_key, 'live',
            -- Who waits behind a run waits for its turn.
            case entry.overlap when 'queue_one' then coalesce(entry.group_key, 'timetable:' || entry.name)
                               else entry.group_key end,
            entry.priority::int, entry.attempts_max, null, entry.args_version::int) e;
        if made.is_new then
            job_id := made.id;
        else
            outcome := 'skipped';
            reason := format('job %s has its unique key %s and has not ended', made.id, entry.unique_key);
        end if;
    end if;
    update queue.ticks t set outcome = fire.outcome, job_id = fire.job_id, reason = fire.reason
    where t.name = p_name and t.tick_at = p_tick_at;
end $$;

CREATE FUNCTION queue.give_turns(p_groups text[], p_holders bigint[] DEFAULT '{}'::bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    these text[];
    turned bigint[];
    this text;
    next bigint;
begin
    -- Those who wait are committed, and whoever is still enqueueing has a higher number. Whoever else passes this turn on at the
    -- same moment finds another holder when it has the row.
    with first as materialized (
        select g.group_key, g.holders, g.holder, n.id
        from (
            select u.group_key, array_agg(u.holder) as holders, min(u.holder) as holder
            from unnest(p_groups, p_holders) u (group_key, holder)
            group by u.group_key order by u.group_key
        ) g
        left join lateral (
            select j.id from queue.jobs j
            where j.group_key = g.group_key and not j.turn
              and j.id > coalesce(g.holder, 0)
            order by j.id limit 1
        ) n on true
    ), passed as (
        update queue.turns t
        set holder = case when n.id is null or n.holder is not null and (t.vacant or t.passed_over) then t.holder else n.id end,
            vacant = n.id is null or n.holder is not null and (t.vacant or t.passed_over),
            passed_over = t.passed_over and (n.id is null or n.holder is not null)
        from first n
        where t.group_key = n.group_key and (t.vacant or t.holder = any(n.holders))
        returning t.group_key, case when not t.vacant then t.holder end as id
    )
    select coalesce(array_agg(p.id) filter (where p.id is not null), '{}'),
           array_agg(p.group_key order by p.group_key) filter (where p.id is null)
    into turned, these
    from passed p;
    foreach this in array coalesce(these, '{}') loop
        select j.id into next from queue.jobs j
        where j.group_key = this and not j.turn
        order by j.id limit 1;
        if next is null and pg_try_advisory_xact_lock(hashtextextended(this, 7)) then
            -- Nobody is enqueueing now: what there is to be seen can be seen.
            select j.id into next from queue.jobs j
            where j.group_key = this and not j.turn
            order by j.id limit 1;
            if next is null then
                delete from queue.turns t where t.group_key = this;
                continue;
            end if;
        end if;
        if next is not null then
            update queue.turns t set holder = next, vacant = false, passed_over = false where t.group_key = this;
            turned := turned || next;
        end if;
    end loop;
    return turned;
end $$;

CREATE FUNCTION queue.hold(p_claim bigint, p_job bigint, p_worker bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
begin
    perform pg_advisory_xact_lock_shared(1, (p_claim % 2147483647)::int);
    return exists (select from queue.claims c where c.id = p_claim and c.worker_id = p_worker)
       and not exists (select from queue.ended e where e.claim_id = p_claim and e.job_id = p_job);
end $$;

CREATE FUNCTION queue.hold_limits(p_claim bigint, p_keys text[]) RETURNS void
    LANGUAGE sql
    AS $$
    select from queue.limit_holds h where h.claim_id = p_claim and h.key = any(p_keys) order by h.key for update;
    select from queue.limit_keys k where k.key = any(p_keys) order by k.key not like 'queue/%', k.key for update;
$$;

CREATE FUNCTION queue.hold_some(p_claim bigint, p_jobs bigint[], p_worker bigint) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
begin
    perform pg_advisory_xact_lock_shared(1, (p_claim % 2147483647)::int);
    if not exists (select from queue.claims c where c.id = p_claim and c.worker_id = p_worker) then
        return 0;
    end if;
    return cardinality(p_jobs)
         - (select count(*) from queue.ended e where e.claim_id = p_claim and e.job_id = any(p_jobs));
end $$;

CREATE FUNCTION queue.how_ended(p_jobs bigint[]) RETURNS TABLE(id bigint, outcome text)
    LANGUAGE sql STABLE
    AS $$
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

CREATE FUNCTION queue.is_bounded(p_queue text, p_kind text, p_args jsonb, p_args_version smallint, p_priority smallint, p_attempts_max integer, p_unique_key text, p_group_key text, p_limit_key text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
declare
    longest constant int := 300;
begin
    if (length(p_queue) between 1 and 100 and length(p_kind) between 1 and 100 and p_args_version > 0
       and p_attempts_max between 1 and 1000 and p_priority between -10 and 10
       -- No text is eight times as long as what is stored of it.
       and (pg_column_size(p_args) <= 8192 or octet_length(p_args::text) <= 65536)
       and (p_unique_key is null or length(p_unique_key) <= longest)
       and (p_group_key is null or length(p_group_key) <= longest)
       and (p_limit_key is null or length(p_limit_key) <= longest)) is not false then
        -- What is missing is refused by the table.
        return true;
    end if;
    raise exception '%', case
            when length(p_queue) not between 1 and 100 then 'the name of a queue has from 1 to 100 characters'
            when length(p_kind) not between 1 and 100 then 'the name of a kind has from 1 to 100 characters'
            when p_args_version < 1 then 'versions of payloads count from 1'
            when p_attempts_max not between 1 and 1000 then format('a job has from 1 to 1000 attempts, not %s', p_attempts_max)
            when p_priority not between -10 and 10 then format('a priority is from -10 to 10, not %s', p_priority)
            when octet_length(p_args::text) > 65536
                then format('the payload of a %s job has at most 65536 bytes, not %s', p_kind, octet_length(p_args::text))
            when length(p_unique_key) > longest then format('a unique key has at most %s characters', longest)
            when length(p_group_key) > longest then format('a group key has at most %s characters', longest)
            else format('a limit key has at most %s characters', longest)
        end
        using errcode = 'check_violation', schema = 'queue', table = 'jobs', constraint = 'jobs_are_bounded';
end $$;

CREATE FUNCTION queue.keep_rank() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    new.rank := queue.rank(new.run_at, new.priority);
    return new;
end $$;

CREATE FUNCTION queue.let_go(p_claims bigint[], p_keys text[], p_succeeded boolean) RETURNS void
    LANGUAGE plpgsql
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS $$
begin
    -- In one order, since two transactions may let go of jobs of the same claim.
    perform from queue.limit_holds h where h.claim_id = any(p_claims) and h.key = any(p_keys) order by h.key, h.claim_id for update;
    with gone as (
        select c as claim_id, k as key, count(*) as jobs from unnest(p_claims, p_keys) u (c, k) group by 1, 2
    ), over as (
        delete from queue.limit_holds h using gone g where h.claim_id = g.claim_id and h.key = g.key and h.jobs <= g.jobs
    )
    update queue.limit_holds h
    set jobs = h.jobs - g.jobs
    from gone g
    where h.claim_id = g.claim_id and h.key = g.key and h.jobs > g.jobs;
    perform from queue.limit_keys k
    where k.key = any(p_keys) and (k.opens_at is not null or p_succeeded and (k.failures > 0 or k.open_until is not null))
    order by k.key not like 'queue/%', k.key for update;
    if found then
        update queue.limit_keys k
        set failures = case when p_succeeded then 0 else k.failures end,
            open_until = case when p_succeeded then null else k.open_until end,
            cause = case when p_succeeded then null else k.cause end,
            opens_at = case when p_succeeded or k.open_until is null then least(k.opens_at, clock_timestamp()) else k.opens_at end
        where k.key = any(p_keys) and (k.opens_at is not null or p_succeeded and (k.failures > 0 or k.open_until is not null));
    end if;
end $$;

CREATE FUNCTION queue.let_in() RETURNS timestamp without time zone
    LANGUAGE plpgsql
    SET jit TO 'off'
    AS $$
declare
    keys text[];
    rooms queue.room[];
    present timestamptz := clock_timestamp();
    lowest timestamp;
begin
    keys := array(
        select k.key from queue.limit_keys k where k.opens_at <= present order by k.opens_at limit 100 for update skip locked
    );
    if keys = '{}' then
        return 'infinity';
    end if;
    rooms := array(select r from queue.room(keys) r);
    with let_in as (
        update queue.jobs j
        set turn = true, parked = null
        where j.id = any(array(
            select p.id
            from unnest(keys) k (key)
            left join unnest(rooms) r on r.key = k.key
            cross join lateral (
                select o.id from queue.jobs o where o.parked and o.limit_key = k.key
                order by o.rank, o.id limit coalesce(r.jobs, 1000)
            ) p
        ))
        returning j.rank
    )
    select coalesce(min(l.rank), 'infinity') into lowest from let_in l;
    update queue.limit_keys k
    set opens_at = case
            when not exists (select from queue.jobs j where j.parked and j.limit_key = k.key) then null
            when r.key is null then present
            else queue.opens_at(r, r.jobs)
        end
    from unnest(keys) w (key)
    left join unnest(rooms) r on r.key = w.key
    where k.key = w.key;
    return lowest;
end $$;

CREATE FUNCTION queue.limit_failed(p_key text, p_cause text, p_retry_after interval) RETURNS timestamp with time zone
    LANGUAGE plpgsql
    AS $$
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

CREATE TABLE queue.limits (
    name text NOT NULL,
    concurrency integer,
    rate double precision,
    burst integer DEFAULT 1 NOT NULL,
    breaker_failures integer,
    breaker_seconds double precision DEFAULT 10 NOT NULL,
    actor text NOT NULL,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT limits_breaker_failures_check CHECK (((breaker_failures >= 1) AND (breaker_failures <= 10000))),
    CONSTRAINT limits_breaker_seconds_check CHECK (((breaker_seconds > (0)::double precision) AND (breaker_seconds <= (86400)::double precision))),
    CONSTRAINT limits_burst_check CHECK (((burst >= 1) AND (burst <= 100000))),
    CONSTRAINT limits_concurrency_check CHECK ((concurrency >= 0)),
    CONSTRAINT limits_name_check CHECK (((name <> ''::text) AND (length(name) <= 300))),
    CONSTRAINT limits_rate_check CHECK (((rate > (0)::double precision) AND (rate <= (100000)::double precision)))
);

CREATE FUNCTION queue.limit_of(p_key text) RETURNS queue.limits
    LANGUAGE sql STABLE
    AS $$
    select l from queue.limits l
    where l.name = p_key or (l.name = split_part(p_key, '/', 1) and p_key not like 'queue/%')
    order by length(l.name) desc limit 1
$$;

CREATE FUNCTION queue.line_up(p_jobs queue.jobs[]) RETURNS bigint
    LANGUAGE sql
    AS $$
    with lined_up as (
        insert into queue.jobs (id, run_at, rank, created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
                                args_version, priority, suspect, turn, queue, kind, args, unique_key, group_key, trace_context,
                                waiting, failures, redrives, limit_key, awaited)
        select id, run_at, queue.rank(run_at, priority), created_at, deadline_at, fence, attempt, attempts_max, crashes, crashes_alone,
               args_version, priority, suspect, true, queue, kind, args, unique_key, group_key, trace_context,
               waiting, failures, redrives, limit_key, awaited
        from unnest(p_jobs)
        returning id
    )
    select count(*) from lined_up
$$;

CREATE FUNCTION queue.measure(p_every interval DEFAULT '00:00:05'::interval) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
declare
    started timestamptz := clock_timestamp();
    before timestamptz;
begin
    if exists (select from queue.measures m
               where m.at > started - interval '10 minutes' and m.at + greatest(p_every, m.took * 50) > started)
       or not pg_try_advisory_xact_lock(hashtext('queue.measure')) then
        return false;
    end if;
    -- Whoever had the lock before has committed: it is seen only now.
    if exists (select from queue.measures m
               where m.at > started - interval '10 minutes' and m.at + greatest(p_every, m.took * 50) > started) then
        return false;
    end if;
    select max(m.at) into before from queue.measures m where m.at > started - interval '5 minutes';
    insert into queue.measures (at, queue, available, scheduled, retryable, running, dead, oldest_due_seconds, ended)
    select started, c.queue, c.available, c.scheduled, c.retryable, c.running, c.dead, c.oldest_due_seconds,
           coalesce(e.ended, 0)
    from queue.count_jobs() c
    left join (
        select f.queue, count(*) as ended
        from queue.finished_jobs f
        where f.kind = any(array(select distinct unnest(w.kinds) from queue.workers w))
          and f.finished_at > before - interval '1 second' and f.finished_at <= started - interval '1 second'
        group by f.queue
    ) e using (queue);
    update queue.measures m set took = clock_timestamp() - started where m.at = started;
    delete from queue.measures m where m.at < started - interval '10 minutes';
    return true;
end $$;

CREATE FUNCTION queue.message_pattern(p_message text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select left(regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
        left(p_message, 2048),
        '\m[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\M', '#', 'gi'),
        -- An apostrophe inside a word quotes nothing.
        '"[^"]*"|`[^`]*`|(?<!\w)''[^'']*''(?!\w)', '"#"', 'g'),
        '\m\w*\d\w*\M', '#', 'g'),
        '#(?:(?:[-+.:/]|, ?)#)+', '#', 'g'),
        '\s+', ' ', 'g'), 500)
$$;

CREATE FUNCTION queue.move_sagas(p_jobs bigint[], p_outcomes text[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION queue.opens_at(p_room queue.room, p_started bigint) RETURNS timestamp with time zone
    LANGUAGE sql
    AS $$
    select coalesce(
        p_room.open_until,
        least(clock_timestamp() + interval '5 s',
              nullif(greatest(p_room.arrival + (p_started + 1 - p_room.burst) * p_room.per_job, clock_timestamp()), clock_timestamp()))
    )
$$;

CREATE FUNCTION queue.pass_turns(p_groups text[], p_holders bigint[] DEFAULT '{}'::bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET enable_seqscan TO 'off'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    turned bigint[] := queue.give_turns(p_groups, p_holders);
begin
    update queue.jobs j set turn = true where j.id = any(turned);
end $$;

CREATE FUNCTION queue.place_in_line(p_job bigint, p_max bigint) RETURNS bigint
    LANGUAGE sql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    SET jit TO 'off'
    AS $$
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

CREATE FUNCTION queue.place_parked(p_job bigint, p_key text, p_max bigint) RETURNS bigint
    LANGUAGE sql STABLE
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    SET jit TO 'off'
    AS $$
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

CREATE FUNCTION queue.put_back(p_jobs queue.jobs[]) RETURNS bigint
    LANGUAGE sql
    AS $$
    select pg_notify('queue_jobs', q.name)
    from (select distinct j.queue from unnest(p_jobs) j where not j.suspect) q (name);
    select queue.line_up(p_jobs)
$$;

CREATE FUNCTION queue.rank(p_run_at timestamp with time zone, p_priority integer) RETURNS timestamp without time zone
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((p_run_at AT TIME ZONE 'UTC'::text) - make_interval(secs => ((p_priority * 30))::double precision));

CREATE FUNCTION queue.redrive(p_ids bigint[], p_args jsonb[], p_actor text, p_reason text, p_campaign_id bigint DEFAULT NULL::bigint) RETURNS TABLE(id bigint, taken_by bigint, edited_fields jsonb)
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
declare
    this text;
    lowest bigint;
    holding bigint;
    redriven bigint[];
    awaited bigint[];
    freed text[] := '{}';
begin
    perform queue.is_bounded(l.queue, l.kind, g.args, l.args_version, l.priority, l.attempts_max, null, null, null)
    from unnest(p_ids, p_args) g (id, args)
    join queue.dead_letters l on l.id = g.id
    where g.args is not null;

    -- As whoever enqueues into several groups: in the order of their keys.
    for this in
        select distinct l.group_key from queue.dead_letters l where l.id = any(p_ids) and l.group_key is not null order by 1
    loop
        perform pg_advisory_xact_lock(hashtextextended(this, 7));
    end loop;
    perform from queue.dead_letters l where l.id = any(p_ids) order by l.id for update;

    -- A live key was freed when the job died, a kept one never. Whose owner ends meanwhile is free at the next look.
    loop
        insert into queue.unique_keys (kind, key, job_id, scope)
        select l.kind, l.unique_key, l.id, 'live'
        from queue.dead_letters l
        where l.id = any(p_ids) and l.unique_key is not null
        order by l.kind, l.unique_key, l.id
        on conflict do nothing;
        exit when not exists (
            select from queue.dead_letters l
            where l.id = any(p_ids) and l.unique_key is not null
              and not exists (select from queue.unique_keys u where u.kind = l.kind and u.key = l.unique_key)
        );
    end loop;

    return query
    select l.id, u.job_id,
           case when g.args is null then '[]' else queue.edited_fields(l.args, g.args) end
    from unnest(p_ids, p_args) g (id, args)
    join queue.dead_letters l on l.id = g.id
    left join queue.unique_keys u on u.kind = l.kind and u.key = l.unique_key and u.job_id <> l.id;

    -- Whoever waits for one of them waits for it again.
    awaited := array(
        select x.id
        from (
            select l.id from queue.dead_letters l
            where l.id = any(p_ids)
              and not exists (select from queue.unique_keys u where u.kind = l.kind and u.key = l.unique_key and u.job_id <> l.id)
            order by l.id
            offset 0
        ) x
        where queue.count_again(x.id)
    );

    with revived as (
        delete from queue.dead_letters l
        using unnest(p_ids, p_args) g (id, args)
        where l.id = g.id
          and not exists (
              select from queue.unique_keys u where u.kind = l.kind and u.key = l.unique_key and u.job_id <> l.id
          )
        returning l.*, coalesce(g.args, l.args) as new_args, g.args is not null as is_edited
    ), lined_up as (
        insert into queue.jobs as j (id, queue, kind, args_version, args, priority, run_at, rank, fence, attempts_max, unique_key, group_key,
                                     limit_key, failures, redrives, trace_context, created_at, waiting, turn, awaited, suspect)
        select r.id, r.queue, r.kind, r.args_version, r.new_args, r.priority, now.at, queue.rank(now.at, r.priority), r.fence, r.attempts_max, r.unique_key, r.group_key,
               r.limit_key, nullif(r.report -> 'attempts', '[]'),
               coalesce(r.report -> 'redrives', '[]') || jsonb_strip_nulls(jsonb_build_object(
                   'by', p_actor, 'at', clock_timestamp(), 'reason', p_reason, 'campaign_id', p_campaign_id,
                   'edited_fields', case when r.is_edited then queue.edited_fields(r.args, r.new_args) else '[]' end)),
               r.trace_context, r.created_at,
               'redriven by ' || p_actor || coalesce(' in campaign ' || p_campaign_id, ''), r.group_key is null,
               nullif(r.id = any(awaited), false), r.error_code = 'crashed_alone'
        from revived r
        cross join (select clock_timestamp() as at) now
        order by r.id
        returning j.id
    )
    select array_agg(l.id) into redriven from lined_up l;

    for this, lowest in
        select j.group_key, min(j.id) from queue.jobs j
        where j.id = any(redriven) and j.group_key is not null
        group by j.group_key order by 1
    loop
        insert into queue.turns (group_key, holder, vacant) values (this, lowest, true) on conflict do nothing;
        if not found then
            select t.holder into holding from queue.turns t where t.group_key = this for update;
            if holding <> all(redriven) then
                -- One that is being claimed this moment is locked: it has started.
                update queue.jobs j set turn = false
                where j.id = (
                    select w.id from queue.jobs w
                    where w.id = holding and w.id > lowest and w.turn and w.attempt = 0 and w.crashes = 0
                    for update skip locked
                );
                if not found then
                    update queue.turns t set passed_over = true where t.group_key = this and t.holder > lowest;
                    continue;
                end if;
            end if;
            update queue.turns t set vacant = true where t.group_key = this;
        end if;
        freed := freed || this;
    end loop;
    perform queue.pass_turns(freed);
    perform pg_notify('queue_jobs', q.name)
    from (select distinct j.queue from queue.jobs j where j.id = any(redriven)) q (name);
end $$;

CREATE FUNCTION queue.release_waiter(p_waiter bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION queue.room(p_keys text[]) RETURNS SETOF queue.room
    LANGUAGE plpgsql
    SET jit TO 'off'
    AS $$
declare
    present timestamptz;
begin
    insert into queue.limit_keys (key)
    select distinct k from unnest(p_keys) k where not exists (select from queue.limit_keys o where o.key = k) order by 1
    on conflict do nothing;
    perform from queue.limit_keys k where k.key = any(p_keys) order by k.key for update;
    present := clock_timestamp();
    return query
    select k.key,
           greatest(least(
               l.concurrency - h.jobs,
               floor(extract(epoch from present - a.arrival + l.burst * g.per_job) / extract(epoch from g.per_job)),
               case when k.open_until > present then 0 when k.open_until is not null then 1 - h.jobs end,
               1000000000
           ), 0)::bigint,
           a.arrival, g.per_job, l.burst, l.concurrency is not null or l.breaker_failures is not null,
           case when k.open_until > present then k.open_until end
    from queue.limit_keys k
    cross join lateral (
        select o.* from queue.limits o
        where o.name = k.key or (o.name = split_part(k.key, '/', 1) and k.key not like 'queue/%')
        order by length(o.name) desc limit 1
    ) l
    cross join lateral (select make_interval(secs => 1 / l.rate) as per_job) g
    cross join lateral (select greatest(k.arrival, present) as arrival) a
    cross join lateral (select coalesce(sum(o.jobs), 0) as jobs from queue.limit_holds o where o.key = k.key) h
    where k.key = any(p_keys);
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
    perform from queue.limit_holds h where h.claim_id = any(mine) order by h.key, h.claim_id for update;
    perform from queue.limit_keys k
    where k.opens_at is not null and k.open_until is null
      and k.key in (select h.key from queue.limit_holds h where h.claim_id = any(mine))
    order by k.key not like 'queue/%', k.key for update;
    update queue.limit_keys k set opens_at = clock_timestamp()
    where k.opens_at is not null and k.open_until is null
      and k.key in (select h.key from queue.limit_holds h where h.claim_id = any(mine));
    delete from queue.limit_holds h where h.claim_id = any(mine);
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

CREATE FUNCTION queue.sweep_waiters(p_all boolean DEFAULT false) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION queue.take(p_claim bigint, p_job bigint, p_worker bigint) RETURNS TABLE(claimed_at timestamp with time zone, job queue.jobs)
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION queue.tell_waiters(p_jobs bigint[], p_outcomes text[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
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
    partner_id uuid,
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
    partner_id uuid,
    endpoint_id uuid,
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

CREATE TABLE public.inbound_events (
    source text NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    payload bytea NOT NULL,
    received_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    processed_at timestamp with time zone,
    CONSTRAINT inbound_events_event_id_check CHECK (((length(event_id) >= 1) AND (length(event_id) <= 255))),
    CONSTRAINT inbound_events_payload_check CHECK ((octet_length(payload) <= 262144)),
    CONSTRAINT inbound_events_source_check CHECK (((length(source) >= 1) AND (length(source) <= 100))),
    CONSTRAINT inbound_events_type_check CHECK ((length(type) <= 255))
);

COMMENT ON TABLE public.inbound_events IS 'Verified events of others, once each, as their raw bytes; kept longer than any sender goes on retrying.';

CREATE TABLE public.inbound_rejections (
    partner_id uuid NOT NULL,
    rejected bigint DEFAULT 0 NOT NULL,
    last_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE public.inbound_webhooks (
    partner_id uuid NOT NULL,
    event_id text NOT NULL,
    type text NOT NULL,
    raw bytea NOT NULL,
    sent_at timestamp with time zone NOT NULL,
    state text DEFAULT 'received'::text NOT NULL,
    reason text,
    duplicates integer DEFAULT 0 NOT NULL,
    received_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    processed_at timestamp with time zone,
    CONSTRAINT inbound_webhooks_event_id_check CHECK (((length(event_id) >= 1) AND (length(event_id) <= 255))),
    CONSTRAINT inbound_webhooks_raw_check CHECK ((octet_length(raw) <= 262144)),
    CONSTRAINT inbound_webhooks_state_check CHECK ((state = ANY (ARRAY['received'::text, 'processed'::text, 'refused'::text, 'ignored'::text, 'dead'::text]))),
    CONSTRAINT inbound_webhooks_type_check CHECK ((length(type) <= 100))
);

CREATE TABLE public.ledger_entries (
    id bigint NOT NULL,
    transaction_id bigint NOT NULL,
    account text NOT NULL,
    seller_id uuid NOT NULL,
    amount_minor bigint NOT NULL,
    CONSTRAINT ledger_entries_account_check CHECK ((account = ANY (ARRAY['sales'::text, 'commission'::text, 'seller'::text, 'payouts'::text]))),
    CONSTRAINT ledger_entries_amount_minor_check CHECK ((amount_minor <> 0))
);

COMMENT ON TABLE public.ledger_entries IS 'Double entry: those of one transaction sum to zero for each seller. Only ever added to.';

ALTER TABLE public.ledger_entries ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.ledger_entries_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.ledger_transactions (
    id bigint NOT NULL,
    cause text NOT NULL,
    payment_id uuid,
    payout_id uuid,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE public.ledger_transactions ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.ledger_transactions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
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

CREATE TABLE public.orphan_charges (
    movement text NOT NULL,
    intent text,
    amount_minor bigint NOT NULL,
    currency text NOT NULL,
    moved_at timestamp with time zone NOT NULL,
    seen_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    resolved_at timestamp with time zone,
    resolved_by text,
    resolution text,
    CONSTRAINT orphan_charges_amount_minor_check CHECK ((amount_minor <> 0)),
    CONSTRAINT orphan_charges_resolution_check CHECK (((resolution <> ''::text) AND (length(resolution) <= 500))),
    CONSTRAINT resolved_says_by_whom_and_how CHECK ((((resolved_at IS NULL) = (resolved_by IS NULL)) AND ((resolved_at IS NULL) = (resolution IS NULL))))
);

COMMENT ON TABLE public.orphan_charges IS 'Movements on the gateway''s balance that belong to no payment of ours: each needs a person.';

CREATE TABLE public.partners (
    id uuid NOT NULL,
    name text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    paused_reason text,
    event_types text[] DEFAULT '{*}'::text[] NOT NULL,
    inbound_secrets text[] NOT NULL,
    old_secrets_until timestamp with time zone,
    endpoints_max integer DEFAULT 10 NOT NULL,
    concurrency integer,
    rate double precision,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT partners_concurrency_check CHECK (((concurrency >= 1) AND (concurrency <= 1000))),
    CONSTRAINT partners_endpoints_max_check CHECK (((endpoints_max >= 0) AND (endpoints_max <= 100))),
    CONSTRAINT partners_event_types_check CHECK (((cardinality(event_types) >= 1) AND (cardinality(event_types) <= 50))),
    CONSTRAINT partners_inbound_secrets_check CHECK (((cardinality(inbound_secrets) >= 1) AND (cardinality(inbound_secrets) <= 3))),
    CONSTRAINT partners_name_check CHECK ((name ~ '^[a-z0-9][a-z0-9-]{0,62}$'::text)),
    CONSTRAINT partners_rate_check CHECK (((rate >= (0.0001)::double precision) AND (rate <= (100000)::double precision))),
    CONSTRAINT partners_state_check CHECK ((state = ANY (ARRAY['active'::text, 'paused'::text])))
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

CREATE TABLE public.payment_events (
    id bigint NOT NULL,
    payment_id uuid NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    what text NOT NULL,
    state text NOT NULL,
    op text,
    seq integer,
    amount_minor bigint NOT NULL,
    captured_minor bigint,
    refunded_minor bigint,
    sends integer,
    http_status integer,
    request_id text,
    error_code text,
    CONSTRAINT payment_events_check CHECK (((what = 'attempt'::text) = ((op IS NOT NULL) AND (seq IS NOT NULL)))),
    CONSTRAINT payment_events_what_check CHECK ((what = ANY (ARRAY['payment'::text, 'attempt'::text])))
);

COMMENT ON TABLE public.payment_events IS 'The timeline of each payment: one line for each change of it or of one of its attempts. Only ever added to.';

ALTER TABLE public.payment_events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.payment_events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
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

CREATE TABLE public.payouts (
    id uuid NOT NULL,
    seller_id uuid NOT NULL,
    seq integer NOT NULL,
    idem_key text NOT NULL,
    amount_minor bigint NOT NULL,
    currency character(3) NOT NULL,
    destination text NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    sends integer DEFAULT 0 NOT NULL,
    gateway_ref text,
    error_code text,
    message text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    settled_at timestamp with time zone,
    CONSTRAINT paid_names_the_transfer CHECK (((state <> 'paid'::text) OR (gateway_ref IS NOT NULL))),
    CONSTRAINT payouts_amount_minor_check CHECK ((amount_minor > 0)),
    CONSTRAINT payouts_sends_check CHECK ((sends >= 0)),
    CONSTRAINT payouts_seq_check CHECK ((seq > 0)),
    CONSTRAINT payouts_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'paid'::text, 'failed'::text])))
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
    seller_id uuid,
    CONSTRAINT products_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT products_name_check CHECK (((name <> ''::text) AND (length(name) <= 300))),
    CONSTRAINT products_price_minor_check CHECK (((price_minor >= 0) AND (price_minor <= '100000000000'::bigint))),
    CONSTRAINT products_reorder_point_check CHECK ((reorder_point >= 0)),
    CONSTRAINT products_sku_check CHECK (((sku <> ''::text) AND (length(sku) <= 64))),
    CONSTRAINT products_volume_cm3_check CHECK ((volume_cm3 > 0)),
    CONSTRAINT products_weight_grams_check CHECK ((weight_grams > 0))
);

CREATE TABLE public.purged_events (
    up_to bigint NOT NULL,
    only_row boolean DEFAULT true NOT NULL,
    CONSTRAINT purged_events_only_row_check CHECK (only_row)
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

CREATE TABLE public.road_matrices (
    id uuid NOT NULL,
    warehouse_id uuid NOT NULL,
    provider text NOT NULL,
    data_version text NOT NULL,
    profile text NOT NULL,
    points_hash bytea NOT NULL,
    points bytea NOT NULL,
    ways bytea NOT NULL,
    made_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    used_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT road_matrices_check CHECK ((octet_length(ways) = (((octet_length(points) / 8) * (octet_length(points) / 8)) * 8))),
    CONSTRAINT road_matrices_points_check CHECK ((((octet_length(points) % 8) = 0) AND (octet_length(points) > 0))),
    CONSTRAINT road_matrices_points_hash_check CHECK ((octet_length(points_hash) = 32)),
    CONSTRAINT road_matrices_profile_check CHECK ((profile <> ''::text)),
    CONSTRAINT road_matrices_provider_check CHECK ((provider <> ''::text))
);

CREATE TABLE public.route_checkpoints (
    warehouse_id uuid NOT NULL,
    date date NOT NULL,
    job_id bigint NOT NULL,
    fence bigint NOT NULL,
    input_hash bytea NOT NULL,
    iterations bigint NOT NULL,
    iterations_budget bigint NOT NULL,
    cost bigint NOT NULL,
    routes jsonb NOT NULL,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT route_checkpoints_iterations_check CHECK ((iterations >= 0))
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
    cost bigint,
    iterations_budget bigint,
    iterations_before bigint,
    move_cost bigint,
    start jsonb,
    replaces uuid,
    shipment_ids uuid[],
    vehicle_ids uuid[],
    busy_vehicle_ids uuid[],
    matrix_id uuid,
    approximate boolean DEFAULT false NOT NULL,
    left_out jsonb DEFAULT '[]'::jsonb NOT NULL,
    CONSTRAINT route_plans_left_out_check CHECK ((jsonb_typeof(left_out) = 'array'::text)),
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
    locked_stops integer DEFAULT 0 NOT NULL,
    rest_after_stops integer,
    rest_starts_at integer,
    CONSTRAINT routes_locked_stops_check CHECK ((locked_stops >= 0)),
    CONSTRAINT routes_rest_after_stops_check CHECK ((rest_after_stops >= 0)),
    CONSTRAINT routes_rest_is_whole CHECK (((rest_after_stops IS NULL) = (rest_starts_at IS NULL))),
    CONSTRAINT routes_state_check CHECK ((state = ANY (ARRAY['planned'::text, 'dispatched'::text, 'superseded'::text])))
);

CREATE TABLE public.sales (
    payment_id uuid NOT NULL,
    seller_id uuid NOT NULL,
    gross_minor bigint NOT NULL,
    commission_minor bigint NOT NULL,
    gross_kept_minor bigint DEFAULT 0 NOT NULL,
    commission_kept_minor bigint DEFAULT 0 NOT NULL,
    CONSTRAINT sales_check CHECK (((commission_minor >= 0) AND (commission_minor <= gross_minor))),
    CONSTRAINT sales_check1 CHECK (((gross_kept_minor >= 0) AND (gross_kept_minor <= gross_minor))),
    CONSTRAINT sales_check2 CHECK (((commission_kept_minor >= 0) AND (commission_kept_minor <= commission_minor))),
    CONSTRAINT sales_gross_minor_check CHECK ((gross_minor > 0))
);

CREATE TABLE public.sellers (
    id uuid NOT NULL,
    name text NOT NULL,
    destination text NOT NULL,
    currency character(3) NOT NULL,
    commission_bp integer NOT NULL,
    payout_min_minor bigint DEFAULT 100 NOT NULL,
    payouts_paused boolean DEFAULT false NOT NULL,
    balance_minor bigint DEFAULT 0 NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT sellers_commission_bp_check CHECK (((commission_bp >= 0) AND (commission_bp <= 10000))),
    CONSTRAINT sellers_currency_check CHECK ((currency ~ '^[A-Z]{3}$'::text)),
    CONSTRAINT sellers_destination_check CHECK ((destination ~ '^acct_[A-Za-z0-9_]{1,200}$'::text)),
    CONSTRAINT sellers_name_check CHECK (((name <> ''::text) AND (length(name) <= 200))),
    CONSTRAINT sellers_payout_min_minor_check CHECK ((payout_min_minor > 0))
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
    priority smallint DEFAULT 3 NOT NULL,
    skills text[] DEFAULT '{}'::text[] NOT NULL,
    later_windows integer[] DEFAULT '{}'::integer[] NOT NULL,
    CONSTRAINT shipments_check CHECK (((window_start < window_end) AND (window_end <= 86400))),
    CONSTRAINT shipments_later_windows_check CHECK ((((cardinality(later_windows) % 2) = 0) AND (cardinality(later_windows) <= 14))),
    CONSTRAINT shipments_priority_check CHECK (((priority >= 1) AND (priority <= 3))),
    CONSTRAINT shipments_service_seconds_check CHECK (((service_seconds >= 0) AND (service_seconds <= 14400))),
    CONSTRAINT shipments_skills_check CHECK ((cardinality(skills) <= 16)),
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
    skills text[] DEFAULT '{}'::text[] NOT NULL,
    seconds_max integer,
    metres_max bigint,
    fixed_cost bigint DEFAULT 20000 NOT NULL,
    metre_cost bigint DEFAULT 1 NOT NULL,
    second_cost bigint DEFAULT 0 NOT NULL,
    rest_start integer,
    rest_end integer,
    rest_seconds integer,
    CONSTRAINT vehicles_capacity_cm3_check CHECK ((capacity_cm3 > 0)),
    CONSTRAINT vehicles_capacity_grams_check CHECK ((capacity_grams > 0)),
    CONSTRAINT vehicles_check CHECK (((shift_start < shift_end) AND (shift_end <= 86400))),
    CONSTRAINT vehicles_fixed_cost_check CHECK (((fixed_cost >= 0) AND (fixed_cost <= '1000000000000'::bigint))),
    CONSTRAINT vehicles_metre_cost_check CHECK (((metre_cost >= 0) AND (metre_cost <= 1000000))),
    CONSTRAINT vehicles_metres_max_check CHECK ((metres_max > 0)),
    CONSTRAINT vehicles_name_check CHECK ((name <> ''::text)),
    CONSTRAINT vehicles_rest_is_whole CHECK ((((rest_start IS NULL) AND (rest_end IS NULL) AND (rest_seconds IS NULL)) OR ((rest_start IS NOT NULL) AND (rest_seconds IS NOT NULL) AND ((rest_end >= rest_start) AND (rest_end <= 86400))))),
    CONSTRAINT vehicles_rest_seconds_check CHECK (((rest_seconds >= 1) AND (rest_seconds <= 28800))),
    CONSTRAINT vehicles_rest_start_check CHECK (((rest_start >= 0) AND (rest_start <= 86400))),
    CONSTRAINT vehicles_second_cost_check CHECK (((second_cost >= 0) AND (second_cost <= 1000000))),
    CONSTRAINT vehicles_seconds_max_check CHECK ((seconds_max > 0)),
    CONSTRAINT vehicles_shift_start_check CHECK (((shift_start >= 0) AND (shift_start <= 86400))),
    CONSTRAINT vehicles_skills_check CHECK ((cardinality(skills) <= 16)),
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
    road_factor double precision,
    speed_kmh double precision,
    CONSTRAINT warehouses_code_check CHECK (((code <> ''::text) AND (length(code) <= 32))),
    CONSTRAINT warehouses_lat_check CHECK (((lat >= ('-90'::integer)::double precision) AND (lat <= (90)::double precision))),
    CONSTRAINT warehouses_lon_check CHECK (((lon >= ('-180'::integer)::double precision) AND (lon <= (180)::double precision))),
    CONSTRAINT warehouses_road_factor_check CHECK (((road_factor >= (1)::double precision) AND (road_factor <= (3)::double precision))),
    CONSTRAINT warehouses_speed_kmh_check CHECK (((speed_kmh >= (5)::double precision) AND (speed_kmh <= (130)::double precision)))
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
    prev_seq bigint,
    dead_job_id bigint,
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
    partner_id uuid,
    old_secrets_until timestamp with time zone,
    concurrency integer,
    rate double precision,
    dead_head text DEFAULT 'skip'::text NOT NULL,
    exhausted_at timestamp with time zone,
    challenge text,
    CONSTRAINT only_lines_are_blocked CHECK (((dead_head = 'skip'::text) OR (ordering <> 'none'::text))),
    CONSTRAINT webhook_endpoints_challenge_check CHECK (((length(challenge) >= 20) AND (length(challenge) <= 100))),
    CONSTRAINT webhook_endpoints_concurrency_check CHECK (((concurrency >= 1) AND (concurrency <= 1000))),
    CONSTRAINT webhook_endpoints_dead_head_check CHECK ((dead_head = ANY (ARRAY['skip'::text, 'block'::text]))),
    CONSTRAINT webhook_endpoints_ordering_check CHECK ((ordering = ANY (ARRAY['none'::text, 'per_key'::text, 'strict'::text]))),
    CONSTRAINT webhook_endpoints_rate_check CHECK (((rate >= (0.0001)::double precision) AND (rate <= (100000)::double precision))),
    CONSTRAINT webhook_endpoints_secrets_check CHECK (((cardinality(secrets) >= 1) AND (cardinality(secrets) <= 3))),
    CONSTRAINT webhook_endpoints_state_check CHECK ((state = ANY (ARRAY['active'::text, 'disabled'::text, 'unconfirmed'::text]))),
    CONSTRAINT webhook_endpoints_url_check CHECK ((length(url) <= 2000)),
    CONSTRAINT what_is_unconfirmed_has_a_challenge CHECK (((state <> 'unconfirmed'::text) OR (challenge IS NOT NULL)))
);

CREATE TABLE queue.claims (
    id bigint DEFAULT (floor((random() * ('9007199254740992'::bigint)::double precision)))::bigint NOT NULL,
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
    limit_key text,
    pattern text GENERATED ALWAYS AS (queue.message_pattern(message)) STORED,
    cause text GENERATED ALWAYS AS (queue.cause(kind, error_class, error_code, message)) STORED,
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

CREATE TABLE queue.campaign_causes (
    campaign_id bigint NOT NULL,
    cause text NOT NULL,
    kind text NOT NULL,
    error_class text NOT NULL,
    error_code text NOT NULL,
    pattern text NOT NULL,
    state text DEFAULT 'canary'::text NOT NULL,
    halted_because text,
    begun_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    canary_left integer NOT NULL,
    waiting integer DEFAULT 0 NOT NULL,
    in_flight integer DEFAULT 0 NOT NULL,
    completed integer DEFAULT 0 NOT NULL,
    died integer DEFAULT 0 NOT NULL,
    given_up integer DEFAULT 0 NOT NULL,
    skipped integer DEFAULT 0 NOT NULL,
    CONSTRAINT campaign_causes_canary_left_check CHECK ((canary_left >= 0)),
    CONSTRAINT campaign_causes_in_flight_check CHECK ((in_flight >= 0)),
    CONSTRAINT campaign_causes_state_check CHECK ((state = ANY (ARRAY['canary'::text, 'released'::text, 'halted'::text, 'finished'::text]))),
    CONSTRAINT campaign_causes_waiting_check CHECK ((waiting >= 0))
);

CREATE TABLE queue.campaign_letters (
    campaign_id bigint NOT NULL,
    job_id bigint NOT NULL,
    cause text NOT NULL,
    group_key text,
    fence bigint NOT NULL,
    args_before jsonb,
    args jsonb,
    state text DEFAULT 'waiting'::text NOT NULL,
    skipped_because text,
    died_of text,
    redriven_at timestamp with time zone,
    ended_at timestamp with time zone,
    CONSTRAINT campaign_letters_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'redriven'::text, 'completed'::text, 'died'::text, 'discarded'::text, 'cancelled'::text, 'skipped'::text])))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.05');

CREATE TABLE queue.campaigns (
    id bigint NOT NULL,
    state text DEFAULT 'running'::text NOT NULL,
    state_reason text,
    state_actor text,
    actor text NOT NULL,
    reason text NOT NULL,
    selection jsonb NOT NULL,
    patch jsonb,
    canary integer NOT NULL,
    failure_share double precision NOT NULL,
    failure_window integer NOT NULL,
    per_second double precision NOT NULL,
    in_flight_max integer NOT NULL,
    paced_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    moved_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    look_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT campaigns_canary_check CHECK (((canary >= 1) AND (canary <= 1000))),
    CONSTRAINT campaigns_failure_share_check CHECK (((failure_share >= (0)::double precision) AND (failure_share < (1)::double precision))),
    CONSTRAINT campaigns_failure_window_check CHECK (((failure_window >= 1) AND (failure_window <= 10000))),
    CONSTRAINT campaigns_in_flight_max_check CHECK (((in_flight_max >= 1) AND (in_flight_max <= 10000))),
    CONSTRAINT campaigns_per_second_check CHECK (((per_second >= (0.01)::double precision) AND (per_second <= (10000)::double precision))),
    CONSTRAINT campaigns_state_check CHECK ((state = ANY (ARRAY['running'::text, 'paused'::text, 'halted'::text, 'cancelled'::text, 'finished'::text])))
);

ALTER TABLE queue.campaigns ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME queue.campaigns_id_seq
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

CREATE TABLE queue.limit_holds (
    claim_id bigint NOT NULL,
    key text NOT NULL,
    jobs integer NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='500', autovacuum_vacuum_cost_delay='0');

CREATE TABLE queue.limit_keys (
    key text NOT NULL,
    arrival timestamp with time zone,
    opens_at timestamp with time zone,
    failures integer DEFAULT 0 NOT NULL,
    open_until timestamp with time zone,
    cause text
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='500', autovacuum_vacuum_cost_delay='0');

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

CREATE TABLE queue.measures (
    at timestamp with time zone NOT NULL,
    queue text NOT NULL,
    available bigint NOT NULL,
    scheduled bigint NOT NULL,
    retryable bigint NOT NULL,
    running bigint NOT NULL,
    dead bigint NOT NULL,
    oldest_due_seconds double precision,
    ended bigint NOT NULL,
    took interval
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000');

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

CREATE VIEW queue.rates AS
 WITH last AS (
         SELECT max(m_1.at) AS at
           FROM queue.measures m_1
        ), span AS (
         SELECT l_1.at AS last_at,
            f.at AS first_at,
            (NULLIF(EXTRACT(epoch FROM (l_1.at - f.at)), (0)::numeric))::double precision AS seconds
           FROM (last l_1
             CROSS JOIN LATERAL ( SELECT COALESCE(max(m_1.at) FILTER (WHERE (m_1.at <= (l_1.at - '00:01:00'::interval))), min(m_1.at)) AS at
                   FROM queue.measures m_1
                  WHERE (m_1.at > (l_1.at - '00:05:00'::interval))) f)
        ), moved AS (
         SELECT m_1.queue,
            s.seconds,
            sum(m_1.ended) FILTER (WHERE (m_1.at > s.first_at)) AS ended,
            (sum(((((m_1.available + m_1.scheduled) + m_1.retryable) + m_1.running) + m_1.dead)) FILTER (WHERE (m_1.at = s.last_at)) - COALESCE(sum(((((m_1.available + m_1.scheduled) + m_1.retryable) + m_1.running) + m_1.dead)) FILTER (WHERE (m_1.at = s.first_at)), (0)::numeric)) AS grown
           FROM (queue.measures m_1
             CROSS JOIN span s)
          WHERE (m_1.at >= s.first_at)
          GROUP BY m_1.queue, s.seconds
        ), speeds AS (
         SELECT v_1.queue,
            ((v_1.ended)::double precision / v_1.seconds) AS completed_per_second,
            ((GREATEST((v_1.grown + v_1.ended), (0)::numeric))::double precision / v_1.seconds) AS arrived_per_second
           FROM moved v_1
        )
 SELECT m.queue,
    m.at,
    m.available,
    m.scheduled,
    m.retryable,
    m.running,
    m.dead,
    m.oldest_due_seconds,
    v.completed_per_second,
    v.arrived_per_second,
        CASE
            WHEN (m.available = 0) THEN (0)::double precision
            WHEN (v.completed_per_second > (0)::double precision) THEN LEAST(((m.available)::double precision / v.completed_per_second), (86400)::double precision)
            WHEN (v.completed_per_second = (0)::double precision) THEN (86400)::double precision
            ELSE NULL::double precision
        END AS drain_seconds
   FROM ((last l
     JOIN queue.measures m ON ((m.at = l.at)))
     LEFT JOIN speeds v ON ((v.queue = m.queue)));

CREATE TABLE queue.saga_jobs (
    id bigint NOT NULL,
    saga_id bigint NOT NULL,
    step integer NOT NULL,
    undo boolean NOT NULL,
    queue text NOT NULL,
    kind text NOT NULL,
    args_version smallint NOT NULL,
    args jsonb NOT NULL,
    priority smallint NOT NULL,
    attempts_max integer NOT NULL,
    deadline_after interval,
    job_id bigint,
    outcome text,
    CONSTRAINT saga_job_args_are_small CHECK ((pg_column_size(args) <= 65536)),
    CONSTRAINT saga_jobs_step_check CHECK (((step >= 1) AND (step <= 100)))
);

ALTER TABLE queue.saga_jobs ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME queue.saga_jobs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE queue.sagas (
    id bigint NOT NULL,
    name text NOT NULL,
    key text NOT NULL,
    state text DEFAULT 'running'::text NOT NULL,
    failed_step integer,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT sagas_key_check CHECK ((length(key) <= 300)),
    CONSTRAINT sagas_name_check CHECK (((name <> ''::text) AND (length(name) <= 100))),
    CONSTRAINT sagas_state_check CHECK ((state = ANY (ARRAY['running'::text, 'compensating'::text, 'completed'::text, 'compensated'::text, 'compensation_failed'::text])))
);

ALTER TABLE queue.sagas ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME queue.sagas_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE queue.schedule_overrides (
    name text NOT NULL,
    cron text,
    time_zone text,
    missed text,
    overlap text,
    jitter_seconds integer,
    reason text NOT NULL,
    actor text NOT NULL,
    changed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT schedule_overrides_jitter_seconds_check CHECK (((jitter_seconds >= 0) AND (jitter_seconds <= 3600))),
    CONSTRAINT schedule_overrides_missed_check CHECK ((missed = ANY (ARRAY['skip'::text, 'once'::text, 'all'::text]))),
    CONSTRAINT schedule_overrides_overlap_check CHECK ((overlap = ANY (ARRAY['allow'::text, 'skip'::text, 'queue_one'::text])))
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
    overlap text DEFAULT 'allow'::text NOT NULL,
    jitter_seconds integer DEFAULT 0 NOT NULL,
    group_key text,
    origin text DEFAULT 'build'::text NOT NULL,
    retired_at timestamp with time zone,
    next_at timestamp with time zone,
    pause_reason text,
    paused_by text,
    paused_at timestamp with time zone,
    CONSTRAINT schedule_args_are_small CHECK ((pg_column_size(args) <= 65536)),
    CONSTRAINT schedule_names_are_short CHECK (((name <> ''::text) AND (length(name) <= 100))),
    CONSTRAINT schedules_group_key_check CHECK ((length(group_key) <= 300)),
    CONSTRAINT schedules_jitter_seconds_check CHECK (((jitter_seconds >= 0) AND (jitter_seconds <= 3600))),
    CONSTRAINT schedules_missed_check CHECK ((missed = ANY (ARRAY['skip'::text, 'once'::text, 'all'::text]))),
    CONSTRAINT schedules_origin_check CHECK ((origin = ANY (ARRAY['build'::text, 'operator'::text]))),
    CONSTRAINT schedules_overlap_check CHECK ((overlap = ANY (ARRAY['allow'::text, 'skip'::text, 'queue_one'::text])))
);

CREATE TABLE queue.ticks (
    name text NOT NULL,
    tick_at timestamp with time zone NOT NULL,
    job_id bigint,
    fired_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    outcome text DEFAULT 'fired'::text NOT NULL,
    reason text,
    ticks integer DEFAULT 1 NOT NULL,
    CONSTRAINT ticks_outcome_check CHECK ((outcome = ANY (ARRAY['fired'::text, 'skipped'::text, 'missed'::text]))),
    CONSTRAINT ticks_ticks_check CHECK ((ticks > 0))
);

CREATE VIEW queue.timetable AS
 SELECT s.name,
    s.kind,
    s.queue,
    s.args,
    s.args_version,
    s.unique_key,
    s.group_key,
    s.priority,
    s.attempts_max,
    s.origin,
    COALESCE(o.cron, s.cron) AS cron,
    COALESCE(o.time_zone, s.time_zone) AS time_zone,
    COALESCE(o.missed, s.missed) AS missed,
    COALESCE(o.overlap, s.overlap) AS overlap,
    COALESCE(o.jitter_seconds, s.jitter_seconds) AS jitter_seconds,
    s.paused,
    s.pause_reason,
    s.paused_by,
    s.paused_at,
    s.settled_at
   FROM (queue.schedules s
     LEFT JOIN queue.schedule_overrides o ON ((o.name = s.name)))
  WHERE (s.retired_at IS NULL);

CREATE TABLE queue.timetables (
    digest text NOT NULL,
    first_listed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    listed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE queue.turns (
    group_key text NOT NULL,
    holder bigint NOT NULL,
    vacant boolean DEFAULT false NOT NULL,
    passed_over boolean DEFAULT false NOT NULL
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

CREATE TABLE queue.waiter_members (
    waiter_id bigint NOT NULL,
    member_id bigint NOT NULL,
    marked boolean NOT NULL,
    outcome text,
    CONSTRAINT waiter_members_outcome_check CHECK ((outcome = ANY (ARRAY['completed'::text, 'discarded'::text, 'cancelled'::text, 'dead'::text, 'forgotten'::text]))),
    CONSTRAINT waiters_come_after_their_members CHECK ((member_id < waiter_id))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');

CREATE TABLE queue.waiters (
    job_id bigint NOT NULL,
    on_failure text NOT NULL,
    pending integer NOT NULL,
    failed integer DEFAULT 0 NOT NULL,
    deadline_after interval,
    CONSTRAINT waiters_failed_check CHECK ((failed >= 0)),
    CONSTRAINT waiters_on_failure_check CHECK ((on_failure = ANY (ARRAY['run'::text, 'bury'::text]))),
    CONSTRAINT waiters_pending_check CHECK ((pending >= 0))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');

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
    kinds text[],
    versions smallint[],
    slots integer,
    pool_names text[],
    CONSTRAINT workers_session_is_whole CHECK (((backend_pid IS NULL) = (backend_start IS NULL))),
    CONSTRAINT workers_slots_check CHECK ((slots > 0)),
    CONSTRAINT workers_tell_the_pool_of_each_queue CHECK ((cardinality(pool_names) = cardinality(pools)))
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

ALTER TABLE ONLY public.inbound_events
    ADD CONSTRAINT inbound_events_pkey PRIMARY KEY (source, event_id);

ALTER TABLE ONLY public.inbound_rejections
    ADD CONSTRAINT inbound_rejections_pkey PRIMARY KEY (partner_id);

ALTER TABLE ONLY public.inbound_webhooks
    ADD CONSTRAINT inbound_webhooks_pkey PRIMARY KEY (partner_id, event_id);

ALTER TABLE ONLY public.ledger_transactions
    ADD CONSTRAINT ledger_books_a_cause_once UNIQUE (cause);

ALTER TABLE ONLY public.ledger_entries
    ADD CONSTRAINT ledger_entries_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.ledger_entries
    ADD CONSTRAINT ledger_entries_transaction_id_account_seller_id_key UNIQUE (transaction_id, account, seller_id);

ALTER TABLE ONLY public.ledger_transactions
    ADD CONSTRAINT ledger_transactions_pkey PRIMARY KEY (id);

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

ALTER TABLE ONLY public.orphan_charges
    ADD CONSTRAINT orphan_charges_pkey PRIMARY KEY (movement);

ALTER TABLE ONLY public.partners
    ADD CONSTRAINT partners_have_their_own_name UNIQUE (name);

ALTER TABLE ONLY public.partners
    ADD CONSTRAINT partners_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.payment_attempts
    ADD CONSTRAINT payment_attempts_payment_id_op_seq_key UNIQUE (payment_id, op, seq);

ALTER TABLE ONLY public.payment_attempts
    ADD CONSTRAINT payment_attempts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.payment_events
    ADD CONSTRAINT payment_events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.payments
    ADD CONSTRAINT payments_gateway_ref_is_unique UNIQUE (gateway_ref);

ALTER TABLE ONLY public.payments
    ADD CONSTRAINT payments_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.payouts
    ADD CONSTRAINT payouts_gateway_ref_is_unique UNIQUE (gateway_ref);

ALTER TABLE ONLY public.payouts
    ADD CONSTRAINT payouts_have_their_own_key UNIQUE (idem_key);

ALTER TABLE ONLY public.payouts
    ADD CONSTRAINT payouts_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.payouts
    ADD CONSTRAINT payouts_seller_id_seq_key UNIQUE (seller_id, seq);

ALTER TABLE ONLY public.products
    ADD CONSTRAINT products_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.products
    ADD CONSTRAINT products_sku_is_unique UNIQUE (sku);

ALTER TABLE ONLY public.purged_events
    ADD CONSTRAINT purged_events_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT reservations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.road_matrices
    ADD CONSTRAINT road_matrices_once UNIQUE (warehouse_id, provider, profile, points_hash, data_version);

ALTER TABLE ONLY public.road_matrices
    ADD CONSTRAINT road_matrices_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.route_checkpoints
    ADD CONSTRAINT route_checkpoints_pkey PRIMARY KEY (warehouse_id, date);

ALTER TABLE ONLY public.route_plans
    ADD CONSTRAINT route_plans_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.route_plans
    ADD CONSTRAINT route_plans_warehouse_id_date_version_key UNIQUE (warehouse_id, date, version);

ALTER TABLE ONLY public.route_stops
    ADD CONSTRAINT route_stops_pkey PRIMARY KEY (route_id, "position");

ALTER TABLE ONLY public.routes
    ADD CONSTRAINT routes_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.sales
    ADD CONSTRAINT sales_pkey PRIMARY KEY (payment_id, seller_id);

ALTER TABLE ONLY public.sellers
    ADD CONSTRAINT sellers_have_their_own_name UNIQUE (name);

ALTER TABLE ONLY public.sellers
    ADD CONSTRAINT sellers_pkey PRIMARY KEY (id);

ALTER TABLE public.shipments
    ADD CONSTRAINT shipments_are_on_earth CHECK ((((lat >= ('-90'::integer)::double precision) AND (lat <= (90)::double precision)) AND ((lon >= ('-180'::integer)::double precision) AND (lon <= (180)::double precision)))) NOT VALID;

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

ALTER TABLE ONLY queue.sagas
    ADD CONSTRAINT a_saga_is_known_by_its_key UNIQUE (name, key);

ALTER TABLE ONLY queue.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);

ALTER TABLE ONLY queue.campaign_causes
    ADD CONSTRAINT campaign_causes_pkey PRIMARY KEY (campaign_id, cause);

ALTER TABLE ONLY queue.campaign_letters
    ADD CONSTRAINT campaign_letters_pkey PRIMARY KEY (campaign_id, job_id);

ALTER TABLE ONLY queue.campaigns
    ADD CONSTRAINT campaigns_pkey PRIMARY KEY (id);

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

ALTER TABLE ONLY queue.limit_holds
    ADD CONSTRAINT limit_holds_pkey PRIMARY KEY (key, claim_id);

ALTER TABLE ONLY queue.limit_keys
    ADD CONSTRAINT limit_keys_pkey PRIMARY KEY (key);

ALTER TABLE ONLY queue.limits
    ADD CONSTRAINT limits_pkey PRIMARY KEY (name);

ALTER TABLE ONLY queue.logs
    ADD CONSTRAINT logs_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY queue.losses
    ADD CONSTRAINT losses_pkey PRIMARY KEY (worker_id);

ALTER TABLE ONLY queue.measures
    ADD CONSTRAINT measures_pkey PRIMARY KEY (at, queue);

ALTER TABLE ONLY queue.pauses
    ADD CONSTRAINT pauses_pkey PRIMARY KEY (target, name);

ALTER TABLE ONLY queue.pool_settings
    ADD CONSTRAINT pool_settings_pkey PRIMARY KEY (pool);

ALTER TABLE ONLY queue.progress
    ADD CONSTRAINT progress_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY queue.saga_jobs
    ADD CONSTRAINT saga_jobs_pkey PRIMARY KEY (id);

ALTER TABLE ONLY queue.saga_jobs
    ADD CONSTRAINT saga_jobs_saga_id_step_undo_key UNIQUE (saga_id, step, undo);

ALTER TABLE ONLY queue.sagas
    ADD CONSTRAINT sagas_pkey PRIMARY KEY (id);

ALTER TABLE ONLY queue.schedule_overrides
    ADD CONSTRAINT schedule_overrides_pkey PRIMARY KEY (name);

ALTER TABLE ONLY queue.schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (name);

ALTER TABLE ONLY queue.ticks
    ADD CONSTRAINT ticks_pkey PRIMARY KEY (name, tick_at);

ALTER TABLE ONLY queue.timetables
    ADD CONSTRAINT timetables_pkey PRIMARY KEY (digest);

ALTER TABLE ONLY queue.turns
    ADD CONSTRAINT turns_pkey PRIMARY KEY (group_key);

ALTER TABLE ONLY queue.unique_keys
    ADD CONSTRAINT unique_keys_pkey PRIMARY KEY (kind, key);

ALTER TABLE ONLY queue.waiter_members
    ADD CONSTRAINT waiter_members_pkey PRIMARY KEY (waiter_id, member_id);

ALTER TABLE ONLY queue.waiters
    ADD CONSTRAINT waiters_pkey PRIMARY KEY (job_id);

ALTER TABLE ONLY queue.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);

CREATE INDEX api_keys_by_partner ON public.api_keys USING btree (partner_id) WHERE (partner_id IS NOT NULL);

CREATE UNIQUE INDEX customers_email_is_unique ON public.customers USING btree (lower(email)) WHERE (deleted_at IS NULL);

CREATE INDEX customers_in_order ON public.customers USING btree (created_at, id) WHERE (deleted_at IS NULL);

CREATE INDEX events_by_order ON public.events USING btree (order_id, id);

CREATE INDEX idempotency_keys_expiring ON public.idempotency_keys USING btree (expires_at);

CREATE INDEX inbound_events_by_age ON public.inbound_events USING btree (received_at);

CREATE INDEX inbound_webhooks_by_partner ON public.inbound_webhooks USING btree (partner_id, received_at, event_id);

CREATE INDEX inbound_webhooks_by_time ON public.inbound_webhooks USING btree (received_at);

CREATE INDEX ledger_entries_of_seller ON public.ledger_entries USING btree (seller_id, id);

CREATE INDEX orders_by_customer ON public.orders USING btree (customer_id, created_at, id);

CREATE INDEX orders_by_status ON public.orders USING btree (status, created_at, id);

CREATE INDEX orders_expiring ON public.orders USING btree (expires_at) WHERE (status = 'reserved'::text);

CREATE INDEX orders_in_order ON public.orders USING btree (created_at, id);

CREATE UNIQUE INDEX orders_reference_is_unique ON public.orders USING btree (created_by, reference) WHERE (reference IS NOT NULL);

CREATE INDEX orphan_charges_in_order ON public.orphan_charges USING btree (seen_at, movement);

CREATE INDEX orphan_charges_open ON public.orphan_charges USING btree (seen_at, movement) WHERE (resolved_at IS NULL);

CREATE INDEX partners_in_order ON public.partners USING btree (created_at, id);

CREATE INDEX payment_events_of_payment ON public.payment_events USING btree (payment_id, id);

CREATE INDEX payments_by_order ON public.payments USING btree (order_id);

CREATE INDEX payments_in_order ON public.payments USING btree (created_at, id);

CREATE UNIQUE INDEX payments_one_live_per_order ON public.payments USING btree (order_id) WHERE (state <> ALL (ARRAY['declined'::text, 'failed'::text, 'voided'::text]));

CREATE INDEX payments_unsettled ON public.payments USING btree (updated_at) WHERE (state = ANY (ARRAY['authorizing'::text, 'capturing'::text, 'voiding'::text, 'refunding'::text, 'unknown'::text]));

CREATE INDEX payouts_by_seller ON public.payouts USING btree (seller_id, created_at, id);

CREATE INDEX payouts_in_order ON public.payouts USING btree (created_at, id);

CREATE UNIQUE INDEX payouts_one_open_per_seller ON public.payouts USING btree (seller_id) WHERE (state = 'pending'::text);

CREATE INDEX products_by_seller ON public.products USING btree (seller_id) WHERE (seller_id IS NOT NULL);

CREATE INDEX products_in_order ON public.products USING btree (created_at, id);

CREATE UNIQUE INDEX reservations_are_unique ON public.reservations USING btree (order_line_id, warehouse_id) WHERE (state = ANY (ARRAY['held'::text, 'committed'::text]));

CREATE INDEX reservations_by_line ON public.reservations USING btree (order_line_id);

CREATE INDEX reservations_live_by_level ON public.reservations USING btree (product_id, warehouse_id) WHERE (state = ANY (ARRAY['held'::text, 'committed'::text]));

CREATE INDEX road_matrices_by_age ON public.road_matrices USING btree (used_at);

CREATE INDEX route_plans_by_matrix ON public.route_plans USING btree (matrix_id) WHERE (matrix_id IS NOT NULL);

CREATE INDEX route_plans_in_order ON public.route_plans USING btree (created_at, id);

CREATE UNIQUE INDEX route_plans_one_active ON public.route_plans USING btree (warehouse_id, date) WHERE active;

CREATE UNIQUE INDEX route_stops_one_route_per_shipment ON public.route_stops USING btree (shipment_id) WHERE active;

CREATE INDEX routes_by_plan ON public.routes USING btree (plan_id);

CREATE INDEX routes_in_order ON public.routes USING btree (created_at, id);

CREATE UNIQUE INDEX routes_one_per_vehicle_and_day ON public.routes USING btree (vehicle_id, date) WHERE (state <> 'superseded'::text);

CREATE INDEX sales_by_seller ON public.sales USING btree (seller_id);

CREATE INDEX sellers_in_order ON public.sellers USING btree (created_at, id);

CREATE INDEX shipments_to_plan ON public.shipments USING btree (warehouse_id, delivery_date) WHERE (state = ANY (ARRAY['unplanned'::text, 'planned'::text]));

CREATE INDEX stock_movements_by_level ON public.stock_movements USING btree (product_id, warehouse_id, id);

CREATE INDEX webhook_attempts_by_time ON public.webhook_attempts USING btree (started_at);

CREATE INDEX webhook_deliveries_by_endpoint ON public.webhook_deliveries USING btree (endpoint_id, seq);

CREATE INDEX webhook_deliveries_by_event ON public.webhook_deliveries USING btree (event_id);

CREATE INDEX webhook_deliveries_unsettled ON public.webhook_deliveries USING btree (updated_at) WHERE (state = ANY (ARRAY['pending'::text, 'in_flight'::text]));

CREATE INDEX webhook_endpoints_by_partner ON public.webhook_endpoints USING btree (partner_id) WHERE (partner_id IS NOT NULL);

CREATE INDEX audit_by_subject ON queue.audit USING btree (subject, id);

CREATE INDEX campaign_letters_ended ON queue.campaign_letters USING btree (campaign_id, cause, ended_at) WHERE ((ended_at IS NOT NULL) AND (redriven_at IS NOT NULL));

CREATE INDEX campaign_letters_in_flight ON queue.campaign_letters USING btree (campaign_id, job_id) WHERE (state = 'redriven'::text);

CREATE INDEX campaign_letters_redriven ON queue.campaign_letters USING btree (campaign_id, cause, redriven_at) WHERE (redriven_at IS NOT NULL);

CREATE INDEX campaign_letters_skipped ON queue.campaign_letters USING btree (campaign_id, job_id) WHERE (state = 'skipped'::text);

CREATE INDEX campaign_letters_waiting ON queue.campaign_letters USING btree (campaign_id, cause, job_id) WHERE (state = 'waiting'::text);

CREATE INDEX campaign_letters_waiting_in_group ON queue.campaign_letters USING btree (campaign_id, group_key, job_id) WHERE ((state = 'waiting'::text) AND (group_key IS NOT NULL));

CREATE INDEX campaigns_open ON queue.campaigns USING btree (look_at) WHERE (ended_at IS NULL);

CREATE INDEX claims_of_worker ON queue.claims USING btree (worker_id);

CREATE INDEX dead_letters_by_cause ON queue.dead_letters USING btree (kind, error_class, error_code, id);

CREATE INDEX dead_letters_of_cause ON queue.dead_letters USING btree (cause, id) INCLUDE (dead_at);

CREATE INDEX finished_jobs_by_time ON ONLY queue.finished_jobs USING brin (finished_at) WITH (autosummarize='on');

CREATE INDEX finished_jobs_by_id ON ONLY queue.finished_jobs USING btree (id);

CREATE INDEX finished_jobs_other_finished_at_idx ON queue.finished_jobs_other USING brin (finished_at) WITH (autosummarize='on');

CREATE INDEX finished_jobs_other_id_idx ON queue.finished_jobs_other USING btree (id);

CREATE INDEX jobs_grouped ON queue.jobs USING btree (group_key, id) WHERE ((NOT turn) AND (group_key IS NOT NULL));

CREATE INDEX jobs_in_line ON queue.jobs USING btree (queue, suspect, rank, id) WHERE turn;

CREATE INDEX jobs_parked ON queue.jobs USING btree (limit_key, rank, id) WHERE parked;

CREATE INDEX limit_holds_of_claim ON queue.limit_holds USING btree (claim_id);

CREATE INDEX limit_keys_opening ON queue.limit_keys USING btree (opens_at) WHERE (opens_at IS NOT NULL);

CREATE INDEX logs_by_age ON queue.logs USING btree (at);

CREATE INDEX losses_by_time ON queue.losses USING btree (lost_at);

CREATE INDEX progress_of_claim ON queue.progress USING btree (claim_id);

CREATE INDEX saga_jobs_by_job ON queue.saga_jobs USING btree (job_id) WHERE (job_id IS NOT NULL);

CREATE INDEX sagas_ended ON queue.sagas USING btree (ended_at) WHERE (ended_at IS NOT NULL);

CREATE INDEX sagas_in_progress ON queue.sagas USING btree (id) WHERE (state = ANY (ARRAY['running'::text, 'compensating'::text]));

CREATE INDEX ticks_with_jobs ON queue.ticks USING btree (name, tick_at DESC) WHERE (job_id IS NOT NULL);

CREATE INDEX turns_vacant ON queue.turns USING btree (group_key) WHERE vacant;

CREATE INDEX unique_keys_by_age ON queue.unique_keys USING btree (created_at);

CREATE INDEX unique_keys_by_end ON queue.unique_keys USING btree (expires_at) WHERE (expires_at IS NOT NULL);

CREATE INDEX unique_keys_by_job ON queue.unique_keys USING btree (job_id);

CREATE INDEX waiter_members_dead ON queue.waiter_members USING btree (member_id) WHERE (outcome = 'dead'::text);

CREATE INDEX waiter_members_pending ON queue.waiter_members USING btree (member_id) WHERE (outcome IS NULL);

CREATE INDEX waiter_members_unmarked ON queue.waiter_members USING btree (member_id) WHERE ((outcome IS NULL) AND (NOT marked));

ALTER INDEX queue.finished_jobs_by_time ATTACH PARTITION queue.finished_jobs_other_finished_at_idx;

ALTER INDEX queue.finished_jobs_by_id ATTACH PARTITION queue.finished_jobs_other_id_idx;

CREATE TRIGGER ledger_entries_counted AFTER INSERT ON public.ledger_entries FOR EACH ROW WHEN ((new.account = 'seller'::text)) EXECUTE FUNCTION public.count_ledger_entry();

CREATE TRIGGER ledger_entries_stay BEFORE DELETE OR UPDATE ON public.ledger_entries FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER ledger_transactions_stay BEFORE DELETE OR UPDATE ON public.ledger_transactions FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE CONSTRAINT TRIGGER ledger_transactions_sum_to_zero AFTER INSERT ON public.ledger_entries DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.check_ledger_transaction();

CREATE TRIGGER payment_attempts_noted_when_changed AFTER UPDATE ON public.payment_attempts FOR EACH ROW WHEN (((((old.state IS DISTINCT FROM new.state) OR (old.sends IS DISTINCT FROM new.sends)) OR (old.http_status IS DISTINCT FROM new.http_status)) OR (old.error_code IS DISTINCT FROM new.error_code))) EXECUTE FUNCTION public.note_payment_attempt();

CREATE TRIGGER payment_attempts_noted_when_made AFTER INSERT ON public.payment_attempts FOR EACH ROW EXECUTE FUNCTION public.note_payment_attempt();

CREATE TRIGGER payment_events_stay BEFORE UPDATE ON public.payment_events FOR EACH ROW EXECUTE FUNCTION public.refuse_change();

CREATE TRIGGER payments_book_sales AFTER UPDATE ON public.payments FOR EACH ROW WHEN (((new.captured_minor > 0) AND ((old.captured_minor IS DISTINCT FROM new.captured_minor) OR (old.refunded_minor IS DISTINCT FROM new.refunded_minor)))) EXECUTE FUNCTION public.book_sales();

CREATE TRIGGER payments_noted_when_changed AFTER UPDATE ON public.payments FOR EACH ROW WHEN ((((old.state IS DISTINCT FROM new.state) OR (old.captured_minor IS DISTINCT FROM new.captured_minor)) OR (old.refunded_minor IS DISTINCT FROM new.refunded_minor))) EXECUTE FUNCTION public.note_payment();

CREATE TRIGGER payments_noted_when_made AFTER INSERT ON public.payments FOR EACH ROW EXECUTE FUNCTION public.note_payment();

CREATE TRIGGER payouts_booked_when_failed AFTER UPDATE ON public.payouts FOR EACH ROW WHEN (((old.state = 'pending'::text) AND (new.state = 'failed'::text))) EXECUTE FUNCTION public.book_payout();

CREATE TRIGGER payouts_booked_when_made AFTER INSERT ON public.payouts FOR EACH ROW EXECUTE FUNCTION public.book_payout();

CREATE TRIGGER settled_payouts_stay BEFORE UPDATE ON public.payouts FOR EACH ROW WHEN ((old.state <> 'pending'::text)) EXECUTE FUNCTION public.refuse_change_of_payout();

CREATE TRIGGER jobs_keep_their_rank BEFORE UPDATE OF run_at, priority ON queue.jobs FOR EACH ROW EXECUTE FUNCTION queue.keep_rank();

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_partner_id_fkey FOREIGN KEY (partner_id) REFERENCES public.partners(id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES public.webhook_endpoints(id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_order_id_fkey FOREIGN KEY (order_id) REFERENCES public.orders(id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_partner_id_fkey FOREIGN KEY (partner_id) REFERENCES public.partners(id);

ALTER TABLE ONLY public.inbound_rejections
    ADD CONSTRAINT inbound_rejections_partner_id_fkey FOREIGN KEY (partner_id) REFERENCES public.partners(id);

ALTER TABLE ONLY public.inbound_webhooks
    ADD CONSTRAINT inbound_webhooks_partner_id_fkey FOREIGN KEY (partner_id) REFERENCES public.partners(id);

ALTER TABLE ONLY public.ledger_entries
    ADD CONSTRAINT ledger_entries_seller_id_fkey FOREIGN KEY (seller_id) REFERENCES public.sellers(id);

ALTER TABLE ONLY public.ledger_entries
    ADD CONSTRAINT ledger_entries_transaction_id_fkey FOREIGN KEY (transaction_id) REFERENCES public.ledger_transactions(id);

ALTER TABLE ONLY public.ledger_transactions
    ADD CONSTRAINT ledger_transactions_payment_id_fkey FOREIGN KEY (payment_id) REFERENCES public.payments(id);

ALTER TABLE ONLY public.ledger_transactions
    ADD CONSTRAINT ledger_transactions_payout_id_fkey FOREIGN KEY (payout_id) REFERENCES public.payouts(id);

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

ALTER TABLE ONLY public.payment_events
    ADD CONSTRAINT payment_events_payment_id_fkey FOREIGN KEY (payment_id) REFERENCES public.payments(id) ON DELETE CASCADE;

ALTER TABLE ONLY public.payments
    ADD CONSTRAINT payments_order_id_fkey FOREIGN KEY (order_id) REFERENCES public.orders(id);

ALTER TABLE ONLY public.payouts
    ADD CONSTRAINT payouts_seller_id_fkey FOREIGN KEY (seller_id) REFERENCES public.sellers(id);

ALTER TABLE ONLY public.products
    ADD CONSTRAINT products_seller_id_fkey FOREIGN KEY (seller_id) REFERENCES public.sellers(id);

ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT reservations_order_line_id_fkey FOREIGN KEY (order_line_id) REFERENCES public.order_lines(id);

ALTER TABLE ONLY public.reservations
    ADD CONSTRAINT reservations_product_id_warehouse_id_fkey FOREIGN KEY (product_id, warehouse_id) REFERENCES public.stock_levels(product_id, warehouse_id);

ALTER TABLE ONLY public.road_matrices
    ADD CONSTRAINT road_matrices_warehouse_id_fkey FOREIGN KEY (warehouse_id) REFERENCES public.warehouses(id);

ALTER TABLE ONLY public.route_checkpoints
    ADD CONSTRAINT route_checkpoints_warehouse_id_fkey FOREIGN KEY (warehouse_id) REFERENCES public.warehouses(id);

ALTER TABLE ONLY public.route_plans
    ADD CONSTRAINT route_plans_matrix_id_fkey FOREIGN KEY (matrix_id) REFERENCES public.road_matrices(id) ON DELETE SET NULL;

ALTER TABLE ONLY public.route_plans
    ADD CONSTRAINT route_plans_replaces_fkey FOREIGN KEY (replaces) REFERENCES public.route_plans(id);

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

ALTER TABLE ONLY public.sales
    ADD CONSTRAINT sales_payment_id_fkey FOREIGN KEY (payment_id) REFERENCES public.payments(id);

ALTER TABLE ONLY public.sales
    ADD CONSTRAINT sales_seller_id_fkey FOREIGN KEY (seller_id) REFERENCES public.sellers(id);

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

ALTER TABLE ONLY public.webhook_endpoints
    ADD CONSTRAINT webhook_endpoints_partner_id_fkey FOREIGN KEY (partner_id) REFERENCES public.partners(id);

ALTER TABLE ONLY queue.campaign_causes
    ADD CONSTRAINT campaign_causes_campaign_id_fkey FOREIGN KEY (campaign_id) REFERENCES queue.campaigns(id) ON DELETE CASCADE;

ALTER TABLE ONLY queue.campaign_letters
    ADD CONSTRAINT campaign_letters_campaign_id_fkey FOREIGN KEY (campaign_id) REFERENCES queue.campaigns(id) ON DELETE CASCADE;

ALTER TABLE ONLY queue.saga_jobs
    ADD CONSTRAINT saga_jobs_saga_id_fkey FOREIGN KEY (saga_id) REFERENCES queue.sagas(id) ON DELETE CASCADE;

ALTER TABLE ONLY queue.schedule_overrides
    ADD CONSTRAINT schedule_overrides_name_fkey FOREIGN KEY (name) REFERENCES queue.schedules(name) ON DELETE CASCADE;
