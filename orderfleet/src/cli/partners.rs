//! `orderfleet partners …`.

use clap::{Args, Subcommand};
use domain::ids::PartnerId;
use domain::partners::ENDPOINTS_MAX;
use domain::webhooks::CONCURRENCY_MAX;

use super::webhooks::Overlap;
use super::{Because, Output};

/// `partners [list|show|create|pause|resume|rotate|key|test|inbound]`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "A partner has an inbound address with a secret of its own, API keys, endpoints, and limits to them.\n\n\
        For example:\n  \
        orderfleet partners create acme --event 'order.*'      shows the inbound address and its secret, this once\n  \
        orderfleet partners key acme                           an API key for its own endpoints and orders\n  \
        orderfleet webhooks create URL --partner acme --event 'order.*'\n  \
        orderfleet partners test acme                          sends one event to each of its endpoints\n  \
        orderfleet partners inbound acme                       what it sent us, and what became of it\n\n\
        PARTNER is its name or its id."
)]
pub struct Partners {
    #[command(subcommand)]
    pub action: Option<PartnersAction>,

    #[command(flatten)]
    pub list: PartnersList,
}

/// Which partners to list.
#[derive(Debug, Args)]
pub struct PartnersList {
    /// Only those made before this one: the last of the page before
    #[arg(long, value_name = "ID")]
    pub before: Option<PartnerId>,

    /// How many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
}

/// What can be done about partners.
#[derive(Debug, Subcommand)]
pub enum PartnersAction {
    /// List partners, newest first (the default)
    List(PartnersList),
    /// Show one partner: its limits, its state, and how much came in its name unsigned
    Show {
        /// Its name or id
        partner: String,
        #[command(flatten)]
        output: Output,
    },
    /// Make a partner, and show its inbound secret this once
    Create(CreatePartner),
    /// Stop all exchange with a partner: its keys and webhooks are refused, its endpoints disabled
    Pause {
        /// Its name or id
        partner: String,
        #[command(flatten)]
        because: Because,
    },
    /// Exchange with a partner again, and enable the endpoints that pausing disabled
    Resume {
        /// Its name or id
        partner: String,
    },
    /// Make a new inbound secret, and show it this once; those before it are accepted too, for a while
    Rotate {
        /// Its name or id
        partner: String,
        #[command(flatten)]
        overlap: Overlap,
        #[command(flatten)]
        output: Output,
    },
    /// Make an API key for a partner, and show it this once; the API revokes it
    Key {
        /// Its name or id
        partner: String,
        #[command(flatten)]
        output: Output,
    },
    /// Send an `endpoint.test` event to each active endpoint of a partner
    Test {
        /// Its name or id
        partner: String,
        #[command(flatten)]
        output: Output,
    },
    /// List what a partner sent us, newest first, with what became of each
    Inbound {
        /// Its name or id
        partner: String,
        /// How many
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        #[command(flatten)]
        output: Output,
    },
}

/// A partner to make.
#[derive(Debug, Args)]
pub struct CreatePartner {
    /// Whom its keys stand for, and a part of its inbound address: a to z, 0 to 9 and -
    pub name: String,

    /// The most that its endpoints may ask for; everything, without; repeat it for several
    #[arg(long = "event", value_name = "TYPE", default_value = "*")]
    pub events: Vec<String>,

    /// For people
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub description: String,

    /// How many endpoints it may have
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=ENDPOINTS_MAX as i64))]
    pub endpoints_max: i32,

    /// Deliveries at once that each of its endpoints starts with
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=CONCURRENCY_MAX as i64))]
    pub concurrency: Option<i32>,

    /// Deliveries a second that each of its endpoints starts with
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,

    #[command(flatten)]
    pub output: Output,
}
