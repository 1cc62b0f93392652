//! The gateway's errors, in Stripe's words.

use std::ops::Deref;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

/// One error answer: `{"error": {type, code, decline_code, message, param, …}}`. Boxed, since most requests have none.
#[derive(Debug, Clone)]
pub(super) struct Error(Box<Parts>);

#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) status: StatusCode,
    kind: &'static str,
    pub(super) code: Option<&'static str>,
    decline_code: Option<&'static str>,
    message: String,
    param: Option<String>,
    charge: Option<String>,
    intent: Option<Value>,
}

impl Deref for Error {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Error {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            status,
            kind,
            code,
            decline_code: None,
            message: message.into(),
            param: None,
            charge: None,
            intent: None,
        }))
    }

    /// 400: the request itself is wrong.
    pub(super) fn invalid(code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    /// 400: the intent's state forbids it.
    pub(super) fn unexpected_state(message: impl Into<String>) -> Self {
        Self::invalid(Some("payment_intent_unexpected_state"), message)
    }

    /// 400: a parameter is missing.
    pub(super) fn missing(param: &str) -> Self {
        Self::invalid(Some("parameter_missing"), format!("Missing required param: {param}.")).param(param)
    }

    /// 404: no such object in the path.
    pub(super) fn no_such(what: &str, id: &str, param: &str) -> Self {
        let mut error = Self::invalid(Some("resource_missing"), format!("No such {what}: '{id}'")).param(param);
        error.0.status = StatusCode::NOT_FOUND;
        error
    }

    /// Stripe answers 404 only for an id in the path, and 400 for one in the parameters.
    pub(super) fn in_parameters(mut self) -> Self {
        self.0.status = StatusCode::BAD_REQUEST;
        self
    }

    /// 404: no such endpoint.
    pub(super) fn unknown_url(method: &str, path: &str) -> Self {
        let message = format!("Unrecognized request URL ({method}: {path}).");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", None, message)
    }

    /// 401: no key, or one that isn't for testing.
    pub(super) fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", None, message)
    }

    /// 413: more bytes than a request may have.
    pub(super) fn too_long(max: usize) -> Self {
        let message = format!("The request body is larger than {max} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", None, message)
    }

    /// 400: the key was used with other parameters.
    pub(super) fn key_reused(key: &str) -> Self {
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. \
             Try using a key other than '{key}' if you meant to execute a different request."
        );
        Self::new(StatusCode::BAD_REQUEST, "idempotency_error", None, message)
    }

    /// 409: a request with this key is running.
    pub(super) fn key_in_use(key: &str) -> Self {
        let message = format!(
            "There is currently another in-progress request using this Idempotent Key ('{key}'). Please try again later."
        );
        Self::new(
            StatusCode::CONFLICT,
            "idempotency_error",
            Some("idempotency_key_in_use"),
            message,
        )
    }

    /// 429: too much at once, by the code.
    pub(super) fn throttled(code: &'static str) -> Self {
        let message = match code {
            "lock_timeout" => "This object cannot be accessed right now because another API request is using it.",
            _ => "Too many requests hit the API too quickly.",
        };
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "invalid_request_error",
            Some(code),
            message,
        )
    }

    /// 503: nobody is there to do it.
    pub(super) fn unavailable() -> Self {
        let message = "The service is unavailable for a moment, as this was ordered from the simulator.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "api_error", None, message)
    }

    /// 402: the card was refused.
    pub(super) fn card(code: &'static str, decline_code: Option<&'static str>, message: &str) -> Self {
        let mut error = Self::new(StatusCode::PAYMENT_REQUIRED, "card_error", Some(code), message);
        error.0.decline_code = decline_code;
        error
    }

    /// 500: something of the gateway's own.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "api_error", None, message)
    }

    pub(super) fn param(mut self, param: impl Into<String>) -> Self {
        self.0.param = Some(param.into());
        self
    }

    pub(super) fn charge(mut self, id: &str) -> Self {
        self.0.charge = Some(id.to_owned());
        self
    }

    /// Shows the intent as it stands, as Stripe does whenever it knows which one is meant.
    pub(super) fn intent(mut self, intent: Value) -> Self {
        self.0.intent = Some(intent);
        self
    }

    pub(super) fn is_card_error(&self) -> bool {
        self.kind == "card_error"
    }

    /// The error object without its envelope and without the intent: what an intent remembers of its last failure.
    pub(super) fn object(&self) -> Value {
        let mut object = Map::new();
        if let Some(charge) = &self.charge {
            object.insert("charge".into(), json!(charge));
        }
        if let Some(code) = self.code {
            object.insert("code".into(), json!(code));
            object.insert(
                "doc_url".into(),
                json!(format!(
                    "https://stripe.com/docs/error-codes/{}",
                    code.replace('_', "-")
                )),
            );
        }
        if let Some(decline_code) = self.decline_code {
            object.insert("decline_code".into(), json!(decline_code));
        }
        object.insert("message".into(), json!(self.message));
        if let Some(param) = &self.param {
            object.insert("param".into(), json!(param));
        }
        object.insert("type".into(), json!(self.kind));
        Value::Object(object)
    }

    /// The whole answer.
    pub(super) fn body(&self) -> Value {
        let mut object = self.object();
        if let Some(intent) = &self.intent {
            object["payment_intent"] = intent.clone();
        }
        json!({ "error": object })
    }
}
