//! `orderfleet partners …`: whom we exchange webhooks with.

use anyhow::Context;
use domain::access::{self, Scope};
use domain::partners::store::{self, NewPartner};
use domain::partners::{Partner, PartnerState, inbound};
use domain::webhooks::{self, EndpointState};
use secrecy::ExposeSecret;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use crate::cli::partners::CreatePartner;
use crate::cli::{self, Because, PartnersAction, PartnersList};
use crate::operator::{connect, moment};
use crate::settings::{environment, keyring};
use crate::table::{self, Table};
use crate::webhooks::{Fired, test};

/// `orderfleet partners …`.
pub async fn partners(args: cli::Partners) -> anyhow::Result<()> {
    let mut conn = connect().await?;
    let conn = &mut conn;
    match args.action.unwrap_or(PartnersAction::List(args.list)) {
        PartnersAction::List(args) => list(conn, args).await,
        PartnersAction::Show { partner, output } => table::print(output.json, &existing(conn, &partner).await?, show),
        PartnersAction::Create(new) => create(conn, new).await,
        PartnersAction::Pause { partner, because } => pause(conn, &partner, &because).await,
        PartnersAction::Resume { partner } => {
            let mut tx = conn.begin().await?;
            let partner = existing(&mut tx, &partner).await?;
            let enabled = store::resume(&mut tx, partner.id).await?;
            tx.commit().await?;
            table::say(&format!(
                "resumed {}; {enabled} endpoints are sent to again\n",
                partner.name
            ))
        }
        PartnersAction::Rotate {
            partner,
            overlap,
            output,
        } => {
            let keyring = keyring(&environment)?;
            let mut tx = conn.begin().await?;
            let partner = existing(&mut tx, &partner).await?;
            let inbound_secret = store::rotate(&mut tx, &keyring, partner.id, Some(overlap.overlap_hours)).await?;
            tx.commit().await?;
            let made = Inbound::of(&partner, inbound_secret);
            table::print(output.json, &made, Inbound::table)
        }
        PartnersAction::Key { partner, output } => {
            let mut tx = conn.begin().await?;
            let partner = existing(&mut tx, &partner).await?;
            let (id, key) = access::store::create(&mut tx, &partner.name, Scope::PARTNER, None).await?;
            access::store::give_to_partner(&mut tx, id, partner.id).await?;
            tx.commit().await?;
            let made = Key {
                id: id.to_string(),
                key: key.token.expose_secret().to_owned(),
            };
            table::print(output.json, &made, |made| {
                let mut table = Table::new(&["FIELD", "VALUE"]);
                table.row(["id".to_owned(), made.id.clone()]);
                table.row(["key, shown this once".to_owned(), made.key.clone()]);
                table
            })
        }
        PartnersAction::Test { partner, output } => {
            let fired = test_all(conn, &partner).await?;
            table::print(output.json, &fired, |fired| {
                let mut table = Table::new(&["ENDPOINT", "EVENT", "WHAT BECAME OF IT"]);
                for Fired { endpoint_id, event_id } in fired {
                    let look = format!("`orderfleet webhooks deliveries {endpoint_id} --limit 1`");
                    table.row([endpoint_id.to_string(), event_id.clone(), look]);
                }
                table
            })
        }
        PartnersAction::Inbound { partner, limit, output } => {
            let partner = existing(conn, &partner).await?;
            let webhooks = inbound::list(conn, partner.id, None, limit).await?;
            table::print(output.json, &webhooks, |webhooks| list_inbound(webhooks))
        }
    }
}

/// The partner of that name or id.
pub(crate) async fn existing(conn: &mut PgConnection, partner: &str) -> anyhow::Result<Partner> {
    let found = store::find(conn, partner).await.context("reading the partner")?;
    found.with_context(|| format!("there is no partner {partner}; see `orderfleet partners`"))
}

async fn list(conn: &mut PgConnection, args: PartnersList) -> anyhow::Result<()> {
    let before = match args.before {
        Some(id) => Some((existing(conn, &id.to_string()).await?.created_at, id)),
        None => None,
    };
    let partners = store::list(conn, before, args.limit)
        .await
        .context("listing partners")?;
    table::print(args.output.json, &partners, |partners| {
        let mut table = Table::new(&["NAME", "ID", "STATE", "EVENTS", "ENDPOINTS AT MOST", "REJECTED", "WHY"]);
        for partner in partners {
            table.row([
                partner.name.clone(),
                partner.id.to_string(),
                state(partner).to_owned(),
                partner.event_types.join(" "),
                partner.endpoints_max.to_string(),
                partner.rejected.to_string(),
                partner.paused_reason.clone().unwrap_or_default(),
            ]);
        }
        table
    })
}

