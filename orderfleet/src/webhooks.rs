//! `orderfleet webhooks …`: endpoints, what they were sent, and what became of it.

use anyhow::{Context, bail};
use domain::ids::{DeliveryId, EndpointId};
use domain::payments::store::clock;
use domain::webhooks::sign::{self, Signing};
use domain::webhooks::store::{self, EndpointChange, NewEndpoint, Range, Rotation};
use domain::webhooks::{DeadHead, Delivery, DeliveryAttempt, DeliveryState, Endpoint, EndpointState, Ordering};
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use crate::cli::webhooks::{ChangeWebhook, CreateWebhook, When};
use crate::cli::{self, Because, WebhooksAction, WebhooksList};
use crate::operator::{connect, moment};
use crate::partners;
use crate::settings::{environment, keyring};
use crate::table::{self, Table};

/// Deliveries that one replay makes pending, as over the API.
const REPLAY_MAX: i64 = 1000;

/// `orderfleet webhooks …`.
pub async fn webhooks(args: cli::Webhooks) -> anyhow::Result<()> {
    let mut conn = connect().await?;
    let conn = &mut conn;
    match args.action.unwrap_or(WebhooksAction::List(args.list)) {
        WebhooksAction::List(args) => list(conn, args).await,
        WebhooksAction::Show { id, output } => table::print(output.json, &existing(conn, id).await?, show),
        WebhooksAction::Create(new) => create(conn, new).await,
        WebhooksAction::Change(args) => change(conn, args).await,
        WebhooksAction::Pause { id, because } => pause(conn, id, &because).await,
        WebhooksAction::Resume { id } => {
            let mut tx = conn.begin().await?;
            let about = || format!("endpoint {id}");
            store::vouch(&mut tx, id).await.with_context(about)?;
            store::enable(&mut tx, id).await.with_context(about)?;
            tx.commit().await?;
            table::say(&format!(
                "{id} is sent to again; `orderfleet webhooks replay {id} --since WHEN` sends what it missed\n"
            ))
        }
        WebhooksAction::Rotate {
            id,
            signing,
            overlap,
            output,
        } => {
            let rotation = Rotation {
                signing: signing_of(&signing),
                secret: None,
                overlap_hours: Some(overlap.overlap_hours),
            };
            let mut tx = conn.begin().await?;
            let secret = store::rotate(&mut tx, &keyring(&environment)?, id, rotation)
                .await
                .with_context(|| format!("endpoint {id}"))?;
            tx.commit().await?;
            say_secret(output.json, &Secret::of(secret))
        }
        WebhooksAction::Delete { id, actor } => {
            let mut tx = conn.begin().await?;
            store::delete(&mut tx, id)
                .await
                .with_context(|| format!("endpoint {id}"))?;
            jobs::unlimit_endpoint(&mut tx, id, &actor.actor).await?;
            tx.commit().await?;
            table::say(&format!("deleted {id}\n"))
        }
        WebhooksAction::Test { id, output } => {
            let fired = test(conn, id).await?;
            table::print(output.json, &fired, |fired| {
                let mut table = Table::new(&["EVENT", "WHAT BECAME OF IT"]);
                table.row([
                    fired.event_id.clone(),
                    format!("`orderfleet webhooks deliveries {id} --limit 1`"),
                ]);
                table
            })
        }
        WebhooksAction::Deliveries {
            id,
            state,
            before,
            limit,
            output,
        } => {
            existing(conn, id).await?;
            let state = state.as_deref().map(state_of);
            let deliveries = store::deliveries(conn, id, state, before, limit).await?;
            table::print(output.json, &deliveries, |deliveries| list_deliveries(deliveries))
        }
        WebhooksAction::Attempts { id, output } => {
            let delivery = store::delivery(conn, id).await?;
            let delivery = delivery.with_context(|| format!("there is no delivery {id}"))?;
            let tries = store::attempts(conn, id).await?;
            table::print(output.json, &Tried { delivery, tries }, show_tries)
        }
        WebhooksAction::Resend { ids, actor } => {
            for id in ids {
                resend(conn, id, &actor.actor)
                    .await
                    .with_context(|| format!("delivery {id}"))?;
                table::say(&format!("{id} is sent again\n"))?;
            }
            Ok(())
        }
        WebhooksAction::Discard { ids, because } => {
            for id in ids {
                discard(conn, id, &because)
                    .await
                    .with_context(|| format!("delivery {id}"))?;
                table::say(&format!("discarded {id}\n"))?;
            }
            Ok(())
        }
        WebhooksAction::Replay {
            id,
            since,
            until,
            states,
            actor,
        } => {
            let now = clock(conn).await?;
            let range = Range {
                since: since.at(now),
                until: until.map(|until: When| until.at(now)),
                states: states.iter().map(|state| state_of(state)).collect(),
            };
            replay(conn, id, &range, &actor.actor).await
        }
    }
}

