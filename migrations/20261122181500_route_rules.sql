-- What a delivery may ask for, and what a vehicle can do, costs and needs.
alter table shipments
    -- Clinical priority: 1 is served before everything else, 3 is routine.
    add column priority smallint not null default 3 check (priority between 1 and 3),
    -- What its vehicle must be able to do.
    add column skills text[] not null default '{}' check (cardinality(skills) <= 16),
    -- Windows after the first, as start, end, start, end, …: in order, none touching the next.
    add column later_windows int[] not null default '{}'
        check (cardinality(later_windows) % 2 = 0 and cardinality(later_windows) <= 14);

alter table vehicles
    add column skills text[] not null default '{}' check (cardinality(skills) <= 16),
    -- The longest it may be out, and the furthest it may drive.
    add column seconds_max int check (seconds_max > 0),
    add column metres_max bigint check (metres_max > 0),
    -- What it costs to use it, to drive a metre, to be out a second: one unit is what a metre costs by default.
    add column fixed_cost bigint not null default 20000 check (fixed_cost between 0 and 1000000000000),
    add column metre_cost bigint not null default 1 check (metre_cost between 0 and 1000000),
    add column second_cost bigint not null default 0 check (second_cost between 0 and 1000000),
    -- The rest its driver takes, unless they are back before it would have to start.
    add column rest_start int check (rest_start between 0 and 86400),
    add column rest_end int,
    add column rest_seconds int check (rest_seconds between 1 and 28800),
    add constraint vehicles_rest_is_whole check (
        (rest_start is null and rest_end is null and rest_seconds is null)
        or (rest_start is not null and rest_seconds is not null and rest_end between rest_start and 86400));

alter table routes
    add column rest_after_stops int check (rest_after_stops >= 0),
    add column rest_starts_at int,
    add constraint routes_rest_is_whole check ((rest_after_stops is null) = (rest_starts_at is null));