fn state(partner: &Partner) -> &'static str {
    match partner.state {
        PartnerState::Active => "active",
        PartnerState::Paused => "paused",
    }
}

fn show(partner: &Partner) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("name", partner.name.clone());
    row("id", partner.id.to_string());
    row("inbound", inbound_path(partner));
    row("state", state(partner).to_owned());
    row("events", partner.event_types.join(" "));
    row("endpoints at most", partner.endpoints_max.to_string());
    row(
        "rejected",
        format!("{} requests in its name were not signed", partner.rejected),
    );
    let optional = [
        (
            "description",
            Some(partner.description.clone()).filter(|text| !text.is_empty()),
        ),
        ("why", partner.paused_reason.clone()),
        ("old secrets until", partner.old_secrets_until.map(moment)),
        ("at once", partner.concurrency.map(|most| most.to_string())),
        ("a second", partner.rate.map(|rate| rate.to_string())),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            row(name, value);
        }
    }
    row("made", moment(partner.created_at));
    row(
        "changed",
        format!("{} (version {})", moment(partner.updated_at), partner.version),
    );
    table
}

fn inbound_path(partner: &Partner) -> String {
    format!("/webhooks/in/{}", partner.name)
}

/// Where a partner sends to, and what it signs with.
#[derive(Serialize)]
struct Inbound {
    id: String,
    name: String,
    inbound_path: String,
    inbound_secret: String,
}

impl Inbound {
    fn of(partner: &Partner, inbound_secret: String) -> Inbound {
        Inbound {
            id: partner.id.to_string(),
            name: partner.name.clone(),
            inbound_path: inbound_path(partner),
            inbound_secret,
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["FIELD", "VALUE"]);
        table.row(["name".to_owned(), self.name.clone()]);
        table.row(["id".to_owned(), self.id.clone()]);
        table.row(["inbound".to_owned(), self.inbound_path.clone()]);
        table.row([
            "inbound secret, shown this once".to_owned(),
            self.inbound_secret.clone(),
        ]);
        table
    }
}

#[derive(Serialize)]
struct Key {
    id: String,
    key: String,
}

async fn create(conn: &mut PgConnection, new: CreatePartner) -> anyhow::Result<()> {
    let keyring = keyring(&environment)?;
    let partner = NewPartner {
        name: new.name,
        description: new.description,
        event_types: new.events,
        endpoints_max: new.endpoints_max,
        concurrency: new.concurrency,
        rate: new.rate,
    };
    let mut tx = conn.begin().await?;
    let (partner, inbound_secret) = store::create(&mut tx, &keyring, partner).await?;
    tx.commit().await?;
    table::print(new.output.json, &Inbound::of(&partner, inbound_secret), Inbound::table)
}

async fn pause(conn: &mut PgConnection, partner: &str, because: &Because) -> anyhow::Result<()> {
    let mut tx = conn.begin().await?;
    let partner = existing(&mut tx, partner).await?;
    let reason = format!("by {}: {}", because.actor, because.reason);
    let announced = store::pause(&mut tx, partner.id, &reason).await?;
    jobs::announce(&mut tx, announced).await?;
    tx.commit().await?;
    table::say(&format!(
        "paused {0}: its keys and webhooks are refused, its endpoints disabled; `orderfleet partners resume {0}` ends that\n",
        partner.name
    ))
}

/// One page is all: no partner has more endpoints.
async fn test_all(conn: &mut PgConnection, partner: &str) -> anyhow::Result<Vec<Fired>> {
    let partner = existing(conn, partner).await?;
    let most = i64::from(domain::partners::ENDPOINTS_MAX);
    let endpoints = webhooks::store::list(conn, Some(partner.id), None, most).await?;
    let mut fired = Vec::new();
    for endpoint in endpoints {
        if endpoint.state == EndpointState::Active {
            fired.push(test(conn, endpoint.id).await?);
        }
    }
    Ok(fired)
}

fn list_inbound(webhooks: &[inbound::Webhook]) -> Table {
    let mut table = Table::new(&["ID", "TYPE", "STATE", "RECEIVED", "AGAIN", "WHY"]);
    for webhook in webhooks {
        table.row([
            webhook.event_id.clone(),
            webhook.kind.clone(),
            webhook.state.clone(),
            moment(webhook.received_at),
            webhook.duplicates.to_string(),
            webhook.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}
