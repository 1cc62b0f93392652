//! `orderfleet sellers` and `orderfleet orphans`: what is owed, and what nobody knows.

use clap::{Args, Subcommand};
use domain::ids::SellerId;

use super::{Because, Output};

/// Settings of `orderfleet sellers`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        orderfleet sellers                        who is owed what\n  \
        orderfleet sellers entries ID             what was booked for one: sales, commission, payouts\n  \
        orderfleet sellers payouts --seller ID    what was paid, and what was refused and why\n  \
        orderfleet sellers pay ID                 pay one now, not when the clock does\n\n\
        Sellers are made and changed over the API: POST /api/v1/sellers, PUT /api/v1/products/{id}/seller."
)]
pub struct Sellers {
    #[command(subcommand)]
    pub action: Option<SellersAction>,

    #[command(flatten)]
    pub list: Most,
}

/// What can be asked about sellers.
#[derive(Debug, Subcommand)]
pub enum SellersAction {
    /// List sellers with what they are owed, newest first (the default)
    List(Most),
    /// List what was booked for a seller, newest first; the entries of one cause sum to zero
    Entries {
        /// The seller
        id: SellerId,
        #[command(flatten)]
        most: Most,
    },
    /// List payouts, newest first
    Payouts {
        /// Only to this seller
        #[arg(long, value_name = "ID")]
        seller: Option<SellerId>,
        #[command(flatten)]
        most: Most,
    },
    /// Pay a seller what it is owed, by a job, unless that is below its least amount or its payouts are paused
    Pay {
        /// The seller
        id: SellerId,
    },
}

/// Settings of `orderfleet orphans`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        orderfleet orphans                                            those that wait for somebody, with why and what to do\n  \
        orderfleet orphans resolve txn_1 --reason \"refunded by Ann\"   what became of one; it is not open any more\n\n\
        They are found by the daily job sweep_ledger; `orderfleet schedule run sweep_ledger --reason …` looks now."
)]
pub struct Orphans {
    #[command(subcommand)]
    pub action: Option<OrphansAction>,

    #[command(flatten)]
    pub list: OrphansList,
}

/// What can be done about orphan charges.
#[derive(Debug, Subcommand)]
pub enum OrphansAction {
    /// List orphan charges, newest first (the default)
    List(OrphansList),
    /// Say what became of one
    Resolve {
        /// The gateway's id of the movement
        movement: String,
        #[command(flatten)]
        because: Because,
    },
}

/// Which orphan charges to list.
#[derive(Debug, Args)]
pub struct OrphansList {
    /// Resolved ones too
    #[arg(long)]
    pub all: bool,

    #[command(flatten)]
    pub most: Most,
}

/// How many rows, and how they are printed.
#[derive(Debug, Args)]
pub struct Most {
    /// How many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
}
