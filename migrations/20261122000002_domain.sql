-- What Orderfleet is about: customers, catalogue, stock, orders, payments, webhooks, shipments and routes.
-- Constraints carry the rules; their names become errors that people understand (see the `on_constraint` of each store).
-- Money is in minor units (pence, cents). A `job_id` and `fence` on a row say which attempt of which job wrote it.

create table customers (
    id uuid primary key,
    name text not null check (name <> '' and length(name) <= 200),
    email text not null check (length(email) <= 320),
    address text not null default '' check (length(address) <= 500),
    lat double precision check (lat between -90 and 90),
    lon double precision check (lon between -180 and 180),
    state text not null default 'active' check (state in ('active', 'blocked')),
    version int not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    deleted_at timestamptz
);
create unique index customers_email_is_unique on customers (lower(email)) where deleted_at is null;
create index customers_in_order on customers (created_at, id) where deleted_at is null;

create table products (
    id uuid primary key,
    sku text not null constraint products_sku_is_unique unique check (sku <> '' and length(sku) <= 64),
    name text not null check (name <> '' and length(name) <= 300),
    price_minor bigint not null check (price_minor between 0 and 100000000000),
    currency char(3) not null check (currency ~ '^[A-Z]{3}$'),
    weight_grams int not null default 500 check (weight_grams > 0),
    volume_cm3 int not null default 1000 check (volume_cm3 > 0),
    backorderable boolean not null default false,
    reorder_point bigint not null default 0 check (reorder_point >= 0),
    version int not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    retired_at timestamptz
);
create index products_in_order on products (created_at, id);

create table warehouses (
    id uuid primary key,
    code text not null constraint warehouses_code_is_unique unique check (code <> '' and length(code) <= 32),
    name text not null,
    lat double precision not null check (lat between -90 and 90),
    lon double precision not null check (lon between -180 and 180),
    -- Lower is asked first.
    priority int not null default 100,
    created_at timestamptz not null default clock_timestamp()
);

create table stock_levels (
    product_id uuid not null references products,
    warehouse_id uuid not null references warehouses,
    on_hand bigint not null constraint stock_never_negative check (on_hand >= 0),
    reserved bigint not null default 0 check (reserved >= 0),
    version int not null default 1,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (product_id, warehouse_id),
    constraint stock_never_oversold check (reserved <= on_hand)
)
with (fillfactor = 60);

create table orders (
    id uuid primary key,
    customer_id uuid not null references customers,
    reference text check (length(reference) <= 200),
    status text not null check (status in ('pending', 'reserved', 'confirmed', 'closed', 'rejected', 'expired',
                                           'cancelling', 'cancelled', 'on_hold')),
    payment_status text not null default 'none' check (payment_status in (
        'none', 'authorizing', 'authorized', 'declined', 'capturing', 'captured', 'voiding', 'voided',
        'refunding', 'refunded', 'unknown')),
    fulfilment_status text not null default 'none' check (fulfilment_status in (
        'none', 'partial', 'shipped', 'delivered', 'partial_returned', 'returned')),
    -- Equals the number of history rows.
    version int not null,
    currency char(3) not null check (currency ~ '^[A-Z]{3}$'),
    total_minor bigint not null check (total_minor >= 0),
    -- Set by create-and-confirm: confirm by itself once reserved, with this gateway token.
    confirm_with text,
    -- Why it was rejected, cancelled or is held: a code and what belongs to it.
    reason jsonb,
    held_from text,
    -- The reservation's end, while status is 'reserved'.
    expires_at timestamptz,
    confirmed_at timestamptz,
    -- confirmed_at + the cancel window: before it a cancel wins, from it on the capture does.
    cancel_until timestamptz,
    cancel_accepted_at timestamptz,
    created_by text not null,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint a_hold_has_a_reason check (status <> 'on_hold' or (reason is not null and held_from is not null)),
    constraint a_confirmed_order_has_its_times check ((confirmed_at is null) = (cancel_until is null))
)
with (fillfactor = 70);
create unique index orders_reference_is_unique on orders (created_by, reference) where reference is not null;
create index orders_in_order on orders (created_at, id);
create index orders_by_status on orders (status, created_at, id);
create index orders_by_customer on orders (customer_id, created_at, id);
create index orders_expiring on orders (expires_at) where status = 'reserved';

