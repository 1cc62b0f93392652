-- Behind a proxy that pools transactions a worker has no session of its own: it is lost when its lease runs out, and only then.
-- (A rescuer of an earlier build takes such a worker for killed: start the first one when every worker is of this build.)

alter table queue.workers
    alter column backend_pid drop not null,
    alter column backend_start drop not null,
    add constraint workers_session_is_whole check ((backend_pid is null) = (backend_start is null));
