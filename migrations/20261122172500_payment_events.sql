-- What happened to each payment, as an append-only list: every change of a payment and of its attempts at the gateway writes
-- its line in the same transaction, whichever function made it.

create table payment_events (
    id bigint generated always as identity primary key,
    payment_id uuid not null references payments (id) on delete cascade,
    at timestamptz not null default clock_timestamp(),
    what text not null check (what in ('payment', 'attempt')),
    state text not null,
    op text,
    seq integer,
    amount_minor bigint not null,
    captured_minor bigint,
    refunded_minor bigint,
    sends integer,
    http_status integer,
    request_id text,
    error_code text,
    check ((what = 'attempt') = (op is not null and seq is not null))
);
comment on table payment_events is 'The timeline of each payment: one line for each change of it or of one of its attempts. Only ever added to.';
create index payment_events_of_payment on payment_events (payment_id, id);

create function note_payment() returns trigger language plpgsql as $$
begin
    insert into payment_events (payment_id, what, state, amount_minor, captured_minor, refunded_minor, error_code)
    values (new.id, 'payment', new.state, new.amount_minor, new.captured_minor, new.refunded_minor, new.decline_code);
    return null;
end $$;

create function note_payment_attempt() returns trigger language plpgsql as $$
begin
    insert into payment_events (payment_id, what, state, op, seq, amount_minor, sends, http_status, request_id, error_code)
    values (new.payment_id, 'attempt', new.state, new.op, new.seq, new.amount_minor, new.sends, new.http_status,
            new.request_id, new.error_code);
    return null;
end $$;

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is only ever added to', tg_table_name using errcode = 'restrict_violation';
end $$;

create trigger payments_noted_when_made after insert on payments
    for each row execute function note_payment();
create trigger payments_noted_when_changed after update on payments
    for each row when ((old.state, old.captured_minor, old.refunded_minor) is distinct from (new.state, new.captured_minor, new.refunded_minor))
    execute function note_payment();
create trigger payment_attempts_noted_when_made after insert on payment_attempts
    for each row execute function note_payment_attempt();
create trigger payment_attempts_noted_when_changed after update on payment_attempts
    for each row when ((old.state, old.sends, old.http_status, old.error_code) is distinct from (new.state, new.sends, new.http_status, new.error_code))
    execute function note_payment_attempt();
create trigger payment_events_stay before update on payment_events
    for each row execute function refuse_change();