async fn existing(conn: &mut PgConnection, id: EndpointId) -> anyhow::Result<Endpoint> {
    let endpoint = store::get(conn, id).await.context("reading the endpoint")?;
    endpoint.with_context(|| format!("there is no endpoint {id}; see `orderfleet webhooks`"))
}

async fn list(conn: &mut PgConnection, args: WebhooksList) -> anyhow::Result<()> {
    let partner = match &args.partner {
        Some(partner) => Some(partners::existing(conn, partner).await?.id),
        None => None,
    };
    let before = match args.before {
        Some(id) => Some((existing(conn, id).await?.created_at, id)),
        None => None,
    };
    let endpoints = store::list(conn, partner, before, args.limit)
        .await
        .context("listing endpoints")?;
    table::print(args.output.json, &endpoints, |endpoints| {
        let mut table = Table::new(&["ID", "URL", "EVENTS", "ORDER", "STATE", "FAILING SINCE", "WHY"]);
        for endpoint in endpoints {
            table.row([
                endpoint.id.to_string(),
                endpoint.url.clone(),
                endpoint.event_types.join(" "),
                line(endpoint),
                state(endpoint),
                endpoint.failing_since.map_or_else(String::new, moment),
                endpoint.disabled_reason.clone().unwrap_or_default(),
            ]);
        }
        table
    })
}

/// What is kept in order, and whether a dead delivery keeps others waiting.
fn line(endpoint: &Endpoint) -> String {
    match endpoint.dead_head {
        DeadHead::Skip => endpoint.ordering.as_str().to_owned(),
        DeadHead::Block => format!("{}, block", endpoint.ordering.as_str()),
    }
}

fn state(endpoint: &Endpoint) -> String {
    match (endpoint.state, endpoint.open_until) {
        (EndpointState::Disabled, _) => "disabled".to_owned(),
        (EndpointState::Unconfirmed, _) => "unconfirmed".to_owned(),
        (EndpointState::Active, None) => "active".to_owned(),
        (EndpointState::Active, Some(until)) => format!("left alone until {}", moment(until)),
    }
}

fn show(endpoint: &Endpoint) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("id", endpoint.id.to_string());
    row("url", endpoint.url.clone());
    row("events", endpoint.event_types.join(" "));
    row("order", line(endpoint));
    row("state", state(endpoint));
    let optional = [
        (
            "description",
            Some(endpoint.description.clone()).filter(|text| !text.is_empty()),
        ),
        ("why", endpoint.disabled_reason.clone()),
        ("failing since", endpoint.failing_since.map(moment)),
        ("partner", endpoint.partner_id.map(|id| id.to_string())),
        ("at once", endpoint.concurrency.map(|most| most.to_string())),
        ("a second", endpoint.rate.map(|rate| rate.to_string())),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            row(name, value);
        }
    }
    for key in &endpoint.public_keys {
        row("public key", key.clone());
    }
    row("registered", moment(endpoint.created_at));
    row(
        "changed",
        format!("{} (version {})", moment(endpoint.updated_at), endpoint.version),
    );
    table
}

/// What verifies an endpoint's deliveries. A private key is nobody's but ours.
#[derive(Serialize)]
struct Secret {
    secret: Option<String>,
    public_key: Option<String>,
}

impl Secret {
    fn of(secret: String) -> Secret {
        match sign::public_key(&secret) {
            None => Secret {
                secret: Some(secret),
                public_key: None,
            },
            public_key => Secret {
                secret: None,
                public_key,
            },
        }
    }

