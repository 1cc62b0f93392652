//! `orderfleet sellers …` and `orderfleet orphans …`: the money of others, and money that is nobody's.

use anyhow::{Context, bail};
use domain::payments::audit::{self, OrphanCharge};
use domain::sellers::{Entry, Payout, Seller, store};
use jobs::PaySeller;

use crate::cli::{self, OrphansAction, SellersAction};
use crate::operator::{connect, moment};
use crate::table::{self, Table};

/// Carries out `orderfleet sellers …`.
pub async fn sellers(args: cli::Sellers) -> anyhow::Result<()> {
    let conn = &mut connect().await?;
    match args.action.unwrap_or(SellersAction::List(args.list)) {
        SellersAction::List(most) => {
            let sellers = store::list(conn, None, most.limit).await.context("listing sellers")?;
            table::print(most.output.json, &sellers, |sellers| lines(sellers))
        }
        SellersAction::Entries { id, most } => {
            let entries = store::entries(conn, id, None, most.limit).await;
            let entries = entries.context("listing a seller's entries")?;
            table::print(most.output.json, &entries, |entries| booked(entries))
        }
        SellersAction::Payouts { seller, most } => {
            let payouts = store::payouts(conn, seller, None, most.limit).await;
            let payouts = payouts.context("listing payouts")?;
            table::print(most.output.json, &payouts, |payouts| paid(payouts))
        }
        SellersAction::Pay { id } => {
            let seller = store::get(conn, id).await.context("reading the seller")?;
            let Some(seller) = seller else {
                bail!("there is no seller {id}: `orderfleet sellers` lists them")
            };
            let job = queue::enqueue(conn, &PaySeller { seller_id: id }).await?;
            table::say(&format!(
                "job {} pays {} what it is owed: {} {} by now\n",
                job.id,
                seller.name,
                seller.balance,
                seller.currency.as_str()
            ))
        }
    }
}

/// Carries out `orderfleet orphans …`.
pub async fn orphans(args: cli::Orphans) -> anyhow::Result<()> {
    let conn = &mut connect().await?;
    match args.action.unwrap_or(OrphansAction::List(args.list)) {
        OrphansAction::List(list) => {
            let orphans = audit::orphans(conn, !list.all, None, list.most.limit).await;
            let orphans = orphans.context("listing orphan charges")?;
            table::print(list.most.output.json, &orphans, |orphans| nobodys(orphans))
        }
        OrphansAction::Resolve { movement, because } => {
            let orphan = audit::resolve_orphan(conn, &movement, &because.reason, &because.actor).await;
            match orphan.context("resolving an orphan charge")? {
                Some(orphan) => table::say(&format!(
                    "{movement} is resolved by {}: {}\n",
                    orphan.resolved_by.unwrap_or_default(),
                    orphan.resolution.unwrap_or_default()
                )),
                None => bail!("there is no orphan charge {movement}: `orderfleet orphans --all` lists them"),
            }
        }
    }
}

fn lines(sellers: &[Seller]) -> Table {
    let mut table = Table::new(&["ID", "NAME", "OWED", "CURRENCY", "COMMISSION", "LEAST", "PAID TO"]);
    for seller in sellers {
        let paused = if seller.payouts_paused { ", paused" } else { "" };
        table.row([
            seller.id.to_string(),
            seller.name.clone(),
            seller.balance.to_string(),
            seller.currency.as_str().to_owned(),
            format!("{} bp", seller.commission_bp),
            seller.payout_min.to_string(),
            format!("{}{paused}", seller.destination),
        ]);
    }
    table
}

fn booked(entries: &[Entry]) -> Table {
    let mut table = Table::new(&["ID", "AT", "ACCOUNT", "AMOUNT", "CAUSE"]);
    for entry in entries {
        table.row([
            entry.id.to_string(),
            moment(entry.at),
            entry.account.clone(),
            entry.amount.to_string(),
            entry.cause.clone(),
        ]);
    }
    table
}

fn paid(payouts: &[Payout]) -> Table {
    let mut table = Table::new(&[
        "ID", "SELLER", "AMOUNT", "CURRENCY", "STATE", "MADE", "SETTLED", "TRANSFER", "WHY",
    ]);
    for payout in payouts {
        let why = [payout.error_code.as_deref(), payout.message.as_deref()];
        table.row([
            payout.id.to_string(),
            payout.seller_id.to_string(),
            payout.amount.to_string(),
            payout.currency.as_str().to_owned(),
            payout.state.to_string(),
            moment(payout.created_at),
            payout.settled_at.map_or_else(String::new, moment),
            payout.gateway_ref.clone().unwrap_or_default(),
            why.into_iter().flatten().collect::<Vec<_>>().join(": "),
        ]);
    }
    table
}

fn nobodys(orphans: &[OrphanCharge]) -> Table {
    let mut table = Table::new(&["MOVEMENT", "AMOUNT", "CURRENCY", "MOVED", "SEEN", "WHY", "WHAT TO DO"]);
    for orphan in orphans {
        let to_do = match &orphan.resolution {
            Some(resolution) => format!("resolved: {resolution}"),
            None => orphan.remedy(),
        };
        table.row([
            orphan.movement.clone(),
            orphan.amount.to_string(),
            orphan.currency.clone(),
            moment(orphan.moved_at),
            moment(orphan.seen_at),
            orphan.why(),
            to_do,
        ]);
    }
    table
}
