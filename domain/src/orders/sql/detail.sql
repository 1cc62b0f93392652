-- All that belongs to one order, each part as a list in its natural order; empty lists, never null.
select
    (select coalesce(jsonb_agg(jsonb_build_object(
                'id', l.id, 'line_no', l.line_no, 'product_id', l.product_id, 'sku', l.sku, 'qty', l.qty,
                'unit_price', l.unit_price_minor, 'qty_reserved', l.qty_reserved, 'qty_backordered', l.qty_backordered,
                'qty_shipped', l.qty_shipped, 'qty_cancelled', l.qty_cancelled,
                'reservations', coalesce(r.reservations, '[]')) order by l.line_no), '[]')
     from order_lines l
     left join (
         select k.order_line_id,
                jsonb_agg(jsonb_build_object('id', k.id, 'warehouse_id', k.warehouse_id, 'qty', k.qty, 'state', k.state)
                          order by k.id) as reservations
         from reservations k
         where k.order_line_id in (select id from order_lines where order_id = $1)
         group by k.order_line_id
     ) r on r.order_line_id = l.id
     where l.order_id = $1) as "lines!",
    (select coalesce(jsonb_agg(jsonb_build_object(
                'id', p.id, 'state', p.state, 'amount', p.amount_minor, 'captured', p.captured_minor,
                'refunded', p.refunded_minor, 'decline_code', p.decline_code, 'created_at', p.created_at)
                order by p.created_at, p.id), '[]')
     from payments p
     where p.order_id = $1) as "payments!",
    (select coalesce(jsonb_agg(jsonb_build_object(
                'id', s.id, 'warehouse_id', s.warehouse_id, 'state', s.state, 'delivery_date', s.delivery_date,
                'unassigned', s.unassigned) order by s.created_at, s.id), '[]')
     from shipments s
     where s.order_id = $1) as "shipments!",
    (select coalesce(jsonb_agg(jsonb_build_object(
                'version', h.version, 'status', h.status, 'payment_status', h.payment_status,
                'fulfilment_status', h.fulfilment_status, 'cause', h.cause, 'actor', h.actor, 'job_id', h.job_id,
                'at', h.at) order by h.version), '[]')
     from order_history h
     where h.order_id = $1) as "history!",
    (select coalesce(jsonb_agg(jsonb_build_object(
                'id', d.id, 'endpoint_id', d.endpoint_id, 'event_id', d.event_id, 'type', e.type, 'state', d.state,
                'attempts', d.attempts) order by e.id, d.endpoint_id), '[]')
     from events e
     join webhook_deliveries d on d.event_id = e.event_id
     where e.order_id = $1) as "deliveries!"
