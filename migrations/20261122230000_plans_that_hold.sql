-- The delivery before one, among those of an order, is looked up through the order's own events: a few rows, whatever the
-- endpoint has received so far. Left to itself the planner joined them with all deliveries of the endpoint, for each event;
-- `offset 0` keeps the look at the deliveries a look-up of its own.
--
-- Nor are statements planned anew for each event, turn or freed room, which cost more than running them: PostgreSQL does so as long
-- as it takes a plan for these very values for the cheaper one. With tables that were empty a moment ago it must not settle on
-- reading them whole.
--
-- And the short form of the function is gone for defaults: PostgreSQL planned its one statement anew for each call.
drop function record_event(uuid, text, uuid, jsonb);

create or replace function record_event(
    p_event_id uuid, p_type text, p_order_id uuid, p_data jsonb, p_partner_id uuid default null, p_endpoint_id uuid default null
) returns table (delivery_id uuid, endpoint_id uuid, ordering_key text)
language plpgsql
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_generic_plan
as $$
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

alter function queue.pass_turns set plan_cache_mode = force_generic_plan;
alter function queue.let_go set plan_cache_mode = force_generic_plan;
alter function queue.let_go set enable_seqscan = off;
