-- PostgreSQL prepares every check of a table anew for every statement that writes it, which for one row cost more than the row.
-- One check asks one function, which also says which bound it is.

create function queue.is_bounded(p_queue text, p_kind text, p_args jsonb, p_args_version smallint, p_priority smallint,
                                 p_attempts_max integer, p_unique_key text, p_group_key text, p_limit_key text)
    returns boolean
    language plpgsql immutable parallel safe
as $$
declare
    longest constant int := 300;
begin
    if length(p_queue) between 1 and 100 and length(p_kind) between 1 and 100 and p_args_version > 0
       and p_attempts_max between 1 and 1000 and p_priority between -10 and 10 and pg_column_size(p_args) <= 65536
       and (p_unique_key is null or length(p_unique_key) <= longest)
       and (p_group_key is null or length(p_group_key) <= longest)
       and (p_limit_key is null or length(p_limit_key) <= longest) then
        return true;
    end if;
    raise exception '%', case
            when length(p_queue) not between 1 and 100 then 'the name of a queue has from 1 to 100 characters'
            when length(p_kind) not between 1 and 100 then 'the name of a kind has from 1 to 100 characters'
            when p_args_version < 1 then 'versions of payloads count from 1'
            when p_attempts_max not between 1 and 1000 then format('a job has from 1 to 1000 attempts, not %s', p_attempts_max)
            when p_priority not between -10 and 10 then format('a priority is from -10 to 10, not %s', p_priority)
            when pg_column_size(p_args) > 65536
                then format('the payload of a %s job has at most 65536 bytes, not %s', p_kind, pg_column_size(p_args))
            when length(p_unique_key) > longest then format('a unique key has at most %s characters', longest)
            when length(p_group_key) > longest then format('a group key has at most %s characters', longest)
            else format('a limit key has at most %s characters', longest)
        end
        using errcode = 'check_violation', schema = 'queue', table = 'jobs', constraint = 'jobs_are_bounded';
end $$;

alter table queue.jobs
    drop constraint job_args_are_small,
    drop constraint jobs_args_version_check,
    drop constraint jobs_attempt_check,
    drop constraint jobs_attempts_max_check,
    drop constraint jobs_fence_check,
    drop constraint jobs_group_key_check,
    drop constraint jobs_kind_check,
    drop constraint jobs_limit_key_check,
    drop constraint jobs_priority_check,
    drop constraint jobs_queue_check,
    drop constraint jobs_unique_key_check,
    add constraint jobs_are_bounded check (
        queue.is_bounded(queue, kind, args, args_version, priority, attempts_max, unique_key, group_key, limit_key));
