//! Payment intents, their charges and refunds: what each operation may do in each state. Pure; the book keeps them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::Error;
use super::methods::{self, Fault, Step};

/// How long an authorisation lasts: seven days, as at Stripe.
pub(super) const AUTHORIZED_SECONDS: i64 = 7 * 24 * 60 * 60;

/// What Stripe's objects have besides, and this gateway never sets.
const UNSET_IN_INTENT: [&str; 19] = [
    "allowed_payment_method_types",
    "application",
    "application_fee_amount",
    "automatic_payment_methods",
    "customer_account",
    "excluded_payment_method_types",
    "managed_payments",
    "next_action",
    "on_behalf_of",
    "payment_method_configuration_details",
    "payment_record",
    "processing",
    "review",
    "setup_future_usage",
    "shipping",
    "source",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
];
const UNSET_IN_CHARGE: [&str; 14] = [
    "application",
    "application_fee",
    "application_fee_amount",
    "failure_balance_transaction",
    "on_behalf_of",
    "receipt_number",
    "receipt_url",
    "review",
    "shipping",
    "source",
    "source_transfer",
    "statement_descriptor_suffix",
    "transfer_data",
    "transfer_group",
];
const UNSET_IN_CARD: [&str; 11] = [
    "authorization_code",
    "checks",
    "country",
    "electronic_commerce_indicator",
    "installments",
    "mandate",
    "network_transaction_id",
    "regulated_status",
    "three_d_secure",
    "transaction_link_id",
    "wallet",
];
const UNSET_IN_REFUND: [&str; 5] = [
    "customer",
    "customer_account",
    "payment_method",
    "receipt_number",
    "source_transfer_reversal",
];

/// An object with the fields that are never set.
fn whole(mut object: Value, unset: &[&str]) -> Value {
    for name in unset {
        object[*name] = Value::Null;
    }
    object
}

/// One payment intent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) capture_method: CaptureMethod,
    pub(super) status: Status,
    pub(super) payment_method: Option<String>,
    pub(super) amount_capturable: i64,
    pub(super) amount_received: i64,
    pub(super) canceled_at: Option<i64>,
    pub(super) cancellation_reason: Option<String>,
    pub(super) labels: Labels,
    pub(super) last_error: Option<Value>,
    pub(super) charges: Vec<Charge>,
    #[serde(default, skip_serializing)]
    pub(super) metadata: BTreeMap<String, String>,
    /// `pm_card_error_stored` fails only once for each intent.
    #[serde(default, skip_serializing)]
    pub(super) has_stored_error: bool,
}

/// Texts that are kept and shown, and mean nothing to the gateway.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Labels {
    pub(super) customer: Option<String>,
    pub(super) description: Option<String>,
    pub(super) receipt_email: Option<String>,
    pub(super) statement_descriptor: Option<String>,
}

/// Whether confirming also takes the money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CaptureMethod {
    Manual,
    Automatic,
}

/// Where an intent stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    RequiresPaymentMethod,
    RequiresConfirmation,
    RequiresCapture,
    Succeeded,
    Canceled,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RequiresPaymentMethod => "requires_payment_method",
            Self::RequiresConfirmation => "requires_confirmation",
            Self::RequiresCapture => "requires_capture",
            Self::Succeeded => "succeeded",
            Self::Canceled => "canceled",
        }
    }
}

impl CaptureMethod {
    fn name(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Automatic => "automatic",
        }
    }
}

/// One try at a card.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Charge {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) amount: i64,
    pub(super) method: String,
    pub(super) amount_captured: i64,
    pub(super) amount_refunded: i64,
    pub(super) outcome: ChargeOutcome,
    /// The movement on the balance, once there is one.
    #[serde(default)]
    pub(super) balance_transaction: Option<String>,
}

/// What became of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChargeOutcome {
    Authorized,
    Captured,
    Released,
    Expired,
    Failed,
}

/// Money given back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Refund {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) intent: String,
    pub(super) charge: String,
    pub(super) reason: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
    /// The movement on the balance.
    #[serde(default)]
    pub(super) balance_transaction: Option<String>,
}

