-- How a plan was found, so that it can be found again to the byte: what the search was given besides the shipments, the
-- vehicles and the distances. Older plans have none of it.
alter table route_plans
    add column cost bigint,
    -- How many rounds the whole search was to make, and how many of them an attempt before had made.
    add column iterations_budget bigint,
    add column iterations_before bigint,
    -- What it cost to put a shipment on another vehicle than the plan before did.
    add column move_cost bigint,
    -- Where it started from: [[vehicle, [shipment, …]], …].
    add column start jsonb,
    -- The plan that counted then.
    add column replaces uuid references route_plans,
    -- Everything it was given, whether it is on a route or not.
    add column shipment_ids uuid[],
    add column vehicle_ids uuid[],
    add column busy_vehicle_ids uuid[];

-- How many of its first stops are loaded or driven to: they stay first on this vehicle whenever the day is planned again.
alter table routes
    add column locked_stops int not null default 0 check (locked_stops >= 0);

-- The best routes a search under way has found, kept for the attempt after it; gone with the job.
create table route_checkpoints (
    warehouse_id uuid not null references warehouses,
    date date not null,
    job_id bigint not null,
    fence bigint not null,
    input_hash bytea not null,
    iterations bigint not null check (iterations >= 0),
    iterations_budget bigint not null,
    cost bigint not null,
    -- [[vehicle, [shipment, …]], …]
    routes jsonb not null,
    at timestamptz not null default clock_timestamp(),
    primary key (warehouse_id, date)
);
