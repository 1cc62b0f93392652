//! L1–L3: the sellers' ledger is even, says what the payments say, and pays what the gateway paid.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::journals::{Ledger, LedgerEntry};
use super::{Check, JUST_NOW};

const L3: &str = "every payout that is paid is one transfer of the gateway, and every transfer is one of our payouts";

pub(super) async fn check(conn: &mut PgConnection, ledger: Option<&Ledger>) -> sqlx::Result<Vec<Check>> {
    let l3 = match ledger {
        Some(ledger) => Check::new("L3", L3, transfers(conn, ledger).await?),
        None => Check::skipped("L3", L3, "no ledger given"),
    };
    Ok(vec![even(conn).await?, kept(conn).await?, l3])
}

/// L1.
async fn even(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let mut offenders = sqlx::query_scalar!(
        r#"
        select format('transaction %s (%s) sums to %s for seller %s', t.id, t.cause, sum(e.amount_minor), e.seller_id) as "it!"
        from ledger_entries e
        join ledger_transactions t on t.id = e.transaction_id
        group by t.id, t.cause, e.seller_id
        having sum(e.amount_minor) <> 0
        "#
    )
    .fetch_all(&mut *conn)
    .await?;
    offenders.extend(
        sqlx::query_scalar!(
            r#"
            select format('seller %s has a balance of %s, and entries of %s', s.id, s.balance_minor, coalesce(e.owed, 0)) as "it!"
            from sellers s
            left join (select seller_id, sum(amount_minor) as owed from ledger_entries where account = 'seller' group by 1) e
              on e.seller_id = s.id
            where s.balance_minor <> coalesce(e.owed, 0)
            "#
        )
        .fetch_all(conn)
        .await?,
    );
    let statement = "every transaction of the sellers' ledger sums to zero, and balances are the sums of their entries";
    Ok(Check::new("L1", statement, offenders))
}

/// L2. What was rounded down of a part that went back is less than one minor unit.
async fn kept(conn: &mut PgConnection) -> sqlx::Result<Check> {
    let offenders = sqlx::query_scalar!(
        r#"
        with booked as (
            select t.payment_id, e.seller_id,
                   -coalesce(sum(e.amount_minor) filter (where e.account = 'sales'), 0) as gross,
                   coalesce(sum(e.amount_minor) filter (where e.account = 'commission'), 0) as commission
            from ledger_entries e
            join ledger_transactions t on t.id = e.transaction_id
            where t.payment_id is not null
            group by 1, 2
        )
        select format('payment %s: seller %s has %s of sales and %s of commission booked', s.payment_id, s.seller_id,
                      coalesce(b.gross, 0), coalesce(b.commission, 0)) as "it!"
        from sales s
        join payments p on p.id = s.payment_id
        left join booked b on b.payment_id = s.payment_id and b.seller_id = s.seller_id
        where coalesce(b.gross, 0) <> s.gross_kept_minor
           or coalesce(b.commission, 0) <> s.commission_kept_minor
           or s.gross_kept_minor <> floor(s.gross_minor::numeric * (p.captured_minor - p.refunded_minor) / p.captured_minor)
           or s.commission_kept_minor
              <> floor(s.commission_minor::numeric * (p.captured_minor - p.refunded_minor) / p.captured_minor)
        "#
    )
    .fetch_all(conn)
    .await?;
    let statement = "each seller's part of a payment is booked for what the payment keeps";
    Ok(Check::new("L2", statement, offenders))
}

struct Payout {
    id: String,
    idem_key: String,
    amount_minor: i64,
    destination: String,
    state: String,
    gateway_ref: Option<String>,
    is_young: bool,
}

/// L3.
async fn transfers(conn: &mut PgConnection, ledger: &Ledger) -> sqlx::Result<Vec<String>> {
    let payouts = sqlx::query_as!(
        Payout,
        r#"
        select id::text as "id!", idem_key, amount_minor, destination, state, gateway_ref,
               coalesce(settled_at, created_at) > queue.clock() - make_interval(secs => $1) as "is_young!"
        from payouts
        order by id
        "#,
        JUST_NOW
    )
    .fetch_all(conn)
    .await?;
    let mut made: HashMap<&str, Vec<&LedgerEntry>> = HashMap::new();
    for transfer in ledger.transfers() {
        made.entry(transfer.key.as_deref().unwrap_or_default())
            .or_default()
            .push(transfer);
    }
    let mut offenders = Vec::new();
    for payout in &payouts {
        let transfers = made.remove(payout.idem_key.as_str()).unwrap_or_default();
        let (name, state) = (&payout.id, payout.state.as_str());
        match transfers.as_slice() {
            [] if state == "paid" && !payout.is_young => {
                offenders.push(format!("payout {name} is paid, and the gateway has made no transfer"));
            }
            [] => {}
            [one] if one.amount != payout.amount_minor || one.destination.as_deref() != Some(&payout.destination) => {
                offenders.push(format!(
                    "payout {name} is of {} to {}, entry {} is of {} to {}",
                    payout.amount_minor,
                    payout.destination,
                    one.n,
                    one.amount,
                    one.destination.as_deref().unwrap_or_default()
                ));
            }
            [one] if state == "paid" && one.transfer != payout.gateway_ref => {
                offenders.push(format!("payout {name} names another transfer than entry {}", one.n));
            }
            [one] if state != "paid" && !payout.is_young => {
                offenders.push(format!(
                    "payout {name} is {state}, and entry {} has made its transfer",
                    one.n
                ));
            }
            [_] => {}
            [_, ..] => offenders.push(format!("payout {name} was made {} times", transfers.len())),
        }
    }
    let strays = made.into_values().flatten();
    offenders.extend(strays.map(|entry| format!("entry {} is a transfer of none of our payouts", entry.n)));
    offenders.sort();
    Ok(offenders)
}