impl Intent {
    /// Authorises the amount on a card and, when capture is automatic, takes it. A decline also changes the intent.
    pub(super) fn confirm(&mut self, method: Option<&str>, charge_id: String, now: i64) -> Result<(), Error> {
        self.may_be_confirmed()?;
        let Some(method) = method.map(str::to_owned).or_else(|| self.payment_method.clone()) else {
            let message = "You cannot confirm this PaymentIntent because it's missing a payment method.";
            return Err(Error::unexpected_state(message).param("payment_method"));
        };
        let mut charge = Charge {
            id: charge_id,
            created: now,
            amount: self.amount,
            method: method.clone(),
            amount_captured: 0,
            amount_refunded: 0,
            outcome: ChargeOutcome::Failed,
            balance_transaction: None,
        };
        if let Some(Fault::Declined {
            code,
            decline_code,
            message,
        }) = methods::fault(self.amount, &method, Step::Confirm)
        {
            let error = Error::card(code, decline_code, message).charge(&charge.id);
            self.charges.push(charge);
            self.status = Status::RequiresPaymentMethod;
            self.payment_method = None;
            self.last_error = Some(error.object());
            return Err(error);
        }
        self.payment_method = Some(method);
        self.last_error = None;
        match self.capture_method {
            CaptureMethod::Manual => {
                charge.outcome = ChargeOutcome::Authorized;
                self.status = Status::RequiresCapture;
                self.amount_capturable = self.amount;
            }
            CaptureMethod::Automatic => {
                charge.outcome = ChargeOutcome::Captured;
                charge.amount_captured = self.amount;
                self.status = Status::Succeeded;
                self.amount_received = self.amount;
            }
        }
        self.charges.push(charge);
        Ok(())
    }

    fn may_be_confirmed(&self) -> Result<(), Error> {
        match self.status {
            Status::RequiresPaymentMethod | Status::RequiresConfirmation => Ok(()),
            Status::Succeeded => Err(Error::unexpected_state(
                "You cannot confirm this PaymentIntent because it has already succeeded after being previously confirmed.",
            )),
            Status::RequiresCapture | Status::Canceled => Err(Error::unexpected_state(format!(
                "You cannot confirm this PaymentIntent because it has a status of {}. Only a PaymentIntent with one of \
                 the following statuses may be confirmed: requires_confirmation, requires_action.",
                self.status.name()
            ))),
        }
    }

    /// Takes the money, all of it or `amount`; the rest of the authorisation is released.
    pub(super) fn capture(&mut self, amount: Option<i64>) -> Result<i64, Error> {
        match self.status {
            Status::RequiresCapture => {}
            Status::Succeeded => {
                return Err(Error::unexpected_state(
                    "This PaymentIntent could not be captured because it has already been captured.",
                ));
            }
            other => {
                return Err(Error::unexpected_state(format!(
                    "This PaymentIntent could not be captured because it has a status of {}. Only a PaymentIntent with \
                     one of the following statuses may be captured: requires_capture.",
                    other.name()
                )));
            }
        }
        let amount = amount.unwrap_or(self.amount_capturable);
        if amount > self.amount_capturable {
            return Err(Error::invalid(
                Some("amount_too_large"),
                format!(
                    "The requested capture amount ({amount}) is greater than the authorized amount ({}).",
                    self.amount_capturable
                ),
            )
            .param("amount_to_capture"));
        }
        let fault = self.fault(Step::Capture);
        if fault == Some(Fault::AuthorizationExpired) {
            let code = Some("capture_charge_authorization_expired");
            return Err(Error::invalid(code, "The bank has let this authorization go."));
        }
        let charge = self.charges.last_mut();
        if let Some(Fault::Declined {
            code,
            decline_code,
            message,
        }) = fault
        {
            let error = Error::card(code, decline_code, message);
            return Err(match charge {
                Some(charge) => error.charge(&charge.id),
                None => error,
            });
        }
        if let Some(charge) = charge {
            charge.outcome = ChargeOutcome::Captured;
            charge.amount_captured = amount;
        }
        self.status = Status::Succeeded;
        self.amount_capturable = 0;
        self.amount_received = amount;
        Ok(amount)
    }

