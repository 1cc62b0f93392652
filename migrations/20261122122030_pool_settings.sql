-- How many jobs a pool runs at once in each process, where somebody has changed it since the processes were started.
create table queue.pool_settings (
    pool text primary key check (pool <> '' and length(pool) <= 100),
    slots int not null constraint pool_slots_are_from_1_to_8192 check (slots between 1 and 8192),
    actor text not null,
    reason text not null,
    changed_at timestamptz not null default clock_timestamp()
);
