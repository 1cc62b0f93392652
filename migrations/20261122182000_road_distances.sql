-- Ways as a road server measured them, kept for a time; and what a plan says of itself when it is shown.

alter table warehouses
    -- How much longer a road is than the straight line, and how fast a van is there. Without: the fleet's settings.
    add column road_factor double precision check (road_factor between 1 and 3),
    add column speed_kmh double precision check (speed_kmh between 5 and 130);

-- One row holds every way between the points of one day: half a million numbers are no rows.
create table road_matrices (
    id uuid primary key,
    warehouse_id uuid not null references warehouses,
    -- `osrm` or `valhalla`, which data it answered from (empty where it does not say), and for what sort of vehicle.
    provider text not null check (provider <> ''),
    data_version text not null,
    profile text not null check (profile <> ''),
    -- SHA-256 of `points`.
    points_hash bytea not null check (octet_length(points_hash) = 32),
    -- Latitude and longitude in hundred-thousandths of a degree, sorted, no two the same: int4 each, most significant byte first.
    points bytea not null check (octet_length(points) % 8 = 0 and octet_length(points) > 0),
    -- Metres of every way, row by row, then seconds: int4 each. 2^29 stands for no way.
    ways bytea not null check (octet_length(ways) = (octet_length(points) / 8) * (octet_length(points) / 8) * 8),
    made_at timestamptz not null default clock_timestamp(),
    used_at timestamptz not null default clock_timestamp(),
    constraint road_matrices_once unique (warehouse_id, provider, profile, points_hash, data_version)
);
create index road_matrices_by_age on road_matrices (used_at);

alter table route_plans
    -- What its ways were measured with; without, `distance_source` says all.
    add column matrix_id uuid references road_matrices on delete set null,
    -- A road server is set, and did not answer: the ways are straight lines made longer.
    add column approximate boolean not null default false,
    -- Who is on no route of this plan, and why: the first thousand.
    add column left_out jsonb not null default '[]' check (jsonb_typeof(left_out) = 'array');
create index route_plans_by_matrix on route_plans (matrix_id) where matrix_id is not null;
create index route_plans_in_order on route_plans (created_at, id);

-- A place that is none on earth is a mistake of whoever wrote it. Rows from before are not looked at.
alter table shipments
    add constraint shipments_are_on_earth
    check (lat between -90 and 90 and lon between -180 and 180) not valid;
