//! What a job is: a payload with a policy, and what it does.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use crate::attempt::Attempt;
use crate::failure::Class;

/// The number of a job, the same for its whole life, redrives included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct JobId(pub i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One kind of job: its payload is the type itself.
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The outside world it works with.
    type Services: Send + Sync + 'static;
    /// The name stored with each job, verb and noun.
    const KIND: &'static str;
    /// The line it waits in, and the pool that serves it.
    const QUEUE: &'static str;
    /// The version of its payload that this build writes.
    const VERSION: i16 = 1;
    /// From -10 to 10; one step is worth 30 seconds of waiting.
    const PRIORITY: i16 = 0;
    /// Whether its jobs are remembered when they have ended. A kind that comes by the million and tells nothing may be not.
    const IS_KEPT: bool = true;
    /// How long one attempt may take; the worker cancels it then.
    const TIMEOUT: Duration = Duration::from_secs(60);
    /// How often it is tried, and how far apart.
    const RETRY: Retry = Retry::new(Duration::from_secs(1), Duration::from_secs(600), 20);
    /// What becomes of its group when a job dies.
    const DEAD_HEAD: DeadHead = DeadHead::Skip;

    /// The key that only one job of this kind may have.
    fn unique(&self) -> Option<Unique> {
        None
    }

    /// Jobs of one group run one at a time, in the order they were committed.
    fn group(&self) -> Option<String> {
        None
    }

    /// The key of the limits it counts against (see [`crate::limit`]): `NAME`, or `NAME/WHICH` for one of many.
    fn limit(&self) -> Option<String> {
        None
    }

    /// How long after it was due it is given up, whatever attempts are left.
    fn deadline_after() -> Option<Duration> {
        None
    }

    /// The wait after failed attempt `attempt`, where the kind has a schedule of its own.
    fn delay_after(&self, attempt: i32) -> Option<Duration> {
        let _ = attempt;
        None
    }

    /// Turns the payload of an older version into today's.
    fn upcast(version: i16, args: Value) -> anyhow::Result<Value> {
        let _ = args;
        anyhow::bail!(
            "{} version {version} has no way to version {}",
            Self::KIND,
            Self::VERSION
        )
    }

    /// Does the work of one attempt.
    fn run(self, attempt: &Attempt, services: &Self::Services) -> impl Future<Output = anyhow::Result<Outcome>> + Send;

    /// What becomes of its group when this one dies, where that is not the kind's to say: asked after [`Job::bury`], in the
    /// same transaction.
    fn dead_head(&self, conn: &mut PgConnection) -> impl Future<Output = anyhow::Result<DeadHead>> + Send {
        let _ = conn;
        async { Ok(Self::DEAD_HEAD) }
    }

    /// Leaves what the job was about in a named state, in the transaction that makes the job a dead letter.
    fn bury(
        &self,
        conn: &mut PgConnection,
        letter: &DeadLetter,
        services: &Self::Services,
    ) -> impl Future<Output = anyhow::Result<()>> + Send {
        let _ = (conn, letter, services);
        async { Ok(()) }
    }
}

/// How an attempt ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The work is done.
    Done,
    /// The same, with a result to keep.
    DoneWith(Value),
    /// Later; no attempt is used.
    Snooze(Duration),
    /// Never again, for the reason given.
    Discard(String),
}

/// What becomes of a group when its job whose turn it is dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeadHead {
    /// The next has its turn; the gap stays until the dead letter is redriven or discarded.
    #[default]
    Skip,
    /// The dead job keeps the turn: nothing of its group runs until it is redriven or discarded.
    Block,
}

/// How often and how far apart a kind is tried: full jitter, `random(0, min(cap, base·2^n))`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The bound of the first wait.
    pub base: Duration,
    /// The bound of every wait.
    pub cap: Duration,
    /// How many attempts a job has.
    pub attempts_max: i32,
}

impl Retry {
    /// A policy of that many attempts.
    pub const fn new(base: Duration, cap: Duration, attempts_max: i32) -> Self {
        Self {
            base,
            cap,
            attempts_max,
        }
    }
}

/// A key that only one job of a kind may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique {
    pub(crate) key: String,
    pub(crate) scope: &'static str,
    pub(crate) window: Option<Duration>,
}

impl Unique {
    /// Taken until the job ends.
    pub fn live(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            scope: "live",
            window: None,
        }
    }

    /// Taken also after the job completed, until it is pruned.
    pub fn kept(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            scope: "kept",
            window: None,
        }
    }

    /// Taken for that time from the enqueueing on, also after the job has ended, and then free even if it has not. From
    /// above zero to 366 days; anything else is refused when it is enqueued.
    pub fn within(key: impl Into<String>, window: Duration) -> Self {
        Self {
            key: key.into(),
            scope: "window",
            window: Some(window),
        }
    }
}

/// Why a job is given up, as its `bury` sees it.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// The fence of the claim that buries it.
    pub fence: i64,
    /// exhausted, permanent, poison, deadline or cancelled_parent.
    pub reason: &'static str,
    /// The class of the last failure.
    pub class: Class,
    /// The code of the last failure.
    pub code: String,
    /// What went wrong, in words.
    pub message: String,
}