create table order_lines (
    id uuid primary key,
    order_id uuid not null references orders,
    line_no int not null check (line_no > 0),
    product_id uuid not null references products,
    sku text not null,
    qty bigint not null check (qty between 1 and 1000000),
    unit_price_minor bigint not null check (unit_price_minor >= 0),
    qty_reserved bigint not null default 0 check (qty_reserved >= 0),
    qty_backordered bigint not null default 0 check (qty_backordered >= 0),
    qty_shipped bigint not null default 0 check (qty_shipped >= 0),
    qty_cancelled bigint not null default 0 check (qty_cancelled >= 0),
    unique (order_id, line_no),
    constraint a_line_never_exceeds_its_quantity check (qty_reserved + qty_backordered + qty_shipped + qty_cancelled <= qty)
);

create table order_history (
    order_id uuid not null references orders,
    version int not null check (version > 0),
    status text not null,
    payment_status text not null,
    fulfilment_status text not null,
    cause text not null,
    actor text not null,
    job_id bigint,
    fence bigint,
    at timestamptz not null default clock_timestamp(),
    primary key (order_id, version)
);

create table reservations (
    id uuid primary key,
    order_line_id uuid not null references order_lines,
    product_id uuid not null,
    warehouse_id uuid not null,
    qty bigint not null check (qty > 0),
    state text not null check (state in ('held', 'committed', 'released', 'expired', 'shipped')),
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    foreign key (product_id, warehouse_id) references stock_levels
);
-- One live reservation per line and warehouse; a partial shipment splits it, leaving the shipped part behind.
create unique index reservations_are_unique on reservations (order_line_id, warehouse_id) where state in ('held', 'committed');
create index reservations_by_line on reservations (order_line_id);
create index reservations_live_by_level on reservations (product_id, warehouse_id) where state in ('held', 'committed');

-- The only way stock changes: each row says by how much both columns of its level moved. Never updated, never deleted.
create table stock_movements (
    id bigint generated always as identity primary key,
    product_id uuid not null,
    warehouse_id uuid not null,
    kind text not null check (kind in ('received', 'reserved', 'released', 'shipped', 'returned', 'adjusted')),
    qty bigint not null check (qty <> 0),
    d_on_hand bigint not null,
    d_reserved bigint not null,
    -- What caused it, once: stock cannot come back twice, whatever the code does.
    cause_key text not null constraint movements_happen_once unique,
    reason text,
    actor text not null,
    job_id bigint,
    fence bigint,
    at timestamptz not null default clock_timestamp(),
    foreign key (product_id, warehouse_id) references stock_levels
);
create index stock_movements_by_level on stock_movements (product_id, warehouse_id, id);

-- What happened, in words for others: webhooks, streams and logs read it. The payload's bytes are frozen here.
create table events (
    id bigint generated always as identity primary key,
    event_id uuid not null unique,
    type text not null,
    order_id uuid references orders,
    payload text not null check (octet_length(payload) <= 65536),
    at timestamptz not null default clock_timestamp()
);
create index events_by_order on events (order_id, id);

create table payments (
    id uuid primary key,
    order_id uuid not null references orders,
    -- The gateway's id of the intent; from the moment it is known every question has something to ask about.
    gateway_ref text constraint payments_gateway_ref_is_unique unique,
    -- A token of the gateway; card numbers never enter.
    payment_method text not null check (payment_method ~ '^pm_[A-Za-z0-9_]{1,250}$'),
    currency char(3) not null,
    amount_minor bigint not null check (amount_minor > 0),
    state text not null check (state in ('authorizing', 'authorized', 'declined', 'failed', 'capturing', 'captured',
                                         'voiding', 'voided', 'refunding', 'refunded', 'unknown')),
    captured_minor bigint not null default 0 check (captured_minor >= 0),
    refunded_minor bigint not null default 0 check (refunded_minor >= 0),
    decline_code text,
    version int not null default 1,
    authorized_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint never_captured_above_the_amount check (captured_minor <= amount_minor),
    constraint never_refunded_above_the_capture check (refunded_minor <= captured_minor)
);
create unique index payments_one_live_per_order on payments (order_id) where state not in ('declined', 'failed', 'voided');
create index payments_in_order on payments (created_at, id);
create index payments_by_order on payments (order_id);
create index payments_unsettled on payments (updated_at) where state in ('authorizing', 'capturing', 'voiding', 'refunding', 'unknown');

