-- Partners, what they send us, and what more an endpoint can ask for: ed25519, the end of a rotation, limits of its own.

create table partners (
    id uuid primary key,
    -- Also whom its API keys stand for, and a part of its inbound address.
    name text not null constraint partners_have_their_own_name unique check (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    description text not null default '',
    state text not null default 'active' check (state in ('active', 'paused')),
    paused_reason text,
    -- The most that its endpoints may ask for.
    event_types text[] not null default '{*}' check (cardinality(event_types) between 1 and 50),
    -- Standard Webhooks secrets, newest first; what any live one signed is accepted.
    inbound_secrets text[] not null check (cardinality(inbound_secrets) between 1 and 3),
    -- From then on the newest inbound secret alone is live.
    old_secrets_until timestamptz,
    endpoints_max int not null default 10 check (endpoints_max between 0 and 100),
    -- What each of its endpoints starts with; without, the limit of all endpoints holds.
    concurrency int check (concurrency between 1 and 1000),
    rate float8 check (rate between 0.0001 and 100000),
    version int not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
);
create index partners_in_order on partners (created_at, id);

-- What was sent in a partner's name with no good signature: counted, and nothing of it kept.
create table inbound_rejections (
    partner_id uuid primary key references partners,
    rejected bigint not null default 0,
    last_at timestamptz not null default clock_timestamp()
);

alter table api_keys add column partner_id uuid references partners;
create index api_keys_by_partner on api_keys (partner_id) where partner_id is not null;

alter table webhook_endpoints
    add column partner_id uuid references partners,
    -- From then on the newest secret alone signs.
    add column old_secrets_until timestamptz,
    add column concurrency int check (concurrency between 1 and 1000),
    add column rate float8 check (rate between 0.0001 and 100000);
create index webhook_endpoints_by_partner on webhook_endpoints (partner_id) where partner_id is not null;

-- An event is everyone's, or one partner's (and ours), or one endpoint's alone.
alter table events
    add column partner_id uuid references partners,
    add column endpoint_id uuid references webhook_endpoints;

-- The contents of all events up to this number are deleted.
create table purged_events (
    up_to bigint not null,
    only_row boolean primary key default true check (only_row)
);
insert into purged_events (up_to) values (0);

-- What somebody sent us, as it came: one row, and one effect, for each event of a source.
create table inbound_webhooks (
    partner_id uuid not null references partners,
    event_id text not null check (length(event_id) between 1 and 255),
    type text not null check (length(type) <= 100),
    raw bytea not null check (octet_length(raw) <= 262144),
    sent_at timestamptz not null,
    state text not null default 'received' check (state in ('received', 'processed', 'refused', 'ignored', 'dead')),
    -- Why it was refused or ignored.
    reason text,
    duplicates int not null default 0,
    received_at timestamptz not null default clock_timestamp(),
    processed_at timestamptz,
    primary key (partner_id, event_id)
);
create index inbound_webhooks_by_time on inbound_webhooks (received_at);
create index inbound_webhooks_by_partner on inbound_webhooks (partner_id, received_at, event_id);

-- The public halves of those of an endpoint's secrets that have one, newest first. A private key is its seed and then its
-- public key.
create function webhook_public_keys(secrets text[]) returns text[]
language sql immutable as $$
    select coalesce(array_agg('whpk_' || encode(substring(decode(substr(s.secret, 6), 'base64') from 33), 'base64') order by s.n), '{}')
    from unnest(secrets) with ordinality s (secret, n)
    where s.secret like 'whsk\_%'
$$;

-- Writes an event, its payload frozen, and one delivery per endpoint that wants it; returns the deliveries.
-- Strict endpoints are locked first, in id order, before the event takes its number: so numbers rise in commit order.
-- Endpoints that were switched off go on collecting for seven days. No type, no event.
-- An event of one partner is for that partner's endpoints and for ours; an event of one endpoint for that one, whatever it
-- asked for.
create function record_event(p_event_id uuid, p_type text, p_order_id uuid, p_data jsonb, p_partner_id uuid, p_endpoint_id uuid)
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
    insert into webhook_deliveries as d (id, endpoint_id, event_id, ordering_key, seq)
    select gen_random_uuid(), e.id, p_event_id,
           case e.ordering when 'per_key' then coalesce(p_order_id::text, '') when 'strict' then '' end,
           number
    from webhook_endpoints e
    where e.id = any (wanted)
    order by e.id
    returning d.id, d.endpoint_id, d.ordering_key;
end $$;

create or replace function record_event(p_event_id uuid, p_type text, p_order_id uuid, p_data jsonb)
returns table (delivery_id uuid, endpoint_id uuid, ordering_key text)
language sql as $$
    select * from record_event(p_event_id, p_type, p_order_id, p_data, null, null)
$$;
