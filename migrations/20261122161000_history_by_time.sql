-- The history is read by id, and by time: how many ended in the last minute. A B-tree over kind and time cost every finished job
-- as much as its row did; rows come in the order of their time, so a summary of each range of pages does.

drop index queue.finished_jobs_by_kind;
create index finished_jobs_by_time on queue.finished_jobs using brin (finished_at) with (autosummarize = on);
