//! The payment methods for tests, and the trouble each one makes; and the amounts that make the same trouble with any
//! method. New faults are new variants and new lines here.

use std::time::Duration;

use super::error::Error;

/// How long an answer is held back by `pm_card_slow`.
const SLOW: Duration = Duration::from_secs(2);

/// The payment methods for tests, for `--help`. Each is one line of the table below.
pub const TEST_METHODS: &str = "\
Payment methods (no card numbers are accepted, only these ids):
  pm_card_visa                              works (also _mastercard, _amex, _discover, _visa_debit)
  pm_card_chargeDeclined                    confirm: 402 card_declined, generic_decline
  pm_card_chargeDeclinedInsufficientFunds   confirm: 402 card_declined, insufficient_funds
  pm_card_chargeDeclinedLostCard            confirm: 402 card_declined, lost_card
  pm_card_chargeDeclinedStolenCard          confirm: 402 card_declined, stolen_card
  pm_card_chargeDeclinedExpiredCard         confirm: 402 expired_card
  pm_card_chargeDeclinedIncorrectCvc        confirm: 402 incorrect_cvc
  pm_card_chargeDeclinedProcessingError     confirm: 402 processing_error
  pm_card_slow                              confirm: executed at once, answered after 2 s (409 for the key till then)
  pm_card_answer_lost                       confirm: executed, then the connection is dropped; the key replays the answer
  pm_card_error_stored                      confirm: not executed, 500 stored under the key; another key then works
  pm_card_capture_answer_lost               capture: executed, then the connection is dropped; the key replays the answer
  pm_card_capture_declined                  capture: 402 card_declined, generic_decline; the intent stays capturable
  pm_card_capture_expired                   capture: 400 capture_charge_authorization_expired; the intent stays capturable

Amounts, for clients that can't choose the payment method: each behaves as its method above does, whatever is sent.
  99990001 as pm_card_chargeDeclined        99990002 as pm_card_chargeDeclinedInsufficientFunds
  99990003 as pm_card_slow                  99990004 as pm_card_answer_lost
  99990005 as pm_card_error_stored          99990006 as pm_card_capture_answer_lost
  99990007 as pm_card_capture_declined      99990008 as pm_card_capture_expired
";

/// The amounts that behave as a payment method does, whatever the method is.
const AMOUNTS: [(i64, &str); 8] = [
    (99_990_001, "pm_card_chargeDeclined"),
    (99_990_002, "pm_card_chargeDeclinedInsufficientFunds"),
    (99_990_003, "pm_card_slow"),
    (99_990_004, "pm_card_answer_lost"),
    (99_990_005, "pm_card_error_stored"),
    (99_990_006, "pm_card_capture_answer_lost"),
    (99_990_007, "pm_card_capture_declined"),
    (99_990_008, "pm_card_capture_expired"),
];

/// A payment method for tests.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) id: &'static str,
    pub(super) brand: &'static str,
    pub(super) last4: &'static str,
    on_confirm: Option<Fault>,
    on_capture: Option<Fault>,
}

/// What can go wrong with one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The card is refused: a business answer, money doesn't move.
    Declined {
        code: &'static str,
        decline_code: Option<&'static str>,
        message: &'static str,
    },
    /// The bank has let the authorisation go: 400, money doesn't move.
    AuthorizationExpired,
    /// Executed at once, answered late.
    Slow(Duration),
    /// Executed, but the answer never arrives.
    AnswerLost,
    /// Not executed; the key holds a 500 for ever. Once for each intent.
    ErrorStored,
}

/// The operations a payment method can disturb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Confirm,
    Capture,
}

const METHODS: &[Method] = &[
    Method::works("pm_card_visa", "visa", "4242"),
    Method::works("pm_card_visa_debit", "visa", "5556"),
    Method::works("pm_card_mastercard", "mastercard", "4444"),
    Method::works("pm_card_amex", "amex", "8431"),
    Method::works("pm_card_discover", "discover", "9424"),
    Method::declined(
        "pm_card_chargeDeclined",
        "0002",
        "card_declined",
        Some("generic_decline"),
        DECLINED,
    ),
    Method::declined(
        "pm_card_chargeDeclinedInsufficientFunds",
        "9995",
        "card_declined",
        Some("insufficient_funds"),
        "Your card has insufficient funds.",
    ),
    Method::declined(
        "pm_card_chargeDeclinedLostCard",
        "9987",
        "card_declined",
        Some("lost_card"),
        DECLINED,
    ),
    Method::declined(
        "pm_card_chargeDeclinedStolenCard",
        "9979",
        "card_declined",
        Some("stolen_card"),
        DECLINED,
    ),
    Method::declined(
        "pm_card_chargeDeclinedExpiredCard",
        "0069",
        "expired_card",
        None,
        "Your card has expired.",
    ),
    Method::declined(
        "pm_card_chargeDeclinedIncorrectCvc",
        "0127",
        "incorrect_cvc",
        None,
        "Your card's security code is incorrect.",
    ),
    Method::declined(
        "pm_card_chargeDeclinedProcessingError",
        "0119",
        "processing_error",
        None,
        "An error occurred while processing your card. Try again in a little bit.",
    ),
    Method::confirming("pm_card_slow", Fault::Slow(SLOW)),
    Method::confirming("pm_card_answer_lost", Fault::AnswerLost),
    Method::confirming("pm_card_error_stored", Fault::ErrorStored),
    Method::capturing("pm_card_capture_answer_lost", Fault::AnswerLost),
    Method::capturing(
        "pm_card_capture_declined",
        Fault::Declined {
            code: "card_declined",
            decline_code: Some("generic_decline"),
            message: DECLINED,
        },
    ),
    Method::capturing("pm_card_capture_expired", Fault::AuthorizationExpired),
];

