-- Sellers, what they are owed, and how they are paid: a ledger in double entry, kept by the database itself. Whoever changes
-- what a payment has captured or refunded books the sellers' part of it, in the same transaction and exactly once.

create table sellers (
    id uuid primary key,
    name text not null constraint sellers_have_their_own_name unique check (name <> '' and length(name) <= 200),
    -- Their account at the gateway.
    destination text not null check (destination ~ '^acct_[A-Za-z0-9_]{1,200}$'),
    currency char(3) not null check (currency ~ '^[A-Z]{3}$'),
    -- Ours of each sale, in hundredths of a per cent.
    commission_bp int not null check (commission_bp between 0 and 10000),
    -- Less than that is not paid out.
    payout_min_minor bigint not null default 100 check (payout_min_minor > 0),
    payouts_paused boolean not null default false,
    -- What they are owed: the sum of their entries in the account 'seller'. Below zero when a refund came after the payout.
    balance_minor bigint not null default 0,
    version int not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp()
);
create index sellers_in_order on sellers (created_at, id);

-- Whose goods they are; ours, without.
alter table products add column seller_id uuid references sellers;
create index products_by_seller on products (seller_id) where seller_id is not null;

-- A seller's part of a payment, as it was when the money was taken; and how much of it is not given back.
create table sales (
    payment_id uuid not null references payments,
    seller_id uuid not null references sellers,
    gross_minor bigint not null check (gross_minor > 0),
    commission_minor bigint not null check (commission_minor between 0 and gross_minor),
    gross_kept_minor bigint not null default 0 check (gross_kept_minor between 0 and gross_minor),
    commission_kept_minor bigint not null default 0 check (commission_kept_minor between 0 and commission_minor),
    primary key (payment_id, seller_id)
);
create index sales_by_seller on sales (seller_id);

create table payouts (
    id uuid primary key,
    seller_id uuid not null references sellers,
    seq int not null check (seq > 0),
    idem_key text not null constraint payouts_have_their_own_key unique,
    amount_minor bigint not null check (amount_minor > 0),
    -- As they were when it was written down: one key has one set of parameters.
    currency char(3) not null,
    destination text not null,
    state text not null default 'pending' check (state in ('pending', 'paid', 'failed')),
    sends int not null default 0 check (sends >= 0),
    gateway_ref text constraint payouts_gateway_ref_is_unique unique,
    error_code text,
    message text,
    created_at timestamptz not null default clock_timestamp(),
    settled_at timestamptz,
    unique (seller_id, seq),
    constraint paid_names_the_transfer check (state <> 'paid' or gateway_ref is not null)
);
create unique index payouts_one_open_per_seller on payouts (seller_id) where state = 'pending';
create index payouts_in_order on payouts (created_at, id);
create index payouts_by_seller on payouts (seller_id, created_at, id);

create table ledger_transactions (
    id bigint generated always as identity primary key,
    -- What it books, once, whoever comes again with it.
    cause text not null constraint ledger_books_a_cause_once unique,
    payment_id uuid references payments,
    payout_id uuid references payouts,
    at timestamptz not null default clock_timestamp()
);
create table ledger_entries (
    id bigint generated always as identity primary key,
    transaction_id bigint not null references ledger_transactions,
    -- 'sales': what customers paid for their goods, below zero. 'commission': ours of it. 'seller': owed. 'payouts': paid out.
    account text not null check (account in ('sales', 'commission', 'seller', 'payouts')),
    seller_id uuid not null references sellers,
    amount_minor bigint not null check (amount_minor <> 0),
    unique (transaction_id, account, seller_id)
);
create index ledger_entries_of_seller on ledger_entries (seller_id, id);
comment on table ledger_entries is 'Double entry: those of one transaction sum to zero for each seller. Only ever added to.';

create function check_ledger_transaction() returns trigger language plpgsql as $$
begin
    if exists (
        select from ledger_entries e where e.transaction_id = new.transaction_id
        group by e.seller_id having sum(e.amount_minor) <> 0
    ) then
        raise exception 'the entries of ledger transaction % do not sum to zero', new.transaction_id
            using errcode = 'check_violation', constraint = 'ledger_transactions_sum_to_zero';
    end if;
    return null;
end $$;
create constraint trigger ledger_transactions_sum_to_zero after insert on ledger_entries
    deferrable initially deferred
    for each row execute function check_ledger_transaction();

create function count_ledger_entry() returns trigger language plpgsql as $$
declare
    balance bigint;