-- The intent to call the gateway, committed before the call. 'pending' after a crash means unknown, not "not done".
create table payment_attempts (
    id uuid primary key,
    payment_id uuid not null references payments,
    op text not null check (op in ('create', 'confirm', 'capture', 'void', 'refund')),
    -- Grows only after a definitive failure that a new try may cure; never after unknown.
    seq int not null check (seq > 0),
    idem_key text not null constraint attempts_have_their_own_key unique,
    amount_minor bigint not null check (amount_minor >= 0),
    state text not null check (state in ('pending', 'succeeded', 'declined', 'failed', 'unknown')),
    sends int not null default 0,
    http_status int,
    request_id text,
    error_code text,
    message text,
    job_id bigint,
    fence bigint,
    created_at timestamptz not null default clock_timestamp(),
    answered_at timestamptz,
    unique (payment_id, op, seq)
);

create table webhook_endpoints (
    id uuid primary key,
    url text not null check (length(url) <= 2000),
    description text not null default '',
    -- '*' is every type, 'order.*' every type of orders.
    event_types text[] not null,
    ordering text not null default 'per_key' check (ordering in ('none', 'per_key', 'strict')),
    -- Standard Webhooks secrets, newest first; every live one signs.
    secrets text[] not null check (cardinality(secrets) between 1 and 3),
    state text not null default 'active' check (state in ('active', 'disabled')),
    disabled_reason text,
    failing_since timestamptz,
    -- The breaker: deliveries wait until then, at no cost to their attempts.
    open_until timestamptz,
    opened_times int not null default 0,
    version int not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    deleted_at timestamptz
);

create table webhook_deliveries (
    id uuid primary key,
    endpoint_id uuid not null references webhook_endpoints,
    event_id uuid not null references events (event_id),
    -- What is kept in order: the order id for per_key endpoints, '' for strict ones, null for unordered ones.
    ordering_key text,
    -- The event's number: rising in commit order within one ordering key.
    seq bigint not null,
    state text not null default 'pending' check (state in ('pending', 'in_flight', 'delivered', 'dead', 'discarded')),
    attempts int not null default 0,
    reason text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    delivered_at timestamptz,
    unique (endpoint_id, event_id)
)
with (fillfactor = 70);
create index webhook_deliveries_by_endpoint on webhook_deliveries (endpoint_id, seq);
create index webhook_deliveries_by_event on webhook_deliveries (event_id);
create index webhook_deliveries_unsettled on webhook_deliveries (updated_at) where state in ('pending', 'in_flight');

create table webhook_attempts (
    id bigint generated always as identity primary key,
    delivery_id uuid not null references webhook_deliveries,
    n int not null check (n > 0),
    job_id bigint,
    fence bigint,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    http_status int,
    error_class text,
    message text,
    unique (delivery_id, n)
);
create index webhook_attempts_by_time on webhook_attempts (started_at);

-- Writes an event, its payload frozen, and one delivery per endpoint that wants it; returns the deliveries.
-- Strict endpoints are locked first, in id order, before the event takes its number: so numbers rise in commit order.
-- Endpoints that were switched off go on collecting for seven days. No type, no event.
create function record_event(p_event_id uuid, p_type text, p_order_id uuid, p_data jsonb)
returns table (delivery_id uuid, endpoint_id uuid, ordering_key text)
language plpgsql as $$
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

-- What every event of an order says about it.
create function order_facts(o orders) returns jsonb
language sql stable as $$
    select jsonb_strip_nulls(jsonb_build_object(
        'order_id', o.id, 'customer_id', o.customer_id, 'reference', o.reference, 'status', o.status,
        'payment_status', o.payment_status, 'fulfilment_status', o.fulfilment_status, 'version', o.version,
        'currency', o.currency, 'total_minor', o.total_minor,
        -- A thousand short lines do not fit an event: the order itself has them.
        'reason', case when octet_length(o.reason::text) > 20000 then o.reason - 'lines' else o.reason end,
        'expires_at', o.expires_at, 'confirmed_at', o.confirmed_at, 'cancel_until', o.cancel_until))