const DECLINED: &str = "Your card was declined.";

impl Method {
    const fn works(id: &'static str, brand: &'static str, last4: &'static str) -> Self {
        Self {
            id,
            brand,
            last4,
            on_confirm: None,
            on_capture: None,
        }
    }

    const fn declined(
        id: &'static str,
        last4: &'static str,
        code: &'static str,
        decline_code: Option<&'static str>,
        message: &'static str,
    ) -> Self {
        let fault = Fault::Declined {
            code,
            decline_code,
            message,
        };
        Self {
            id,
            brand: "visa",
            last4,
            on_confirm: Some(fault),
            on_capture: None,
        }
    }

    const fn confirming(id: &'static str, fault: Fault) -> Self {
        Self {
            id,
            brand: "visa",
            last4: "4242",
            on_confirm: Some(fault),
            on_capture: None,
        }
    }

    const fn capturing(id: &'static str, fault: Fault) -> Self {
        Self {
            id,
            brand: "visa",
            last4: "4242",
            on_confirm: None,
            on_capture: Some(fault),
        }
    }

    /// The trouble this method makes at `step`.
    pub(super) fn fault(&self, step: Step) -> Option<Fault> {
        match step {
            Step::Confirm => self.on_confirm,
            Step::Capture => self.on_capture,
        }
    }
}

/// The method called `id`. Anything that looks like a card number is refused without being repeated.
pub(super) fn find(id: &str) -> Result<&'static Method, Error> {
    if looks_like_a_card_number(id) {
        return Err(card_number_refused("payment_method"));
    }
    METHODS.iter().find(|method| method.id == id).ok_or_else(|| {
        Error::invalid(Some("resource_missing"), format!("No such PaymentMethod: '{id}'")).param("payment_method")
    })
}

/// The trouble that `amount` on the method called `id` makes at `step`; none when the method isn't known.
pub(super) fn fault(amount: i64, id: &str, step: Step) -> Option<Fault> {
    let by_amount = AMOUNTS.iter().find(|(troubled, _)| *troubled == amount);
    let id = by_amount.map_or(id, |(_, id)| id);
    METHODS
        .iter()
        .find(|method| method.id == id)
        .and_then(|method| method.fault(step))
}

/// The refusal of a raw card number.
pub(super) fn card_number_refused(param: &str) -> Error {
    Error::invalid(
        None,
        "Card numbers are not accepted here. Send the id of a payment method for tests, such as pm_card_visa; \
         --help lists them.",
    )
    .param(param)
}

/// Twelve to nineteen digits, perhaps grouped.
pub(super) fn looks_like_a_card_number(value: &str) -> bool {
    let digits = value.chars().filter(char::is_ascii_digit).count();
    (12..=19).contains(&digits) && value.chars().all(|c| c.is_ascii_digit() || c == ' ' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_method() {
        for method in METHODS {
            let suffix = method.id.trim_start_matches("pm_card");
            let is_listed = TEST_METHODS.contains(method.id)
                || TEST_METHODS
                    .lines()
                    .any(|line| line.contains("also") && line.contains(suffix));
            assert!(is_listed, "{} is missing in TEST_METHODS", method.id);
        }
    }

    #[test]
    fn an_amount_behaves_as_its_method() {
        for (amount, id) in AMOUNTS {
            assert!(TEST_METHODS.contains(&format!("{amount} as {id}")), "{amount}");
            for step in [Step::Confirm, Step::Capture] {
                assert_eq!(fault(amount, "pm_card_visa", step), fault(1, id, step));
            }
        }
    }

    #[test]
    fn a_card_number_is_recognised_however_it_is_written() {
        assert!(looks_like_a_card_number("4242424242424242"));
        assert!(looks_like_a_card_number("4242 4242-4242 4242"));
        assert!(!looks_like_a_card_number("pm_card_visa"));
        assert!(!looks_like_a_card_number("4242"));
    }
}
