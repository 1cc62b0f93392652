-- A movement of money that is nobody's is open until a person has said what became of it.
alter table orphan_charges
    add column resolved_at timestamptz,
    add column resolved_by text,
    add column resolution text check (resolution <> '' and length(resolution) <= 500),
    add constraint resolved_says_by_whom_and_how
        check ((resolved_at is null) = (resolved_by is null) and (resolved_at is null) = (resolution is null));
create index orphan_charges_in_order on orphan_charges (seen_at, movement);
create index orphan_charges_open on orphan_charges (seen_at, movement) where resolved_at is null;
