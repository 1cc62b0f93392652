//! `orderfleet webhooks …`.

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use domain::ids::{DeliveryId, EndpointId};
use domain::webhooks::{CONCURRENCY_MAX, OVERLAP_HOURS, OVERLAP_HOURS_MAX};

use super::{Actor, Because, Output};

/// `webhooks [list|show|create|change|pause|resume|rotate|delete|test|deliveries|attempts|resend|discard|replay]`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "For example:\n  \
        orderfleet webhooks create https://hooks.example.com/orders --event 'order.*' --partner acme\n  \
        orderfleet webhooks test ID                              sends one event, and says where to look\n  \
        orderfleet webhooks deliveries ID --state dead           what its receiver never took\n  \
        orderfleet webhooks attempts DELIVERY                    each try, and what the receiver answered\n  \
        orderfleet webhooks resend DELIVERY                      the same bytes under the same webhook-id\n  \
        orderfleet webhooks replay ID --since 6h                 all it missed in the last six hours\n\n\
        These speak to the database, so they also work while the API does not. Secrets are shown once, when they are made;\n\
        making one needs ORDERFLEET_MASTER_KEY."
)]
pub struct Webhooks {
    #[command(subcommand)]
    pub action: Option<WebhooksAction>,

    #[command(flatten)]
    pub list: WebhooksList,
}

/// Which endpoints to list.
#[derive(Debug, Args)]
pub struct WebhooksList {
    /// Only this partner's: its name or id
    #[arg(long, value_name = "PARTNER")]
    pub partner: Option<String>,

    /// Only those registered before this one: the last of the page before
    #[arg(long, value_name = "ID")]
    pub before: Option<EndpointId>,

    /// How many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
}

/// What can be done about endpoints and their deliveries.
#[derive(Debug, Subcommand)]
pub enum WebhooksAction {
    /// List endpoints, newest first (the default)
    List(WebhooksList),
    /// Show one endpoint: what it asked for, its state, and why
    Show {
        /// The endpoint
        id: EndpointId,
        #[command(flatten)]
        output: Output,
    },
    /// Register an endpoint, and show its secret this once
    Create(CreateWebhook),
    /// Change what an endpoint asked for; what is kept in order cannot change
    Change(ChangeWebhook),
    /// Send nothing to an endpoint; it goes on collecting for seven days
    Pause {
        /// The endpoint
        id: EndpointId,
        #[command(flatten)]
        because: Because,
    },
    /// Send to an endpoint again, with a clean record; `replay` sends what it missed. Of one that its partner has not confirmed it
    /// says that the address is the partner's
    Resume {
        /// The endpoint
        id: EndpointId,
    },
    /// Make a new secret, and show it this once; those before it sign too, for a while
    Rotate {
        /// The endpoint
        id: EndpointId,
        /// What signs from now on
        #[arg(long, default_value = "hmac", value_parser = ["hmac", "ed25519"])]
        signing: String,
        #[command(flatten)]
        overlap: Overlap,
        #[command(flatten)]
        output: Output,
    },
    /// Delete an endpoint with its secrets; its deliveries are kept
    Delete {
        /// The endpoint
        id: EndpointId,
        #[command(flatten)]
        actor: Actor,
    },
    /// Send an `endpoint.test` event to an endpoint, whatever it asked for
    Test {
        /// The endpoint
        id: EndpointId,
        #[command(flatten)]
        output: Output,
    },
    /// List what an endpoint was sent, newest first, with what became of each
    Deliveries {
        /// The endpoint
        id: EndpointId,
        /// Only in this state
        #[arg(long, value_name = "STATE", value_parser = ["pending", "in_flight", "delivered", "dead", "discarded"])]
        state: Option<String>,
        /// Only events before this number (SEQ): the last of the page before
        #[arg(long, value_name = "SEQ")]
        before: Option<i64>,
        /// How many
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Show one delivery with every try
    Attempts {
        /// The delivery
        id: DeliveryId,
        #[command(flatten)]
        output: Output,
    },
    /// Send deliveries again, whatever became of them: the same id and bytes, newly signed
    Resend {
        /// The deliveries
        #[arg(required = true)]
        ids: Vec<DeliveryId>,
        #[command(flatten)]
        actor: Actor,
    },
    /// Give dead deliveries up for good; what they block goes on
    Discard {
        /// The deliveries
        #[arg(required = true)]
        ids: Vec<DeliveryId>,
        #[command(flatten)]
        because: Because,
    },
    /// Send again what an endpoint missed in a time, oldest first, at most 1000 at once
    Replay {
        /// The endpoint
        id: EndpointId,
        /// What was written then or later: 2026-11-22T10:00:00Z, or so long ago, as 6h
        #[arg(long, value_name = "WHEN")]
        since: When,
        /// And before then
        #[arg(long, value_name = "WHEN")]
        until: Option<When>,
        /// Which; repeat it for several
        #[arg(long = "state", value_name = "STATE", value_parser = ["dead", "discarded", "delivered"],
              default_values_t = ["dead".to_owned(), "discarded".to_owned()])]
        states: Vec<String>,
        #[command(flatten)]
        actor: Actor,
    },
}

