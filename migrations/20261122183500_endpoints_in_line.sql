-- What an ordered endpoint does when a delivery of a line is given up, how its receiver sees the gap, and who is told when it
-- works again.

alter table webhook_endpoints
    -- What becomes of a line whose head is dead: the next has its turn, or all wait until somebody redrives or discards it.
    add column dead_head text not null default 'skip' check (dead_head in ('skip', 'block')),
    -- When a delivery last used up its tries; none once one has arrived.
    add column exhausted_at timestamptz,
    add constraint only_lines_are_blocked check (dead_head = 'skip' or ordering <> 'none');

alter table webhook_deliveries
    -- The number of the event before it in its line: what the receiver compares with the last one that it got.
    add column prev_seq bigint,
    -- The job that died of it: whoever sends it again redrives that one, which keeps its place in the line.
    add column dead_job_id bigint;

-- Writes an event, its payload frozen, and one delivery per endpoint that wants it; returns the deliveries.
-- Strict endpoints are locked first, in id order, before the event takes its number: so numbers rise in commit order.
-- Endpoints that were switched off go on collecting for seven days. No type, no event.
-- An event of one partner is for that partner's endpoints and for ours; an event of one endpoint for that one, whatever it
-- asked for.
-- What is before a delivery in its line is certain only where events are committed in the order of their numbers: under the
-- lock of a strict endpoint, or of the order.
create or replace function record_event(p_event_id uuid, p_type text, p_order_id uuid, p_data jsonb, p_partner_id uuid, p_endpoint_id uuid)
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
                                    join webhook_deliveries b on b.endpoint_id = e.id and b.event_id = v.event_id
                                    where v.order_id = p_order_id and v.id < number
                                    order by v.id desc
                                    limit 1)
           end
    from webhook_endpoints e
    where e.id = any (wanted)
    order by e.id
    returning d.id, d.endpoint_id, d.ordering_key;
end $$;
