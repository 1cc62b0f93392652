//! What may go wrong in an attempt, sorted by what happens next.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What happens next to a job that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It is tried again, later and later.
    Transient,
    /// It is tried again no earlier than told; no attempt is used.
    Throttled,
    /// Nobody knows whether it happened: it is tried again with the same key.
    Unknown,
    /// It cannot succeed: dead.
    Permanent,
    /// The installation is wrong: the kind pauses itself, no attempt is used.
    Config,
    /// It cannot even be tried: dead.
    Poison,
}

impl Class {
    /// The name in reports and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::Unknown => "unknown",
            Self::Permanent => "permanent",
            Self::Config => "config",
            Self::Poison => "poison",
        }
    }
}

/// What the other side of an HTTP call said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpFacts {
    /// The status, if there was an answer.
    pub status: Option<u16>,
    /// The other side's name for the request.
    pub request_id: Option<String>,
    /// The beginning of the answer's body.
    pub body_excerpt: Option<String>,
}

/// A failure that says what happens next; return it as the error of `run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happens next.
    pub class: Class,
    /// A short name that groups failures of one cause.
    pub code: String,
    /// What went wrong, in words.
    pub message: String,
    /// Not before.
    pub retry_after: Option<Duration>,
    /// What the other side said.
    pub http: Option<HttpFacts>,
}

impl Failure {
    /// Worth another try.
    pub fn transient(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Class::Transient, code, message)
    }

    /// Told to wait that long.
    pub fn throttled(code: impl Into<String>, message: impl Into<String>, after: Duration) -> Self {
        Self::new(Class::Throttled, code, message).retry_after(after)
    }

    /// It may have happened.
    pub fn unknown(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Class::Unknown, code, message)
    }

    /// It cannot succeed.
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Class::Permanent, code, message)
    }

    /// A person must mend the installation first.
    pub fn config(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Class::Config, code, message)
    }

    pub(crate) fn poison(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Class::Poison, code, message)
    }

    /// Adds what the other side said; the excerpt is cut to 2 KiB.
    #[must_use]
    pub fn with_http(mut self, mut http: HttpFacts) -> Self {
        http.body_excerpt = http.body_excerpt.map(|body| excerpt(&body));
        http.request_id = http.request_id.map(|id| excerpt(&id));
        self.http = Some(http);
        self
    }

    /// Adds the earliest time of the next try.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    fn new(class: Class, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            class,
            code: excerpt(&code.into()),
            message: excerpt(&message.into()),
            retry_after: None,
            http: None,
        }
    }

    /// What an error of `run` means: a [`Failure`] speaks for itself, anything else is worth another try.
    pub(crate) fn from_error(error: &anyhow::Error) -> Self {
        match error.chain().find_map(|cause| cause.downcast_ref::<Self>()) {
            Some(failure) => failure.clone(),
            None => Self::transient("error", format!("{error:#}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.message, self.class.as_str(), self.code)
    }
}

impl std::error::Error for Failure {}

/// Whether an error is the database's trouble rather than the job's: it burns no attempt, and the worker backs off.
pub fn is_infrastructure(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<sqlx::Error>().is_some_and(is_database_trouble))
}

/// Whether the database, not the statement, is at fault: connections, resources, shutdowns, conflicts, lock time-outs.
pub fn is_database_trouble(error: &sqlx::Error) -> bool {
    use sqlx::Error;
    match error {
        Error::Io(_)
        | Error::Tls(_)
        | Error::PoolTimedOut
        | Error::PoolClosed
        | Error::WorkerCrashed
        | Error::Protocol(_) => true,
        Error::Database(database) => database.code().is_some_and(|code| {
            ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class)) || code == "55P03" || code == READ_ONLY
        }),
        _ => false,
    }
}

/// What PostgreSQL answers to a write in a read-only transaction, or on a server that has become a standby.
const READ_ONLY: &str = "25006";

/// Whether a write was refused because it was in a read-only transaction.
pub(crate) fn is_refused_write(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<sqlx::Error>())
        .filter_map(sqlx::Error::as_database_error)
        .any(|database| database.code().is_some_and(|code| code == READ_ONLY))
}

/// At most 2 KiB of a text, cut at a character.
pub(crate) fn excerpt(text: &str) -> String {
    const EXCERPT_MAX: usize = 2048;
    let mut end = text.len().min(EXCERPT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // PostgreSQL stores no NUL in text or jsonb.
    text[..end].replace('\0', "\u{fffd}")
}