$$;

-- What leaves one warehouse for one order.
create table shipments (
    id uuid primary key,
    order_id uuid not null references orders,
    warehouse_id uuid not null references warehouses,
    state text not null check (state in ('unplanned', 'planned', 'dispatched', 'shipped', 'cancelled')),
    -- The day its route is planned for; moves on when that day is full.
    delivery_date date not null,
    lat double precision not null,
    lon double precision not null,
    weight_grams bigint not null check (weight_grams > 0),
    volume_cm3 bigint not null check (volume_cm3 > 0),
    -- Seconds after midnight, local to the warehouse.
    window_start int not null check (window_start between 0 and 86400),
    window_end int not null,
    service_seconds int not null check (service_seconds between 0 and 14400),
    unassigned jsonb,
    version int not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    unique (order_id, warehouse_id),
    check (window_start < window_end and window_end <= 86400)
)
with (fillfactor = 70);
create index shipments_to_plan on shipments (warehouse_id, delivery_date) where state in ('unplanned', 'planned');

create table vehicles (
    id uuid primary key,
    warehouse_id uuid not null references warehouses,
    name text not null check (name <> ''),
    capacity_grams bigint not null check (capacity_grams > 0),
    capacity_cm3 bigint not null check (capacity_cm3 > 0),
    shift_start int not null check (shift_start between 0 and 86400),
    shift_end int not null,
    stops_max int not null default 100 check (stops_max > 0),
    version int not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    retired_at timestamptz,
    unique (warehouse_id, name),
    check (shift_start < shift_end and shift_end <= 86400)
);

-- One plan per warehouse and day is active; a newer version replaces it whole.
create table route_plans (
    id uuid primary key,
    warehouse_id uuid not null references warehouses,
    date date not null,
    version int not null check (version > 0),
    active boolean not null default true,
    -- The fleet could not take everything: later shipments go to a later day.
    is_full boolean not null default false,
    input_hash bytea not null,
    seed bigint not null,
    iterations bigint not null,
    -- The search was stopped before its budget was used up: valid, and not to be repeated by seed and iterations.
    truncated boolean not null default false,
    distance_source text not null,
    metres bigint not null,
    stops int not null,
    unassigned int not null,
    job_id bigint,
    fence bigint,
    created_at timestamptz not null default clock_timestamp(),
    unique (warehouse_id, date, version)
);
create unique index route_plans_one_active on route_plans (warehouse_id, date) where active;

create table routes (
    id uuid primary key,
    plan_id uuid not null references route_plans,
    warehouse_id uuid not null references warehouses,
    vehicle_id uuid not null references vehicles,
    date date not null,
    state text not null default 'planned' check (state in ('planned', 'dispatched', 'superseded')),
    departs_at int not null,
    returns_at int not null,
    metres bigint not null,
    load_grams bigint not null,
    load_cm3 bigint not null,
    created_at timestamptz not null default clock_timestamp()
);
create unique index routes_one_per_vehicle_and_day on routes (vehicle_id, date) where state <> 'superseded';
create index routes_in_order on routes (created_at, id);
create index routes_by_plan on routes (plan_id);

create table route_stops (
    route_id uuid not null references routes on delete cascade,
    position int not null check (position > 0),
    shipment_id uuid not null references shipments,
    active boolean not null default true,
    arrives_at int not null,
    starts_at int not null,
    leaves_at int not null,
    metres_from_previous bigint not null,
    primary key (route_id, position)
);
create unique index route_stops_one_route_per_shipment on route_stops (shipment_id) where active;

create table api_keys (
    id uuid primary key,
    name text not null check (name <> ''),
    -- The public part of the key, and the SHA-256 of its 256 random bits.
    key_id text not null unique,
    secret_sha256 bytea not null,
    scopes text[] not null,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);

-- Inserted in the business transaction: the first writer wins, a twin waits on the index and replays.
create table idempotency_keys (
    principal text not null,
    key text not null check (length(key) between 1 and 255),
    fingerprint bytea not null,
    status int,
    headers jsonb,
    body text,
    order_id uuid,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    primary key (principal, key)
);
create index idempotency_keys_expiring on idempotency_keys (expires_at);
