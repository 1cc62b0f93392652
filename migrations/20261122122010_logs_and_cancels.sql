-- What a job says about its work, and the wish that it should stop.

-- The last lines a job has logged. They stay as long as the job is known, wherever it is.
create table queue.logs (
    job_id bigint primary key,
    -- Oldest first: {at, attempt, line}.
    lines jsonb not null,
    -- How many came before them and are gone.
    dropped int not null default 0,
    at timestamptz not null default clock_timestamp()
);
create index logs_by_age on queue.logs (at);

-- Jobs in flight that somebody has asked to stop. The wish stands until the job has ended, however it does: a worker reads it
-- with its heartbeat; one that goes back in line is ended there.
create table queue.cancels (
    job_id bigint primary key,
    actor text not null,
    reason text not null,
    at timestamptz not null default clock_timestamp()
);
