-- What the payment gateway says by itself: events that it sends, each taken in once, and movements of money on its books
-- that none of our payments accounts for.

create table inbound_events (
    source text not null check (length(source) between 1 and 100),
    event_id text not null check (length(event_id) between 1 and 255),
    type text not null check (length(type) <= 255),
    payload bytea not null check (octet_length(payload) <= 262144),
    received_at timestamptz not null default clock_timestamp(),
    processed_at timestamptz,
    primary key (source, event_id)
);
comment on table inbound_events is 'Verified events of others, once each, as their raw bytes; kept longer than any sender goes on retrying.';
create index inbound_events_by_age on inbound_events (received_at);

create table orphan_charges (
    movement text primary key,
    intent text,
    amount_minor bigint not null check (amount_minor <> 0),
    currency text not null,
    moved_at timestamptz not null,
    seen_at timestamptz not null default clock_timestamp()
);
comment on table orphan_charges is 'Movements on the gateway''s balance that belong to no payment of ours: each needs a person.';
