-- What a worker can read, so that a job of a kind or a version that nobody knows can say so. Null for a worker of an earlier
-- build, which does not tell.
alter table queue.workers
    add column kinds text[],
    add column versions smallint[];