/// An endpoint to register.
#[derive(Debug, Args)]
pub struct CreateWebhook {
    /// Where to send events: https and a public address
    pub url: String,

    /// Which: '*', 'order.*' or order.confirmed; repeat it for several
    #[arg(long = "event", required = true, value_name = "TYPE")]
    pub events: Vec<String>,

    /// What is kept in order: nothing, the events of each order, or all
    #[arg(long, default_value = "per_key", value_name = "ORDER", value_parser = ["none", "per_key", "strict"])]
    pub ordering: String,

    /// What becomes of what waits behind a dead delivery: it goes on, or waits until that one is resent or discarded
    #[arg(long, default_value = "skip", value_name = "POLICY", value_parser = ["skip", "block"])]
    pub dead_head: String,

    /// What signs
    #[arg(long, default_value = "hmac", value_parser = ["hmac", "ed25519"])]
    pub signing: String,

    /// Whose it is, by name or id; ours, without
    #[arg(long, value_name = "PARTNER")]
    pub partner: Option<String>,

    /// For people
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub description: String,

    /// Deliveries at once; its partner's, without
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=CONCURRENCY_MAX as i64))]
    pub concurrency: Option<i32>,

    /// Deliveries a second; its partner's, without
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,

    #[command(flatten)]
    pub reach: Reach,

    #[command(flatten)]
    pub actor: Actor,

    #[command(flatten)]
    pub output: Output,
}

/// What changes in an endpoint: what is named.
#[derive(Debug, Args)]
pub struct ChangeWebhook {
    /// The endpoint
    pub id: EndpointId,

    /// Where to send events
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,

    /// Which, from now on; repeat it for several
    #[arg(long = "event", value_name = "TYPE")]
    pub events: Vec<String>,

    /// What becomes of what waits behind a delivery that dies from now on
    #[arg(long, value_name = "POLICY", value_parser = ["skip", "block"])]
    pub dead_head: Option<String>,

    /// For people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,

    /// Deliveries at once; 0 for the limit of all endpoints
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=CONCURRENCY_MAX as i64))]
    pub concurrency: Option<i32>,

    /// Deliveries a second; 0 for any number
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,

    #[command(flatten)]
    pub reach: Reach,

    #[command(flatten)]
    pub actor: Actor,

    #[command(flatten)]
    pub output: Output,
}

/// Where webhooks may go.
#[derive(Debug, Args)]
pub struct Reach {
    /// Let webhooks go to private and loopback addresses (development only)
    #[arg(long, env = "ORDERFLEET_ALLOW_PRIVATE_WEBHOOKS", value_name = "BOOL",
          num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub allow_private_webhooks: bool,
}

/// How long the secrets before a new one go on.
#[derive(Debug, Args, Clone, Copy)]
pub struct Overlap {
    /// Hours for which the secrets before it hold too; 0 ends them at once: they leaked
    #[arg(long, default_value_t = OVERLAP_HOURS, value_name = "N",
          value_parser = clap::value_parser!(i32).range(0..=OVERLAP_HOURS_MAX as i64))]
    pub overlap_hours: i32,
}

/// A moment, or how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// That moment.
    At(DateTime<Utc>),
    /// So long before now, by the database's clock.
    Ago(TimeDelta),
}

impl When {
    /// The moment, if it is now `now`.
    pub fn at(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            When::At(at) => at,
            When::Ago(ago) => now - ago,
        }
    }
}

impl std::str::FromStr for When {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<When, Self::Err> {
        if let Ok(at) = text.parse() {
            return Ok(When::At(at));
        }
        let ago = humantime::parse_duration(text).ok();
        // More than any delivery is old.
        let ago = ago.filter(|ago| ago.as_secs() <= 100 * 366 * 24 * 60 * 60);
        ago.and_then(|ago| TimeDelta::from_std(ago).ok())
            .map(When::Ago)
            .ok_or("neither a time, as 2026-11-22T10:00:00Z, nor how long ago, as 6h")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        let now: DateTime<Utc> = "2026-11-22T10:00:00Z".parse().expect("a time");
        let at = |text: &str| text.parse::<When>().map(|when| when.at(now).to_rfc3339());
        assert_eq!(
            at("2026-11-22T10:00:00+02:00").as_deref(),
            Ok("2026-11-22T08:00:00+00:00")
        );
        assert_eq!(at("6h").as_deref(), Ok("2026-11-22T04:00:00+00:00"));
        for bad in ["", "yesterday", "2026-11-22", "9000years"] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }
}