    fn row(&self) -> [String; 2] {
        let shown = "secret, shown this once".to_owned();
        match (&self.secret, &self.public_key) {
            (Some(secret), _) => [shown, secret.clone()],
            (None, key) => ["public key".to_owned(), key.clone().unwrap_or_default()],
        }
    }
}

fn say_secret(json: bool, secret: &Secret) -> anyhow::Result<()> {
    table::print(json, secret, |secret| {
        let mut table = Table::new(&["FIELD", "VALUE"]);
        table.row(secret.row());
        table
    })
}

#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    endpoint: Endpoint,
    #[serde(flatten)]
    secret: Secret,
}

async fn create(conn: &mut PgConnection, new: CreateWebhook) -> anyhow::Result<()> {
    let keyring = keyring(&environment)?;
    let mut tx = conn.begin().await?;
    let partner_id = match &new.partner {
        Some(partner) => Some(partners::existing(&mut tx, partner).await?.id),
        None => None,
    };
    let endpoint = NewEndpoint {
        url: new.url,
        description: new.description,
        event_types: new.events,
        ordering: match new.ordering.as_str() {
            "none" => Ordering::None,
            "strict" => Ordering::Strict,
            _ => Ordering::PerKey,
        },
        dead_head: dead_head_of(&new.dead_head),
        signing: signing_of(&new.signing),
        secret: None,
        partner_id,
        concurrency: new.concurrency,
        rate: new.rate,
    };
    let (endpoint, secret) = store::create(&mut tx, &keyring, endpoint, new.reach.allow_private_webhooks).await?;
    jobs::limit_endpoint(&mut tx, &endpoint, &new.actor.actor).await?;
    tx.commit().await?;
    let secret = Secret::of(secret);
    table::print(new.output.json, &Made { endpoint, secret }, |made| {
        let mut table = show(&made.endpoint);
        if made.secret.secret.is_some() {
            table.row(made.secret.row());
        }
        table
    })
}

async fn change(conn: &mut PgConnection, args: ChangeWebhook) -> anyhow::Result<()> {
    let id = args.id;
    let change = EndpointChange {
        url: args.url,
        description: args.description,
        event_types: Some(args.events).filter(|events| !events.is_empty()),
        dead_head: args.dead_head.as_deref().map(dead_head_of),
        concurrency: args.concurrency.map(|most| Some(most).filter(|most| *most > 0)),
        rate: args.rate.map(|rate| Some(rate).filter(|rate| *rate != 0.0)),
        version: None,
    };
    let is_limit = change.concurrency.is_some() || change.rate.is_some();
    let mut tx = conn.begin().await?;
    let endpoint = store::patch(&mut tx, id, change, args.reach.allow_private_webhooks)
        .await
        .with_context(|| format!("endpoint {id}"))?;
    if is_limit {
        jobs::limit_endpoint(&mut tx, &endpoint, &args.actor.actor).await?;
    }
    tx.commit().await?;
    table::print(args.output.json, &endpoint, show)
}

async fn pause(conn: &mut PgConnection, id: EndpointId, because: &Because) -> anyhow::Result<()> {
    let mut tx = conn.begin().await?;
    let reason = format!("by {}: {}", because.actor, because.reason);
    let (_, announced) = store::disable(&mut tx, id, &reason)
        .await
        .with_context(|| format!("endpoint {id}"))?;
    jobs::announce(&mut tx, announced).await?;
    tx.commit().await?;
    table::say(&format!(
        "nothing is sent to {id}; `orderfleet webhooks resume {id}` ends that, and what comes in seven days is kept\n"
    ))
}

/// A test that was sent.
#[derive(Debug, Serialize)]
pub(crate) struct Fired {
    /// To which endpoint.
    pub(crate) endpoint_id: EndpointId,
    /// The event, and the `webhook-id` it arrives with.
    pub(crate) event_id: String,
}

fn sendable(endpoint: &Endpoint) -> anyhow::Result<()> {
    let id = endpoint.id;
    match endpoint.state {
        EndpointState::Active => Ok(()),
        EndpointState::Disabled => bail!("endpoint {id} is disabled: `orderfleet webhooks resume {id}` first"),
        EndpointState::Unconfirmed => {
            bail!(
                "endpoint {id} is not confirmed by its partner: `orderfleet webhooks resume {id}` vouches for its address"
            )
        }
    }
}