    /// When the authorisation at hand ends by itself, in seconds; none when nothing is held.
    pub(super) fn expires_at(&self) -> Option<i64> {
        let charge = self.charges.last()?;
        (charge.outcome == ChargeOutcome::Authorized).then_some(charge.created + AUTHORIZED_SECONDS)
    }

    /// Nobody captured in time: the bank lets the money go.
    pub(super) fn expire(&mut self, now: i64) {
        if let Some(charge) = self.charges.last_mut() {
            charge.outcome = ChargeOutcome::Expired;
        }
        self.status = Status::Canceled;
        self.amount_capturable = 0;
        self.canceled_at = Some(now);
        self.cancellation_reason = Some("automatic".to_owned());
    }

    /// The trouble that its amount and its payment method make at `step`.
    pub(super) fn fault(&self, step: Step) -> Option<Fault> {
        methods::fault(self.amount, self.payment_method.as_deref()?, step)
    }

    /// Gives the authorisation back. From then on no confirm and no capture can succeed.
    pub(super) fn cancel(&mut self, reason: Option<&str>, now: i64) -> Result<(), Error> {
        match self.status {
            Status::RequiresPaymentMethod | Status::RequiresConfirmation | Status::RequiresCapture => {}
            Status::Succeeded => {
                return Err(Error::unexpected_state(
                    "You cannot cancel this PaymentIntent because it has a status of succeeded. Only a PaymentIntent \
                     with one of the following statuses may be canceled: requires_payment_method, requires_capture, \
                     requires_confirmation, requires_action, processing.",
                ));
            }
            Status::Canceled => {
                return Err(Error::unexpected_state(
                    "You cannot cancel this PaymentIntent because it has a status of canceled.",
                ));
            }
        }
        if let Some(charge) = self
            .charges
            .last_mut()
            .filter(|charge| charge.outcome == ChargeOutcome::Authorized)
        {
            charge.outcome = ChargeOutcome::Released;
        }
        self.status = Status::Canceled;
        self.amount_capturable = 0;
        self.canceled_at = Some(now);
        self.cancellation_reason = reason.map(str::to_owned);
        Ok(())
    }

    /// Gives captured money back, all that is left of it or `amount`; answers the charge and the amount.
    pub(super) fn refund(&mut self, amount: Option<i64>) -> Result<(String, i64), Error> {
        let id = self.id.clone();
        let charge = self
            .charges
            .last_mut()
            .filter(|charge| charge.outcome == ChargeOutcome::Captured);
        let Some(charge) = charge else {
            return Err(Error::unexpected_state(format!(
                "This PaymentIntent ({id}) does not have a successful charge to refund."
            )));
        };
        let left = charge.amount_captured - charge.amount_refunded;
        if left == 0 {
            let message = format!("Charge {} has already been refunded.", charge.id);
            return Err(Error::invalid(Some("charge_already_refunded"), message).charge(&charge.id));
        }
        let amount = amount.unwrap_or(left);
        if amount > left {
            // Stripe sends no code here.
            let message = format!("Refund amount ({amount}) is greater than unrefunded amount on charge ({left}).");
            return Err(Error::invalid(None, message).param("amount").charge(&charge.id));
        }
        charge.amount_refunded += amount;
        Ok((charge.id.clone(), amount))
    }

    pub(super) fn latest_charge(&self) -> Option<&Charge> {
        self.charges.last()
    }