begin
    update sellers set balance_minor = balance_minor + new.amount_minor where id = new.seller_id
    returning balance_minor into balance;
    if balance < 0 and new.amount_minor < 0 and exists (
        select from ledger_transactions t where t.id = new.transaction_id and t.payout_id is not null
    ) then
        raise exception 'seller % is not owed that much', new.seller_id
            using errcode = 'check_violation', constraint = 'payouts_take_only_what_is_owed';
    end if;
    return null;
end $$;
create trigger ledger_entries_counted after insert on ledger_entries
    for each row when (new.account = 'seller') execute function count_ledger_entry();

create trigger ledger_entries_stay before update or delete on ledger_entries
    for each row execute function refuse_change();
create trigger ledger_transactions_stay before update or delete on ledger_transactions
    for each row execute function refuse_change();

-- Books what changed of the sellers' parts of a payment: after a capture all of them, after a refund what is left in the
-- proportion of what the payment keeps. The last refund leaves nothing, whatever was rounded before.
create function book_sales() returns trigger language plpgsql as $$
declare
    sale record;
    booked_as bigint;
begin
    if old.captured_minor = 0 then
        insert into sales (payment_id, seller_id, gross_minor, commission_minor)
        select new.id, s.id, g.gross, floor(g.gross * s.commission_bp / 10000)::bigint
        from (
            select p.seller_id, sum(l.qty * l.unit_price_minor)::bigint as gross
            from order_lines l
            join products p on p.id = l.product_id
            where l.order_id = new.order_id and p.seller_id is not null
            group by p.seller_id
        ) g
        join sellers s on s.id = g.seller_id
        where g.gross > 0
        on conflict do nothing;
    end if;
    for sale in
        select f.seller_id, f.gross - f.gross_kept_minor as gross, f.commission - f.commission_kept_minor as commission
        from (
            select s.seller_id, s.gross_kept_minor, s.commission_kept_minor,
                   floor(s.gross_minor::numeric * (new.captured_minor - new.refunded_minor) / new.captured_minor)::bigint as gross,
                   floor(s.commission_minor::numeric * (new.captured_minor - new.refunded_minor) / new.captured_minor)::bigint
                       as commission
            from sales s
            where s.payment_id = new.id
        ) f
        where f.gross <> f.gross_kept_minor or f.commission <> f.commission_kept_minor
        order by f.seller_id
    loop
        if booked_as is null then
            insert into ledger_transactions (cause, payment_id)
            values (format('payment:%s:%s:%s', new.id, new.captured_minor, new.refunded_minor), new.id)
            returning id into booked_as;
        end if;
        update sales s
        set gross_kept_minor = s.gross_kept_minor + sale.gross,
            commission_kept_minor = s.commission_kept_minor + sale.commission
        where s.payment_id = new.id and s.seller_id = sale.seller_id;
        insert into ledger_entries (transaction_id, account, seller_id, amount_minor)
        select booked_as, e.account, sale.seller_id, e.amount
        from (values ('sales', -sale.gross), ('commission', sale.commission), ('seller', sale.gross - sale.commission))
            e (account, amount)
        where e.amount <> 0;
    end loop;
    return null;
end $$;
create trigger payments_book_sales after update on payments
    for each row when (new.captured_minor > 0
                       and (old.captured_minor, old.refunded_minor) is distinct from (new.captured_minor, new.refunded_minor))
    execute function book_sales();

-- Books a payout when it is written down, so that nothing is promised twice, and takes it back when it has failed for good.
create function book_payout() returns trigger language plpgsql as $$
declare
    booked_as bigint;
    amount bigint := case when new.state = 'failed' then -new.amount_minor else new.amount_minor end;
begin
    insert into ledger_transactions (cause, payout_id)
    values (format('payout:%s%s', new.id, case when new.state = 'failed' then ':failed' else '' end), new.id)
    returning id into booked_as;
    insert into ledger_entries (transaction_id, account, seller_id, amount_minor)
    values (booked_as, 'seller', new.seller_id, -amount), (booked_as, 'payouts', new.seller_id, amount);
    return null;
end $$;
create trigger payouts_booked_when_made after insert on payouts
    for each row execute function book_payout();
create trigger payouts_booked_when_failed after update on payouts
    for each row when (old.state = 'pending' and new.state = 'failed')
    execute function book_payout();
create function refuse_change_of_payout() returns trigger language plpgsql as $$
begin
    raise exception 'payout % is %, and stays so', old.id, old.state using errcode = 'restrict_violation';
end $$;
create trigger settled_payouts_stay before update on payouts
    for each row when (old.state <> 'pending') execute function refuse_change_of_payout();