/// Sends a test to an endpoint that is sent to.
pub(crate) async fn test(conn: &mut PgConnection, id: EndpointId) -> anyhow::Result<Fired> {
    sendable(&existing(conn, id).await?)?;
    let mut tx = conn.begin().await?;
    let (event, announced) = store::test_fire(&mut tx, id).await?;
    jobs::announce(&mut tx, announced).await?;
    tx.commit().await?;
    Ok(Fired {
        endpoint_id: id,
        event_id: event.to_string(),
    })
}

fn list_deliveries(deliveries: &[Delivery]) -> Table {
    let mut table = Table::new(&[
        "SEQ", "AFTER", "DELIVERY", "EVENT", "TYPE", "STATE", "TRIES", "WRITTEN", "WHY",
    ]);
    for delivery in deliveries {
        table.row([
            delivery.seq.to_string(),
            delivery.prev_seq.map_or_else(String::new, |seq| seq.to_string()),
            delivery.id.to_string(),
            delivery.event_id.to_string(),
            delivery.event_type.clone(),
            delivery.state.as_str().to_owned(),
            delivery.attempts.to_string(),
            moment(delivery.created_at),
            delivery.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// A delivery with its tries.
#[derive(Serialize)]
struct Tried {
    #[serde(flatten)]
    delivery: Delivery,
    tries: Vec<DeliveryAttempt>,
}

fn show_tries(Tried { delivery, tries }: &Tried) -> Table {
    let mut table = Table::new(&["TRY", "BEGAN", "ENDED", "STATUS", "WHAT"]);
    for one in tries {
        let what = match (&one.error_class, &one.message) {
            (Some(class), Some(message)) => format!("{class}: {message}"),
            _ if one.finished_at.is_some() => "delivered".to_owned(),
            _ => "no end: its sender died, or is at it".to_owned(),
        };
        table.row([
            one.n.to_string(),
            moment(one.started_at),
            one.finished_at.map_or_else(String::new, moment),
            one.http_status.map_or_else(String::new, |status| status.to_string()),
            what,
        ]);
    }
    let reason = delivery
        .reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(": {reason}"));
    table.row([
        String::new(),
        String::new(),
        String::new(),
        String::new(),
        format!("{} is {}{reason}", delivery.event_type, delivery.state.as_str()),
    ]);
    table
}

async fn resend(conn: &mut PgConnection, id: DeliveryId, actor: &str) -> anyhow::Result<()> {
    let mut tx = conn.begin().await?;
    let again = store::resend(&mut tx, id).await?;
    jobs::send_again(&mut tx, vec![again], actor).await?;
    Ok(tx.commit().await?)
}

async fn discard(conn: &mut PgConnection, id: DeliveryId, because: &Because) -> anyhow::Result<()> {
    let mut tx = conn.begin().await?;
    let reason = format!("by {}: {}", because.actor, because.reason);
    if let Some(job) = store::give_up(&mut tx, id, &reason).await? {
        jobs::discard_dead(&mut tx, job, &because.actor, &because.reason).await?;
    }
    Ok(tx.commit().await?)
}

async fn replay(conn: &mut PgConnection, id: EndpointId, range: &Range, actor: &str) -> anyhow::Result<()> {
    sendable(&existing(conn, id).await?)?;
    let mut tx = conn.begin().await?;
    let again = store::replay(&mut tx, id, range, REPLAY_MAX).await?;
    let count = again.len();
    jobs::send_again(&mut tx, again, actor).await?;
    tx.commit().await?;
    let more = match i64::try_from(count) {
        Ok(REPLAY_MAX) => "; there may be more: repeat it",
        _ => "",
    };
    table::say(&format!("{count} deliveries are sent again{more}\n"))
}

fn signing_of(word: &str) -> Signing {
    match word {
        "ed25519" => Signing::Ed25519,
        _ => Signing::Hmac,
    }
}

fn dead_head_of(word: &str) -> DeadHead {
    match word {
        "block" => DeadHead::Block,
        _ => DeadHead::Skip,
    }
}

fn state_of(word: &str) -> DeliveryState {
    match word {
        "pending" => DeliveryState::Pending,
        "in_flight" => DeliveryState::InFlight,
        "delivered" => DeliveryState::Delivered,
        "dead" => DeliveryState::Dead,
        _ => DeliveryState::Discarded,
    }
}