    /// The intent as the wire shows it, with ids in place of what may be expanded.
    pub(super) fn render(&self) -> Value {
        let object = json!({
            "id": self.id,
            "object": "payment_intent",
            "amount": self.amount,
            "amount_capturable": self.amount_capturable,
            "amount_details": { "tip": {} },
            "amount_received": self.amount_received,
            "canceled_at": self.canceled_at,
            "cancellation_reason": self.cancellation_reason,
            "capture_method": self.capture_method.name(),
            "client_secret": format!("{}_secret_simulated", self.id),
            "confirmation_method": "automatic",
            "created": self.created,
            "currency": self.currency,
            "customer": self.labels.customer,
            "description": self.labels.description,
            "last_payment_error": self.last_error,
            "latest_charge": self.latest_charge().map(|charge| &charge.id),
            "livemode": false,
            "metadata": self.metadata,
            "payment_method": self.payment_method,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "receipt_email": self.labels.receipt_email,
            "statement_descriptor": self.labels.statement_descriptor,
            "status": self.status.name(),
        });
        whole(object, &UNSET_IN_INTENT)
    }

    /// One of its charges as the wire shows it.
    pub(super) fn render_charge(&self, charge: &Charge) -> Value {
        let method = methods::find(&charge.method).ok();
        let is_failed = charge.outcome == ChargeOutcome::Failed;
        // Stripe shows a released authorisation as refunded in full.
        let is_released = matches!(charge.outcome, ChargeOutcome::Released | ChargeOutcome::Expired);
        let amount_refunded = if is_released {
            charge.amount
        } else {
            charge.amount_refunded
        };
        let declined = match methods::fault(charge.amount, &charge.method, Step::Confirm) {
            Some(Fault::Declined {
                code,
                decline_code,
                message,
            }) if is_failed => Some((code, decline_code, message)),
            _ => None,
        };
        let card = json!({
                "amount_authorized": if is_failed { None } else { Some(charge.amount) },
                "network": method.map(|method| method.brand),
                "brand": method.map(|method| method.brand),
                "last4": method.map(|method| method.last4),
                "funding": "credit",
                "exp_month": 12,
                "exp_year": 2040,
        });
        let card = whole(card, &UNSET_IN_CARD);
        let object = json!({
            "id": charge.id,
            "object": "charge",
            "amount": charge.amount,
            "amount_captured": charge.amount_captured,
            "amount_refunded": amount_refunded,
            "balance_transaction": charge.balance_transaction,
            "billing_details": { "address": null, "email": null, "name": null, "phone": null, "tax_id": null },
            "calculated_statement_descriptor": self.labels.statement_descriptor,
            "captured": charge.outcome == ChargeOutcome::Captured,
            "created": charge.created,
            "currency": self.currency,
            "customer": self.labels.customer,
            "description": self.labels.description,
            "disputed": false,
            "failure_code": declined.map(|(code, ..)| code),
            "failure_message": declined.map(|(.., message)| message),
            "fraud_details": {},
            "livemode": false,
            "metadata": self.metadata,
            "outcome": {
                "advice_code": null,
                "network_advice_code": null,
                "network_decline_code": null,
                "network_status": if is_failed { "declined_by_network" } else { "approved_by_network" },
                "reason": declined.and_then(|(_, decline_code, _)| decline_code),
                "risk_level": "normal",
                "seller_message": null,
                "type": if is_failed { "issuer_declined" } else { "authorized" },
            },
            "paid": !is_failed,
            "payment_intent": self.id,
            "payment_method": charge.method,
            "payment_method_details": {
                "type": "card",
                "card": card,
            },
            "receipt_email": self.labels.receipt_email,
            "statement_descriptor": self.labels.statement_descriptor,
            "refunded": is_released || (charge.amount_captured > 0 && amount_refunded == charge.amount_captured),
            "status": if is_failed { "failed" } else { "succeeded" },
        });
        whole(object, &UNSET_IN_CHARGE)
    }
}

impl Refund {
    /// The refund as the wire shows it, with ids in place of what may be expanded.
    pub(super) fn render(&self) -> Value {
        let object = json!({
            "id": self.id,
            "object": "refund",
            "amount": self.amount,
            "balance_transaction": self.balance_transaction,
            "charge": self.charge,
            "created": self.created,
            "currency": self.currency,
            "metadata": self.metadata,
            "payment_intent": self.intent,
            "reason": self.reason,
            "status": "succeeded",
            "transfer_reversal": null,
        });
        whole(object, &UNSET_IN_REFUND)
    }
}
