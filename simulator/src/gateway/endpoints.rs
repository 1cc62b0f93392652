//! Webhook endpoints: where events are sent, and which.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::Error;
use super::events;

/// Endpoints one gateway may have, as at Stripe.
pub(super) const ENDPOINTS_MAX: usize = 16;
const URL_CHARS_MAX: usize = 2_048;

/// An endpoint that takes events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Endpoint {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) url: String,
    pub(super) secret: String,
    pub(super) enabled_events: Vec<String>,
    pub(super) is_disabled: bool,
    pub(super) is_deleted: bool,
    api_version: Option<String>,
    description: Option<String>,
    metadata: BTreeMap<String, String>,
}

/// An endpoint to be registered.
#[derive(Debug)]
pub(super) struct NewEndpoint {
    url: String,
    enabled_events: Vec<String>,
    description: Option<String>,
    metadata: BTreeMap<String, String>,
    api_version: Option<String>,
}

/// What is to be different about an endpoint.
#[derive(Debug)]
pub(super) struct EndpointChange {
    url: Option<String>,
    enabled_events: Vec<String>,
    description: Option<String>,
    metadata: BTreeMap<String, String>,
    is_disabled: Option<bool>,
}

impl NewEndpoint {
    pub(super) fn new(
        url: String,
        enabled_events: Vec<String>,
        description: Option<String>,
        metadata: BTreeMap<String, String>,
        api_version: Option<String>,
    ) -> Result<Self, Error> {
        check_url(&url)?;
        check_kinds(&enabled_events)?;
        Ok(Self {
            url,
            enabled_events,
            description,
            metadata,
            api_version,
        })
    }

    /// The endpoint, with its id and the secret that signs for it.
    pub(super) fn registered(&self, id: String, secret: String, created: i64) -> Endpoint {
        Endpoint {
            id,
            created,
            url: self.url.clone(),
            secret,
            enabled_events: self.enabled_events.clone(),
            is_disabled: false,
            is_deleted: false,
            api_version: self.api_version.clone(),
            description: self.description.clone(),
            metadata: self.metadata.clone(),
        }
    }
}

impl EndpointChange {
    pub(super) fn new(
        url: Option<String>,
        enabled_events: Vec<String>,
        description: Option<String>,
        metadata: BTreeMap<String, String>,
        is_disabled: Option<bool>,
    ) -> Result<Self, Error> {
        if let Some(url) = &url {
            check_url(url)?;
        }
        check_kinds(&enabled_events)?;
        Ok(Self {
            url,
            enabled_events,
            description,
            metadata,
            is_disabled,
        })
    }
}

impl Endpoint {
    pub(super) fn change(&mut self, change: &EndpointChange) {
        if let Some(url) = &change.url {
            self.url.clone_from(url);
        }
        if !change.enabled_events.is_empty() {
            self.enabled_events.clone_from(&change.enabled_events);
        }
        if change.description.is_some() {
            self.description.clone_from(&change.description);
        }
        self.metadata.extend(change.metadata.clone());
        self.is_disabled = change.is_disabled.unwrap_or(self.is_disabled);
    }

    /// Whether an event of this kind is sent here.
    pub(super) fn wants(&self, kind: &str) -> bool {
        let is_asked_for = self.enabled_events.iter().any(|one| one == "*" || one == kind);
        !self.is_disabled && !self.is_deleted && is_asked_for
    }

    /// The endpoint as the wire shows it; its secret is shown once, when it is created.
    pub(super) fn render(&self) -> Value {
        if self.is_deleted {
            return json!({ "id": self.id, "object": "webhook_endpoint", "deleted": true });
        }
        json!({
            "id": self.id,
            "object": "webhook_endpoint",
            "api_version": self.api_version,
            "application": null,
            "created": self.created,
            "description": self.description,
            "enabled_events": self.enabled_events,
            "livemode": false,
            "metadata": self.metadata,
            "status": if self.is_disabled { "disabled" } else { "enabled" },
            "url": self.url,
        })
    }
}

fn check_url(url: &str) -> Result<(), Error> {
    let is_address = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    match is_address && url.chars().count() <= URL_CHARS_MAX && !url.contains(char::is_whitespace) {
        true => Ok(()),
        false => Err(Error::invalid(Some("url_invalid"), format!("Invalid URL: {url}")).param("url")),
    }
}

fn check_kinds(kinds: &[String]) -> Result<(), Error> {
    let unknown = kinds
        .iter()
        .find(|kind| *kind != "*" && !events::KINDS.contains(&kind.as_str()));
    match unknown {
        None => Ok(()),
        Some(kind) => {
            let message = format!(
                "Invalid enabled_events: {kind} is none of the events of this gateway: *, {}",
                events::KINDS.join(", ")
            );
            Err(Error::invalid(None, message).param("enabled_events"))
        }
    }
}
